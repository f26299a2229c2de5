//! What the verbs of an instance can be told.
//!
//! Every call that can wait has a `deadline`, counted from the call, and a `cancel`. A deadline of `None` waits
//! for as long as it takes.

use std::time::Duration;

use crate::cgroup::{BelowUse, Enforce, Limits, WriteFault};
use crate::instance::{CpuNodes, Cpus, Stdio};
use crate::op::Cancel;
use crate::signal::Signal;
use crate::spawn::Fault;

/// The deadline of a call that is not told another.
pub const DEFAULT_DEADLINE: Duration = Duration::from_secs(30);

macro_rules! wait_setters {
    ($t:ty) => {
        impl $t {
            /// Sets how long the call may take.
            #[must_use]
            pub fn deadline(mut self, deadline: Duration) -> Self {
                self.deadline = Some(deadline);
                self
            }

            /// Lets the call take as long as it needs.
            #[must_use]
            pub fn no_deadline(mut self) -> Self {
                self.deadline = None;
                self
            }

            /// Sets what ends the call early, from another thread.
            #[must_use]
            pub fn cancel(mut self, cancel: Cancel) -> Self {
                self.cancel = Some(cancel);
                self
            }
        }
    };
}
pub(crate) use wait_setters;

macro_rules! defaults {
    ($($t:ty),*) => {$(
        wait_setters!($t);

        impl $t {
            /// The same as `default()`.
            pub fn new() -> Self {
                Self::default()
            }
        }
    )*};
}

defaults!(
    StartOptions,
    StopOptions,
    ShutdownOptions,
    RestartOptions,
    FreezeOptions,
    DeleteOptions,
    WaitOptions
);

/// Options of [`Instance::start_with`](crate::instance::Instance::start_with).
///
/// ```
/// use std::time::Duration;
/// use stockade::instance::{StartOptions, Stdio};
///
/// let options = StartOptions::new().deadline(Duration::from_secs(5)).stdout(Stdio::Piped);
/// assert_eq!(options.deadline, Some(Duration::from_secs(5)));
/// ```
#[derive(Debug)]
#[non_exhaustive]
pub struct StartOptions {
    /// How long until the payload must run: 30 s unless told otherwise.
    pub deadline: Option<Duration>,
    /// Ends the start early; what it had made is removed again.
    pub cancel: Option<Cancel>,
    /// Standard input of the first process; null unless told otherwise.
    pub stdin: Stdio,
    /// Standard output of the first process; null unless told otherwise.
    pub stdout: Stdio,
    /// Standard error of the first process; null unless told otherwise.
    pub stderr: Stdio,
    /// A fault on purpose, for tests.
    #[doc(hidden)]
    pub fault: Option<Fault>,
    /// What holds an attack and is to be left out, for tests.
    #[cfg(feature = "attacks")]
    #[doc(hidden)]
    pub weaken: Vec<crate::spawn::Weaken>,
}

impl Default for StartOptions {
    fn default() -> Self {
        Self {
            deadline: Some(DEFAULT_DEADLINE),
            cancel: None,
            stdin: Stdio::Null,
            stdout: Stdio::Null,
            stderr: Stdio::Null,
            fault: None,
            #[cfg(feature = "attacks")]
            weaken: Vec::new(),
        }
    }
}

impl StartOptions {
    /// What tests do to the plan.
    pub(crate) fn hooks(&self) -> crate::spawn::Hooks {
        crate::spawn::Hooks {
            fault: self.fault,
            #[cfg(feature = "attacks")]
            weaken: self.weaken.clone(),
        }
    }

    /// Leaves out what holds an attack, for tests.
    #[cfg(feature = "attacks")]
    #[doc(hidden)]
    #[must_use]
    pub fn weaken(mut self, what: crate::spawn::Weaken) -> Self {
        self.weaken.push(what);
        self
    }

    /// Sets a fault on purpose, for tests.
    #[doc(hidden)]
    #[must_use]
    pub fn fault(mut self, fault: Fault) -> Self {
        self.fault = Some(fault);
        self
    }

    /// Sets the standard input of the first process.
    #[must_use]
    pub fn stdin(mut self, stdin: impl Into<Stdio>) -> Self {
        self.stdin = stdin.into();
        self
    }

    /// Sets the standard output of the first process.
    #[must_use]
    pub fn stdout(mut self, stdout: impl Into<Stdio>) -> Self {
        self.stdout = stdout.into();
        self
    }

    /// Sets the standard error of the first process.
    #[must_use]
    pub fn stderr(mut self, stderr: impl Into<Stdio>) -> Self {
        self.stderr = stderr.into();
        self
    }
}

/// Options of [`Instance::stop_with`](crate::instance::Instance::stop_with).
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct StopOptions {
    /// How long until every process must be gone: 30 s unless told otherwise. Processes in an uninterruptible
    /// wait, such as a dead NFS server, can take longer than any deadline.
    pub deadline: Option<Duration>,
    /// Ends the wait early. The processes have been killed by then.
    pub cancel: Option<Cancel>,
}

impl Default for StopOptions {
    fn default() -> Self {
        Self { deadline: Some(DEFAULT_DEADLINE), cancel: None }
    }
}

/// What a shutdown does with an instance that has not ended at the deadline.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum AtDeadline {
    /// Fail with [`Timeout`](crate::ErrorKind::Timeout); it keeps running.
    #[default]
    Fail,
    /// Kill every process of it, as `stop` does.
    Kill,
}

/// Options of [`Instance::shutdown_with`](crate::instance::Instance::shutdown_with).
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ShutdownOptions {
    /// How long the instance has to end: 30 s unless told otherwise.
    pub deadline: Option<Duration>,
    /// Ends the wait early. The signal is not taken back.
    pub cancel: Option<Cancel>,
    /// The signal that asks for the end. `None` takes the way that the first process understands, a signal or a command;
    /// see [`InitRequest`](crate::container::InitRequest).
    pub signal: Option<Signal>,
    /// What happens when it has not ended by then.
    pub at_deadline: AtDeadline,
}

impl Default for ShutdownOptions {
    fn default() -> Self {
        Self {
            deadline: Some(DEFAULT_DEADLINE),
            cancel: None,
            signal: None,
            at_deadline: AtDeadline::default(),
        }
    }
}

impl ShutdownOptions {
    /// Sets the signal that asks for the end.
    #[must_use]
    pub fn signal(mut self, signal: Signal) -> Self {
        self.signal = Some(signal);
        self
    }

    /// Sets what happens when it has not ended at the deadline.
    #[must_use]
    pub fn at_deadline(mut self, at_deadline: AtDeadline) -> Self {
        self.at_deadline = at_deadline;
        self
    }
}

/// How a restart ends the running instance.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum RestartMode {
    /// Kill every process, as `stop` does.
    #[default]
    Forced,
    /// Ask the first process to reboot, or, where it knows no such thing, to end as `shutdown` does. If it does not in this time, the restart fails with
    /// [`Timeout`](crate::ErrorKind::Timeout) and the instance keeps running.
    Graceful(Duration),
}

/// Options of [`Instance::restart_with`](crate::instance::Instance::restart_with).
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct RestartOptions {
    /// How long the whole restart may take: 30 s unless told otherwise.
    pub deadline: Option<Duration>,
    /// Ends the restart early; the instance is then as the step that was running left it.
    pub cancel: Option<Cancel>,
    /// How the running instance is ended.
    pub mode: RestartMode,
}

impl Default for RestartOptions {
    fn default() -> Self {
        Self { deadline: Some(DEFAULT_DEADLINE), cancel: None, mode: RestartMode::Forced }
    }
}

impl RestartOptions {
    /// Sets how the running instance is ended.
    #[must_use]
    pub fn mode(mut self, mode: RestartMode) -> Self {
        self.mode = mode;
        self
    }
}

/// Options of [`Instance::freeze_with`](crate::instance::Instance::freeze_with) and
/// [`Instance::unfreeze_with`](crate::instance::Instance::unfreeze_with).
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct FreezeOptions {
    /// How long until every process must be frozen or thawed: 30 s unless told otherwise. A freeze that misses
    /// it is taken back.
    pub deadline: Option<Duration>,
    /// Ends the wait early; a freeze is then taken back.
    pub cancel: Option<Cancel>,
}

impl Default for FreezeOptions {
    fn default() -> Self {
        Self { deadline: Some(DEFAULT_DEADLINE), cancel: None }
    }
}

/// What a delete does with a running instance.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum DeleteMode {
    /// Refuse with [`InvalidState`](crate::ErrorKind::InvalidState).
    #[default]
    IfStopped,
    /// Stop it by force first.
    Stop,
}

/// Options of [`Instance::delete_with`](crate::instance::Instance::delete_with).
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct DeleteOptions {
    /// How long a stop that comes first may take: 30 s unless told otherwise. Removing files is not timed.
    pub deadline: Option<Duration>,
    /// Ends the wait for the stop early.
    pub cancel: Option<Cancel>,
    /// What happens to a running instance.
    pub mode: DeleteMode,
}

impl Default for DeleteOptions {
    fn default() -> Self {
        Self { deadline: Some(DEFAULT_DEADLINE), cancel: None, mode: DeleteMode::IfStopped }
    }
}

impl DeleteOptions {
    /// Sets what happens to a running instance.
    #[must_use]
    pub fn mode(mut self, mode: DeleteMode) -> Self {
        self.mode = mode;
        self
    }
}

/// Options of [`Instance::wait_with`](crate::instance::Instance::wait_with).
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct WaitOptions {
    /// How long to wait. No limit unless told otherwise: an instance runs for as long as it likes.
    pub deadline: Option<Duration>,
    /// Ends the wait early.
    pub cancel: Option<Cancel>,
}

/// Options of [`Instance::update_with`](crate::instance::Instance::update_with).
///
/// ```
/// use stockade::cgroup::{BelowUse, Limits};
/// use stockade::instance::UpdateOptions;
///
/// let shrink = UpdateOptions::new(Limits::new().memory_max(64 << 20)).below_use(BelowUse::Allow);
/// assert_eq!(shrink.below_use, BelowUse::Allow);
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct UpdateOptions {
    /// The limits that change.
    pub limits: Limits,
    /// How many CPUs it has, or which, from now on; as before unless told otherwise.
    pub cpus: Option<Cpus>,
    /// The nodes that those CPUs are on; as before unless told otherwise.
    pub cpu_nodes: Option<CpuNodes>,
    /// What to do about a limit that cannot be set on this host, from now on; as before unless told otherwise.
    pub enforce: Option<Enforce>,
    /// What to do about a limit of memory below what is in use: refuse unless told otherwise.
    pub below_use: BelowUse,
    /// How long the kernel may reclaim memory to get below a new limit: 30 s unless told otherwise.
    pub deadline: Option<Duration>,
    /// Ends that early.
    pub cancel: Option<Cancel>,
    /// A fault on purpose, for tests.
    #[doc(hidden)]
    pub fault: Option<WriteFault>,
}

wait_setters!(UpdateOptions);

impl UpdateOptions {
    /// Changes the limits that `limits` names.
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            cpus: None,
            cpu_nodes: None,
            enforce: None,
            below_use: BelowUse::default(),
            deadline: Some(DEFAULT_DEADLINE),
            cancel: None,
            fault: None,
        }
    }

    /// Sets how many CPUs it has, or which; [`Cpus::All`] lifts that.
    #[must_use]
    pub fn cpus(mut self, cpus: impl Into<Cpus>) -> Self {
        self.cpus = Some(cpus.into());
        self
    }

    /// Sets the nodes that those CPUs are on; [`CpuNodes::Any`] lifts that.
    #[must_use]
    pub fn cpu_nodes(mut self, nodes: impl Into<CpuNodes>) -> Self {
        self.cpu_nodes = Some(nodes.into());
        self
    }

    /// Sets what to do about a limit that cannot be set on this host.
    #[must_use]
    pub fn enforce(mut self, enforce: Enforce) -> Self {
        self.enforce = Some(enforce);
        self
    }

    /// Sets what to do about a limit of memory below what is in use.
    #[must_use]
    pub fn below_use(mut self, policy: BelowUse) -> Self {
        self.below_use = policy;
        self
    }

    /// Sets a fault on purpose, for tests.
    #[doc(hidden)]
    #[must_use]
    pub fn fault(mut self, fault: WriteFault) -> Self {
        self.fault = Some(fault);
        self
    }
}

/// Which processes of an instance a signal goes to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum KillTarget {
    /// The first process alone.
    #[default]
    Init,
    /// Every process of the instance.
    All,
}

/// Options of [`Instance::kill`](crate::instance::Instance::kill).
///
/// ```
/// use stockade::Signal;
/// use stockade::instance::{KillOptions, KillTarget};
///
/// let options = KillOptions::new(Signal::HUP).target(KillTarget::All);
/// assert_eq!(options.signal, Signal::HUP);
/// ```
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct KillOptions {
    /// The signal to send.
    pub signal: Signal,
    /// Who gets it: the first process unless told otherwise.
    pub target: KillTarget,
}

impl KillOptions {
    /// Sends `signal` to the first process.
    pub fn new(signal: Signal) -> Self {
        Self { signal, target: KillTarget::Init }
    }

    /// Sets who gets it.
    #[must_use]
    pub fn target(mut self, target: KillTarget) -> Self {
        self.target = target;
        self
    }
}

impl From<Signal> for KillOptions {
    fn from(signal: Signal) -> Self {
        Self::new(signal)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_that_change_something_have_a_deadline_by_default() {
        let s = Some(DEFAULT_DEADLINE);
        assert_eq!(StartOptions::default().deadline, s);
        assert_eq!(StopOptions::default().deadline, s);
        assert_eq!(ShutdownOptions::default().deadline, s);
        assert_eq!(RestartOptions::default().deadline, s);
        assert_eq!(FreezeOptions::default().deadline, s);
        assert_eq!(DeleteOptions::default().deadline, s);
        assert_eq!(WaitOptions::default().deadline, None);
    }

    #[test]
    fn setters_set() {
        let o = ShutdownOptions::new().signal(Signal::INT).no_deadline();
        assert_eq!((o.signal, o.deadline), (Some(Signal::INT), None));
        let grace = RestartMode::Graceful(Duration::from_secs(1));
        assert_eq!(RestartOptions::new().mode(grace).mode, grace);
        assert_eq!(DeleteOptions::new().mode(DeleteMode::Stop).mode, DeleteMode::Stop);
        assert!(matches!(StartOptions::new().stdin(Stdio::Inherit).stdin, Stdio::Inherit));
    }
}
