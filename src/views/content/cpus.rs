//! `/proc/cpuinfo`, `/proc/stat`, `/sys/devices/system/cpu/online` (`proc_cpuinfo(5)`, `proc_stat(5)`).

use std::fmt::{self, Write};
use std::time::Duration;

use crate::cgroup::{CpuSet, CpuStats, Share};

/// CPUs by the numbers that the machine gives them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Cpus(Vec<u32>);

impl Cpus {
    /// As the kernel writes them: `0-3,6`.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let set: CpuSet = text.trim().parse().ok()?;
        (!set.is_empty()).then(|| Self(set.iter().collect()))
    }

    /// Those of these that a cgroup may use; `None` where it is all of them.
    pub(super) fn of(&self, share: &Share) -> Option<Self> {
        self.within(share.cpus().as_ref(), share.cpu_quota())
    }

    fn within(&self, set: Option<&CpuSet>, quota: Option<u32>) -> Option<Self> {
        let most = quota.map_or(usize::MAX, |count| usize::try_from(count).unwrap_or(usize::MAX));
        let is_in = |cpu: &&u32| set.is_none_or(|set| set.contains(**cpu));
        let own: Vec<u32> = self.0.iter().filter(is_in).take(most).copied().collect();
        // A set without one that is online runs where the kernel lets it.
        (!own.is_empty() && own.len() < self.0.len()).then_some(Self(own))
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    fn has(&self, number: &str) -> Option<bool> {
        number.trim().parse().ok().map(|cpu: u32| self.0.contains(&cpu))
    }
}

impl fmt::Display for Cpus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match CpuSet::new(self.0.iter().copied()) {
            Ok(set) => set.fmt(f),
            Err(_) => Ok(()),
        }
    }
}

/// The paragraphs of these CPUs, and those that are of none.
pub(super) fn cpuinfo(host: &str, cpus: &Cpus) -> String {
    let mut out = String::with_capacity(host.len());
    for paragraph in host.split_inclusive("\n\n") {
        let first = paragraph.lines().next().and_then(|line| line.split_once(':'));
        let number = first.filter(|(key, _)| key.trim() == "processor").map(|(_, number)| number);
        if number.and_then(|number| cpus.has(number)).unwrap_or(true) {
            out.push_str(paragraph);
        }
    }
    out
}

/// Which of the times in a line of `stat` are which.
const COLUMNS: usize = 10;

/// `time` is what the cgroup has used in its `lifetime`; `None` for the machine's figures of its CPUs. Its clock is so many
/// seconds `ahead`.
pub(super) fn stat(
    host: &str,
    cpus: &Cpus,
    time: Option<&CpuStats>,
    lifetime: Duration,
    ahead: i64,
) -> String {
    let own: Vec<[u64; COLUMNS]> = match time {
        Some(time) => shares(cpus.len(), time, lifetime),
        None => host.lines().filter(|line| is_of(line, cpus) == Some(true)).map(columns).collect(),
    };
    let mut out = String::with_capacity(host.len());
    let mut line_of = |name: &str, times: &[u64; COLUMNS]| {
        out.push_str(name);
        for n in times {
            let _ = write!(out, " {n}");
        }
        out.push('\n');
    };
    let mut all = [0_u64; COLUMNS];
    for times in &own {
        all.iter_mut().zip(times).for_each(|(sum, n)| *sum = sum.saturating_add(*n));
    }
    // The kernel has two blanks after the first.
    line_of("cpu ", &all);
    for (cpu, times) in cpus.0.iter().zip(&own) {
        line_of(&format!("cpu{cpu}"), times);
    }
    for line in host.lines().filter(|line| !line.starts_with("cpu")) {
        match line.strip_prefix("btime ").and_then(|second| second.parse::<i64>().ok()) {
            Some(second) => {
                let _ = writeln!(out, "btime {}", second.saturating_sub(ahead));
            }
            None => {
                out.push_str(line);
                out.push('\n');
            }
        }
    }
    out
}

/// Whether a line is of one of these CPUs; `None` for one that is of no single CPU.
fn is_of(line: &str, cpus: &Cpus) -> Option<bool> {
    cpus.has(line.strip_prefix("cpu")?.split(' ').next()?)
}

fn columns(line: &str) -> [u64; COLUMNS] {
    let mut found = [0; COLUMNS];
    let numbers = line.split_whitespace().skip(1).map(|word| word.parse().unwrap_or(0));
    found.iter_mut().zip(numbers).for_each(|(slot, n)| *slot = n);
    found
}

/// What each CPU has of the time, in ticks: user, nice, system, idle; the rest is not counted.
fn shares(count: usize, time: &CpuStats, lifetime: Duration) -> Vec<[u64; COLUMNS]> {
    let hertz = u128::from(rustix::param::clock_ticks_per_second());
    let ticks = |time: Duration| u64::try_from(time.as_micros() * hertz / 1_000_000).unwrap_or(u64::MAX);
    let count = u64::try_from(count).unwrap_or(u64::MAX).max(1);
    let nice = ticks(time.nice.unwrap_or_default());
    let (user, system) = (ticks(time.user).saturating_sub(nice), ticks(time.system));
    let busy = user.saturating_add(nice).saturating_add(system);
    let idle = ticks(lifetime).saturating_mul(count).saturating_sub(busy);
    let part = |all: u64, n: u64| all / count + u64::from(n < all % count);
    (0..count)
        .map(|n| {
            let mut times = [0; COLUMNS];
            times[..4].copy_from_slice(&[part(user, n), part(nice, n), part(system, n), part(idle, n)]);
            times
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const CPUINFO: &str = "processor\t: 0\nmodel name\t: A\n\nprocessor\t: 1\nmodel name\t: B\n\n\
                           processor\t: 2\nmodel name\t: C\n\nHardware\t: board\n";
    const STAT: &str = "cpu  60 6 30 600 5 4 3 2 1 0\ncpu0 10 1 5 100 5 4 3 2 1 0\ncpu1 20 2 10 200 0 0 0 0 0 0\n\
                        cpu2 30 3 15 300 0 0 0 0 0 0\nintr 100 1 2\nctxt 5\nbtime 1000\nprocesses 9\n";

    fn cpus(text: &str) -> Cpus {
        Cpus::parse(text).unwrap()
    }

    #[test]
    fn a_set_and_a_quota_take_away() {
        let all = cpus("0-3\n");
        let set = |text: &str| text.parse::<CpuSet>().unwrap();
        assert_eq!(all.within(None, None), None);
        assert_eq!(all.within(Some(&set("0-7")), Some(4)), None);
        assert_eq!(all.within(Some(&set("2-3")), None).unwrap().to_string(), "2-3");
        assert_eq!(all.within(Some(&set("1,3")), Some(1)).unwrap().to_string(), "1");
        assert_eq!(all.within(None, Some(2)).unwrap().to_string(), "0-1");
        // All of its CPUs are offline.
        assert_eq!(all.within(Some(&set("9")), None), None);
        assert_eq!(Cpus::parse("\n"), None);
    }

    #[test]
    fn cpuinfo_has_their_paragraphs() {
        let text = cpuinfo(CPUINFO, &cpus("1-2"));
        assert_eq!(text.matches("processor").count(), 2);
        assert!(!text.contains(": A") && text.contains(": C\n\n") && text.ends_with("Hardware\t: board\n"));
    }

    #[test]
    fn stat_has_what_the_container_used_in_equal_parts() {
        let time = CpuStats {
            usage: Duration::from_secs(5),
            user: Duration::from_secs(3),
            system: Duration::from_millis(2010),
            ..CpuStats::default()
        };
        let text = stat(STAT, &cpus("1-2"), Some(&time), Duration::from_secs(10), 0);
        let lines: Vec<&str> = text.lines().collect();
        // A hundred ticks in a second.
        assert_eq!(lines[0], "cpu  300 0 201 1499 0 0 0 0 0 0");
        assert_eq!(lines[1], "cpu1 150 0 101 750 0 0 0 0 0 0");
        assert_eq!(lines[2], "cpu2 150 0 100 749 0 0 0 0 0 0");
        assert_eq!(lines[3..], ["intr 100 1 2", "ctxt 5", "btime 1000", "processes 9"]);
        let busy = stat(STAT, &cpus("1"), Some(&time), Duration::from_secs(1), -40);
        assert!(busy.starts_with("cpu  300 0 201 0 ") && busy.contains("btime 1040\n"), "{busy}");
    }

    #[test]
    fn without_a_count_stat_has_the_machines_figures_of_its_cpus() {
        let text = stat(STAT, &cpus("0,2"), None, Duration::ZERO, 0);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "cpu  40 4 20 400 5 4 3 2 1 0");
        assert_eq!(lines[1], "cpu0 10 1 5 100 5 4 3 2 1 0");
        assert_eq!(lines[2], "cpu2 30 3 15 300 0 0 0 0 0 0");
    }
}
