//! Limits of another process.

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
