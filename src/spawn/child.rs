//! [`Child`]: a process held by its pidfd, from clone to reap.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;
use rustix::process::Pid;

use crate::error::{Error, ErrorKind, Result};
use crate::exit::ExitStatus;
use crate::op::{Cancel, Deadline};
use crate::signal::Signal;
use crate::sys::pidfd;

/// How long a process that was sent SIGKILL may take to end. Only one that hangs inside the kernel takes longer.
const KILL_GRACE: Duration = Duration::from_secs(10);

/// How long to wait for whoever reaps a process that is not our child, before its status counts as unknown.
const FOREIGN_REAP: Duration = Duration::from_millis(200);

/// A process. Dropping it neither kills nor reaps it.
#[derive(Debug)]
pub(crate) struct Child {
    pid: Pid,
    pidfd: OwnedFd,
    status: Mutex<Option<ExitStatus>>,
}

impl Child {
    pub(crate) fn new(pid: Pid, pidfd: OwnedFd) -> Self {
        Self { pid, pidfd, status: Mutex::new(None) }
    }

    /// The process number, as this process sees it. It may mean another process once this one is reaped.
    pub(crate) fn pid(&self) -> Pid {
        self.pid
    }

    /// The number, as the standard library and /proc write it.
    pub(crate) fn id(&self) -> u32 {
        self.pid.as_raw_nonzero().get().cast_unsigned()
    }

    /// Sends a signal; an ended process is [`ErrorKind::InvalidState`].
    pub(crate) fn signal(&self, signal: Signal) -> Result<()> {
        pidfd::send_signal(self.pidfd.as_fd(), signal.as_raw()).map_err(|errno| {
            let e = Error::sys("send signal", errno).object(signal.to_string());
            if errno == Errno::SRCH {
                e.with_kind(ErrorKind::InvalidState).detail("the process has ended")
            } else {
                e
            }
        })
    }

    /// The status if it has ended. Does not block, but for up to 200 ms where somebody else has to reap it.
    pub(crate) fn try_wait(&self) -> Result<Option<ExitStatus>> {
        let mut status = self.known();
        if status.is_none()
            && pidfd::wait_ended(self.pidfd.as_fd(), Some(Instant::now())).map_err(poll_error)?
        {
            *status = Some(self.collect()?);
        }
        Ok(*status)
    }

    /// Waits until it has ended.
    pub(crate) fn wait(&self, deadline: Deadline, cancel: Option<&Cancel>) -> Result<ExitStatus> {
        if let Some(status) = *self.known() {
            return Ok(status);
        }
        wait_for(self.pidfd.as_fd(), Readiness::Readable, deadline, cancel, "wait for the process to end")?;
        self.take_status()
    }

    /// The status, where it has been taken from the kernel already.
    pub(super) fn status(&self) -> Option<ExitStatus> {
        *self.known()
    }

    /// The status of the process, which has ended.
    pub(super) fn take_status(&self) -> Result<ExitStatus> {
        let mut known = self.known();
        match *known {
            // Another thread was faster.
            Some(status) => Ok(status),
            None => Ok(*known.insert(self.collect()?)),
        }
    }

    /// Kills and reaps it, for error paths: what it cannot do it leaves.
    pub(crate) fn kill_and_reap(&self) -> Option<ExitStatus> {
        if let Ok(Some(status)) = self.try_wait() {
            return Some(status);
        }
        let _ = pidfd::send_signal(self.pidfd.as_fd(), libc::SIGKILL);
        self.wait(Deadline::after(KILL_GRACE), None).ok()
    }

    fn known(&self) -> MutexGuard<'_, Option<ExitStatus>> {
        self.status.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// How it has ended, of a process that its parent has not reaped yet: field 52 of `proc_pid_stat(5)`. That reads 0 for
    /// who may not know it, so 0 says nothing.
    fn status_of_zombie(&self) -> Option<pidfd::Ended> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.id())).ok()?;
        let fields: Vec<&str> = stat.rsplit(") ").next()?.split_whitespace().collect();
        let status: i32 = fields.get(49)?.parse().ok()?;
        let is_it = fields.first() == Some(&"Z") && pidfd::send_signal(self.pidfd.as_fd(), 0).is_ok();
        (is_it && status != 0).then(|| pidfd::Ended::from_wait_status(status))
    }

    /// Takes the status of the ended process from the kernel.
    fn collect(&self) -> Result<ExitStatus> {
        let fd = self.pidfd.as_fd();
        match pidfd::reap(fd) {
            Ok(Some(ended)) => Ok(ended.into()),
            Ok(None) => Ok(ExitStatus::Unknown),
            // Not our child (another process started it), or the host's own wait loop was faster, or the host
            // ignores SIGCHLD. Linux 6.15 tells all the same, once the process is reaped.
            Err(Errno::CHILD) => {
                let end = Instant::now() + FOREIGN_REAP;
                loop {
                    if let Some(ended) = pidfd::exit_info(fd).or_else(|| self.status_of_zombie()) {
                        return Ok(ended.into());
                    }
                    if Instant::now() >= end {
                        return Ok(ExitStatus::Unknown);
                    }
                    std::thread::sleep(Duration::from_millis(2));
                }
            }
            Err(e) => Err(Error::sys("wait for the process", e)),
        }
    }
}

impl AsFd for Child {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }
}

/// What to wait for on a descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Readiness {
    Readable,
    /// Closed at the other end, whatever there is to read.
    Closed,
}

/// Waits for `fd`.
pub(crate) fn wait_for(
    fd: BorrowedFd<'_>,
    readiness: Readiness,
    deadline: Deadline,
    cancel: Option<&Cancel>,
    what: &'static str,
) -> Result<()> {
    let events = if readiness == Readiness::Closed { PollFlags::empty() } else { PollFlags::IN };
    let first = PollFd::from_borrowed_fd(fd, events);
    let ready = match cancel {
        Some(cancel) => {
            let mut fds = [first, PollFd::from_borrowed_fd(cancel.as_fd(), PollFlags::IN)];
            pidfd::poll(&mut fds, deadline.instant()).map_err(poll_error)?;
            fds.map(|p| !p.revents().is_empty())
        }
        None => {
            let mut fds = [first];
            pidfd::poll(&mut fds, deadline.instant()).map_err(poll_error)?;
            [!fds[0].revents().is_empty(), false]
        }
    };
    match ready {
        [true, _] => Ok(()),
        [false, true] => Err(Error::new(ErrorKind::Cancelled, what)),
        [false, false] => Err(Error::new(ErrorKind::Timeout, what)),
    }
}

fn poll_error(errno: Errno) -> Error {
    Error::sys("poll", errno)
}
