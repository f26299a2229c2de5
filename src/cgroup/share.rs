//! A cgroup's part of the machine: what it may use and what it does use, to be shown to its programs as all there is.
//!
//! Read anew each time, as limits change while they hold. `None` everywhere: the cgroup has no controller that counts it.

use std::os::fd::AsFd;
use std::time::Duration;

use super::cpu::CpuMax;
use super::group::Cgroup;
use super::idset::CpuSet;
use super::stats::{self, CpuStats, IoStats, MemoryStat};
use super::v1::StatsV1;
use crate::error::Result;
use crate::sys::fd::read_at;

/// More than the files hold that are read here.
const FILE_MAX: usize = 64 << 10;
/// The kernel's cgroups are not nested deeper by anybody; what lies above is not looked at.
const DEPTH: usize = 64;

/// A cgroup whose part is asked for.
#[derive(Debug)]
pub(crate) struct Share {
    cgroup: Cgroup,
    /// How many there are above it, the mount's root excluded.
    levels: usize,
}

/// Its memory, in bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct MemoryShare {
    pub(crate) used: u64,
    /// The least limit of it and of those above.
    pub(crate) limit: Option<u64>,
    /// What of it is in swap; `None` where that is not counted.
    pub(crate) swap_used: Option<u64>,
    pub(crate) swap_limit: Option<u64>,
    pub(crate) stat: MemoryStat,
}

impl Share {
    /// Another handle on `cgroup`, and how deep it lies.
    pub(crate) fn of(cgroup: &Cgroup) -> Result<Self> {
        let mut levels = 0;
        let mut above = cgroup.parent()?;
        while let Some(found) = above.filter(|found| found.name().is_some() && levels < DEPTH) {
            levels += 1;
            above = found.parent()?;
        }
        Ok(Self { cgroup: cgroup.try_clone()?, levels })
    }

    /// Its memory. With v1 groups some more files are read.
    pub(crate) fn memory(&self) -> Option<MemoryShare> {
        let Some(used) = self.number("memory.current") else {
            return self.v1()?.memory_share();
        };
        let mut stat = MemoryStat::default();
        stat.parse(self.text(0, "memory.stat").unwrap_or_default().as_bytes());
        let [max, high, swap_limit] = ["memory.max", "memory.high", "memory.swap.max"].map(|f| self.least(f));
        Some(MemoryShare {
            used,
            limit: max.into_iter().chain(high).min(),
            swap_used: self.number("memory.swap.current"),
            swap_limit,
            stat,
        })
    }

    /// The CPUs that it runs on.
    pub(crate) fn cpus(&self) -> Option<CpuSet> {
        let of_v1 = || self.v1()?.effective_cpus();
        // Without the controller those of the next one above that has it.
        let text =
            (0..=self.levels + 1).find_map(|up| self.text(up, "cpuset.cpus.effective")).or_else(of_v1)?;
        text.trim().parse().ok().filter(|set: &CpuSet| !set.is_empty())
    }

    /// How many CPUs its quota of CPU time is worth, rounded up: the least of it and of those above.
    pub(crate) fn cpu_quota(&self) -> Option<u32> {
        let max = |up| CpuMax::parse(&self.text(up, "cpu.max")?);
        let own = (0..=self.levels).filter_map(max).filter_map(whole_cpus).min();
        let of_v1 = self.v1().and_then(|v1| v1.cpu_quota());
        own.into_iter().chain(of_v1.and_then(whole_cpus)).min()
    }

    /// The CPU time of its processes, which the kernel counts without a controller too.
    pub(crate) fn cpu_time(&self) -> Option<CpuStats> {
        let mut stats = CpuStats::default();
        stats.parse(self.text(0, "cpu.stat")?.as_bytes());
        Some(stats)
    }

    /// How many processes and threads it has.
    pub(crate) fn tasks(&self) -> Option<u64> {
        let of_v1 = || self.v1()?.tasks();
        self.number("pids.current").or_else(of_v1)
    }

    /// The block devices that it has used.
    pub(crate) fn io(&self) -> Option<Vec<IoStats>> {
        let of_v1 = || self.v1()?.block_devices();
        self.text(0, "io.stat").map(|text| stats::parse_io(text.as_bytes())).or_else(of_v1)
    }

    /// Its v1 groups, which may have come with a limit that was set since.
    fn v1(&self) -> Option<StatsV1> {
        self.cgroup.stats_v1().ok()
    }

    /// A file of the cgroup, or of the one so many levels above.
    fn text(&self, up: usize, file: &str) -> Option<String> {
        let path = format!("{}{file}", "../".repeat(up));
        String::from_utf8(read_at(self.cgroup.as_fd(), &path, FILE_MAX).ok()?).ok()
    }

    fn number(&self, file: &str) -> Option<u64> {
        self.text(0, file)?.trim().parse().ok()
    }

    /// The least number in this file of it and of those above; `max` is none.
    fn least(&self, file: &str) -> Option<u64> {
        (0..=self.levels).filter_map(|up| self.text(up, file)?.trim().parse().ok()).min()
    }
}

/// How many CPUs a quota is worth, rounded up.
fn whole_cpus(max: CpuMax) -> Option<u32> {
    let CpuMax::Quota { quota, period } = max else { return None };
    let micros = |time: Duration| time.as_micros();
    let cpus = micros(quota).div_ceil(micros(period).max(1)).max(1);
    Some(u32::try_from(cpus).unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quota_counts_as_whole_cpus() {
        let worth = |text: &str| CpuMax::parse(text).and_then(whole_cpus);
        let cases = ["150000 100000", "200000 100000", "1000 100000", "max 100000", "200001 100000"];
        assert_eq!(cases.map(worth), [Some(2), Some(2), Some(1), None, Some(3)]);
    }
}
