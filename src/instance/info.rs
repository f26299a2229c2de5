//! A snapshot of what is known about an instance.

use std::path::PathBuf;
use std::time::SystemTime;

use crate::exit::ExitStatus;
use crate::idmap::IdMap;
use crate::instance::{InstanceKind, Status};
use crate::name::InstanceId;

/// What [`Instance::info`](crate::instance::Instance::info) found at the time of the call.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct InstanceInfo {
    /// Which instance.
    pub id: InstanceId,
    /// Container or virtual machine.
    pub kind: InstanceKind,
    /// Its state.
    pub status: Status,
    /// The first process, as the host's pid namespace numbers it; `None` while none runs. For show: the number
    /// may name another process by the time it is used.
    pub pid: Option<u32>,
    /// When the instance was made.
    pub created_at: SystemTime,
    /// When the present run, or else the last one, began.
    pub started_at: Option<SystemTime>,
    /// Whether its records are on tmpfs alone and end with it.
    pub ephemeral: bool,
    /// Its control group as an absolute path, that of the cgroup2 mount included; `None` where it has none, and while
    /// it does not run.
    pub cgroup: Option<PathBuf>,
    /// How the last run ended; `None` while it runs and before the first run.
    pub exit_status: Option<ExitStatus>,
    /// The id map of its user namespace; `None` where it has the host's or another instance's, and while it does not
    /// run.
    pub id_map: Option<IdMap>,
    /// Limits that could not be set on this host and that the configuration lets go, each with the reason.
    pub skipped_limits: Vec<String>,
    /// Its root file system in words, such as `directory /srv/debian`.
    pub rootfs: String,
}

impl InstanceInfo {
    /// What is known of every instance, with nothing running.
    pub fn new(id: InstanceId, kind: InstanceKind, status: Status, created_at: SystemTime) -> Self {
        Self {
            id,
            kind,
            status,
            pid: None,
            created_at,
            started_at: None,
            ephemeral: false,
            cgroup: None,
            exit_status: None,
            id_map: None,
            skipped_limits: Vec::new(),
            rootfs: String::new(),
        }
    }
}
