//! One limit through v1, from the start to the end: in force before the program runs, for commands too, changed, and gone
//! with the container.

use std::time::Duration;

use stockade::cgroup::{Limit, Limits};
use stockade::instance::ExecOptions;

use crate::host::{group_of, limits_of, procs, read, rig};
use crate::rig::{busybox, end, sh};

/// Writes one line for each process that a script of 20 forks gets.
const FORKS: &str = "i=0; while [ $i -lt 20 ]; do (echo fork; exec sleep 1) & i=$((i+1)); done; wait";

#[test]
fn a_limit_of_processes_holds_from_the_first_instruction_to_the_end() {
    let Some(rig) = rig(&["pids"]) else { return };
    let before = rig.run(busybox("before").limits(Limits::new().pids_max(6)).args(["sh", "-c", FORKS]));
    let group = group_of(&before, "pids");
    assert_eq!(read(&group, "pids.max"), "6");
    support::until(Duration::from_secs(10), "a fork that fails", || read(&group, "pids.events") != "max 0");
    end(before);
    assert!(!group.exists(), "{}", group.display());

    let c = rig.run(busybox("c").limits(Limits::new().pids_max(8)));
    let group = group_of(&c, "pids");
    let first = c.info().unwrap().pid.unwrap();
    assert_eq!(procs(&group), [first]);
    assert_eq!(limits_of(&c).pids_max, Some(Limit::Value(8)));
    let (_, out) = sh(&c, FORKS);
    let got = out.lines().filter(|l| *l == "fork").count();
    assert!(got > 0 && got <= 6, "{got} of 20 forks: {out}");
    // A command is inside before it runs, and so is what it leaves behind.
    let (_, inside) = sh(&c, "grep pids: /proc/self/cgroup");
    assert!(inside.ends_with(":pids:/"), "{inside}");
    let stats = c.stats().unwrap().pids.unwrap();
    assert!(stats.current >= 1 && stats.events.max > 0 && stats.peak.unwrap() >= 7, "{stats:?}");

    support::until(Duration::from_secs(10), "the end of the commands", || procs(&group) == [first]);
    c.update(Limits::new().pids_max(64)).unwrap();
    assert_eq!(read(&group, "pids.max"), "64");
    let (_, out) = sh(&c, FORKS);
    assert_eq!(out.lines().filter(|l| *l == "fork").count(), 20, "{out}");
    c.update(Limits::new().pids_max(Limit::Max)).unwrap();
    assert_eq!(read(&group, "pids.max"), "max");
    c.stop().unwrap();
    assert!(!group.exists(), "{}", group.display());
    c.start().unwrap();
    assert_eq!(read(&group, "pids.max"), "max");
    end(c);
    assert!(!group.exists());
    rig.end();
}

#[test]
fn a_first_limit_of_a_running_container_takes_in_all_its_processes() {
    let Some(rig) = rig(&["pids"]) else { return };
    let script = "sleep 1000 & sleep 1000 & exec sleep 1000";
    let c = rig.run(busybox("late").args(["sh", "-c", script]));
    let group = group_of(&c, "pids");
    let command = c.exec(ExecOptions::new(["sh", "-c", "sleep 1000 & exec sleep 1000"])).unwrap();
    assert!(!group.exists(), "a group that no limit needs");
    std::thread::sleep(Duration::from_millis(200));
    c.update(Limits::new().pids_max(6)).unwrap();
    assert_eq!(read(&group, "pids.max"), "6");
    assert_eq!(procs(&group).len(), 5);
    assert!(procs(&group).contains(&command.pid()));
    let (_, out) = sh(&c, "(echo one) & wait; echo two");
    assert!(!out.contains("one"), "{out}");
    c.stop().unwrap();
    assert!(!group.exists());
    drop(command);
    end(c);
    rig.end();
}

#[test]
fn a_group_that_forks_without_end_is_taken_in_whole() {
    let Some(rig) = rig(&["pids"]) else { return };
    let bomb = "f() { (sleep 0.01; :) & sleep 0.002; }; while :; do f; f; f; done";
    let c = rig.run(busybox("bomb").args(["sh", "-c", bomb]));
    std::thread::sleep(Duration::from_millis(300));
    c.update(Limits::new().pids_max(40)).unwrap();
    let group = group_of(&c, "pids");
    let v2 = c.info().unwrap().cgroup.clone();
    let mut compared = 0;
    for _ in 0..20 {
        c.freeze().unwrap();
        let mut here = procs(&group);
        let mut there: Vec<u32> = std::fs::read_to_string(v2.as_ref().unwrap().join("cgroup.procs"))
            .unwrap()
            .lines()
            .map(|l| l.parse().unwrap())
            .collect();
        here.sort_unstable();
        there.sort_unstable();
        assert_eq!(here, there);
        compared += here.len();
        c.unfreeze().unwrap();
    }
    println!("covered: {compared} processes in 20 looks");
    end(c);
    assert!(!group.exists());
    rig.end();
}
