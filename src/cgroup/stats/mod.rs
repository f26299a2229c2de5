//! What a cgroup uses now, and what happened to it.
//!
//! One file for each controller gives the figures their types; [`StatsReader`] reads the kernel's files through
//! descriptors that stay open.

pub(super) mod core;
mod cpu;
mod hugetlb;
mod io;
pub(super) mod memory;
mod misc;
mod parse;
pub(super) mod pids;
mod pressure;
mod rdma;
mod reader;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

pub use self::core::{CgroupEvents, CgroupLocalStats, CgroupTree, ControllerCount};
pub use self::cpu::{CpuLocalStats, CpuStats};
pub use self::hugetlb::{HugetlbEvents, HugetlbStats};
pub use self::io::IoStats;
pub(super) use self::io::parse as parse_io;
pub use self::memory::{MemoryEvents, MemoryStat, MemoryStats, SwapEvents};
pub use self::misc::MiscStats;
pub(super) use self::parse::digits;
pub use self::pids::{PidsEvents, PidsStats};
pub use self::pressure::{Pressure, Pressures, Stall};
pub use self::rdma::RdmaStats;
pub use self::reader::StatsReader;
use super::group::Cgroup;
use crate::error::Result;

/// Usage of a cgroup and its descendants. `None`, or empty, where the cgroup lacks the controller that counts it or
/// the kernel lacks the file. Not read: what each NUMA node holds (`*.numa_stat`), and settings.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Stats {
    /// Its state (`cgroup.events`); `None` for the host's root cgroup.
    pub state: Option<CgroupEvents>,
    /// The cgroups below it (`cgroup.stat`).
    pub tree: CgroupTree,
    /// What happened to the cgroup itself (`cgroup.stat.local`, Linux 6.18).
    pub local: Option<CgroupLocalStats>,
    /// CPU time (`cpu.stat`).
    pub cpu: Option<CpuStats>,
    /// What its own limit of CPU time did (`cpu.stat.local`, Linux 6.6).
    pub cpu_local: Option<CpuLocalStats>,
    /// Memory.
    pub memory: Option<MemoryStats>,
    /// Block devices that it used, each (`io.stat`).
    pub io: Option<Vec<IoStats>>,
    /// Processes and threads.
    pub pids: Option<PidsStats>,
    /// Huge pages of each size that the machine has.
    pub hugetlb: Vec<HugetlbStats>,
    /// RDMA devices that it used, each (`rdma.current`).
    pub rdma: Option<Vec<RdmaStats>>,
    /// Scalar resources of the host.
    pub misc: Option<MiscStats>,
    /// Bytes of device memory, by the name of the region (`dmem.current`, Linux 6.14).
    pub dmem: Option<BTreeMap<String, u64>>,
    /// Time lost by waiting.
    pub pressure: Pressures,
}

impl Cgroup {
    /// Reads all statistics once: opens each file, reads it and closes it. To read them again and again, a
    /// [`stats_reader`](Self::stats_reader) is cheaper.
    ///
    /// # Errors
    /// [`NotFound`](crate::ErrorKind::NotFound): the cgroup was removed.
    /// [`Exhausted`](crate::ErrorKind::Exhausted): there are not descriptors enough for the moment.
    pub fn stats(&self) -> Result<Stats> {
        self.stats_reader()?.read()
    }
}
