//! Limits and flags of another process, namespaces of a thread.

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

/// Whether this process can name keyrings (`keyctl(2)`): not in a kernel without them, nor behind a filter that forbids it.
pub(crate) fn has_keyrings() -> bool {
    const KEYCTL_GET_KEYRING_ID: libc::c_int = 0;
    const KEY_SPEC_SESSION_KEYRING: libc::c_int = -3;
    // SAFETY: plain numbers; nothing is made.
    let found = check(unsafe {
        libc::syscall(libc::SYS_keyctl, KEYCTL_GET_KEYRING_ID, KEY_SPEC_SESSION_KEYRING, 0, 0, 0)
    });
    !matches!(found, Err(Errno::NOSYS | Errno::PERM))
}

/// The version of Landlock's interface that this kernel has (`landlock_create_ruleset(2)`).
pub(crate) fn landlock_abi() -> Result<u32, Errno> {
    const CREATE_RULESET_VERSION: u32 = 1;
    // SAFETY: no attributes are given; nothing is made.
    let version = check(unsafe {
        libc::syscall(
            libc::SYS_landlock_create_ruleset,
            std::ptr::null::<u8>(),
            0_usize,
            CREATE_RULESET_VERSION,
        )
    })?;
    Ok(u32::try_from(version).unwrap_or(0))
}

/// Gives the calling thread a copy of its mounts, and a root and working directory of its own (`unshare(2)`).
pub(crate) fn unshare_mounts() -> Result<(), Errno> {
    let flags = rustix::thread::UnshareFlags::FS | rustix::thread::UnshareFlags::NEWNS;
    // SAFETY: what could break the process is a table of descriptors that threads no longer share; that stays.
    unsafe { rustix::thread::unshare_unsafe(flags) }
}

/// The flags of a process (`PF_*`), from the text of its `/proc/PID/stat` (`proc_pid_stat(5)`).
pub(crate) fn process_flags(stat: &str) -> Option<u64> {
    // The name, in brackets, may hold anything.
    stat.rsplit(") ").next()?.split(' ').nth(6)?.parse().ok()
}

/// It ends (`PF_EXITING`).
pub(crate) const PF_EXITING: u64 = 0x4;
/// It is a copy of its maker that has executed nothing (`PF_FORKNOEXEC`).
pub(crate) const PF_FORKNOEXEC: u64 = 0x40;

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

/// Sets how a thread is scheduled (`sched_setscheduler(2)`).
pub(crate) fn set_scheduler(tid: i32, policy: i32, priority: i32) -> Result<(), Errno> {
    let param = libc::sched_param { sched_priority: priority };
    // SAFETY: a live `struct sched_param`.
    check(unsafe { libc::syscall(libc::SYS_sched_setscheduler, tid, policy, std::ptr::from_ref(&param)) })
        .map(drop)
}
