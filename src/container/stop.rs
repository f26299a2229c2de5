//! Ending a container: by force, or by asking.

use std::sync::Arc;

use super::handle::{Container, Run};
use super::init::{self, Asked, Wish};
use super::live::Live;
use crate::error::{Error, ErrorKind, Result};
use crate::instance::{AtDeadline, DEFAULT_DEADLINE, ShutdownOptions, StopOptions};
use crate::op::{Action, Cancel, Deadline};
use crate::signal::Signal;

impl Container {
    /// Stops it by force with default options.
    ///
    /// # Errors
    /// As [`stop_with`](Self::stop_with).
    pub fn stop(&self) -> Result<()> {
        self.stop_with(StopOptions::default())
    }

    /// Kills every process of it; see [`Instance::stop_with`](crate::instance::Instance::stop_with).
    ///
    /// # Errors
    /// As there.
    pub fn stop_with(&self, options: StopOptions) -> Result<()> {
        let deadline = Deadline::from(options.deadline);
        let cancel = options.cancel.as_ref();
        let stopped = (|| {
            if self.end_of_reboot(deadline, cancel)? {
                return self.delete_if_ephemeral();
            }
            // A shutdown that waits is overtaken: its first process is about to go.
            let live = self.live()?;
            if self.lock.current() == Some(Action::Shutdown) || self.other_action()? == Some(Action::Shutdown)
            {
                self.kill_all(&live)?;
            }
            let name = || self.id().to_string();
            let _guard = self.lock.begin(Action::Stop, self.between(), &name, deadline, cancel)?;
            self.stop_locked(deadline, cancel)?;
            self.delete_if_ephemeral()
        })();
        self.named(Action::Stop, stopped)
    }

    /// As `stop_with`, under an action of the caller's, and without deleting an ephemeral container.
    pub(super) fn stop_locked(&self, deadline: Deadline, cancel: Option<&Cancel>) -> Result<()> {
        let live = match &*self.run() {
            Run::Live(live) => Arc::clone(live),
            // It has ended by itself meanwhile.
            Run::Ended { .. } => return Ok(()),
            Run::Deleted => return Err(self.gone()),
            Run::Never => {
                return Err(
                    Error::new(ErrorKind::InvalidState, "stop").detail("the container is not running")
                );
            }
        };
        self.force_stop(&live, deadline, cancel)
    }

    /// Kills every process of the run and removes what belonged to it.
    pub(super) fn force_stop(
        &self,
        live: &Arc<Live>,
        deadline: Deadline,
        cancel: Option<&Cancel>,
    ) -> Result<()> {
        self.kill_all(live)?;
        self.wait_and_settle(live, deadline, cancel).map(drop)
    }

    /// SIGKILL for all: by the cgroup, in one call that no fork bomb outruns and that reaches frozen processes
    /// too; without a cgroup by the first process, which takes its pid namespace along.
    fn kill_all(&self, live: &Live) -> Result<()> {
        if let Some(cgroup) = &live.cgroup {
            return match cgroup.kill() {
                // Another runtime has ended the run and removed it.
                Err(e) if e.kind() == ErrorKind::NotFound => Ok(()),
                done => done,
            };
        }
        match live.child.signal(Signal::KILL) {
            Err(e) if e.kind() == ErrorKind::InvalidState => Ok(()),
            other => other,
        }
    }

    /// Asks it to end, with default options.
    ///
    /// # Errors
    /// As [`shutdown_with`](Self::shutdown_with).
    pub fn shutdown(&self) -> Result<()> {
        self.shutdown_with(ShutdownOptions::default())
    }

    /// Asks the first process to end and waits until it has; see
    /// [`Instance::shutdown_with`](crate::instance::Instance::shutdown_with).
    ///
    /// # Errors
    /// As there.
    pub fn shutdown_with(&self, options: ShutdownOptions) -> Result<()> {
        let deadline = Deadline::from(options.deadline);
        let done = (|| {
            if self.end_of_reboot(deadline, options.cancel.as_ref())? {
                return self.delete_if_ephemeral();
            }
            let _guard = self.begin(Action::Shutdown)?;
            let ask = Ask { wish: Wish::Halt, signal: options.signal, at_deadline: options.at_deadline };
            self.shutdown_locked(&ask, deadline, options.cancel.as_ref())?;
            self.delete_if_ephemeral()
        })();
        self.named(Action::Shutdown, done)
    }

    /// As `shutdown_with`, under an action of the caller's, and without deleting an ephemeral container.
    pub(super) fn shutdown_locked(
        &self,
        ask: &Ask,
        deadline: Deadline,
        cancel: Option<&Cancel>,
    ) -> Result<()> {
        let live = self.live()?;
        if let Some(cgroup) = &live.cgroup
            && cgroup.state()?.frozen
        {
            cgroup.thaw(deadline.instant())?;
        }
        let mut asked = None;
        let ended = match ask.signal {
            Some(signal) => init::send(&live, signal).map(|()| Asked::Signal(signal)),
            None => self.ask_init(&live, ask.wish, deadline, cancel),
        }
        .and_then(|was| {
            let repeats = matches!(was, Asked::Command(_));
            asked = Some(was);
            if repeats {
                self.ask_over_again(&live, ask.wish, deadline, cancel)?;
            }
            self.wait_and_settle(&live, deadline, cancel).map(drop)
        });
        match ended {
            Err(e) if e.kind() == ErrorKind::Timeout && ask.at_deadline == AtDeadline::Kill => {
                self.force_stop(&live, Deadline::after(DEFAULT_DEADLINE), cancel)
            }
            Err(e) if e.kind() == ErrorKind::Timeout => {
                let asked = asked.map_or_else(|| "it was asked".to_owned(), |asked| asked.to_string());
                Err(e.detail(format!("the first process still runs after {asked}")).hint(
                    "it may ignore that: name another signal in ShutdownOptions or another way in SystemConfig, or \
                     stop it by force",
                ))
            }
            done => done,
        }
    }

    /// Whether it had rebooted itself and was about to be started again: it stays stopped then.
    fn end_of_reboot(&self, deadline: Deadline, cancel: Option<&Cancel>) -> Result<bool> {
        self.settle_if_ended()?;
        self.give_up_reboot(deadline, cancel)
    }
}

/// How the first process is asked to end.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ask {
    pub(super) wish: Wish,
    /// This signal, in place of what the wish means to it.
    pub(super) signal: Option<Signal>,
    pub(super) at_deadline: AtDeadline,
}

impl Default for Ask {
    fn default() -> Self {
        Self { wish: Wish::Halt, signal: None, at_deadline: AtDeadline::Fail }
    }
}
