//! `sysinfo(2)`: the machine as far as it is the container's.

use rustix::io::Errno;

use super::{Interceptor, Subject};
use crate::seccomp::Arch;
use crate::seccomp::notify::{Call, Response};

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
        let Some(share) = &subject.share else { return self };
        if let Some(tasks) = share.tasks() {
            self.procs = u16::try_from(tasks).unwrap_or(u16::MAX);
        }
        let Some(memory) = share.memory() else { return self };
        self.total = self.total.min(memory.limit.unwrap_or(self.total));
        // The kernel counts page cache as used, not as free, and so do those who read this.
        self.free = self.free.min(self.total.saturating_sub(memory.used));
        self.shared = memory.stat.shmem;
        self.buffers = 0;
        if let Some(used) = memory.swap_used {
            self.swap_total = self.swap_total.min(memory.swap_limit.unwrap_or(self.swap_total));
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
