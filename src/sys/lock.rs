//! Locks on ranges of a file that belong to its open description (`F_OFD_SETLK`, `fcntl_locking(2)`): they hold
//! between processes and between two descriptions in one process, and go with the last descriptor.

use std::ops::Range;
use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::io::Errno;

use super::raw::last_errno;

/// What a lock keeps out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lock {
    /// Those that want to be alone.
    Shared,
    /// Everybody.
    Alone,
}

/// Takes a lock; says whether it was free.
pub(crate) fn try_lock(fd: BorrowedFd<'_>, range: &Range<u64>, lock: Lock) -> Result<bool, Errno> {
    let kind = match lock {
        Lock::Shared => libc::F_RDLCK,
        Lock::Alone => libc::F_WRLCK,
    };
    match call(fd, libc::F_OFD_SETLK, &mut request(range, kind)) {
        Ok(()) => Ok(true),
        Err(Errno::AGAIN | Errno::ACCESS) => Ok(false),
        Err(e) => Err(e),
    }
}

/// Gives a lock back.
pub(crate) fn unlock(fd: BorrowedFd<'_>, range: &Range<u64>) -> Result<(), Errno> {
    call(fd, libc::F_OFD_SETLK, &mut request(range, libc::F_UNLCK))
}

/// The range of a lock of another description that overlaps this one, if there is one.
pub(crate) fn holder(fd: BorrowedFd<'_>, range: &Range<u64>) -> Result<Option<Range<u64>>, Errno> {
    let mut found = request(range, libc::F_WRLCK);
    call(fd, libc::F_OFD_GETLK, &mut found)?;
    if i32::from(found.l_type) == libc::F_UNLCK {
        return Ok(None);
    }
    let start = found.l_start.cast_unsigned();
    Ok(Some(start..start + found.l_len.cast_unsigned()))
}

fn request(range: &Range<u64>, kind: i32) -> libc::flock {
    // SAFETY: a plain C structure, for which all zeros are valid.
    let mut lock: libc::flock = unsafe { std::mem::zeroed() };
    lock.l_type = kind as libc::c_short;
    lock.l_whence = libc::SEEK_SET as libc::c_short;
    lock.l_start = range.start.cast_signed();
    lock.l_len = (range.end - range.start).cast_signed();
    lock
}

fn call(fd: BorrowedFd<'_>, command: i32, lock: &mut libc::flock) -> Result<(), Errno> {
    loop {
        // SAFETY: the commands take a `struct flock`, which lives here.
        if unsafe { libc::fcntl(fd.as_raw_fd(), command, std::ptr::from_mut(lock)) } == 0 {
            return Ok(());
        }
        match last_errno() {
            Errno::INTR => {}
            e => return Err(e),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn locks_belong_to_the_description_and_tell_their_range() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let (a, b) = (file.reopen().unwrap(), file.reopen().unwrap());
        let high = (1 << 62)..(1 << 62) + 77;
        assert!(try_lock(a.as_fd(), &high, Lock::Alone).unwrap());
        let first = (1 << 62)..(1 << 62) + 1;
        assert!(!try_lock(b.as_fd(), &first, Lock::Alone).unwrap());
        assert!(!try_lock(b.as_fd(), &first, Lock::Shared).unwrap());
        assert_eq!(holder(b.as_fd(), &first).unwrap(), Some(high.clone()));
        assert_eq!(holder(a.as_fd(), &first).unwrap(), None, "one's own is none of another's");
        let copy = a.try_clone().unwrap();
        drop(a);
        assert!(!try_lock(b.as_fd(), &first, Lock::Alone).unwrap(), "the description is still open");
        unlock(copy.as_fd(), &high).unwrap();
        assert!(try_lock(b.as_fd(), &first, Lock::Shared).unwrap());
        assert!(try_lock(copy.as_fd(), &first, Lock::Shared).unwrap());
        assert!(!try_lock(copy.as_fd(), &first, Lock::Alone).unwrap());
        drop(b);
        assert!(try_lock(copy.as_fd(), &first, Lock::Alone).unwrap());
    }
}
