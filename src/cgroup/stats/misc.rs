//! `misc.current`, `misc.peak`, `misc.events`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Scalar resources of the host that a cgroup and its descendants use, by the kernel's name, such as `sev`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct MiscStats {
    /// Units in use (`misc.current`).
    pub current: BTreeMap<String, u64>,
    /// The most units that ever were (`misc.peak`, Linux 6.11; empty before).
    pub peak: BTreeMap<String, u64>,
    /// Times that usage was about to exceed the limit, descendants included (`misc.events`, by `NAME.max`).
    pub events: BTreeMap<String, u64>,
    /// The same at the cgroup's own limit (`misc.events.local`, Linux 6.11; empty before).
    pub events_local: BTreeMap<String, u64>,
}
