//! A container's part of the machine where v1 groups count it: see [`Share`](crate::cgroup::Share).

use std::path::Path;
use std::time::Duration;

use super::StatsV1;
use crate::cgroup::CpuMax;
use crate::cgroup::share::MemoryShare;
use crate::cgroup::stats::{IoStats, Stats};

/// Groups above that are looked at, at most.
const DEPTH: usize = 64;

impl StatsV1 {
    pub(in crate::cgroup) fn memory_share(&self) -> Option<MemoryShare> {
        let mut stats = Stats::default();
        self.memory(&mut stats).ok()?;
        let memory = stats.memory?;
        // The least of all above too; a number near 2^63 where there is none.
        let limits = self.keyed("memory.stat").ok()??;
        let limit = limits.get("hierarchical_memory_limit").copied();
        let with_swap = limits.get("hierarchical_memsw_limit").copied();
        Some(MemoryShare {
            used: memory.current?,
            limit,
            swap_used: memory.swap_current,
            swap_limit: with_swap.zip(limit).map(|(both, memory)| both.saturating_sub(memory)),
            stat: memory.stat,
        })
    }

    pub(in crate::cgroup) fn effective_cpus(&self) -> Option<String> {
        self.text("cpuset.effective_cpus").ok()?
    }

    /// The least of the group and of those above.
    pub(in crate::cgroup) fn cpu_quota(&self) -> Option<CpuMax> {
        let mut dir = self.path("cpu.cfs_quota_us")?;
        let mut found: Option<(u64, u64)> = None;
        for _ in 0..DEPTH {
            if !dir.pop() {
                break;
            }
            let Some(quota) = number(&dir, "cpu.cfs_quota_us") else { break };
            let period = number(&dir, "cpu.cfs_period_us").and_then(|n| u64::try_from(n).ok());
            // Minus one: none.
            let Some(limit) = u64::try_from(quota).ok().zip(period.filter(|n| *n > 0)) else { continue };
            let is_less = |(quota, period): (u64, u64)| {
                u128::from(limit.0) * u128::from(period) < u128::from(quota) * u128::from(limit.1)
            };
            if found.is_none_or(is_less) {
                found = Some(limit);
            }
        }
        let (quota, period) = found?;
        Some(CpuMax::quota(Duration::from_micros(quota), Duration::from_micros(period)))
    }

    pub(in crate::cgroup) fn tasks(&self) -> Option<u64> {
        self.number("pids.current").ok()?
    }

    pub(in crate::cgroup) fn block_devices(&self) -> Option<Vec<IoStats>> {
        let mut stats = Stats::default();
        self.io(&mut stats).ok()?;
        stats.io
    }
}

fn number(dir: &Path, file: &str) -> Option<i64> {
    std::fs::read_to_string(dir.join(file)).ok()?.trim().parse().ok()
}
