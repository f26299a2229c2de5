//! What this host lets this process do, found out once by doing it.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use crate::caps::{CapSet, Capability};
use crate::cgroup::{Cgroup, Controller, Delegation, DevicePrograms, Hierarchy};
use crate::error::{Error, Result};
use crate::idmap::subid::SubidUser;
use crate::idmap::{self, AllocatorOptions, HostGid, HostUid, IdMap, RANGE_SIZE, SetGroups};
use crate::runtime::SpawnStrategy;
use crate::spawn::{Spawner, Stage2, Strategy, restrictions};
use crate::sys::mount::clone_tree;

use super::newuidmap::Programs;
use super::place::{Placed, Placement};

/// The host as a runtime found it.
#[derive(Debug)]
pub(crate) struct Host {
    permitted: CapSet,
    last_cap: u32,
    clones_mounts: bool,
    uid: u32,
    gid: u32,
    /// `setgroups(2)` is denied in this process's own user namespace, and so in all below.
    groups_denied: bool,
    ids: OnceLock<Ids>,
    /// Without it children are forked.
    stage2: Option<Arc<Stage2>>,
    spawner: Option<Spawner>,
    cgroup: Result<Cgroups, String>,
    cgroup2: bool,
    device_programs: DevicePrograms,
    /// `keyctl(2)` can be called here, and so inside.
    keyrings: bool,
}

/// Where the ids of containers come from that say nothing about them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Ids {
    /// Ranges that the runtime hands out, and whose maps this process writes.
    Ranges,
    /// All that the user may map, the same for all his containers; the programs write the map.
    Delegated(IdMap),
    /// The user's own, alone.
    Single,
}

#[derive(Debug)]
struct Cgroups {
    hierarchy: Hierarchy,
    placed: Mutex<Placed>,
    /// Where the instances' cgroups go, if not in this process's own.
    chosen: Option<Cgroup>,
}

impl Host {
    /// `tag` stands for the runtime in names.
    pub(super) fn probe(
        placement: &Placement,
        tag: &str,
        strategy: SpawnStrategy,
        from_thread: bool,
    ) -> Result<Self> {
        let permitted = CapSet::of_current_thread_permitted()?;
        let clones_mounts =
            permitted.contains(Capability::SysAdmin) && clone_tree(root(), "/", false).is_ok();
        let stage2 = match strategy {
            SpawnStrategy::Auto => Stage2::new().ok(),
            SpawnStrategy::Exec => Some(Stage2::new()?),
            SpawnStrategy::Fork => None,
        };
        let stage2 = stage2.map(Arc::new);
        let cgroup = match (Hierarchy::detect(), placement) {
            (Ok(hierarchy), _) => Ok(Cgroups::placed(hierarchy, placement, tag, stage2.as_deref())?),
            (Err(e), Placement::Own) => Err(e.to_string()),
            (Err(e), _) => return Err(e),
        };
        Ok(Self {
            permitted,
            last_cap: last_cap()?,
            clones_mounts,
            uid: rustix::process::geteuid().as_raw(),
            gid: rustix::process::getegid().as_raw(),
            groups_denied: std::fs::read_to_string("/proc/self/setgroups").is_ok_and(|s| s.trim() == "deny"),
            ids: OnceLock::new(),
            spawner: if from_thread { Some(Spawner::start(stage2.clone())?) } else { None },
            stage2,
            cgroup2: cgroup.is_ok(),
            cgroup,
            device_programs: DevicePrograms::default(),
            keyrings: crate::sys::process::has_keyrings(),
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
            groups_denied: false,
            ids: OnceLock::from(if permitted.contains(Capability::Setuid) {
                Ids::Ranges
            } else {
                Ids::Single
            }),
            stage2: None,
            spawner: None,
            cgroup: Err("none in a unit test".to_owned()),
            cgroup2: true,
            device_programs: DevicePrograms::default(),
            keyrings: true,
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

    /// Whether this process may write maps of any ids that it can name itself.
    pub(crate) fn writes_maps(&self) -> bool {
        self.permitted.contains(Capability::Setuid) && self.permitted.contains(Capability::Setgid)
    }

    /// Whether supplementary groups can be set in user namespaces whose map this process writes.
    pub(crate) fn set_groups(&self) -> SetGroups {
        if self.writes_maps() && !self.groups_denied { SetGroups::Allow } else { SetGroups::Deny }
    }

    /// Where the ids of containers come from; found out at the first use.
    ///
    /// # Errors
    /// Where `/etc/subuid`, `/etc/subgid` or this process's own map cannot be read.
    pub(crate) fn id_source(&self) -> Result<&Ids> {
        if let Some(ids) = self.ids.get() {
            return Ok(ids);
        }
        let found = if self.writes_maps() { ids_of_root()? } else { self.ids_of_user()? };
        Ok(self.ids.get_or_init(|| found))
    }

    fn ids_of_user(&self) -> Result<Ids> {
        if Programs::find().is_err() {
            return Ok(Ids::Single);
        }
        let map =
            idmap::delegated::map(&SubidUser::current(), (HostUid::new(self.uid), HostGid::new(self.gid)))?;
        Ok(map.map_or(Ids::Single, Ids::Delegated))
    }

    /// Whether only `newuidmap(1)` and `newgidmap(1)` can write this map for this process.
    pub(crate) fn needs_programs(&self, map: &IdMap) -> bool {
        !self.writes_maps() && !self.is_own_map(map)
    }

    /// Whether root of this map is the user who runs this process, and nobody else is in it.
    pub(crate) fn is_own_map(&self, map: &IdMap) -> bool {
        self.single_id_map().is_ok_and(|own| own == *map)
    }

    /// A user namespace in which nothing is allowed looks like many things: names the setting that makes it so.
    pub(crate) fn explain_denied(&self, e: Error) -> Error {
        if e.kind() != crate::ErrorKind::PermissionDenied || self.permitted.contains(Capability::SysAdmin) {
            return e;
        }
        match restrictions::found() {
            Some(why) if e.way_out() != Some(&*why) => e.also(why),
            _ => e,
        }
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

    /// The device programs that are loaded, each once.
    pub(crate) fn device_programs(&self) -> &DevicePrograms {
        &self.device_programs
    }

    /// Whether there are keyrings for who calls from here, and for children.
    pub(crate) fn has_keyrings(&self) -> bool {
        self.keyrings
    }

    pub(crate) fn has_cgroup2(&self) -> bool {
        self.cgroup2
    }

    /// The cgroup that the instances' cgroups are made in.
    pub(crate) fn cgroup(&self) -> Result<&Cgroup> {
        let cgroups = self.cgroup2()?;
        Ok(cgroups.chosen.as_ref().unwrap_or(cgroups.hierarchy.own()))
    }

    /// What of the tree is this process's, down to the cgroup that the instances' are made in.
    pub(crate) fn delegation(&self) -> Result<Delegation> {
        self.cgroup2()?.hierarchy.delegation_of(self.cgroup()?)
    }

    /// Gives these controllers to the instances' cgroups.
    pub(crate) fn enable_controllers(&self, wanted: &[Controller]) -> Result<()> {
        self.cgroup2()?.hierarchy.enable_controllers_for(self.cgroup()?, wanted)
    }

    /// Undoes what was done to this process's own cgroup, as far as running instances let it.
    pub(super) fn release_cgroup(&self) {
        if let Ok(cgroups) = &self.cgroup {
            cgroups.placed.lock().unwrap_or_else(PoisonError::into_inner).release();
        }
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

impl Cgroups {
    #[cfg_attr(
        not(feature = "systemd"),
        expect(unused_variables, reason = "a scope has a name and a process")
    )]
    fn placed(
        hierarchy: Hierarchy,
        placement: &Placement,
        tag: &str,
        stage2: Option<&Stage2>,
    ) -> Result<Self> {
        #[cfg(feature = "systemd")]
        if let Placement::SystemdScope(wanted) = placement {
            let (parent, scope) = super::systemd::hold(&hierarchy, wanted, tag, stage2)?;
            let mut placed = Placed::in_scope(parent, scope);
            let chosen = placed.parent.take().map(|parent| hierarchy.with_instances_in(parent));
            return Ok(Self { hierarchy, chosen, placed: Mutex::new(placed) });
        }
        let mut placed = Placed::beside(&hierarchy, placement)?;
        let chosen = placed.parent.take().map(|parent| hierarchy.with_instances_in(parent));
        Ok(Self { hierarchy, chosen, placed: Mutex::new(placed) })
    }
}

/// Capabilities are not all: root of a user namespace can give no more ids than that namespace has.
fn ids_of_root() -> Result<Ids> {
    let options = AllocatorOptions::of_host()?;
    let found = [&options.uids, &options.gids].iter().all(|area| area.blocks(RANGE_SIZE).next().is_some());
    // On a host that has all ids a lack of free ones is somebody's mistake, which the allocator names.
    let has_all = || IdMap::of_current_process().is_ok_and(|own| own == IdMap::identity());
    Ok(if found || has_all() { Ids::Ranges } else { Ids::Single })
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
