//! The reading of files that no kernel wrote, and of those that the kernels of the lanes did.

use std::time::Duration;

use proptest::prelude::*;

use super::Stats;
use super::reader::put;

/// Every name that the parsers know.
const NAMES: [&str; 33] = [
    "cgroup.stat",
    "cgroup.stat.local",
    "cgroup.events",
    "cpu.stat",
    "cpu.stat.local",
    "memory.current",
    "memory.peak",
    "memory.swap.current",
    "memory.swap.peak",
    "memory.zswap.current",
    "memory.stat",
    "memory.events",
    "memory.events.local",
    "memory.swap.events",
    "io.stat",
    "pids.current",
    "pids.peak",
    "pids.events",
    "pids.events.local",
    "hugetlb.2MB.current",
    "hugetlb.2MB.rsvd.current",
    "hugetlb.2MB.events",
    "hugetlb.1GB.events.local",
    "rdma.current",
    "misc.current",
    "misc.peak",
    "misc.events",
    "misc.events.local",
    "dmem.current",
    "cpu.pressure",
    "memory.pressure",
    "io.pressure",
    "irq.pressure",
];

proptest! {
    #[test]
    fn no_text_at_all_panics(text in prop::collection::vec(any::<u8>(), 0..300)) {
        let mut stats = Stats::default();
        for name in NAMES {
            prop_assert!(put(name, &text, &mut stats), "{}", name);
        }
    }

    #[test]
    fn no_text_that_is_nearly_right_panics(
        text in "((anon|some|full|max|8:0|usage_usec|a)( |=|\n|\\.)(avg10=|total=|rbytes=)?[0-9]{0,22}(\\.[0-9]{0,3})?[ \n]){0,20}"
    ) {
        let mut stats = Stats::default();
        for name in NAMES {
            prop_assert!(put(name, text.as_bytes(), &mut stats), "{}", name);
        }
    }

    #[test]
    fn what_is_written_is_read(n in any::<u64>(), m in any::<u64>(), t in 0..u64::MAX / 1_000_000) {
        let mut stats = Stats::default();
        let mut file = |name: &str, text: String| assert!(put(name, text.as_bytes(), &mut stats));
        file("memory.current", format!("{n}\n"));
        file("memory.stat", format!("anon {n}\nfile {m}\n"));
        file("io.stat", format!("8:0 rbytes={n} wbytes={m}\n"));
        file("cpu.stat", format!("usage_usec {t}\nnr_periods {m}\n"));
        file("hugetlb.2MB.events", format!("max {n}\n"));
        file("dmem.current", format!("drm/0000:03:00.0/vram0 {n}\n"));
        let memory = stats.memory.unwrap();
        prop_assert_eq!((memory.current, memory.stat.anon, memory.stat.file), (Some(n), n, m));
        let io = &stats.io.unwrap()[0];
        prop_assert_eq!((io.read_bytes, io.written_bytes), (n, m));
        let cpu = stats.cpu.unwrap();
        prop_assert_eq!((cpu.usage, cpu.periods), (Duration::from_micros(t), Some(m)));
        prop_assert_eq!((stats.hugetlb[0].page_size, stats.hugetlb[0].events.max), (2 << 20, n));
        prop_assert_eq!(stats.dmem.unwrap()["drm/0000:03:00.0/vram0"], n);
    }
}

#[test]
fn settings_and_unknown_files_are_not_read() {
    let mut stats = Stats::default();
    for name in ["memory.max", "cpu.max", "hugetlb.2MB.max", "memory.numa_stat", "cgroup.procs", "x"] {
        assert!(!put(name, b"1\n", &mut stats), "{name}");
    }
    assert_eq!(stats, Stats::default());
}

#[test]
fn stats_go_through_json_unchanged() {
    let mut stats = Stats::default();
    for name in NAMES {
        put(name, b"some avg10=1.00 total=5\n8:0 rbytes=4\nmax 3\nusage_usec 2\nnew 9\n", &mut stats);
    }
    let json = serde_json::to_string(&stats).unwrap();
    assert_eq!(serde_json::from_str::<Stats>(&json).unwrap(), stats);
}
