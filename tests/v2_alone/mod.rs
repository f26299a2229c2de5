//! A view of the host without its cgroup v1: v2 alone, with those controllers that v1 does not hold.

use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use stockade::cgroup::Hierarchy;

use crate::again;

const TREE: &str = "/sys/fs/cgroup";

/// Whether the test `name` goes on in this process, which sees no v1; where v1 sets limits (feature `cgroup1`), it is run
/// again in a process with a mount namespace of its own, and has been when this returns.
pub(crate) fn goes_on_here(name: &str) -> bool {
    if again::role().is_some() {
        unmount(TREE, UnmountFlags::DETACH).unwrap();
        mount("cgroup2", TREE, "cgroup2", MountFlags::empty(), None).unwrap();
        return true;
    }
    if support::privilege().is_err() || through_v1() == 0 {
        return true;
    }
    let _serial = support::serial();
    let mut command = again::command(&["unshare", "-m", "--propagation", "private"], name, "v2 alone");
    assert!(command.status().unwrap().success());
    false
}

fn through_v1() -> usize {
    Hierarchy::detect().and_then(|h| h.delegation()).map_or(0, |found| found.through_v1.len())
}
