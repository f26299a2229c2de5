//! Processes as descriptors (`pidfd_open(2)`).

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::time::Instant;

use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;
use rustix::process::{Pid, WaitId, WaitIdOptions};

use super::raw::{check, retry};

/// `PIDFD_GET_USER_NAMESPACE`, Linux 6.11.
const PIDFD_GET_USER_NAMESPACE: libc::c_ulong = 0xFF09;
/// `_IOWR(0xFF, 11, struct pidfd_info)` with the first published size of 64 bytes plus the exit code's 8.
const PIDFD_GET_INFO: libc::c_ulong = 0xC048_FF0B;
const PIDFD_INFO_EXIT: u64 = 1 << 3;

/// How a process ended, as `waitid(2)` tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    Exited(i32),
    Signaled { signal: i32, core: bool },
}

impl Ended {
    pub(crate) fn from_wait_status(status: i32) -> Self {
        if libc::WIFEXITED(status) {
            Self::Exited(libc::WEXITSTATUS(status))
        } else {
            Self::Signaled { signal: libc::WTERMSIG(status), core: libc::WCOREDUMP(status) }
        }
    }
}

/// Opens a process by number; the caller must make sure that the number still means the process it wants
/// (see [`identity`]).
pub(crate) fn open(pid: Pid) -> Result<OwnedFd, Errno> {
    rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty())
}

/// Opens the thread `tid` (`PIDFD_THREAD`, Linux 6.9), before that its process.
pub(crate) fn open_thread(tid: u32, process: u32) -> Result<OwnedFd, Errno> {
    const PIDFD_THREAD: u32 = libc::O_EXCL as u32;
    let pid = |n: u32| Pid::from_raw(n.cast_signed()).ok_or(Errno::SRCH);
    let flags = rustix::process::PidfdFlags::from_bits_retain(PIDFD_THREAD);
    match rustix::process::pidfd_open(pid(tid)?, flags) {
        Err(Errno::INVAL) => open(pid(process)?),
        opened => opened,
    }
}

/// A copy of a descriptor of another process, close-on-exec (`pidfd_getfd(2)`).
pub(crate) fn take_fd(pidfd: BorrowedFd<'_>, fd: u32) -> Result<OwnedFd, Errno> {
    let fd = i32::try_from(fd).map_err(|_| Errno::BADF)?;
    rustix::process::pidfd_getfd(pidfd, fd, rustix::process::PidfdGetfdFlags::empty())
}

/// Kills all of the process group that a process leads (`PIDFD_SIGNAL_PROCESS_GROUP`, Linux 6.9).
///
/// # Errors
/// `EINVAL` before that, `ESRCH` where it has ended.
pub(crate) fn kill_group(pidfd: BorrowedFd<'_>) -> Result<(), Errno> {
    const PROCESS_GROUP: u32 = 4;
    signal_with(pidfd, libc::SIGKILL, PROCESS_GROUP)
}

/// Sends `signal` (`pidfd_send_signal(2)`).
pub(crate) fn send_signal(pidfd: BorrowedFd<'_>, signal: i32) -> Result<(), Errno> {
    signal_with(pidfd, signal, 0)
}

fn signal_with(pidfd: BorrowedFd<'_>, signal: i32, flags: u32) -> Result<(), Errno> {
    // SAFETY: a descriptor and three plain numbers; a null siginfo asks for the default one.
    check(unsafe { libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_raw_fd(), signal, 0, flags) })?;
    Ok(())
}

/// Waits until the process has ended or the deadline has passed; says whether it has ended.
pub(crate) fn wait_ended(pidfd: BorrowedFd<'_>, deadline: Option<Instant>) -> Result<bool, Errno> {
    poll_in(&[pidfd], deadline).map(|ready| ready[0])
}

/// Waits until one of `fds` is readable or the deadline has passed; says which are.
pub(crate) fn poll_in(fds: &[BorrowedFd<'_>], deadline: Option<Instant>) -> Result<Vec<bool>, Errno> {
    let mut fds: Vec<PollFd<'_>> =
        fds.iter().map(|fd| PollFd::from_borrowed_fd(*fd, PollFlags::IN)).collect();
    poll(&mut fds, deadline)?;
    Ok(fds.iter().map(|p| !p.revents().is_empty()).collect())
}

/// `poll(2)` that goes on after signals and has a deadline.
pub(crate) fn poll(fds: &mut [PollFd<'_>], deadline: Option<Instant>) -> Result<(), Errno> {
    loop {
        let left = deadline.map(|d| timespec(d.saturating_duration_since(Instant::now())));
        match rustix::event::poll(fds, left.as_ref()) {
            Err(Errno::INTR) => {}
            Err(e) => return Err(e),
            Ok(_) => return Ok(()),
        }
    }
}

fn timespec(d: std::time::Duration) -> rustix::event::Timespec {
    rustix::event::Timespec {
        tv_sec: i64::try_from(d.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: i64::from(d.subsec_nanos()),
    }
}

/// Takes the status of a child that has ended, without blocking; `None` while it runs (`waitid(2)`, `P_PIDFD`).
///
/// `__WALL` is part of it: a process that stage-2 made with `CLONE_PARENT` has no exit signal.
///
/// # Errors
/// `ECHILD` where the process is not a child of this process, or somebody else took its status.
pub(crate) fn reap(pidfd: BorrowedFd<'_>) -> Result<Option<Ended>, Errno> {
    let options =
        WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::from_bits_retain(libc::__WALL as u32);
    let Some(st) = retry(|| rustix::process::waitid(WaitId::PidFd(pidfd), options))? else {
        return Ok(None);
    };
    Ok(Some(match (st.exit_status(), st.terminating_signal()) {
        (Some(code), _) => Ended::Exited(code),
        (None, Some(signal)) => Ended::Signaled { signal, core: st.dumped() },
        (None, None) => return Ok(None),
    }))
}

/// The exit status of a process that this process cannot wait for (`PIDFD_GET_INFO` with the exit bit,
/// Linux 6.15); `None` while it is not reaped yet, or where the kernel cannot tell.
pub(crate) fn exit_info(pidfd: BorrowedFd<'_>) -> Option<Ended> {
    let mut info = [0_u64; 9];
    info[0] = PIDFD_INFO_EXIT;
    // SAFETY: the request's size field says 72 bytes, which is the size of `info`.
    let ok = unsafe { libc::ioctl(pidfd.as_raw_fd(), PIDFD_GET_INFO, info.as_mut_ptr()) } == 0;
    let code = i32::from_ne_bytes(info[7].to_ne_bytes()[4..8].try_into().ok()?);
    (ok && info[0] & PIDFD_INFO_EXIT != 0).then(|| Ended::from_wait_status(code))
}

/// A number that names this process and no other until the machine restarts: the pidfd's inode, on Linux 6.9
/// and newer. Before that all pidfds share one inode, and the process's start time has to serve.
pub(crate) fn identity(pidfd: BorrowedFd<'_>) -> Result<u64, Errno> {
    Ok(rustix::fs::fstat(pidfd)?.st_ino)
}

/// Whether [`identity`] tells processes apart here: pidfds have a file system of their own.
pub(crate) fn has_unique_inodes() -> bool {
    /// `PID_FS_MAGIC`.
    const PIDFS_MAGIC: i64 = 0x5049_4446;
    static UNIQUE: std::sync::OnceLock<bool> = std::sync::OnceLock::new();
    *UNIQUE.get_or_init(|| {
        let own = open(rustix::process::getpid());
        own.and_then(rustix::fs::fstatfs).is_ok_and(|fs| fs.f_type == PIDFS_MAGIC)
    })
}

/// The user namespace of the process.
pub(crate) fn user_namespace(pidfd: BorrowedFd<'_>, pid: Pid) -> Result<OwnedFd, Errno> {
    // SAFETY: this ioctl takes no argument and returns a new descriptor, which is owned here and nowhere else.
    let fd = unsafe { libc::ioctl(pidfd.as_raw_fd(), PIDFD_GET_USER_NAMESPACE, 0) };
    if fd >= 0 {
        // SAFETY: see above.
        return Ok(unsafe { OwnedFd::from_raw_fd(fd) });
    }
    let path = format!("/proc/{}/ns/user", pid.as_raw_nonzero());
    let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::CLOEXEC;
    let fd = rustix::fs::open(path, flags, rustix::fs::Mode::empty())?;
    // The number cannot have passed to another process: ours is not reaped while its pidfd can be signalled.
    send_signal(pidfd.as_fd(), 0)?;
    Ok(fd)
}
