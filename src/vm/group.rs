//! The cgroup of a machine's threads, where the host has asked for one.
//!
//! cgroup v2 lets single threads of a process into cgroups of their own only below the one that the process is in, and only
//! controllers that divide CPU time act there (cpu, cpuset). In v1 single threads go anywhere. In both the group is made when a
//! run begins and removed when it has ended.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::cgroup::{Cgroup, CgroupKind, Controller, Hierarchy, Limits};
use crate::error::{Error, ErrorKind, Result};

/// How long the kernel may take to forget threads that have ended.
const SETTLE: Duration = Duration::from_secs(5);

/// Where a runtime puts the threads of its virtual machines, so that the CPU time of each machine can be limited and shared.
///
/// The kernel has rules for it (`cgroups(7)`, "Thread mode"). Threads can only be in cgroups below the one that their process
/// is in. That one becomes a *threaded domain* as long as such cgroups are there: all cgroups below it are then for threads,
/// so that containers have to be elsewhere. [`Placement::OwnWithLeaf`](crate::Placement::OwnWithLeaf) sees to that, or
/// [`Placement::Below`](crate::Placement::Below) another cgroup. In the root of the hierarchy both can be side by side, and in
/// cgroup v1 (feature `cgroup1`) there is no such rule.
///
/// ```no_run
/// use stockade::vm::ThreadPlacement;
/// use stockade::{Placement, Runtime};
///
/// let runtime = Runtime::builder()
///     .cgroup_placement(Placement::OwnWithLeaf)
///     .vm_threads(ThreadPlacement::Own)
///     .open()?;
/// # Ok::<(), stockade::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum ThreadPlacement {
    /// They stay in the cgroup of this process, and no cgroup is made. Of the limits of a machine those of memory
    /// (`memory_max`, by its balloon) and of CPUs (`cpuset_cpus`, by `sched_setaffinity(2)`) can be set.
    #[default]
    Stay,
    /// For each machine a cgroup below the one that this process is in when the machine starts. Controllers that a machine's
    /// limits need are enabled in it, and disabled again when the last of them has gone; they are enabled in those above it,
    /// too, as far as those are this process's to change.
    Own,
    /// The same below this cgroup, as an absolute path: the one that this process is in, or a threaded one below it.
    Below(PathBuf),
}

/// What runtimes remember of the cgroups above those of machines.
#[derive(Debug, Default)]
pub(crate) struct Above {
    /// Controllers that were enabled for machines. Held while cgroups come and go.
    enabled: Mutex<HashMap<PathBuf, Vec<Controller>>>,
}

impl Above {
    fn enabled(&self) -> MutexGuard<'_, HashMap<PathBuf, Vec<Controller>>> {
        self.enabled.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The cgroup in which those of machines are to be made.
#[derive(Debug)]
pub(crate) struct Parent {
    hierarchy: Hierarchy,
    cgroup: Cgroup,
}

impl Parent {
    /// `None` where threads stay where they are.
    pub(super) fn find(placement: &ThreadPlacement) -> Result<Option<Self>> {
        let path = match placement {
            ThreadPlacement::Stay => return Ok(None),
            ThreadPlacement::Own => None,
            ThreadPlacement::Below(path) => Some(path),
        };
        let hierarchy = Hierarchy::detect()?;
        let own = hierarchy.own();
        let cgroup = match path {
            Some(path) if path != own.path() => {
                let found = hierarchy.open(path)?;
                check(&found, own)?;
                found
            }
            _ => own.try_clone()?,
        };
        let cgroup = hierarchy.with_instances_in(cgroup);
        Ok(Some(Self { hierarchy, cgroup }))
    }

    /// Where a group of this name will be.
    pub(super) fn path_of(&self, name: &str) -> PathBuf {
        self.cgroup.path().join(name)
    }

    /// Makes the group, with the controllers that `limits` need as far as they can be had.
    pub(super) fn make(self, name: &str, limits: &Limits, above: &Above) -> Result<ThreadGroup> {
        let mut enabled = above.enabled();
        let cgroup = match self.cgroup.create_child(name) {
            // Left by a host that died.
            Err(e) if e.kind() == ErrorKind::AlreadyExists => {
                self.cgroup.open_child(name)?.remove(Some(Instant::now()))?;
                self.cgroup.create_child(name)?
            }
            made => made?,
        };
        // From here on a failure removes it.
        let group = ThreadGroup { cgroup, parent: self.cgroup };
        let made = group.cgroup.make_threaded().and_then(|()| {
            let wanted = wanted(limits);
            let before = group.parent.enabled_controllers()?;
            // What is not to be had here is the limit's own error, which says what grants it.
            let here: Vec<Controller> = match group.parent.controllers() {
                Ok(has) if wanted.iter().all(|c| has.contains(c)) => wanted,
                _ => {
                    self.hierarchy.enable_controllers_for(&group.parent, &wanted)?;
                    Vec::new()
                }
            };
            group.parent.enable_controllers(&here)?;
            let mut new = group.parent.enabled_controllers()?;
            new.retain(|c| !before.contains(c));
            enabled.entry(group.parent.path().to_owned()).or_default().extend(new);
            Ok(())
        });
        drop(enabled);
        match made {
            Ok(()) => Ok(group),
            Err(e) => Err(match group.remove(above) {
                Ok(()) => e,
                Err(left) => e.also(format!("the cgroup could not be removed again: {left}")),
            }),
        }
    }
}

/// Fails where threads of a process in `own` cannot be in children of this cgroup.
fn check(parent: &Cgroup, own: &Cgroup) -> Result<()> {
    let wrong = |why: String, hint: &'static str| {
        Error::new(ErrorKind::InvalidConfig, "place threads below a cgroup")
            .path(parent.path())
            .detail(why)
            .hint(hint)
    };
    if !parent.path().starts_with(own.path()) {
        let why =
            format!("this process is in {}, and its threads can only be below that", own.path().display());
        return Err(wrong(why, "name that one, or a threaded one below it"));
    }
    match parent.kind()? {
        CgroupKind::Threaded => Ok(()),
        _ => Err(wrong(
            "it is no cgroup for threads".to_owned(),
            "write `threaded` to its cgroup.type, and to those of all between it and this process's own",
        )),
    }
}

/// The controllers that these limits need and threads can have.
fn wanted(limits: &Limits) -> Vec<Controller> {
    let mut all = limits.controllers();
    all.retain(|c| matches!(c, Controller::Cpu | Controller::Cpuset));
    all
}

/// The cgroup of a machine's threads.
#[derive(Debug)]
pub(crate) struct ThreadGroup {
    pub(super) cgroup: Cgroup,
    parent: Cgroup,
}

impl ThreadGroup {
    pub(super) fn path(&self) -> &Path {
        self.cgroup.path()
    }

    /// Gives it the controllers that these limits need, as far as they can be had.
    pub(super) fn enable(&self, limits: &Limits, above: &Above) -> Result<()> {
        let mut enabled = above.enabled();
        let before = self.parent.enabled_controllers()?;
        let mut new = wanted(limits);
        let has = self.parent.controllers()?;
        new.retain(|c| has.contains(c) && !before.contains(c));
        self.parent.enable_controllers(&new)?;
        enabled.entry(self.parent.path().to_owned()).or_default().extend(new);
        Ok(())
    }

    /// Removes it, once its threads have ended, and with the last one what was enabled for them all.
    pub(crate) fn remove(&self, above: &Above) -> Result<()> {
        let mut enabled = above.enabled();
        self.cgroup.remove(Some(Instant::now() + SETTLE))?;
        let Some(ours) = enabled.get(self.parent.path()) else { return Ok(()) };
        if self.parent.child_names()?.is_empty() {
            self.parent.disable_controllers(ours)?;
            enabled.remove(self.parent.path());
        }
        Ok(())
    }
}

/// Removes the group that a host which has died has left, if nobody is in it.
pub(super) fn remove_left(path: &Path) -> Result<()> {
    let removed = Hierarchy::detect()
        .and_then(|hierarchy| hierarchy.open(path))
        .and_then(|cgroup| cgroup.remove(Some(Instant::now())));
    match removed {
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(()),
        done => done,
    }
}

/// The name of a machine's group in a runtime of this tag. The colon, which no name has, tells project and name apart.
pub(super) fn name(tag: &str, id: &crate::name::InstanceId) -> String {
    format!("stockade-vm-{tag}-{}:{}", id.project, id.name)
}
