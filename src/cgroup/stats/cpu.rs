//! `cpu.stat` and `cpu.stat.local`.

use std::time::Duration;

use super::parse::flat_keyed;

flat_keyed! {
    /// CPU time of a cgroup and its descendants since it was made (`cpu.stat`). Usage is counted without the cpu
    /// controller too.
    pub struct CpuStats {
        /// All of it.
        usage: Duration = "usage_usec",
        /// In programs.
        user: Duration = "user_usec",
        /// In the kernel.
        system: Duration = "system_usec",
        /// In programs with a positive nice value, which is part of `user` (Linux 6.11).
        nice: Option<Duration> = "nice_usec",
        /// Forced to idle because of what ran on the sibling of the core (core scheduling; Linux 6.1).
        core_sched_forced_idle: Option<Duration> = "core_sched.force_idle_usec",
        /// Periods of `cpu.max` in which something wanted to run. This and the rest: with the cpu controller.
        periods: Option<u64> = "nr_periods",
        /// Those in which the quota was used up.
        throttled_periods: Option<u64> = "nr_throttled",
        /// Time that the cgroup was kept from running, summed over the CPUs.
        throttled: Option<Duration> = "throttled_usec",
        /// Periods in which more than the quota was used, from `cpu.max.burst`.
        bursts: Option<u64> = "nr_bursts",
        /// How much more.
        burst: Option<Duration> = "burst_usec",
    }
}

flat_keyed! {
    /// What the cgroup's own limit did, those of its ancestors aside (`cpu.stat.local`, Linux 6.6).
    pub struct CpuLocalStats {
        /// Time that its own processes were kept from running by any limit, its ancestors' included, summed over the
        /// CPUs; `None` without the cpu controller.
        throttled: Option<Duration> = "throttled_usec",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn microseconds_become_durations() {
        let mut with = CpuStats::default();
        with.parse(
            b"usage_usec 1500000\nuser_usec 1000000\nsystem_usec 500000\nnice_usec 7\nnr_periods 9\n\
            nr_throttled 4\nthrottled_usec 250\nnr_bursts 1\nburst_usec 2\n",
        );
        assert_eq!(with.usage, Duration::from_millis(1500));
        assert_eq!((with.user, with.system), (Duration::from_secs(1), Duration::from_millis(500)));
        assert_eq!((with.periods, with.throttled_periods, with.bursts), (Some(9), Some(4), Some(1)));
        assert_eq!(with.throttled, Some(Duration::from_micros(250)));
        assert!(with.other.is_empty());
        let mut without = CpuStats::default();
        without.parse(b"usage_usec 5\nuser_usec 5\nsystem_usec 0\n");
        assert_eq!((without.usage, without.periods), (Duration::from_micros(5), None));
    }
}
