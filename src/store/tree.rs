//! Removing a directory with everything in it.

use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::{AtFlags, Dir, Mode, OFlags};
use rustix::io::Errno;

use crate::sys::raw::retry;

/// Removes the directory `name` of `base`. `temp_name` gives names in `base` that are free.
///
/// A directory that is not empty is moved up into `base` and emptied there, so neither the depth of the tree nor
/// the length of its paths matters. Links are removed, not followed, and a mounted file system is never
/// entered: the kernel refuses to move a mount point.
pub(super) fn remove(
    base: BorrowedFd<'_>,
    name: &str,
    mut temp_name: impl FnMut() -> String,
) -> Result<(), Errno> {
    let mut left = vec![name.to_owned()];
    while let Some(dir) = left.pop() {
        match empty(base, &dir, &mut temp_name, &mut left) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(e) => return Err(e),
        }
        match rustix::fs::unlinkat(base, &dir, AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

fn empty(
    base: BorrowedFd<'_>,
    dir: &str,
    temp_name: &mut impl FnMut() -> String,
    left: &mut Vec<String>,
) -> Result<(), Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let open = || retry(|| rustix::fs::openat(base, dir, flags, Mode::empty()));
    let fd = match open() {
        Err(Errno::ACCESS) => {
            rustix::fs::chmodat(base, dir, Mode::RWXU, AtFlags::empty())?;
            open()?
        }
        other => other?,
    };
    // Entries that go while the directory is read can hide others from the reader: read until it stays empty.
    loop {
        let mut seen = 0_usize;
        for entry in Dir::read_from(&fd)? {
            let entry = entry?;
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            seen += 1;
            let removed = remove_entry(fd.as_fd(), name, base, temp_name, left);
            if removed == Err(Errno::ACCESS) {
                rustix::fs::fchmod(&fd, Mode::RWXU)?;
                remove_entry(fd.as_fd(), name, base, temp_name, left)?;
            } else {
                removed?;
            }
        }
        if seen == 0 {
            return Ok(());
        }
    }
}

fn remove_entry(
    dir: BorrowedFd<'_>,
    name: &std::ffi::CStr,
    base: BorrowedFd<'_>,
    temp_name: &mut impl FnMut() -> String,
    left: &mut Vec<String>,
) -> Result<(), Errno> {
    match rustix::fs::unlinkat(dir, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        Err(Errno::ISDIR) => {}
        Err(e) => return Err(e),
    }
    match rustix::fs::unlinkat(dir, name, AtFlags::REMOVEDIR) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        Err(Errno::NOTEMPTY | Errno::EXIST) => {}
        Err(e) => return Err(e),
    }
    let up = temp_name();
    let moved = match rustix::fs::renameat(dir, name, base, &up) {
        // Its `..` changes, so an ordinary user must be allowed to write to it.
        Err(Errno::ACCESS) => rustix::fs::chmodat(dir, name, Mode::RWXU, AtFlags::empty())
            .and_then(|()| rustix::fs::renameat(dir, name, base, &up)),
        other => other,
    };
    moved.map(|()| left.push(up))
}
