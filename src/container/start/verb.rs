//! The verb: cgroup, records, and the run that comes of it.

use std::cell::RefCell;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use super::{Request, Up, UserNamespace, Witness, start};
use crate::cgroup::{Cgroup, Enforce, Skipped};
use crate::container::config::CgroupConfig;
use crate::container::console::Wanted;
use crate::container::handle::{Container, Run};
use crate::container::intercept::Watched;
use crate::container::live::{Live, remove_cgroup};
use crate::container::load::identity;
use crate::container::{ContainerConfig, nics, payload, streams};
use crate::error::{Error, ErrorKind, Result};
use crate::idmap::IdMap;
use crate::instance::{Pipes, StartOptions};
use crate::name::InstanceId;
use crate::namespaces::{Namespace, NamespaceKind, NamespaceSource, Target};
use crate::op::{Action, Cancel, Deadline};
use crate::rootfs::Rootfs;
use crate::spawn::{Child, Guests};
use crate::store::{Durability, Place, RunRecord, boot_id};

/// How long it may take to remove the network interfaces of a start that has failed.
const UNDO: Duration = Duration::from_secs(10);

impl Container {
    /// Starts it with default options.
    ///
    /// # Errors
    /// As [`start_with`](Self::start_with).
    pub fn start(&self) -> Result<()> {
        self.start_with(StartOptions::default()).map(drop)
    }

    /// Starts it; see [`Instance::start_with`](crate::instance::Instance::start_with).
    ///
    /// Blocks until the program runs: about 1.5 ms, of which the kernel takes most.
    ///
    /// # Errors
    /// As there.
    pub fn start_with(&self, options: StartOptions) -> Result<Pipes> {
        let started = self.begin(Action::Start).and_then(|_guard| self.start_locked(options));
        self.named(Action::Start, started)
    }

    /// As `start_with`, under an action of the caller's.
    pub(in crate::container) fn start_locked(&self, options: StartOptions) -> Result<Pipes> {
        self.start_following(options, Vec::new())
    }

    /// As `start_locked`, after reboots of its own at these times.
    pub(in crate::container) fn start_following(
        &self,
        options: StartOptions,
        reboots: Vec<u64>,
    ) -> Result<Pipes> {
        let config = self.to_be_started()?;
        let prepared_views = self.prepare_views(&config)?;
        self.enable_controllers(&config)?;
        let deadline = Deadline::from(options.deadline);
        let hooks = options.hooks();
        let cancel = options.cancel;
        let (mut sources, mut pipes) = streams::open(options.stdin, options.stdout, options.stderr)?;
        if !config.may_open_null() {
            sources = sources.with_host_null()?;
        }
        let inner = self.runtime.inner();
        let mut joins = config.namespaces.open_joins(|id, kind| self.namespace_of(id, kind))?;
        let id_map = self.id_map()?;
        let mut groups = inner.host.set_groups();
        // First of all: what gives an ordinary user the right to join any other.
        let held = id_map.as_ref().filter(|map| inner.host.needs_programs(map));
        let held = held.map(|map| inner.held.get(&inner.host, map, deadline)).transpose()?;
        let holds_users = held.is_some();
        if let Some(held) = held {
            groups = held.set_groups;
            joins.insert(0, held.namespace);
        }
        sources.belong_to(&config.user, &config, id_map.as_ref())?;
        let joined_users = joins.iter().any(|ns| ns.kind() == NamespaceKind::User);
        let guests = self.guests(&config)?;
        let upper = self.upper_dir(&config)?;
        let planned = nics::plan(&inner.host, &config, &self.uuid, deadline)?;
        let host_links = planned.as_ref().map(nics::Planned::host_names).unwrap_or_default();
        let planned = planned.map(RefCell::new);
        // Nothing may fail between this and the start, which removes it on failure.
        let mut sandbox = self.sandbox().take().filter(|sandbox| sandbox.is_fit_for(&config));
        let (parked, cgroup) = match &mut sandbox {
            Some(sandbox) => (sandbox.parked.take(), sandbox.cgroup.take()),
            None => (None, self.make_cgroup(&config)?),
        };
        let delegated = cgroup.as_ref().filter(|_| config.cgroup == CgroupConfig::Delegated);
        let payload = delegated.map(|leaf| payload::make(leaf, &config, id_map.as_ref())).transpose();
        let (payload, views) = match payload
            .and_then(|payload| Ok((payload, self.mount_views(&config, prepared_views, cgroup.as_ref())?)))
        {
            Ok(made) => made,
            Err(e) => {
                return Err(match cgroup.as_ref().map_or(Ok(()), remove_cgroup) {
                    Ok(()) => e,
                    Err(also) => e.also(format!("removing the cgroup failed too: {also}")),
                });
            }
        };
        // What cannot be read now is not there for the limits either, whose error says so.
        let needs_v1 = |leaf: &Cgroup| leaf.needs_v1_groups(&config.limits).unwrap_or(false);
        let v1_groups = parked.is_none() && cgroup.as_ref().is_some_and(needs_v1);
        let named = |leaf: &&Cgroup| config.system.is_some() && payload.is_some() && leaf.has_v1_named();
        let named_owner = cgroup.as_ref().filter(named).and_then(|_| payload::owner(id_map.as_ref()).ok());
        let users = match &id_map {
            Some(map) if !holds_users => UserNamespace::New(map),
            Some(_) => UserNamespace::Joined,
            None if joined_users => UserNamespace::Joined,
            None => UserNamespace::Host,
        };
        let fits = parked.is_none()
            && joins.is_empty()
            && matches!(users, UserNamespace::Host)
            && config.namespaces.is_new(NamespaceKind::Net);
        let network = if fits { self.runtime.take_network() } else { None };
        let noted = Noted {
            container: self,
            cgroup: cgroup.as_ref(),
            host_links,
            reboots,
            record: RefCell::default(),
        };
        let request = Request {
            host: &inner.host,
            config: &config,
            uuid: &self.uuid,
            users,
            groups,
            cgroup: cgroup.as_ref(),
            v1_groups,
            named_owner,
            payload: payload.as_ref(),
            joins,
            network: network.as_ref().map(|taken| &taken.namespace),
            nics: planned.as_ref(),
            views: views.as_ref(),
            upper,
            runtime_dirs: [&inner.state_dir, &inner.run_dir],
            strategy: inner.host.strategy(),
            deadline,
            cancel: cancel.clone(),
            hooks,
            witness: Some(&noted),
        };
        let up = match parked {
            Some(parked) => request.unpark(parked, sources),
            None => start(request, sources),
        };
        // Their pools make others from here on.
        drop((sandbox, network, views));
        let ours = Ours { cgroup: cgroup.as_ref(), id_map: id_map.as_ref(), guests: &guests };
        let up = up
            .map_err(|e| inner.host.explain_denied(e))
            .and_then(|up| self.attend(&config, up, &ours, deadline, cancel.as_ref()));
        let record = noted.record.take();
        match (up, record) {
            (Ok(Attended { child, keeper, listener }), Some(record)) => {
                pipes.seccomp_listener = listener;
                let started_at = record.started_at;
                let skipped = std::sync::Mutex::default();
                let live = Live { child, guests, cgroup, keeper, id_map, started_at, record, skipped };
                *self.run() = Run::Live(Arc::new(live));
                if config.allots_cpus() {
                    self.runtime.settle_cpus();
                }
                Ok(pipes)
            }
            (Ok(attended), None) => {
                attended.child.kill_and_reap();
                Err(Error::new(ErrorKind::Died, "write down the run"))
            }
            (Err(e), record) => Err(self.undo_start(e, &noted, record.is_some())),
        }
    }

    /// Does what a program that has begun to run needs of this process; where that fails, ends it.
    fn attend(
        &self,
        config: &Arc<ContainerConfig>,
        mut up: Up,
        ours: &Ours<'_>,
        deadline: Deadline,
        cancel: Option<&Cancel>,
    ) -> Result<Attended> {
        let listener = up.running.listener.take();
        let terminals = std::mem::take(&mut up.running.terminals);
        let child = known(config, up, ours.guests)?;
        let attended = self.answer(config, listener, &child, ours).and_then(|listener| {
            let keeper = match ours.cgroup.filter(|_| !terminals.is_empty()) {
                Some(leaf) => {
                    Some(self.keep_terminals(Wanted { leaf, first: &child, terminals, deadline, cancel })?)
                }
                None => None,
            };
            Ok((keeper, listener))
        });
        match attended {
            Ok((keeper, listener)) => Ok(Attended { child, keeper, listener }),
            Err(e) => {
                child.kill_and_reap();
                Err(e)
            }
        }
    }

    /// Has the supervisor answer what comes from `listener`, or gives it back where the caller is to do that.
    fn answer(
        &self,
        config: &Arc<ContainerConfig>,
        listener: Option<OwnedFd>,
        child: &Arc<Child>,
        ours: &Ours<'_>,
    ) -> Result<Option<OwnedFd>> {
        if !self.is_supervised(config) {
            return Ok(listener);
        }
        let Some(listener) = listener else { return Ok(None) };
        let Ours { cgroup, id_map, guests } = *ours;
        let watched = Watched { child, id_map, cgroup, guests, started_at: SystemTime::now() };
        self.watch(config, listener, &watched).map(|()| None)
    }

    /// Takes back what a start that has failed has made; `e` says why it has.
    fn undo_start(&self, e: Error, noted: &Noted<'_>, is_noted: bool) -> Error {
        let links = nics::remove(&noted.host_links, &self.uuid, Deadline::after(UNDO));
        self.runtime.inner().end_views(&self.uuid);
        let removed = noted.cgroup.map_or(Ok(()), remove_cgroup);
        let cleared = if is_noted { self.forget_run() } else { Ok(()) };
        let also = |e: Error, what: &str, done: Result<()>| match done {
            Err(also) => e.also(format!("{what} failed too: {also}")),
            Ok(()) => e,
        };
        let e = also(e, "removing the network interfaces", links);
        also(also(e, "removing the cgroup", removed), "removing the record of the run", cleared)
    }

    /// What is to be started now, once everything says that it may be.
    fn to_be_started(&self) -> Result<Arc<ContainerConfig>> {
        // Of a new one nobody else can have begun a run; if somebody has, the claim on the record of this run tells.
        let fresh = self.fresh.swap(false, Ordering::Relaxed);
        if !fresh {
            self.settle_if_ended()?;
        }
        match &*self.run() {
            Run::Live(_) => return Err(running_already()),
            Run::Deleted => return Err(self.gone()),
            Run::Never | Run::Ended { .. } => {}
        }
        // Another runtime may have deleted or changed it. Of a new ephemeral one the record of its run tells, which is
        // in the same directory.
        if !fresh || self.config().durability() == Durability::Durable {
            self.refresh()?;
        }
        let mut config = self.config();
        if config.allots_cpus() {
            config = Arc::new(self.runtime.with_cpus(&self.id(), &config, None)?);
        }
        config.limits.check_host()?;
        self.check_interception(&config)?;
        Ok(config)
    }

    /// Puts back what was known of the run before, as the start has failed.
    fn forget_run(&self) -> Result<()> {
        let store = &self.runtime.inner().store;
        match *self.run() {
            Run::Ended { exit, started_at, .. } => {
                let record = RunRecord {
                    pid: 0,
                    start_time_ticks: None,
                    pidfd_inode: None,
                    boot_id: boot_id()?.to_owned(),
                    cgroup_path: None,
                    cgroup_id: None,
                    started_at,
                    exit: Some(exit),
                    skipped: Vec::new(),
                    host_links: Vec::new(),
                    updating: false,
                    reboots: Vec::new(),
                    stays: true,
                };
                store.save_run(&self.id(), self.config().durability(), &record)
            }
            _ => store.clear_run(&self.id()),
        }
    }

    /// The processes of this one in the pid namespace of the run: those of the container whose it is, or none yet.
    fn guests(&self, config: &ContainerConfig) -> Result<Arc<Guests>> {
        match &config.namespaces.pid {
            NamespaceSource::Join(Target::Instance(id)) => {
                Ok(Arc::clone(&self.runtime.container(id)?.live()?.guests))
            }
            _ => Ok(Arc::default()),
        }
    }

    /// A namespace of another container, which must be running.
    fn namespace_of(&self, id: &InstanceId, kind: NamespaceKind) -> Result<Namespace> {
        let other = self.runtime.container(id)?;
        other.namespace(kind).map_err(|e| e.hint("start it before those that share with it"))
    }

    /// The name of the leaf, the same in every run.
    pub(in crate::container) fn cgroup_name(&self) -> String {
        self.runtime.inner().cgroup_name(&self.id())
    }

    /// The leaf for this run, fresh and empty.
    fn make_cgroup(&self, config: &ContainerConfig) -> Result<Option<Cgroup>> {
        if config.cgroup == CgroupConfig::None {
            return Ok(None);
        }
        let inner = self.runtime.inner();
        let parent = inner.host.cgroup()?;
        let name = self.cgroup_name();
        if config.cgroup == CgroupConfig::Delegated
            && let Err(e) = self.enable_for_payload()
            && config.enforce == Enforce::Required
        {
            return Err(e);
        }
        match parent.create_child(&name) {
            Err(e) if e.kind() == ErrorKind::AlreadyExists => {
                // Another runtime's run, or left by a host that died. What runs in it without a record is ended: nobody
                // knows how far its start came.
                self.settle_if_ended()?;
                if matches!(*self.run(), Run::Live(_)) {
                    return Err(running_already());
                }
                match parent.open_child(&name) {
                    Ok(left) => remove_cgroup(&left)?,
                    // Gone with the run that has just been settled.
                    Err(gone) if gone.kind() == ErrorKind::NotFound => {}
                    Err(_) => return Err(e),
                }
                parent.create_child(&name).map(Some)
            }
            Err(e) if e.kind() == ErrorKind::PermissionDenied => {
                Err(e.also("a container without limits can go without: CgroupConfig::None"))
            }
            other => other.map(Some),
        }
    }

    /// The instance's own directory for an overlay's changes, made at the first start.
    fn upper_dir(&self, config: &ContainerConfig) -> Result<Option<PathBuf>> {
        let Rootfs::Overlay(overlay) = &config.rootfs else { return Ok(None) };
        if overlay.upper_dir().is_some() {
            return Ok(None);
        }
        let place = match config.durability() {
            Durability::Durable => Place::State,
            Durability::Ephemeral => Place::Run,
        };
        let dir = self.runtime.inner().store.instance_path(&self.id(), place)?.join("rootfs");
        match rustix::fs::mkdir(&dir, rustix::fs::Mode::from_raw_mode(0o700)) {
            Ok(()) | Err(rustix::io::Errno::EXIST) => Ok(Some(dir)),
            Err(rustix::io::Errno::NOENT) => Err(self.gone()),
            Err(errno) => {
                let e = Error::sys("make the directory for changes", errno).path(dir);
                Err(if e.kind() == ErrorKind::Exhausted {
                    e.hint("free space on its file system")
                } else {
                    e
                })
            }
        }
    }
}

fn running_already() -> Error {
    Error::new(ErrorKind::InvalidState, "start").detail("the container is running already")
}

/// The child of a start that has succeeded. One in a pid namespace of others has to be reaped with them.
fn known(config: &ContainerConfig, up: Up, guests: &Guests) -> Result<Arc<Child>> {
    let child = Arc::new(up.running.child);
    if matches!(config.namespaces.pid, NamespaceSource::Join(_))
        && let Err(e) = guests.add(&child)
    {
        child.kill_and_reap();
        return Err(e);
    }
    Ok(child)
}

/// What a run has that others work with too.
struct Ours<'a> {
    cgroup: Option<&'a Cgroup>,
    id_map: Option<&'a IdMap>,
    guests: &'a Arc<Guests>,
}

/// A program that runs and has what it needs of this process.
struct Attended {
    child: Arc<Child>,
    keeper: Option<Child>,
    /// Where the caller is to answer its calls.
    listener: Option<OwnedFd>,
}

/// Writes the record of the run, so that another process finds it.
#[derive(Debug)]
struct Noted<'a> {
    container: &'a Container,
    cgroup: Option<&'a Cgroup>,
    /// The host's ends of the network interfaces that will be made.
    host_links: Vec<String>,
    reboots: Vec<u64>,
    /// What was written.
    record: RefCell<Option<RunRecord>>,
}

impl Witness for Noted<'_> {
    fn note(&self, child: &Child, skipped: &[Skipped]) -> Result<()> {
        let found = identity(child)?;
        let record = RunRecord {
            pid: child.id(),
            start_time_ticks: found.start_time_ticks,
            pidfd_inode: found.inode,
            boot_id: boot_id()?.to_owned(),
            cgroup_path: self.cgroup.map(|cg| cg.path().to_string_lossy().into_owned()),
            cgroup_id: None,
            started_at: SystemTime::now(),
            exit: None,
            skipped: skipped.iter().map(ToString::to_string).collect(),
            host_links: self.host_links.clone(),
            updating: false,
            reboots: self.reboots.clone(),
            stays: false,
        };
        let c = self.container;
        let (id, durability) = (c.id(), c.config().durability());
        let store = &c.runtime.inner().store;
        let gone = |e: Error| if e.kind() == ErrorKind::NotFound { c.gone() } else { e };
        if !store.note_run(&id, durability, &record).map_err(gone)? {
            // Of an earlier run, as a rule. Of a new container it may be another runtime's, which was faster.
            c.settle_if_ended()?;
            if matches!(*c.run(), Run::Live(_)) {
                return Err(running_already());
            }
            store.save_run(&id, durability, &record).map_err(gone)?;
        }
        *self.record.borrow_mut() = Some(record);
        Ok(())
    }
}
