//! The pids controller.

use super::Controller;
use super::limits::Limits;
use super::setting::{Files, Problems, Settings, read_limit};
use crate::error::Result;

/// The most that a kernel has (`PID_MAX_LIMIT`).
const MOST: u64 = 4 << 20;

pub(super) fn problems(limits: &Limits, out: &mut Problems) {
    out.at_most("pids_max", limits.pids_max, MOST);
}

pub(super) fn settings(limits: &Limits, out: &mut Settings) {
    out.add(Controller::Pids, "pids.max", limits.pids_max);
}

pub(super) fn read(files: &dyn Files, limits: &mut Limits) -> Result<()> {
    limits.pids_max = read_limit(files, "pids.max")?;
    Ok(())
}
