//! The [`Runtime`]: where instances are made, found and listed.

mod builder;
mod cpus;
mod held;
mod host;
mod hotplug;
mod kind;
mod newuidmap;
mod notify;
mod place;
mod recover;
#[cfg(feature = "systemd")]
mod systemd;
mod userns;
mod views;
#[cfg(feature = "vm")]
mod vms;

use std::collections::HashMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock, RwLock, Weak};

pub use builder::{RuntimeBuilder, SpawnStrategy};
pub use cpus::{CpuBalance, CpuPlacement};
pub(crate) use held::HeldUsers;
pub(crate) use host::{Host, Ids};
pub use hotplug::CpuWatch;
pub use place::Placement;
#[cfg(feature = "systemd")]
pub use systemd::{Manager, SystemdScope};

use crate::cgroup::Delegation;
use crate::container::{Container, ContainerConfig, Networks, Pool, Sandbox, TakenNetwork};
use crate::error::{Error, ErrorKind, Result};
use crate::idmap::RangeAllocator;
use crate::instance::{Instance, InstanceConfig, InstanceKind};
use crate::name::InstanceId;
use crate::store::Store;

/// A place where instances live: a state directory, a run directory, and what this process may do.
///
/// Cloning is cheap and gives the same runtime. Any number of runtimes may be open, in one process or in many, on
/// different directories or on the same ones. An instance found through two of them is one instance, and one action at a
/// time runs on it: the other gets [`Busy`](crate::ErrorKind::Busy). What a host that was killed left half-done, the next
/// runtime that opens there puts right.
///
/// ```no_run
/// use stockade::container::ContainerConfig;
/// use stockade::rootfs::Rootfs;
/// use stockade::Runtime;
///
/// let runtime = Runtime::open()?;
/// let config = ContainerConfig::builder("web").rootfs(Rootfs::dir("/srv/web")).build()?;
/// let web = runtime.create(config)?;
/// web.start()?;
/// # Ok::<(), stockade::Error>(())
/// ```
#[derive(Clone)]
pub struct Runtime {
    /// First, for what is in it needs the rest to be given up.
    pools: Arc<Pools>,
    inner: Arc<Inner>,
}

/// What is kept ready. Not in [`Inner`], which a pool's thread uses now and then: a runtime that is dropped meanwhile has
/// to end its pools all the same, before the program ends.
#[derive(Debug, Default)]
struct Pools {
    sandboxes: RwLock<Vec<Pool>>,
    networks: RwLock<Option<Networks>>,
}

pub(crate) struct Inner {
    pub(crate) store: Store,
    pub(crate) host: Host,
    pub(crate) state_dir: PathBuf,
    pub(crate) run_dir: PathBuf,
    /// Part of the names of this runtime's cgroups, so that those of two runtimes differ.
    pub(crate) tag: String,
    ranges: OnceLock<RangeAllocator>,
    pub(crate) held: HeldUsers,
    notify: notify::Notify,
    views: views::Views,
    open: Mutex<HashMap<InstanceId, Weak<Container>>>,
    /// Held by the thread that gives out CPUs.
    cpus: Mutex<()>,
    #[cfg(feature = "vm")]
    vms: vms::Vms,
}

impl Runtime {
    /// Opens the runtime in the usual directories: `/var/lib/stockade` and `/run/stockade` for root,
    /// `$XDG_DATA_HOME/stockade` and `$XDG_RUNTIME_DIR/stockade` for anybody else.
    ///
    /// # Errors
    /// As [`RuntimeBuilder::open`].
    pub fn open() -> Result<Self> {
        Self::builder().open()
    }

    /// Sets where and how to open it.
    pub fn builder() -> RuntimeBuilder {
        RuntimeBuilder::default()
    }

    /// Makes an instance from its configuration, stopped. Writes its record and reserves its ids; its files and
    /// processes come with the start.
    ///
    /// Blocks for some tens of microseconds where the instance is ephemeral, and for about five `fsync(2)` where it is
    /// not: three for its record, two for its ids.
    ///
    /// # Errors
    /// [`AlreadyExists`](crate::ErrorKind::AlreadyExists) where the name is taken;
    /// [`Exhausted`](crate::ErrorKind::Exhausted) where no ids are left or the disk is full. Nothing is left
    /// behind.
    pub fn create<C: InstanceConfig>(&self, config: C) -> Result<Arc<C::Handle>> {
        config.create_in(self)
    }

    /// The instance `id`, found in its records and, if it runs, among the processes of this machine.
    ///
    /// # Errors
    /// [`NotFound`](crate::ErrorKind::NotFound); [`Corrupt`](crate::ErrorKind::Corrupt) where its record cannot be
    /// read.
    pub fn get(&self, id: &InstanceId) -> Result<Arc<dyn Instance>> {
        #[cfg(feature = "vm")]
        if let Some(vm) = self.vms().find(id) {
            return Ok(vm);
        }
        match self.container(id) {
            // The record is of another kind than a container's.
            Err(e) if e.kind() == ErrorKind::Corrupt || e.kind() == ErrorKind::NotFound => {
                self.get_other(id, e)
            }
            found => Ok(found?),
        }
    }

    #[cfg(feature = "vm")]
    fn get_other(&self, id: &InstanceId, why: Error) -> Result<Arc<dyn Instance>> {
        match self.kind_of(id) {
            Ok(found) if found.kind == InstanceKind::Vm => Ok(self.vm(id)?),
            _ => Err(why),
        }
    }

    #[cfg(not(feature = "vm"))]
    fn get_other(&self, id: &InstanceId, why: Error) -> Result<Arc<dyn Instance>> {
        match self.kind_of(id) {
            Ok(found) if found.kind == InstanceKind::Vm => {
                Err(Error::new(ErrorKind::Unsupported, "find the instance")
                    .detail("it is a virtual machine, and this program was built without the feature `vm`")
                    .with_instance(id))
            }
            _ => Err(why),
        }
    }

    /// As [`get`](Self::get), for a container.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub fn container(&self, id: &InstanceId) -> Result<Arc<Container>> {
        let mut open = self.inner.open.lock().unwrap_or_else(|e| e.into_inner());
        if let Some(found) = open.get(id).and_then(Weak::upgrade)
            && !found.is_deleted()
        {
            return Ok(found);
        }
        let loaded = Container::load(self.clone(), id).map_err(|e| match e.kind() {
            ErrorKind::Corrupt => self.must_be(id, InstanceKind::Container).err().unwrap_or(e),
            _ => e,
        });
        let loaded = Arc::new(loaded?);
        open.insert(id.clone(), Arc::downgrade(&loaded));
        Ok(loaded)
    }

    /// Every instance, by project and name. One that cannot be read is left out here; [`get`](Self::get) says why.
    ///
    /// # Errors
    /// Where the directories cannot be read.
    pub fn list(&self) -> Result<Vec<Arc<dyn Instance>>> {
        let ids = self.inner.store.list()?;
        Ok(ids.iter().filter_map(|id| self.get(id).ok()).collect())
    }

    /// Keeps `size` sandboxes ready for containers that are like `template` in all but their name, program,
    /// environment, working directory, streams, limits and seccomp policy: [`create`](Self::create) takes one, and
    /// the start has only the program left to do. With 0 they are given up.
    ///
    /// Makes them before it returns, about 2 ms each. A thread named `stockade-pool` makes new ones for those that are
    /// taken, until [`close`](Self::close); it begins when the start is done, or when none is left. Each is a waiting
    /// process with a cgroup, its device policy, a range of ids and mounts of its own, about 0.4 MB of kernel memory; it
    /// holds no descriptor of this process. A container whose device policy is changed between its making and its start
    /// starts without.
    ///
    /// ```no_run
    /// use stockade::{ContainerConfig, Rootfs, Runtime};
    ///
    /// let runtime = Runtime::open()?;
    /// let job = |name: &str| ContainerConfig::builder(name).ephemeral().rootfs(Rootfs::dir("/srv/job")).read_only_root();
    /// runtime.prewarm(job("template").build()?, 4)?;
    /// let c = runtime.create(job("job-1").args(["make", "test"]).build()?)?;
    /// c.start()?;
    /// # Ok::<(), stockade::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`InvalidConfig`](crate::ErrorKind::InvalidConfig) for a template that joins namespaces, has an overlay, or a
    /// writable directory as its root; [`Unsupported`](crate::ErrorKind::Unsupported) for one whose id map
    /// `newuidmap(1)` writes; else as a start.
    pub fn prewarm(&self, template: ContainerConfig, size: usize) -> Result<()> {
        let pool = if size == 0 { None } else { Some(Pool::open(&self.inner, template.clone(), size)?) };
        let mut pools = self.pools.sandboxes.write().unwrap_or_else(|e| e.into_inner());
        let (old, kept) = std::mem::take(&mut *pools).into_iter().partition(|p: &Pool| p.is_for(&template));
        *pools = kept;
        pools.extend(pool);
        drop(pools);
        // Outside of the lock: its thread is joined.
        drop::<Vec<Pool>>(old);
        Ok(())
    }

    /// How many sandboxes are ready for a container like this one.
    pub fn prewarmed(&self, config: &ContainerConfig) -> usize {
        let pools = self.pools.sandboxes.read().unwrap_or_else(|e| e.into_inner());
        pools.iter().filter(|p| p.is_for(config)).map(Pool::ready).sum()
    }

    /// What of the cgroup tree this process may use, from its boundary down to the cgroup in which those of the
    /// instances are made, and which controllers they can have: a report to print for whoever set the host up.
    ///
    /// # Errors
    /// [`Unsupported`](crate::ErrorKind::Unsupported) on a host without a cgroup2 mount;
    /// [`NotFound`](crate::ErrorKind::NotFound) where the cgroup was removed.
    pub fn delegation(&self) -> Result<Delegation> {
        self.inner.host.delegation()
    }

    /// Keeps `size` network namespaces ready for containers in the host's user namespace, which are
    /// [`privileged`](crate::container::ContainerBuilder::privileged), and of which no sandbox is ready: their starts
    /// are spared the making of one, about 0.5 ms. With 0 they are given up.
    ///
    /// Makes them before it returns, 0.5 ms each. A thread named `stockade-net` makes new ones for those that are
    /// taken, until [`close`](Self::close). Each is one descriptor of this process and about 180 kB of kernel memory.
    /// None is used twice. Containers with a user namespace of their own, the default, have no use for them: theirs
    /// has to be made inside of it; [`prewarm`](Self::prewarm) is for those.
    ///
    /// ```no_run
    /// use stockade::Runtime;
    ///
    /// let runtime = Runtime::open()?;
    /// runtime.prewarm_networks(8)?;
    /// # Ok::<(), stockade::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`PermissionDenied`](crate::ErrorKind::PermissionDenied) without `CAP_SYS_ADMIN`;
    /// [`Exhausted`](crate::ErrorKind::Exhausted) where no more namespaces or descriptors are to be had. What was
    /// ready before stays then.
    pub fn prewarm_networks(&self, size: usize) -> Result<()> {
        let new = if size == 0 { None } else { Some(Networks::open(size)?) };
        let mut networks = self.pools.networks.write().unwrap_or_else(|e| e.into_inner());
        let old = std::mem::replace(&mut *networks, new);
        drop(networks);
        // Outside of the lock: its thread is joined.
        drop(old);
        Ok(())
    }

    /// How many network namespaces are ready.
    pub fn prewarmed_networks(&self) -> usize {
        let networks = self.pools.networks.read().unwrap_or_else(|e| e.into_inner());
        networks.as_ref().map_or(0, Networks::ready)
    }

    /// Ends what the runtime itself has running: its pools, with their threads, waiting sandboxes and network
    /// namespaces; its virtual machines, which are threads of this process; and its
    /// [`supervisor`](Self::supervisor), with threads and helpers; and the thread of
    /// [resource views](crate::container::ContainerBuilder::resource_views). Containers go on; their intercepted calls fail
    /// with `ENOSYS`, and reads of such views with `ENOTCONN`. When the last clone is dropped the same happens; a handle of a container holds one.
    pub fn close(self) {
        let sandboxes = std::mem::take(&mut *self.pools.sandboxes.write().unwrap_or_else(|e| e.into_inner()));
        let networks = self.pools.networks.write().unwrap_or_else(|e| e.into_inner()).take();
        drop((sandboxes, networks));
        self.inner.notify.close();
        self.inner.views.close();
        #[cfg(feature = "vm")]
        self.inner.end_vms();
    }

    /// For who may outlive it.
    pub(crate) fn downgrade(&self) -> Weak<Inner> {
        Arc::downgrade(&self.inner)
    }

    pub(crate) fn inner(&self) -> &Inner {
        &self.inner
    }

    /// A sandbox for a container of this configuration, where a pool has one.
    pub(crate) fn take_sandbox(&self, config: &ContainerConfig) -> Option<Sandbox> {
        let pools = self.pools.sandboxes.read().unwrap_or_else(|e| e.into_inner());
        pools.iter().find_map(|pool| pool.take(config))
    }

    /// A network namespace, where one is ready.
    pub(crate) fn take_network(&self) -> Option<TakenNetwork> {
        self.pools.networks.read().unwrap_or_else(|e| e.into_inner()).as_ref()?.take()
    }

    /// Remembers a new or renamed container, so that `get` gives the same handle.
    pub(crate) fn remember(&self, id: &InstanceId, container: &Arc<Container>) {
        let mut open = self.inner.open.lock().unwrap_or_else(|e| e.into_inner());
        open.insert(id.clone(), Arc::downgrade(container));
    }

    pub(crate) fn forget(&self, id: &InstanceId) {
        let mut open = self.inner.open.lock().unwrap_or_else(|e| e.into_inner());
        open.remove(id);
    }
}

impl Inner {
    /// What the names of this runtime's cgroups begin with.
    pub(crate) fn cgroup_prefix(&self) -> String {
        format!("stockade-{}-", self.tag)
    }

    /// The name of an instance's cgroup. The colon, which no name has, tells project and name apart.
    pub(crate) fn cgroup_name(&self, id: &InstanceId) -> String {
        format!("{}{}:{}", self.cgroup_prefix(), id.project, id.name)
    }

    /// The ids that this runtime gives to instances. Opened at the first use: a host that maps none needs none.
    pub(crate) fn ranges(&self) -> Result<&RangeAllocator> {
        if let Some(ranges) = self.ranges.get() {
            return Ok(ranges);
        }
        let opened = RangeAllocator::open(&self.state_dir, &self.run_dir)?;
        Ok(self.ranges.get_or_init(|| opened))
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        #[cfg(feature = "vm")]
        self.end_vms();
        self.host.release_cgroup();
    }
}

impl fmt::Debug for Runtime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Runtime")
            .field("state_dir", &self.inner.state_dir)
            .field("run_dir", &self.inner.run_dir)
            .finish_non_exhaustive()
    }
}
