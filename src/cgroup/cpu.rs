//! CPU time.

use std::time::Duration;

use super::file::flat_value;
use super::group::Cgroup;
use crate::error::Result;

/// CPU time used so far. Every cgroup counts it, the cpu controller is not needed.
pub(super) fn usage(cgroup: &Cgroup) -> Result<Option<Duration>> {
    let text = cgroup.read_optional("cpu.stat")?;
    Ok(text.and_then(|t| flat_value(&t, "usage_usec")).map(Duration::from_micros))
}
