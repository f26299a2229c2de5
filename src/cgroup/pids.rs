//! The pids controller.

use super::Controller;
use super::group::Cgroup;
use super::limits::{Limits, Setting};
use crate::error::Result;

pub(super) fn settings(limits: &Limits, out: &mut Vec<Setting>) {
    if let Some(max) = limits.pids_max {
        out.push(Setting { controller: Controller::Pids, file: "pids.max", value: max.to_string() });
    }
}

/// Processes and threads now; `None` without the controller.
pub(super) fn current(cgroup: &Cgroup) -> Result<Option<u64>> {
    Ok(cgroup.read_optional("pids.current")?.and_then(|t| t.trim().parse().ok()))
}
