//! Reading and writing files from and to a guest's memory, at a place of the file (`preadv(2)`, `pwritev(2)`).

use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::io::Errno;
use vm_memory::VolatileSlice;

use crate::sys::raw::{check, retry};

/// The most pieces of one call (`UIO_MAXIOV`).
pub(crate) const MOST_PIECES: usize = 1024;

fn vectors(pieces: &[VolatileSlice<'_>]) -> Vec<libc::iovec> {
    let one = |piece: &VolatileSlice<'_>| libc::iovec {
        iov_base: piece.ptr_guard_mut().as_ptr().cast(),
        iov_len: piece.len(),
    };
    pieces.iter().take(MOST_PIECES).map(one).collect()
}

/// Reads from `offset` on into the pieces; says how many bytes, 0 at the end of the file.
pub(crate) fn read_at(fd: BorrowedFd<'_>, pieces: &[VolatileSlice<'_>], offset: u64) -> Result<usize, Errno> {
    let offset = i64::try_from(offset).map_err(|_| Errno::INVAL)?;
    let all = vectors(pieces);
    let done = retry(|| {
        // SAFETY: each piece is memory that lives as long as `pieces` is borrowed. It is the guest's, to which nobody has
        // a reference, so that the kernel may write to it at any time.
        let done = unsafe { libc::preadv(fd.as_raw_fd(), all.as_ptr(), all.len() as libc::c_int, offset) };
        check(done as libc::c_long)
    })?;
    Ok(done as usize)
}

/// Writes the pieces to `offset`; says how many bytes.
pub(crate) fn write_at(
    fd: BorrowedFd<'_>,
    pieces: &[VolatileSlice<'_>],
    offset: u64,
) -> Result<usize, Errno> {
    let offset = i64::try_from(offset).map_err(|_| Errno::INVAL)?;
    let all = vectors(pieces);
    let done = retry(|| {
        // SAFETY: as in `read_at`; the kernel only reads.
        let done = unsafe { libc::pwritev(fd.as_raw_fd(), all.as_ptr(), all.len() as libc::c_int, offset) };
        check(done as libc::c_long)
    })?;
    Ok(done as usize)
}
