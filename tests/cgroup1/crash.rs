//! Hosts that die: the v1 groups are found by the next one, and go with the container.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::time::Duration;

use stockade::cgroup::{Limit, Limits};
use stockade::container::{ContainerBuilder, ContainerConfig};
use stockade::instance::{DeleteMode, DeleteOptions, Status};
use stockade::{ErrorKind, Rootfs, Runtime};
use support::scaled;

use crate::again;
use crate::host::{group_of, limits_of, own_group, procs, read, rig};
use crate::rig::{Rig, end, sh};

const STATE: &str = "STOCKADE_TEST_STATE";
const RUN: &str = "STOCKADE_TEST_RUN";
/// How often a host is killed at any moment.
const KILLS: usize = 60;

/// One that stays when its host goes.
fn lasting(name: &str) -> ContainerBuilder {
    let root = support::fixture("busybox").unwrap();
    let builder = ContainerConfig::builder(name).rootfs(Rootfs::overlay([root]));
    builder.args(["sleep", "1000"]).limits(Limits::new().pids_max(20))
}

/// The host that dies, in a process of its own.
fn host(role: &str) {
    let dir = |name| PathBuf::from(std::env::var_os(name).unwrap());
    let runtime = Runtime::builder().state_dir(dir(STATE)).run_dir(dir(RUN)).open().unwrap();
    if role == "keeps one" {
        let c = runtime.create(lasting("kept").build().unwrap()).unwrap();
        c.start().unwrap();
        println!("ready");
        std::thread::sleep(Duration::from_secs(60));
        return;
    }
    if role == "has one and works" {
        runtime.create(lasting("one").build().unwrap()).unwrap().start().unwrap();
    }
    println!("ready");
    for n in 0.. {
        let c = runtime.create(lasting(&format!("n{n}")).build().unwrap()).unwrap();
        c.start().unwrap();
        c.update(Limits::new().pids_max(30)).unwrap();
        c.delete_with(DeleteOptions::new().mode(DeleteMode::Stop)).unwrap();
    }
}

/// Runs it until it says that it is ready.
fn ready(rig: &Rig, test: &str, role: &str) -> Child {
    let mut command = again::command(&[], test, role);
    command.env(STATE, rig.dirs.state()).env(RUN, rig.dirs.run()).stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(lines.map_while(Result::ok).any(|line| line.contains("ready")));
    child
}

fn kill(mut host: Child) {
    host.kill().unwrap();
    host.wait().unwrap();
}

/// The v1 groups beside this process's.
fn groups() -> BTreeSet<PathBuf> {
    let names = std::fs::read_dir(own_group("pids").unwrap()).unwrap().flatten().map(|e| e.path());
    names.filter(|p| p.is_dir()).collect()
}

#[test]
fn the_next_host_finds_the_groups_of_a_container_that_runs_or_has_ended() {
    if let Some(role) = again::role() {
        return host(&role);
    }
    let Some(rig) = rig(&["pids"]) else { return };
    let name = "crash::the_next_host_finds_the_groups_of_a_container_that_runs_or_has_ended";
    kill(ready(&rig, name, "keeps one"));
    let open = || Runtime::builder().state_dir(rig.dirs.state()).run_dir(rig.dirs.run()).open().unwrap();
    let next = open();
    let c = next.container(&"kept".parse().unwrap()).unwrap();
    let group = group_of(&c, "pids");
    assert_eq!(limits_of(&c).pids_max, Some(Limit::Value(20)));
    assert!(sh(&c, "grep pids: /proc/self/cgroup").1.ends_with(":pids:/"));
    assert_eq!(procs(&group), [c.info().unwrap().pid.unwrap()]);
    c.update(Limits::new().pids_max(40)).unwrap();
    assert_eq!(read(&group, "pids.max"), "40");
    // Its end comes while nobody looks.
    let pid = c.info().unwrap().pid.unwrap();
    drop(c);
    next.close();
    let pid = rustix_pid(pid);
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    let next = open();
    let c = next.container(&"kept".parse().unwrap()).unwrap();
    support::until(Duration::from_secs(10), "its end is seen", || c.status() == Status::Stopped);
    assert!(!group.exists(), "{}", group.display());
    end(c);
    next.close();
    rig.end();
}

fn rustix_pid(pid: u32) -> rustix::process::Pid {
    rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap()
}

#[test]
fn a_host_that_is_killed_at_any_moment_leaves_no_group_behind() {
    if let Some(role) = again::role() {
        return host(&role);
    }
    let Some(rig) = rig(&["pids"]) else { return };
    let name = "crash::a_host_that_is_killed_at_any_moment_leaves_no_group_behind";
    let before = groups();
    let (mut strays, mut left) = (0, 0);
    let kills = scaled(KILLS);
    for n in 0..kills {
        let role = if n % 2 == 0 { "works" } else { "has one and works" };
        let host = ready(&rig, name, role);
        // From its first call to some containers later.
        std::thread::sleep(Duration::from_micros((n * 30_000 / kills.max(1) + n * 37 % 1000) as u64));
        kill(host);
        strays += groups().difference(&before).count();
        // A child that the host was making may outlive it for a moment, and keeps its lock.
        support::until(Duration::from_secs(20), "the next host has it all", || {
            let next = Runtime::builder().state_dir(rig.dirs.state()).run_dir(rig.dirs.run()).open().unwrap();
            let mut all = true;
            for instance in next.list().unwrap() {
                match instance.delete_with(DeleteOptions::new().mode(DeleteMode::Stop)) {
                    Ok(()) => left += 1,
                    Err(e) => {
                        assert_eq!(e.kind(), ErrorKind::Busy, "{e}");
                        all = false;
                    }
                }
            }
            next.close();
            all && groups().is_subset(&before)
        });
    }
    println!("covered: {kills} kills, after which {strays} groups and {left} containers were there");
    assert!(strays > 0, "no kill came in time");
    rig.end();
}
