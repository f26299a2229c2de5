//! The kinds of namespaces.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// A kind of namespace (`namespaces(7)`).
///
/// Their order is the one to join them in: the user namespace first, since it gives the privilege for the
/// others, and the mount namespace late, so that paths keep their meaning as long as possible.
/// In configurations they have their OCI names; the kernel's names are read as well.
///
/// ```
/// use stockade::namespaces::NamespaceKind;
///
/// assert_eq!("net".parse::<NamespaceKind>()?, NamespaceKind::Net);
/// assert_eq!("network".parse::<NamespaceKind>()?, NamespaceKind::Net);
/// assert_eq!(NamespaceKind::Mount.proc_name(), "mnt");
/// # Ok::<(), stockade::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NamespaceKind {
    /// Users, groups and capabilities (`user_namespaces(7)`).
    User,
    /// System V IPC and POSIX message queues (`ipc_namespaces(7)`).
    Ipc,
    /// Host and domain name (`uts_namespaces(7)`).
    Uts,
    /// Network devices, addresses, ports (`network_namespaces(7)`).
    #[serde(rename = "network", alias = "net")]
    Net,
    /// Process ids (`pid_namespaces(7)`).
    Pid,
    /// The view of the cgroup tree (`cgroup_namespaces(7)`).
    Cgroup,
    /// Offsets of the monotonic and the boot-time clock (`time_namespaces(7)`).
    Time,
    /// Mounts (`mount_namespaces(7)`).
    #[serde(alias = "mnt")]
    Mount,
}

impl NamespaceKind {
    /// All kinds, in the order to join them in.
    pub const ALL: [Self; 8] =
        [Self::User, Self::Ipc, Self::Uts, Self::Net, Self::Pid, Self::Cgroup, Self::Time, Self::Mount];

    /// The `CLONE_NEW*` flag for `clone3(2)`, `unshare(2)` and `setns(2)`.
    pub const fn clone_flag(self) -> u64 {
        match self {
            Self::User => 0x1000_0000,
            Self::Ipc => 0x0800_0000,
            Self::Uts => 0x0400_0000,
            Self::Net => 0x4000_0000,
            Self::Pid => 0x2000_0000,
            Self::Cgroup => 0x0200_0000,
            Self::Time => 0x80,
            Self::Mount => 0x0002_0000,
        }
    }

    /// The kind with this `CLONE_NEW*` flag.
    pub fn from_clone_flag(flag: u64) -> Option<Self> {
        Self::ALL.into_iter().find(|k| k.clone_flag() == flag)
    }

    /// The name of its link in `/proc/PID/ns`.
    pub const fn proc_name(self) -> &'static str {
        match self {
            Self::Net => "net",
            Self::Mount => "mnt",
            other => other.name(),
        }
    }

    /// The name in an OCI configuration.
    pub const fn name(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Ipc => "ipc",
            Self::Uts => "uts",
            Self::Net => "network",
            Self::Pid => "pid",
            Self::Cgroup => "cgroup",
            Self::Time => "time",
            Self::Mount => "mount",
        }
    }

    /// The number of its `PIDFD_GET_*_NAMESPACE` request (Linux 6.11).
    pub(super) const fn pidfd_request(self) -> u8 {
        match self {
            Self::Cgroup => 1,
            Self::Ipc => 2,
            Self::Mount => 3,
            Self::Net => 4,
            Self::Pid => 5,
            Self::Time => 7,
            Self::User => 9,
            Self::Uts => 10,
        }
    }
}

impl fmt::Display for NamespaceKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for NamespaceKind {
    type Err = Error;

    fn from_str(s: &str) -> Result<Self> {
        Self::ALL.into_iter().find(|k| s == k.name() || s == k.proc_name()).ok_or_else(|| {
            Error::invalid("namespace", "is none of user, ipc, uts, network, pid, cgroup, time, mount")
                .object(s.chars().take(80).collect::<String>())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_are_the_kernels() {
        let libc_flags = [
            libc::CLONE_NEWUSER,
            libc::CLONE_NEWIPC,
            libc::CLONE_NEWUTS,
            libc::CLONE_NEWNET,
            libc::CLONE_NEWPID,
            libc::CLONE_NEWCGROUP,
            libc::CLONE_NEWTIME,
            libc::CLONE_NEWNS,
        ];
        for (kind, flag) in NamespaceKind::ALL.into_iter().zip(libc_flags) {
            assert_eq!(kind.clone_flag(), u64::try_from(flag).unwrap(), "{kind}");
            assert_eq!(NamespaceKind::from_clone_flag(kind.clone_flag()), Some(kind));
        }
    }

    #[test]
    fn names_round_trip_and_exist_in_proc() {
        let mut sorted = NamespaceKind::ALL;
        sorted.sort();
        assert_eq!(sorted, NamespaceKind::ALL);
        for kind in NamespaceKind::ALL {
            assert_eq!(kind.to_string().parse::<NamespaceKind>().unwrap(), kind);
            assert_eq!(kind.proc_name().parse::<NamespaceKind>().unwrap(), kind);
            let json = serde_json::to_string(&kind).unwrap();
            assert_eq!(json, format!("\"{kind}\""));
            assert_eq!(serde_json::from_str::<NamespaceKind>(&json).unwrap(), kind);
            assert!(std::fs::read_link(format!("/proc/self/ns/{}", kind.proc_name())).is_ok(), "{kind}");
        }
        assert!("Net".parse::<NamespaceKind>().is_err());
    }
}
