//! A running container: its first process and its cgroup, and what happens when they end.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use super::console;
use super::handle::{Container, Run};
use super::nics;
use crate::cgroup::Cgroup;
use crate::error::{Error, ErrorKind, Result};
use crate::exit::ExitStatus;
use crate::idmap::IdMap;
use crate::op::{ActionGuard, Cancel, Deadline};
use crate::spawn::{Child, Guests};
use crate::store::RunRecord;

/// How long what is left in a cgroup may take to die once the first process is gone.
const SETTLE: Duration = Duration::from_secs(10);

/// The first process of a run, and what belongs to it.
#[derive(Debug)]
pub(super) struct Live {
    pub(super) child: Arc<Child>,
    /// What this process has in the same pid namespace.
    pub(super) guests: Arc<Guests>,
    pub(super) cgroup: Option<Cgroup>,
    /// Who keeps its console, where it has one.
    pub(super) keeper: Option<Child>,
    pub(super) id_map: Option<IdMap>,
    pub(super) started_at: SystemTime,
    pub(super) record: RunRecord,
    /// Where an update has changed it: the limits that are not set, with the reason.
    pub(super) skipped: Mutex<Option<Vec<String>>>,
}

impl Live {
    /// Limits that could not be set, with the reason.
    pub(super) fn skipped(&self) -> Vec<String> {
        let changed = self.skipped.lock().unwrap_or_else(PoisonError::into_inner);
        changed.clone().unwrap_or_else(|| self.record.skipped.clone())
    }

    pub(super) fn set_skipped(&self, skipped: Vec<String>) {
        *self.skipped.lock().unwrap_or_else(PoisonError::into_inner) = Some(skipped);
    }

    /// Whether the first process has ended.
    pub(super) fn has_ended(&self) -> bool {
        !matches!(self.child.try_wait(), Ok(None))
    }
}

impl AsFd for Live {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.child.as_fd()
    }
}

impl Container {
    /// Looks whether the first process has ended, and if so removes what belonged to the run. Where none is known,
    /// looks whether another runtime has started it.
    pub(super) fn settle_if_ended(&self) -> Result<()> {
        let live = match &*self.run() {
            Run::Live(live) => Some(Arc::clone(live)),
            Run::Deleted => return Ok(()),
            Run::Never | Run::Ended { .. } => None,
        };
        let Some(live) = live else { return self.look_for_run() };
        live.guests.reap();
        match live.child.try_wait()? {
            Some(exit) => self.settle(&live, exit),
            None => Ok(()),
        }
    }

    /// Takes over a run that another runtime began.
    fn look_for_run(&self) -> Result<()> {
        let Some(record) = self.runtime.inner().store.load_run(&self.id())? else { return Ok(()) };
        let mut run = self.run();
        let known = match &*run {
            Run::Never => false,
            // Records have whole milliseconds, and no two runs begin in one.
            Run::Ended { started_at, .. } => {
                started_at.duration_since(record.started_at).is_ok_and(|d| d < Duration::from_millis(1))
            }
            Run::Live(_) | Run::Deleted => true,
        };
        if !known && let Some(found) = self.find_run(record)? {
            *run = found;
        }
        Ok(())
    }

    /// Waits until the first process has ended, and removes what belonged to the run.
    pub(super) fn wait_and_settle(
        &self,
        live: &Arc<Live>,
        deadline: Deadline,
        cancel: Option<&Cancel>,
    ) -> Result<ExitStatus> {
        let exit = live.guests.wait_for(&live.child, deadline, cancel)?;
        self.settle(live, exit)?;
        Ok(exit)
    }

    /// Removes what belonged to a run that has ended with `exit`. Of several callers one does it.
    fn settle(&self, live: &Arc<Live>, exit: ExitStatus) -> Result<()> {
        // The end of an ephemeral container is not written down: nothing of it can get in another runtime's way.
        let ephemeral = self.config().ephemeral;
        let guard = if ephemeral { Ok(None) } else { self.begin_settling() };
        let mut run = self.run();
        match &*run {
            Run::Live(current) if Arc::ptr_eq(current, live) => {}
            _ => return Ok(()),
        }
        self.runtime.inner().end_views(&self.uuid);
        let stays = exit.is_reboot() && self.is_being_ended()?;
        let record = RunRecord { exit: Some(exit), stays, ..live.record.clone() };
        let mut follows = self.is_to_follow(&record, exit);
        let started_at = live.started_at;
        let ended = |follows: bool| {
            let reboots = follows.then(|| live.record.reboots.clone());
            Run::Ended { exit, started_at, reboots }
        };
        match &guard {
            Err(e) if e.kind() == ErrorKind::Timeout => {
                // Another runtime is at work on the container, and removes the rest.
                *run = ended(follows);
                return Ok(());
            }
            _ => {}
        }
        let _guard = guard?;
        let store = &self.runtime.inner().store;
        let mut written = false;
        if let Ok(Some(found)) = store.load_run(&self.id()) {
            written = found.exit.is_some();
            if written {
                // Whoever wrote it down knew whether it was ended on purpose.
                follows = self.is_to_follow(&found, exit);
            }
            if !found.is_same_run(&live.record) {
                // Another runtime has seen this end and started it anew: the cgroup and the record are the new run's.
                *run = self.find_run(found)?.unwrap_or(ended(false));
                return Ok(());
            }
        }
        if let Some(keeper) = &live.keeper {
            console::let_finish(keeper);
        }
        if let Some(cgroup) = &live.cgroup {
            remove_cgroup(cgroup)?;
        }
        nics::remove(&live.record.host_links, &self.uuid, Deadline::after(SETTLE))?;
        // Another process that looks for an ephemeral one before it is deleted finds it ended, with status unknown.
        if !ephemeral && !written {
            self.write_end(record)?;
        }
        *run = ended(follows);
        drop(run);
        if self.config().allots_cpus() {
            self.runtime.settle_cpus();
        }
        Ok(())
    }

    /// Keeps other runtimes from acting on the container while its end is written down.
    pub(super) fn begin_settling(&self) -> Result<Option<ActionGuard>> {
        self.lock.settle(self.between(), &|| self.id().to_string())
    }

    /// Writes how a run has ended.
    pub(super) fn write_end(&self, record: RunRecord) -> Result<()> {
        let store = &self.runtime.inner().store;
        match store.save_run(&self.id(), self.config().durability(), &record) {
            // Deleted behind our back: there is nobody to remember it for.
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(()),
            // A full disk must not keep it from ending, or from being deleted. Another process that asks later gets
            // an unknown status.
            Err(e) if e.kind() == ErrorKind::Exhausted => Ok(()),
            done => done,
        }
    }
}

/// Removes the cgroup of a run whose first process is gone. With a pid namespace of its own nothing is left in it;
/// in a shared one what is left is ended here.
pub(crate) fn remove_cgroup(cgroup: &Cgroup) -> Result<()> {
    let end = Deadline::after(SETTLE).instant();
    let gone = |removed: Result<()>| match removed {
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(()),
        other => other,
    };
    if gone(cgroup.remove(Some(std::time::Instant::now()))).is_ok() {
        return Ok(());
    }
    cgroup.kill()?;
    cgroup.wait_empty(end)?;
    gone(cgroup.remove(end))
}

/// The error of a wait that was not for a running container.
pub(super) fn never_ran() -> Error {
    Error::new(ErrorKind::InvalidState, "wait for the container").detail("it has not run since it was made")
}
