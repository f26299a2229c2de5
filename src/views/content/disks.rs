//! `/proc/diskstats` (`proc_diskstats(5)`).

use std::fmt::Write;

use crate::cgroup::IoStats;

/// What `diskstats` counts in, whatever the device has.
const SECTOR: u64 = 512;

/// The lines of the devices that were used; times and merges are not counted for a cgroup.
pub(super) fn diskstats(host: &str, io: &[IoStats]) -> String {
    let mut out = String::new();
    for line in host.lines() {
        let mut words = line.split_whitespace();
        let (Some(major), Some(minor), Some(name)) = (words.next(), words.next(), words.next()) else {
            continue;
        };
        let device = format!("{major}:{minor}");
        let Some(used) = io.iter().find(|used| used.device.to_string() == device) else { continue };
        let (read, written) = (used.read_bytes / SECTOR, used.written_bytes / SECTOR);
        let _ = writeln!(
            out,
            "{major:>4} {minor:>7} {name} {} 0 {read} 0 {} 0 {written} 0 0 0 0 {} 0 {} 0 0 0",
            used.reads,
            used.writes,
            used.discards,
            used.discarded_bytes / SECTOR,
        );
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_those_of_used_devices() {
        let host =
            "   8       0 sda 9 9 9 9 9 9 9 9 9 9 9 9 9 9 9 9 9\n   8       1 sda1 1 1 1 1 1 1 1 1 1 1 1\n";
        let device = "8:0".parse().unwrap();
        let used = IoStats {
            device,
            read_bytes: 4096,
            reads: 2,
            written_bytes: 512,
            writes: 1,
            ..IoStats::default()
        };
        let text = diskstats(host, &[used]);
        assert_eq!(text, "   8       0 sda 2 0 8 0 1 0 1 0 0 0 0 0 0 0 0 0 0\n");
        assert_eq!(text.split_whitespace().count(), host.lines().next().unwrap().split_whitespace().count());
        assert_eq!(diskstats(host, &[]), "");
    }
}
