//! `pids.current`, `pids.peak`, `pids.events`.

use serde::{Deserialize, Serialize};

use super::parse::flat_keyed;

/// Processes and threads of a cgroup and its descendants.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct PidsStats {
    /// Now (`pids.current`).
    pub current: u64,
    /// The most there ever were (`pids.peak`, Linux 6.1).
    pub peak: Option<u64>,
    /// What the limit did, descendants included (`pids.events`).
    pub events: PidsEvents,
    /// What the cgroup's own limit did (`pids.events.local`, Linux 6.12).
    pub events_local: Option<PidsEvents>,
}

flat_keyed! {
    /// How often the limit of processes acted.
    pub struct PidsEvents {
        /// Forks that failed at `pids.max`: before Linux 6.12 those of the cgroup's own processes, at its own limit or
        /// an ancestor's; since then those at the limits of the cgroup and its descendants.
        max: u64 = "max",
    }
}
