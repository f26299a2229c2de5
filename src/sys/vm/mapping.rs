//! Memory of a guest, mapped into this process (`mmap(2)`).

use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr::NonNull;

use rustix::io::Errno;
use vm_memory::VolatileSlice;

use crate::sys::raw::last_errno;

/// A range of memory that a guest sees. Its bytes change at any time: it is read and written by volatile slices alone.
#[derive(Debug)]
pub(crate) struct Mapping {
    addr: NonNull<u8>,
    len: usize,
    is_file: bool,
}

// SAFETY: the memory belongs to no thread. Nothing gives a reference to it, only slices whose accesses are volatile.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

/// What is mapped.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Source<'a> {
    /// Memory of this process alone.
    Private,
    /// A part of a file, shared with whoever has the file.
    File { fd: BorrowedFd<'a>, offset: u64 },
    /// The same of a file of huge pages: what is not there is found out now, and not by a signal later.
    HugeFile { fd: BorrowedFd<'a>, offset: u64 },
}

impl Mapping {
    /// Maps `len` bytes, which take memory only as they are written. The address is a multiple of `align`, a power of
    /// two: the guest's large pages can then be the host's.
    pub(crate) fn new(len: usize, align: usize, source: Source<'_>) -> Result<Self, Errno> {
        let reserved = len.checked_add(align).ok_or(Errno::NOMEM)?;
        // SAFETY: a new mapping at an address of the kernel's choice touches no other memory.
        let base = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                reserved,
                libc::PROT_NONE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
                -1,
                0,
            )
        };
        if base == libc::MAP_FAILED {
            return Err(last_errno());
        }
        let start = (base as usize).next_multiple_of(align);
        let (fd, offset, kind) = match source {
            Source::Private => (-1, 0, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE),
            Source::File { fd, offset } => (fd.as_raw_fd(), offset, libc::MAP_SHARED | libc::MAP_NORESERVE),
            Source::HugeFile { fd, offset } => (fd.as_raw_fd(), offset, libc::MAP_SHARED),
        };
        let offset = i64::try_from(offset).map_err(|_| Errno::INVAL)?;
        // SAFETY: it replaces a part of the mapping just made, which nobody else knows of.
        let mapped = unsafe {
            libc::mmap(
                start as *mut libc::c_void,
                len,
                libc::PROT_READ | libc::PROT_WRITE,
                kind | libc::MAP_FIXED,
                fd,
                offset,
            )
        };
        let failed = (mapped == libc::MAP_FAILED).then(last_errno);
        let unmap = |from: usize, to: usize| {
            if to > from {
                // SAFETY: the range is a part of the reservation that nothing uses.
                unsafe { libc::munmap(from as *mut libc::c_void, to - from) };
            }
        };
        if let Some(errno) = failed {
            unmap(base as usize, base as usize + reserved);
            return Err(errno);
        }
        // Whole pages only: what is left of the last one goes with the mapping.
        let end = (start + len).next_multiple_of(rustix::param::page_size());
        unmap(base as usize, start);
        unmap(end, base as usize + reserved);
        Ok(Self { addr: NonNull::new(mapped.cast()).ok_or(Errno::NOMEM)?, len, is_file: fd >= 0 })
    }

    /// Bytes.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Where it is in this process.
    pub(crate) fn as_ptr(&self) -> *mut u8 {
        self.addr.as_ptr()
    }

    /// A part of it.
    pub(crate) fn slice(&self, offset: usize, len: usize) -> Option<VolatileSlice<'_>> {
        let end = offset.checked_add(len)?;
        // SAFETY: the range is inside of the mapping, which lives as long as `self` is borrowed; accesses through the
        // slice are volatile.
        (end <= self.len).then(|| unsafe { VolatileSlice::new(self.addr.as_ptr().add(offset), len) })
    }

    /// Gives the memory of a range back to the kernel; it is zeroes then (`MADV_DONTNEED`, for a file `MADV_REMOVE`). What
    /// cannot be given back, such as a part of a huge page that was reserved, stays.
    pub(crate) fn discard(&self, offset: usize, len: usize) {
        let inside = offset.checked_add(len).is_some_and(|end| end <= self.len);
        if inside && offset.is_multiple_of(rustix::param::page_size()) {
            let advice = if self.is_file { libc::MADV_REMOVE } else { libc::MADV_DONTNEED };
            // SAFETY: the range is inside of our own mapping, of which nobody has a reference; the guest has said that it
            // does not need what is there, and what it reads there later is its own affair.
            unsafe { libc::madvise(self.addr.as_ptr().add(offset).cast(), len, advice) };
        }
    }

    /// Bytes of it that are in memory (`mincore(2)`).
    pub(crate) fn resident(&self) -> Result<u64, Errno> {
        /// Pages that one call looks at.
        const PAGES: usize = 16 << 10;
        let page = rustix::param::page_size();
        let mut seen = vec![0_u8; PAGES];
        let (mut at, mut pages) = (0, 0);
        while at < self.len {
            let len = (self.len - at).min(PAGES * page);
            // SAFETY: the range is inside of our own mapping and begins at a page; the result has a byte for each page of
            // it, of which there are no more than it has.
            let done = unsafe { libc::mincore(self.addr.as_ptr().add(at).cast(), len, seen.as_mut_ptr()) };
            if done != 0 {
                return Err(last_errno());
            }
            pages += seen[..len.div_ceil(page)].iter().filter(|byte| **byte & 1 != 0).count();
            at += len;
        }
        Ok((pages * page) as u64)
    }

    /// Asks for huge pages (`MADV_HUGEPAGE`), and keeps the guest's memory out of core dumps of the host.
    pub(crate) fn advise(&self) {
        for advice in [libc::MADV_HUGEPAGE, libc::MADV_DONTDUMP] {
            // SAFETY: advice about our own mapping; it changes no content. A kernel without it goes on without.
            unsafe { libc::madvise(self.addr.as_ptr().cast(), self.len, advice) };
        }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, and nothing borrows it any more.
        unsafe { libc::munmap(self.addr.as_ptr().cast(), self.len) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vm_memory::Bytes;

    #[test]
    fn is_aligned_and_bounded() {
        let map = Mapping::new(3 << 20, 2 << 20, Source::Private).unwrap();
        assert_eq!(map.as_ptr() as usize % (2 << 20), 0);
        map.advise();
        map.slice(8, 4).unwrap().write_obj(7_u32, 0).unwrap();
        assert_eq!(map.slice(8, 4).unwrap().read_obj::<u32>(0).unwrap(), 7);
        assert!(map.slice(3 << 20, 1).is_none() && map.slice(usize::MAX, 2).is_none());
        assert!(Mapping::new(usize::MAX, 4096, Source::Private).is_err());
    }
}
