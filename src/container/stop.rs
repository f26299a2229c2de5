//! Ending a container: by force, or by asking.

use std::sync::Arc;

use super::handle::{Container, Run};
use super::live::Live;
use crate::error::{Error, ErrorKind, Result};
use crate::instance::{ShutdownOptions, StopOptions};
use crate::op::{Action, Cancel, Deadline};
use crate::signal::Signal;

/// `SIGRTMIN+3` of the C libraries' numbering: glibc counts from 34. musl counts from 35, but systemd listens to
/// 37 wherever it was built.
const SYSTEMD_HALT: u8 = 37;

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
        let done = self.begin(Action::Shutdown).and_then(|_guard| {
            self.shutdown_locked(options.signal, deadline, options.cancel.as_ref())?;
            self.delete_if_ephemeral()
        });
        self.named(Action::Shutdown, done)
    }

    /// As `shutdown_with`, under an action of the caller's, and without deleting an ephemeral container.
    pub(super) fn shutdown_locked(
        &self,
        signal: Option<Signal>,
        deadline: Deadline,
        cancel: Option<&Cancel>,
    ) -> Result<()> {
        let live = self.live()?;
        if let Some(cgroup) = &live.cgroup
            && cgroup.state()?.frozen
        {
            cgroup.thaw(deadline.instant())?;
        }
        let signal = match signal {
            Some(signal) => signal,
            None => halt_signal(live.child.id())?,
        };
        match live.child.signal(signal) {
            // It ended a moment ago.
            Err(e) if e.kind() == ErrorKind::InvalidState => {}
            other => other?,
        }
        self.wait_and_settle(&live, deadline, cancel).map(drop).map_err(|e| {
            if e.kind() == ErrorKind::Timeout {
                e.detail(format!("the first process still runs after {signal}")).hint(
                    "it may ignore that signal: name another one in ShutdownOptions, or stop it by force",
                )
            } else {
                e
            }
        })
    }
}

/// The signal that asks a first process to end: `SIGRTMIN+3` for systemd, `SIGPWR` for other inits, `SIGTERM` for
/// anything else. Inits are told by the name of what they execute.
fn halt_signal(pid: u32) -> Result<Signal> {
    let exe = std::fs::read_link(format!("/proc/{pid}/exe")).unwrap_or_default();
    let name = exe.file_name().and_then(|n| n.to_str()).unwrap_or("");
    match name {
        "systemd" => Signal::new(i32::from(SYSTEMD_HALT)),
        "init" | "busybox" | "runit-init" | "openrc-init" | "sysvinit" if is_init(pid) => Ok(Signal::PWR),
        _ => Ok(Signal::TERM),
    }
}

/// Whether a process was executed as an init: busybox is one only under that name.
fn is_init(pid: u32) -> bool {
    let cmdline = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let argv0 = cmdline.split(|b| *b == 0).next().unwrap_or_default();
    let base = argv0.rsplit(|b| *b == b'/').next().unwrap_or_default();
    [&b"init"[..], b"linuxrc", b"runit-init", b"openrc-init"].contains(&base)
}
