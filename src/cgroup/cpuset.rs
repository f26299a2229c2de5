//! The cpuset controller.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;

use serde::{Deserialize, Serialize};

use super::Controller;
use super::group::Cgroup;
use super::idset::{CpuSet, NodeSet};
use super::limits::Limits;
use super::setting::{Files, Settings, first_word};
use super::v1::Both;
use crate::error::{Error, Result};

const CPUS: &str = "/sys/devices/system/cpu/present";
const NODES: &str = "/sys/devices/system/node/online";

/// Whether a cgroup has its CPUs for itself (`cpuset.cpus.partition`).
///
/// The kernel takes the word in any case. Where it cannot be so, because the parent is no partition or a sibling has
/// the CPUs, the file says `invalid` and why, and the cgroup is as a member.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Partition {
    /// It shares them with its siblings.
    #[default]
    Member,
    /// They are its own, and balanced among its processes.
    Root,
    /// They are its own, and nothing is balanced.
    Isolated,
}

impl Partition {
    const ALL: [Self; 3] = [Self::Member, Self::Root, Self::Isolated];

    fn word(self) -> &'static str {
        match self {
            Self::Member => "member",
            Self::Root => "root",
            Self::Isolated => "isolated",
        }
    }
}

impl fmt::Display for Partition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// The CPUs of the machine, as cgroups below one see them.
#[derive(Clone, Debug)]
pub(crate) struct HostCpus {
    pub(crate) present: CpuSet,
    /// Those that are online and that the cgroup may use.
    pub(crate) allowed: CpuSet,
    /// The same without those that the host keeps for itself, if any are left then.
    pub(crate) usable: CpuSet,
    /// Those of each memory node; empty on a kernel without NUMA.
    pub(crate) nodes: BTreeMap<u32, CpuSet>,
}

impl Cgroup {
    /// What CPUs cgroups below this one may be given.
    pub(crate) fn host_cpus(&self) -> Result<HostCpus> {
        let present = cpu_list(CPUS)?;
        let online = cpu_list("/sys/devices/system/cpu/online")?;
        // `isolcpus=` of the kernel's command line, and isolated partitions.
        let isolated = cpu_list("/sys/devices/system/cpu/isolated").unwrap_or_default();
        let effective = self.read_optional("cpuset.cpus.effective")?.or_else(|| self.v1_effective_cpus());
        let effective = effective.and_then(|t| t.parse::<CpuSet>().ok());
        let effective = effective.filter(|set| !set.is_empty());
        let may = |cpu: &u32| effective.as_ref().is_none_or(|set| set.contains(*cpu));
        let allowed = CpuSet::new(online.iter().filter(may))?;
        let usable = CpuSet::new(allowed.iter().filter(|cpu| !isolated.contains(*cpu)))?;
        let usable = if usable.is_empty() { allowed.clone() } else { usable };
        let mut nodes = BTreeMap::new();
        for node in online_nodes().iter().flat_map(NodeSet::iter) {
            nodes.insert(node, cpu_list(&format!("/sys/devices/system/node/node{node}/cpulist"))?);
        }
        Ok(HostCpus { present, allowed, usable, nodes })
    }

    /// The CPUs that it was given (`cpuset.cpus`); none where it has no limit, or no such file.
    pub(crate) fn given_cpus(&self) -> Result<CpuSet> {
        Ok(Both::open(self)?.get_optional("cpuset.cpus")?.and_then(|t| t.parse().ok()).unwrap_or_default())
    }
}

fn cpu_list(path: &str) -> Result<CpuSet> {
    let text =
        fs::read_to_string(path).map_err(|e| Error::io("read the CPUs of the machine", e).path(path))?;
    text.parse::<CpuSet>().map_err(|e| e.with_kind(crate::ErrorKind::Kernel).path(path))
}

/// The CPUs that this machine has; `None` where it does not say.
pub(super) fn present_cpus() -> Option<CpuSet> {
    fs::read_to_string(CPUS).ok()?.parse().ok()
}

/// Whether this thread may run on all of these. Then they are there, and that is cheaper to ask than which are.
fn may_run_on(wanted: &CpuSet) -> bool {
    use rustix::thread::CpuSet as Mask;
    let Ok(mine) = rustix::thread::sched_getaffinity(None) else { return false };
    wanted.iter().all(|id| usize::try_from(id).is_ok_and(|id| id < Mask::MAX_CPU && mine.is_set(id)))
}

fn online_nodes() -> Option<NodeSet> {
    fs::read_to_string(NODES).ok()?.parse().ok()
}

pub(super) fn settings(limits: &Limits, out: &mut Settings) -> Result<()> {
    let c = Controller::Cpuset;
    if let Some(wanted) = limits.cpuset_cpus.as_ref().filter(|set| !set.is_empty() && !may_run_on(set))
        && let Some(there) = present_cpus()
    {
        let lacking = CpuSet::new(wanted.iter().filter(|id| !there.contains(*id)))?;
        if !lacking.is_empty() {
            return Err(unknown("cpuset_cpus", wanted, &lacking, &there));
        }
    }
    if let Some(wanted) = limits.cpuset_mems.as_ref().filter(|set| !set.is_empty())
        && let Some(there) = online_nodes()
    {
        let lacking = NodeSet::new(wanted.iter().filter(|id| !there.contains(*id)))?;
        if !lacking.is_empty() {
            return Err(unknown("cpuset_mems", wanted, &lacking, &there));
        }
    }
    out.add(c, "cpuset.mems", limits.cpuset_mems.as_ref());
    out.add(c, "cpuset.cpus", limits.cpuset_cpus.as_ref());
    out.add(c, "cpuset.cpus.partition", limits.cpuset_partition);
    Ok(())
}

fn unknown(
    field: &'static str,
    wanted: &impl fmt::Display,
    lacking: &impl fmt::Display,
    there: &impl fmt::Display,
) -> Error {
    Error::invalid(field, format!("{lacking} is not on this host, which has {there}"))
        .object(wanted.to_string())
}

pub(super) fn read(files: &dyn Files, limits: &mut Limits) -> Result<()> {
    limits.cpuset_cpus = files.get_optional("cpuset.cpus")?.and_then(|t| t.parse().ok());
    limits.cpuset_mems = files.get_optional("cpuset.mems")?.and_then(|t| t.parse().ok());
    limits.cpuset_partition = files
        .get_optional("cpuset.cpus.partition")?
        .and_then(|t| Partition::ALL.into_iter().find(|p| p.word() == first_word(&t)));
    Ok(())
}
