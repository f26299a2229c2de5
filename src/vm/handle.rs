//! The handle of a virtual machine.

use std::fmt;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, RwLock};
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use super::agent::Agent;
use super::config::VmConfig;
use super::devices::{ConsoleOutput, ConsoleRing};
use super::exit::ExitReason;
use super::group::Above;
use super::limits::Given;
use super::machine::Machine;
use super::vcpu::ExitCounts;
use crate::error::{Error, ErrorKind, Result};
use crate::exit::ExitStatus;
use crate::instance::InstanceKind;
use crate::name::InstanceId;
use crate::op::{Action, ActionGuard, ActionLock, Between};
use crate::runtime::Runtime;
use crate::store::RunRecord;

/// A virtual machine. Usable from any thread; one action at a time runs on it.
///
/// What each method does and in which states stands at the methods of [`Instance`](crate::instance::Instance), which
/// this type has inherent too. The machine runs in threads of this process, one for each virtual processor: it ends with
/// the process, and when its [runtime](Runtime) is closed. Dropping the handle changes nothing on it unless its
/// configuration says [`kill_on_drop`](super::VmBuilder::kill_on_drop).
pub struct Vm {
    pub(super) runtime: Runtime,
    pub(super) identity: RwLock<Arc<InstanceId>>,
    pub(super) config: RwLock<Arc<VmConfig>>,
    pub(super) uuid: String,
    pub(super) created_at: SystemTime,
    pub(super) lock: ActionLock,
    pub(super) run: Mutex<Run>,
}

/// What the handle knows of the runs of its machine.
#[derive(Debug)]
pub(super) enum Run {
    /// Not since it was made, or since the host was started.
    Never,
    /// In this runtime.
    Live(Arc<Live>),
    /// In another runtime: this process's or another's.
    Elsewhere {
        pid: u32,
        started_at: SystemTime,
    },
    Ended(Ended),
    /// With what was seen of its last run.
    Deleted(Option<Seen>),
}

/// A run that has ended.
#[derive(Debug)]
pub(super) struct Ended {
    pub(super) exit: ExitStatus,
    pub(super) started_at: SystemTime,
    /// What only who had the run knows.
    pub(super) seen: Option<Seen>,
}

#[derive(Debug)]
pub(super) struct Seen {
    pub(super) reason: ExitReason,
    pub(super) console: Arc<ConsoleRing>,
    pub(super) counts: ExitCounts,
}

/// A run in this runtime, which holds it as long as it goes on.
#[derive(Debug)]
pub(crate) struct Live {
    pub(super) machine: Machine,
    pub(super) console: Arc<ConsoleRing>,
    pub(super) record: RunRecord,
    pub(super) agent: Option<Agent>,
    /// Held while it is changed.
    pub(super) given: Mutex<Given>,
}

impl Live {
    /// Ends it, whatever it does, waits for its threads, and says how it ended.
    pub(crate) fn end(&self) -> ExitStatus {
        self.machine.stop();
        self.machine.control().reason().map_or(ExitStatus::Unknown, |reason| reason.status())
    }

    /// What is to be on record from now on. Of a run that has ended its cgroup is removed, and on record only if it could
    /// not be: who comes next tries again.
    pub(crate) fn record(&self, exit: Option<ExitStatus>, above: &Above) -> RunRecord {
        let given = self.given();
        let mut record = RunRecord { exit, skipped: given.skipped.clone(), ..self.record.clone() };
        if exit.is_some() && given.group.as_ref().is_none_or(|group| group.remove(above).is_ok()) {
            record.cgroup_path = None;
        }
        record
    }

    pub(super) fn given(&self) -> MutexGuard<'_, Given> {
        self.given.lock().unwrap_or_else(|e| e.into_inner())
    }
}

/// What is stored of a virtual machine.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct VmRecord {
    pub(super) kind: InstanceKind,
    pub(super) uuid: String,
    #[serde(with = "crate::store::millis")]
    pub(super) created_at: SystemTime,
    pub(super) config: VmConfig,
}

impl Vm {
    /// Makes the machine's record, and the handle.
    pub(super) fn create(runtime: &Runtime, config: VmConfig) -> Result<Arc<Self>> {
        let id = config.id.clone();
        let inner = runtime.inner();
        let uuid = crate::container::new_uuid(inner);
        let durability = config.durability();
        let record = VmRecord { kind: InstanceKind::Vm, uuid, created_at: SystemTime::now(), config };
        let made = inner.store.create_instance(&id, durability, &record);
        made.map_err(|e| e.with_op("create").with_instance(&id))?;
        let vm = Arc::new(Self::new(runtime.clone(), id.clone(), record));
        runtime.vms().remember(&id, &vm);
        Ok(vm)
    }

    pub(super) fn new(runtime: Runtime, id: InstanceId, record: VmRecord) -> Self {
        Self {
            runtime,
            identity: RwLock::new(Arc::new(id)),
            config: RwLock::new(Arc::new(record.config)),
            uuid: record.uuid,
            created_at: record.created_at,
            lock: ActionLock::new(),
            run: Mutex::new(Run::Never),
        }
    }

    /// Which machine. A rename changes it.
    pub fn id(&self) -> Arc<InstanceId> {
        Arc::clone(&self.identity.read().unwrap_or_else(|e| e.into_inner()))
    }

    /// Its configuration.
    pub fn config(&self) -> Arc<VmConfig> {
        Arc::clone(&self.config.read().unwrap_or_else(|e| e.into_inner()))
    }

    /// Why its last run ended; `None` while it runs, before its first run, and where another runtime saw the end.
    pub fn exit_reason(&self) -> Option<ExitReason> {
        match &*self.run() {
            Run::Live(live) => live.machine.control().reason(),
            Run::Ended(Ended { seen: Some(seen), .. }) | Run::Deleted(Some(seen)) => {
                Some(seen.reason.clone())
            }
            _ => None,
        }
    }

    /// What the guest has written to its console in this run or else the last one, as far as the ring holds it. Empty
    /// before the first run in this runtime.
    pub fn console_log(&self) -> ConsoleOutput {
        self.console_since(0)
    }

    /// What the guest has written to its console from the byte number `from` on:
    /// [`ConsoleOutput::end`] of the last call gives what is new.
    pub fn console_since(&self, from: u64) -> ConsoleOutput {
        let ring = match &*self.run() {
            Run::Live(live) => Some(Arc::clone(&live.console)),
            Run::Ended(Ended { seen: Some(seen), .. }) | Run::Deleted(Some(seen)) => {
                Some(Arc::clone(&seen.console))
            }
            _ => None,
        };
        ring.map_or_else(|| ConsoleRing::new(0).since(0), |ring| ring.since(from))
    }

    /// Types on the guest's console; says how many of the bytes were taken. A guest that does not read leaves room
    /// for 64 KiB.
    ///
    /// # Errors
    /// [`InvalidState`](crate::ErrorKind::InvalidState) where it does not run in this runtime.
    pub fn console_input(&self, bytes: &[u8]) -> Result<usize> {
        let live = self.live().map_err(|e| e.with_op("console_input").with_instance(self.id()))?;
        Ok(live.machine.console_input(bytes))
    }

    /// Asks the guest to do without so many bytes of its memory, which the host has back as the guest gives them up; 0 gives
    /// all back to it. It returns at once, and a guest need not obey: [`balloon`](Self::balloon) says what it has done.
    ///
    /// # Errors
    /// [`InvalidState`](crate::ErrorKind::InvalidState) where it does not run in this runtime;
    /// [`Unsupported`](crate::ErrorKind::Unsupported) where its configuration has no balloon;
    /// [`InvalidConfig`](crate::ErrorKind::InvalidConfig) for more than it has.
    pub fn set_balloon(&self, bytes: u64) -> Result<()> {
        let set = self.live().and_then(|live| {
            let memory = self.config().memory;
            if bytes > memory {
                let why = format!("is {bytes} bytes, and the machine has {memory}");
                return Err(Error::invalid("balloon", why));
            }
            live.machine.balloon().ok_or_else(no_balloon)?.ask(bytes);
            Ok(())
        });
        set.map_err(|e| e.with_op("set_balloon").with_instance(self.id()))
    }

    /// Bytes of its memory that the guest says that it does without.
    ///
    /// # Errors
    /// As [`set_balloon`](Self::set_balloon).
    pub fn balloon(&self) -> Result<u64> {
        let live = self.live();
        let bytes = live.and_then(|live| Ok(live.machine.balloon().ok_or_else(no_balloon)?.bytes()));
        bytes.map_err(|e| e.with_op("balloon").with_instance(self.id()))
    }

    /// How often the processors of this run or else the last one came out of the kernel; zero before the first run.
    pub fn exit_counts(&self) -> ExitCounts {
        match &*self.run() {
            Run::Live(live) => live.machine.exit_counts(),
            Run::Ended(Ended { seen: Some(seen), .. }) | Run::Deleted(Some(seen)) => seen.counts,
            _ => ExitCounts::default(),
        }
    }

    /// A descriptor that is readable once the present run has ended, for an event loop. Do not read from or write to it.
    ///
    /// # Errors
    /// [`InvalidState`](crate::ErrorKind::InvalidState) where it does not run in this runtime.
    pub fn end_event(&self) -> Result<OwnedFd> {
        let fd = self.live().and_then(|live| {
            let event = live.machine.control().ended_event().as_fd();
            event.try_clone_to_owned().map_err(|e| Error::io("duplicate the event of the end", e))
        });
        fd.map_err(|e| e.with_op("end_event").with_instance(self.id()))
    }

    pub(super) fn run(&self) -> MutexGuard<'_, Run> {
        self.run.lock().unwrap_or_else(|e| e.into_inner())
    }

    pub(crate) fn is_deleted(&self) -> bool {
        matches!(*self.run(), Run::Deleted(_))
    }

    pub(super) fn between(&self) -> &Arc<Between> {
        self.runtime.inner().store.between()
    }

    pub(super) fn begin(&self, action: Action) -> Result<ActionGuard> {
        self.lock.try_begin(action, self.between(), &|| self.id().to_string())
    }

    pub(super) fn gone(&self) -> Error {
        Error::new(ErrorKind::NotFound, "find the virtual machine").detail("it was deleted")
    }

    /// Adds the verb and the machine to an error.
    pub(super) fn named<T>(&self, action: Action, result: Result<T>) -> Result<T> {
        result.map_err(|e| e.with_op(action.verb()).with_instance(self.id()))
    }
}

fn no_balloon() -> Error {
    Error::new(ErrorKind::Unsupported, "reach the balloon of the virtual machine")
        .detail("its configuration has none")
        .hint("give it VmBuilder::balloon")
}

impl fmt::Debug for Vm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Vm").field("id", &self.id()).field("run", &*self.run()).finish_non_exhaustive()
    }
}

impl Drop for Vm {
    fn drop(&mut self) {
        if !self.config().kill_on_drop {
            return;
        }
        let live = match &*self.run() {
            Run::Live(live) => Arc::clone(live),
            _ => return,
        };
        live.end();
        // Nobody is left to tell of a failure.
        let _ = self.settle_if_ended();
    }
}
