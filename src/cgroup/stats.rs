//! What a cgroup uses now.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::group::Cgroup;
use super::{cpu, memory, pids};
use crate::error::Result;

/// Usage of a cgroup and its descendants; `None` where the controller that counts it is not there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Stats {
    /// Processes and threads (`pids.current`).
    pub pids: Option<u64>,
    /// Memory in bytes, page cache and kernel memory included (`memory.current`).
    pub memory: Option<u64>,
    /// CPU time since the cgroup was made (`cpu.stat`, `usage_usec`).
    pub cpu: Option<Duration>,
}

impl Cgroup {
    /// Reads the usage: three small files.
    ///
    /// # Errors
    /// [`NotFound`](crate::ErrorKind::NotFound): the cgroup was removed while it was read. One that was removed
    /// before has no files, so every value is `None`.
    pub fn stats(&self) -> Result<Stats> {
        Ok(Stats { pids: pids::current(self)?, memory: memory::current(self)?, cpu: cpu::usage(self)? })
    }
}
