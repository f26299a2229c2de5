//! Every control of cgroup v2: set, read back from the kernel, changed as one transaction, and taken away. What the
//! kernel has not got is listed in the output. Needs the controllers: the VM lane has them all.
#![allow(clippy::print_stderr)]

mod cgroup_lane;
mod cgroup_util;
mod loop_device;

use std::fs;
use std::time::Duration;

use cgroup_lane::with_controllers;
use cgroup_util::Leaf;
use loop_device::LoopDevice;
use stockade::ErrorKind;
use stockade::cgroup::{
    BelowUse, BlockDevice, Cgroup, ChangeOptions, Controller, CpuIdle, CpuMax, CpuSet, DmemLimits, Enforce,
    HugePageSize, HugetlbLimits, IoLimits, IoWeight, Limit, Limits, NodeSet, OomPolicy, Partition, Percent,
    RdmaLimits, Reclaimed, WriteFault,
};
use support::until;

const LONG: Duration = Duration::from_secs(60);
const NEEDED: [Controller; 4] = [Controller::Cpu, Controller::Cpuset, Controller::Memory, Controller::Pids];

fn file(c: &Cgroup, name: &str) -> String {
    fs::read_to_string(c.path().join(name)).unwrap().trim().to_owned()
}

fn eprint(text: &str) {
    use std::io::Write;
    let _ = std::io::stderr().write_all(text.as_bytes());
}

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

/// The devices and resources that the files of the kernel name: the first word of the first line.
fn first_key(name: &str) -> Option<String> {
    let text = fs::read_to_string(format!("/sys/fs/cgroup/{name}")).ok()?;
    Some(text.split_whitespace().next()?.to_owned())
}

/// Control, the file, what it holds then (the line of a device, without it), and the limit.
fn table(disk: Option<&LoopDevice>) -> Vec<(&'static str, String, Limits)> {
    let l = Limits::new;
    let percent = |text: &str| text.parse::<Percent>().unwrap();
    let mut all = vec![
        ("cpu.weight", "250".to_owned(), l().cpu_weight(250_u32)),
        ("cpu.max", "30000 60000".to_owned(), l().cpu_max(CpuMax::quota(ms(30), ms(60)))),
        ("cpu.max.burst", "10000".to_owned(), l().cpu_max_burst(ms(10))),
        ("cpu.max.burst", "0".to_owned(), l().cpu_max_burst(Duration::ZERO)),
        ("cpu.max", "max 60000".to_owned(), l().cpu_max(CpuMax::Max)),
        ("cpu.uclamp.min", "12.50".to_owned(), l().cpu_uclamp_min(percent("12.5"))),
        ("cpu.uclamp.max", "max".to_owned(), l().cpu_uclamp_max(Percent::WHOLE)),
        ("cpu.idle", "1".to_owned(), l().cpu_idle(CpuIdle::Idle)),
        ("cpu.idle", "0".to_owned(), l().cpu_idle(CpuIdle::Normal)),
        ("cpuset.mems", "0".to_owned(), l().cpuset_mems(NodeSet::new([0]).unwrap())),
        ("cpuset.cpus", "0".to_owned(), l().cpuset_cpus(CpuSet::new([0]).unwrap())),
        ("cpuset.cpus", String::new(), l().cpuset_cpus(CpuSet::default())),
        ("cpuset.cpus.partition", "member".to_owned(), l().cpuset_partition(Partition::Member)),
        ("memory.min", "1048576".to_owned(), l().memory_min(1 << 20)),
        ("memory.low", "2097152".to_owned(), l().memory_low(2 << 20)),
        ("memory.high", "67108864".to_owned(), l().memory_high(64 << 20)),
        ("memory.max", "134217728".to_owned(), l().memory_max(128 << 20)),
        ("memory.max", "max".to_owned(), l().memory_max(Limit::Max)),
        ("memory.swap.high", "4194304".to_owned(), l().memory_swap_high(4 << 20)),
        ("memory.swap.max", "8388608".to_owned(), l().memory_swap_max(8 << 20)),
        ("memory.zswap.max", "0".to_owned(), l().memory_zswap_max(0)),
        ("memory.oom.group", "1".to_owned(), l().memory_oom_group(OomPolicy::Cgroup)),
        ("io.weight", "default 321".to_owned(), l().io_weight(321_u32)),
        ("pids.max", "77".to_owned(), l().pids_max(77)),
        (
            "hugetlb.2MB.max",
            "4194304".to_owned(),
            l().huge_pages(HugePageSize::MB2, HugetlbLimits::new().max(4 << 20)),
        ),
        (
            "hugetlb.2MB.rsvd.max",
            "6291456".to_owned(),
            l().huge_pages(HugePageSize::MB2, HugetlbLimits::new().rsvd_max(6 << 20)),
        ),
    ];
    if let Some(disk) = disk {
        let node = || BlockDevice::path(disk.node());
        let rates = IoLimits::new().read_bytes_max(1 << 20).write_bytes_max(2 << 20);
        let rates = rates.read_ops_max(100).write_ops_max(Limit::Max);
        all.push((
            "io.max",
            "rbps=1048576 wbps=2097152 riops=100 wiops=max".to_owned(),
            l().io_device(node(), rates),
        ));
        let weight = IoLimits::new().weight(55_u32);
        all.push(("io.weight", "55".to_owned(), l().io_device(node(), weight)));
        all.push((
            "io.weight",
            String::new(),
            l().io_device(node(), IoLimits::new().weight(IoWeight::Default)),
        ));
        let target = "target=5000".to_owned();
        all.push(("io.latency", target, l().io_device(node(), IoLimits::new().latency(ms(5)))));
    }
    // Who is there is listed at the root; a name that nobody has stands for the rest.
    let name = |file| first_key(file).unwrap_or_else(|| "none".to_owned());
    let rdma = RdmaLimits::new().hca_handles(3).hca_objects(Limit::Max);
    all.push((
        "rdma.max",
        "hca_handle=3 hca_object=max".to_owned(),
        l().rdma_device(name("rdma.current"), rdma),
    ));
    all.push(("misc.max", "5".to_owned(), l().misc_resource(name("misc.capacity"), Limit::Value(5))));
    let region = DmemLimits::new().max(1 << 20);
    all.push(("dmem.max", "1048576".to_owned(), l().dmem_region(name("dmem.capacity"), region)));
    all
}

#[test]
fn each_control_is_set_and_read_back() {
    let Some(leaf) = with_controllers(&NEEDED) else { return };
    let disk = LoopDevice::new();
    let (mut set, mut lacking) = (0, Vec::new());
    if let Err(why) = &disk {
        lacking.push(format!("io.max and io.weight of a device: {why}"));
    }
    for (name, expected, limits) in table(disk.as_ref().ok()) {
        if !leaf.path().join(name).exists() {
            lacking.push(format!("{name}: no such file"));
            continue;
        }
        let nobody = |l: &Limits| l.rdma.contains_key("none") || l.misc.contains_key("none");
        if nobody(&limits) {
            let e = leaf.apply(&limits, Enforce::Required).unwrap_err();
            assert!(matches!(e.kind(), ErrorKind::InvalidConfig | ErrorKind::NotFound), "{e}");
            lacking.push(format!("{name}: nothing of the kind on this machine"));
            continue;
        }
        match leaf.update(&limits, Enforce::Required) {
            Err(e) if e.errno() == Some(95) => {
                lacking.push(format!("{name}: {e}"));
                continue;
            }
            done => assert!(done.unwrap().is_empty()),
        }
        let text = file(&leaf, name);
        match limits.io_devices.is_empty() && limits.rdma.is_empty() && limits.misc.is_empty() {
            true => assert_eq!(text, expected, "{name}"),
            false if expected.is_empty() => assert!(!text.contains(" 55"), "{name}: {text}"),
            false => assert!(text.lines().any(|l| l.ends_with(&format!(" {expected}"))), "{name}: {text}"),
        }
        // The typed form says the same. The device is given by its number there.
        let found = leaf.limits().unwrap();
        if limits.io_devices.is_empty() {
            assert_eq!(found.patched(&limits), found, "{name}");
        } else if !expected.is_empty() {
            let (device, l) = found.io_devices.first_key_value().unwrap();
            assert!(matches!(device, BlockDevice::Number(_)), "{found:?}");
            let wanted = limits.io_devices.first_key_value().unwrap().1;
            let named =
                [wanted.weight.map(|w| Some(w) == l.weight), wanted.latency.map(|w| Some(w) == l.latency)];
            assert!(named.iter().all(|same| *same != Some(false)), "{found:?}");
            assert!(wanted.read_bytes_max.is_none_or(|w| Some(w) == l.read_bytes_max), "{found:?}");
        }
        set += 1;
    }
    eprint(&format!("controls: {set} set and read back; lacking:\n  {}\n", lacking.join("\n  ")));
    assert!(set >= 20, "only {set} controls");
}

#[test]
fn memory_is_reclaimed_on_demand() {
    let Some(mut leaf) = with_controllers(&NEEDED) else { return };
    // Page cache of a file on disk or tmpfs without swap: no matter, the answer is one of the two.
    leaf.run("head -c 8m /dev/zero > /tmp/stockade-reclaim-$$; cat /tmp/stockade-reclaim-$$ >/dev/null; rm /tmp/stockade-reclaim-$$; exec sleep 60");
    until(LONG, "something is charged", || leaf.stats().unwrap().memory.unwrap().current > Some(1 << 16));
    let done = leaf.reclaim(1 << 40).unwrap();
    assert_eq!(done, Reclaimed::Less, "nobody has 1 TiB");
}

/// Two sets of eight limits that differ in all.
fn eights() -> [Limits; 2] {
    let of = |n: u64| {
        Limits::new()
            .cpu_weight(100 * n as u32)
            .cpu_max(CpuMax::quota(ms(40 * n), ms(100)))
            .cpu_max_burst(ms(30 * n))
            .memory_high((64 << 20) * n)
            .memory_max((80 << 20) * n)
            .memory_swap_max((10 << 20) * n)
            .memory_low((1 << 20) * n)
            .pids_max(100 * n)
    };
    [of(2), of(3)]
}

/// All files of limits, as text.
fn snapshot(leaf: &Leaf) -> Vec<(String, String)> {
    let mut out = Vec::new();
    for entry in fs::read_dir(leaf.path()).unwrap().flatten() {
        let name = entry.file_name().into_string().unwrap();
        let is_limit =
            [".max", ".high", ".low", ".min", ".weight", ".burst", ".idle", ".cpus", ".mems", ".group"]
                .iter()
                .any(|end| name.ends_with(end));
        if let Ok(text) = fs::read_to_string(entry.path())
            && is_limit
        {
            out.push((name, text));
        }
    }
    out.sort();
    out
}

#[test]
fn a_fault_at_any_write_leaves_all_old_limits() {
    let Some(mut leaf) = with_controllers(&NEEDED) else { return };
    let [small, large] = eights();
    leaf.run("exec sleep 600");
    let mut faults = 0;
    for (old, new) in [(&small, &large), (&large, &small)] {
        leaf.update(old, Enforce::Required).unwrap();
        let before = snapshot(&leaf);
        for write in 0..8 {
            let fault = WriteFault { write, errno: 12 };
            let e = leaf.update_with(new, ChangeOptions::new().fault(fault)).unwrap_err();
            assert_eq!(e.errno(), Some(12), "{e}");
            assert!(!e.to_string().contains("put back"), "{e}");
            assert_eq!(snapshot(&leaf), before, "write {write}");
            faults += 1;
        }
        leaf.update(new, Enforce::Required).unwrap();
        let after = snapshot(&leaf);
        let changed = before.iter().zip(&after).filter(|(b, a)| b != a).count();
        assert_eq!(changed, 8);
    }
    eprint(&format!(
        "{faults} faulted updates of eight limits left all {} files as they were\n",
        snapshot(&leaf).len()
    ));
}

#[test]
fn what_the_kernel_refuses_in_the_middle_takes_the_rest_back() {
    let Some(leaf) = with_controllers(&NEEDED) else { return };
    leaf.update(
        &Limits::new().cpu_max(CpuMax::quota(ms(50), ms(100))).cpu_max_burst(ms(50)),
        Enforce::Required,
    )
    .unwrap();
    let before = snapshot(&leaf);
    // By itself the quota is right; with the burst that stays it is not.
    let less = Limits::new().cpu_max(CpuMax::quota(ms(20), ms(100))).memory_max(64 << 20).pids_max(10);
    let e = leaf.update(&less, Enforce::Required).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::InvalidConfig, "{e}");
    assert!(e.to_string().contains("cpu.max"), "{e}");
    assert_eq!(snapshot(&leaf), before);
    // Both ways together it goes, in whatever order that needs.
    for n in [20, 60, 5] {
        let both = Limits::new().cpu_max(CpuMax::quota(ms(n), ms(100))).cpu_max_burst(ms(n));
        leaf.update(&both, Enforce::Required).unwrap();
    }
}

#[test]
fn a_limit_of_memory_below_use_is_refused_unless_it_is_asked_for() {
    let Some(mut leaf) = with_controllers(&NEEDED) else { return };
    // No swap: anonymous memory stays.
    leaf.update(&Limits::new().memory_swap_max(0), Enforce::Required).unwrap();
    let pid = leaf.run("exec awk 'BEGIN { s = \"x\"; while (length(s) < 32 * 1024 * 1024) s = s s; while (1) system(\"sleep 600\") }'");
    until(LONG, "it holds 32 MiB", || leaf.stats().unwrap().memory.unwrap().current > Some(32 << 20));
    let before = snapshot(&leaf);
    let tight = Limits::new().memory_max(8 << 20).pids_max(50);
    let e = leaf.update(&tight, Enforce::Required).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Busy, "{e}");
    assert!(e.to_string().contains("bytes are in use") && e.way_out().is_some(), "{e}");
    assert_eq!(snapshot(&leaf), before);
    let state = || fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    assert!(!state().contains(" Z "));
    leaf.update_with(&tight, ChangeOptions::new().below_use(BelowUse::Allow)).unwrap();
    until(LONG, "the OOM killer came", || leaf.memory_events().unwrap().unwrap().oom_kill > 0);
    // Processes above a limit of processes are left alone.
    leaf.run("exec sleep 60");
    leaf.update(&Limits::new().pids_max(0), Enforce::Required).unwrap();
    assert!(leaf.stats().unwrap().pids.unwrap().current > 0);
}

#[test]
fn a_controller_that_is_taken_away_is_an_error_or_skipped() {
    let Some(leaf) = with_controllers(&NEEDED) else { return };
    leaf.enable_controllers(&[Controller::Memory, Controller::Pids]).unwrap();
    let child = leaf.create_child("child").unwrap();
    let both = |n| Limits::new().pids_max(n).memory_max(n << 20);
    child.apply(&both(64), Enforce::Required).unwrap();
    fs::write(leaf.path().join("cgroup.subtree_control"), "-memory").unwrap();
    let e = child.update(&both(32), Enforce::Required).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Unsupported, "{e}");
    assert!(e.to_string().contains("does not give it to its children") && e.way_out().is_some(), "{e}");
    assert_eq!(file(&child, "pids.max"), "64");
    let skipped = child.update(&both(32), Enforce::BestEffort).unwrap();
    assert_eq!(skipped.iter().map(|s| s.file.as_str()).collect::<Vec<_>>(), ["memory.max"]);
    assert_eq!(file(&child, "pids.max"), "32");
    assert_eq!(child.limits().unwrap().memory_max, None);
    child.remove(cgroup_util::soon()).unwrap();
}

#[test]
fn what_is_not_on_the_host_is_refused_before_anything_is_written() {
    let Some(leaf) = with_controllers(&NEEDED) else { return };
    let before = snapshot(&leaf);
    let present = fs::read_to_string("/sys/devices/system/cpu/present").unwrap();
    let next = present.trim().parse::<CpuSet>().unwrap().iter().last().unwrap() + 1;
    let cpus = CpuSet::new([0, next]).unwrap();
    let e = leaf.update(&Limits::new().pids_max(5).cpuset_cpus(cpus), Enforce::BestEffort).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::InvalidConfig);
    assert!(e.to_string().contains(&format!("{next} is not on this host")), "{e}");
    let io = IoLimits::new().write_bytes_max(1 << 20);
    for (device, kind) in [
        (BlockDevice::number(4000, 1), ErrorKind::NotFound),
        (BlockDevice::path("/no/such/disk"), ErrorKind::NotFound),
        (BlockDevice::path("/proc"), ErrorKind::InvalidConfig),
    ] {
        let limits = Limits::new().pids_max(5).io_device(device, io);
        for e in [
            leaf.update(&limits, Enforce::BestEffort).unwrap_err(),
            leaf.apply(&limits, Enforce::BestEffort).unwrap_err(),
        ] {
            assert_eq!(e.kind(), kind, "{e}");
        }
    }
    assert_eq!(snapshot(&leaf), before);
}

#[test]
fn one_device_by_two_names_is_refused_and_one_that_vanishes_is_an_error() {
    let Some(leaf) = with_controllers(&[Controller::Io]) else { return };
    let disk = match LoopDevice::new() {
        Ok(disk) => disk,
        Err(why) => return support::skip(why),
    };
    use std::os::unix::fs::MetadataExt;
    let number = fs::metadata(disk.node()).unwrap().rdev();
    let number = BlockDevice::number(rustix::fs::major(number), rustix::fs::minor(number));
    let io = || IoLimits::new().write_bytes_max(1 << 20);
    let twice = Limits::new().io_device(number, io()).io_device(BlockDevice::path(disk.node()), io());
    let e = leaf.apply(&twice, Enforce::Required).unwrap_err();
    assert!(e.kind() == ErrorKind::InvalidConfig && e.to_string().contains("same block device"), "{e}");
    let gone = BlockDevice::path("/dev/loop-that-is-gone");
    let e = leaf.apply(&Limits::new().io_device(gone, io()), Enforce::Required).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::NotFound, "{e}");
}
