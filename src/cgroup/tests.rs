//! Limits as values, and updates of them on a mock of a cgroup. What the kernel does is in `tests/cgroup_*.rs`.

use std::time::Duration;

use rustix::io::Errno;

use super::mock::Mock;
use super::update::{self, WriteFault};
use super::*;
use crate::error::ErrorKind;

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

fn change(mock: &Mock, limits: &Limits, options: ChangeOptions) -> crate::Result<Vec<Skipped>> {
    update::update(mock, limits.settings().unwrap(), &options, None)
}

fn set(mock: &Mock, limits: &Limits) {
    assert!(change(mock, limits, ChangeOptions::new()).unwrap().is_empty());
}

/// Something of everything but block devices, which are looked up on the host.
fn everything() -> Limits {
    Limits::new()
        .cpu_weight(200_u32)
        .cpu_max(CpuMax::quota(ms(50), ms(100)))
        .cpu_max_burst(ms(20))
        .cpu_idle(CpuIdle::Normal)
        .cpu_uclamp_min("10.5".parse::<Percent>().unwrap())
        .cpu_uclamp_max("80".parse::<Percent>().unwrap())
        .cpuset_cpus(CpuSet::new([0]).unwrap())
        .cpuset_mems(NodeSet::new([0]).unwrap())
        .cpuset_partition(Partition::Member)
        .memory_min(4 << 20)
        .memory_low(8 << 20)
        .memory_high(32 << 20)
        .memory_max(64 << 20)
        .memory_swap_high(8 << 20)
        .memory_swap_max(16 << 20)
        .memory_zswap_max(0)
        .memory_oom_group(OomPolicy::Cgroup)
        .io_weight(300_u32)
        .pids_max(50)
        .huge_pages(HugePageSize::MB2, HugetlbLimits::new().max(4 << 20).rsvd_max(8 << 20))
        .rdma_device("mlx5_0", RdmaLimits::new().hca_handles(2).hca_objects(2000))
        .misc_resource("sev", Limit::Value(3))
        .dmem_region("vram0", DmemLimits::new().min(0).low(1 << 20).max(1 << 30))
}

#[test]
fn limits_are_numbers_or_max_in_json() {
    let limits = Limits::new().pids_max(Limit::Max).memory_max(1 << 20);
    let json = serde_json::to_string(&limits).unwrap();
    assert_eq!(json, r#"{"memory_max":1048576,"pids_max":"max"}"#);
    assert_eq!(serde_json::from_str::<Limits>(&json).unwrap(), limits);
    assert_eq!(serde_json::from_str::<Limits>("{}").unwrap(), Limits::default());
    for bad in
        [r#"{"pids_max":"none"}"#, r#"{"pids_max":-1}"#, r#"{"pids_mx":1}"#, r#"{"cpuset_cpus":"1-0"}"#]
    {
        serde_json::from_str::<Limits>(bad).unwrap_err();
    }
}

#[test]
fn all_limits_survive_json() {
    let device = IoLimits::new().weight(50).read_bytes_max(1 << 20).latency(ms(5));
    let limits = everything()
        .io_device(BlockDevice::number(8, 0), device)
        .io_device(BlockDevice::path("/srv"), IoLimits::new().write_ops_max(Limit::Max));
    limits.check().unwrap();
    let json = serde_json::to_string(&limits).unwrap();
    assert_eq!(serde_json::from_str::<Limits>(&json).unwrap(), limits, "{json}");
}

#[test]
fn records_of_the_version_before_are_read() {
    let old = r#"{"pids_max":64,"memory_max":"max"}"#;
    let limits: Limits = serde_json::from_str(old).unwrap();
    assert_eq!(limits, Limits::new().pids_max(64).memory_max(Limit::Max));
}

#[test]
fn limits_name_their_controllers() {
    assert_eq!(Limits::default().controllers(), []);
    assert_eq!(
        Limits::new().pids_max(5).memory_max(Limit::Max).controllers(),
        [Controller::Memory, Controller::Pids]
    );
    assert_eq!(everything().controllers(), Controller::ALL);
    let mut named: Vec<_> = everything().settings().unwrap().iter().map(|s| s.controller).collect();
    named.sort_unstable();
    named.dedup();
    assert_eq!(named, Controller::ALL);
}

#[test]
fn every_mistake_is_reported_with_field_and_value() {
    let device = BlockDevice::number(8, 0);
    let io = IoLimits::new().weight(0).read_bytes_max(0).read_ops_max(u64::from(u32::MAX) + 1);
    let wrong = Limits::new()
        .cpu_weight(10_001_u32)
        .cpu_max(CpuMax::quota(Duration::from_micros(999), ms(1001)))
        .cpu_max_burst(ms(2))
        .cpu_uclamp_min(Percent::WHOLE)
        .cpu_uclamp_max(Percent::ZERO)
        .memory_min(30)
        .memory_low(21)
        .memory_high(20)
        .memory_max(19)
        .memory_swap_high(2)
        .memory_swap_max(1)
        .memory_zswap_max(u64::MAX)
        .io_weight(0_u32)
        .io_device(device, io)
        .io_device(BlockDevice::path("srv"), IoLimits::new())
        .pids_max(u64::MAX)
        .huge_pages(HugePageSize::GB1, HugetlbLimits::new().max(u64::MAX))
        .rdma_device("a b", RdmaLimits::new().hca_handles(1 << 31))
        .misc_resource("", Limit::Value(1))
        .dmem_region("r", DmemLimits::new().low(2).max(1));
    let found = wrong.problems();
    let expected = [
        ("cpu_weight", "10001 is not 1 to 10000"),
        ("cpu_max", "999µs is below 1 ms"),
        ("cpu_max", "1.001s is not 1 ms to 1 s"),
        ("cpu_max_burst", "2ms is above the quota of cpu_max, which is 999µs"),
        ("cpu_uclamp_min", "100.00 % is above cpu_uclamp_max, which is 0.00 %"),
        ("memory_zswap_max", "18446744073709551615 is above"),
        ("memory_min", "30 is above memory_high, which is 20"),
        ("memory_min", "30 is above memory_max, which is 19"),
        ("memory_low", "21 is above memory_high, which is 20"),
        ("memory_low", "21 is above memory_max, which is 19"),
        ("memory_high", "20 is above memory_max, which is 19"),
        ("memory_swap_high", "2 is above memory_swap_max, which is 1"),
        ("io_weight", "0 is not 1 to 10000"),
        ("io_devices[8:0].weight", "0 is not 1 to 10000"),
        ("io_devices[8:0].read_bytes_max", "0 would stop all"),
        ("io_devices[8:0].read_ops_max", "4294967296 is above"),
        ("io_devices[srv]", "is not an absolute path"),
        ("pids_max", "18446744073709551615 is above 4194304"),
        ("hugetlb[1GB].max", "18446744073709551615 is above"),
        ("rdma", "`a b` is no name"),
        ("rdma[a b].hca_handles", "2147483648 is above"),
        ("misc", "`` is no name"),
        ("dmem[r].low", "2 is above dmem[r].max, which is 1"),
    ];
    for (field, why) in expected {
        assert!(found.iter().any(|(f, w)| f == field && w.contains(why)), "{field}: {why}\n{found:#?}");
    }
    assert_eq!(found.len(), expected.len(), "{found:#?}");
    let e = wrong.check().unwrap_err();
    assert_eq!(e.kind(), ErrorKind::InvalidConfig);
    assert!(expected.iter().all(|(_, why)| e.to_string().contains(why)), "{e}");
    // The bounds themselves are right.
    everything().check().unwrap();
    let edges = Limits::new()
        .cpu_weight(1_u32)
        .cpu_max(CpuMax::quota(ms(1), ms(1000)))
        .cpu_max_burst(ms(1))
        .memory_low(Limit::Max)
        .memory_high(5)
        .memory_max(5)
        .pids_max(0);
    edges.check().unwrap();
}

#[test]
fn what_is_not_on_the_host_is_refused_before_anything_is_written() {
    let cpus = CpuSet::new([0, CpuSet::HIGHEST]).unwrap();
    let e = Limits::new().cpuset_cpus(cpus).check_host().unwrap_err();
    assert_eq!(e.kind(), ErrorKind::InvalidConfig, "{e}");
    assert!(
        e.to_string().contains("8191 is not on this host") && e.to_string().contains("cpuset_cpus"),
        "{e}"
    );
    let nodes = NodeSet::new([NodeSet::HIGHEST]).unwrap();
    let e = Limits::new().cpuset_mems(nodes).check_host().unwrap_err();
    assert!(e.to_string().contains("1023 is not on this host"), "{e}");
    let none = BlockDevice::number(4000, 0);
    let e = Limits::new().io_device(none, IoLimits::new().write_bytes_max(1)).check_host().unwrap_err();
    assert!(e.kind() == ErrorKind::NotFound && e.to_string().contains("4000:0"), "{e}");
}

#[test]
fn what_was_set_on_a_mock_is_read_back() {
    let mock = Mock::new();
    let limits = everything();
    set(&mock, &limits);
    let found = Limits::read(&mock).unwrap();
    // Of the resource that nobody set it has no limit.
    let limits = limits.misc_resource("sev_es", Limit::Max);
    assert_eq!(found, limits);
    // Again: nothing is left to be written but the weight, which is never taken for granted.
    mock.log.borrow_mut().clear();
    set(&mock, &everything());
    assert_eq!(*mock.log.borrow(), ["cpu.weight=200"]);
}

#[test]
fn a_patch_leaves_what_it_does_not_name() {
    let disk = || BlockDevice::number(8, 0);
    let old = Limits::new()
        .pids_max(10)
        .memory_max(1 << 20)
        .io_device(disk(), IoLimits::new().read_bytes_max(1).write_bytes_max(2))
        .misc_resource("sev", Limit::Value(1));
    let patch = Limits::new()
        .memory_max(Limit::Max)
        .cpu_weight(5_u32)
        .io_device(disk(), IoLimits::new().write_bytes_max(Limit::Max))
        .misc_resource("sev_es", Limit::Value(2));
    let new = Limits::new()
        .pids_max(10)
        .memory_max(Limit::Max)
        .cpu_weight(5_u32)
        .io_device(disk(), IoLimits::new().read_bytes_max(1).write_bytes_max(Limit::Max))
        .misc_resource("sev", Limit::Value(1))
        .misc_resource("sev_es", Limit::Value(2));
    assert_eq!(old.patched(&patch), new);
    assert_eq!(old.patched(&Limits::new()), old);
}

/// Two sets of eight limits that differ in all.
fn eights() -> [Limits; 2] {
    let of = |n: u64| {
        Limits::new()
            .cpu_weight(100 * n as u32)
            .cpu_max(CpuMax::quota(ms(40 * n), ms(100)))
            .cpu_max_burst(ms(30 * n))
            .memory_high((20 << 20) * n)
            .memory_max((30 << 20) * n)
            .memory_swap_max((10 << 20) * n)
            .pids_max(100 * n)
            .misc_resource("sev", Limit::Value(n))
    };
    [of(1), of(3)]
}

#[test]
fn a_fault_at_any_write_leaves_all_old_limits_on_a_mock() {
    let [small, large] = eights();
    let mut faults = 0;
    for (old, new) in [(&small, &large), (&large, &small)] {
        for write in 0..8 {
            let mock = Mock::new();
            set(&mock, old);
            let before = mock.all();
            let fault = WriteFault { write, errno: libc::EIO };
            let e = change(&mock, new, ChangeOptions::new().fault(fault)).unwrap_err();
            assert!(e.errno() == Some(libc::EIO) && !e.to_string().contains("put back"), "{e}");
            assert_eq!(mock.all(), before, "write {write}");
            faults += 1;
        }
        let mock = Mock::new();
        set(&mock, old);
        let beyond = WriteFault { write: 8, errno: libc::EIO };
        change(&mock, new, ChangeOptions::new().fault(beyond)).unwrap();
        let found = Limits::read(&mock).unwrap();
        assert_eq!(found, found.patched(new), "there are eight writes, and they were made");
    }
    assert_eq!(faults, 16);
}

#[test]
fn a_fault_at_any_write_of_everything_leaves_all_old_limits_on_a_mock() {
    let all = everything().settings().unwrap().len();
    let mut seen = 0;
    for write in 0..all {
        let mock = Mock::new();
        let before = mock.all();
        let fault = WriteFault { write, errno: libc::ENOMEM };
        if change(&mock, &everything(), ChangeOptions::new().fault(fault)).is_ok() {
            continue;
        }
        assert_eq!(mock.all(), before, "write {write}");
        seen += 1;
    }
    // Of all that is set, these are as they were: cpu.idle, the partition, dmem.min.
    assert_eq!(seen, all - 3);
}

#[test]
fn more_comes_before_less_and_what_can_kill_comes_last() {
    let [small, large] = eights();
    let mock = Mock::new();
    set(&mock, &small);
    mock.log.borrow_mut().clear();
    set(&mock, &large);
    assert_eq!(
        *mock.log.borrow(),
        [
            "memory.swap.max=31457280",
            "memory.max=94371840",
            "memory.high=62914560",
            "cpu.weight=300",
            "cpu.max=120000 100000",
            "cpu.max.burst=90000",
            "misc.max=sev 3",
            "pids.max=300",
        ]
    );
    mock.log.borrow_mut().clear();
    set(&mock, &small);
    assert_eq!(
        *mock.log.borrow(),
        [
            "cpu.max.burst=30000",
            "cpu.weight=100",
            "cpu.max=40000 100000",
            "misc.max=sev 1",
            "pids.max=100",
            "memory.high=20971520",
            "memory.max=31457280",
            "memory.swap.max=10485760",
        ]
    );
}

#[test]
fn an_idle_cgroup_keeps_its_weight_through_a_failure() {
    let mock = Mock::new();
    set(&mock, &Limits::new().cpu_weight(700_u32));
    let fail = ChangeOptions::new().fault(WriteFault { write: 1, errno: libc::EIO });
    // The limit of memory goes down after the change to idle, and fails.
    let idle = Limits::new().cpu_idle(CpuIdle::Idle).memory_max(1 << 20);
    change(&mock, &idle, fail.clone()).unwrap_err();
    assert_eq!((mock.file("cpu.idle"), mock.file("cpu.weight")), ("0".into(), "700".into()));
    set(&mock, &idle);
    assert_eq!(mock.file("cpu.idle"), "1");
    // No weight can be set of an idle one; it counts later.
    set(&mock, &Limits::new().cpu_weight(800_u32));
    set(&mock, &Limits::new().cpu_weight(800_u32).cpu_idle(CpuIdle::Idle));
    let normal = Limits::new().cpu_weight(800_u32).cpu_idle(CpuIdle::Normal);
    change(&mock, &normal, fail).unwrap_err();
    assert_eq!(mock.file("cpu.idle"), "1");
    set(&mock, &normal);
    assert_eq!((mock.file("cpu.idle"), mock.file("cpu.weight")), ("0".into(), "800".into()));
}

#[test]
fn a_set_of_cpus_can_be_lifted_and_undone_under_processes() {
    let mock = Mock::new();
    mock.place("pids.current", "1");
    let one = Limits::new().cpuset_cpus(CpuSet::new([0]).unwrap());
    let fail = ChangeOptions::new().fault(WriteFault { write: 1, errno: libc::EIO });
    let e = change(&mock, &one.clone().memory_max(1 << 20), fail).unwrap_err();
    assert!(!e.to_string().contains("put back"), "{e}");
    assert_eq!(mock.file("cpuset.cpus"), "0-3");
    set(&mock, &one);
    set(&mock, &Limits::new().cpuset_cpus(CpuSet::default()));
    assert_eq!(mock.file("cpuset.cpus"), "0-3");
}

#[test]
fn a_rollback_that_fails_too_is_reported() {
    let mock = Mock::new();
    let limits = Limits::new().pids_max(5).memory_max(1 << 20);
    struct Breaks<'a>(&'a Mock);
    impl setting::Files for Breaks<'_> {
        fn get(&self, name: &str) -> crate::Result<String> {
            self.0.get(name)
        }
        fn put(&self, name: &str, value: &str) -> crate::Result<()> {
            let done = self.0.put(name, value);
            self.0.broken.borrow_mut().insert(name.to_owned(), Errno::ACCESS);
            done
        }
        fn names(&self) -> crate::Result<Vec<String>> {
            self.0.names()
        }
        fn lacks(&self, controller: Controller, name: &str) -> crate::Error {
            self.0.lacks(controller, name)
        }
    }
    let fault = ChangeOptions::new().fault(WriteFault { write: 1, errno: libc::EIO });
    let e = update::update(&Breaks(&mock), limits.settings().unwrap(), &fault, None).unwrap_err();
    assert_eq!(e.errno(), Some(libc::EIO));
    let text = e.to_string();
    assert!(
        text.contains("memory.max") && text.contains("pids.max could not be put back to `max`"),
        "{text}"
    );
}

#[test]
fn a_limit_of_memory_below_use_is_reclaimed_refused_or_allowed() {
    let limits = Limits::new().memory_max(50 << 20).pids_max(5);
    let mock = Mock::new();
    mock.place("memory.current", &(200_u64 << 20).to_string());
    *mock.pinned.borrow_mut() = 60 << 20;
    let e = change(&mock, &limits, ChangeOptions::new()).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Busy, "{e}");
    assert!(e.to_string().contains("62914560 bytes are in use") && e.way_out().is_some(), "{e}");
    assert_eq!((mock.file("memory.max"), mock.file("pids.max")), ("max".into(), "max".into()));
    assert_eq!(*mock.killed.borrow(), 0);

    let late = change(&mock, &limits, ChangeOptions::new().deadline(std::time::Instant::now())).unwrap_err();
    assert_eq!(late.kind(), ErrorKind::Timeout);

    change(&mock, &limits, ChangeOptions::new().below_use(BelowUse::Allow)).unwrap();
    assert_eq!((mock.file("memory.max"), *mock.killed.borrow()), ((50 << 20).to_string(), 1));

    let mock = Mock::new();
    mock.place("memory.current", &(200_u64 << 20).to_string());
    set(&mock, &limits);
    assert_eq!((mock.file("memory.max"), *mock.killed.borrow()), ((50 << 20).to_string(), 0));
}

#[test]
fn huge_pages_in_use_are_named() {
    let mock = Mock::new();
    mock.place("hugetlb.2MB.current", "6291456");
    let limits =
        Limits::new().huge_pages(HugePageSize::MB2, HugetlbLimits::new().rsvd_max(1 << 20).max(2 << 20));
    let before = mock.all();
    let e = change(&mock, &limits, ChangeOptions::new()).unwrap_err();
    assert!(e.kind() == ErrorKind::Busy && e.to_string().contains("6291456 bytes are in use"), "{e}");
    assert_eq!(mock.all(), before);
}

#[test]
fn what_is_not_there_is_skipped_or_refused() {
    let mock = Mock::new();
    mock.take_away("memory.max");
    mock.broken.borrow_mut().insert("cpu.weight".into(), Errno::ACCESS);
    let limits = Limits::new().memory_max(1 << 20).cpu_weight(5_u32).pids_max(5);
    let e = change(&mock, &limits, ChangeOptions::new()).unwrap_err();
    assert!(e.kind() == ErrorKind::Unsupported && e.to_string().contains("memory.max"), "{e}");
    assert_eq!(mock.file("pids.max"), "max");
    let skipped = change(&mock, &limits, ChangeOptions::new().enforce(Enforce::BestEffort)).unwrap();
    let files: Vec<_> = skipped.iter().map(|s| s.file.as_str()).collect();
    assert_eq!(files, ["memory.max", "cpu.weight"]);
    assert_eq!(mock.file("pids.max"), "5");
    // A value that the kernel refuses fails all the same, and the others are as before.
    mock.broken.borrow_mut().insert("pids.max".into(), Errno::INVAL);
    let more = Limits::new().pids_max(9).misc_resource("sev", Limit::Value(1));
    let e = change(&mock, &more, ChangeOptions::new().enforce(Enforce::BestEffort)).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::InvalidConfig, "{e}");
    assert_eq!(mock.file("misc.max"), "sev max\nsev_es max");
}
