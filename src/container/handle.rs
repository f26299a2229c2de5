//! [`Container`]: the handle, and how it comes to be.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, RwLock};
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use super::config::{ContainerConfig, IdMapConfig};
use super::live::Live;
use super::pool::Sandbox;
use crate::error::{Error, ErrorKind, Result};
use crate::exit::ExitStatus;
use crate::idmap::IdMap;
use crate::name::InstanceId;
use crate::namespaces::NamespaceKind;
use crate::op::{Action, ActionGuard, ActionLock, Between, Undo};
use crate::runtime::{Ids, Inner, Runtime};
use crate::store::Durability;

/// A container, from [`Runtime::create`] or [`Runtime::container`].
///
/// All methods take `&self`, block, and may be called from any thread; one action at a time runs on a container.
/// What each does and in which states stands at the methods of [`Instance`](crate::instance::Instance), which this
/// type has inherent too. Dropping the handle changes nothing on the container unless its configuration says
/// [`kill_on_drop`](super::ContainerBuilder::kill_on_drop).
pub struct Container {
    pub(super) runtime: Runtime,
    pub(super) identity: RwLock<Arc<InstanceId>>,
    pub(super) config: RwLock<Arc<ContainerConfig>>,
    /// Names what belongs to the instance through renames.
    pub(super) uuid: String,
    pub(super) created_at: SystemTime,
    pub(super) lock: ActionLock,
    pub(super) run: Mutex<Run>,
    /// Nobody else can know of it yet, or can have run it unseen: it was made by this handle and not started since.
    pub(super) fresh: AtomicBool,
    /// What a pool made for its first start.
    sandbox: Mutex<Option<Sandbox>>,
}

/// What the handle knows of the runs of its container.
#[derive(Debug)]
pub(super) enum Run {
    /// Not since it was made, or since the machine started.
    Never,
    /// The first process is there, or its end has not been looked at yet.
    Live(Arc<Live>),
    /// It has ended, and what belonged to the run is removed.
    Ended { exit: ExitStatus, started_at: SystemTime },
    /// The container is deleted.
    Deleted,
}

/// What is stored of a container.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct ContainerRecord {
    pub(super) uuid: String,
    #[serde(with = "crate::store::millis")]
    pub(super) created_at: SystemTime,
    pub(super) config: ContainerConfig,
}

impl Container {
    /// Makes the container's records, and the handle.
    pub(super) fn create(runtime: &Runtime, config: ContainerConfig) -> Result<Arc<Self>> {
        let id = config.id.clone();
        let made = Self::create_inner(runtime, config);
        made.map_err(|e| e.with_op("create").with_instance(&id))
    }

    fn create_inner(runtime: &Runtime, mut config: ContainerConfig) -> Result<Arc<Self>> {
        let inner = runtime.inner();
        super::nics::settle_macs(&mut config, &inner.state_dir);
        let id = config.id.clone();
        let durability = config.durability();
        let sandbox = runtime.take_sandbox(&config);
        let uuid = sandbox.as_ref().map_or_else(|| new_uuid(inner), |s| s.uuid.clone());
        let record = ContainerRecord { uuid: uuid.clone(), created_at: SystemTime::now(), config };
        let mut undo = Undo::new();
        // The ids are reserved now, so that what is put into the root file system before the start can belong to
        // them; without any left there is no instance. And before the record: a crash between the two leaves ids
        // without an instance, which are found and given back, and no instance that lacks something.
        if has_own_range(inner, &record.config)? {
            let ranges = inner.ranges()?;
            if sandbox.is_none() {
                undo.push("give back the ids", || {
                    ranges.release(&uuid).map(drop).inspect_err(|_| inner.store.between().leave_untidy())
                });
            }
            let allocated = match durability {
                Durability::Durable => ranges.allocate(&uuid),
                Durability::Ephemeral => ranges.allocate_ephemeral(&uuid),
            };
            // A list that could not be flushed may have been written all the same.
            if let Err(e) = allocated {
                return Err(undo.fail(e));
            }
        }
        if let Err(e) = inner.store.create_instance(&id, durability, &record) {
            return Err(undo.fail(e));
        }
        undo.commit();
        let container = Self::new(runtime.clone(), id.clone(), record, Run::Never);
        container.fresh.store(true, Ordering::Relaxed);
        let container = Arc::new(container);
        if let Some(mut sandbox) = sandbox {
            sandbox.adopt();
            *container.sandbox() = Some(sandbox);
        }
        runtime.remember(&id, &container);
        Ok(container)
    }

    pub(super) fn new(runtime: Runtime, id: InstanceId, record: ContainerRecord, run: Run) -> Self {
        Self {
            runtime,
            identity: RwLock::new(Arc::new(id)),
            config: RwLock::new(Arc::new(record.config)),
            uuid: record.uuid,
            created_at: record.created_at,
            lock: ActionLock::new(),
            run: Mutex::new(run),
            fresh: AtomicBool::new(false),
            sandbox: Mutex::new(None),
        }
    }

    /// The record with this configuration.
    pub(super) fn record(&self, config: ContainerConfig) -> ContainerRecord {
        ContainerRecord { uuid: self.uuid.clone(), created_at: self.created_at, config }
    }

    /// Whether the runtime gives it 65,536 ids of its own.
    pub(super) fn has_own_range(&self) -> Result<bool> {
        has_own_range(self.runtime.inner(), &self.config())
    }

    /// The map of its new user namespace; `None` where that is the host's or another instance's.
    pub(super) fn id_map(&self) -> Result<Option<IdMap>> {
        let inner = self.runtime.inner();
        id_map_for(inner, &self.config(), || {
            inner.ranges()?.get(&self.uuid)?.ok_or_else(|| {
                Error::new(ErrorKind::Corrupt, "find the ids of the container")
                    .detail("no range of ids is recorded for it")
                    .hint("delete it and make it anew")
            })
        })
    }

    /// Which container. A rename changes it.
    pub fn id(&self) -> Arc<InstanceId> {
        Arc::clone(&self.identity.read().unwrap_or_else(|e| e.into_inner()))
    }

    /// Its configuration.
    pub fn config(&self) -> Arc<ContainerConfig> {
        Arc::clone(&self.config.read().unwrap_or_else(|e| e.into_inner()))
    }

    pub(super) fn run(&self) -> MutexGuard<'_, Run> {
        self.run.lock().unwrap_or_else(|e| e.into_inner())
    }

    pub(super) fn sandbox(&self) -> MutexGuard<'_, Option<Sandbox>> {
        self.sandbox.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Whether it was deleted through this handle.
    pub(crate) fn is_deleted(&self) -> bool {
        matches!(*self.run(), Run::Deleted)
    }

    /// The running first process; an error in any other state.
    pub(super) fn live(&self) -> Result<Arc<Live>> {
        self.settle_if_ended()?;
        match &*self.run() {
            Run::Live(live) => Ok(Arc::clone(live)),
            Run::Deleted => Err(self.gone()),
            Run::Never | Run::Ended { .. } => {
                Err(Error::new(ErrorKind::InvalidState, "find the first process")
                    .detail("the container is not running"))
            }
        }
    }

    pub(super) fn between(&self) -> &Arc<Between> {
        self.runtime.inner().store.between()
    }

    /// Begins an action, unless another one runs, in whatever runtime.
    pub(super) fn begin(&self, action: Action) -> Result<ActionGuard> {
        self.lock.try_begin(action, self.between(), &|| self.id().to_string())
    }

    /// What another runtime does to the container just now.
    pub(super) fn other_action(&self) -> Result<Option<Action>> {
        Ok(self.between().holder_of(&self.id().to_string())?.and_then(|other| other.action))
    }

    pub(super) fn gone(&self) -> Error {
        Error::new(ErrorKind::NotFound, "find the container").detail("it was deleted")
    }

    /// Adds the verb and the container to an error.
    pub(super) fn named<T>(&self, action: Action, result: Result<T>) -> Result<T> {
        result.map_err(|e| e.with_op(action.verb()).with_instance(self.id()))
    }
}

/// 128 bits in hexadecimal that no other instance has, the first half being the token of the runtime that makes it. They
/// name things and protect nothing, so the standard library's random keys serve, which cost no system call.
pub(crate) fn new_uuid(inner: &Inner) -> String {
    use std::hash::{BuildHasher, RandomState};
    format!("{:016x}{:016x}", inner.store.between().token(), RandomState::new().hash_one(1))
}

/// The map of the new user namespace that a container of this configuration gets; `None` where it gets none. `range`
/// gives the 65,536 ids of its own, where it has those.
pub(super) fn id_map_for(
    inner: &Inner,
    config: &ContainerConfig,
    range: impl FnOnce() -> Result<IdMap>,
) -> Result<Option<IdMap>> {
    if !config.namespaces.is_new(NamespaceKind::User) {
        return Ok(None);
    }
    let map = match &config.idmap {
        IdMapConfig::Explicit(map) => map.clone(),
        IdMapConfig::SingleUser => inner.host.single_id_map()?,
        IdMapConfig::Auto => match inner.host.id_source()? {
            Ids::Ranges => range()?,
            Ids::Delegated(map) => map.clone(),
            Ids::Single => inner.host.single_id_map()?,
        },
    };
    Ok(Some(map))
}

/// Whether the runtime gives a container of this configuration 65,536 ids of its own.
fn has_own_range(inner: &Inner, config: &ContainerConfig) -> Result<bool> {
    Ok(config.namespaces.is_new(NamespaceKind::User)
        && config.idmap == IdMapConfig::Auto
        && *inner.host.id_source()? == Ids::Ranges)
}

impl fmt::Debug for Container {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Container").field("id", &self.id()).field("run", &*self.run()).finish_non_exhaustive()
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        if !self.config().kill_on_drop {
            return;
        }
        let live = match &*self.run() {
            Run::Live(live) => Arc::clone(live),
            _ => return,
        };
        // Nobody is left to tell of a failure; the next runtime finds what stays.
        let _ = self.force_stop(&live, crate::op::Deadline::after(crate::instance::DEFAULT_DEADLINE), None);
    }
}
