//! The memory controller.

use serde::{Deserialize, Serialize};

use super::Controller;
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
}

pub(super) fn settings(limits: &Limits, out: &mut Vec<Setting>) {
    if let Some(max) = limits.memory_max {
        out.push(Setting { controller: Controller::Memory, file: "memory.max", value: max.to_string() });
    }
}
