//! Limits of another process, namespaces of a thread.

use rustix::io::Errno;
use rustix::process::Pid;

use super::raw::check;

/// Sets a resource limit of a process (`prlimit(2)`).
pub(crate) fn set_rlimit(pid: Pid, resource: u32, soft: u64, hard: u64) -> Result<(), Errno> {
    let limit = [soft, hard];
    // SAFETY: a live `struct rlimit64`; no old value is asked for.
    check(unsafe {
        libc::syscall(
            libc::SYS_prlimit64,
            pid.as_raw_nonzero().get(),
            resource,
            limit.as_ptr(),
            std::ptr::null::<libc::rlimit64>(),
        )
    })?;
    Ok(())
}

/// Gives the calling thread a copy of its mounts, and a root and working directory of its own (`unshare(2)`).
pub(crate) fn unshare_mounts() -> Result<(), Errno> {
    let flags = rustix::thread::UnshareFlags::FS | rustix::thread::UnshareFlags::NEWNS;
    // SAFETY: what could break the process is a table of descriptors that threads no longer share; that stays.
    unsafe { rustix::thread::unshare_unsafe(flags) }
}

/// Gives the calling thread a new network namespace (`unshare(2)`).
pub(crate) fn unshare_network() -> Result<(), Errno> {
    // SAFETY: as above; sockets that are open stay in the namespace that they were made in.
    unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNET) }
}

/// Moves the calling thread into a network namespace (`setns(2)`).
pub(crate) fn join_network(namespace: impl std::os::fd::AsFd) -> Result<(), Errno> {
    let kind = rustix::thread::LinkNameSpaceType::Network;
    rustix::thread::move_into_link_name_space(namespace.as_fd(), Some(kind))
}
