//! Where the instances' cgroups go, and what is done to the host's own for it: nothing unless asked for.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::cgroup::{Cgroup, CgroupKind, Hierarchy};
use crate::error::{Error, ErrorKind, Result};

#[cfg(feature = "systemd")]
use super::systemd::{HeldScope, SystemdScope};

/// The leaf for the host process. The name tells a second runtime of the process, and the program that is started
/// anew in it, that the cgroups of instances go beside it.
pub(super) const LEAF: &str = "stockade-host";
const STEP: &str = "move this process into a leaf of its cgroup";
/// How often to look again at who is in the cgroup: the host's own threads may be forking.
const TRIES: u32 = 3;

/// Where a runtime makes the cgroups of its instances.
///
/// A cgroup that holds processes itself gives no controllers to its children (the no-internal-process rule of
/// `cgroups(7)`), and a service's own cgroup holds the service. So limits need one of: a systemd service with
/// `Delegate=yes` and `DelegateSubgroup=NAME`, whose parent is named with [`Below`](Self::Below);
/// [`OwnWithLeaf`](Self::OwnWithLeaf); or a scope of systemd's. [`Runtime::delegation`](super::Runtime::delegation)
/// tells what the choice gives.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Placement {
    /// In this process's own cgroup; where a runtime has moved the process into a leaf before, beside that. Nothing is
    /// moved.
    #[default]
    Own,
    /// In this process's own cgroup, which this process leaves: it is moved, with all its threads, into a child named
    /// `stockade-host`. Nothing is moved in the root of the hierarchy, which may hold processes and give controllers.
    ///
    /// Fails where any other process is in the cgroup, children of this one included. What this process starts later is
    /// in the leaf with it. When the runtime is closed, and the last handle of an instance dropped, it is moved back and
    /// the leaf removed if nothing else is left in the cgroup; while instances run it stays, and another runtime of this
    /// process goes on from there.
    ///
    /// A systemd service whose containers outlive its restart wants `DelegateSubgroup=` instead: systemd cannot start
    /// it again in a cgroup that gives controllers.
    OwnWithLeaf,
    /// In this cgroup, which exists: an absolute path (`/sys/fs/cgroup/...`).
    Below(PathBuf),
    /// In a scope that systemd makes.
    #[cfg(feature = "systemd")]
    SystemdScope(SystemdScope),
}

/// A placement that was carried out: the cgroup that the instances' go into, and what holds it.
#[derive(Debug)]
pub(super) struct Placed {
    /// If not this process's own.
    pub(super) parent: Option<Cgroup>,
    held: Held,
}

#[derive(Debug)]
enum Held {
    Nothing,
    Leaf(HostLeaf),
    #[cfg(feature = "systemd")]
    Scope(HeldScope),
}

impl Placed {
    pub(super) fn beside(hierarchy: &Hierarchy, placement: &Placement) -> Result<Self> {
        let nothing = |parent| Ok(Self { parent, held: Held::Nothing });
        match placement {
            Placement::Own => nothing(above_leaf(hierarchy.own())?),
            Placement::Below(path) => nothing(Some(hierarchy.open(path)?)),
            Placement::OwnWithLeaf => match HostLeaf::enter(hierarchy)? {
                Some(leaf) => Ok(Self { parent: Some(leaf.former.again()?), held: Held::Leaf(leaf) }),
                None => nothing(None),
            },
            #[cfg(feature = "systemd")]
            Placement::SystemdScope(_) => Err(Error::new(ErrorKind::InvalidState, "ask systemd for a scope")),
        }
    }

    #[cfg(feature = "systemd")]
    pub(super) fn in_scope(parent: Cgroup, scope: HeldScope) -> Self {
        Self { parent: Some(parent), held: Held::Scope(scope) }
    }

    /// Undoes what can be undone while instances may be running.
    pub(super) fn release(&mut self) {
        match std::mem::replace(&mut self.held, Held::Nothing) {
            Held::Nothing => {}
            Held::Leaf(leaf) => leaf.release(),
            #[cfg(feature = "systemd")]
            Held::Scope(scope) => scope.release(),
        }
    }
}

/// The cgroup above, if this is the leaf for the host.
fn above_leaf(own: &Cgroup) -> Result<Option<Cgroup>> {
    match own.name() {
        Some(name) if name == LEAF => own.parent(),
        _ => Ok(None),
    }
}

/// How many runtimes of this process rely on its being in the leaf.
static USERS: Mutex<u32> = Mutex::new(0);

/// The leaf that this process is in, for its runtimes.
#[derive(Debug)]
struct HostLeaf {
    leaf: Cgroup,
    former: Cgroup,
}

impl HostLeaf {
    /// Moves this process into a leaf of its own cgroup, if it is not there; `None` where that is not needed.
    fn enter(hierarchy: &Hierarchy) -> Result<Option<Self>> {
        let mut users = USERS.lock().unwrap_or_else(PoisonError::into_inner);
        let own = hierarchy.own();
        let entered = match above_leaf(own)? {
            Some(former) => Self { leaf: own.again()?, former },
            None => match own.kind()? {
                CgroupKind::Root => return Ok(None),
                CgroupKind::Domain => Self::make(own)?,
                _ => {
                    return Err(Error::new(ErrorKind::Unsupported, STEP)
                        .path(own.path())
                        .detail("it is part of a threaded subtree, in which containers cannot be")
                        .hint("start the program in a cgroup of type `domain`"));
                }
            },
        };
        *users += 1;
        Ok(Some(entered))
    }

    fn make(own: &Cgroup) -> Result<Self> {
        alone_in(own)?;
        let leaf = match own.create_child(LEAF) {
            // Left by a process that died, or by one that shares the cgroup and was about to do the same.
            Err(e) if e.kind() == ErrorKind::AlreadyExists => own.open_child(LEAF)?,
            made => made?,
        };
        if !leaf.procs()?.is_empty() {
            return Err(Error::new(ErrorKind::InvalidState, STEP)
                .path(leaf.path())
                .detail(format!("other processes are in the leaf: {}", leaf.some_procs()))
                .hint("give each program that runs containers a cgroup of its own"));
        }
        let entered = Self { leaf, former: own.again()? };
        // Somebody may have come in meanwhile: a child that a thread of this process was forking.
        match entered.leaf.add_process(std::process::id()).and_then(|()| alone_in(own)) {
            Ok(()) => Ok(entered),
            Err(e) => {
                entered.leave();
                Err(e)
            }
        }
    }

    fn release(self) {
        let mut users = USERS.lock().unwrap_or_else(PoisonError::into_inner);
        *users -= 1;
        if *users == 0 {
            self.leave();
        }
    }

    /// Moves this process back and removes the leaf, if that can be done: not while instances' cgroups are there.
    fn leave(self) {
        let others = |names: Vec<String>| names.iter().any(|name| name != LEAF);
        if self.former.child_names().map_or(true, others) {
            return;
        }
        // A child of this process would be left alone in a cgroup that cannot be removed.
        let own = std::process::id();
        if self.leaf.procs().map_or(true, |pids| pids.iter().any(|pid| *pid != own)) {
            return;
        }
        let enabled = self.former.enabled_controllers().unwrap_or_default();
        if self.former.disable_controllers(&enabled).is_ok() && self.former.add_process(own).is_ok() {
            let _ = self.leaf.remove(Some(Instant::now()));
        }
    }
}

/// Fails where another process than this one is in the cgroup.
fn alone_in(own: &Cgroup) -> Result<()> {
    let me = std::process::id();
    let mut others = Vec::new();
    for _ in 0..TRIES {
        others = own.procs()?.into_iter().filter(|pid| *pid != me).collect();
        if others.is_empty() {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    others.sort_unstable();
    others.dedup();
    let named: Vec<String> = others.iter().take(5).map(|pid| named(*pid)).collect();
    let more = others.len().saturating_sub(named.len());
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    Err(Error::new(ErrorKind::InvalidState, STEP)
        .path(own.path())
        .detail(format!("other processes are in it: {}{more}", named.join(", ")))
        .hint(
            "open the runtime before starting other processes, or start the program in a cgroup of its own: \
             `Delegate=yes` in a systemd service, or `systemd-run --scope -p Delegate=yes`",
        ))
}

fn named(pid: u32) -> String {
    if pid == 0 {
        return "one of another pid namespace".to_owned();
    }
    let name = std::fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("comm"));
    format!("{pid} {}", name.unwrap_or_default().trim()).trim_end().to_owned()
}
