//! Sandboxes that are made before they are needed.
//!
//! A sandbox is a child with its namespaces, its cgroup, its ids and all its mounts, which waits for a name and a
//! program. `create` takes one that fits, `start` tells it what to run: most of a start is done by then. A thread of
//! the pool makes new ones, and nobody waits for it.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use super::config::{CgroupConfig, ContainerConfig};
use super::handle::{id_map_for, new_uuid};
use super::live::remove_cgroup;
use super::start::{Parked, Request, UserNamespace};
use super::stock::{Refill, Stock};
use crate::cgroup::Cgroup;
use crate::error::{Error, ErrorKind, Result};
use crate::idmap::IdMap;
use crate::namespaces::NamespaceSource;
use crate::op::Deadline;
use crate::rootfs::Rootfs;
use crate::runtime::Inner;
use crate::spawn::Hooks;

/// How long one sandbox may take.
const MAKE: Duration = Duration::from_secs(30);
/// A child that waits for its program, with what belongs to it. Dropping it ends the child and removes the rest.
#[derive(Debug)]
pub(crate) struct Sandbox {
    /// Of the container that it becomes: its ids are reserved under that.
    pub(super) uuid: String,
    pub(super) parked: Option<Parked>,
    pub(super) cgroup: Option<Cgroup>,
    pub(super) id_map: Option<IdMap>,
    template: Arc<ContainerConfig>,
    /// Where its ids go back to; nowhere once a container has them.
    owner: Weak<Inner>,
    /// Has the pool that it was taken from make another one, once this one is used.
    refill: Option<Refill>,
}

impl Sandbox {
    fn new(inner: &Arc<Inner>, template: &Arc<ContainerConfig>) -> Result<Self> {
        let uuid = new_uuid(inner);
        let mut sandbox = Self {
            uuid,
            parked: None,
            cgroup: None,
            id_map: None,
            template: Arc::clone(template),
            owner: Arc::downgrade(inner),
            refill: None,
        };
        sandbox.id_map = id_map_for(inner, template, || inner.ranges()?.allocate_ephemeral(&sandbox.uuid))?;
        if sandbox.id_map.as_ref().is_some_and(|map| inner.host.needs_programs(map)) {
            return Err(Error::new(ErrorKind::Unsupported, "make a sandbox")
                .detail("its id map is written by newuidmap(1), for a namespace that containers join")
                .hint("choose IdMapConfig::SingleUser for the template and its containers"));
        }
        if template.cgroup != CgroupConfig::None {
            static COUNT: AtomicU64 = AtomicU64::new(0);
            let n = COUNT.fetch_add(1, Ordering::Relaxed);
            // The token tells whose it is, should this process crash.
            let token = inner.store.between().token();
            let name = format!("{}pool-{token:016x}-{n}", inner.cgroup_prefix());
            sandbox.cgroup = Some(inner.host.cgroup()?.create_child(&name)?);
        }
        let request = Request {
            host: &inner.host,
            config: template,
            uuid: &sandbox.uuid,
            users: sandbox.id_map.as_ref().map_or(UserNamespace::Host, UserNamespace::New),
            groups: inner.host.set_groups(),
            cgroup: sandbox.cgroup.as_ref(),
            v1_groups: false,
            named_owner: None,
            payload: None,
            joins: Vec::new(),
            network: None,
            nics: None,
            views: None,
            upper: None,
            runtime_dirs: [&inner.state_dir, &inner.run_dir] as [&Path; 2],
            strategy: inner.host.strategy(),
            deadline: Deadline::after(MAKE),
            cancel: None,
            hooks: Hooks::default(),
            witness: None,
        };
        sandbox.parked = Some(request.park()?);
        Ok(sandbox)
    }

    /// Says that a container has its ids now, and gives them back itself.
    pub(super) fn adopt(&mut self) {
        self.owner = Weak::new();
    }

    /// Whether it can still become a container of `config`, which may have changed since it was taken.
    pub(super) fn is_fit_for(&self, config: &ContainerConfig) -> bool {
        self.is_alive() && same_sandbox(&self.template, config)
    }

    pub(super) fn is_alive(&self) -> bool {
        self.parked.as_ref().is_some_and(Parked::is_alive)
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        // The child first: nothing can be removed under it. What cannot be removed is found by its name later.
        drop(self.parked.take());
        if let Some(cgroup) = self.cgroup.take() {
            let _ = remove_cgroup(&cgroup);
        }
        if let Some(inner) = self.owner.upgrade()
            && inner.ranges().and_then(|ranges| ranges.release(&self.uuid)).is_err()
        {
            inner.store.between().leave_untidy();
        }
    }
}

/// Sandboxes of one template.
#[derive(Debug)]
pub(crate) struct Pool {
    template: Arc<ContainerConfig>,
    stock: Stock<Sandbox>,
}

impl Pool {
    /// Makes `size` sandboxes and starts the thread that replaces those which are taken.
    pub(crate) fn open(inner: &Arc<Inner>, template: ContainerConfig, size: usize) -> Result<Self> {
        check(&template)?;
        let template = Arc::new(template);
        let (weak, config) = (Arc::downgrade(inner), Arc::clone(&template));
        let make = move || weak.upgrade().map(|inner| Sandbox::new(&inner, &config));
        Ok(Self { stock: Stock::open("stockade-pool", size, make)?, template })
    }

    /// Takes a sandbox for a container of this configuration, if one fits and is ready.
    pub(crate) fn take(&self, config: &ContainerConfig) -> Option<Sandbox> {
        if !same_sandbox(&self.template, config) {
            return None;
        }
        let (mut sandbox, refill) = self.stock.take(Sandbox::is_alive)?;
        sandbox.refill = Some(refill);
        Some(sandbox)
    }

    /// How many are ready.
    pub(crate) fn ready(&self) -> usize {
        self.stock.ready()
    }

    pub(crate) fn is_for(&self, config: &ContainerConfig) -> bool {
        same_sandbox(&self.template, config)
    }
}

/// A template whose sandboxes no container can share in the making.
fn check(template: &ContainerConfig) -> Result<()> {
    let invalid = |why: &str| Err(Error::invalid("pool template", why));
    if template.namespaces.iter().any(|(_, source)| matches!(source, NamespaceSource::Join(_))) {
        return invalid("joins namespaces, which are looked up at each start");
    }
    if template.cgroup == CgroupConfig::Delegated {
        return invalid("has a delegated cgroup, which is for containers that run an init");
    }
    if !template.nics.is_empty() {
        return invalid("has network interfaces, which are made at each start");
    }
    if !template.resource_views.is_empty() {
        return invalid("has resource views, whose file system is made at each start");
    }
    match &template.rootfs {
        Rootfs::Overlay(_) => invalid("has an overlay, whose upper directory belongs to one instance"),
        Rootfs::Dir(_) if !template.read_only_root => {
            invalid("has a writable directory as root, which sandboxes would share: make it read-only")
        }
        _ => Ok(()),
    }
}

/// Whether a container of `config` can run in a sandbox of `template`: all that is settled before the program is
/// known must be the same.
fn same_sandbox(template: &ContainerConfig, config: &ContainerConfig) -> bool {
    let (a, b) = (template, config);
    a.rootfs == b.rootfs
        && a.read_only_root == b.read_only_root
        && a.privilege == b.privilege
        && a.namespaces == b.namespaces
        && a.idmap == b.idmap
        && a.user == b.user
        && a.capabilities() == b.capabilities()
        && a.securebits == b.securebits
        && a.no_new_privs == b.no_new_privs
        && a.keyring == b.keyring
        && a.base_mounts == b.base_mounts
        && a.mounts == b.mounts
        && a.masked_paths == b.masked_paths
        && a.readonly_paths == b.readonly_paths
        && a.propagation == b.propagation
        && a.loopback_down == b.loopback_down
        // Its root has no rights over the network then.
        && (b.nics.is_empty() || !a.loopback_down)
        && a.sysctls == b.sysctls
        && a.cgroup == b.cgroup
        && a.devices() == b.devices()
        && a.enforce == b.enforce
        && a.resource_views == b.resource_views
        && (&a.resolv_conf, &a.hosts, &a.hostname_file) == (&b.resolv_conf, &b.hosts, &b.hostname_file)
}
