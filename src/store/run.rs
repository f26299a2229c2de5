//! The record of one run of an instance.

use std::sync::OnceLock;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::exit::ExitStatus;

/// What a runtime needs to find a running instance again, and to be sure that it is the same one.
///
/// A pid alone is not enough, since numbers are used again. The boot id with the start time, or with the pidfd's
/// inode, names one process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RunRecord {
    /// The first process, as the host numbers it.
    pub(crate) pid: u32,
    /// Field 22 of `/proc/PID/stat` (`proc_pid_stat(5)`).
    /// Not kept where the inode says it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) start_time_ticks: Option<u64>,
    /// The inode of its pidfd, where it names one process: Linux 6.9.
    pub(crate) pidfd_inode: Option<u64>,
    /// The boot in which it was started; see [`boot_id`].
    pub(crate) boot_id: String,
    /// Its control group as an absolute path, that of the cgroup2 mount included.
    pub(crate) cgroup_path: Option<String>,
    /// The inode of that directory, in records of older versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) cgroup_id: Option<u64>,
    /// When it was started, to the millisecond.
    #[serde(with = "millis")]
    pub(crate) started_at: SystemTime,
    /// How it ended; `None` while it runs.
    pub(crate) exit: Option<ExitStatus>,
    /// Limits that could not be set and that the configuration lets go, with the reason.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) skipped: Vec<String>,
    /// The host's ends of its network interfaces.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) host_links: Vec<String>,
    /// A change of its limits is on its way: after a crash the record of the instance says what they are to be.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) updating: bool,
}

impl RunRecord {
    /// Whether both are about one process.
    pub(crate) fn is_same_run(&self, other: &Self) -> bool {
        let id = |r: &Self| (r.pid, r.start_time_ticks, r.pidfd_inode);
        id(self) == id(other) && self.boot_id == other.boot_id
    }
}

/// Times as whole milliseconds since 1970.
pub(crate) mod millis {
    use std::time::{Duration, SystemTime, UNIX_EPOCH};

    use serde::{Deserialize, Deserializer, Serializer, de, ser};

    pub(crate) fn serialize<S: Serializer>(t: &SystemTime, s: S) -> Result<S::Ok, S::Error> {
        let since = t.duration_since(UNIX_EPOCH).map_err(|_| ser::Error::custom("time before 1970"))?;
        s.serialize_u64(u64::try_from(since.as_millis()).map_err(ser::Error::custom)?)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<SystemTime, D::Error> {
        let ms = u64::deserialize(d)?;
        UNIX_EPOCH
            .checked_add(Duration::from_millis(ms))
            .ok_or_else(|| de::Error::custom("time out of range"))
    }
}

/// The identity of this boot of the machine (`/proc/sys/kernel/random/boot_id`, `random(4)`). Read once.
pub(crate) fn boot_id() -> Result<&'static str> {
    static ID: OnceLock<String> = OnceLock::new();
    if let Some(id) = ID.get() {
        return Ok(id);
    }
    let path = "/proc/sys/kernel/random/boot_id";
    let text = std::fs::read_to_string(path).map_err(|e| Error::io("read the boot id", e).path(path))?;
    Ok(ID.get_or_init(|| text.trim().to_owned()))
}
