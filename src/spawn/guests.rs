//! [`Guests`]: the processes that this one made in a pid namespace beside its first.
//!
//! The end of a pid namespace's first process waits inside the kernel until every other process of the namespace is
//! reaped (`zap_pid_ns_processes`), and these are our children: a killed command that nobody waits for would hold up
//! the end of its container for ever. So who waits for the first process reaps them.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};

use rustix::event::epoll;
use rustix::event::{PollFd, PollFlags, Timespec};

use super::child::Child;
use crate::error::{Error, ErrorKind, Result};
use crate::exit::ExitStatus;
use crate::op::{Cancel, Deadline};
use crate::sys::pidfd;

/// A set of children, some of which others may hold and wait for too.
#[derive(Debug, Default)]
pub(crate) struct Guests {
    /// Readable when a member has ended, also one that came while somebody polls. Made when it is needed first.
    ended: OnceLock<OwnedFd>,
    members: Mutex<Vec<Arc<Child>>>,
}

impl Guests {
    /// Takes `child` in. On failure the caller still has it.
    pub(crate) fn add(&self, child: &Arc<Child>) -> Result<()> {
        let failed = |e| Error::sys("watch the process", e);
        let mut members = self.members();
        let ended = self.ended()?;
        epoll::add(ended, child, epoll::EventData::new_u64(0), epoll::EventFlags::IN).map_err(failed)?;
        members.push(Arc::clone(child));
        Ok(())
    }

    /// Reaps those that have ended. Who holds one still learns how.
    pub(crate) fn reap(&self) {
        let mut members = self.members();
        if members.is_empty() || !self.any_ended() {
            return;
        }
        members.retain(|child| {
            let runs = matches!(child.try_wait(), Ok(None));
            if !runs && let Some(ended) = self.ended.get() {
                // It may have been the last to go with its descriptor: then it is out already.
                let _ = epoll::delete(ended, child);
            }
            runs
        });
    }

    /// Waits for the end of the namespace's first process.
    pub(crate) fn wait_for(
        &self,
        first: &Child,
        deadline: Deadline,
        cancel: Option<&Cancel>,
    ) -> Result<ExitStatus> {
        let what = "wait for the process to end";
        loop {
            self.reap();
            if let Some(status) = first.status() {
                return Ok(status);
            }
            let mut fds = vec![first.as_fd(), self.ended()?.as_fd()];
            fds.extend(cancel.map(AsFd::as_fd));
            let ready = pidfd::poll_in(&fds, deadline.instant()).map_err(|e| Error::sys("poll", e))?;
            match ready[..] {
                [true, ..] => {
                    let status = first.take_status();
                    // It may be a member itself, and others may have gone with it.
                    self.reap();
                    return status;
                }
                [_, true, ..] => {}
                [.., true] => return Err(Error::new(ErrorKind::Cancelled, what)),
                _ => return Err(Error::new(ErrorKind::Timeout, what)),
            }
        }
    }

    fn ended(&self) -> Result<&OwnedFd> {
        if let Some(fd) = self.ended.get() {
            return Ok(fd);
        }
        let made = epoll::create(epoll::CreateFlags::CLOEXEC).map_err(|e| Error::sys("make an epoll", e))?;
        Ok(self.ended.get_or_init(|| made))
    }

    fn any_ended(&self) -> bool {
        let Some(fd) = self.ended.get() else { return false };
        let mut fds = [PollFd::new(fd, PollFlags::IN)];
        let now = Timespec::default();
        rustix::event::poll(&mut fds, Some(&now)).is_ok_and(|n| n > 0)
    }

    fn members(&self) -> MutexGuard<'_, Vec<Arc<Child>>> {
        self.members.lock().unwrap_or_else(|e| e.into_inner())
    }
}
