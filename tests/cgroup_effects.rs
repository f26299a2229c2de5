//! What limits do to what runs: needs the controllers of cgroup v2, as the VM lane has them. Counts decide, not clocks.
#![allow(clippy::print_stderr)]

mod cgroup_lane;
mod cgroup_util;
mod loop_device;

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use cgroup_lane::with_controllers;
use cgroup_util::{Leaf, soon};
use loop_device::LoopDevice;
use stockade::cgroup::{
    BlockDevice, Cgroup, Controller, CpuMax, CpuSet, Enforce, IoLimits, Limit, Limits, OomPolicy,
};
use support::{require, until};

const LONG: Duration = Duration::from_secs(120);

fn eprint(text: &str) {
    use std::io::Write;
    let _ = std::io::stderr().write_all(text.as_bytes());
}

fn set(c: &Cgroup, limits: Limits) {
    assert!(c.update(&limits, Enforce::Required).unwrap().is_empty());
}

/// A counter in a flat keyed file.
fn count(c: &Cgroup, file: &str, key: &str) -> u64 {
    let text = fs::read_to_string(c.path().join(file)).unwrap();
    let line = text.lines().find_map(|l| l.strip_prefix(key)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("no {key} in {text}")).parse().unwrap()
}

fn used(c: &Cgroup) -> Duration {
    c.stats().unwrap().cpu.unwrap().usage
}

const SPIN: &str = "while :; do :; done";

#[test]
fn cpu_max_throttles_until_it_is_lifted() {
    let Some(mut leaf) = with_controllers(&[Controller::Cpu]) else { return };
    let ms = Duration::from_millis;
    set(&leaf, Limits::new().cpu_max(CpuMax::quota(ms(5), ms(100))));
    leaf.run(SPIN);
    until(LONG, "it is throttled", || count(&leaf, "cpu.stat", "nr_throttled") >= 5);
    set(&leaf, Limits::new().cpu_max(CpuMax::Max));
    let (throttled, then) = (count(&leaf, "cpu.stat", "nr_throttled"), used(&leaf));
    until(LONG, "it runs on", || used(&leaf) > then + ms(500));
    assert!(count(&leaf, "cpu.stat", "nr_throttled") <= throttled + 1, "half a second without a quota");
    eprint(&format!("cpu.max: throttled {throttled} times, and not after it was lifted\n"));
}

#[test]
fn cpu_weight_shares_a_cpu() {
    let Some(mut leaf) = with_controllers(&[Controller::Cpu, Controller::Cpuset]) else { return };
    leaf.enable_controllers(&[Controller::Cpu, Controller::Cpuset]).unwrap();
    let one = || Limits::new().cpuset_cpus(CpuSet::new([0]).unwrap());
    let (heavy, light) = (leaf.create_child("heavy").unwrap(), leaf.create_child("light").unwrap());
    set(&heavy, one().cpu_weight(1000_u32));
    set(&light, one().cpu_weight(100_u32));
    leaf.run_in(&heavy, SPIN);
    leaf.run_in(&light, SPIN);
    until(LONG, "both run", || used(&heavy) > Duration::ZERO && used(&light) > Duration::ZERO);
    let (h, l) = (used(&heavy), used(&light));
    until(LONG, "three seconds are used", || used(&heavy) + used(&light) > h + l + Duration::from_secs(3));
    let (h, l) = (used(&heavy) - h, used(&light) - l);
    eprint(&format!("cpu.weight: 1000 got {h:?}, 100 got {l:?}\n"));
    assert!(h > l * 3, "{h:?} to {l:?}");
}

#[test]
fn cpuset_moves_what_runs() {
    let Some(mut leaf) = with_controllers(&[Controller::Cpuset]) else { return };
    let present = fs::read_to_string("/sys/devices/system/cpu/online").unwrap();
    let present: CpuSet = present.parse().unwrap();
    require!(present.len() >= 2, "needs two CPUs, and has {present}");
    let pid = leaf.run(SPIN);
    let allowed = || {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let line = status.lines().find_map(|l| l.strip_prefix("Cpus_allowed_list:")).unwrap();
        line.trim().parse::<CpuSet>().unwrap()
    };
    let mut ran = Vec::new();
    for cpu in [1, 0, 1] {
        let one = CpuSet::new([cpu]).unwrap();
        set(&leaf, Limits::new().cpuset_cpus(one.clone()));
        assert_eq!(allowed(), one);
        // Field 39 of its stat: the CPU that it last ran on.
        until(LONG, "it runs there", || {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
            stat.rsplit(") ").next().unwrap().split(' ').nth(36) == Some(&cpu.to_string())
        });
        ran.push(cpu);
    }
    set(&leaf, Limits::new().cpuset_cpus(CpuSet::default()));
    assert_eq!(allowed(), present);
    eprint(&format!("cpuset.cpus: ran on {ran:?}\n"));
}

/// Fills memory for ever, in small steps.
const EAT: &str = "exec tail /dev/zero";

#[test]
fn memory_high_slows_and_memory_max_kills_one_or_all() {
    let Some(mut leaf) = with_controllers(&[Controller::Memory]) else { return };
    set(&leaf, Limits::new().memory_swap_max(0).memory_high(16 << 20));
    let bystander = leaf.run("exec sleep 600");
    let eater = leaf.run(EAT);
    let events = |key| count(&leaf, "memory.events", key);
    until(LONG, "memory.high acted", || events("high") > 0);
    assert_eq!(events("oom_kill"), 0);

    set(&leaf, Limits::new().memory_high(Limit::Max));
    let tight = stockade::cgroup::ChangeOptions::new().below_use(stockade::cgroup::BelowUse::Allow);
    leaf.update_with(&Limits::new().memory_max(32 << 20), tight).unwrap();
    until(LONG, "the eater is killed", || events("oom_kill") == 1);
    let ended = |pid| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat.contains(") Z ") || stat.is_empty()
    };
    until(LONG, "it has ended", || ended(eater));
    assert!(!ended(bystander), "one process is killed");

    set(&leaf, Limits::new().memory_oom_group(OomPolicy::Cgroup));
    leaf.run(EAT);
    leaf.wait_empty(soon().map(|t| t + LONG)).unwrap();
    assert!(ended(bystander), "all are killed");
    let high = count(&leaf, "memory.events", "high");
    eprint(&format!("memory.high acted {high} times; memory.max killed one, then with oom.group all\n"));
}

#[test]
fn pids_max_holds_for_what_runs() {
    let Some(mut leaf) = with_controllers(&[Controller::Pids]) else { return };
    leaf.run("while :; do sleep 0.01; done 2>/dev/null");
    until(LONG, "it forks", || leaf.stats().unwrap().pids.unwrap().current > 1);
    set(&leaf, Limits::new().pids_max(1));
    until(LONG, "a fork was refused", || count(&leaf, "pids.events", "max") > 0);
}

/// Writes `mib` to the device from inside the cgroup, past the page cache.
fn write_to(leaf: &mut Leaf, node: &Path, mib: u64) -> Duration {
    let done = tempfile::NamedTempFile::new().unwrap();
    let script = format!(
        "dd if=/dev/zero of={} bs=128k count={} oflag=direct 2>/dev/null && echo done >{}",
        node.display(),
        mib * 8,
        done.path().display()
    );
    let start = Instant::now();
    leaf.run(&script);
    until(LONG, "it is written", || fs::read_to_string(done.path()).unwrap() == "done\n");
    start.elapsed()
}

#[test]
fn io_max_slows_writes_to_a_device() {
    let Some(mut leaf) = with_controllers(&[Controller::Io]) else { return };
    let disk = match LoopDevice::new() {
        Ok(disk) => disk,
        Err(why) => return support::skip(why),
    };
    let node = disk.node();
    let free = write_to(&mut leaf, node, 4);
    let slow = IoLimits::new().write_bytes_max(1 << 20);
    set(&leaf, Limits::new().io_device(BlockDevice::path(node), slow));
    let slowed = write_to(&mut leaf, node, 4);
    set(&leaf, Limits::new().io_device(BlockDevice::path(node), IoLimits::new().write_bytes_max(Limit::Max)));
    let text = fs::read_to_string(leaf.path().join("io.max")).unwrap();
    assert!(text.trim().is_empty(), "{text}");
    eprint(&format!("io.max: 4 MiB took {free:?} without and {slowed:?} with 1 MiB/s\n"));
    // It cannot be faster; that it is slower than without is what the limit does.
    assert!(slowed > free && slowed > Duration::from_secs(2), "{free:?}, {slowed:?}");
}

#[test]
fn a_frozen_cgroup_uses_nothing_and_can_be_killed() {
    let Some(mut leaf) = with_controllers(&[Controller::Cpu]) else { return };
    leaf.run(SPIN);
    until(LONG, "it runs", || used(&leaf) > Duration::from_millis(50));
    leaf.freeze(soon()).unwrap();
    let then = used(&leaf);
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(used(&leaf), then);
    // Limits change while it is frozen.
    set(&leaf, Limits::new().cpu_weight(7_u32));
    leaf.thaw(soon()).unwrap();
    until(LONG, "it goes on", || used(&leaf) > then);
    leaf.freeze(soon()).unwrap();
    leaf.kill().unwrap();
    leaf.wait_empty(soon()).unwrap();
}
