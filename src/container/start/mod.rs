//! Starting a container: what the host does around the child. The child's part is in [`plan`].
//!
//! ```text
//! host                                                    child
//!   clone3(NEW*, cgroup)                                    executes stage-2, waits for its plan
//!   write id maps, limits; detach trees, id-mapped ones     .
//!   send the plan                                           runs it
//!   wait for the marker and for end of file
//!
//! shared namespaces (pods):
//!   clone3 plain; send the plan                             setns, clone3(NEW*, cgroup), waits at the barrier
//!   write id maps, limits; open the barrier                 goes on
//! ```
//! Host and child go on at the same time after clone3. A limit that can kill, and `oom_score_adj`, would reach the host
//! through the memory that they share: they are written only once the child has memory of its own.

mod descriptors;
mod host;
mod park;
mod plan;
mod root;
#[cfg(test)]
mod tests;
mod verb;

use std::cell::RefCell;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use rustix::process::Pid;

use self::descriptors::Descriptors;
pub(super) use self::park::Parked;
use self::plan::{Parts, Users};
use super::config::{ContainerConfig, EtcFile, Network};
use super::devices;
use super::nics;
use super::streams::Sources;
use super::tail::{Settings, Tail};
use crate::caps::{CapSet, Capability};
use crate::cgroup::{Cgroup, Skipped};
use crate::error::{Error, ErrorKind, Result};
use crate::idmap::{self, IdMap, InnerGid, SetGroups};
use crate::namespaces::{Namespace, NamespaceKind};
use crate::op::{Cancel, Deadline};
use crate::process::{Resource, SessionKeyring};
use crate::rootfs::Rootfs;
use crate::runtime::Host;
use crate::spawn::{Child, Hooks, KernelFs, Plan, Running, Spec, Started, Strategy, launch};

/// Group `tty`, who owns terminals.
const TTY: InnerGid = InnerGid::new(5);

/// Everything that a start needs to know.
#[derive(Debug)]
pub(super) struct Request<'a> {
    pub(super) host: &'a Host,
    pub(super) config: &'a ContainerConfig,
    /// Names the instance for ever.
    pub(super) uuid: &'a str,
    pub(super) users: UserNamespace<'a>,
    /// Whether supplementary groups can be set in it.
    pub(super) groups: SetGroups,
    /// Fresh and empty.
    pub(super) cgroup: Option<&'a Cgroup>,
    /// Its limits will need v1 groups too.
    pub(super) v1_groups: bool,
    /// It gets a v1 group in systemd's hierarchy too, and this user has it.
    pub(super) named_owner: Option<(u32, u32)>,
    /// The cgroup below that for the container's processes, where it is not the same.
    pub(super) payload: Option<&'a Cgroup>,
    /// The namespaces to join, in that order.
    pub(super) joins: Vec<Namespace>,
    /// A fresh network namespace for this container alone, in place of one that clone3 makes. Without any to join.
    pub(super) network: Option<&'a Namespace>,
    /// What was planned for its network interfaces, where it has any.
    pub(super) nics: Option<&'a RefCell<nics::Planned<'a>>>,
    /// The mount of its resource views, where it has any.
    pub(super) views: Option<&'a OwnedFd>,
    /// The instance's own directory for an overlay's changes.
    pub(super) upper: Option<PathBuf>,
    /// Directories of the runtime, hidden from a container of the host's own files.
    pub(super) runtime_dirs: [&'a Path; 2],
    pub(super) strategy: Strategy<'a>,
    pub(super) deadline: Deadline,
    pub(super) cancel: Option<Cancel>,
    pub(super) hooks: Hooks,
    /// Who is told of the child before it gets its plan.
    pub(super) witness: Option<&'a dyn Witness>,
}

/// Writes down what a start has made, so that it is found should this process die. Called while the child waits: it
/// ends with this process until then, and is known from then on.
pub(super) trait Witness: std::fmt::Debug {
    /// `skipped` are the limits that were not set. On failure the child is ended.
    fn note(&self, child: &Child, skipped: &[Skipped]) -> Result<()>;
}

/// Which user namespace the container gets.
#[derive(Clone, Copy, Debug)]
pub(super) enum UserNamespace<'a> {
    /// The host's: it is privileged.
    Host,
    /// A new one with this map.
    New(&'a IdMap),
    /// One of those to be joined: another's, or one that the runtime holds.
    Joined,
}

/// A container that runs.
#[derive(Debug)]
pub(super) struct Up {
    pub(super) running: Running,
}

/// Starts the container's first process. On failure nothing of it is left but the cgroup, which is the caller's.
pub(super) fn start(request: Request<'_>, streams: Sources) -> Result<Up> {
    if request.joins.is_empty() { request.start_alone(streams) } else { request.start_joined(streams) }
}

impl Request<'_> {
    fn start_alone(&self, streams: Sources) -> Result<Up> {
        let (mut plan, fds) = self.plan_alone(streams)?;
        let spec = Spec {
            strategy: self.strategy,
            namespaces: self.clone_flags(),
            cgroup: self.born_in().map(AsFd::as_fd),
            ambient: self.ambient(),
            own_memory_first: self.wants_own_memory(),
        };
        let mut started = self.launch(&spec, &plan)?;
        let settled = self.settle(&started, &fds);
        let (userns, skipped) = started.or_its_own(&plan, settled)?;
        let made = fds.make(userns.as_ref().map(AsFd::as_fd))?;
        self.note(&started, &skipped)?;
        let sent = started.send(&mut plan, &borrow(&made));
        started.or_its_own(&plan, sent)?;
        self.connect(&mut started, &plan)?;
        self.finish(started, &plan)
    }

    /// With namespaces of others: stage-2 joins them in a process of its own and clones the container's from there,
    /// so that no process with the host's memory is ever among theirs.
    fn start_joined(&self, streams: Sources) -> Result<Up> {
        let joins = &self.joins;
        let joined_users = joins.iter().find(|ns| ns.kind() == NamespaceKind::User);
        let joined_users = joined_users.map(|ns| ns.as_fd().try_clone_to_owned()).transpose().map_err(dup)?;
        let mut first = Vec::with_capacity(joins.len() + 1);
        for ns in joins {
            first.push(ns.as_fd());
        }
        first.extend(self.born_in().map(AsFd::as_fd));
        let (mut plan, fds) = self.plan_joined(streams, joins)?;

        let spec = Spec {
            strategy: self.strategy,
            namespaces: 0,
            cgroup: None,
            ambient: 0,
            own_memory_first: false,
        };
        let mut started = launch(&spec)?;
        let sent = started.send(&mut plan, &first);
        started.or_its_own(&plan, sent)?;
        started.wait_sibling(&plan, self.deadline, self.cancel.as_ref()).map_err(explain_oom_score)?;
        let settled = self.settle(&started, &fds);
        let (userns, skipped) = started.or_its_own(&plan, settled)?;
        let made = fds.make(userns.as_ref().or(joined_users.as_ref()).map(AsFd::as_fd))?;
        self.note(&started, &skipped)?;
        let gone_on = started.go(&borrow(&made));
        started.or_its_own(&plan, gone_on)?;
        self.connect(&mut started, &plan)?;
        self.finish(started, &plan)
    }

    /// Makes the network interfaces while the child works, and lets it go on.
    fn connect(&self, started: &mut Started, plan: &Plan) -> Result<()> {
        let Some(nics) = self.nics else { return Ok(()) };
        let inside = started.wait_network(plan, self.deadline, self.cancel.as_ref())?;
        let attached = nics.borrow_mut().attach(inside, self.deadline).and_then(|()| started.go(&[]));
        started.or_its_own(plan, attached)
    }

    /// Makes the child, from the spawner thread where there is one and the plan opens nothing of the host by path.
    fn launch(&self, spec: &Spec<'_>, plan: &Plan) -> Result<Started> {
        match self.host.spawner() {
            Some(spawner) if !plan.opens_host_paths() => spawner.launch(spec),
            _ => launch(spec),
        }
    }

    /// The plan where all namespaces are new or the host's; the descriptors come with it.
    fn plan_alone(&self, streams: Sources) -> Result<(Plan, Descriptors)> {
        let mut fds = Descriptors::from_slot(0);
        let network =
            self.network.map(|ns| fds.ready(ns.as_fd().try_clone_to_owned().map_err(dup)?)).transpose()?;
        let parts = self.parts(&mut fds, streams)?;
        let mut plan = Plan::new(fds.len());
        if let Some(network) = network {
            plan.setns("enter the prewarmed network namespace", network, NamespaceKind::Net.clone_flag());
        }
        self.assemble(&mut plan, &parts);
        Ok((plan, fds))
    }

    /// The plan that joins namespaces first. These come with it, then the cgroup; the descriptors with the barrier.
    fn plan_joined(&self, streams: Sources, joins: &[Namespace]) -> Result<(Plan, Descriptors)> {
        let first = joins.len() as u8 + u8::from(self.cgroup.is_some());
        let mut fds = Descriptors::from_slot(first);
        let parts = self.parts(&mut fds, streams)?;
        let mut plan = Plan::new(first);
        // Before it hides itself, which makes its files in proc root's.
        if let Some(value) = self.config.oom_score_adj {
            let value = value.get().to_string();
            plan.enter_kernel(KernelFs::Proc);
            plan.write_proc(OOM_SCORE, "/proc/self/oom_score_adj", value.as_bytes());
        }
        plan.prctl("hide this process's memory", libc::PR_SET_DUMPABLE, 0);
        // Where cgroup2 is mounted with `nsdelegate`, as systemd does, nobody inside a cgroup namespace can put a
        // process into a cgroup outside of it: so that one is joined after the clone. Root of a new user namespace
        // has no right to.
        let late = |ns: &Namespace| {
            ns.kind() == NamespaceKind::Cgroup && self.cgroup.is_some() && !self.has_new_users()
        };
        let join = |plan: &mut Plan, wanted: bool| {
            for (slot, ns) in (0..).zip(joins).filter(|(_, ns)| late(ns) == wanted) {
                plan.setns(join_step(ns.kind()), crate::spawn::Fd::Slot(slot), ns.kind().clone_flag());
            }
        };
        join(&mut plan, false);
        let cgroup = self.cgroup.map(|_| crate::spawn::Fd::Slot(joins.len() as u8));
        plan.clone_sibling(self.clone_flags(), cgroup, self.strategy.is_fork());
        join(&mut plan, true);
        plan.barrier(fds.len());
        self.assemble(&mut plan, &parts);
        Ok((plan, fds))
    }

    /// The cgroup that the first process is born in.
    fn born_in(&self) -> Option<&Cgroup> {
        self.payload.or(self.cgroup)
    }

    fn note(&self, started: &Started, skipped: &[Skipped]) -> Result<()> {
        self.witness.map_or(Ok(()), |witness| witness.note(started.child()?, skipped))
    }

    fn finish(&self, started: Started, plan: &Plan) -> Result<Up> {
        let running = started.wait_exec(plan, self.deadline, self.cancel.as_ref())?;
        Ok(Up { running })
    }

    /// What the plan is made of. Opens directories of the host and changes nothing.
    fn parts(&self, fds: &mut Descriptors, streams: Sources) -> Result<Parts> {
        let root = self.root(fds)?;
        let mounts = self.own_mounts(fds)?;
        let views = self.views.map(|fd| fds.ready(fd.try_clone().map_err(dup)?)).transpose()?;
        let streams = streams.hand_over(|fd| fds.ready(fd))?;
        let users = self.users_inside();
        let etc = [
            ("resolv.conf", &self.config.resolv_conf),
            ("hosts", &self.config.hosts),
            ("hostname", &self.config.hostname_file),
        ];
        let etc = etc.into_iter().filter_map(|(name, file)| match file {
            EtcFile::Content(text) => Some((name, text.clone().into_bytes())),
            _ => None,
        });
        // A single id may be mapped by root too: of a namespace that has no range to give away.
        let has_tty = |map: &IdMap| map.gid_to_host(TTY).is_some();
        let tty_group =
            users != Users::Single && !matches!(self.users, UserNamespace::New(map) if !has_tty(map));
        Ok(Parts {
            users,
            tty_group,
            root,
            mounts,
            views,
            hidden: self.hidden(),
            etc: etc.collect(),
            streams,
            tail: self.tail(users)?,
            keyring: self.config.keyring == SessionKeyring::Own && self.host.has_keyrings(),
            cgroup2: self.host.has_cgroup2(),
            cgroup_namespace_late: self.cgroup_namespace_late(),
            boot_id: if self.config.system.is_some() { new_boot_id()? } else { String::new() },
            machine_id: self.uuid.to_owned(),
        })
    }

    fn users_inside(&self) -> Users {
        match self.users {
            UserNamespace::Host => Users::Host,
            _ if self.groups == SetGroups::Allow => Users::Mapped,
            _ => Users::Single,
        }
    }

    fn assemble(&self, plan: &mut Plan, parts: &Parts) {
        plan::build(plan, self.config, parts);
        self.hooks.apply(plan);
    }

    fn tail(&self, users: Users) -> Result<Tail> {
        let held = match users {
            Users::Host => self.host.permitted(),
            // Executing stage-2 kept the ambient ones alone.
            _ if self.ambient() != 0 => CapSet::from_bits_truncate(self.ambient()),
            _ => CapSet::ALL,
        };
        let mut tail = Settings::of(self.config).tail(self.host, held)?;
        tail.listens = true;
        tail.console = self.config.system.is_some();
        // Executing stage-2 puts back the stack limit that it found, over what the host has set meanwhile.
        let own = |resource: &Resource| self.sets_own_rlimits() || *resource == Resource::Stack;
        let limits = self.config.rlimits.iter().filter(|(resource, _)| own(resource));
        tail.rlimits = limits.map(|(resource, limit)| (*resource, *limit)).collect();
        Ok(tail)
    }

    pub(super) fn has_user_namespace(&self) -> bool {
        !matches!(self.users, UserNamespace::Host)
    }

    fn has_new_users(&self) -> bool {
        matches!(self.users, UserNamespace::New(_))
    }

    /// The kinds that clone3 makes. A time namespace with offsets is the child's own business: once a process is
    /// in it, its clocks stand.
    fn clone_flags(&self) -> u64 {
        let mut all = self.config.namespaces.clone_flags();
        if !self.has_new_users() {
            all &= !NamespaceKind::User.clone_flag();
        }
        if self.network.is_some() {
            all &= !NamespaceKind::Net.clone_flag();
        }
        if self.cgroup_namespace_late() {
            all &= !NamespaceKind::Cgroup.clone_flag();
        }
        if self.config.namespaces.time_offsets.is_zero() {
            all
        } else {
            all & !NamespaceKind::Time.clone_flag()
        }
    }

    /// Whether the cgroup namespace has to wait for the v1 groups that the limits need: the host puts the child into
    /// them once it is there.
    fn cgroup_namespace_late(&self) -> bool {
        (self.v1_groups || self.named_owner.is_some()) && self.config.namespaces.is_new(NamespaceKind::Cgroup)
    }

    /// Without CAP_SYS_RESOURCE outside a process cannot raise its hard limits, so with a user namespace the host
    /// sets them.
    fn sets_own_rlimits(&self) -> bool {
        !self.has_user_namespace()
    }

    /// Whether the host does something to the child that would reach all processes of its memory, as long as that is
    /// the host's: an OOM kill by a limit, or its `oom_score_adj` (`proc_pid_oom_score_adj(5)`).
    fn wants_own_memory(&self) -> bool {
        self.has_limits() || self.config.oom_score_adj.is_some()
    }

    /// Whether limits will be written, which may kill what is in the cgroup at once.
    fn has_limits(&self) -> bool {
        self.cgroup.is_some() && !self.config.limits.controllers().is_empty()
    }

    /// What the host does to the child while it waits. Gives the user namespace where a tree wants its map.
    fn settle(&self, started: &Started, fds: &Descriptors) -> Result<(Option<OwnedFd>, Vec<Skipped>)> {
        let userns = self.map_users(started, fds)?;
        let mut skipped = self.limit(started)?;
        skipped.extend(self.confine()?);
        Ok((userns, skipped))
    }

    /// Writes the id maps. Gives the user namespace where a tree wants its map.
    fn map_users(&self, started: &Started, fds: &Descriptors) -> Result<Option<OwnedFd>> {
        let UserNamespace::New(map) = self.users else { return Ok(None) };
        idmap::write(started.child()?.id(), map, self.groups)?;
        fds.need_user_namespace().then(|| started.user_namespace()).transpose()
    }

    /// Sets the limits that the host sets.
    fn limit(&self, started: &Started) -> Result<Vec<Skipped>> {
        let child = started.child()?;
        if !self.sets_own_rlimits() {
            for (resource, limit) in &self.config.rlimits {
                set_rlimit(child.pid(), *resource, *limit)?;
            }
        }
        if let Some(value) = self.config.oom_score_adj
            && self.joins.is_empty()
        {
            let path = format!("/proc/{}/oom_score_adj", child.id());
            write_proc(OOM_SCORE, &path, &value.get().to_string()).map_err(explain_oom_score)?;
        }
        let skipped = match self.cgroup {
            Some(cgroup) if self.has_limits() => cgroup.apply(&self.config.limits, self.config.enforce)?,
            _ => Vec::new(),
        };
        if let (Some(cgroup), Some((uid, gid))) = (self.cgroup, self.named_owner) {
            cgroup.v1_delegate_named(uid, gid)?;
        }
        Ok(skipped)
    }

    /// Attaches the device policy. The child waits for its plan, which needs no device that the policy denies.
    fn confine(&self) -> Result<Option<Skipped>> {
        self.cgroup.map_or(Ok(None), |cgroup| devices::confine(self.host, cgroup, self.config))
    }

    /// The capabilities that stage-2 needs and that executing it would take away: in a new user namespace no id is
    /// mapped yet, so it does not run as root. Each costs a system call, so the list is short.
    fn ambient(&self) -> u64 {
        use Capability::{
            Chown, DacOverride, Fowner, Fsetid, NetAdmin, Setfcap, Setgid, Setpcap, Setuid, SysAdmin, SysTime,
        };
        let fresh = self.has_new_users();
        if self.strategy.is_fork() || !fresh {
            return 0;
        }
        let mut set = CapSet::of(&[Chown, DacOverride, Fowner, Setgid, Setpcap, Setuid, SysAdmin]);
        if (self.config.network() == Network::None && !self.config.loopback_down)
            || !self.config.sysctls.is_empty()
            || !self.config.nics.is_empty()
        {
            set = set.insert(NetAdmin);
        }
        if !self.config.namespaces.time_offsets.is_zero() {
            set = set.insert(SysTime);
        }
        // An overlay does its work for ever with the rights of who mounted it: without these nobody inside could give
        // a file capabilities, and set-group-id bits would be lost with the first change.
        if matches!(self.config.rootfs, Rootfs::Overlay(_)) {
            set = set.union(CapSet::of(&[Fsetid, Setfcap]));
        }
        set.union(Settings::of(self.config).needs_before_exec()).bits()
    }
}

/// A random number in the form of a UUID, with a line feed (`random(4)`).
fn new_boot_id() -> Result<String> {
    let path = "/proc/sys/kernel/random/uuid";
    std::fs::read_to_string(path).map_err(|e| Error::io("make a boot id", e).path(path))
}

fn borrow(fds: &[OwnedFd]) -> Vec<BorrowedFd<'_>> {
    fds.iter().map(AsFd::as_fd).collect()
}

fn dup(e: std::io::Error) -> Error {
    Error::io("duplicate a descriptor", e)
}

const OOM_SCORE: &str = "set oom_score_adj";

fn explain_oom_score(e: Error) -> Error {
    if e.step() == OOM_SCORE && e.errno() == Some(libc::EACCES) {
        return e.hint("lowering it needs CAP_SYS_RESOURCE");
    }
    e
}

fn join_step(kind: NamespaceKind) -> &'static str {
    match kind {
        NamespaceKind::User => "join the user namespace",
        NamespaceKind::Pid => "join the pid namespace",
        NamespaceKind::Net => "join the network namespace",
        NamespaceKind::Ipc => "join the ipc namespace",
        NamespaceKind::Uts => "join the uts namespace",
        NamespaceKind::Cgroup => "join the cgroup namespace",
        NamespaceKind::Time => "join the time namespace",
        _ => "join the mount namespace",
    }
}

fn write_proc(what: &'static str, path: &str, text: &str) -> Result<()> {
    crate::sys::fd::write_at(rustix::fs::CWD, path, text.as_bytes())
        .map_err(|e| Error::sys(what, e).path(path))
}

fn set_rlimit(pid: Pid, resource: crate::process::Resource, limit: crate::process::Rlimit) -> Result<()> {
    crate::sys::process::set_rlimit(pid, resource.number(), limit.soft(), limit.hard()).map_err(|errno| {
        let e = Error::sys("set resource limit", errno).object(resource.name());
        match errno {
            Errno::PERM => e.hint("raising a hard limit needs CAP_SYS_RESOURCE on the host"),
            Errno::INVAL => {
                e.with_kind(ErrorKind::InvalidConfig).detail("the soft limit is above the hard one")
            }
            _ => e,
        }
    })
}
