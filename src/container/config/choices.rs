//! The small choices of a container's configuration.

use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::idmap::IdMap;
use crate::seccomp::Policy;

/// Which system calls a container may make.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum SeccompConfig {
    /// The library's policy for system containers: everything but what reaches the whole host.
    #[default]
    Default,
    /// No filter at all.
    Unconfined,
    /// This policy.
    #[serde(serialize_with = "shared", deserialize_with = "unshared")]
    Policy(Arc<Policy>),
}

fn shared<S: Serializer>(policy: &Arc<Policy>, s: S) -> Result<S::Ok, S::Error> {
    policy.as_ref().serialize(s)
}

fn unshared<'de, D: Deserializer<'de>>(d: D) -> Result<Arc<Policy>, D::Error> {
    Policy::deserialize(d).map(Arc::new)
}

impl From<Policy> for SeccompConfig {
    fn from(policy: Policy) -> Self {
        Self::Policy(Arc::new(policy))
    }
}

/// Which ids of the host stand behind those of a container with a new user namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum IdMapConfig {
    /// As many as this process may give.
    ///
    /// * Root: 65,536 ids that no other instance of the runtime has, allocated by it and kept for the instance.
    /// * An ordinary user to whom `/etc/subuid` and `/etc/subgid` give 65,535 users and groups or more, where
    ///   `newuidmap(1)` and `newgidmap(1)` are installed: root inside is the user, and 1, 2 ... are those ids. All
    ///   his containers have the same, and share one user namespace that the runtime holds: the programs run once.
    ///   They are apart by all other namespaces, but not by their ids. Directories of theirs on the host, such as a
    ///   root file system, have the owners that they have on disk: mounts with an id map need root. A map that the
    ///   container is given with `Explicit` is its own, and may leave the user himself out.
    /// * Everybody else, and root of a user namespace that has no 65,536 ids to give away: as `SingleUser`.
    ///
    /// [`info`](crate::Container::info) tells which it was. In a joined user namespace, that one's.
    #[default]
    Auto,
    /// This map. From an ordinary user `newuidmap(1)` and `newgidmap(1)` take it if all its ids are his own or
    /// delegated to him.
    Explicit(IdMap),
    /// Root inside is the user who starts it, and there is nobody else: needs no privilege.
    SingleUser,
}

impl From<IdMap> for IdMapConfig {
    fn from(map: IdMap) -> Self {
        Self::Explicit(map)
    }
}

/// The network of a container.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Network {
    /// Its own, with nothing but the loopback device, which is up.
    #[default]
    None,
    /// The host's: its devices, addresses, ports and abstract Unix sockets.
    Host,
    /// That of a network namespace which it joins; see
    /// [`ContainerBuilder::namespace`](super::ContainerBuilder::namespace).
    Joined,
}

/// Whether a container has a control group of its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum CgroupConfig {
    /// A new one below the runtime's, which is the host process's own unless
    /// [`RuntimeBuilder::cgroup`](crate::RuntimeBuilder::cgroup) names another.
    #[default]
    Auto,
    /// As `Auto`, and the container's root may make cgroups of its own, as an init such as systemd must. The limits are on
    /// a cgroup that the container cannot see; in it is `payload`, which is the root of the container's cgroup namespace
    /// and belongs to its root user: the directory and the files that the kernel lists in `/sys/kernel/cgroup/delegate`.
    /// It is mounted read-write on `/sys/fs/cgroup`, and has every controller that the runtime's cgroup has and can give
    /// ([`Runtime::delegation`](crate::Runtime::delegation)). Commands by [`exec`](crate::Container::exec) are in
    /// `stockade.exec` below it, for the container's root cgroup may hold no processes any more.
    ///
    /// Needs a new cgroup namespace. Where root inside is another user than the one who runs this process, needs
    /// `CAP_CHOWN`.
    Delegated,
    /// None: it stays in the host process's. No limits, no freeze, and a stop kills by its pid namespace. Should the host
    /// be killed, the first process is found by its record all the same, which is made before it has a program.
    None,
}

/// What becomes of a file in `/etc` at a start.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum EtcFile {
    /// It stays as the root file system has it.
    #[default]
    Keep,
    /// A read-only file with this content is mounted over it; the root file system is not changed.
    Content(String),
}

impl From<String> for EtcFile {
    fn from(content: String) -> Self {
        Self::Content(content)
    }
}

impl From<&str> for EtcFile {
    fn from(content: &str) -> Self {
        Self::Content(content.to_owned())
    }
}
