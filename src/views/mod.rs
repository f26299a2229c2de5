//! Files of `/proc` and `/sys` that show a container its own part of the machine, as LXCFS does.
//!
//! ```text
//! container                 kernel                     this process
//!   read /proc/meminfo ---->  FUSE request on  ------>   thread `stockade-views`: cgroup and host /proc,
//!   (a mount over it)         the container's             text of this moment
//!                 <---------  superblock       <------   answer
//! ```
//! Each container that asks for it has a superblock of its own ([`mount`]), which is attached in the container alone. One
//! thread answers for all of them ([`server`]). What it reads of the kernel's requests is in [`wire`], what it does about
//! them in [`files`], and what is in the files in [`content`].

mod content;
mod files;
#[cfg(feature = "fuzzing")]
pub(crate) mod fuzzing;
mod mount;
mod server;
mod wire;

use std::time::Duration;

pub(crate) use content::now;
pub(crate) use mount::Unmounted;
pub(crate) use server::Server;

use crate::cgroup::Share;
use crate::named_bits::named_bits;

named_bits! {
    /// Files of `/proc` and `/sys` that show a container its own part of the machine; see
    /// [`ContainerBuilder::resource_views`](crate::container::ContainerBuilder::resource_views). In JSON a list of names.
    ResourceViews(u32), "file that can be shown":
    /// `/proc/meminfo`: the least limit of memory (`memory.max`, `memory.high`) of the container's cgroup and those above, and
    /// what of it is in use; of swap likewise. What is not counted for a cgroup is zero, or the machine's where it is no
    /// amount in use, such as the size of huge pages.
    MEMINFO = 0, "meminfo";
    /// `/proc/cpuinfo`: the CPUs that the container may run on, or fewer: as many as its quota of CPU time (`cpu.max`) is
    /// worth, rounded up. They keep their numbers, as on a machine whose other CPUs are switched off, so that they are the
    /// numbers that `sched_setaffinity(2)` takes.
    CPUINFO = 1, "cpuinfo";
    /// `/proc/stat`: of the same CPUs, with the time that the container has used and since its start could have used. The
    /// kernel does not count on which CPU: each has an equal part. Interrupts, context switches, the time of boot and the
    /// number of forks are the machine's.
    STAT = 2, "stat";
    /// `/proc/uptime`: since the container's start, and what its CPUs could have run beside. Left out where it has a clock
    /// offset of its own ([`TimeOffsets`](crate::namespaces::TimeOffsets)), for the kernel's file then shows that.
    UPTIME = 3, "uptime";
    /// `/proc/loadavg`: the number of the container's threads; the loads are the machine's, as nobody counts them for a
    /// cgroup.
    LOADAVG = 4, "loadavg";
    /// `/proc/swaps`: one area, of what swap the container may use.
    SWAPS = 5, "swaps";
    /// `/proc/diskstats`: the block devices that the container has used, with what it did there.
    DISKSTATS = 6, "diskstats";
    /// `/sys/devices/system/cpu/online`: the CPUs of [`CPUINFO`](Self::CPUINFO), which is what `sysconf(3)` counts. `nproc(1)`
    /// asks the scheduler, which knows of a set of CPUs and not of a quota.
    CPU_ONLINE = 7, "cpu_online";
}

impl ResourceViews {
    /// All files.
    pub const ALL: Self = Self(0xff);

    /// These without those of `other`.
    #[must_use]
    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }
}

/// One of the files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum View {
    Meminfo,
    Cpuinfo,
    Stat,
    Uptime,
    Loadavg,
    Swaps,
    Diskstats,
    CpuOnline,
}

impl View {
    pub(crate) const ALL: [Self; 8] = [
        Self::Meminfo,
        Self::Cpuinfo,
        Self::Stat,
        Self::Uptime,
        Self::Loadavg,
        Self::Swaps,
        Self::Diskstats,
        Self::CpuOnline,
    ];

    pub(crate) fn bit(self) -> ResourceViews {
        ResourceViews(1 << self as u32)
    }

    /// What it is called in the file system.
    pub(crate) fn name(self) -> &'static str {
        self.path().rsplit('/').next().unwrap_or_default()
    }

    /// Which file it stands for.
    pub(crate) fn path(self) -> &'static str {
        match self {
            Self::Meminfo => "/proc/meminfo",
            Self::Cpuinfo => "/proc/cpuinfo",
            Self::Stat => "/proc/stat",
            Self::Uptime => "/proc/uptime",
            Self::Loadavg => "/proc/loadavg",
            Self::Swaps => "/proc/swaps",
            Self::Diskstats => "/proc/diskstats",
            Self::CpuOnline => "/sys/devices/system/cpu/online",
        }
    }
}

/// Whose part is shown.
#[derive(Debug)]
pub(crate) struct Subject {
    pub(crate) share: Share,
    /// When it was started, on `CLOCK_BOOTTIME`.
    pub(crate) started: Duration,
    /// By how many seconds its own clock is ahead of that.
    pub(crate) ahead: i64,
}
