//! Limits and stats. Where the host gives the controllers to the test's cgroup (the VM lane) they are really
//! set; where it does not (a hybrid host) the refusal is tested.
#![allow(clippy::print_stderr)]

mod cgroup_lane;
mod cgroup_util;

use std::fs;
use std::time::Duration;

use cgroup_lane::with_controllers;
use cgroup_util::{Leaf, soon};
use stockade::ErrorKind;
use stockade::cgroup::{Cgroup, Controller, Enforce, Hierarchy, Limit, Limits, OomPolicy};

const NEEDED: [Controller; 2] = [Controller::Memory, Controller::Pids];

fn limits() -> Limits {
    let mut l = Limits::default();
    l.pids_max = Some(Limit::Value(7));
    l.memory_max = Some(Limit::Value(32 << 20));
    l
}

fn file(c: &Cgroup, name: &str) -> String {
    fs::read_to_string(c.path().join(name)).unwrap().trim().to_owned()
}

#[test]
fn limits_without_their_controllers_are_refused_or_skipped() {
    // A child of a leaf has none: nobody has enabled any there.
    let Some(leaf) = Leaf::new() else { return };
    let bare = leaf.create_child("bare").unwrap();
    let through_v1 = Hierarchy::detect().unwrap().delegation().unwrap().through_v1;
    let through_v1 = NEEDED.iter().all(|c| through_v1.contains(c));
    let err = bare.apply(&limits(), Enforce::Required).unwrap_err();
    assert_eq!(err.kind(), ErrorKind::Unsupported);
    let has = leaf.controllers().unwrap();
    if through_v1 {
        // A v1 group is made below that of the cgroup above, which has none.
        assert!(
            err.to_string().contains("/bare`") && err.way_out().unwrap().contains("on that one first"),
            "{err}"
        );
    } else if has.contains(&Controller::Pids) {
        assert!(err.what().unwrap().ends_with("bare/pids.max"), "{err}");
        assert!(err.way_out().unwrap().contains("subtree_control"), "{err}");
        assert!(err.to_string().contains("does not give it"), "{err}");
    } else {
        assert!(err.what().unwrap().ends_with("bare/pids.max"), "{err}");
        assert!(err.way_out().unwrap().contains("cgroup1"), "{err}");
        assert!(err.to_string().contains("parent's controllers: "), "{err}");
    }

    let skipped = bare.apply(&limits(), Enforce::BestEffort).unwrap();
    assert_eq!(skipped.iter().map(|s| s.file.as_str()).collect::<Vec<_>>(), ["pids.max", "memory.max"]);
    assert!(skipped.iter().all(|s| s.reason.kind() == ErrorKind::Unsupported));
    assert_eq!(bare.set_oom_policy(OomPolicy::Cgroup).unwrap_err().kind(), ErrorKind::Unsupported);
    assert_eq!(bare.memory_events().unwrap(), None);

    assert!(bare.apply(&Limits::default(), Enforce::Required).unwrap().is_empty());
    bare.remove(soon()).unwrap();
    assert_eq!(bare.apply(&limits(), Enforce::BestEffort).unwrap_err().kind(), ErrorKind::NotFound);
}

#[test]
fn stats_have_what_the_host_counts() {
    let Some(mut leaf) = Leaf::new() else { return };
    leaf.run("i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done; exec sleep 60");
    let end = soon().unwrap();
    while leaf.stats().unwrap().cpu.unwrap().usage < Duration::from_millis(5) {
        assert!(std::time::Instant::now() < end);
        std::thread::sleep(Duration::from_millis(5));
    }
    let stats = leaf.stats().unwrap();
    let has = leaf.controllers().unwrap();
    assert_eq!(stats.pids.map(|p| p.current), has.contains(&Controller::Pids).then_some(1));
    assert_eq!(stats.memory.is_some(), has.contains(&Controller::Memory));
    assert_ne!(stats.memory.and_then(|m| m.current), Some(0));
}

#[test]
fn limits_are_written_and_lifted() {
    let Some(leaf) = with_controllers(&NEEDED) else { return };
    assert!(leaf.apply(&limits(), Enforce::Required).unwrap().is_empty());
    assert_eq!((file(&leaf, "pids.max"), file(&leaf, "memory.max")), ("7".into(), (32 << 20).to_string()));

    let mut lift = Limits::default();
    lift.pids_max = Some(Limit::Max);
    leaf.apply(&lift, Enforce::BestEffort).unwrap();
    assert_eq!((file(&leaf, "pids.max"), file(&leaf, "memory.max")), ("max".into(), (32 << 20).to_string()));

    let mut bad = Limits::default();
    bad.pids_max = Some(Limit::Value(u64::MAX));
    for enforce in [Enforce::Required, Enforce::BestEffort] {
        let err = leaf.apply(&bad, enforce).unwrap_err();
        assert_eq!(err.kind(), ErrorKind::InvalidConfig, "{err}");
        assert!(err.to_string().contains("18446744073709551615"), "{err}");
    }
}

#[test]
fn pids_max_stops_a_fork() {
    let Some(mut leaf) = with_controllers(&NEEDED) else { return };
    let mut one = Limits::default();
    one.pids_max = Some(Limit::Value(1));
    leaf.apply(&one, Enforce::Required).unwrap();
    leaf.run("sleep 60 & exec sleep 60");
    let denied = || file(&leaf, "pids.events").contains("max 0");
    let end = soon().unwrap();
    while denied() {
        assert!(std::time::Instant::now() < end, "no fork was denied");
        std::thread::sleep(Duration::from_millis(5));
    }
    assert!(leaf.stats().unwrap().pids.unwrap().current <= 1);
}

#[test]
fn memory_max_kills_the_whole_cgroup_when_asked_to() {
    let Some(mut leaf) = with_controllers(&NEEDED) else { return };
    leaf.apply(&limits(), Enforce::Required).unwrap();
    leaf.set_oom_policy(OomPolicy::Cgroup).unwrap();
    assert_eq!(file(&leaf, "memory.oom.group"), "1");
    assert_eq!(leaf.memory_events().unwrap().unwrap().oom_kill, 0);
    if let Err(e) = fs::write(leaf.path().join("memory.swap.max"), "0") {
        eprintln!("no swap limit here: {e}");
    }
    leaf.run("exec sleep 60");
    leaf.run("exec tail /dev/zero");
    leaf.wait_empty(soon()).unwrap();
    assert!(leaf.memory_events().unwrap().unwrap().oom_kill >= 2);
    leaf.set_oom_policy(OomPolicy::Process).unwrap();
    assert_eq!(file(&leaf, "memory.oom.group"), "0");
}

#[test]
fn a_cgroup_with_processes_gives_its_children_no_controllers() {
    let Some(mut leaf) = with_controllers(&NEEDED) else { return };
    leaf.run("exec sleep 60");
    let err = leaf.enable_controllers(&NEEDED).unwrap_err();
    assert_eq!((err.kind(), err.errno()), (ErrorKind::InvalidState, Some(16)));
    assert!(err.to_string().contains("holds processes itself"), "{err}");

    leaf.kill().unwrap();
    leaf.wait_empty(soon()).unwrap();
    leaf.enable_controllers(&NEEDED).unwrap();
    leaf.enable_controllers(&NEEDED).unwrap();
    let mut enabled = leaf.enabled_controllers().unwrap();
    enabled.sort_unstable();
    assert_eq!(enabled, NEEDED);
    let child = leaf.create_child("child").unwrap();
    assert!(child.apply(&limits(), Enforce::Required).unwrap().is_empty());
}
