//! `/proc/meminfo` and `/proc/swaps` (`proc_meminfo(5)`, `proc_swaps(5)`).

use std::fmt::Write;

use crate::cgroup::MemoryShare;

const KIB: u64 = 1024;

/// Total and free swap of a container, in bytes.
fn swap(host_total: u64, host_free: u64, memory: &MemoryShare) -> Option<(u64, u64)> {
    let used = memory.swap_used?;
    let total = host_total.min(memory.swap_limit.unwrap_or(host_total));
    Some((total, host_free.min(total.saturating_sub(used))))
}

/// The value of a line of the machine's, in bytes.
fn of_host(host: &str, key: &str) -> u64 {
    let value = host.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
    let kib = value.and_then(|value| value.split_whitespace().next()?.parse::<u64>().ok());
    kib.unwrap_or(0).saturating_mul(KIB)
}

pub(super) fn meminfo(host: &str, memory: &MemoryShare) -> String {
    let stat = &memory.stat;
    let machine = of_host(host, "MemTotal");
    let total = machine.min(memory.limit.unwrap_or(machine));
    // The kernel counts page cache as used; what can be given up without swap is free to be had.
    let free = total.saturating_sub(memory.used);
    let files = stat.active_file + stat.inactive_file;
    let available = total.min(free.saturating_add(files).saturating_add(stat.slab_reclaimable));
    let swap = swap(of_host(host, "SwapTotal"), of_host(host, "SwapFree"), memory);
    let own = |key: &str| {
        Some(match key {
            "MemTotal" => total,
            "MemFree" => free,
            "MemAvailable" => available,
            "Cached" => stat.file,
            "SwapCached" => stat.swapcached.unwrap_or(0),
            "Active" => stat.active_anon + stat.active_file,
            "Inactive" => stat.inactive_anon + stat.inactive_file,
            "Active(anon)" => stat.active_anon,
            "Inactive(anon)" => stat.inactive_anon,
            "Active(file)" => stat.active_file,
            "Inactive(file)" => stat.inactive_file,
            "Unevictable" => stat.unevictable,
            "SwapTotal" => swap?.0,
            "SwapFree" => swap?.1,
            "Zswap" => stat.zswap.unwrap_or(0),
            "Zswapped" => stat.zswapped.unwrap_or(0),
            "Dirty" => stat.file_dirty,
            "Writeback" => stat.file_writeback,
            "AnonPages" => stat.anon,
            "Mapped" => stat.file_mapped,
            "Shmem" => stat.shmem,
            "KReclaimable" | "SReclaimable" => stat.slab_reclaimable,
            "Slab" => stat.slab,
            "SUnreclaim" => stat.slab_unreclaimable,
            "KernelStack" => stat.kernel_stack,
            "PageTables" => stat.pagetables,
            "SecPageTables" => stat.sec_pagetables.unwrap_or(0),
            "VmallocUsed" => stat.vmalloc,
            "Percpu" => stat.percpu,
            "AnonHugePages" => stat.anon_thp.unwrap_or(0),
            "ShmemHugePages" => stat.shmem_thp.unwrap_or(0),
            "FileHugePages" => stat.file_thp.unwrap_or(0),
            // Of no cgroup's.
            "Buffers" | "Mlocked" | "NFS_Unstable" | "Bounce" | "WritebackTmp" | "ShmemPmdMapped"
            | "FilePmdMapped" | "Balloon" | "GPUActive" | "GPUReclaim" => 0,
            _ => return None,
        })
    };
    let mut out = String::with_capacity(host.len());
    for line in host.lines() {
        match line.split_once(':').and_then(|(key, _)| Some((key, own(key)?))) {
            // As the kernel sets them.
            Some((key, bytes)) => {
                let _ = writeln!(out, "{:<16}{:>8} kB", format!("{key}:"), bytes / KIB);
            }
            None => {
                out.push_str(line);
                out.push('\n');
            }
        }
    }
    out
}

pub(super) fn swaps(host: &str, memory: &MemoryShare) -> Option<String> {
    let mut lines = host.lines();
    let head = lines.next()?;
    let (mut size, mut used) = (0_u64, 0_u64);
    for line in lines {
        // Name, type, size, use, priority.
        let mut words = line.split_whitespace().skip(2).map(|word| word.parse::<u64>().unwrap_or(0));
        size = size.saturating_add(words.next().unwrap_or(0));
        used = used.saturating_add(words.next().unwrap_or(0));
    }
    let (total, free) = swap(size * KIB, size.saturating_sub(used) * KIB, memory)?;
    let mut out = format!("{head}\n");
    if total > 0 {
        let _ = writeln!(out, "{:<40}virtual\t\t{}\t\t{}\t\t0", "none", total / KIB, (total - free) / KIB);
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cgroup::MemoryStat;

    const MIB: u64 = 1 << 20;
    const HOST: &str = "MemTotal:        8000000 kB\nMemFree:          400000 kB\nMemAvailable:    5000000 kB\n\
                        Buffers:          100000 kB\nCached:          3000000 kB\nSwapTotal:       1048576 kB\n\
                        SwapFree:        1000000 kB\nShmem:              5000 kB\nHugepagesize:       2048 kB\n\
                        Active(anon):     700000 kB\nHugePages_Total:       0\nDirectMap4k:      500000 kB\n";

    fn share() -> MemoryShare {
        let stat = MemoryStat {
            file: 30 * MIB,
            active_file: 10 * MIB,
            inactive_file: 15 * MIB,
            shmem: 5 * MIB,
            active_anon: 50 * MIB,
            ..MemoryStat::default()
        };
        let (limit, swap_limit) = (Some(512 * MIB), Some(64 * MIB));
        MemoryShare { used: 100 * MIB, limit, swap_used: Some(4 * MIB), swap_limit, stat }
    }

    fn kib(text: &str, key: &str) -> u64 {
        of_host(text, key) / KIB
    }

    #[test]
    fn the_limit_is_the_memory_and_the_rest_is_free() {
        let text = meminfo(HOST, &share());
        assert_eq!(text.lines().next(), Some("MemTotal:         524288 kB"));
        let of = |key| kib(&text, key);
        assert_eq!((of("MemFree"), of("MemAvailable")), (412 << 10, 437 << 10));
        assert_eq!((of("Buffers"), of("Cached"), of("Shmem")), (0, 30 << 10, 5 << 10));
        assert_eq!((of("SwapTotal"), of("SwapFree"), of("Active(anon)")), (64 << 10, 60 << 10, 50 << 10));
        // What is no amount in use is the machine's, and no line is lost.
        assert_eq!((of("Hugepagesize"), of("DirectMap4k")), (2048, 500_000));
        assert!(text.contains("\nHugePages_Total:       0\n"));
        assert_eq!(text.lines().count(), HOST.lines().count());
    }

    #[test]
    fn a_limit_above_the_machine_or_none_is_the_machine() {
        for limit in [None, Some(u64::MAX)] {
            let memory = MemoryShare { limit, swap_limit: limit, ..share() };
            let text = meminfo(HOST, &memory);
            assert_eq!(kib(&text, "MemTotal"), 8_000_000);
            assert_eq!((kib(&text, "SwapTotal"), kib(&text, "SwapFree")), (1_048_576, 1_000_000));
        }
        let over = MemoryShare { used: 600 * MIB, ..share() };
        assert_eq!(kib(&meminfo(HOST, &over), "MemFree"), 0);
        let uncounted = MemoryShare { swap_used: None, ..share() };
        assert_eq!(kib(&meminfo(HOST, &uncounted), "SwapTotal"), 1_048_576);
    }

    #[test]
    fn swap_is_one_area() {
        let host = "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n/dev/sda2                               \
                    partition\t1048576\t\t1000\t\t-2\n";
        let text = swaps(host, &share()).unwrap();
        let fields: Vec<_> = text.lines().nth(1).unwrap().split_whitespace().collect();
        assert_eq!(fields, ["none", "virtual", "65536", "4096", "0"]);
        let head = host.lines().next().unwrap();
        let none = MemoryShare { swap_limit: Some(0), ..share() };
        assert_eq!(swaps(host, &none).unwrap(), format!("{head}\n"));
        assert_eq!(swaps(host, &MemoryShare { swap_used: None, ..share() }), None);
    }
}
