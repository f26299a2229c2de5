//! The reading of files that no kernel wrote, and of those that the kernels of the lanes did.

use std::fs::{self, File};
use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::Stats;
use super::reader::put;
use crate::cgroup::Cgroup;
use crate::cgroup::v1::Side;
use crate::sys::fd::open_dir;

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

/// Name and text of each file of a cgroup with every controller, as Linux 6.12 gave them.
fn recorded() -> Vec<(String, String)> {
    let all =
        fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/cgroup/6.12.txt")).unwrap();
    let files = all.split("== ").skip(1).map(|file| file.split_once('\n').unwrap());
    files.map(|(name, text)| (name.to_owned(), text.to_owned())).collect()
}

#[test]
fn a_recording_is_read_whole() {
    let mut stats = Stats::default();
    for (name, text) in recorded() {
        assert!(put(&name, text.as_bytes(), &mut stats), "{name}");
    }
    let memory = stats.memory.unwrap();
    let fields = serde_json::to_value(&memory.stat).unwrap();
    let (_, text) = recorded().into_iter().find(|(name, _)| name == "memory.stat").unwrap();
    for line in text.lines() {
        let (key, n) = line.split_once(' ').unwrap();
        assert_eq!(fields[key], n.parse::<u64>().unwrap(), "{key}");
    }
    assert!(text.lines().count() > 60 && memory.stat.other.is_empty());
    assert_eq!((memory.current, memory.zswap_current), (Some(9_162_752), Some(0)));
    let events = memory.events.unwrap();
    assert!(events.other.is_empty() && memory.events_local == Some(events));
    let cpu = stats.cpu.unwrap();
    assert_eq!((cpu.usage, cpu.user), (Duration::from_micros(496_900), Duration::from_micros(198_760)));
    assert!(cpu.other.is_empty() && cpu.periods == Some(0) && stats.cpu_local.is_some());
    let io = &stats.io.unwrap()[0];
    assert_eq!((io.device.to_string(), io.written_bytes, io.writes), ("254:0".to_owned(), 8 << 20, 9));
    let waited = stats.pressure.cpu.unwrap().full.unwrap();
    assert_eq!((waited.avg10.hundredths(), waited.total), (14, Duration::from_micros(37_146)));
    let all: Vec<String> = stats.tree.controllers.iter().map(|c| c.controller.to_string()).collect();
    assert_eq!(all, ["cpuset", "cpu", "io", "memory", "hugetlb", "pids", "rdma", "misc"]);
    assert_eq!((stats.hugetlb.len(), stats.pids.unwrap().events.max), (1, 0));
}

/// Prints what reading costs beside bare reads of the same texts on a tmpfs, where parsing is all that is different.
/// `cargo test --release --lib reading_a_recording_costs -- --nocapture`.
#[test]
#[allow(clippy::print_stderr)]
fn reading_a_recording_costs() {
    const ROUNDS: usize = 2_000;
    let dir = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
    for (name, text) in recorded() {
        fs::write(dir.path().join(name), text).unwrap();
    }
    let fd = open_dir(rustix::fs::CWD, dir.path()).unwrap();
    let mut reader =
        Cgroup::from_parts(fd, dir.path().to_owned(), None, Side::none()).stats_reader().unwrap();
    let files: Vec<File> = reader.files().map(|f| File::open(dir.path().join(f)).unwrap()).collect();
    assert_eq!(files.len(), recorded().len());
    let first = reader.read().unwrap();
    let mut buffer = vec![0; 64 << 10];
    let mut times = [const { Vec::new() }; 2];
    for _ in 0..ROUNDS {
        let start = Instant::now();
        for file in &files {
            rustix::io::pread(file, buffer.as_mut_slice(), 0).unwrap();
        }
        times[0].push(start.elapsed());
        let start = Instant::now();
        let stats = reader.read().unwrap();
        times[1].push(start.elapsed());
        assert_eq!(stats, first);
    }
    for (i, name) in [(0, "min"), (ROUNDS / 4, "p25"), (ROUNDS / 2, "median")] {
        let [bare, ours] = [0, 1].map(|t| {
            times[t].sort_unstable();
            times[t][i].as_secs_f64() * 1e6
        });
        let n = files.len();
        eprintln!("{n} files, {name}: bare {bare:.2} us, ours {ours:.2} us: {:.2}", ours / bare);
    }
}
