//! [`Limits`]: all that can be set on a cgroup, typed.
//!
//! Each controller's file turns its part into [`Setting`]s, says what is wrong with it, and reads it back.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::block::BlockDevice;
use super::cpu::{CpuIdle, CpuMax};
use super::cpuset::Partition;
use super::dmem::DmemLimits;
use super::hugetlb::{HugePageSize, HugetlbLimits};
use super::idset::{CpuSet, NodeSet};
use super::io::IoLimits;
use super::limit::Limit;
use super::memory::OomPolicy;
use super::percent::Percent;
use super::rdma::RdmaLimits;
use super::setting::{Files, Problems, Setting, Settings};
use super::{Controller, cpu, cpuset, dmem, hugetlb, io, memory, misc, pids, rdma};
use crate::error::{Error, Result};

macro_rules! limits {
    (
        $(#[$top:meta])*
        pub struct Limits {
            $($(#[$doc:meta])* $name:ident: $t:ty,)*
            ---
            $($(#[$map_doc:meta])* $map:ident($add:ident): $key:ty => $value:ty,)*
        }
    ) => {
        $(#[$top])*
        pub struct Limits {
            $(
                $(#[$doc])*
                #[serde(skip_serializing_if = "Option::is_none")]
                pub $name: Option<$t>,
            )*
            $(
                $(#[$map_doc])*
                #[serde(skip_serializing_if = "BTreeMap::is_empty")]
                pub $map: BTreeMap<$key, $value>,
            )*
        }

        impl Limits {
            $(
                #[doc = concat!("Sets [`", stringify!($name), "`](field@Self::", stringify!($name), ").")]
                #[must_use]
                pub fn $name(mut self, value: impl Into<$t>) -> Self {
                    self.$name = Some(value.into());
                    self
                }
            )*
            $(
                #[doc = concat!("Adds to [`", stringify!($map), "`](field@Self::", stringify!($map), ").")]
                #[must_use]
                pub fn $add(mut self, key: impl Into<$key>, value: impl Into<$value>) -> Self {
                    self.$map.insert(key.into(), value.into());
                    self
                }
            )*

            /// These limits, with those of `patch` in place of their own: what `patch` does not name stays. Of a
            /// device or resource that both name, what `patch` says of it.
            #[must_use]
            pub fn patched(&self, patch: &Self) -> Self {
                let mut out = self.clone();
                $(if patch.$name.is_some() { out.$name.clone_from(&patch.$name); })*
                $(
                    for (key, value) in &patch.$map {
                        match out.$map.get_mut(key) {
                            Some(old) => old.patch(value),
                            None => drop(out.$map.insert(key.clone(), value.clone())),
                        }
                    }
                )*
                out
            }

            /// Of these limits those that `named` has too, whatever it says of them.
            #[cfg(feature = "vm")]
            pub(crate) fn only(&self, named: &Self) -> Self {
                let mut out = self.clone();
                $(if named.$name.is_none() { out.$name = None; })*
                $(out.$map.retain(|key, _| named.$map.contains_key(key));)*
                out
            }
        }
    };
}

/// How the entry of a device or resource takes over what a patch says of it.
pub(super) trait Patch {
    fn patch(&mut self, by: &Self);
}

impl Patch for Limit {
    fn patch(&mut self, by: &Self) {
        *self = *by;
    }
}

macro_rules! patch_fields {
    ($t:ty { $($field:ident),* }) => {
        impl crate::cgroup::limits::Patch for $t {
            fn patch(&mut self, by: &Self) {
                $(if by.$field.is_some() { self.$field.clone_from(&by.$field); })*
            }
        }
    };
}
pub(super) use patch_fields;

limits! {
    /// Limits of a cgroup, named as the kernel's files are. `None` leaves a limit as it is; a new cgroup has none.
    ///
    /// Sizes are bytes, times [`Duration`]. What a limit means in detail stands in
    /// `Documentation/admin-guide/cgroup-v2.rst` of the kernel.
    ///
    /// ```
    /// use std::time::Duration;
    /// use stockade::cgroup::{BlockDevice, CpuMax, IoLimits, Limits};
    ///
    /// let limits = Limits::new()
    ///     .memory_max(512 << 20)
    ///     .cpu_max(CpuMax::quota(Duration::from_millis(50), Duration::from_millis(100)))
    ///     .pids_max(100)
    ///     .io_device(BlockDevice::path("/var/lib/data"), IoLimits::new().write_bytes_max(10 << 20));
    /// limits.check()?;
    /// # Ok::<(), stockade::Error>(())
    /// ```
    #[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
    #[serde(default, deny_unknown_fields)]
    #[non_exhaustive]
    pub struct Limits {
        /// Share of the CPU beside its siblings (`cpu.weight`): 1 to 10,000, and 100 unless set. One that is idle
        /// ([`cpu_idle`](field@Self::cpu_idle)) has none; its weight counts once it is not.
        cpu_weight: u32,
        /// CPU time in each period (`cpu.max`).
        cpu_max: CpuMax,
        /// Unused time of earlier periods that may be used on top of the quota (`cpu.max.burst`): at most the quota;
        /// 0 for none.
        cpu_max_burst: Duration,
        /// Whether it gets CPU time only when nobody else wants it (`cpu.idle`, Linux 5.15).
        cpu_idle: CpuIdle,
        /// The least utilisation that its processes count with when the clock rate is chosen (`cpu.uclamp.min`, where
        /// the kernel has `CONFIG_UCLAMP_TASK_GROUP`).
        cpu_uclamp_min: Percent,
        /// The highest one (`cpu.uclamp.max`); 100 % for no bound.
        cpu_uclamp_max: Percent,

        /// The CPUs that its processes may use (`cpuset.cpus`); the empty set for all that the parent has. A cgroup
        /// with processes that had a set is given those that the parent has at the time: the kernel has no way back.
        cpuset_cpus: CpuSet,
        /// The memory nodes that its processes may use (`cpuset.mems`); the empty set for all that the parent has.
        cpuset_mems: NodeSet,
        /// Whether its CPUs are taken from its siblings (`cpuset.cpus.partition`; isolated: Linux 6.1).
        cpuset_partition: Partition,

        /// Bytes that are never reclaimed (`memory.min`); 0 for none.
        memory_min: Limit,
        /// Bytes that are reclaimed last (`memory.low`); 0 for none.
        memory_low: Limit,
        /// Bytes above which its processes are slowed and its memory is reclaimed (`memory.high`).
        memory_high: Limit,
        /// Memory in bytes, descendants, page cache and kernel memory included (`memory.max`), rounded down to
        /// whole pages by the kernel: what cannot be reclaimed above it is met by the OOM killer.
        memory_max: Limit,
        /// Bytes of swap above which its processes are slowed (`memory.swap.high`).
        memory_swap_high: Limit,
        /// Bytes of swap (`memory.swap.max`); 0 for none.
        memory_swap_max: Limit,
        /// Bytes of compressed swap in memory (`memory.zswap.max`); 0 for none.
        memory_zswap_max: Limit,
        /// Whom the OOM killer ends (`memory.oom.group`).
        memory_oom_group: OomPolicy,

        /// Share of the block devices beside its siblings (`io.weight`): 1 to 10,000, and 100 unless set. Takes
        /// effect where the device has a cost model (`io.cost.qos`).
        io_weight: u32,

        /// Processes and threads together, descendants included (`pids.max`): above it `fork(2)` fails with
        /// `EAGAIN`. At most 4,194,304.
        pids_max: Limit,
        ---
        /// Limits for a block device (`io.max`, `io.weight`, `io.latency`).
        io_devices(io_device): BlockDevice => IoLimits,
        /// Limits of huge pages of a size (`hugetlb.SIZE.max`, `hugetlb.SIZE.rsvd.max`).
        hugetlb(huge_pages): HugePageSize => HugetlbLimits,
        /// Limits for an RDMA device by its name, such as `mlx5_0` (`rdma.max`).
        rdma(rdma_device): String => RdmaLimits,
        /// Limits of a resource of the host by its name, such as `sev` (`misc.max`).
        misc(misc_resource): String => Limit,
        /// Limits for a region of device memory by its name (`dmem.min`, `dmem.low`, `dmem.max`; Linux 6.14).
        dmem(dmem_region): String => DmemLimits,
    }
}

impl Limits {
    /// No limits: the same as `default()`.
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether none is set.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// The controllers that the cgroup must have for these limits, by name.
    pub fn controllers(&self) -> Vec<Controller> {
        let some = |wanted: bool, controller| wanted.then_some(controller);
        let cpu = self.cpu_weight.is_some()
            || self.cpu_max.is_some()
            || self.cpu_max_burst.is_some()
            || self.cpu_idle.is_some()
            || self.cpu_uclamp_min.is_some()
            || self.cpu_uclamp_max.is_some();
        let cpuset =
            self.cpuset_cpus.is_some() || self.cpuset_mems.is_some() || self.cpuset_partition.is_some();
        let sizes = [
            self.memory_min,
            self.memory_low,
            self.memory_high,
            self.memory_max,
            self.memory_swap_high,
            self.memory_swap_max,
            self.memory_zswap_max,
        ];
        let memory = sizes.iter().any(Option::is_some) || self.memory_oom_group.is_some();
        [
            some(cpu, Controller::Cpu),
            some(cpuset, Controller::Cpuset),
            some(!self.dmem.is_empty(), Controller::Dmem),
            some(!self.hugetlb.is_empty(), Controller::Hugetlb),
            some(self.io_weight.is_some() || !self.io_devices.is_empty(), Controller::Io),
            some(memory, Controller::Memory),
            some(!self.misc.is_empty(), Controller::Misc),
            some(self.pids_max.is_some(), Controller::Pids),
            some(!self.rdma.is_empty(), Controller::Rdma),
        ]
        .into_iter()
        .flatten()
        .collect()
    }

    /// Checks all values without a look at the host.
    ///
    /// # Errors
    /// [`InvalidConfig`](crate::ErrorKind::InvalidConfig), which lists every mistake as `field: reason`.
    pub fn check(&self) -> Result<()> {
        let all = self.problems();
        if all.is_empty() {
            return Ok(());
        }
        let text: Vec<String> = all.iter().map(|(field, why)| format!("{field}: {why}")).collect();
        Err(Error::invalid("limits", text.join("; ")))
    }

    /// What is wrong with them: field and reason.
    pub(crate) fn problems(&self) -> Vec<(String, String)> {
        let mut out = Problems::default();
        cpu::problems(self, &mut out);
        memory::problems(self, &mut out);
        io::problems(self, &mut out);
        pids::problems(self, &mut out);
        hugetlb::problems(self, &mut out);
        rdma::problems(self, &mut out);
        misc::problems(self, &mut out);
        dmem::problems(self, &mut out);
        out.0
    }

    /// Checks the values, and that what they name is there on this host: CPUs, memory nodes, block devices. Gives
    /// what is to be written, in the order for a new cgroup: what can kill comes last.
    pub(super) fn settings(&self) -> Result<Vec<Setting>> {
        self.check()?;
        let mut out = Settings::default();
        cpu::settings(self, &mut out);
        cpuset::settings(self, &mut out)?;
        io::settings(self, &mut out)?;
        hugetlb::settings(self, &mut out);
        rdma::settings(self, &mut out);
        misc::settings(self, &mut out);
        dmem::settings(self, &mut out);
        pids::settings(self, &mut out);
        memory::settings(self, &mut out);
        Ok(out.0)
    }

    /// Fails where the values are wrong, or what they name is not on this host.
    pub(crate) fn check_host(&self) -> Result<()> {
        if self.is_empty() { Ok(()) } else { self.settings().map(drop) }
    }

    /// What the kernel has.
    pub(super) fn read(files: &dyn Files) -> Result<Self> {
        let mut out = Self::default();
        cpu::read(files, &mut out)?;
        cpuset::read(files, &mut out)?;
        memory::read(files, &mut out)?;
        io::read(files, &mut out)?;
        pids::read(files, &mut out)?;
        hugetlb::read(files, &mut out)?;
        rdma::read(files, &mut out)?;
        misc::read(files, &mut out)?;
        dmem::read(files, &mut out)?;
        Ok(out)
    }
}
