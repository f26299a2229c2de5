//! What limits through v1 do to what runs. Counts decide, not clocks.

use std::fs;
use std::time::Duration;

use stockade::cgroup::{
    BelowUse, BlockDevice, CpuIdle, CpuMax, CpuSet, Event, IoLimits, Limit, Limits, MemoryEvent, NodeSet,
};
use stockade::container::Container;
use stockade::instance::{ExecOptions, Status, UpdateOptions, WaitOptions};
use stockade::{ErrorKind, Signal};
use support::require;

use crate::host::{group_of, limits_of, procs, read, rig};
use crate::rig::{busybox, end, sh};

const LONG: Duration = Duration::from_secs(60);
const MS: fn(u64) -> Duration = Duration::from_millis;
const SPIN: &str = "while :; do :; done";
/// Fills memory for ever, in small steps.
const EAT: &str = "exec tail /dev/zero";

fn set(c: &Container, limits: Limits) {
    let skipped = c.update(limits).unwrap();
    assert!(skipped.is_empty(), "{skipped:?}");
}

fn used(c: &Container) -> Duration {
    c.stats().unwrap().cpu.unwrap().usage
}

#[test]
fn cpu_max_throttles_until_it_is_lifted() {
    let Some(rig) = rig(&["cpu"]) else { return };
    let limits = Limits::new().cpu_max(CpuMax::quota(MS(5), MS(100))).cpu_max_burst(MS(2));
    let c = rig.run(busybox("slow").limits(limits).args(["sh", "-c", SPIN]));
    let group = group_of(&c, "cpu");
    let files = || ["cpu.cfs_quota_us", "cpu.cfs_period_us", "cpu.cfs_burst_us"].map(|f| read(&group, f));
    assert_eq!(files(), ["5000", "100000", "2000"]);
    assert_eq!(limits_of(&c).cpu_max, Some(CpuMax::quota(MS(5), MS(100))));
    let cpu = || c.stats().unwrap().cpu.unwrap();
    support::until(LONG, "it is throttled", || cpu().throttled_periods.unwrap() >= 5);
    let seen = cpu();
    assert!(seen.periods >= seen.throttled_periods && seen.throttled.unwrap() > Duration::ZERO, "{seen:?}");
    // The kernel's own unit is the nanosecond: throttled for most of each period of 100 ms.
    let most = seen.throttled_periods.unwrap() as u32 * MS(200);
    assert!(seen.throttled.unwrap() > MS(100) && seen.throttled.unwrap() < most, "{seen:?}");
    for (quota, period) in [(50, 500), (4, 20), (20, 200), (500, 1000), (1, 1)] {
        // Both the longer and the shorter period, each way.
        let both = CpuMax::quota(MS(quota), MS(period));
        set(&c, Limits::new().cpu_max_burst(Duration::ZERO).cpu_max(both));
        assert_eq!(limits_of(&c).cpu_max, Some(both));
    }
    set(&c, Limits::new().cpu_max(CpuMax::Max));
    assert_eq!(read(&group, "cpu.cfs_quota_us"), "-1");
    let (throttled, then) = (cpu().throttled_periods.unwrap(), used(&c));
    support::until(LONG, "it runs on", || used(&c) > then + MS(500));
    assert!(cpu().throttled_periods.unwrap() <= throttled + 1, "half a second without a quota");
    end(c);
    rig.end();
}

#[test]
fn cpu_weight_shares_a_cpu() {
    let Some(rig) = rig(&["cpu", "cpuset"]) else { return };
    let one = || Limits::new().cpuset_cpus(CpuSet::new([0]).unwrap());
    let spin = |name: &str, limits: Limits| rig.run(busybox(name).limits(limits).args(["sh", "-c", SPIN]));
    let heavy = spin("heavy", one().cpu_weight(1000_u32));
    let light = spin("light", one().cpu_weight(100_u32));
    assert_eq!(read(&group_of(&heavy, "cpu"), "cpu.shares"), "10240");
    assert_eq!(read(&group_of(&light, "cpu"), "cpu.shares"), "1024");
    assert_eq!(limits_of(&heavy).cpu_weight, Some(1000));
    let (h, l) = (used(&heavy), used(&light));
    support::until(LONG, "three seconds are used", || used(&heavy) + used(&light) > h + l + MS(3000));
    let (h, l) = (used(&heavy) - h, used(&light) - l);
    println!("cpu.shares: weight 1000 got {h:?}, 100 got {l:?}");
    assert!(h > l * 3, "{h:?} to {l:?}");
    // An idle one has no weight, and gets its own back.
    set(&light, Limits::new().cpu_idle(CpuIdle::Idle));
    assert_eq!(read(&group_of(&light, "cpu"), "cpu.idle"), "1");
    assert_eq!((limits_of(&light).cpu_idle, limits_of(&light).cpu_weight), (Some(CpuIdle::Idle), None));
    set(&light, Limits::new().cpu_weight(70_u32));
    set(&light, Limits::new().cpu_idle(CpuIdle::Normal));
    assert_eq!(limits_of(&light).cpu_weight, Some(70));
    end(heavy);
    end(light);
    rig.end();
}

#[test]
fn cpuset_moves_what_runs() {
    let Some(rig) = rig(&["cpuset"]) else { return };
    let online: CpuSet = fs::read_to_string("/sys/devices/system/cpu/online").unwrap().parse().unwrap();
    require!(online.len() >= 2, "needs two CPUs, and has {online}");
    let c = rig.run(busybox("placed").args(["sh", "-c", SPIN]));
    let pid = c.info().unwrap().pid.unwrap();
    let allowed = |pid: u32, key: &str| {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        status.lines().find_map(|l| l.strip_prefix(key)).unwrap().trim().to_owned()
    };
    let before = allowed(pid, "Cpus_allowed_list:");
    for cpu in [1, 0, 1] {
        let one = CpuSet::new([cpu]).unwrap();
        set(&c, Limits::new().cpuset_cpus(one.clone()));
        assert_eq!(allowed(pid, "Cpus_allowed_list:"), cpu.to_string());
        assert_eq!(limits_of(&c).cpuset_cpus, Some(one));
        // Field 39 of its stat: the CPU that it last ran on.
        support::until(LONG, "it runs there", || {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
            stat.rsplit(") ").next().unwrap().split(' ').nth(36) == Some(&cpu.to_string())
        });
        let (_, inside) = sh(&c, "grep Cpus_allowed_list /proc/self/status");
        assert!(inside.ends_with(&format!("\t{cpu}")), "{inside}");
    }
    set(&c, Limits::new().cpuset_cpus(CpuSet::default()).cpuset_mems(NodeSet::new([0]).unwrap()));
    assert_eq!(allowed(pid, "Cpus_allowed_list:"), before);
    assert_eq!(allowed(pid, "Mems_allowed_list:"), "0");
    end(c);
    rig.end();
}

#[test]
fn memory_max_kills_the_payload_or_the_container_and_is_refused_below_use() {
    let Some(rig) = rig(&["memory"]) else { return };
    let c = rig.run(busybox("fed").limits(Limits::new().memory_max(48 << 20).memory_low(4 << 20)));
    let group = group_of(&c, "memory");
    assert_eq!(read(&group, "memory.limit_in_bytes"), (48 << 20).to_string());
    assert_eq!(read(&group, "memory.soft_limit_in_bytes"), (4 << 20).to_string());
    let has = limits_of(&c);
    assert_eq!((has.memory_max, has.memory_low), (Some((48 << 20).into()), Some((4 << 20).into())));
    let mut events = c.resource_events().unwrap();
    // A command beside the first process: that one goes on.
    let status = c.exec(ExecOptions::new(["sh", "-c", EAT])).unwrap().wait().unwrap();
    assert_eq!(status.shell_code(), Some(137), "{status}");
    assert_eq!(c.status(), Status::Running);
    let mut seen = Vec::new();
    while !seen.contains(&MemoryEvent::OomKill) {
        if let Event::Memory { event, .. } = events.next(Some(std::time::Instant::now() + LONG)).unwrap() {
            seen.push(event);
        }
    }
    drop(events);
    let stats = c.stats().unwrap().memory.unwrap();
    assert_eq!(stats.events.as_ref().unwrap().oom_kill, 1, "{stats:?}");
    assert!(stats.events.unwrap().max > 0 && stats.peak >= Some(40 << 20) && stats.peak <= Some(48 << 20));

    let hold = "head -c 24m /dev/zero | tail -c 24m | sleep 600";
    let held = c.exec(ExecOptions::new(["sh", "-c", hold])).unwrap();
    let current = || c.stats().unwrap().memory.unwrap().current.unwrap();
    support::until(LONG, "24 MiB are in use", || current() > 24 << 20);
    let stat = c.stats().unwrap().memory.unwrap().stat;
    assert!(stat.anon > 20 << 20 && stat.anon <= current() && stat.pgfault > 0, "{stat:?}");
    // v1 refuses it itself, whatever is asked for.
    for policy in [BelowUse::Refuse, BelowUse::Allow] {
        let tight = UpdateOptions::new(Limits::new().memory_max(8 << 20)).below_use(policy);
        let e = c.update_with(tight).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::Busy, "{e}");
        assert!(e.to_string().contains("bytes are in use"), "{e}");
    }
    assert_eq!(read(&group, "memory.limit_in_bytes"), (48 << 20).to_string());
    assert_eq!(c.config().limits().memory_max, Some(Limit::Value(48 << 20)));
    drop(held);
    end(c);

    // The first process itself: the container ends.
    let c = rig.run(busybox("eater").limits(Limits::new().memory_max(16 << 20)).args(["sh", "-c", EAT]));
    assert_eq!(c.wait_with(WaitOptions::new().deadline(LONG)).unwrap().shell_code(), Some(137));
    end(c);
    // Nothing fits: the start fails, and the host goes on.
    for bytes in [0, 4 << 10] {
        let c = busybox("tight").limits(Limits::new().memory_max(bytes)).build().unwrap();
        let c = rig.runtime.create(c).unwrap();
        let e = c.start().unwrap_err();
        println!("memory.limit_in_bytes of {bytes}: {e}");
        assert!(matches!(e.kind(), ErrorKind::Died | ErrorKind::Busy), "{e}");
        assert_eq!(c.status(), Status::Stopped);
        end(c);
    }
    assert!(!group.exists());
    rig.end();
}

#[test]
fn swap_is_limited_together_with_memory() {
    let Some(rig) = rig(&["memory"]) else { return };
    let c = rig.run(busybox("swap").limits(Limits::new().memory_max(32 << 20).memory_swap_max(0)));
    let group = group_of(&c, "memory");
    require!(group.join("memory.memsw.limit_in_bytes").exists(), "needs a kernel that counts swap in v1");
    let both = || ["memory.limit_in_bytes", "memory.memsw.limit_in_bytes"].map(|f| read(&group, f));
    let mib = |n: u64| (n << 20).to_string();
    assert_eq!(both(), [mib(32), mib(32)]);
    // Each way, and the part for swap stays.
    for (max, swap) in [(64, 0), (64, 16), (128, 16), (32, 16), (48, 0), (16, 64)] {
        set(&c, Limits::new().memory_max(max << 20).memory_swap_max(swap << 20));
        assert_eq!(both(), [mib(max), mib(max + swap)]);
        let has = limits_of(&c);
        assert_eq!(
            (has.memory_max, has.memory_swap_max),
            (Some((max << 20).into()), Some((swap << 20).into()))
        );
    }
    set(&c, Limits::new().memory_max(40 << 20));
    assert_eq!(both(), [mib(40), mib(104)]);
    let e = c.update(Limits::new().memory_max(Limit::Max)).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Unsupported, "{e}");
    assert!(e.way_out().is_some_and(|hint| hint.contains("memory_max")), "{e}");
    assert_eq!(both(), [mib(40), mib(104)]);
    set(&c, Limits::new().memory_max(Limit::Max).memory_swap_max(Limit::Max));
    let has = limits_of(&c);
    assert_eq!((has.memory_max, has.memory_swap_max), (Some(Limit::Max), Some(Limit::Max)));
    end(c);
    rig.end();
}

#[test]
fn rates_of_block_devices_are_set_and_lifted() {
    let Some(rig) = rig(&["blkio"]) else { return };
    let devices = fs::read_dir("/sys/block").unwrap().flatten();
    let Some(number) = devices.filter_map(|e| fs::read_to_string(e.path().join("dev")).ok()).next() else {
        return support::skip("no block device to name");
    };
    let device: BlockDevice = number.trim().parse().unwrap();
    let slow = || IoLimits::new().read_bytes_max(1 << 20).write_ops_max(100);
    let c = rig.run(busybox("io").limits(Limits::new().io_device(device.clone(), slow())));
    let group = group_of(&c, "blkio");
    assert_eq!(read(&group, "blkio.throttle.read_bps_device"), format!("{} 1048576", number.trim()));
    assert_eq!(read(&group, "blkio.throttle.write_iops_device"), format!("{} 100", number.trim()));
    let has = limits_of(&c).io_devices[&device];
    assert_eq!((has.read_bytes_max, has.write_ops_max), (Some((1 << 20).into()), Some(100.into())));
    assert!(c.stats().unwrap().io.is_some());
    let lifted = IoLimits::new().read_bytes_max(Limit::Max).write_ops_max(Limit::Max);
    set(&c, Limits::new().io_device(device, lifted));
    assert_eq!(read(&group, "blkio.throttle.read_bps_device"), "");
    assert_eq!(read(&group, "blkio.throttle.write_iops_device"), "");
    if group.join("blkio.bfq.weight").exists() {
        for (weight, bfq) in [(50_u32, 50), (100, 100), (10_000, 1000)] {
            set(&c, Limits::new().io_weight(weight));
            assert_eq!(read(&group, "blkio.bfq.weight"), bfq.to_string());
            assert_eq!(limits_of(&c).io_weight, Some(weight));
        }
    }
    end(c);
    rig.end();
}

#[test]
fn a_frozen_container_is_changed_and_killed() {
    let Some(rig) = rig(&["cpu", "pids"]) else { return };
    let c = rig.run(busybox("ice").limits(Limits::new().cpu_weight(50_u32)).args(["sh", "-c", SPIN]));
    support::until(LONG, "it runs", || used(&c) > MS(20));
    c.freeze().unwrap();
    let then = used(&c);
    std::thread::sleep(MS(200));
    assert_eq!(used(&c), then);
    // A first limit of another controller, too: what is frozen is moved all the same.
    set(&c, Limits::new().cpu_weight(7_u32).pids_max(9));
    assert_eq!(procs(&group_of(&c, "pids")), [c.info().unwrap().pid.unwrap()]);
    c.unfreeze().unwrap();
    support::until(LONG, "it goes on", || used(&c) > then);
    c.freeze().unwrap();
    c.stop().unwrap();
    end(c);
    rig.end();
}

#[test]
fn a_fork_bomb_is_held_and_stopped() {
    let Some(rig) = rig(&["pids"]) else { return };
    let bomb = r#"echo 'BEGIN { while (1) system("awk -f /bomb &") }' >/bomb; exec awk -f /bomb 2>/dev/null"#;
    let c = rig.run(busybox("bomb").limits(Limits::new().pids_max(80)));
    let command = c.exec(ExecOptions::new(["sh", "-c", bomb])).unwrap();
    let pids = || c.stats().unwrap().pids.unwrap();
    support::until(LONG, "it is at its limit", || pids().events.max > 0);
    assert!(pids().current <= 80 && pids().peak <= Some(80), "{:?}", pids());
    c.stop().unwrap();
    assert_eq!(command.wait().unwrap().shell_code(), Some(137));
    drop(command);
    // Full: no command is let in, and the end comes all the same.
    c.update(Limits::new().pids_max(1)).unwrap();
    c.start().unwrap();
    let e = c.exec(ExecOptions::new(["true"])).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Exhausted, "{e}");
    c.kill(Signal::KILL).unwrap();
    assert_eq!(c.wait().unwrap().shell_code(), Some(137));
    end(c);
    rig.end();
}
