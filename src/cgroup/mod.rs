//! cgroup v2, directly on directory descriptors.
//!
//! [`Hierarchy::detect`] finds the cgroup v2 mount and the cgroup that the calling process sits in.
//! [`Cgroup::create_child`] makes a leaf below it, two system calls; the leaf's descriptor is what
//! `CLONE_INTO_CGROUP` takes, so a process can be born inside. From then on the cgroup is the handle to the
//! whole group: [`freeze`](Cgroup::freeze), [`thaw`](Cgroup::thaw), [`kill`](Cgroup::kill),
//! [`wait_empty`](Cgroup::wait_empty), [`stats`](Cgroup::stats), [`events`](Cgroup::events) and
//! [`watch_pressure`](Cgroup::watch_pressure) to poll, [`apply`](Cgroup::apply) for limits of a new one,
//! [`update`](Cgroup::update) for those of one in use, all or none, and [`remove`](Cgroup::remove).
//!
//! On a hybrid host, where v1 holds the controllers, everything works but the limits of those controllers: they are
//! [`Unsupported`](crate::ErrorKind::Unsupported), or skipped where the caller asked for [`Enforce::BestEffort`].
//!
//! With the feature `cgroup1` they are set through v1, and so are limits on hosts that have only v1 mounted. The limits
//! are the same [`Limits`], in the same transaction, and [`Stats`] has what v1 counts. A cgroup is still a v2 cgroup, in
//! which processes are born, frozen and killed; with the first limit that needs it, it gets a group of its name in the v1
//! hierarchy, below this process's own group there, with the same processes:
//!
//! | limit | in v1 |
//! |---|---|
//! | `cpu_weight`, `cpu_max`, `cpu_max_burst`, `cpu_idle` | `cpu.shares` (1,024 for a weight of 100), `cpu.cfs_*` |
//! | `cpuset_cpus`, `cpuset_mems`, `pids_max` | the same |
//! | `memory_max` | `memory.limit_in_bytes`: the kernel takes none below what is in use, whatever [`BelowUse`] says |
//! | `memory_swap_max` | the rest of `memory.memsw.limit_in_bytes`; only beside `memory_max` |
//! | `memory_low` | `memory.soft_limit_in_bytes`: what is above it is reclaimed first |
//! | `io_weight`, `io_devices` | `blkio.bfq.weight`, `blkio.throttle.*`; not `latency` |
//! | `hugetlb` | `hugetlb.*.limit_in_bytes` |
//!
//! The others are `Unsupported` there, by an error that says that v1 has no such limit: `memory_min`, `memory_high`,
//! [`OomPolicy::Cgroup`], `memory_swap_high`, `memory_zswap_max`, `cpuset_partition`, `rdma`, `misc`, `dmem`.
//!
//! Which part of the tree is the caller's, and what can be had there, [`Hierarchy::delegation`] tells.
//!
//! No process is ever moved but into a v1 group of the cgroup that it is in, and nothing outside the cgroups made here is written, except that
//! [`enable_controllers`](Cgroup::enable_controllers) and [`delegate`](Cgroup::delegate) do so on the cgroup
//! they are called on, [`Hierarchy::enable_controllers_for`] on those above it down from the boundary, and a
//! [`Placement`](crate::Placement) that is asked for moves the host itself.
//!
//! The format of every file is in `Documentation/admin-guide/cgroup-v2.rst` of the kernel, those of v1 in
//! `Documentation/admin-guide/cgroup-v1/`; see also `cgroups(7)`.
//!
//! ```no_run
//! use std::time::{Duration, Instant};
//! use stockade::cgroup::{Enforce, Hierarchy, Limits};
//!
//! let hierarchy = Hierarchy::detect()?;
//! let web = hierarchy.own().create_child("web")?;
//! let limits = Limits::new().pids_max(100).memory_max(512 << 20);
//! for skipped in web.apply(&limits, Enforce::BestEffort)? {
//!     println!("{}: {}", skipped.file, skipped.reason);
//! }
//! // ... start processes inside ...
//! let deadline = Some(Instant::now() + Duration::from_secs(10));
//! web.kill()?;
//! web.wait_empty(deadline)?;
//! web.remove(deadline)?;
//! # Ok::<(), stockade::Error>(())
//! ```

mod apply;
mod block;
mod controller;
mod cpu;
mod cpuset;
mod delegate;
mod devices;
mod dmem;
mod events;
mod file;
mod group;
mod hierarchy;
mod hugetlb;
mod idset;
mod io;
mod limit;
mod limits;
mod memory;
mod misc;
mod percent;
mod pids;
mod place;
mod poll;
mod pressure;
mod rdma;
mod remove;
mod setting;
mod share;
mod state;
mod stats;
mod threads;
mod update;
#[cfg_attr(not(feature = "cgroup1"), path = "no_v1.rs")]
mod v1;

#[cfg(test)]
mod mock;
#[cfg(test)]
mod tests;

pub use apply::{Enforce, Skipped};
pub use block::{BlockDevice, DeviceNumber};
pub use controller::Controller;
pub use cpu::{CpuIdle, CpuMax};
pub(crate) use cpuset::HostCpus;
pub use cpuset::Partition;
pub(crate) use devices::DevicePrograms;
pub use devices::{DeviceAccess, DeviceKind, DevicePolicy, DeviceRule, DeviceVerdict};
pub use dmem::DmemLimits;
pub use events::{Event, Events, MemoryEvent};
pub use group::{Cgroup, CgroupId};
pub use hierarchy::Hierarchy;
pub use hugetlb::{HugePageSize, HugetlbLimits};
pub use idset::{CpuSet, NodeSet};
pub use io::{IoLimits, IoWeight};
pub use limit::Limit;
pub use limits::Limits;
pub use memory::{OomPolicy, Reclaimed};
pub use percent::Percent;
pub use place::{Boundary, CgroupKind, Delegation, Level};
pub use pressure::{PressureKind, PressureResource, PressureTrigger, PressureWatch};
pub use rdma::RdmaLimits;
pub(crate) use share::{MemoryShare, Share};
pub use state::{State, Watch};
pub use stats::{
    CgroupEvents, CgroupLocalStats, CgroupTree, ControllerCount, CpuLocalStats, CpuStats, HugetlbEvents,
    HugetlbStats, IoStats, MemoryEvents, MemoryStat, MemoryStats, MiscStats, PidsEvents, PidsStats, Pressure,
    Pressures, RdmaStats, Stall, Stats, StatsReader, SwapEvents,
};
#[doc(hidden)]
pub use update::WriteFault;
pub use update::{BelowUse, ChangeOptions};

/// What gives a process a cgroup that it may write to; the end of many errors here.
pub(crate) const DELEGATION: &str = "run as root, or inside a delegated cgroup: `Delegate=yes` with `DelegateSubgroup=` in a \
                          systemd service, or `systemd-run --user --scope -p Delegate=yes`";
