//! What this host lets this process do, found out once by doing it.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use crate::caps::{CapSet, Capability};
use crate::cgroup::{Cgroup, Hierarchy};
use crate::error::{Error, Result};
use crate::idmap::{HostGid, HostUid, IdMap, SetGroups};
use crate::runtime::SpawnStrategy;
use crate::spawn::{Spawner, Stage2, Strategy};
use crate::sys::mount::clone_tree;

/// The host as a runtime found it.
#[derive(Debug)]
pub(crate) struct Host {
    permitted: CapSet,
    last_cap: u32,
    clones_mounts: bool,
    uid: u32,
    gid: u32,
    /// Without it children are forked.
    stage2: Option<Arc<Stage2>>,
    spawner: Option<Spawner>,
    cgroup: Result<Cgroups, String>,
    cgroup2: bool,
}

#[derive(Debug)]
struct Cgroups {
    hierarchy: Hierarchy,
    /// Where the instances' cgroups go, if not in this process's own.
    chosen: Option<Cgroup>,
}

impl Host {
    /// `cgroup`: where the instances' cgroups go; this process's own unless told otherwise.
    pub(crate) fn probe(
        cgroup: Option<&std::path::Path>,
        strategy: SpawnStrategy,
        from_thread: bool,
    ) -> Result<Self> {
        let permitted = CapSet::of_current_thread_permitted()?;
        let clones_mounts =
            permitted.contains(Capability::SysAdmin) && clone_tree(root(), "/", false).is_ok();
        let cgroup = match (Hierarchy::detect(), cgroup) {
            (Ok(hierarchy), path) => {
                let chosen = path.map(|p| hierarchy.open(p)).transpose()?;
                Ok(Cgroups { hierarchy, chosen })
            }
            (Err(e), Some(_)) => return Err(e),
            (Err(e), None) => Err(e.to_string()),
        };
        let stage2 = match strategy {
            SpawnStrategy::Auto => Stage2::new().ok(),
            SpawnStrategy::Exec => Some(Stage2::new()?),
            SpawnStrategy::Fork => None,
        };
        let stage2 = stage2.map(Arc::new);
        Ok(Self {
            permitted,
            last_cap: last_cap()?,
            clones_mounts,
            uid: rustix::process::geteuid().as_raw(),
            gid: rustix::process::getegid().as_raw(),
            spawner: if from_thread { Some(Spawner::start(stage2.clone())?) } else { None },
            stage2,
            cgroup2: cgroup.is_ok(),
            cgroup,
        })
    }

    /// A host that holds these capabilities, whoever runs the test.
    #[cfg(test)]
    pub(crate) fn of(permitted: CapSet, ids: (u32, u32)) -> Self {
        Self {
            last_cap: 40,
            permitted,
            clones_mounts: permitted.contains(Capability::SysAdmin),
            uid: ids.0,
            gid: ids.1,
            stage2: None,
            spawner: None,
            cgroup: Err("none in a unit test".to_owned()),
            cgroup2: true,
        }
    }

    /// What this process holds: a child without a user namespace of its own cannot have more.
    pub(crate) fn permitted(&self) -> CapSet {
        self.permitted
    }

    /// The number of the last capability that this kernel knows.
    pub(crate) fn last_cap(&self) -> u32 {
        self.last_cap
    }

    /// Whether detached copies of mounts can be made here, instead of in the child.
    pub(crate) fn can_clone_mounts(&self) -> bool {
        self.clones_mounts
    }

    /// Whether maps of many ids can be written.
    pub(crate) fn can_map_ranges(&self) -> bool {
        self.permitted.contains(Capability::Setuid) && self.permitted.contains(Capability::Setgid)
    }

    /// Whether supplementary groups can be set in user namespaces whose map this process writes.
    pub(crate) fn set_groups(&self) -> SetGroups {
        if self.can_map_ranges() { SetGroups::Allow } else { SetGroups::Deny }
    }

    /// The map that needs no privilege: root inside is who runs this process.
    pub(crate) fn single_id_map(&self) -> Result<IdMap> {
        IdMap::single(HostUid::new(self.uid), HostGid::new(self.gid))
    }

    pub(crate) fn strategy(&self) -> Strategy<'_> {
        self.stage2.as_deref().map_or(Strategy::Fork, Strategy::Exec)
    }

    /// The thread to start children from, where there is one.
    pub(crate) fn spawner(&self) -> Option<&Spawner> {
        self.spawner.as_ref()
    }

    pub(crate) fn has_cgroup2(&self) -> bool {
        self.cgroup2
    }

    /// The cgroup that the instances' cgroups are made in.
    pub(crate) fn cgroup(&self) -> Result<&Cgroup> {
        let cgroups = self.cgroup2()?;
        Ok(cgroups.chosen.as_ref().unwrap_or(cgroups.hierarchy.own()))
    }

    /// A cgroup by the path that [`Cgroup::path`] gave.
    pub(crate) fn open_cgroup(&self, path: &str) -> Result<Cgroup> {
        self.cgroup2()?.hierarchy.open(std::path::Path::new(path))
    }

    fn cgroup2(&self) -> Result<&Cgroups> {
        self.cgroup.as_ref().map_err(|why| {
            Error::new(crate::ErrorKind::Unsupported, "find the cgroup of this process")
                .detail(why.clone())
                .hint("mount a cgroup2 hierarchy, or choose CgroupConfig::None")
        })
    }
}

fn last_cap() -> Result<u32> {
    const FILE: &str = "/proc/sys/kernel/cap_last_cap";
    let text =
        std::fs::read_to_string(FILE).map_err(|e| Error::io("read the last capability", e).object(FILE))?;
    text.trim()
        .parse()
        .map_err(|_| Error::new(crate::ErrorKind::Kernel, "read the last capability").object(FILE))
}

fn root() -> BorrowedFd<'static> {
    rustix::fs::CWD.as_fd()
}
