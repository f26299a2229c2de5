//! System containers on hosts with v1: a Debian with systemd in every view, and an init that keeps its units in the named
//! hierarchy of v1, as old ones do.

use std::fs;
use std::path::Path;

use stockade::cgroup::{Enforce, Limit, Limits};
use stockade::container::Container;
use stockade::instance::{ExecOptions, ShutdownOptions, Status};
use support::until;

use crate::host::{group_of, limits_of, own_group, procs, read};
use crate::image::{Image, SOON};
use crate::rig::{Rig, end, sh};
use crate::views::{View, in_view};

/// Waits until systemd has booted, and fails where a unit has.
#[track_caller]
fn running(c: &Container) {
    let mut last = String::new();
    until(SOON, "systemd has booted", || {
        last = sh(c, "systemctl is-system-running").1;
        ["running", "degraded"].contains(&last.as_str())
    });
    assert_eq!(last, "running", "{}", sh(c, "systemctl --failed --no-legend --plain").1);
}

fn debian_in(test: &str, view: View) {
    let lacking = support::fixture("debian").map(|root| root.join("lib/systemd/systemd").exists());
    if lacking != Ok(true) {
        return support::skip("needs a Debian root with systemd: run `cargo xtask setup`");
    }
    if !in_view(test, view) {
        return;
    }
    let Some(rig) = Rig::new() else { return };
    let image = Image::of("debian");
    let limits = Limits::new().pids_max(200).memory_max(512 << 20).cpu_weight(200_u32);
    let c = rig.run(image.system("deb").limits(limits.clone()));
    running(&c);
    let group = group_of(&c, "pids");
    let inside: usize =
        sh(&c, "systemctl show -p NTasks --value -- -.slice; ls -d /proc/[0-9]*").1.lines().count();
    assert!(inside > 5 && procs(&group).len() >= 5, "{inside} {:?}", procs(&group));
    assert!(read(&group_of(&c, "memory"), "memory.usage_in_bytes").parse::<u64>().unwrap() > 1 << 20);
    let has = limits_of(&c);
    assert_eq!((has.pids_max, has.memory_max), (limits.pids_max, limits.memory_max));
    let cgroups = sh(&c, "cat /proc/1/cgroup").1;
    for controller in ["pids", "memory", "cpu"] {
        assert!(cgroups.lines().any(|l| l.ends_with(&format!(":{controller}:/"))), "{cgroups}");
    }
    let named = own_group("name=systemd").is_some();
    assert_eq!(group_of_named(&c).is_some_and(|g| g.exists()), named);

    let first = c.info().unwrap().pid.unwrap();
    c.exec(ExecOptions::new(["systemctl", "reboot"])).unwrap();
    until(SOON, "another first process", || {
        c.status() == Status::Running && c.info().unwrap().pid.is_some_and(|pid| pid != first)
    });
    running(&c);
    assert_eq!(limits_of(&c).pids_max, Some(Limit::Value(200)));
    c.update(Limits::new().pids_max(300)).unwrap();
    assert_eq!(read(&group, "pids.max"), "300");
    c.shutdown_with(ShutdownOptions::new().deadline(SOON)).unwrap();
    assert!(c.info().unwrap().exit_status.unwrap().is_halt());
    assert!(!group.exists());
    end(c);
    drop(image);
    rig.end();
    println!("covered: Debian booted to running twice, with limits of v1; named hierarchy: {named}");
}

fn group_of_named(c: &Container) -> Option<std::path::PathBuf> {
    own_group("name=systemd").map(|_| group_of(c, "name=systemd"))
}

#[test]
fn debian_boots_beside_v1() {
    debian_in("systems::debian_boots_beside_v1", View::Hybrid);
}

#[test]
fn debian_boots_where_v1_alone_is_mounted() {
    debian_in("systems::debian_boots_where_v1_alone_is_mounted", View::V1Only);
}

#[test]
fn debian_boots_without_the_named_hierarchy() {
    debian_in("systems::debian_boots_without_the_named_hierarchy", View::NoNamed);
}

/// What a systemd does that knows no v2.
const OLD_INIT: &str = "
    mkdir -p /sys/fs/cgroup/systemd &&
    mount -t cgroup -o nosuid,nodev,noexec,none,name=systemd cgroup /sys/fs/cgroup/systemd &&
    mkdir -p /sys/fs/cgroup/systemd/system.slice/init.scope &&
    echo 1 >/sys/fs/cgroup/systemd/system.slice/init.scope/cgroup.procs &&
    touch /up
    exec sleep 1000";

#[test]
fn an_init_that_needs_the_named_hierarchy_has_a_group_of_its_own_there() {
    let Some(rig) = crate::host::rig(&["name=systemd"]) else { return };
    let image = Image::script(OLD_INIT);
    let c = rig.run(image.system("old").limits(Limits::new().pids_max(50)).enforce(Enforce::BestEffort));
    until(SOON, "it is up", || image.path().join("up").exists());
    let group = group_of(&c, "name=systemd");
    let scope = group.join("system.slice/init.scope");
    assert_eq!(procs(&scope), [c.info().unwrap().pid.unwrap()]);
    assert_eq!(sh(&c, "grep systemd /proc/1/cgroup").1.rsplit(':').next(), Some("/system.slice/init.scope"));
    // A command is in the group as well, and nothing of the host's can be reached from inside.
    let (_, inside) = sh(&c, "grep name=systemd /proc/self/cgroup; ls -a /sys/fs/cgroup/systemd/..");
    assert!(inside.lines().next().unwrap().ends_with(":/"), "{inside}");
    let seen = sh(&c, "find /sys/fs/cgroup/systemd -name 'stockade*' -o -name t-cg1").1;
    assert_eq!(seen, "");
    let outside = fs::metadata(own_group("name=systemd").unwrap()).unwrap();
    assert_eq!(std::os::unix::fs::MetadataExt::uid(&outside), 0);
    c.stop().unwrap();
    assert!(!group.exists() && !Path::new(&scope).exists());
    end(c);
    drop(image);
    rig.end();
}
