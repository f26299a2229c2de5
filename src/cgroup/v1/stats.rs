//! The figures of v1 groups, in terms of v2.
//!
//! CPU time is counted for the v2 cgroup in any case. Times of v1 are nanoseconds, its page counts bytes already.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::CWD;
use rustix::io::Errno;

use super::Groups;
use crate::cgroup::block::DeviceNumber;
use crate::cgroup::stats::{HugetlbStats, IoStats, MemoryEvents, PidsEvents, Stats};
use crate::cgroup::{Cgroup, HugePageSize};
use crate::error::{Error, Result};
use crate::sys::fd::read_at;

/// More than any of the files holds.
const FILE_MAX: usize = 1 << 20;

/// The v1 groups of a cgroup whose figures are read.
#[derive(Debug, Default)]
pub(in crate::cgroup) struct StatsV1 {
    /// Whether there can be any.
    on: bool,
    groups: Groups,
}

impl Cgroup {
    pub(in crate::cgroup) fn stats_v1(&self) -> Result<StatsV1> {
        Ok(StatsV1 { on: self.v1.tree.is_some(), groups: self.v1_groups()? })
    }
}

impl StatsV1 {
    /// Of a cgroup whose groups [`refresh`](Self::refresh) is to find.
    pub(in crate::cgroup) fn unread(cgroup: &Cgroup) -> Self {
        Self { on: cgroup.v1.tree.is_some(), groups: Groups::default() }
    }

    /// Looks again which groups the cgroup of this directory has.
    pub(in crate::cgroup) fn refresh(&mut self, dir: &OwnedFd, path: &Path) -> Result<()> {
        if self.on {
            self.groups = Groups::of_dir(dir, path.file_name())
                .map_err(|e| Error::sys("read the v1 groups of cgroup", e))?;
        }
        Ok(())
    }

    /// Adds what v1 counts. A group that is gone counts nothing.
    pub(in crate::cgroup) fn read(&self, stats: &mut Stats) -> Result<()> {
        if self.groups.is_empty() {
            return Ok(());
        }
        self.cpu(stats)?;
        self.memory(stats)?;
        self.pids(stats)?;
        self.io(stats)?;
        self.hugetlb(stats)
    }

    pub(super) fn text(&self, file: &str) -> Result<Option<String>> {
        let Some(path) = self.path(file) else { return Ok(None) };
        match read_at(CWD, &path, FILE_MAX) {
            Ok(bytes) => Ok(Some(String::from_utf8_lossy(&bytes).into_owned())),
            Err(Errno::NOENT | Errno::NODEV | Errno::OPNOTSUPP) => Ok(None),
            Err(errno) => Err(Error::sys("read statistics", errno).path(path)),
        }
    }

    pub(super) fn path(&self, file: &str) -> Option<PathBuf> {
        let (controller, _) = file.split_once('.')?;
        Some(self.groups.of(controller)?.join(file))
    }

    pub(super) fn number(&self, file: &str) -> Result<Option<u64>> {
        Ok(self.text(file)?.and_then(|t| t.trim().parse().ok()))
    }

    /// A file of `KEY NUMBER` lines.
    pub(super) fn keyed(&self, file: &str) -> Result<Option<BTreeMap<String, u64>>> {
        let line = |l: &str| {
            let (key, n) = l.split_once(' ')?;
            Some((key.to_owned(), n.trim().parse().ok()?))
        };
        Ok(self.text(file)?.map(|text| text.lines().filter_map(line).collect()))
    }

    fn cpu(&self, stats: &mut Stats) -> Result<()> {
        let Some(text) = self.keyed("cpu.stat")? else { return Ok(()) };
        let cpu = stats.cpu.get_or_insert_default();
        let count = |key| text.get(key).copied();
        let nanos = |key| count(key).map(Duration::from_nanos);
        cpu.periods = count("nr_periods");
        cpu.throttled_periods = count("nr_throttled");
        cpu.throttled = nanos("throttled_time");
        cpu.bursts = count("nr_bursts");
        cpu.burst = nanos("burst_time");
        if let Some(local) = self.keyed("cpu.stat.local")? {
            let throttled = local.get("throttled_time").copied().map(Duration::from_nanos);
            stats.cpu_local.get_or_insert_default().throttled = throttled;
        }
        Ok(())
    }

    pub(super) fn memory(&self, stats: &mut Stats) -> Result<()> {
        let Some(current) = self.number("memory.usage_in_bytes")? else { return Ok(()) };
        let memory = stats.memory.get_or_insert_default();
        memory.current = Some(current);
        memory.peak = self.number("memory.max_usage_in_bytes")?;
        let mut text = self.keyed("memory.stat")?.unwrap_or_default();
        // With those of the groups below.
        let mut take = |key: &str| text.remove(&format!("total_{key}"));
        memory.swap_current = take("swap");
        let stat = &mut memory.stat;
        for (to, key) in [
            (&mut stat.anon, "rss"),
            (&mut stat.file, "cache"),
            (&mut stat.shmem, "shmem"),
            (&mut stat.file_mapped, "mapped_file"),
            (&mut stat.file_dirty, "dirty"),
            (&mut stat.file_writeback, "writeback"),
            (&mut stat.inactive_anon, "inactive_anon"),
            (&mut stat.active_anon, "active_anon"),
            (&mut stat.inactive_file, "inactive_file"),
            (&mut stat.active_file, "active_file"),
            (&mut stat.unevictable, "unevictable"),
            (&mut stat.workingset_refault_anon, "workingset_refault_anon"),
            (&mut stat.workingset_refault_file, "workingset_refault_file"),
            (&mut stat.pgfault, "pgfault"),
            (&mut stat.pgmajfault, "pgmajfault"),
        ] {
            *to = take(key).unwrap_or(0);
        }
        stat.swapcached = take("swapcached");
        stat.anon_thp = take("rss_huge");
        stat.kernel = self.number("memory.kmem.usage_in_bytes")?.unwrap_or(0);
        stat.sock = self.number("memory.kmem.tcp.usage_in_bytes")?.unwrap_or(0);
        // In and out, of all kinds: what v2 does not count.
        stat.other
            .extend(["pgpgin", "pgpgout"].into_iter().filter_map(|key| Some((key.to_owned(), take(key)?))));
        // A container's processes have no groups below with limits of their own.
        memory.events_local = self.memory_events()?;
        memory.events = memory.events_local.clone();
        if let Some(failed) = self.number("memory.memsw.failcnt")? {
            memory.swap_events.get_or_insert_default().max = failed;
        }
        Ok(())
    }

    /// How often the limits of memory acted: v1 counts less of it than v2.
    pub(in crate::cgroup) fn memory_events(&self) -> Result<Option<MemoryEvents>> {
        let Some(max) = self.number("memory.failcnt")? else { return Ok(None) };
        let oom = self.keyed("memory.oom_control")?.unwrap_or_default();
        let oom_kill = oom.get("oom_kill").copied().unwrap_or(0);
        Ok(Some(MemoryEvents { max, oom_kill, ..MemoryEvents::default() }))
    }

    /// How often the limit of processes acted.
    pub(in crate::cgroup) fn pids_events(&self) -> Result<Option<PidsEvents>> {
        let Some(max) = self.keyed("pids.events")?.and_then(|e| e.get("max").copied()) else {
            return Ok(None);
        };
        Ok(Some(PidsEvents { max, ..PidsEvents::default() }))
    }

    fn pids(&self, stats: &mut Stats) -> Result<()> {
        let Some(current) = self.number("pids.current")? else { return Ok(()) };
        let pids = stats.pids.get_or_insert_default();
        pids.current = current;
        pids.peak = self.number("pids.peak")?;
        pids.events = self.pids_events()?.unwrap_or_default();
        Ok(())
    }

    pub(super) fn io(&self, stats: &mut Stats) -> Result<()> {
        let Some(bytes) = self.text("blkio.throttle.io_service_bytes_recursive")? else { return Ok(()) };
        let ops = self.text("blkio.throttle.io_serviced_recursive")?.unwrap_or_default();
        let mut all: BTreeMap<DeviceNumber, IoStats> = BTreeMap::new();
        let mut each = |text: &str, set: fn(&mut IoStats) -> [(&'static str, &mut u64); 3]| {
            for line in text.lines() {
                let mut words = line.split_whitespace();
                let (Some(device), Some(kind), Some(n)) = (words.next(), words.next(), words.next()) else {
                    continue;
                };
                let (Ok(device), Ok(n)) = (device.parse::<DeviceNumber>(), n.parse::<u64>()) else {
                    continue;
                };
                let stats = all.entry(device).or_insert_with(|| IoStats { device, ..IoStats::default() });
                if let Some((_, to)) = set(stats).into_iter().find(|(name, _)| *name == kind) {
                    *to = n;
                }
            }
        };
        each(&bytes, |s| {
            [
                ("Read", &mut s.read_bytes),
                ("Write", &mut s.written_bytes),
                ("Discard", &mut s.discarded_bytes),
            ]
        });
        each(&ops, |s| [("Read", &mut s.reads), ("Write", &mut s.writes), ("Discard", &mut s.discards)]);
        stats.io = Some(all.into_values().collect());
        Ok(())
    }

    fn hugetlb(&self, stats: &mut Stats) -> Result<()> {
        let Some(dir) = self.groups.of("hugetlb").and_then(|dir| std::fs::read_dir(dir).ok()) else {
            return Ok(());
        };
        let size = |name: &str| {
            name.strip_prefix("hugetlb.")?.strip_suffix(".usage_in_bytes")?.parse::<HugePageSize>().ok()
        };
        for name in dir.flatten().filter_map(|e| e.file_name().into_string().ok()) {
            let Some(size) = size(&name) else { continue };
            let number = |file: &str| self.number(&format!("hugetlb.{size}.{file}"));
            let current = number("usage_in_bytes")?.unwrap_or(0);
            let reserved = number("rsvd.usage_in_bytes")?.unwrap_or(0);
            let failed = number("failcnt")?.unwrap_or(0);
            let page_size = size.bytes();
            let one = HugetlbStats::of(&mut stats.hugetlb, page_size);
            (one.current, one.reserved, one.events_local.max, one.events.max) =
                (current, reserved, failed, failed);
        }
        Ok(())
    }
}
