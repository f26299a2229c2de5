//! `/proc/uptime` and `/proc/loadavg` (`proc_uptime(5)`, `proc_loadavg(5)`).

use std::time::Duration;

/// For how long it runs, and for how long its CPUs together had nothing to do for it.
pub(super) fn uptime(lifetime: Duration, cpus: usize, used: Duration) -> String {
    let cpus = u32::try_from(cpus).unwrap_or(u32::MAX);
    let idle = lifetime.saturating_mul(cpus).saturating_sub(used);
    let text = |time: Duration| format!("{}.{:02}", time.as_secs(), time.subsec_millis() / 10);
    format!("{} {}\n", text(lifetime), text(idle))
}

/// The machine's loads. Who reads it runs; the number given last to a process of the machine is not told.
pub(super) fn loadavg(host: &str, tasks: u64) -> Option<String> {
    let loads: Vec<&str> = host.split_whitespace().take(3).collect();
    (loads.len() == 3).then(|| format!("{} 1/{tasks} 0\n", loads.join(" ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uptime_counts_from_the_start() {
        let used = Duration::from_millis(1250);
        assert_eq!(uptime(Duration::from_millis(10_019), 2, used), "10.01 18.78\n");
        assert_eq!(uptime(Duration::from_secs(1), 1, Duration::from_secs(9)), "1.00 0.00\n");
    }

    #[test]
    fn loads_are_the_machines() {
        assert_eq!(loadavg("0.10 0.20 0.30 3/900 4711\n", 5).as_deref(), Some("0.10 0.20 0.30 1/5 0\n"));
        assert_eq!(loadavg("", 5), None);
    }
}
