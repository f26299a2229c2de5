//! Sandboxes that are made before they are needed.
//!
//! A sandbox is a child with its namespaces, its cgroup, its ids and all its mounts, which waits for a name and a
//! program. `create` takes one that fits, `start` tells it what to run: most of a start is done by then. A thread of
//! the pool makes new ones, and nobody waits for it.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::config::{CgroupConfig, ContainerConfig};
use super::handle::{id_map_for, new_uuid};
use super::live::remove_cgroup;
use super::start::{Request, UserNamespace};
use crate::cgroup::Cgroup;
use crate::error::{Error, ErrorKind, Result};
use crate::idmap::IdMap;
use crate::namespaces::NamespaceSource;
use crate::op::Deadline;
use crate::rootfs::Rootfs;
use crate::runtime::Inner;
use crate::spawn::Started;

/// How long one sandbox may take.
const MAKE: Duration = Duration::from_secs(30);
/// How long after one was taken the thread begins to make another, unless none is left: at once it would get in the
/// way of the very start that took one.
const QUIET: Duration = Duration::from_millis(5);
/// How long the thread rests after a failure.
const REST: Duration = Duration::from_secs(1);

/// A child that waits for its program, with what belongs to it. Dropping it ends the child and removes the rest.
#[derive(Debug)]
pub(crate) struct Sandbox {
    /// Of the container that it becomes: its ids are reserved under that.
    pub(super) uuid: String,
    pub(super) started: Option<Started>,
    pub(super) cgroup: Option<Cgroup>,
    pub(super) id_map: Option<IdMap>,
    /// Where its ids go back to; nowhere once a container has them.
    owner: Weak<Inner>,
}

impl Sandbox {
    fn new(inner: &Arc<Inner>, template: &ContainerConfig) -> Result<Self> {
        let uuid = new_uuid(inner);
        let mut sandbox =
            Self { uuid, started: None, cgroup: None, id_map: None, owner: Arc::downgrade(inner) };
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
            users: sandbox.id_map.as_ref().map_or(UserNamespace::Host, UserNamespace::New),
            groups: inner.host.set_groups(),
            cgroup: sandbox.cgroup.as_ref(),
            payload: None,
            joins: Vec::new(),
            upper: None,
            runtime_dirs: [&inner.state_dir, &inner.run_dir] as [&Path; 2],
            strategy: inner.host.strategy(),
            deadline: Deadline::after(MAKE),
            cancel: None,
            fault: None,
            witness: None,
        };
        let started = request.park()?;
        sandbox.started = Some(started);
        Ok(sandbox)
    }

    /// Says that a container has its ids now, and gives them back itself.
    pub(super) fn adopt(&mut self) {
        self.owner = Weak::new();
    }

    pub(super) fn is_alive(&self) -> bool {
        self.started.as_ref().is_some_and(Started::is_alive)
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        // The child first: nothing can be removed under it. What cannot be removed is found by its name later.
        drop(self.started.take());
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
    template: ContainerConfig,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    ready: VecDeque<Sandbox>,
    size: usize,
    taken: Option<Instant>,
    closing: bool,
}

impl State {
    /// How long until another one is to be made: `None` for not before something changes.
    fn due(&self) -> Option<Duration> {
        if self.ready.len() >= self.size {
            return None;
        }
        match self.taken {
            Some(taken) if !self.ready.is_empty() => Some(QUIET.saturating_sub(taken.elapsed())),
            _ => Some(Duration::ZERO),
        }
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|e| e.into_inner())
    }
}

impl Pool {
    /// Makes `size` sandboxes and starts the thread that replaces those which are taken.
    pub(crate) fn open(inner: &Arc<Inner>, template: ContainerConfig, size: usize) -> Result<Self> {
        check(&template)?;
        let ready = (0..size).map(|_| Sandbox::new(inner, &template)).collect::<Result<VecDeque<_>>>()?;
        let shared = Arc::new(Shared {
            state: Mutex::new(State { ready, size, ..State::default() }),
            ..Shared::default()
        });
        let (pool, weak, config) = (Arc::clone(&shared), Arc::downgrade(inner), template.clone());
        let thread = std::thread::Builder::new()
            .name("stockade-pool".to_owned())
            .spawn(move || refill(&pool, &weak, &config))
            .map_err(|e| Error::io("start the pool's thread", e))?;
        Ok(Self { template, shared, thread: Some(thread) })
    }

    /// Takes a sandbox for a container of this configuration, if one fits and is ready.
    pub(crate) fn take(&self, config: &ContainerConfig) -> Option<Sandbox> {
        if !same_sandbox(&self.template, config) {
            return None;
        }
        let mut state = self.shared.state();
        let mut dead = Vec::new();
        let taken = loop {
            match state.ready.pop_front() {
                Some(sandbox) if sandbox.is_alive() => break Some(sandbox),
                Some(sandbox) => dead.push(sandbox),
                None => break None,
            }
        };
        state.taken = Some(Instant::now());
        drop(state);
        self.shared.changed.notify_all();
        taken
    }

    /// How many are ready.
    pub(crate) fn ready(&self) -> usize {
        self.shared.state().ready.len()
    }

    pub(crate) fn is_for(&self, config: &ContainerConfig) -> bool {
        same_sandbox(&self.template, config)
    }

    /// Gives up its sandboxes and ends its thread. Says whose ids have to go back, where the runtime is at its end.
    pub(crate) fn close(&mut self) -> Vec<String> {
        let ready = {
            let mut state = self.shared.state();
            state.closing = true;
            std::mem::take(&mut state.ready)
        };
        self.shared.changed.notify_all();
        let uuids = ready.iter().map(|sandbox| sandbox.uuid.clone()).collect();
        drop(ready);
        if let Some(thread) = self.thread.take()
            // The last user of the runtime may have been the thread itself.
            && thread.thread().id() != std::thread::current().id()
        {
            let _ = thread.join();
        }
        uuids
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.close();
    }
}

/// The thread: makes what is missing until the pool or the runtime is gone.
fn refill(pool: &Shared, inner: &Weak<Inner>, template: &ContainerConfig) {
    let mut rest = None;
    loop {
        let mut state = pool.state();
        if let Some(rest) = rest.take() {
            let woken = pool.changed.wait_timeout(state, rest);
            state = woken.unwrap_or_else(|e| e.into_inner()).0;
        }
        while !state.closing {
            state = match state.due() {
                Some(Duration::ZERO) => break,
                Some(left) => pool.changed.wait_timeout(state, left).unwrap_or_else(|e| e.into_inner()).0,
                None => pool.changed.wait(state).unwrap_or_else(|e| e.into_inner()),
            };
        }
        if state.closing {
            return;
        }
        drop(state);
        let Some(inner) = inner.upgrade() else { return };
        match Sandbox::new(&inner, template) {
            Ok(sandbox) => {
                let mut state = pool.state();
                if state.closing {
                    drop(state);
                    return;
                }
                state.ready.push_back(sandbox);
            }
            // A start without a sandbox meets the same failure, and tells of it.
            Err(_) => rest = Some(REST),
        }
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
        && a.base_mounts == b.base_mounts
        && a.mounts == b.mounts
        && a.masked_paths == b.masked_paths
        && a.readonly_paths == b.readonly_paths
        && a.propagation == b.propagation
        && a.loopback_down == b.loopback_down
        && a.sysctls == b.sysctls
        && a.cgroup == b.cgroup
        && (&a.resolv_conf, &a.hosts, &a.hostname_file) == (&b.resolv_conf, &b.hosts, &b.hostname_file)
}
