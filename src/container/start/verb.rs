//! The verb: cgroup, records, and the run that comes of it.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use super::{Request, Up, UserNamespace, start};
use crate::cgroup::{Cgroup, CgroupId, Enforce};
use crate::container::config::CgroupConfig;
use crate::container::handle::{Container, Run};
use crate::container::live::{Live, remove_cgroup};
use crate::container::load::identity;
use crate::container::pool::Sandbox;
use crate::container::{ContainerConfig, streams};
use crate::error::{Error, ErrorKind, Result};
use crate::instance::{Pipes, StartOptions};
use crate::name::InstanceId;
use crate::namespaces::{Namespace, NamespaceKind, NamespaceSource, Target};
use crate::op::{Action, Deadline};
use crate::rootfs::Rootfs;
use crate::spawn::{Child, Guests};
use crate::store::{Durability, Place, RunRecord, boot_id};

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
        let started = self.lock.try_begin(Action::Start).and_then(|_guard| self.start_locked(options));
        self.named(Action::Start, started)
    }

    /// As `start_with`, under an action of the caller's.
    pub(in crate::container) fn start_locked(&self, options: StartOptions) -> Result<Pipes> {
        self.settle_if_ended()?;
        match &*self.run() {
            Run::Live(_) => {
                return Err(
                    Error::new(ErrorKind::InvalidState, "start").detail("the container is running already")
                );
            }
            Run::Deleted => return Err(self.gone()),
            Run::Never | Run::Ended { .. } => {}
        }
        let config = self.config();
        let deadline = Deadline::from(options.deadline);
        let (mut sources, mut pipes) = streams::open(options.stdin, options.stdout, options.stderr)?;
        if !config.has_null_device() {
            sources = sources.with_host_null()?;
        }
        let inner = self.runtime.inner();
        // Another runtime may have deleted it.
        if !inner.store.has(&self.id(), config.durability())? {
            return Err(self.gone());
        }
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
        // Nothing may fail between this and the start, which removes it on failure.
        let sandbox = self.sandbox().take().filter(Sandbox::is_alive);
        let (parked, cgroup) = match sandbox {
            Some(mut sandbox) => (sandbox.started.take(), sandbox.cgroup.take()),
            None => (None, self.make_cgroup(&config)?),
        };
        let request = Request {
            host: &inner.host,
            config: &config,
            users: match &id_map {
                Some(map) if !holds_users => UserNamespace::New(map),
                Some(_) => UserNamespace::Joined,
                None if joined_users => UserNamespace::Joined,
                None => UserNamespace::Host,
            },
            groups,
            cgroup: cgroup.as_ref(),
            joins,
            upper,
            runtime_dirs: [&inner.state_dir, &inner.run_dir],
            strategy: inner.host.strategy(),
            deadline,
            cancel: options.cancel,
            fault: options.fault,
        };
        let up = match parked {
            Some(parked) => request.unpark(parked, sources),
            None => start(request, sources),
        };
        let up = up.map_err(|e| inner.host.explain_denied(e)).and_then(|mut up| {
            pipes.seccomp_listener = up.running.listener.take();
            self.record_run(&config, up, cgroup.as_ref(), &guests)
        });
        match up {
            Ok((child, record)) => {
                let started_at = record.started_at;
                *self.run() = Run::Live(Arc::new(Live { child, guests, cgroup, id_map, started_at, record }));
                Ok(pipes)
            }
            Err(e) => Err(match cgroup.as_ref().map(remove_cgroup) {
                Some(Err(also)) => e.also(format!("removing the cgroup failed too: {also}")),
                _ => e,
            }),
        }
    }

    /// Writes down what runs, so that another process finds it. On failure nothing runs.
    fn record_run(
        &self,
        config: &ContainerConfig,
        up: Up,
        cgroup: Option<&Cgroup>,
        guests: &Guests,
    ) -> Result<(Arc<Child>, RunRecord)> {
        let child = Arc::new(up.running.child);
        let written = (|| {
            if matches!(config.namespaces.pid, NamespaceSource::Join(_)) {
                guests.add(&child)?;
            }
            let found = identity(&child)?;
            let record = RunRecord {
                pid: child.id(),
                start_time_ticks: found.start_time_ticks,
                pidfd_inode: found.inode,
                boot_id: boot_id()?.to_owned(),
                cgroup_path: cgroup.map(|cg| cg.path().to_string_lossy().into_owned()),
                cgroup_id: cgroup.map(Cgroup::id).transpose()?.map(CgroupId::get),
                started_at: SystemTime::now(),
                exit: None,
                skipped: up.skipped.iter().map(|s| format!("{}: {}", s.file, s.reason)).collect(),
            };
            self.runtime.inner().store.save_run(&self.id(), config.durability(), &record)?;
            Ok(record)
        })();
        match written {
            Ok(record) => Ok((child, record)),
            Err(e) => {
                child.kill_and_reap();
                Err(e)
            }
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
        let id = self.id();
        format!("stockade-{}-{}-{}", self.runtime.inner().tag, id.project, id.name)
    }

    /// The leaf for this run, fresh and empty.
    fn make_cgroup(&self, config: &ContainerConfig) -> Result<Option<Cgroup>> {
        if config.cgroup == CgroupConfig::None {
            return Ok(None);
        }
        let parent = self.runtime.inner().host.cgroup()?;
        let name = self.cgroup_name();
        let wanted = config.limits.controllers();
        if !wanted.is_empty() {
            let enabled = parent.enabled_controllers()?;
            let available = parent.controllers()?;
            // What the parent has not got is the limits' own error, which says what grants it.
            let missing: Vec<_> =
                wanted.into_iter().filter(|c| !enabled.contains(c) && available.contains(c)).collect();
            if !missing.is_empty()
                && let Err(e) = parent.enable_controllers(&missing)
                && config.enforce == Enforce::Required
            {
                return Err(e);
            }
        }
        match parent.create_child(&name) {
            Err(e) if e.kind() == ErrorKind::AlreadyExists => {
                // Left by a host that died. Only an empty one can be removed: what runs in it is not ours to kill.
                let left = parent.open_child(&name)?;
                if left.populated()? {
                    return Err(e.with_kind(ErrorKind::Busy).detail("processes of an earlier run are in it"));
                }
                left.remove(Deadline::after(std::time::Duration::from_secs(1)).instant())?;
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
