//! The memory controller.

use serde::{Deserialize, Serialize};

use super::Controller;
use super::file::flat_value;
use super::group::Cgroup;
use super::limits::{Limits, Setting};
use crate::error::Result;

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

/// How often the memory limits acted, descendants included (`memory.events`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct MemoryEvents {
    /// Times that `memory.max` was about to be exceeded.
    pub max: u64,
    /// Times that an allocation was about to fail at the limit.
    pub oom: u64,
    /// Processes that an OOM killer ended.
    pub oom_kill: u64,
}

impl Cgroup {
    /// Sets whom the OOM killer ends.
    ///
    /// # Errors
    /// As [`apply`](Self::apply): [`Unsupported`](crate::ErrorKind::Unsupported) without the memory controller.
    pub fn set_oom_policy(&self, policy: OomPolicy) -> Result<()> {
        let value = match policy {
            OomPolicy::Process => "0",
            OomPolicy::Cgroup => "1",
        };
        let file = "memory.oom.group";
        self.set(&Setting { controller: Controller::Memory, file, value: value.to_owned() })
    }

    /// How often the memory limits acted; `None` without the memory controller.
    ///
    /// # Errors
    /// What the kernel says is passed on.
    pub fn memory_events(&self) -> Result<Option<MemoryEvents>> {
        let Some(text) = self.read_optional("memory.events")? else {
            return Ok(None);
        };
        let count = |key| flat_value(&text, key).unwrap_or(0);
        Ok(Some(MemoryEvents { max: count("max"), oom: count("oom"), oom_kill: count("oom_kill") }))
    }
}

pub(super) fn settings(limits: &Limits, out: &mut Vec<Setting>) {
    if let Some(max) = limits.memory_max {
        out.push(Setting { controller: Controller::Memory, file: "memory.max", value: max.to_string() });
    }
}

/// Bytes charged now; `None` without the controller.
pub(super) fn current(cgroup: &Cgroup) -> Result<Option<u64>> {
    Ok(cgroup.read_optional("memory.current")?.and_then(|t| t.trim().parse().ok()))
}
