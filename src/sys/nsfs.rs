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
