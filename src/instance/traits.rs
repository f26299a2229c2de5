//! The lifecycle of an instance.

use std::any::Any;
use std::fmt::Debug;
use std::sync::Arc;

use crate::cgroup::{Limits, Skipped};
use crate::error::{Error, ErrorKind, Result};
use crate::exit::ExitStatus;
use crate::instance::{
    DeleteOptions, Exec, FreezeOptions, InstanceInfo, InstanceKind, KillOptions, Metrics, Pipes,
    RestartOptions, ShutdownOptions, StartOptions, Status, StopOptions, UpdateOptions, WaitOptions,
};
use crate::name::{InstanceId, InstanceName};

/// A container or virtual machine.
///
/// Every method takes `&self` and may be called from any thread. All of them block; none needs an async
/// runtime. **One action at a time** runs on an instance: a second one fails with
/// [`Busy`](crate::ErrorKind::Busy), naming the first, except where a method says otherwise. `status`, `info`,
/// `wait` and `kill` are no actions and work at any time.
///
/// Errors that every action may give: [`Busy`](crate::ErrorKind::Busy);
/// [`NotFound`](crate::ErrorKind::NotFound) once the instance was deleted, through this handle or another;
/// [`InvalidState`](crate::ErrorKind::InvalidState) where the method's list of states does not hold;
/// [`Timeout`](crate::ErrorKind::Timeout) and [`Cancelled`](crate::ErrorKind::Cancelled).
///
/// Dropping a handle changes nothing on the instance, unless its configuration says that it ends with its last
/// handle.
///
/// `Any` is a supertrait, so that the concrete handle can be had back:
///
/// ```
/// use std::any::Any;
/// use std::sync::Arc;
/// use stockade::instance::Instance;
///
/// fn concrete<T: Instance>(instance: Arc<dyn Instance>) -> Option<Arc<T>> {
///     let any: Arc<dyn Any + Send + Sync> = instance;
///     any.downcast().ok()
/// }
/// ```
///
/// Later versions add methods, always with a default. More capabilities (files, console, snapshots,
/// devices, migration, export) come in the same way as [`exec`](Self::exec): an accessor whose default is
/// `None`.
pub trait Instance: Any + Debug + Send + Sync {
    /// Which instance. A rename changes it, so this is the identity at the time of the call.
    fn id(&self) -> Arc<InstanceId>;

    /// Its name inside its project.
    fn name(&self) -> InstanceName {
        self.id().name.clone()
    }

    /// Container or virtual machine.
    fn kind(&self) -> InstanceKind;

    /// Its state now, asked of the kernel. While an action runs, the state that belongs to it, such as
    /// `Starting`. [`Status::Error`] where it cannot be told. Waits for nothing, but where the first process has ended
    /// meanwhile it removes what belonged to the run.
    fn status(&self) -> Status;

    /// All that is known about it now. Does not wait for anything.
    ///
    /// # Errors
    /// [`Corrupt`](crate::ErrorKind::Corrupt) where its record cannot be read.
    fn info(&self) -> Result<InstanceInfo>;

    /// Starts it with default options; see [`start_with`](Self::start_with).
    ///
    /// # Errors
    /// As [`start_with`](Self::start_with).
    fn start(&self) -> Result<()> {
        self.start_with(StartOptions::default()).map(drop)
    }

    /// Starts it and returns once its payload runs, with the host's ends of the pipes that were asked for.
    ///
    /// Allowed when `Stopped`.
    ///
    /// # Errors
    /// [`PayloadNotFound`](crate::ErrorKind::PayloadNotFound) and
    /// [`PayloadNotExecutable`](crate::ErrorKind::PayloadNotExecutable) for the program;
    /// [`Died`](crate::ErrorKind::Died) when the process ended before it; any other error names the step that
    /// failed. Whatever the error, everything made for the start is removed again.
    fn start_with(&self, options: StartOptions) -> Result<Pipes>;

    /// Stops it by force with default options; see [`stop_with`](Self::stop_with).
    ///
    /// # Errors
    /// As [`stop_with`](Self::stop_with).
    fn stop(&self) -> Result<()> {
        self.stop_with(StopOptions::default())
    }

    /// Kills every process of it and returns when they are gone and what belonged to the run is removed.
    ///
    /// Allowed in every state but `Stopped`: frozen, in error, and during a shutdown, which it takes over. An
    /// ephemeral instance is deleted with it.
    ///
    /// # Errors
    /// [`Timeout`](crate::ErrorKind::Timeout) where a process does not die in time: the kill stays in force, and
    /// another `stop` goes on from there.
    fn stop_with(&self, options: StopOptions) -> Result<()>;

    /// Asks it to end, with default options; see [`shutdown_with`](Self::shutdown_with).
    ///
    /// # Errors
    /// As [`shutdown_with`](Self::shutdown_with).
    fn shutdown(&self) -> Result<()> {
        self.shutdown_with(ShutdownOptions::default())
    }

    /// Asks the first process to end, waits until it has, and removes what belonged to the run.
    ///
    /// Allowed when running; a frozen instance is thawed first. An ephemeral instance is deleted with it.
    ///
    /// # Errors
    /// [`Timeout`](crate::ErrorKind::Timeout) where it still runs at the deadline. It then keeps running, and
    /// a `stop` may follow.
    fn shutdown_with(&self, options: ShutdownOptions) -> Result<()>;

    /// Sends a signal and returns at once.
    ///
    /// Allowed when running. A signal to a frozen process takes effect when it thaws, except `SIGKILL`. The
    /// kernel drops a signal for which the first process has no handler, except `SIGKILL` and `SIGSTOP`
    /// (`pid_namespaces(7)`).
    ///
    /// # Errors
    /// [`InvalidState`](crate::ErrorKind::InvalidState) where it does not run;
    /// [`Unsupported`](crate::ErrorKind::Unsupported) for [`KillTarget::All`](crate::instance::KillTarget::All) without
    /// a control group of its own.
    fn kill(&self, options: KillOptions) -> Result<()>;

    /// Restarts it by force with default options; see [`restart_with`](Self::restart_with).
    ///
    /// # Errors
    /// As [`restart_with`](Self::restart_with).
    fn restart(&self) -> Result<()> {
        self.restart_with(RestartOptions::default())
    }

    /// Ends the run and starts the next one, as one action. An ephemeral instance is kept.
    ///
    /// Allowed when running.
    ///
    /// # Errors
    /// Those of [`stop_with`](Self::stop_with) or [`shutdown_with`](Self::shutdown_with), then those of
    /// [`start_with`](Self::start_with). If the start fails, the instance is stopped.
    fn restart_with(&self, options: RestartOptions) -> Result<()>;

    /// Freezes it with default options; see [`freeze_with`](Self::freeze_with).
    ///
    /// # Errors
    /// As [`freeze_with`](Self::freeze_with).
    fn freeze(&self) -> Result<()> {
        self.freeze_with(FreezeOptions::default())
    }

    /// Stops the clock of every process of it and returns when none runs any more.
    ///
    /// Allowed when running and not frozen.
    ///
    /// # Errors
    /// [`Unsupported`](crate::ErrorKind::Unsupported) without a control group of its own.
    /// [`Timeout`](crate::ErrorKind::Timeout) where a process cannot be frozen in time; the freeze is taken back.
    fn freeze_with(&self, options: FreezeOptions) -> Result<()>;

    /// Thaws it with default options; see [`unfreeze_with`](Self::unfreeze_with).
    ///
    /// # Errors
    /// As [`unfreeze_with`](Self::unfreeze_with).
    fn unfreeze(&self) -> Result<()> {
        self.unfreeze_with(FreezeOptions::default())
    }

    /// Lets its processes run again.
    ///
    /// Allowed when `Frozen`.
    ///
    /// # Errors
    /// Those that every action may give.
    fn unfreeze_with(&self, options: FreezeOptions) -> Result<()>;

    /// Changes limits with default options; see [`update_with`](Self::update_with).
    ///
    /// # Errors
    /// As [`update_with`](Self::update_with).
    fn update(&self, limits: Limits) -> Result<Vec<Skipped>> {
        self.update_with(UpdateOptions::new(limits))
    }

    /// Changes limits, on record and where it runs in the kernel too: all of them or none. What the options do not name
    /// stays, and [`Limit::Max`](crate::cgroup::Limit::Max) lifts a limit. Says which limits could not be set and may be
    /// left out ([`Enforce::BestEffort`](crate::cgroup::Enforce::BestEffort)): always none of a stopped instance, whose
    /// limits are set when it starts.
    ///
    /// Allowed in every state. When the host dies meanwhile, the next one that opens a runtime on the same directories
    /// sets what is on record, which is all the old or all the new limits.
    ///
    /// # Errors
    /// [`InvalidConfig`](crate::ErrorKind::InvalidConfig): values that are wrong, by themselves or with the limits that
    /// stay, each named; a CPU or memory node that is not on the host. [`NotFound`](crate::ErrorKind::NotFound): no such
    /// block device. [`Busy`](crate::ErrorKind::Busy): more than the new limit of memory is in use and cannot be
    /// reclaimed; see [`BelowUse`](crate::cgroup::BelowUse).
    /// [`Unsupported`](crate::ErrorKind::Unsupported): a controller is not there, or instances of this kind have no
    /// limits that can change. After any error the old limits hold, and one that could not be put back is named.
    fn update_with(&self, options: UpdateOptions) -> Result<Vec<Skipped>> {
        let _ = options;
        Err(Error::new(ErrorKind::Unsupported, "update")
            .detail("instances of this kind have no limits that can change"))
    }

    /// Waits, for as long as it takes, until it has ended; see [`wait_with`](Self::wait_with).
    ///
    /// # Errors
    /// As [`wait_with`](Self::wait_with).
    fn wait(&self) -> Result<ExitStatus> {
        self.wait_with(WaitOptions::default())
    }

    /// Waits until the present run has ended and says how. For a stopped instance, how its last run ended.
    ///
    /// Any number of threads may wait. A frozen instance is waited for like a running one.
    ///
    /// # Errors
    /// [`InvalidState`](crate::ErrorKind::InvalidState) where it has not run since the machine started.
    fn wait_with(&self, options: WaitOptions) -> Result<ExitStatus>;

    /// Gives it another name in the same project.
    ///
    /// Allowed when `Stopped`.
    ///
    /// # Errors
    /// [`AlreadyExists`](crate::ErrorKind::AlreadyExists) where the name is taken.
    fn rename(&self, name: &InstanceName) -> Result<()>;

    /// Deletes it with default options; see [`delete_with`](Self::delete_with).
    ///
    /// # Errors
    /// As [`delete_with`](Self::delete_with).
    fn delete(&self) -> Result<()> {
        self.delete_with(DeleteOptions::default())
    }

    /// Removes its records and its files. A root file system that the caller gave stays as it is.
    ///
    /// Allowed when `Stopped`, and in every state with [`DeleteMode::Stop`](crate::instance::DeleteMode::Stop).
    /// Afterwards the handle gives [`NotFound`](crate::ErrorKind::NotFound).
    ///
    /// # Errors
    /// [`InvalidState`](crate::ErrorKind::InvalidState) where it runs; those of
    /// [`stop_with`](Self::stop_with) where that comes first.
    fn delete_with(&self, options: DeleteOptions) -> Result<()>;

    /// Running commands in it, where that can be done.
    fn exec(&self) -> Option<&dyn Exec> {
        None
    }

    /// What it uses and what happens to it, where that is counted.
    fn metrics(&self) -> Option<&dyn Metrics> {
        None
    }
}
