//! Statistics, events and pressure triggers of real containers and cgroups. Where the host gives the controllers to the
//! test's cgroup (the VM lane) all of it runs; elsewhere what there is.
#![allow(clippy::print_stderr)]

mod cgroup_util;
mod rig;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use cgroup_util::{Leaf, soon};
use rig::{Rig, busybox, end, sh};
use rustix::event::{PollFd, PollFlags, Timespec};
use stockade::ErrorKind;
use stockade::cgroup::{
    Cgroup, Controller, Enforce, Event, Events, Hierarchy, Limit, Limits, MemoryEvent, PressureKind,
    PressureResource, PressureTrigger,
};
use stockade::instance::Instance;

/// Files of a cgroup that hold no statistics, or such that are not read: settings, lists of processes, what each NUMA
/// node holds. A file of hugetlb stands here without its size.
const NOT_READ: &[&str] = &[
    "cgroup.controllers",
    "cgroup.freeze",
    "cgroup.kill",
    "cgroup.max.depth",
    "cgroup.max.descendants",
    "cgroup.pressure",
    "cgroup.procs",
    "cgroup.subtree_control",
    "cgroup.threads",
    "cgroup.type",
    "cpu.idle",
    "cpu.max",
    "cpu.max.burst",
    "cpu.uclamp.max",
    "cpu.uclamp.min",
    "cpu.weight",
    "cpu.weight.nice",
    "cpuset.cpus",
    "cpuset.cpus.effective",
    "cpuset.cpus.exclusive",
    "cpuset.cpus.exclusive.effective",
    "cpuset.cpus.partition",
    "cpuset.mems",
    "cpuset.mems.effective",
    "dmem.low",
    "dmem.max",
    "dmem.min",
    "hugetlb.max",
    "hugetlb.numa_stat",
    "hugetlb.rsvd.max",
    "io.bfq.weight",
    "io.latency",
    "io.low",
    "io.max",
    "io.prio.class",
    "io.weight",
    "memory.high",
    "memory.low",
    "memory.max",
    "memory.min",
    "memory.numa_stat",
    "memory.oom.group",
    "memory.reclaim",
    "memory.swap.high",
    "memory.swap.max",
    "memory.zswap.max",
    "memory.zswap.writeback",
    "misc.max",
    "pids.max",
    "rdma.max",
];

/// Only in the throw-away VM may the test change its own cgroup.
fn enable_all() {
    if std::env::var_os("VM_LANE").is_some() {
        let h = Hierarchy::detect().unwrap();
        h.own().enable_controllers(&h.own().controllers().unwrap()).unwrap();
    }
}

/// A leaf that has `needed`, or a loud reason.
fn leaf_with(needed: &[Controller]) -> Option<Leaf> {
    enable_all();
    let leaf = Leaf::new()?;
    let has = leaf.controllers().unwrap();
    if needed.iter().all(|c| has.contains(c)) {
        return Some(leaf);
    }
    support::skip(format!("the test's cgroup gives its children only {has:?}, not {needed:?}"));
    None
}

fn rig() -> Option<Rig> {
    enable_all();
    Rig::new()
}

fn names(dir: &Path) -> BTreeSet<String> {
    let files = fs::read_dir(dir).unwrap().map(|e| e.unwrap()).filter(|e| e.file_type().unwrap().is_file());
    files.map(|e| e.file_name().into_string().unwrap()).collect()
}

/// `hugetlb.2MB.max` is `hugetlb.max`.
fn without_size(name: &str) -> String {
    match name.strip_prefix("hugetlb.").and_then(|rest| rest.split_once('.')) {
        Some((_, file)) => format!("hugetlb.{file}"),
        None => name.to_owned(),
    }
}

fn until(what: &str, mut holds: impl FnMut() -> bool) {
    support::until(Duration::from_secs(60), what, &mut holds);
}

/// The events until `wanted` comes, that one included.
fn events_until(events: &mut Events, wanted: impl Fn(&Event) -> bool) -> Vec<Event> {
    let deadline = Some(Instant::now() + Duration::from_secs(60));
    let mut got = Vec::new();
    loop {
        let event = events.next(deadline).unwrap_or_else(|e| panic!("{e}, after {got:?}"));
        got.push(event);
        if wanted(&event) {
            return got;
        }
    }
}

fn open_fds() -> Vec<String> {
    let dir = fs::read_dir("/proc/self/fd").unwrap();
    let links = dir.filter_map(|e| fs::read_link(e.unwrap().path()).ok());
    let mut open: Vec<String> = links.map(|p| p.display().to_string()).collect();
    open.sort_unstable();
    open
}

fn resident_kib() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:")).unwrap();
    line.split_whitespace().next().unwrap().parse().unwrap()
}

#[test]
fn every_file_of_a_container_is_read_or_listed() {
    let Some(rig) = rig() else { return };
    let c = rig.run(busybox("files"));
    let dir = c.info().unwrap().cgroup.unwrap();
    let reader = c.stats_reader().unwrap();
    let read: BTreeSet<String> = reader.files().map(str::to_owned).collect();
    let there = names(&dir);
    assert!(read.is_subset(&there), "{:?}", read.difference(&there));
    let unknown: Vec<&String> = there
        .difference(&read)
        .filter(|name| NOT_READ.binary_search(&&*without_size(name)).is_err())
        .collect();
    assert!(unknown.is_empty(), "neither read nor listed: {unknown:?}");
    let listed_too: Vec<&String> = read.iter().filter(|n| NOT_READ.contains(&&*without_size(n))).collect();
    assert!(listed_too.is_empty(), "read, and listed as not read: {listed_too:?}");
    eprintln!("{} files of the cgroup: {} read, {} not", there.len(), read.len(), there.len() - read.len());

    // What the kernel shows of the controllers is in the figures.
    let metrics: &dyn Instance = &*c;
    let stats = metrics.metrics().unwrap().stats().unwrap();
    let has = |file: &str| there.contains(file);
    let state = stats.state.unwrap();
    assert!(state.populated && !state.frozen && state.other.is_empty());
    assert!(stats.cpu.unwrap().usage > Duration::ZERO);
    assert_eq!(stats.memory.is_some(), has("memory.current"));
    assert_eq!(stats.pids.as_ref().map(|p| p.current), has("pids.current").then_some(1));
    assert_eq!(stats.io.is_some(), has("io.stat"));
    assert_eq!(stats.rdma.is_some(), has("rdma.current"));
    assert_eq!(stats.misc.is_some(), has("misc.current"));
    assert_eq!(stats.dmem.is_some(), has("dmem.current"));
    assert_eq!(stats.local.is_some(), has("cgroup.stat.local"));
    assert_eq!(stats.pressure.cpu.is_some(), has("cpu.pressure"));
    assert_eq!(!stats.hugetlb.is_empty(), there.iter().any(|n| n.starts_with("hugetlb.")));
    if let Some(memory) = &stats.memory {
        let unknown: Vec<&String> = memory.stat.other.keys().collect();
        eprintln!("keys of memory.stat without a field: {unknown:?}");
        assert!(memory.current.unwrap() > 0 && memory.peak.unwrap() >= memory.current.unwrap());
        assert!(memory.stat.kernel > 0 && memory.stat.pgfault > 0, "{:?}", memory.stat);
        assert!(memory.events.is_some() && memory.events_local.is_some());
    }
    drop(reader);
    end(c);
    rig.end();
}

#[test]
fn figures_move_with_the_load() {
    let Some(rig) = rig() else { return };
    let c = rig.run(busybox("load").args(["sh", "-c", "sleep 1000 & sleep 1000 & wait"]));
    let mut reader = c.stats_reader().unwrap();
    let before = reader.read().unwrap();
    let script = "i=0; while [ $i -lt 10000 ]; do i=$((i+1)); done; \
                  dd if=/dev/zero of=/dev/shm/x bs=1M count=8; (sleep 1000 &) ; true";
    assert_eq!(sh(&c, script).0, 0);
    let after = reader.read().unwrap();
    let mut moved = vec!["cpu"];
    assert!(after.cpu.as_ref().unwrap().usage > before.cpu.as_ref().unwrap().usage);
    assert!(after.cpu.as_ref().unwrap().user > before.cpu.as_ref().unwrap().user);
    if let (Some(before), Some(after)) = (&before.memory, &after.memory) {
        let grown = after.stat.shmem - before.stat.shmem;
        assert!(grown >= 7 << 20, "8 MiB of shared memory: {grown} bytes");
        assert!(after.current.unwrap() >= before.current.unwrap() + (7 << 20));
        assert!(after.peak.unwrap() >= after.current.unwrap());
        assert!(after.stat.pgfault > before.stat.pgfault);
        moved.push("memory");
    }
    if let Some(pids) = &after.pids {
        // The first shell and its two, and the one that the script left.
        until("four processes", || reader.read().unwrap().pids.unwrap().current == 4);
        assert!(pids.peak.is_none_or(|peak| peak >= 4));
        moved.push("pids");
    }
    c.freeze().unwrap();
    assert!(reader.read().unwrap().state.unwrap().frozen);
    std::thread::sleep(Duration::from_millis(5));
    c.unfreeze().unwrap();
    let thawed = reader.read().unwrap();
    assert!(!thawed.state.unwrap().frozen);
    if let Some(local) = thawed.local {
        assert!(local.frozen >= Duration::from_millis(5), "{local:?}");
        moved.push("frozen time");
    }
    eprintln!("moved: {moved:?}");

    let mut events = c.resource_events().unwrap();
    c.stop().unwrap();
    assert_eq!(reader.read().unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(c.stats().unwrap_err().kind(), ErrorKind::InvalidState);
    assert_eq!(c.resource_events().unwrap_err().kind(), ErrorKind::InvalidState);
    assert_eq!(events_until(&mut events, |e| *e == Event::Removed).last(), Some(&Event::Removed));
    drop((reader, events));
    end(c);
    rig.end();
}

#[test]
fn ten_thousand_reads_leak_nothing() {
    let _serial = support::serial();
    enable_all();
    let Some(mut leaf) = Leaf::new() else { return };
    leaf.run("exec sleep 1000");
    let fds = open_fds();
    let mut reader = leaf.stats_reader().unwrap();
    let files = reader.files().count();
    for _ in 0..500 {
        reader.read().unwrap();
    }
    let (held, resident) = (open_fds(), resident_kib());
    assert_eq!(held.len(), fds.len() + files + 1, "one for each file and one of the directory");
    let reads = 10_000;
    for _ in 0..reads {
        reader.read().unwrap();
    }
    assert_eq!(open_fds(), held);
    let grown = resident_kib().saturating_sub(resident);
    assert!(grown < 256, "{grown} KiB grown over {reads} reads");
    drop(reader);
    assert_eq!(open_fds(), fds);
    for _ in 0..20 {
        leaf.stats().unwrap();
    }
    assert_eq!(open_fds(), fds);
    eprintln!("{reads} reads of {files} files: {grown} KiB grown");
}

#[test]
fn a_removed_cgroup_is_told_by_all() {
    let _serial = support::serial();
    let Some(leaf) = Leaf::new() else { return };
    let child = leaf.create_child("child").unwrap();
    let mut reader = child.stats_reader().unwrap();
    let mut events = child.events().unwrap();
    assert_eq!(events.try_next().unwrap(), None);
    let short = Some(Instant::now() + Duration::from_millis(20));
    assert_eq!(events.next(short).unwrap_err().kind(), ErrorKind::Timeout);
    child.remove(soon()).unwrap();
    assert_eq!(events.next(soon()).unwrap(), Event::Removed);
    assert_eq!(events.next(soon()).unwrap_err().kind(), ErrorKind::NotFound);
    for _ in 0..2 {
        let e = reader.read().unwrap_err();
        assert_eq!(e.kind(), ErrorKind::NotFound);
        assert!(e.to_string().contains("child") && e.to_string().contains("removed"), "{e}");
    }
    assert_eq!(reader.refresh().unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(child.stats().unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(child.events().unwrap_err().kind(), ErrorKind::NotFound);
    let trigger = trigger(PressureResource::Cpu);
    assert_eq!(child.watch_pressure(trigger).unwrap_err().kind(), ErrorKind::NotFound);
}

#[test]
fn the_root_of_the_hierarchy_has_what_it_has() {
    let h = Hierarchy::detect().unwrap();
    let stats = h.root().stats().unwrap();
    assert!(stats.cpu.unwrap().usage > Duration::ZERO);
    assert_eq!(stats.state.is_some(), names(h.root().path()).contains("cgroup.events"));
    if stats.state.is_none() {
        assert_eq!(h.root().events().unwrap_err().kind(), ErrorKind::Unsupported);
    }
}

#[test]
fn a_controller_is_taken_away_and_comes_back() {
    let _serial = support::serial();
    let Some(leaf) = leaf_with(&[Controller::Pids, Controller::Memory]) else { return };
    leaf.enable_controllers(&[Controller::Pids, Controller::Memory]).unwrap();
    let child = leaf.create_child("child").unwrap();
    let mut reader = child.stats_reader().unwrap();
    let mut events = child.events().unwrap();
    assert!(reader.read().unwrap().pids.is_some());
    let before = reader.files().count();
    fs::write(leaf.path().join("cgroup.subtree_control"), "-pids").unwrap();
    let without = reader.read().unwrap();
    assert!(without.pids.is_none() && without.memory.is_some());
    let less = reader.files().count();
    assert!(less < before);
    assert_eq!(events.try_next().unwrap(), None);
    fs::write(leaf.path().join("cgroup.subtree_control"), "+pids").unwrap();
    assert!(reader.read().unwrap().pids.is_none());
    reader.refresh().unwrap();
    assert!(reader.read().unwrap().pids.is_some());
    assert_eq!(reader.files().count(), before);
    eprintln!("{} files of pids went and came", before - less);
}

#[test]
fn events_tell_of_freeze_thaw_and_exit() {
    let Some(rig) = rig() else { return };
    let c = rig.run(busybox("events"));
    let mut events = c.resource_events().unwrap();
    assert_eq!(events.try_next().unwrap(), None, "what was before is no event");
    let readable = |events: &Events, ms: i64| {
        let mut fds = [PollFd::new(events, PollFlags::IN)];
        let wait = Timespec { tv_sec: ms / 1000, tv_nsec: ms % 1000 * 1_000_000 };
        rustix::event::poll(&mut fds, Some(&wait)).unwrap() == 1
    };
    assert!(!readable(&events, 0), "nothing happened yet");
    c.freeze().unwrap();
    assert!(readable(&events, 10_000), "the descriptor tells of the freeze");
    assert_eq!(events_until(&mut events, |e| *e == Event::Frozen).last(), Some(&Event::Frozen));
    c.unfreeze().unwrap();
    assert!(readable(&events, 10_000), "the descriptor tells of the thaw");
    assert_eq!(events_until(&mut events, |e| *e == Event::Thawed).last(), Some(&Event::Thawed));
    assert_eq!(events.try_next().unwrap(), None);

    // A waiting thread is woken by the end of the last process.
    let waiting = std::thread::spawn(move || {
        let got = events_until(&mut events, |e| *e == Event::Empty);
        (events, got)
    });
    c.kill(stockade::Signal::KILL).unwrap();
    let (mut events, got) = waiting.join().unwrap();
    assert_eq!(got, [Event::Empty]);
    c.wait().unwrap();
    assert_eq!(events.next(soon()).unwrap(), Event::Removed);
    assert!(!readable(&events, 0), "and then it is still");
    drop(events);
    end(c);
    rig.end();
}

fn limits(pids: Option<u64>, memory: Option<u64>) -> Limits {
    let mut limits = Limits::default();
    limits.pids_max = pids.map(Limit::Value);
    limits.memory_max = memory.map(Limit::Value);
    limits
}

fn without_swap(cgroup: &Cgroup) {
    if let Err(e) = fs::write(cgroup.path().join("memory.swap.max"), "0") {
        eprintln!("no swap limit here: {e}");
    }
}

#[test]
fn an_oom_kill_is_an_event() {
    let _serial = support::serial();
    let Some(mut leaf) = leaf_with(&[Controller::Memory]) else { return };
    leaf.apply(&limits(None, Some(16 << 20)), Enforce::Required).unwrap();
    without_swap(&leaf);
    let mut events = leaf.events().unwrap();
    leaf.run("tail /dev/zero");
    let is = |e: &Event, wanted| matches!(e, Event::Memory { event, times: 1.., .. } if *event == wanted);
    let got = events_until(&mut events, |e| is(e, MemoryEvent::OomKill));
    assert!(got.contains(&Event::Populated), "{got:?}");
    assert!(got.iter().any(|e| is(e, MemoryEvent::Max)), "{got:?}");
    assert!(got.iter().any(|e| is(e, MemoryEvent::Oom)), "{got:?}");
    let memory = leaf.stats().unwrap().memory.unwrap();
    let told = leaf.memory_events().unwrap().unwrap();
    assert!(memory.events.unwrap().oom_kill >= 1 && told.oom_kill >= 1);
    assert!(memory.peak.unwrap() >= 15 << 20, "{:?}", memory.peak);
    assert_eq!(events_until(&mut events, |e| *e == Event::Empty).last(), Some(&Event::Empty));
    eprintln!("events: {got:?}");
}

#[test]
fn forks_at_the_limit_are_an_event() {
    let _serial = support::serial();
    let Some(mut leaf) = leaf_with(&[Controller::Pids]) else { return };
    leaf.apply(&limits(Some(1), None), Enforce::Required).unwrap();
    let mut events = leaf.events().unwrap();
    leaf.run("sleep 60 & exec sleep 60");
    let got = events_until(&mut events, |e| matches!(e, Event::PidsMax { times: 1.., .. }));
    let pids = leaf.stats().unwrap().pids.unwrap();
    assert!(pids.events.max >= 1 && pids.current <= 1, "{pids:?}");
    eprintln!("events: {got:?}");
}

fn trigger(resource: PressureResource) -> PressureTrigger {
    let (threshold, window) = (Duration::from_millis(20), Duration::from_secs(2));
    PressureTrigger::new(resource, PressureKind::Some, threshold, window).unwrap()
}

#[test]
fn a_pressure_trigger_fires_under_contention() {
    let _serial = support::serial();
    let Some(mut leaf) = Leaf::new() else { return };
    let watch = match leaf.watch_pressure(trigger(PressureResource::Cpu)) {
        Err(e) if e.kind() == ErrorKind::Unsupported => {
            assert!(e.way_out().unwrap().contains("psi=1"), "{e}");
            return support::skip(e);
        }
        watch => watch.unwrap(),
    };
    let before = leaf.stats().unwrap().pressure.cpu.unwrap().some.unwrap().total;
    let short = Some(Instant::now() + Duration::from_millis(50));
    assert_eq!(watch.wait(short).unwrap_err().kind(), ErrorKind::Timeout, "nothing runs in it");
    let cpus = std::thread::available_parallelism().unwrap().get();
    for _ in 0..cpus + 2 {
        leaf.run("while :; do :; done");
    }
    watch.wait(Some(Instant::now() + Duration::from_secs(60))).unwrap();
    leaf.kill().unwrap();
    let after = leaf.stats().unwrap().pressure.cpu.unwrap().some.unwrap().total;
    assert!(after > before + Duration::from_millis(20), "{before:?} {after:?}");
    eprintln!("some: {:?} of waiting for {cpus} CPUs", after - before);
}

#[test]
fn a_pressure_watch_ends_with_its_cgroup() {
    let _serial = support::serial();
    let Some(leaf) = Leaf::new() else { return };
    let child = leaf.create_child("child").unwrap();
    let watch = match child.watch_pressure(trigger(PressureResource::Io)) {
        Err(e) if e.kind() == ErrorKind::Unsupported => return support::skip(e),
        watch => watch.unwrap(),
    };
    let waiting = std::thread::spawn(move || watch.wait(soon()).unwrap_err());
    std::thread::sleep(Duration::from_millis(50));
    child.remove(soon()).unwrap();
    assert_eq!(waiting.join().unwrap().kind(), ErrorKind::NotFound);
}

#[test]
fn pressure_that_is_switched_off_says_how_to_switch_it_on() {
    let _serial = support::serial();
    let Some(leaf) = Leaf::new() else { return };
    let mut reader = leaf.stats_reader().unwrap();
    if reader.read().unwrap().pressure.cpu.is_none() {
        return support::skip("the kernel does not count pressure");
    }
    fs::write(leaf.path().join("cgroup.pressure"), "0").unwrap();
    assert!(reader.read().unwrap().pressure.cpu.is_none());
    let e = leaf.watch_pressure(trigger(PressureResource::Cpu)).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Unsupported, "{e}");
    assert!(e.way_out().unwrap().contains("cgroup.pressure"), "{e}");
    fs::write(leaf.path().join("cgroup.pressure"), "1").unwrap();
    reader.refresh().unwrap();
    assert!(reader.read().unwrap().pressure.cpu.is_some());
}
