//! Each key with values that are good and bad.

use std::time::Duration;

use proptest::prelude::*;

use super::*;

fn keys(pairs: &[(&str, &str)]) -> LimitKeys {
    LimitKeys::parse(pairs.iter().copied()).unwrap()
}

/// The limits on a host with ten billion bytes and some.
fn limits(pairs: &[(&str, &str)]) -> Limits {
    keys(pairs).limits_on(10_000_000_099)
}

fn refused(key: &str, value: &str) -> String {
    let e = LimitKeys::parse([(key, value)]).unwrap_err();
    assert_eq!(e.kind(), crate::ErrorKind::InvalidConfig);
    assert!(e.to_string().contains(key), "{e}");
    e.to_string()
}

/// Key, value, and the value written again.
const GOOD: &[(&str, &str, &str)] = &[
    ("limits.cpu", "2", "2"),
    ("limits.cpu", "1-1", "1-1"),
    ("limits.cpu", "3,0-1", "0-1,3"),
    ("limits.cpu.allowance", "50%", "50%"),
    ("limits.cpu.allowance", "25ms/100ms", "25ms/100ms"),
    ("limits.cpu.priority", "0", "0"),
    ("limits.cpu.nodes", "0-1", "0-1"),
    ("limits.cpu.nodes", "balanced", "balanced"),
    ("limits.disk.priority", "10", "10"),
    ("limits.memory", "1024MiB", "1GiB"),
    ("limits.memory", "5%", "5%"),
    ("limits.memory.enforce", "soft", "soft"),
    ("limits.memory.enforce", "hard", "hard"),
    ("limits.memory.swap", "YES", "true"),
    ("limits.memory.swap", "0", "false"),
    ("limits.memory.swap", "1", "true"),
    ("limits.memory.swap", "1B", "1B"),
    ("limits.memory.swap", "0B", "0B"),
    ("limits.memory.swap", "2GB", "2GB"),
    ("limits.memory.swap.priority", "3", "3"),
    ("limits.memory.oom_priority", "-1000", "-1000"),
    ("limits.hugepages.64KB", "0", "0"),
    ("limits.hugepages.2MB", "4MiB", "4MiB"),
    ("limits.processes", "4194304", "4194304"),
    ("limits.kernel.nofile", "1024:unlimited", "1024:unlimited"),
    ("limits.kernel.core", "0", "0"),
    ("limits.kernel.memlock", "unlimited", "unlimited"),
];

#[test]
fn every_key_is_read_and_written() {
    for (key, value, written) in GOOD {
        let read = keys(&[(key, value)]);
        let map = read.to_map();
        let one = BTreeMap::from([((*key).to_owned(), (*written).to_owned())]);
        if !key.starts_with("limits.kernel.") {
            assert_eq!(map, one);
        }
        assert_eq!(map.keys().collect::<Vec<_>>(), [key]);
        assert_eq!(LimitKeys::parse(&map).unwrap(), read, "{key}={value}");
        // Not set again.
        assert_eq!(keys(&[(key, "")]), LimitKeys::default());
    }
    for key in LimitKeys::table() {
        let prefix = key.name.trim_end_matches(char::is_uppercase);
        assert!(GOOD.iter().any(|(name, ..)| name.starts_with(prefix)), "{} has no case here", key.name);
    }
    assert_eq!(LimitKeys::table().count(), 13);
}

#[test]
fn what_is_wrong_names_key_value_and_a_way_out() {
    for (key, value, way) in [
        ("limits.cpu", "0", "1 or more"),
        ("limits.cpu", "-1", "0-1,3"),
        ("limits.cpu", "1,1", "twice"),
        ("limits.cpu", "two", "0-1,3"),
        ("limits.cpu.allowance", "0%", "1% to"),
        ("limits.cpu.allowance", "10001%", "1% to"),
        ("limits.cpu.allowance", "50", "share"),
        ("limits.cpu.allowance", "25ms", "share"),
        ("limits.cpu.allowance", "0ms/100ms", "quota"),
        ("limits.cpu.allowance", "25/100", "quota"),
        ("limits.cpu.allowance", "25ms/1001ms", "1000ms"),
        ("limits.cpu.allowance", "-1%", "share"),
        ("limits.cpu.priority", "11", "0 to 10"),
        ("limits.cpu.priority", "-1", "0 to 10"),
        ("limits.cpu.nodes", "all", "balanced"),
        ("limits.disk.priority", "x", "0 to 10"),
        ("limits.memory", "0", "above 0"),
        ("limits.memory", "0%", "1% to 100%"),
        ("limits.memory", "101%", "1% to 100%"),
        ("limits.memory", "-5", "no size"),
        ("limits.memory", "5GIB", "GiB"),
        ("limits.memory", "16EiB", "above"),
        ("limits.memory", "99999999999999999999999%", "1% to 100%"),
        ("limits.memory.enforce", "Hard", "hard nor soft"),
        ("limits.memory.swap", "maybe", "true or false"),
        ("limits.memory.swap.priority", "12", "0 to 10"),
        ("limits.memory.oom_priority", "1001", "-1000 to 1000"),
        ("limits.memory.oom_priority", "--1", "-1000 to 1000"),
        ("limits.hugepages.2MB", "many", "no size"),
        ("limits.hugepages.4MB", "1", "64KB, 1MB, 2MB or 1GB"),
        ("limits.hugepages.", "1", "64KB"),
        ("limits.processes", "-1", "no number"),
        ("limits.processes", "4194305", "4194304"),
        ("limits.processes", "max", "no number"),
        ("limits.kernel.nofile", "2:1", "SOFT:HARD"),
        ("limits.kernel.nofile", "", ""),
        ("limits.kernel.files", "1", "nofile"),
        ("limits.kernel.NOFILE", "1", "nofile"),
        ("limits.kernel.RLIMIT_NOFILE", "1", "nofile"),
        ("limits.memory.hotplug", "true", "virtual machines"),
        ("limits.memory.hugepages", "true", "virtual machines"),
        ("limits.memories", "1", "not known"),
        ("limits.hugepages.SIZE", "1", "64KB"),
        ("limits.kernel.NAME", "1", "nofile"),
        ("user.name", "1", "not known"),
    ] {
        if value.is_empty() {
            continue;
        }
        let text = refused(key, value);
        assert!(text.contains(way), "{key}={value}: {text}");
        if !text.contains("known") && !text.contains("virtual") {
            assert!(text.contains(value), "{key}={value}: {text}");
        }
    }
    // All at once; a name that is not known is none even without a value.
    let e = LimitKeys::parse([
        ("limits.cpu", "0"),
        ("limits.x", ""),
        ("limits.kernel.x", ""),
        ("limits.memory", "0"),
    ]);
    let text = e.unwrap_err().to_string();
    for key in ["limits.cpu: ", "limits.x: ", "limits.kernel.x: ", "limits.memory: "] {
        assert!(text.contains(key), "{text}");
    }
    let twice = LimitKeys::parse([("limits.cpu", "1"), ("limits.cpu", "1")]).unwrap_err();
    assert!(twice.to_string().contains("limits.cpu: is there twice"), "{twice}");
    // Long and strange values stay short and on one line.
    let text = refused("limits.memory", &"\n\u{7}x".repeat(1000));
    assert!(text.len() < 400 && !text.contains('\n'), "{text}");
}

#[test]
fn keys_become_limits() {
    let l = Limits::new;
    for (pairs, wanted) in [
        (&[][..], l()),
        (&[("limits.cpu.allowance", "30%")], l().cpu_weight(30_u32)),
        (&[("limits.cpu.priority", "10")], l().cpu_weight(100_u32)),
        (&[("limits.cpu.allowance", "30%"), ("limits.cpu.priority", "3")], l().cpu_weight(23_u32)),
        (&[("limits.cpu.allowance", "5%"), ("limits.cpu.priority", "0")], l().cpu_weight(1_u32)),
        (
            &[("limits.cpu.allowance", "25ms/100ms")],
            l().cpu_max(CpuMax::quota(Duration::from_millis(25), Duration::from_millis(100))),
        ),
        (
            &[("limits.cpu.allowance", "1ms/1ms"), ("limits.cpu.priority", "9")],
            l().cpu_max(CpuMax::quota(Duration::from_millis(1), Duration::from_millis(1))).cpu_weight(99_u32),
        ),
        (&[("limits.disk.priority", "0")], l().io_weight(10_u32)),
        (&[("limits.disk.priority", "5")], l().io_weight(500_u32)),
        (&[("limits.memory", "1GB")], l().memory_max(1_000_000_000)),
        // Whole hundredths first.
        (&[("limits.memory", "50%")], l().memory_max(5_000_000_000)),
        (&[("limits.memory", "1GB"), ("limits.memory.enforce", "soft")], l().memory_high(1_000_000_000)),
        (&[("limits.memory.enforce", "soft")], l()),
        (&[("limits.memory.swap", "true")], l()),
        (&[("limits.memory.swap", "false")], l().memory_swap_max(0)),
        (
            &[("limits.memory", "1GB"), ("limits.memory.swap", "1MiB")],
            l().memory_max(1_000_000_000).memory_swap_max(1 << 20),
        ),
        (&[("limits.memory.swap.priority", "1")], l()),
        (
            &[("limits.hugepages.2MB", "4MiB")],
            l().huge_pages(HugePageSize::MB2, HugetlbLimits::new().max(4 << 20).rsvd_max(4 << 20)),
        ),
        (&[("limits.processes", "7")], l().pids_max(7)),
    ] {
        assert_eq!(limits(pairs), wanted, "{pairs:?}");
        wanted.check().unwrap();
    }
    let other = keys(&[("limits.kernel.nofile", "5"), ("limits.memory.oom_priority", "-5")]);
    assert_eq!(other.rlimits()[&Resource::Nofile], Rlimit::both(5));
    assert_eq!(other.oom_score_adj().map(OomScoreAdj::get), Some(-5));
    let idle = keys(&[
        ("limits.memory.swap.priority", "1"),
        ("limits.memory.enforce", "soft"),
        ("limits.cpu", "0-1"),
        ("limits.cpu.nodes", "0"),
    ]);
    let names: Vec<&str> = idle.without_effect().into_iter().map(|(key, _)| key).collect();
    assert_eq!(names, ["limits.memory.swap.priority", "limits.memory.enforce", "limits.cpu.nodes"]);
    assert!(keys(&[("limits.memory", "1%")]).limits().unwrap().memory_max.is_some());
    assert_eq!(parse_mem_total("MemFree: 1 kB\nMemTotal:       16 kB\n"), Some(16 << 10));
    assert_eq!(parse_mem_total("MemTotal: 99999999999999999999 kB\n"), None);
}

#[test]
fn changes_lift_what_is_no_longer_set() {
    let all = [
        ("limits.cpu.allowance", "30%"),
        ("limits.disk.priority", "1"),
        ("limits.memory", "1GB"),
        ("limits.memory.swap", "false"),
        ("limits.hugepages.2MB", "2MiB"),
        ("limits.processes", "7"),
    ];
    let huge = HugetlbLimits::new().max(Limit::Max).rsvd_max(Limit::Max);
    let lifted = Limits::new()
        .cpu_weight(100_u32)
        .io_weight(100_u32)
        .memory_max(Limit::Max)
        .memory_swap_max(Limit::Max)
        .huge_pages(HugePageSize::MB2, huge)
        .pids_max(Limit::Max);
    let none = LimitKeys::default();
    assert_eq!(keys(&all).changes(&none).unwrap().update.limits, lifted);
    assert_eq!(none.changes(&keys(&all)).unwrap().update.limits, limits(&all));
    assert!(keys(&all).changes(&keys(&all)).unwrap().update.limits.is_empty());
    // From hard to soft, and from a quota to a share.
    let hard = keys(&[("limits.memory", "1GB"), ("limits.cpu.allowance", "1ms/2ms")]);
    let soft =
        keys(&[("limits.memory", "1GB"), ("limits.memory.enforce", "soft"), ("limits.cpu.allowance", "9%")]);
    let wanted = Limits::new()
        .memory_max(Limit::Max)
        .memory_high(1_000_000_000)
        .cpu_max(CpuMax::Max)
        .cpu_weight(9_u32);
    assert_eq!(hard.changes(&soft).unwrap().update.limits, wanted);
    // CPUs.
    let two = keys(&[("limits.cpu", "2"), ("limits.cpu.nodes", "balanced")]);
    let update = two.changes(&none).unwrap().update;
    assert_eq!((update.cpus, update.cpu_nodes), (Some(Cpus::All), Some(CpuNodes::Any)));
    let later =
        keys(&[("limits.kernel.core", "0"), ("limits.memory.oom_priority", "1"), ("limits.cpu", "2")]);
    let changes = none.changes(&later).unwrap();
    assert_eq!(changes.restart, ["limits.kernel.core", "limits.memory.oom_priority"]);
    assert_eq!(changes.update.cpus, Some(Cpus::Count(2)));
}

proptest! {
    #[test]
    fn no_value_panics_and_what_is_read_is_written_again(
        key in proptest::sample::select(GOOD.iter().map(|(key, ..)| *key).collect::<Vec<_>>()),
        value in "\\PC{0,12}|[0-9]{0,21}([kMGTPE]i?B|%|ms/[0-9]{1,5}ms|:[0-9]{0,5})?|[0-9,-]{0,12}",
    ) {
        if let Ok(read) = LimitKeys::parse([(key, &*value)]) {
            prop_assert_eq!(LimitKeys::parse(read.to_map()).unwrap(), read.clone());
            // More than any machine has, and still a number of bytes that a cgroup takes.
            prop_assert!(read.limits_on(1 << 62).check().is_ok(), "{key}={value}");
        }
    }
}
