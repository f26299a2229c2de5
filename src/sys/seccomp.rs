//! `seccomp(2)`.

#[cfg(test)]
use std::os::fd::{FromRawFd, OwnedFd};

#[cfg(test)]
use rustix::io::Errno;

#[cfg(test)]
use super::raw::check;

/// One classic BPF instruction, `struct sock_filter`.
pub(crate) use libc::sock_filter as BpfInstruction;

/// Installs a filter on the calling thread alone, for ever. Needs no_new_privs or `CAP_SYS_ADMIN`.
/// With `SECCOMP_FILTER_FLAG_NEW_LISTENER` in `flags` the notify descriptor comes back.
#[cfg(test)]
pub(crate) fn install(filter: &[BpfInstruction], flags: u64) -> Result<Option<OwnedFd>, Errno> {
    let prog = libc::sock_fprog {
        len: u16::try_from(filter.len()).map_err(|_| Errno::INVAL)?,
        filter: filter.as_ptr().cast_mut(),
    };
    // SAFETY: the kernel only reads `prog` and the instructions that it points to, both live here.
    let ret = check(unsafe {
        libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, std::ptr::from_ref(&prog))
    })?;
    if flags & libc::SECCOMP_FILTER_FLAG_NEW_LISTENER == 0 {
        return Ok(None);
    }
    let fd = i32::try_from(ret).map_err(|_| Errno::IO)?;
    // SAFETY: with that flag the call returns a new descriptor, owned here and nowhere else.
    Ok(Some(unsafe { OwnedFd::from_raw_fd(fd) }))
}
