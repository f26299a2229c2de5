//! cgroup v1: the limits and figures of the controllers that it holds, on hosts that have it alone or beside v2.
//!
//! A cgroup of this crate is a v2 cgroup, on every host: that tree is in each kernel, mounted or not, and it alone can
//! be born into, frozen and killed as a whole. What only v1 has is added to it: a *v1 group* of the same name in each
//! hierarchy whose controller a limit needs, made with the first such limit, with the same processes in it.
//!
//! ```text
//! v2    .../stockade-1a2b3c4d-default:web     the cgroup; its attribute user.stockade.cgroup1 names its v1 groups
//! pids  .../stockade-1a2b3c4d-default:web     pids.max
//! cpu   .../stockade-1a2b3c4d-default:web     cpu.shares, cpu.cfs_quota_us
//! ```
//! The attribute is written before a v1 group is made, and the groups are removed before the v2 cgroup is: so whoever
//! finds the v2 cgroup after a crash finds all of it, and no record has to know more.
//!
//! Limits of v2 are turned into settings of v1 files ([`settings`]) and go through the same transaction as those of v2.
//! The crate cgroups-rs writes them ([`files`]); why not more of it is used, ADR 0027 says.

mod devices;
mod events;
mod files;
mod find;
mod groups;
mod limits;
mod settings;
mod share;
mod stats;

use std::ffi::OsStr;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{Cgroup, Controller};
pub(super) use events::EventsV1;
pub(super) use files::Both;
pub(super) use find::{Tree, unmounted_v2};
pub(super) use groups::Groups;
pub(super) use settings::{amount, is_below_use, usage_file};
pub(super) use stats::StatsV1;

/// Where the v1 groups of a cgroup would be. Which it has, its attribute says.
#[derive(Clone, Default)]
pub(in crate::cgroup) struct Side {
    tree: Option<Arc<Tree>>,
    /// Below this process's own group in each hierarchy; empty for that one itself. `None` for a cgroup that is not below
    /// this process's own: none are made for it.
    below: Option<PathBuf>,
}

impl Side {
    /// Where no v1 is.
    pub(in crate::cgroup) fn none() -> Self {
        Self::default()
    }

    /// For the cgroup in which those of instances are made.
    pub(in crate::cgroup) fn anchor(&self) -> Self {
        Self { tree: self.tree.clone(), below: Some(PathBuf::new()) }
    }

    /// For one that is not below this process's own.
    pub(in crate::cgroup) fn elsewhere(&self) -> Self {
        Self { tree: self.tree.clone(), below: None }
    }

    pub(in crate::cgroup) fn child(&self, name: impl AsRef<OsStr>) -> Self {
        match &self.tree {
            Some(_) => {
                let below = self.below.as_ref().map(|below| below.join(Path::new(name.as_ref())));
                Self { tree: self.tree.clone(), below }
            }
            None => Self::default(),
        }
    }

    pub(in crate::cgroup) fn parent(&self) -> Self {
        let above = self.below.as_ref().and_then(|below| below.parent()).map(Path::to_owned);
        Self { tree: self.tree.clone(), below: above }
    }

    /// The controllers that can be had from v1.
    pub(in crate::cgroup) fn controllers(&self) -> Vec<Controller> {
        let has = |c: &Controller| self.place_of(*c).is_some();
        Controller::ALL.into_iter().filter(has).collect()
    }

    /// The group for a controller that v1 holds: the hierarchy's controllers and the directory.
    fn place_of(&self, controller: Controller) -> Option<(&str, PathBuf)> {
        self.place_in(name_of(controller)?)
    }

    /// The same by what v1 calls it, or for a hierarchy that has a name and no controller.
    fn place_in(&self, name: &str) -> Option<(&str, PathBuf)> {
        let hierarchy = self.tree.as_ref()?.of(name)?;
        let below = self.below.as_ref()?;
        // `join` of an empty path leaves a slash.
        let dir =
            if below.as_os_str().is_empty() { hierarchy.own.clone() } else { hierarchy.own.join(below) };
        Some((&hierarchy.controllers, dir))
    }

    /// Whether it is this process's own: there it is in the groups itself.
    fn is_own(&self) -> bool {
        self.below.as_ref().is_some_and(|below| below.as_os_str().is_empty())
    }
}

impl Cgroup {
    /// The CPUs that groups of v1 below this one can have.
    pub(in crate::cgroup) fn v1_effective_cpus(&self) -> Option<String> {
        let (_, dir) = self.v1.place_of(Controller::Cpuset)?;
        std::fs::read_to_string(dir.join("cpuset.effective_cpus")).ok()
    }
}

impl fmt::Debug for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Side").field(&self.below).finish()
    }
}

/// What v1 calls a controller; `None` where it has none such.
fn name_of(controller: Controller) -> Option<&'static str> {
    match controller {
        Controller::Cpu => Some("cpu"),
        Controller::Cpuset => Some("cpuset"),
        Controller::Hugetlb => Some("hugetlb"),
        Controller::Io => Some("blkio"),
        Controller::Memory => Some("memory"),
        Controller::Pids => Some("pids"),
        Controller::Dmem | Controller::Misc | Controller::Rdma => None,
    }
}
