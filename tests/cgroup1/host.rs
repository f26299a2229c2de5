//! What v1 has on this host, and the v1 groups of a container.

use std::fs;
use std::path::{Path, PathBuf};

use stockade::cgroup::{Hierarchy, Limits};
use stockade::container::Container;

use crate::rig::Rig;

/// A rig; `None`, with a loud reason, where v1 does not hold all these controllers, or containers cannot be started.
pub(crate) fn rig(controllers: &[&str]) -> Option<Rig> {
    let lacking: Vec<_> = controllers.iter().filter(|c| own_group(c).is_none()).collect();
    if !lacking.is_empty() {
        support::skip(format!("cgroup v1 does not hold {lacking:?} here"));
        return None;
    }
    Rig::new()
}

/// This process's own group in the v1 hierarchy with a controller, where a mount shows it.
pub(crate) fn own_group(controller: &str) -> Option<PathBuf> {
    let has = |list: &str| list.split(',').any(|c| c == controller);
    let groups = fs::read_to_string("/proc/thread-self/cgroup").unwrap();
    let own = groups.lines().find_map(|line| {
        let mut fields = line.splitn(3, ':');
        let _number = fields.next()?;
        fields.next().filter(|list| has(list))?;
        fields.next().map(str::to_owned)
    })?;
    let mounts = fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
    mounts.lines().find_map(|line| {
        let (left, right) = line.split_once(" - ")?;
        let mut right = right.split(' ');
        let is_v1 = right.next() == Some("cgroup") && right.nth(1).is_some_and(has);
        let mut left = left.split(' ').skip(3);
        let below = Path::new(&own).strip_prefix(left.next()?).ok()?;
        let at = Path::new(left.next()?).join(below);
        is_v1.then(|| at.components().collect())
    })
}

/// The v1 group of a running container for a controller, whether it is there or not.
pub(crate) fn group_of(container: &Container, controller: &str) -> PathBuf {
    let cgroup = container.info().unwrap().cgroup.unwrap();
    own_group(controller).unwrap().join(cgroup.file_name().unwrap())
}

/// The limits that the kernel has for a running container.
pub(crate) fn limits_of(container: &Container) -> Limits {
    let path = container.info().unwrap().cgroup.unwrap();
    Hierarchy::detect().unwrap().open(&path).unwrap().limits().unwrap()
}

/// A file of a v1 group.
pub(crate) fn read(group: &Path, file: &str) -> String {
    let path = group.join(file);
    fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display())).trim().to_owned()
}

/// The processes in a v1 group.
pub(crate) fn procs(group: &Path) -> Vec<u32> {
    read(group, "cgroup.procs").lines().map(|pid| pid.parse().unwrap()).collect()
}
