//! The file behind a disk.

use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, FileTypeExt, OpenOptionsExt};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::FallocateFlags;
use rustix::io::Errno;
use vm_memory::VolatileSlice;

use super::SECTOR;
use crate::error::{Error, ErrorKind, Result};
use crate::sys::lock::{self, Lock};
use crate::sys::raw::retry;
use crate::sys::vm::io;
use crate::vm::disk::{Access, Disk};

/// Bytes of an identification.
const ID: usize = 20;

/// A disk's file, open, and locked against a second machine.
#[derive(Debug)]
pub(in crate::vm) struct OpenDisk {
    file: File,
    sectors: u64,
    access: Access,
    id: [u8; ID],
    kind: Kind,
    counters: Arc<DiskCounters>,
}

/// What a disk has done for its guest.
#[derive(Debug, Default)]
pub(in crate::vm) struct DiskCounters {
    pub(in crate::vm) id: String,
    pub(in crate::vm) reads: AtomicU64,
    pub(in crate::vm) read_bytes: AtomicU64,
    pub(in crate::vm) writes: AtomicU64,
    pub(in crate::vm) written_bytes: AtomicU64,
    pub(in crate::vm) discards: AtomicU64,
    pub(in crate::vm) discarded_bytes: AtomicU64,
    pub(in crate::vm) flushes: AtomicU64,
    pub(in crate::vm) errors: AtomicU64,
}

/// Adds to a counter.
pub(super) fn add(counter: &AtomicU64, n: u64) {
    counter.fetch_add(n, Ordering::Relaxed);
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    File,
    BlockDevice,
}

impl OpenDisk {
    /// Opens it. `number` names a disk that has no name of its own.
    pub(in crate::vm) fn open(disk: &Disk, number: usize) -> Result<Self> {
        const STEP: &str = "open a disk";
        let path = disk.path();
        let wrong = |why: String, hint: &'static str| {
            Error::new(ErrorKind::InvalidConfig, STEP).path(path).detail(why).hint(hint)
        };
        let access = disk.access();
        let mut options = File::options();
        // A fifo without a writer must not hang the caller.
        options.read(true).write(access == Access::ReadWrite).custom_flags(libc::O_NONBLOCK);
        let file = options.open(path).map_err(|e| Error::io(STEP, e).path(path))?;
        let kind = file.metadata().map_err(|e| Error::io(STEP, e).path(path))?.file_type();
        let kind = match kind {
            kind if kind.is_file() => Kind::File,
            kind if kind.is_block_device() => Kind::BlockDevice,
            _ => {
                let why = "is neither a regular file nor a block device".to_owned();
                return Err(wrong(why, "make a raw image: `truncate -s 1G disk.img`"));
            }
        };
        let len = size(&file).map_err(|e| Error::sys(STEP, e).path(path))?;
        if len == 0 || !len.is_multiple_of(SECTOR) {
            let why = format!("has {len} bytes, and a disk has one or more sectors of {SECTOR}");
            return Err(wrong(why, "give it a size with truncate(1); only raw images are disks"));
        }
        let mut head = [0; 4];
        if file.read_at(&mut head, 0).is_ok_and(|n| n == 4) && &head == b"QFI\xfb" {
            let why = "is an image in QEMU's format".to_owned();
            return Err(wrong(why, "make it raw: `qemu-img convert -O raw`"));
        }
        let mode = if access == Access::ReadWrite { Lock::Alone } else { Lock::Shared };
        if !lock::try_lock(file.as_fd(), &(0..1), mode).map_err(|e| Error::sys(STEP, e).path(path))? {
            return Err(Error::new(ErrorKind::Busy, STEP)
                .path(path)
                .detail("a virtual machine has it already")
                .hint("several machines can share a disk that is read-only for all of them"));
        }
        let mut id = [0; ID];
        let name = disk.id().map_or_else(|| format!("disk{number}"), str::to_owned);
        id.iter_mut().zip(name.bytes()).for_each(|(to, from)| *to = from);
        let counters = Arc::new(DiskCounters { id: name, ..DiskCounters::default() });
        Ok(Self { file, sectors: len / SECTOR, access, id, kind, counters })
    }

    pub(in crate::vm) fn counters(&self) -> &Arc<DiskCounters> {
        &self.counters
    }

    pub(super) fn sectors(&self) -> u64 {
        self.sectors
    }

    pub(super) fn is_read_only(&self) -> bool {
        self.access == Access::ReadOnly
    }

    pub(super) fn id(&self) -> &[u8; ID] {
        &self.id
    }

    /// The first byte of a range of sectors, if the disk has all of them.
    pub(super) fn place(&self, sector: u64, bytes: u64) -> Option<u64> {
        let end = sector.checked_add(bytes.div_ceil(SECTOR))?;
        (end <= self.sectors && bytes.is_multiple_of(SECTOR)).then(|| sector * SECTOR)
    }

    /// Fills all pieces, or fails.
    pub(super) fn read(&self, pieces: &[VolatileSlice<'_>], offset: u64) -> Result<(), Errno> {
        whole(pieces, offset, |pieces, at| io::read_at(self.file.as_fd(), pieces, at))
    }

    /// Writes all pieces, or fails.
    pub(super) fn write(&self, pieces: &[VolatileSlice<'_>], offset: u64) -> Result<(), Errno> {
        self.check_size(offset, pieces.iter().map(|p| p.len() as u64).sum())?;
        whole(pieces, offset, |pieces, at| io::write_at(self.file.as_fd(), pieces, at))
    }

    /// A file that was cut must not grow again behind a hole: what was there is lost.
    fn check_size(&self, offset: u64, len: u64) -> Result<(), Errno> {
        let short = self.kind == Kind::File && size(&self.file)? < offset.saturating_add(len);
        if short { Err(Errno::IO) } else { Ok(()) }
    }

    /// Waits until all that was written is on the host's disk.
    pub(super) fn flush(&self) -> Result<(), Errno> {
        retry(|| rustix::fs::fdatasync(&self.file))
    }

    /// Gives the space back, where the file system can; the content does not matter any more.
    pub(super) fn discard(&self, offset: u64, len: u64) -> Result<(), Errno> {
        self.check_size(offset, len)?;
        let hole = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        match retry(|| rustix::fs::fallocate(&self.file, hole, offset, len)) {
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => Ok(()),
            done => done,
        }
    }

    /// Makes it zeroes, and keeps the space or gives it back.
    pub(super) fn zero(&self, offset: u64, len: u64, space: Space) -> Result<(), Errno> {
        self.check_size(offset, len)?;
        let how = match space {
            Space::Free => FallocateFlags::PUNCH_HOLE,
            Space::Keep => FallocateFlags::ZERO_RANGE,
        };
        match retry(|| rustix::fs::fallocate(&self.file, how | FallocateFlags::KEEP_SIZE, offset, len)) {
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => self.write_zeroes(offset, len),
            done => done,
        }
    }

    fn write_zeroes(&self, offset: u64, len: u64) -> Result<(), Errno> {
        static ZEROES: [u8; 65536] = [0; 65536];
        let mut done = 0;
        while done < len {
            let part = (len - done).min(ZEROES.len() as u64);
            let wrote = self.file.write_all_at(&ZEROES[..part as usize], offset + done);
            wrote.map_err(|e| Errno::from_io_error(&e).unwrap_or(Errno::IO))?;
            done += part;
        }
        Ok(())
    }
}

/// What becomes of the space of zeroes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Space {
    Keep,
    Free,
}

/// Bytes of a file or a block device.
fn size(file: &File) -> Result<u64, Errno> {
    let meta = rustix::fs::fstat(file)?;
    match rustix::fs::FileType::from_raw_mode(meta.st_mode) {
        rustix::fs::FileType::BlockDevice => {
            // Nobody else has this open description.
            rustix::fs::seek(file, rustix::fs::SeekFrom::End(0))
        }
        _ => Ok(meta.st_size.cast_unsigned()),
    }
}

/// Repeats a transfer until all pieces are done. One that comes to an end before has come to the end of the file.
fn whole(
    pieces: &[VolatileSlice<'_>],
    mut offset: u64,
    transfer: impl Fn(&[VolatileSlice<'_>], u64) -> Result<usize, Errno>,
) -> Result<(), Errno> {
    let mut left: Vec<VolatileSlice<'_>> = pieces.iter().filter(|p| !p.is_empty()).copied().collect();
    while !left.is_empty() {
        let mut done = transfer(&left, offset)?;
        if done == 0 {
            return Err(Errno::IO);
        }
        offset += done as u64;
        let gone = left.iter().take_while(|piece| match done.checked_sub(piece.len()) {
            Some(rest) => {
                done = rest;
                true
            }
            None => false,
        });
        let gone = gone.count();
        left.drain(..gone);
        if done > 0
            && let Some(first) = left.first_mut()
        {
            *first = first.offset(done).map_err(|_| Errno::IO)?;
        }
    }
    Ok(())
}
