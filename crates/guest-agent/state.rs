//! What the guest is like now.

use std::fs;
use std::net::{Ipv4Addr, Ipv6Addr};

use super::sys;
use super::wire::{Address, State};

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

/// Of `/proc/meminfo`, in bytes.
fn memory(text: &str, field: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    let kib = line.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok());
    kib.unwrap_or(0).saturating_mul(1024)
}

/// Seconds with a fraction, in so many parts of a second.
fn fixed(text: Option<&str>, parts: f64) -> u64 {
    (text.and_then(|t| t.parse::<f64>().ok()).unwrap_or(0.0) * parts) as u64
}

/// Whether there is a process beside the first one. The kernel's own threads, and those that have ended, have no command line.
pub(crate) fn others() -> bool {
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    processes
        .filter(|e| e.file_name().to_string_lossy().parse::<u32>().is_ok_and(|pid| pid != std::process::id()))
        .any(|e| fs::read(e.path().join("cmdline")).is_ok_and(|line| !line.is_empty()))
}

pub(crate) fn now() -> State {
    /// Nanoseconds of a tick (`sysconf(3)`, `_SC_CLK_TCK` is 100 on every Linux).
    const TICK: u64 = 10_000_000;
    let meminfo = read("/proc/meminfo");
    let stat = read("/proc/stat");
    let times: Vec<u64> = stat
        .lines()
        .next()
        .unwrap_or_default()
        .split_whitespace()
        .skip(1)
        .map(|n| n.parse().unwrap_or(0))
        .collect();
    let time = |n: usize| times.get(n).copied().unwrap_or(0).saturating_mul(TICK);
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let processes = processes.filter(|e| e.file_name().to_string_lossy().bytes().all(|b| b.is_ascii_digit()));
    let addresses = sys::addresses().into_iter().map(|found| {
        let address = match <[u8; 4]>::try_from(&found.bytes[..]) {
            Ok(bytes) => Ipv4Addr::from(bytes).to_string(),
            Err(_) => <[u8; 16]>::try_from(&found.bytes[..])
                .map(|b| Ipv6Addr::from(b).to_string())
                .unwrap_or_default(),
        };
        Address { interface: found.interface, address: address.into_bytes(), prefix: found.prefix }
    });
    State {
        memory_total: memory(&meminfo, "MemTotal"),
        memory_available: memory(&meminfo, "MemAvailable"),
        swap_total: memory(&meminfo, "SwapTotal"),
        swap_free: memory(&meminfo, "SwapFree"),
        cpu_user: time(0) + time(1),
        cpu_system: time(2) + time(5) + time(6),
        cpus: stat.lines().filter(|l| l.starts_with("cpu") && !l.starts_with("cpu ")).count() as u32,
        load: fixed(read("/proc/loadavg").split_whitespace().next(), 100.0) as u32,
        processes: processes.count() as u32,
        uptime: fixed(read("/proc/uptime").split_whitespace().next(), 1e9),
        addresses: addresses.collect(),
        hostname: read("/proc/sys/kernel/hostname").trim().as_bytes().to_vec(),
    }
}
