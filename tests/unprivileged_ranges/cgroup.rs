//! Control groups that root has delegated to the user.

use std::fs;

use stockade::cgroup::{Cgroup, Hierarchy};
use stockade::container::CgroupConfig;
use stockade::instance::Status;

use crate::again;
use crate::rig::*;

/// A whole life in a cgroup that root has delegated.
fn lives_in_a_cgroup(rig: &Rig) {
    let c = rig.run(rig.dir("x").cgroup(CgroupConfig::Auto));
    let info = c.info().unwrap();
    let own = fs::read_to_string("/proc/self/cgroup").unwrap();
    let own = own.lines().find_map(|l| l.strip_prefix("0::")).unwrap().to_owned();
    assert!(info.cgroup.unwrap().to_str().unwrap().contains(own.as_str()));
    assert_eq!(sh(&c, "cat /proc/self/cgroup | grep ^0::"), "0::/");
    c.freeze().unwrap();
    assert_eq!(c.status(), Status::Frozen);
    c.unfreeze().unwrap();
    // Whatever its processes do, a stop ends them all.
    sh(&c, "for i in 1 2 3; do setsid sleep 1000 & done; true");
    c.stop().unwrap();
    c.start().unwrap();
    let second = open(&rig.dir);
    let found = second.container(&"x".parse().unwrap()).unwrap();
    assert_eq!(sh(&found, "echo x"), "x");
    drop(found);
    c.wait().unwrap();
    c.start().unwrap();
    c.restart().unwrap();
    end(c);
}

/// A cgroup of the test's own, removed at the end.
struct Delegated(Cgroup);

impl Delegated {
    fn new() -> stockade::Result<Self> {
        let name = format!("stockade-test-{}", std::process::id());
        let this = Self(Hierarchy::detect()?.own().create_child(&name)?);
        this.0.delegate(UID, UID)?;
        Ok(this)
    }
}

impl Drop for Delegated {
    fn drop(&mut self) {
        let soon = std::time::Instant::now() + std::time::Duration::from_secs(20);
        let removed = self.0.kill().and_then(|()| self.0.remove(Some(soon)));
        assert!(std::thread::panicking() || removed.is_ok(), "{removed:?}");
    }
}

fn in_a_cgroup(test: &str, delegated: bool, extra: &str) {
    let become_user = format!("{SETPRIV}{extra}");
    let around = Around { before: "", become_user: &become_user, delegated, debian: false };
    if again::role().is_some() {
        return as_user(test, around, lives_in_a_cgroup);
    }
    support::require_root!();
    // Tests of this program that watch the host would see it.
    let serial = support::serial();
    let made = Delegated::new();
    match made {
        Ok(cgroup) => {
            let before = format!("echo $$ > {}/cgroup.procs", cgroup.0.path().display());
            with_turn(&serial, test, Around { before: &before, ..around }, lives_in_a_cgroup);
        }
        Err(e) => support::skip(format!("no cgroup can be made here: {e}")),
    }
}

#[test]
fn a_delegated_cgroup() {
    in_a_cgroup("cgroup::a_delegated_cgroup", true, "");
}

#[test]
fn a_delegated_cgroup_with_one_id() {
    in_a_cgroup("cgroup::a_delegated_cgroup_with_one_id", false, "");
}

#[test]
fn a_delegated_cgroup_for_root_of_a_namespace() {
    in_a_cgroup("cgroup::a_delegated_cgroup_for_root_of_a_namespace", true, " unshare -r");
}
