//! Small file helpers on directory descriptors.

use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::path::Arg;

use super::raw::retry;

/// Opens a directory as a path descriptor, for use as the `dirfd` of other calls (`open(2)`, `O_PATH`).
pub(crate) fn open_dir(dir: BorrowedFd<'_>, path: impl Arg + Copy) -> Result<OwnedFd, Errno> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    retry(|| rustix::fs::openat(dir, path, flags, Mode::empty()))
}

/// Reads a whole small file; longer ones are cut at `limit` bytes.
pub(crate) fn read_at(dir: BorrowedFd<'_>, path: impl Arg + Copy, limit: usize) -> Result<Vec<u8>, Errno> {
    let fd = retry(|| rustix::fs::openat(dir, path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()))?;
    let mut out = Vec::with_capacity(limit.min(4096));
    while out.len() < limit {
        let mut chunk = [0_u8; 4096];
        let want = chunk.len().min(limit - out.len());
        match retry(|| rustix::io::read(&fd, &mut chunk[..want]))? {
            0 => break,
            n => out.extend_from_slice(&chunk[..n]),
        }
    }
    Ok(out)
}

/// Writes `text` to an existing file with one `write(2)`, as kernel interfaces want it.
pub(crate) fn write_at(dir: BorrowedFd<'_>, path: impl Arg + Copy, text: &[u8]) -> Result<(), Errno> {
    let fd = retry(|| rustix::fs::openat(dir, path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty()))?;
    let n = retry(|| rustix::io::write(&fd, text))?;
    if n == text.len() { Ok(()) } else { Err(Errno::IO) }
}

/// A copy of this process's descriptor `n`, close-on-exec and no standard descriptor itself.
pub(crate) fn duplicate_stream(n: i32) -> crate::Result<OwnedFd> {
    // SAFETY: the number is only handed to the kernel, which says whether it is open.
    let fd = unsafe { libc::fcntl(n, libc::F_DUPFD_CLOEXEC, 3) };
    if fd < 0 {
        let errno = super::raw::last_errno();
        return Err(crate::Error::sys("take over a standard stream", errno).object(n.to_string()));
    }
    // SAFETY: a new descriptor, owned here and nowhere else.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
