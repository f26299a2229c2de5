//! A container that reboots itself is started again, by whoever sees it.
//!
//! There is no thread of the library that waits for it. The end of its first process is seen by a `wait`, or by the next
//! call that looks; either decides, under the action lock, whether it is started again. The decision is on record
//! (`RunRecord::stays`), so that another runtime, or this one after a crash, comes to the same.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::config::OnReboot;
use super::handle::{Container, Run};
use crate::error::{ErrorKind, Result};
use crate::exit::ExitStatus;
use crate::instance::{DEFAULT_DEADLINE, StartOptions};
use crate::namespaces::NamespaceKind;
use crate::op::{Action, Cancel, Deadline};
use crate::store::RunRecord;

/// Whether a call waits while somebody else acts on the container.
#[derive(Clone, Copy, Debug)]
pub(super) enum Patience<'a> {
    /// No: it only looks.
    None,
    Until(Deadline, Option<&'a Cancel>),
}

impl Container {
    /// Whether a run that has ended so is to be followed by another one.
    pub(super) fn is_to_follow(&self, record: &RunRecord, exit: ExitStatus) -> bool {
        let config = self.config();
        let Some(system) = &config.system else { return false };
        let OnReboot::Restart { most, within } = system.on_reboot else { return false };
        let own_pids = config.namespaces.is_new(NamespaceKind::Pid);
        own_pids && exit.is_reboot() && !record.stays && recent(&record.reboots, within).len() < most as usize
    }

    /// Whether somebody ends the container just now, so that its end is no reboot whatever it looks like.
    pub(super) fn is_being_ended(&self) -> Result<bool> {
        let ends = |action| {
            matches!(action, Some(Action::Stop | Action::Shutdown | Action::Restart | Action::Delete))
        };
        Ok(ends(self.lock.current()) || ends(self.other_action()?))
    }

    /// Starts it again, where its last run has ended with a reboot that nobody has seen to yet.
    pub(super) fn follow_reboot(&self, patience: Patience<'_>) -> Result<()> {
        if !self.is_rebooting() {
            return Ok(());
        }
        let begun = match patience {
            Patience::None => self.begin(Action::Restart),
            Patience::Until(deadline, cancel) => {
                let name = || self.id().to_string();
                self.lock.begin(Action::Restart, self.between(), &name, deadline, cancel)
            }
        };
        let guard = match begun {
            // Whoever it is sees to it, or the next one who looks.
            Err(e) if e.kind() == ErrorKind::Busy => return Ok(()),
            begun => begun?,
        };
        // Another runtime may have been faster.
        self.settle_if_ended()?;
        if !self.is_rebooting() {
            return Ok(());
        }
        let _part = guard.nested(Action::Start);
        let started = self.start_again();
        if started.is_err() {
            self.give_up_reboot_locked()?;
        }
        started.map_err(|e| e.also("the container has rebooted itself, and stays stopped now"))
    }

    fn start_again(&self) -> Result<()> {
        let within = match self.config().system.as_ref().map(|system| system.on_reboot) {
            Some(OnReboot::Restart { within, .. }) => within,
            _ => Duration::ZERO,
        };
        let record = self.runtime.inner().store.load_run(&self.id())?;
        let last = record.map_or_else(|| self.last_reboots(), |record| record.reboots);
        let mut reboots = recent(&last, within);
        reboots.push(now());
        let options = StartOptions { deadline: Some(DEFAULT_DEADLINE), ..StartOptions::default() };
        self.start_following(options, reboots).map(drop)
    }

    fn is_rebooting(&self) -> bool {
        matches!(*self.run(), Run::Ended { reboots: Some(_), .. })
    }

    fn last_reboots(&self) -> Vec<u64> {
        match &*self.run() {
            Run::Ended { reboots: Some(reboots), .. } => reboots.clone(),
            _ => Vec::new(),
        }
    }

    /// Lets a container that has rebooted itself be stopped. Says whether it had.
    pub(super) fn give_up_reboot(&self, deadline: Deadline, cancel: Option<&Cancel>) -> Result<bool> {
        if !self.is_rebooting() {
            return Ok(false);
        }
        let name = || self.id().to_string();
        let _guard = self.lock.begin(Action::Stop, self.between(), &name, deadline, cancel)?;
        if !self.is_rebooting() {
            return Ok(false);
        }
        self.give_up_reboot_locked().map(|()| true)
    }

    fn give_up_reboot_locked(&self) -> Result<()> {
        if let Run::Ended { reboots, .. } = &mut *self.run() {
            *reboots = None;
        }
        match self.runtime.inner().store.load_run(&self.id())? {
            Some(record) if record.exit.is_some() => self.write_end(RunRecord { stays: true, ..record }),
            _ => Ok(()),
        }
    }

    /// Sees to its reboots from a thread of its own, until it halts or is stopped, or the handle is dropped.
    ///
    /// For a host that neither waits for the container nor looks at it often. One that does needs no thread:
    /// [`wait`](Self::wait) comes back only when the container stays stopped, and an event loop that has its
    /// [`pidfd`](Self::pidfd) calls [`status`](Self::status) when that becomes readable.
    ///
    /// ```no_run
    /// # let runtime = stockade::Runtime::open()?;
    /// let web = runtime.container(&"web".parse()?)?;
    /// let supervisor = web.supervise()?;
    /// // ... later:
    /// drop(supervisor);
    /// # Ok::<(), stockade::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Exhausted`](ErrorKind::Exhausted) where there can be no other thread or descriptor.
    pub fn supervise(self: &Arc<Self>) -> Result<super::Supervisor> {
        super::Supervisor::start(Arc::clone(self))
    }
}

/// Those of the last `within`.
fn recent(times: &[u64], within: Duration) -> Vec<u64> {
    let now = now();
    let within = u64::try_from(within.as_millis()).unwrap_or(u64::MAX);
    // A clock that was set back makes none of them older.
    times.iter().copied().filter(|then| now.saturating_sub(*then) < within).collect()
}

/// Milliseconds since 1970.
fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_last_ones_count() {
        let now = now();
        let minute = Duration::from_secs(60);
        assert_eq!(recent(&[now - 61_000, now - 1000, now + 5000], minute), [now - 1000, now + 5000]);
        assert!(recent(&[], minute).is_empty());
    }
}
