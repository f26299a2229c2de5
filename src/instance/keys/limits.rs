//! `limits.*` of containers: what the keys come to. Their table is in [`table`], how values are read in [`values`].

mod table;
mod values;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use self::table::{OF_VMS, TABLE, row_of};
use self::values::{Allowance, Amount, MemoryEnforce, Swap};
use super::{ByteSize, Key, KeyChange, shown};
use crate::cgroup::{CpuMax, HugePageSize, HugetlbLimits, Limit, Limits};
use crate::error::{Error, Result};
use crate::instance::{CpuNodes, Cpus, UpdateOptions};
use crate::process::{OomScoreAdj, Resource, Rlimit};

/// What a new cgroup has (`cpu.weight`, `io.weight`).
const DEFAULT_WEIGHT: u32 = 100;

/// The keys `limits.*` of a container, read and checked.
///
/// | key | is | where the container has it |
/// |---|---|---|
/// | `limits.cpu` | a count of CPUs (`2`), or a set that pins (`0-1,3`; `1-1`) | [`Cpus`] |
/// | `limits.cpu.nodes` | memory nodes, or `balanced` | [`CpuNodes`] |
/// | `limits.cpu.allowance` | `N%`, a share beside others; or `Xms/Yms`, a quota | `cpu.weight` = N; `cpu.max` |
/// | `limits.cpu.priority` | 0 to 10 | 10 less it, taken from `cpu.weight`; 1 at least |
/// | `limits.disk.priority` | 0 to 10 | `io.weight`: a hundred times it, and 10 for 0 |
/// | `limits.memory` | a size, or `N%` of the host's memory | `memory.max` |
/// | `limits.memory.enforce` | `hard` or `soft` | soft: `memory.high` in place of `memory.max` |
/// | `limits.memory.swap` | `true`, `false`, or a size | `memory.swap.max`: not set, 0, or the size |
/// | `limits.memory.swap.priority` | 0 to 10 | nowhere: cgroup v2 has none; see [`without_effect`](Self::without_effect) |
/// | `limits.memory.oom_priority` | -1000 to 1000 | `oom_score_adj` |
/// | `limits.hugepages.SIZE` | a size, for 64KB, 1MB, 2MB, 1GB | `hugetlb.SIZE.max` and `hugetlb.SIZE.rsvd.max` |
/// | `limits.processes` | a number | `pids.max` |
/// | `limits.kernel.NAME` | `SOFT:HARD`, one value for both, or `unlimited` | a resource limit (`setrlimit(2)`) |
///
/// Four things are decided here and differ from Incus. `limits.memory.swap=true` means what it says: swap is allowed,
/// and how much is not limited; Incus forbids it beside a hard limit. A plain `0` or `1` there is a boolean, as in Incus, and
/// no size. `limits.kernel.NAME` takes the sixteen names that the kernel has, and no others.
/// `limits.memory.oom_priority` holds from a start on and not before: what runs has the old one.
///
/// An empty value is one that is not set.
///
/// ```
/// use stockade::cgroup::{Limit, Limits};
/// use stockade::instance::Cpus;
/// use stockade::instance::keys::LimitKeys;
///
/// let keys = LimitKeys::parse([("limits.cpu", "2"), ("limits.memory", "512MiB"), ("limits.processes", "100")])?;
/// assert_eq!(*keys.cpus(), Cpus::Count(2));
/// assert_eq!(keys.limits()?, Limits::new().memory_max(512 << 20).pids_max(100));
/// let e = LimitKeys::parse([("limits.cpu", "0"), ("limits.memory", "lots")]).unwrap_err();
/// assert!(e.to_string().contains("limits.cpu: ") && e.to_string().contains("limits.memory: `lots`"));
/// # Ok::<(), stockade::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LimitKeys {
    cpu: Cpus,
    nodes: CpuNodes,
    allowance: Option<Allowance>,
    cpu_priority: Option<u8>,
    disk_priority: Option<u8>,
    memory: Option<Amount>,
    enforce: Option<MemoryEnforce>,
    swap: Option<Swap>,
    swap_priority: Option<u8>,
    oom_priority: Option<OomScoreAdj>,
    huge_pages: BTreeMap<HugePageSize, ByteSize>,
    processes: Option<u64>,
    kernel: BTreeMap<Resource, Rlimit>,
}
/// What a change of keys comes to.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct KeyChanges {
    /// What changes at once, for [`Container::update_with`](crate::Container::update_with).
    pub update: UpdateOptions,
    /// The keys that have changed and whose values hold from the next container made of them on.
    pub restart: Vec<String>,
}

impl LimitKeys {
    /// The keys that there are.
    pub fn table() -> impl Iterator<Item = Key> {
        TABLE.iter().map(|row| row.key)
    }

    /// Reads keys and values.
    ///
    /// # Errors
    /// [`InvalidConfig`](crate::ErrorKind::InvalidConfig), which lists every key that is not known, is there twice or has
    /// a value that is wrong, each with that value and what it could be.
    pub fn parse<K: AsRef<str>, V: AsRef<str>>(keys: impl IntoIterator<Item = (K, V)>) -> Result<Self> {
        let (read, problems) = Self::read(keys);
        if problems.is_empty() {
            return Ok(read);
        }
        let text: Vec<String> = problems.iter().map(|(key, why)| format!("{key}: {why}")).collect();
        Err(Error::invalid("configuration keys", text.join("; ")))
    }

    /// The same, with what is wrong: key and reason.
    pub(crate) fn read<K: AsRef<str>, V: AsRef<str>>(
        keys: impl IntoIterator<Item = (K, V)>,
    ) -> (Self, Vec<(String, String)>) {
        let mut read = Self::default();
        let (mut problems, mut seen) = (Vec::new(), BTreeSet::new());
        for (key, value) in keys {
            let (key, value) = (key.as_ref(), value.as_ref());
            let done = if !seen.insert(key.to_owned()) {
                Err("is there twice".to_owned())
            } else {
                match row_of(key) {
                    // Its name is checked all the same.
                    Some((row, rest)) if value.is_empty() => {
                        if rest.is_empty() {
                            Ok(())
                        } else {
                            (row.read)(&mut Self::default(), rest, "0")
                        }
                    }
                    Some((row, rest)) => (row.read)(&mut read, rest, value),
                    None if OF_VMS.contains(&key) => Err("is for virtual machines only".to_owned()),
                    None => Err("is not known; LimitKeys::table lists those that are".to_owned()),
                }
            };
            if let Err(why) = done {
                problems.push((shown(key), why));
            }
        }
        (read, problems)
    }

    /// The keys that are set, and their values in their shortest form: read again they give the same.
    pub fn to_map(&self) -> BTreeMap<String, String> {
        TABLE.iter().flat_map(|row| (row.write)(self)).collect()
    }

    /// How many CPUs, or which.
    pub fn cpus(&self) -> &Cpus {
        &self.cpu
    }

    /// The nodes that those are on.
    pub fn cpu_nodes(&self) -> &CpuNodes {
        &self.nodes
    }

    /// The resource limits.
    pub fn rlimits(&self) -> &BTreeMap<Resource, Rlimit> {
        &self.kernel
    }

    /// How readily the kernel kills its processes when memory is short.
    pub fn oom_score_adj(&self) -> Option<OomScoreAdj> {
        self.oom_priority
    }

    /// Keys that are set and change nothing here, and why.
    pub fn without_effect(&self) -> Vec<(&'static str, &'static str)> {
        let mut out = Vec::new();
        if self.swap_priority.is_some() {
            out.push((
                "limits.memory.swap.priority",
                "cgroup v2 has no swappiness of its own for a cgroup: limits.memory.swap says whether there is swap",
            ));
        }
        if self.enforce.is_some() && self.memory.is_none() {
            out.push(("limits.memory.enforce", "limits.memory is not set"));
        }
        if matches!(self.cpu, Cpus::Set(_)) && self.nodes != CpuNodes::Any {
            out.push(("limits.cpu.nodes", "limits.cpu names the CPUs"));
        }
        out
    }

    /// The limits of the cgroup. Of a percentage of memory this host's is looked up (`MemTotal`, `proc_meminfo(5)`).
    ///
    /// # Errors
    /// Where that cannot be read.
    pub fn limits(&self) -> Result<Limits> {
        let total = matches!(self.memory, Some(Amount::Percent(_))).then(mem_total).transpose()?;
        Ok(self.limits_on(total.unwrap_or(0)))
    }

    fn limits_on(&self, mem_total: u64) -> Limits {
        let mut limits = Limits::new();
        let share = match self.allowance {
            Some(Allowance::Percent(n)) => Some(n),
            _ => None,
        };
        if share.is_some() || self.cpu_priority.is_some() {
            let less = 10 - u32::from(self.cpu_priority.unwrap_or(10));
            limits.cpu_weight = Some(share.unwrap_or(DEFAULT_WEIGHT).saturating_sub(less).max(1));
        }
        if let Some(Allowance::Time(quota, period)) = self.allowance {
            let millis = |n: u32| Duration::from_millis(n.into());
            limits.cpu_max = Some(CpuMax::quota(millis(quota), millis(period)));
        }
        limits.io_weight = self.disk_priority.map(|p| if p == 0 { 10 } else { u32::from(p) * 100 });
        let bytes = self.memory.map(|amount| match amount {
            Amount::Bytes(size) => size.bytes(),
            Amount::Percent(n) => mem_total / 100 * u64::from(n),
        });
        match self.enforce {
            Some(MemoryEnforce::Soft) => limits.memory_high = bytes.map(Limit::Value),
            _ => limits.memory_max = bytes.map(Limit::Value),
        }
        limits.memory_swap_max = match self.swap {
            Some(Swap::No) => Some(Limit::Value(0)),
            Some(Swap::Bytes(size)) => Some(Limit::Value(size.bytes())),
            Some(Swap::Yes) | None => None,
        };
        for (size, max) in &self.huge_pages {
            let both = HugetlbLimits::new().max(max.bytes()).rsvd_max(max.bytes());
            limits.hugetlb.insert(*size, both);
        }
        limits.pids_max = self.processes.map(Limit::Value);
        limits
    }

    /// What is to be done where a container has these keys and is to have the keys `to`, all of them: limits that are not
    /// set any more are lifted.
    ///
    /// ```
    /// use stockade::cgroup::{Limit, Limits};
    /// use stockade::instance::keys::LimitKeys;
    ///
    /// let old = LimitKeys::parse([("limits.processes", "100"), ("limits.cpu", "2")])?;
    /// let new = LimitKeys::parse([("limits.memory", "1GiB"), ("limits.kernel.nofile", "1024"), ("limits.cpu", "2")])?;
    /// let changes = old.changes(&new)?;
    /// assert_eq!(changes.update.limits, Limits::new().memory_max(1 << 30).pids_max(Limit::Max));
    /// assert_eq!(changes.update.cpus, None);
    /// assert_eq!(changes.restart, ["limits.kernel.nofile"]);
    /// # Ok::<(), stockade::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`limits`](Self::limits).
    pub fn changes(&self, to: &Self) -> Result<KeyChanges> {
        let (old, new) = (self.limits()?, to.limits()?);
        let mut update = UpdateOptions::new(difference(&old, &new));
        if self.cpu != to.cpu {
            update = update.cpus(to.cpu.clone());
        }
        if self.nodes != to.nodes {
            update = update.cpu_nodes(to.nodes.clone());
        }
        let (before, after) = (self.to_map(), to.to_map());
        let names: BTreeSet<&String> = before.keys().chain(after.keys()).collect();
        let changed = names.into_iter().filter(|name| before.get(*name) != after.get(*name));
        let later =
            |name: &&String| row_of(name).is_some_and(|(row, _)| row.key.change == KeyChange::Restart);
        Ok(KeyChanges { update, restart: changed.filter(later).cloned().collect() })
    }
}

/// The limits of `new` that differ, and those that only `old` has as what a cgroup has by itself.
fn difference(old: &Limits, new: &Limits) -> Limits {
    fn changed<T: Copy + PartialEq>(old: Option<T>, new: Option<T>, none: T) -> Option<T> {
        if old == new { None } else { Some(new.unwrap_or(none)) }
    }
    let mut out = Limits::new();
    out.cpu_weight = changed(old.cpu_weight, new.cpu_weight, DEFAULT_WEIGHT);
    out.cpu_max = changed(old.cpu_max, new.cpu_max, CpuMax::Max);
    out.io_weight = changed(old.io_weight, new.io_weight, DEFAULT_WEIGHT);
    out.memory_max = changed(old.memory_max, new.memory_max, Limit::Max);
    out.memory_high = changed(old.memory_high, new.memory_high, Limit::Max);
    out.memory_swap_max = changed(old.memory_swap_max, new.memory_swap_max, Limit::Max);
    out.pids_max = changed(old.pids_max, new.pids_max, Limit::Max);
    let none = HugetlbLimits::new().max(Limit::Max).rsvd_max(Limit::Max);
    for size in old.hugetlb.keys().chain(new.hugetlb.keys()) {
        let max = changed(old.hugetlb.get(size).copied(), new.hugetlb.get(size).copied(), none);
        out.hugetlb.extend(max.map(|max| (*size, max)));
    }
    out
}

/// The host's memory in bytes.
fn mem_total() -> Result<u64> {
    const FILE: &str = "/proc/meminfo";
    let text =
        std::fs::read_to_string(FILE).map_err(|e| Error::io("read the host's memory", e).object(FILE))?;
    parse_mem_total(&text)
        .ok_or_else(|| Error::new(crate::ErrorKind::Kernel, "read the host's memory").object(FILE))
}

fn parse_mem_total(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
#[path = "limits/tests.rs"]
mod tests;
