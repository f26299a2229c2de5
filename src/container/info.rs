//! What is known of a container, and waiting for its end.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use super::handle::{Container, Run};
use super::live::never_ran;
use super::reboot::Patience;
use crate::error::Result;
use crate::exit::ExitStatus;
use crate::instance::{InstanceInfo, InstanceKind, Status, WaitOptions};
use crate::namespaces::{Namespace, NamespaceKind};
use crate::op::{Action, Cancel, Deadline};

impl Container {
    /// Its state now; see [`Instance::status`](crate::instance::Instance::status).
    pub fn status(&self) -> Status {
        match self.lock.current() {
            Some(Action::Start) => return Status::Starting,
            Some(Action::Stop | Action::Shutdown) => return Status::Stopping,
            Some(Action::Freeze) => return Status::Freezing,
            _ => {}
        }
        if self.settle_if_ended().is_err() {
            return Status::Error;
        }
        // Where that fails it is stopped, and says so.
        let _ = self.follow_reboot(Patience::None);
        let live = match &*self.run() {
            Run::Live(live) => Arc::clone(live),
            Run::Ended { .. } if self.lock.current() == Some(Action::Restart) => return Status::Starting,
            _ => return Status::Stopped,
        };
        match live.cgroup.as_ref().map(|cg| cg.state()) {
            Some(Ok(state)) if state.frozen => Status::Frozen,
            Some(Err(_)) => Status::Error,
            _ => Status::Running,
        }
    }

    /// All that is known about it; see [`Instance::info`](crate::instance::Instance::info).
    ///
    /// # Errors
    /// As there.
    pub fn info(&self) -> Result<InstanceInfo> {
        let id = (*self.id()).clone();
        let config = self.config();
        let mut info = InstanceInfo::new(id, InstanceKind::Container, self.status(), self.created_at);
        info.ephemeral = config.ephemeral;
        info.rootfs = config.rootfs.to_string();
        match &*self.run() {
            Run::Live(live) => {
                info.pid = Some(live.child.id());
                info.started_at = Some(live.started_at);
                info.cgroup = live.cgroup.as_ref().map(|cg| cg.path().to_owned());
                info.id_map = live.id_map.clone();
                info.skipped_limits = live.skipped();
            }
            Run::Ended { exit, started_at, .. } => {
                info.exit_status = Some(*exit);
                info.started_at = Some(*started_at);
            }
            Run::Never => {}
            Run::Deleted => return Err(self.gone().with_instance(self.id())),
        }
        Ok(info)
    }

    /// The pidfd of the first process (`pidfd_open(2)`), for an event loop: it is readable once that has ended.
    ///
    /// # Errors
    /// [`InvalidState`](crate::ErrorKind::InvalidState) where it does not run.
    pub fn pidfd(&self) -> Result<OwnedFd> {
        let fd = self.live().and_then(|live| {
            live.as_fd().try_clone_to_owned().map_err(|e| crate::Error::io("duplicate the pidfd", e))
        });
        fd.map_err(|e| e.with_instance(self.id()))
    }

    /// One of its namespaces, which stays as long as the handle even if the container ends (`namespaces(7)`).
    ///
    /// # Errors
    /// [`InvalidState`](crate::ErrorKind::InvalidState) where it does not run.
    pub fn namespace(&self, kind: NamespaceKind) -> Result<Namespace> {
        let ns = self.live().and_then(|live| Namespace::of_pidfd(kind, live.as_fd()));
        ns.map_err(|e| e.with_instance(self.id()))
    }

    /// Waits, for as long as it takes, until it has ended.
    ///
    /// # Errors
    /// As [`wait_with`](Self::wait_with).
    pub fn wait(&self) -> Result<ExitStatus> {
        self.wait_with(WaitOptions::default())
    }

    /// Waits until the present run has ended; see [`Instance::wait_with`](crate::instance::Instance::wait_with).
    ///
    /// # Errors
    /// As there.
    pub fn wait_with(&self, options: WaitOptions) -> Result<ExitStatus> {
        let ended = self.wait_through_reboots(Deadline::from(options.deadline), options.cancel.as_ref());
        ended.map_err(|e| e.with_op("wait").with_instance(self.id()))
    }

    fn wait_through_reboots(&self, deadline: Deadline, cancel: Option<&Cancel>) -> Result<ExitStatus> {
        let patience = Patience::Until(deadline, cancel);
        loop {
            self.follow_reboot(patience)?;
            let live = match &*self.run() {
                Run::Live(live) => Arc::clone(live),
                Run::Ended { reboots: Some(_), .. } => continue,
                Run::Ended { exit, .. } => return Ok(*exit),
                Run::Never => return Err(never_ran()),
                Run::Deleted => return Err(self.gone()),
            };
            let exit = self.wait_and_settle(&live, deadline, cancel)?;
            self.follow_reboot(patience)?;
            // Another run, whoever began it, goes on with one that ended by a reboot.
            let goes_on = matches!(&*self.run(), Run::Live(now) if !Arc::ptr_eq(now, &live));
            if !(goes_on && self.is_to_follow(&live.record, exit)) {
                return Ok(exit);
            }
        }
    }
}
