//! The memory controller.

use serde::{Deserialize, Serialize};

use super::Controller;
use super::group::Cgroup;
use super::limit::Limit;
use super::limits::Limits;
use super::setting::{Files, Problems, Settings, read_limit};
use crate::error::{ErrorKind, Result};

/// Whom the OOM killer ends when the cgroup is at its limit (`memory.oom.group`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum OomPolicy {
    /// One process, chosen by its score.
    #[default]
    Process,
    /// Every process of the cgroup and its descendants, but for those with an `oom_score_adj` of -1000.
    Cgroup,
}

impl Cgroup {
    /// Sets whom the OOM killer ends.
    ///
    /// # Errors
    /// As [`apply`](Self::apply): [`Unsupported`](crate::ErrorKind::Unsupported) without the memory controller.
    pub fn set_oom_policy(&self, policy: OomPolicy) -> Result<()> {
        self.apply(&Limits::new().memory_oom_group(policy), super::Enforce::Required).map(drop)
    }

    /// Asks the kernel to take `bytes` of memory from the cgroup, to swap or by dropping what is on disk as well
    /// (`memory.reclaim`, Linux 5.19). Blocks while it does. More or less may be taken.
    ///
    /// # Errors
    /// [`Unsupported`](ErrorKind::Unsupported) without the memory controller;
    /// [`PermissionDenied`](ErrorKind::PermissionDenied): the file is not the caller's to write.
    pub fn reclaim(&self, bytes: u64) -> Result<Reclaimed> {
        reclaim(self, bytes)
    }
}

/// What came of a [`reclaim`](Cgroup::reclaim).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Reclaimed {
    /// As much as was asked for, or more.
    All,
    /// Less: no more was to be had.
    Less,
}

pub(super) fn reclaim(files: &dyn Files, bytes: u64) -> Result<Reclaimed> {
    let file = "memory.reclaim";
    match files.put(file, &bytes.to_string()) {
        Ok(()) => Ok(Reclaimed::All),
        Err(e) => match e.errno() {
            Some(libc::EAGAIN) => Ok(Reclaimed::Less),
            Some(libc::ENOENT) => Err(files.lacks(Controller::Memory, file)),
            Some(libc::EINVAL | libc::ERANGE) => Err(e.with_kind(ErrorKind::InvalidConfig)),
            _ => Err(e),
        },
    }
}

pub(super) fn problems(limits: &Limits, out: &mut Problems) {
    let [min, low, high, max] = [
        ("memory_min", limits.memory_min),
        ("memory_low", limits.memory_low),
        ("memory_high", limits.memory_high),
        ("memory_max", limits.memory_max),
    ];
    let swap = [("memory_swap_high", limits.memory_swap_high), ("memory_swap_max", limits.memory_swap_max)];
    for (field, value) in
        [min, low, high, max, swap[0], swap[1], ("memory_zswap_max", limits.memory_zswap_max)]
    {
        out.bytes(field, value);
    }
    for protection in [min, low] {
        out.order(protection, high);
        out.order(protection, max);
    }
    out.order(high, max);
    out.order(swap[0], swap[1]);
}

pub(super) fn settings(limits: &Limits, out: &mut Settings) {
    let c = Controller::Memory;
    out.add(c, "memory.oom.group", limits.memory_oom_group.map(|p| u8::from(p == OomPolicy::Cgroup)));
    out.add(c, "memory.swap.max", limits.memory_swap_max);
    out.add(c, "memory.swap.high", limits.memory_swap_high);
    out.add(c, "memory.zswap.max", limits.memory_zswap_max);
    out.add(c, "memory.min", limits.memory_min);
    out.add(c, "memory.low", limits.memory_low);
    out.add(c, "memory.high", limits.memory_high);
    out.add(c, "memory.max", limits.memory_max);
}

pub(super) fn read(files: &dyn Files, limits: &mut Limits) -> Result<()> {
    let read = |name: &str| -> Result<Option<Limit>> { read_limit(files, name) };
    limits.memory_min = read("memory.min")?;
    limits.memory_low = read("memory.low")?;
    limits.memory_high = read("memory.high")?;
    limits.memory_max = read("memory.max")?;
    limits.memory_swap_high = read("memory.swap.high")?;
    limits.memory_swap_max = read("memory.swap.max")?;
    limits.memory_zswap_max = read("memory.zswap.max")?;
    limits.memory_oom_group = files.get_optional("memory.oom.group")?.map(|t| match t.trim() {
        "1" => OomPolicy::Cgroup,
        _ => OomPolicy::Process,
    });
    Ok(())
}
