//! What the kernel says about a namespace descriptor (`ioctl_nsfs(2)`).

use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use rustix::io::Errno;

use super::raw::last_errno;

/// `NS_GET_NSTYPE`, Linux 4.11.
const NS_GET_NSTYPE: libc::c_ulong = 0xB703;

/// The `CLONE_NEW*` flag of the namespace.
///
/// # Errors
/// `ENOTTY` where the descriptor is not a namespace.
pub(crate) fn kind_flag(ns: BorrowedFd<'_>) -> Result<u64, Errno> {
    // SAFETY: this request takes no argument and returns a number.
    let flag = unsafe { libc::ioctl(ns.as_raw_fd(), NS_GET_NSTYPE) };
    u64::try_from(flag).map_err(|_| last_errno())
}

/// Opens a namespace of the process behind `pidfd`; `request` is one of the `PIDFD_GET_*_NAMESPACE` numbers
/// (Linux 6.11).
///
/// # Errors
/// `ENOTTY` or `EINVAL` before Linux 6.11, `ESRCH` where the process has ended.
pub(crate) fn of_pidfd(pidfd: BorrowedFd<'_>, request: u8) -> Result<OwnedFd, Errno> {
    let request = 0xFF00 | libc::c_ulong::from(request);
    // SAFETY: these requests take no argument and return a new descriptor, owned here and nowhere else.
    let fd = unsafe { libc::ioctl(pidfd.as_raw_fd(), request, 0) };
    if fd < 0 {
        return Err(last_errno());
    }
    // SAFETY: see above.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// The user namespace that another one was made in (`NS_GET_PARENT`, Linux 4.9).
///
/// # Errors
/// `EPERM` where that is neither this process's own nor one below it.
pub(crate) fn parent(user_namespace: BorrowedFd<'_>) -> Result<OwnedFd, Errno> {
    const NS_GET_PARENT: libc::c_ulong = 0xB702;
    // SAFETY: this request takes no argument and returns a new descriptor, owned here and nowhere else.
    let fd = unsafe { libc::ioctl(user_namespace.as_raw_fd(), NS_GET_PARENT) };
    if fd < 0 {
        return Err(last_errno());
    }
    // SAFETY: see above.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// The user namespace that another namespace belongs to (`NS_GET_USERNS`, Linux 4.9).
///
/// # Errors
/// `EPERM` where that is neither this process's own nor one below it.
pub(crate) fn owner(namespace: BorrowedFd<'_>) -> Result<OwnedFd, Errno> {
    const NS_GET_USERNS: libc::c_ulong = 0xB701;
    // SAFETY: this request takes no argument and returns a new descriptor, owned here and nowhere else.
    let fd = unsafe { libc::ioctl(namespace.as_raw_fd(), NS_GET_USERNS) };
    if fd < 0 {
        return Err(last_errno());
    }
    // SAFETY: see above.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// The number that a thread of a pid namespace has in this process's (Linux 6.11).
///
/// # Errors
/// `ENOTTY` or `EINVAL` before Linux 6.11; `ESRCH` where there is no such thread, or it is not to be seen from here.
pub(crate) fn thread_from(pid_namespace: BorrowedFd<'_>, inner: u32) -> Result<u32, Errno> {
    /// `NS_GET_PID_FROM_PIDNS`.
    const NS_GET_PID_FROM_PIDNS: libc::c_ulong = 0x8004_B706;
    // SAFETY: this request takes a number by value and returns a number.
    let tid =
        unsafe { libc::ioctl(pid_namespace.as_raw_fd(), NS_GET_PID_FROM_PIDNS, libc::c_ulong::from(inner)) };
    match u32::try_from(tid) {
        Ok(0) => Err(Errno::SRCH),
        Ok(tid) => Ok(tid),
        Err(_) => Err(last_errno()),
    }
}
