//! `sysinfo(2)`: the machine as far as it is the container's.

use std::os::fd::AsFd;

use rustix::io::Errno;

use super::{Interceptor, Subject};
use crate::cgroup::{Cgroup, Limit};
use crate::seccomp::Arch;
use crate::seccomp::notify::{Call, Response};
use crate::sys::fd::read_at;

/// What a structure of 32 bits counts memory in.
const UNIT_32: u64 = 4096;

/// `struct sysinfo`, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Info {
    uptime: u64,
    loads: [u64; 3],
    total: u64,
    free: u64,
    shared: u64,
    buffers: u64,
    swap_total: u64,
    swap_free: u64,
    procs: u16,
}

pub(super) fn answer(of: &Interceptor, call: &mut Call<'_>) -> Result<Response, Errno> {
    let info = Info::of_host().within(&of.subject);
    let bytes = match call.arch() {
        Some(Arch::X86 | Arch::Arm) => info.bytes_32(),
        Some(_) => info.bytes_64(),
        None => return Ok(Response::Continue),
    };
    match call.poke(call.args()[0], &bytes) {
        Ok(()) => Ok(Response::Value(0)),
        Err(Errno::FAULT) => Ok(Response::Errno(libc::EFAULT as u16)),
        Err(errno) => Err(errno),
    }
}

impl Info {
    fn of_host() -> Self {
        let host = rustix::system::sysinfo();
        let unit = u64::from(host.mem_unit.max(1));
        let bytes = |n: u64| n * unit;
        Self {
            uptime: host.uptime.max(0).cast_unsigned(),
            loads: host.loads,
            total: bytes(host.totalram),
            free: bytes(host.freeram),
            shared: bytes(host.sharedram),
            buffers: bytes(host.bufferram),
            swap_total: bytes(host.totalswap),
            swap_free: bytes(host.freeswap),
            procs: host.procs,
        }
    }

    /// With the container's limits and figures in place of the machine's, where its cgroup has them.
    fn within(mut self, subject: &Subject) -> Self {
        self.uptime = self.uptime.saturating_sub(subject.started);
        let Some(cgroup) = &subject.cgroup else { return self };
        let found = Figures::of_v2(cgroup);
        // Some 60 files instead of 5: only where v1 counts it.
        let by_v1 = found.memory.is_none() && cgroup.has_v1_groups().unwrap_or(false);
        let found = if by_v1 { Figures::of_any(cgroup).unwrap_or(found) } else { found };
        if let Some(procs) = found.procs {
            self.procs = u16::try_from(procs).unwrap_or(u16::MAX);
        }
        if let Some(Memory { used, limit, shared }) = found.memory {
            self.total = self.total.min(limit.unwrap_or(self.total));
            // The kernel counts page cache as used, not as free, and so do those who read this.
            self.free = self.free.min(self.total.saturating_sub(used));
            self.shared = shared;
            self.buffers = 0;
        }
        if let Some((used, limit)) = found.swap {
            self.swap_total = self.swap_total.min(limit.unwrap_or(self.swap_total));
            self.swap_free = self.swap_free.min(self.swap_total.saturating_sub(used));
        }
        self
    }

    fn memory(&self) -> [u64; 6] {
        [self.total, self.free, self.shared, self.buffers, self.swap_total, self.swap_free]
    }

    fn bytes_64(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(112);
        let words = [self.uptime].into_iter().chain(self.loads).chain(self.memory());
        words.for_each(|word| out.extend_from_slice(&word.to_ne_bytes()));
        out.extend_from_slice(&self.procs.to_ne_bytes());
        out.resize(88, 0);
        // High memory is none; then the unit.
        out.resize(104, 0);
        out.extend_from_slice(&1_u32.to_ne_bytes());
        out.resize(112, 0);
        out
    }

    fn bytes_32(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(64);
        let short = |n: u64| u32::try_from(n).unwrap_or(u32::MAX);
        let words = [self.uptime].into_iter().chain(self.loads);
        let words = words.chain(self.memory().map(|bytes| bytes / UNIT_32));
        words.for_each(|word| out.extend_from_slice(&short(word).to_ne_bytes()));
        out.extend_from_slice(&self.procs.to_ne_bytes());
        out.resize(52, 0);
        out.extend_from_slice(&(UNIT_32 as u32).to_ne_bytes());
        out.resize(64, 0);
        out
    }
}

/// What the container's cgroup counts, and where it ends; bytes.
#[derive(Clone, Copy, Debug, Default)]
struct Figures {
    procs: Option<u64>,
    memory: Option<Memory>,
    /// Used, and the limit.
    swap: Option<(u64, Option<u64>)>,
}

#[derive(Clone, Copy, Debug)]
struct Memory {
    used: u64,
    limit: Option<u64>,
    shared: u64,
}

impl Figures {
    fn of_v2(cgroup: &Cgroup) -> Self {
        let text = |file: &str| {
            read_at(cgroup.as_fd(), file, 64 * 1024).ok().and_then(|bytes| String::from_utf8(bytes).ok())
        };
        // `max` is no number, and leaves what the machine has.
        let number = |file: &str| text(file)?.trim().parse::<u64>().ok();
        let memory = number("memory.current").map(|used| {
            let stat = text("memory.stat").unwrap_or_default();
            let shared = stat.lines().find_map(|line| line.strip_prefix("shmem ")?.parse().ok());
            let limit = [number("memory.max"), number("memory.high")].into_iter().flatten().min();
            Memory { used, limit, shared: shared.unwrap_or(0) }
        });
        let swap = number("memory.swap.current").map(|used| (used, number("memory.swap.max")));
        Self { procs: number("pids.current"), memory, swap }
    }

    /// With what v1 counts for it.
    fn of_any(cgroup: &Cgroup) -> Option<Self> {
        let (stats, limits) = (cgroup.stats().ok()?, cgroup.limits().ok()?);
        let bytes = |limit: Option<Limit>| match limit {
            Some(Limit::Value(bytes)) => Some(bytes),
            _ => None,
        };
        let memory = stats.memory.as_ref().and_then(|memory| {
            let limit = [bytes(limits.memory_max), bytes(limits.memory_high)].into_iter().flatten().min();
            Some(Memory { used: memory.current?, limit, shared: memory.stat.shmem })
        });
        let swap = stats.memory.as_ref().and_then(|memory| memory.swap_current);
        let swap = swap.map(|used| (used, bytes(limits.memory_swap_max)));
        Some(Self { procs: stats.pids.as_ref().map(|pids| pids.current), memory, swap })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info() -> Info {
        let mib = 1 << 20;
        Info {
            uptime: 7,
            loads: [1, 2, 3],
            total: 64 * mib,
            free: 32 * mib,
            shared: mib,
            buffers: 0,
            swap_total: 8 << 40,
            swap_free: mib,
            procs: 5,
        }
    }

    #[test]
    fn the_native_structure_is_libcs() {
        let bytes = info().bytes_64();
        assert_eq!(bytes.len(), size_of::<libc::sysinfo>());
        let word = |at: usize| u64::from_ne_bytes(bytes[at..at + 8].try_into().unwrap());
        assert_eq!(word(std::mem::offset_of!(libc::sysinfo, uptime)), 7);
        assert_eq!(word(std::mem::offset_of!(libc::sysinfo, totalram)), 64 << 20);
        assert_eq!(word(std::mem::offset_of!(libc::sysinfo, freeswap)), 1 << 20);
        assert_eq!(bytes[std::mem::offset_of!(libc::sysinfo, procs)], 5);
        let unit = std::mem::offset_of!(libc::sysinfo, mem_unit);
        assert_eq!(bytes[unit..unit + 4], 1_u32.to_ne_bytes());
    }

    #[test]
    fn the_32_bit_structure_counts_pages() {
        let bytes = info().bytes_32();
        assert_eq!(bytes.len(), 64);
        let word = |at: usize| u32::from_ne_bytes(bytes[at..at + 4].try_into().unwrap());
        assert_eq!((word(0), word(16), word(20), word(52)), (7, 64 << 8, 32 << 8, 4096));
        // 8 TiB.
        assert_eq!(word(32), 8 << 28);
        assert_eq!(bytes[40], 5);
    }
}
