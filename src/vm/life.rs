//! Starting, stopping, pausing, waiting.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::agent::wire::Request;
use super::agent::{self, Agent};
use super::boot::Initramfs;
use super::config::VmConfig;
use super::devices::ConsoleRing;
use super::exit::ExitReason;
use super::group::{self, Parent};
use super::handle::{Live, Run, Vm};
use super::limits::{self, Given};
use super::machine::Machine;
use super::state::{elsewhere, record_of_now};
use crate::cgroup::Enforce;
use crate::error::{Error, ErrorKind, Result};
use crate::exit::ExitStatus;
use crate::instance::{
    FreezeOptions, KillOptions, Pipes, RestartMode, RestartOptions, ShutdownOptions, StartOptions, Stdio,
    StopOptions, WaitOptions,
};
use crate::op::{Action, Cancel, Deadline};
use crate::signal::Signal;

/// How long the agent may take to say that it has heard of a shutdown.
const AGENT: Duration = Duration::from_secs(10);

impl Vm {
    /// Starts it with default options.
    ///
    /// # Errors
    /// As [`start_with`](Self::start_with).
    pub fn start(&self) -> Result<()> {
        self.start_with(StartOptions::default()).map(drop)
    }

    /// Loads the kernel and lets the processors run; see
    /// [`Instance::start_with`](crate::instance::Instance::start_with). A virtual machine has a console instead of
    /// streams.
    ///
    /// # Errors
    /// As there. [`Unsupported`](crate::ErrorKind::Unsupported) where KVM is not there, may not be used by this user or lacks
    /// something, which the error names, for streams, and for limits that cannot be set here;
    /// [`InvalidConfig`](crate::ErrorKind::InvalidConfig) for a kernel or an initramfs that cannot be used, with
    /// the file, what is wrong and a way out.
    pub fn start_with(&self, options: StartOptions) -> Result<Pipes> {
        let started = self.begin(Action::Start).and_then(|_guard| self.start_locked(&options));
        self.named(Action::Start, started.map(|()| Pipes::default()))
    }

    fn start_locked(&self, options: &StartOptions) -> Result<()> {
        for (name, stream) in
            [("stdin", &options.stdin), ("stdout", &options.stdout), ("stderr", &options.stderr)]
        {
            if !matches!(stream, Stdio::Null) {
                return Err(Error::new(ErrorKind::Unsupported, "connect the streams")
                    .object(name)
                    .detail("a virtual machine has none")
                    .hint("use Vm::console_log and Vm::console_input"));
            }
        }
        if options.cancel.as_ref().is_some_and(Cancel::is_cancelled) {
            return Err(Error::new(ErrorKind::Cancelled, "start the virtual machine"));
        }
        self.settle_if_ended()?;
        match &*self.run() {
            Run::Never | Run::Ended(_) => {}
            Run::Deleted(_) => return Err(self.gone()),
            Run::Live(_) => {
                return Err(Error::new(ErrorKind::InvalidState, "start").detail("it is running"));
            }
            Run::Elsewhere { pid, .. } => return Err(elsewhere(*pid)),
        }
        self.refresh()?;
        let config = self.config();
        let store = &self.runtime.inner().store;
        let vms = self.runtime.vms();
        let (parent, refused) = match Parent::find(vms.placement()) {
            Ok(parent) => (parent, None),
            Err(e) if config.enforce == Enforce::BestEffort => (None, Some(e)),
            Err(e) => return Err(e),
        };
        let name = group::name(&self.runtime.inner().tag, &self.id());
        let record = record_of_now(parent.as_ref().map(|parent| parent.path_of(&name)).as_deref())?;
        // Before it runs: another runtime that looks now sees that it does.
        store.save_run(&self.id(), config.durability(), &record)?;
        let console = Arc::new(ConsoleRing::new(config.console_ring));
        let started = limits::prepare(&config, parent, &name, vms.above()).and_then(|mut given| {
            given.skipped.extend(refused.map(|e| format!("cgroup: {e}")));
            // Its threads have ended where this fails.
            let started = self.machine(&config, &console, &given);
            match (started, &given.group) {
                (Ok((machine, agent)), _) => Ok((machine, agent, given)),
                (Err(e), None) => Err(e),
                (Err(e), Some(group)) => Err(match group.remove(vms.above()) {
                    Ok(()) => e,
                    Err(left) => e.also(format!("its cgroup could not be removed: {left}")),
                }),
            }
        });
        match started {
            Ok((machine, agent, given)) => {
                let live = Arc::new(Live { machine, console, record, agent, given: Mutex::new(given) });
                self.runtime.vms().started(&self.uuid, &self.id(), config.durability(), &live);
                *self.run() = Run::Live(live);
                Ok(())
            }
            Err(e) => {
                *self.run() = Run::Never;
                Err(match store.clear_run(&self.id()) {
                    Ok(()) => e,
                    Err(also) => e.also(also.to_string()),
                })
            }
        }
    }

    /// A machine that runs in its place, and who listens for its agent.
    fn machine(
        &self,
        config: &VmConfig,
        console: &Arc<ConsoleRing>,
        given: &Given,
    ) -> Result<(Machine, Option<Agent>)> {
        let mut spec = config.spec();
        let token = match &config.guest {
            Some(guest) => {
                let token = agent::new_token()?;
                let bytes = agent::initramfs(guest, self.id().name.as_str(), token)?;
                spec.initramfs = Some(Initramfs::Bytes(bytes.into()));
                Some(token)
            }
            None => None,
        };
        let machine = Machine::start(&spec, Arc::clone(console), &[])?;
        let agent = token.and_then(|token| Some(Agent::new(token, Arc::clone(machine.vsock()?))));
        limits::place(config, &machine, given)?;
        machine.control().resume()?;
        Ok((machine, agent))
    }

    /// Stops it by force with default options.
    ///
    /// # Errors
    /// As [`stop_with`](Self::stop_with).
    pub fn stop(&self) -> Result<()> {
        self.stop_with(StopOptions::default())
    }

    /// Takes the power away; see [`Instance::stop_with`](crate::instance::Instance::stop_with).
    ///
    /// # Errors
    /// As there.
    pub fn stop_with(&self, options: StopOptions) -> Result<()> {
        let deadline = Deadline::from(options.deadline);
        let stopped = (|| {
            let live = self.live()?;
            // A shutdown that waits is overtaken.
            if self.lock.current() == Some(Action::Shutdown) {
                live.machine.control().end(ExitReason::Stopped);
            }
            let name = || self.id().to_string();
            let cancel = options.cancel.as_ref();
            let _guard = self.lock.begin(Action::Stop, self.between(), &name, deadline, cancel)?;
            live.end();
            self.settle_if_ended()?;
            self.delete_if_ephemeral()
        })();
        self.named(Action::Stop, stopped)
    }

    /// Presses the power button, with default options.
    ///
    /// # Errors
    /// As [`shutdown_with`](Self::shutdown_with).
    pub fn shutdown(&self) -> Result<()> {
        self.shutdown_with(ShutdownOptions::default())
    }

    /// Asks the guest's agent to end it, or else presses the power button once, and waits until the guest has switched itself
    /// off; see
    /// [`Instance::shutdown_with`](crate::instance::Instance::shutdown_with). A frozen one is thawed first.
    ///
    /// # Errors
    /// As there. [`Unsupported`](crate::ErrorKind::Unsupported) with a signal.
    pub fn shutdown_with(&self, options: ShutdownOptions) -> Result<()> {
        let deadline = Deadline::from(options.deadline);
        let done = self.begin(Action::Shutdown).and_then(|_guard| {
            if let Some(signal) = options.signal {
                return Err(Error::new(ErrorKind::Unsupported, "send a signal to the virtual machine")
                    .object(signal.to_string())
                    .hint("leave the signal out: a virtual machine has a power button"));
            }
            self.shutdown_locked(deadline, options.cancel.as_ref())?;
            self.delete_if_ephemeral()
        });
        self.named(Action::Shutdown, done)
    }

    fn shutdown_locked(&self, deadline: Deadline, cancel: Option<&Cancel>) -> Result<()> {
        let live = self.live()?;
        let control = live.machine.control();
        if control.is_paused() {
            control.resume()?;
        }
        let asked = live.agent.as_ref().filter(|agent| agent.is_there()).is_some_and(|agent| {
            let soon = deadline.at_most(AGENT);
            agent.request(Request::Shutdown, "ask the guest to end", soon, cancel).is_ok()
        });
        if !asked && control.reason().is_none() {
            live.machine.press_power_button();
        }
        control.wait(deadline, cancel).map_err(|e| {
            if e.kind() == ErrorKind::Timeout {
                e.detail("the guest still runs, though it was asked to end").hint(
                    "it may be still starting, or have nothing that listens to the button; stop it by force",
                )
            } else {
                e
            }
        })?;
        self.settle_if_ended()
    }

    /// Sends what a machine has for a signal: `SIGTERM` and `SIGPWR` press the power button, `SIGKILL` takes the power
    /// away.
    ///
    /// # Errors
    /// [`InvalidState`](crate::ErrorKind::InvalidState) where it does not run;
    /// [`Unsupported`](crate::ErrorKind::Unsupported) for any other signal.
    pub fn kill(&self, options: impl Into<KillOptions>) -> Result<()> {
        let signal = options.into().signal;
        let sent = self.live().and_then(|live| {
            match signal {
                Signal::KILL => live.machine.control().end(ExitReason::Stopped),
                Signal::TERM | Signal::PWR => live.machine.press_power_button(),
                _ => {
                    return Err(Error::new(ErrorKind::Unsupported, "send a signal to the virtual machine")
                        .object(signal.to_string()));
                }
            }
            Ok(())
        });
        sent.map_err(|e| e.with_op("kill").with_instance(self.id()))
    }

    /// Restarts it by force with default options.
    ///
    /// # Errors
    /// As [`restart_with`](Self::restart_with).
    pub fn restart(&self) -> Result<()> {
        self.restart_with(RestartOptions::default())
    }

    /// Ends the run and starts the next one; see
    /// [`Instance::restart_with`](crate::instance::Instance::restart_with).
    ///
    /// # Errors
    /// As there.
    pub fn restart_with(&self, options: RestartOptions) -> Result<()> {
        let deadline = Deadline::from(options.deadline);
        let done = self.begin(Action::Restart).and_then(|guard| {
            let live = self.live()?;
            match options.mode {
                RestartMode::Graceful(grace) => {
                    let _part = guard.nested(Action::Shutdown);
                    self.shutdown_locked(deadline.at_most(grace), options.cancel.as_ref())?;
                }
                _ => {
                    let _part = guard.nested(Action::Stop);
                    live.end();
                    self.settle_if_ended()?;
                }
            }
            let _part = guard.nested(Action::Start);
            self.start_locked(&StartOptions { cancel: options.cancel.clone(), ..StartOptions::default() })
        });
        self.named(Action::Restart, done)
    }

    /// Freezes it with default options.
    ///
    /// # Errors
    /// As [`freeze_with`](Self::freeze_with).
    pub fn freeze(&self) -> Result<()> {
        self.freeze_with(FreezeOptions::default())
    }

    /// Stops its processors and devices; see [`Instance::freeze_with`](crate::instance::Instance::freeze_with).
    ///
    /// # Errors
    /// As there.
    pub fn freeze_with(&self, options: FreezeOptions) -> Result<()> {
        let done = self.begin(Action::Freeze).and_then(|_guard| {
            let live = self.live()?;
            let control = live.machine.control();
            if control.is_paused() {
                return Err(Error::new(ErrorKind::InvalidState, "freeze").detail("it is frozen already"));
            }
            control.pause(Deadline::from(options.deadline), options.cancel.as_ref())
        });
        self.named(Action::Freeze, done)
    }

    /// Thaws it with default options.
    ///
    /// # Errors
    /// As [`unfreeze_with`](Self::unfreeze_with).
    pub fn unfreeze(&self) -> Result<()> {
        self.unfreeze_with(FreezeOptions::default())
    }

    /// Lets it run again; see [`Instance::unfreeze_with`](crate::instance::Instance::unfreeze_with).
    ///
    /// # Errors
    /// As there.
    pub fn unfreeze_with(&self, _options: FreezeOptions) -> Result<()> {
        let done = self.begin(Action::Unfreeze).and_then(|_guard| {
            let live = self.live()?;
            let control = live.machine.control();
            if !control.is_paused() {
                return Err(Error::new(ErrorKind::InvalidState, "unfreeze").detail("it is not frozen"));
            }
            control.resume()
        });
        self.named(Action::Unfreeze, done)
    }

    /// Waits, for as long as it takes, until it has ended.
    ///
    /// # Errors
    /// As [`wait_with`](Self::wait_with).
    pub fn wait(&self) -> Result<ExitStatus> {
        self.wait_with(WaitOptions::default())
    }

    /// Waits until the present run has ended; see [`Instance::wait_with`](crate::instance::Instance::wait_with).
    /// [`exit_reason`](Self::exit_reason) then says more.
    ///
    /// # Errors
    /// As there. [`Unsupported`](crate::ErrorKind::Unsupported) where it runs in another runtime.
    pub fn wait_with(&self, options: WaitOptions) -> Result<ExitStatus> {
        let waited = (|| {
            let known = self.settle_if_ended();
            let live = match &*self.run() {
                Run::Live(live) => Arc::clone(live),
                Run::Ended(ended) => return Ok(ended.exit),
                Run::Elsewhere { pid, .. } => return Err(elsewhere(*pid)),
                Run::Deleted(_) => return Err(self.gone()),
                Run::Never => {
                    known?;
                    return Err(Error::new(ErrorKind::InvalidState, "wait for the virtual machine")
                        .detail("it has not run since it was made"));
                }
            };
            let deadline = Deadline::from(options.deadline);
            let reason = live.machine.control().wait(deadline, options.cancel.as_ref())?;
            self.settle_if_ended()?;
            Ok(reason.status())
        })();
        waited.map_err(|e| e.with_op("wait").with_instance(self.id()))
    }
}
