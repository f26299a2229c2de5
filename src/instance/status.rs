//! What an instance is and what state it is in.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// What sort of instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum InstanceKind {
    /// Processes in namespaces of the host's kernel.
    Container,
    /// A guest kernel under KVM.
    #[serde(rename = "virtual-machine")]
    Vm,
}

impl InstanceKind {
    /// The name that Incus gives it: `container` or `virtual-machine`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Container => "container",
            Self::Vm => "virtual-machine",
        }
    }
}

impl fmt::Display for InstanceKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The state of an instance, always worked out from the kernel and never from memory.
///
/// Numbers and names are those of the Incus API.
///
/// ```
/// use stockade::instance::Status;
///
/// assert_eq!(Status::Frozen.code(), 110);
/// assert_eq!(Status::Frozen.to_string(), "Frozen");
/// assert!(Status::Frozen.is_running());
/// assert!(!Status::Stopped.is_running());
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
#[repr(u16)]
pub enum Status {
    /// No process of it is there.
    Stopped = 102,
    /// Its first process runs.
    Running = 103,
    /// A start is under way.
    Starting = 106,
    /// A stop or shutdown is under way.
    Stopping = 107,
    /// A failed start is being undone.
    Aborting = 108,
    /// A freeze is under way.
    Freezing = 109,
    /// Every process of it is frozen.
    Frozen = 110,
    /// Just thawed; a running instance.
    Thawed = 111,
    /// Its state cannot be told, or something of a crashed run is left; a forced stop clears it.
    Error = 112,
    /// Running, and its init has said that it is ready.
    Ready = 113,
}

impl Status {
    const ALL: [Self; 10] = [
        Self::Stopped,
        Self::Running,
        Self::Starting,
        Self::Stopping,
        Self::Aborting,
        Self::Freezing,
        Self::Frozen,
        Self::Thawed,
        Self::Error,
        Self::Ready,
    ];

    /// The number in the Incus API.
    pub fn code(self) -> u16 {
        self as u16
    }

    /// The state of that number, if instances have it.
    pub fn from_code(code: u16) -> Option<Self> {
        Self::ALL.into_iter().find(|s| s.code() == code)
    }

    /// The capitalised name in the Incus API, such as `Running`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Stopped => "Stopped",
            Self::Running => "Running",
            Self::Starting => "Starting",
            Self::Stopping => "Stopping",
            Self::Aborting => "Aborting",
            Self::Freezing => "Freezing",
            Self::Frozen => "Frozen",
            Self::Thawed => "Thawed",
            Self::Error => "Error",
            Self::Ready => "Ready",
        }
    }

    /// Whether processes of it are there: every state but `Stopped` and `Error`. A frozen instance is running.
    pub fn is_running(self) -> bool {
        !matches!(self, Self::Stopped | Self::Error)
    }

    /// Whether it is frozen.
    pub fn is_frozen(self) -> bool {
        self == Self::Frozen
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Status {
    type Err = Error;

    /// Reads a name in any case.
    fn from_str(s: &str) -> Result<Self> {
        Self::ALL
            .into_iter()
            .find(|st| st.as_str().eq_ignore_ascii_case(s))
            .ok_or_else(|| Error::invalid("status", "is no instance status").object(s.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_and_names_are_incus_own() {
        for s in Status::ALL {
            assert_eq!(Status::from_code(s.code()), Some(s));
            assert_eq!(s.to_string().to_uppercase().parse::<Status>().unwrap(), s);
        }
        assert_eq!(Status::Stopped.code(), 102);
        assert_eq!(Status::Running.code(), 103);
        assert_eq!(Status::Ready.code(), 113);
        assert_eq!(Status::from_code(200), None);
        assert!("Gone".parse::<Status>().is_err());
    }

    #[test]
    fn only_stopped_and_error_are_not_running() {
        let not: Vec<_> = Status::ALL.into_iter().filter(|s| !s.is_running()).collect();
        assert_eq!(not, [Status::Stopped, Status::Error]);
    }

    #[test]
    fn kinds_have_incus_names() {
        assert_eq!(serde_json::to_string(&InstanceKind::Vm).unwrap(), r#""virtual-machine""#);
        assert_eq!(InstanceKind::Container.to_string(), "container");
    }
}
