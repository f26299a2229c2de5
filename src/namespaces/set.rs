//! Which namespaces a container gets.

use std::fmt;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{Namespace, NamespaceKind, TimeOffsets};
use crate::error::{Error, Result};
use crate::name::InstanceId;

/// A namespace that exists already and that a container joins.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Target {
    /// The namespace behind this descriptor. It cannot be stored, so only an ephemeral container may have one; its
    /// record has a path in its place that never exists.
    #[serde(skip)]
    Fd(Arc<OwnedFd>),
    /// A file, such as `/run/netns/NAME`, opened at each start.
    Path(PathBuf),
    /// The namespace of this process, looked up at each start.
    Pid(u32),
    /// The namespace of another instance, which must be running at each start.
    Instance(InstanceId),
}

impl Target {
    /// Opens it; `resolve` finds the namespace of another instance.
    ///
    /// # Errors
    /// As [`Namespace::open_path`], or what `resolve` gives.
    pub fn open(
        &self,
        kind: NamespaceKind,
        resolve: impl FnOnce(&InstanceId, NamespaceKind) -> Result<Namespace>,
    ) -> Result<Namespace> {
        match self {
            Self::Fd(fd) => Namespace::from_fd(kind, Arc::clone(fd)),
            Self::Path(path) => Namespace::open_path(kind, path),
            Self::Pid(pid) => Namespace::of_pid(kind, *pid),
            Self::Instance(id) => resolve(id, kind),
        }
    }
}

/// Two descriptors are equal where they are the same open one.
impl PartialEq for Target {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Fd(a), Self::Fd(b)) => Arc::ptr_eq(a, b),
            (Self::Path(a), Self::Path(b)) => a == b,
            (Self::Pid(a), Self::Pid(b)) => a == b,
            (Self::Instance(a), Self::Instance(b)) => a == b,
            _ => false,
        }
    }
}

impl Eq for Target {}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fd(_) => f.write_str("open descriptor"),
            Self::Path(path) => write!(f, "{}", path.display()),
            Self::Pid(pid) => write!(f, "process {pid}"),
            Self::Instance(id) => write!(f, "instance {id}"),
        }
    }
}

impl From<Namespace> for Target {
    fn from(ns: Namespace) -> Self {
        Self::Fd(ns.into())
    }
}

/// Where a container's namespace of one kind comes from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum NamespaceSource {
    /// One of its own.
    #[default]
    New,
    /// That of the thread which starts the container.
    Host,
    /// One that exists already.
    Join(Target),
}

/// Whether a container may run without a user namespace of its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Privilege {
    /// Root inside is nobody outside.
    #[default]
    Unprivileged,
    /// Root inside is the user who starts it.
    Privileged,
}

/// The namespaces of a container: one source for each kind.
///
/// By default all are new but time, which is the host's. In JSON, kinds that are not named have their default.
///
/// ```
/// use stockade::namespaces::{NamespaceKind, NamespaceSet, NamespaceSource, Privilege, Target};
///
/// let set = NamespaceSet::default()
///     .with(NamespaceKind::Net, NamespaceSource::Join(Target::Path("/run/netns/blue".into())))
///     .with(NamespaceKind::Ipc, NamespaceSource::Host);
/// set.validate(Privilege::Unprivileged)?;
/// assert_eq!(set.clone_flags() & NamespaceKind::Net.clone_flag(), 0);
/// # Ok::<(), stockade::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct NamespaceSet {
    /// Users, groups and capabilities.
    pub user: NamespaceSource,
    /// System V IPC and POSIX message queues.
    pub ipc: NamespaceSource,
    /// Host and domain name.
    pub uts: NamespaceSource,
    /// Network devices, addresses, ports.
    #[serde(rename = "network", alias = "net")]
    pub net: NamespaceSource,
    /// Process ids.
    pub pid: NamespaceSource,
    /// The view of the cgroup tree.
    pub cgroup: NamespaceSource,
    /// Offsets of the monotonic and the boot-time clock.
    pub time: NamespaceSource,
    /// Mounts.
    #[serde(alias = "mnt")]
    pub mount: NamespaceSource,
    /// Offsets of the clocks, for a new time namespace.
    #[serde(skip_serializing_if = "TimeOffsets::is_zero")]
    pub time_offsets: TimeOffsets,
}

impl Default for NamespaceSet {
    fn default() -> Self {
        use NamespaceSource::{Host, New};
        Self {
            user: New,
            ipc: New,
            uts: New,
            net: New,
            pid: New,
            cgroup: New,
            time: Host,
            mount: New,
            time_offsets: TimeOffsets::default(),
        }
    }
}

impl NamespaceSet {
    /// The source for `kind`.
    pub fn get(&self, kind: NamespaceKind) -> &NamespaceSource {
        match kind {
            NamespaceKind::User => &self.user,
            NamespaceKind::Ipc => &self.ipc,
            NamespaceKind::Uts => &self.uts,
            NamespaceKind::Net => &self.net,
            NamespaceKind::Pid => &self.pid,
            NamespaceKind::Cgroup => &self.cgroup,
            NamespaceKind::Time => &self.time,
            NamespaceKind::Mount => &self.mount,
        }
    }

    /// The set with another source for `kind`.
    #[must_use]
    pub fn with(mut self, kind: NamespaceKind, source: NamespaceSource) -> Self {
        *match kind {
            NamespaceKind::User => &mut self.user,
            NamespaceKind::Ipc => &mut self.ipc,
            NamespaceKind::Uts => &mut self.uts,
            NamespaceKind::Net => &mut self.net,
            NamespaceKind::Pid => &mut self.pid,
            NamespaceKind::Cgroup => &mut self.cgroup,
            NamespaceKind::Time => &mut self.time,
            NamespaceKind::Mount => &mut self.mount,
        } = source;
        self
    }

    /// The set with a new time namespace that has these offsets.
    #[must_use]
    pub fn with_time_offsets(mut self, offsets: TimeOffsets) -> Self {
        self.time = NamespaceSource::New;
        self.time_offsets = offsets;
        self
    }

    /// The kinds and their sources, in the order to join them in.
    pub fn iter(&self) -> impl Iterator<Item = (NamespaceKind, &NamespaceSource)> {
        NamespaceKind::ALL.into_iter().map(|kind| (kind, self.get(kind)))
    }

    /// Whether the container gets a namespace of this kind of its own.
    pub fn is_new(&self, kind: NamespaceKind) -> bool {
        *self.get(kind) == NamespaceSource::New
    }

    /// The `CLONE_NEW*` flags of all kinds that are new.
    ///
    /// A child of `clone3(2)` with `CLONE_NEWTIME` and without `CLONE_VM` is in the new time namespace at once, so
    /// that its offsets cannot be set any more: with [`time_offsets`](Self::time_offsets) leave that flag to
    /// `unshare(2)` in the child.
    pub fn clone_flags(&self) -> u64 {
        self.iter()
            .filter(|(_, source)| **source == NamespaceSource::New)
            .fold(0, |flags, (kind, _)| flags | kind.clone_flag())
    }

    /// Opens everything that is to be joined, in the order to join it in; `resolve` finds the namespace of
    /// another instance.
    ///
    /// # Errors
    /// As [`Target::open`], for the first that fails.
    pub fn open_joins(
        &self,
        mut resolve: impl FnMut(&InstanceId, NamespaceKind) -> Result<Namespace>,
    ) -> Result<Vec<Namespace>> {
        self.iter()
            .filter_map(|(kind, source)| match source {
                NamespaceSource::Join(target) => Some(target.open(kind, &mut resolve)),
                _ => None,
            })
            .collect()
    }

    /// Checks what can be checked without the kernel.
    ///
    /// # Errors
    /// [`InvalidConfig`](crate::ErrorKind::InvalidConfig), naming everything that is wrong.
    pub fn validate(&self, privilege: Privilege) -> Result<()> {
        let mut wrong = Vec::new();
        if self.user == NamespaceSource::Host && privilege == Privilege::Unprivileged {
            wrong.push("the host's user namespace is for privileged containers only".to_owned());
        }
        if !self.is_new(NamespaceKind::Mount) {
            wrong.push(
                "the mount namespace must be new, since the container gets a root of its own".to_owned(),
            );
        }
        if !self.is_new(NamespaceKind::Time) && !self.time_offsets.is_zero() {
            wrong.push("time offsets need a new time namespace".to_owned());
        }
        for (kind, source) in self.iter() {
            match source {
                NamespaceSource::Join(Target::Pid(pid)) if i32::try_from(*pid).is_err() || *pid == 0 => {
                    wrong.push(format!("{pid} is no process whose {kind} namespace can be joined"));
                }
                NamespaceSource::Join(Target::Path(path)) if !path.is_absolute() => {
                    wrong.push(format!(
                        "the path of the {kind} namespace, `{}`, is not absolute",
                        path.display()
                    ));
                }
                NamespaceSource::Join(Target::Instance(id)) if id.snapshot.is_some() => {
                    wrong.push(format!("the {kind} namespace is to be that of a snapshot, {id}"));
                }
                _ => {}
            }
        }
        if wrong.is_empty() { Ok(()) } else { Err(Error::invalid("namespaces", wrong.join("; "))) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::namespaces::TimeOffset;

    #[test]
    fn default_is_all_new_but_time() {
        let set = NamespaceSet::default();
        set.validate(Privilege::Unprivileged).unwrap();
        assert_eq!(set.clone_flags(), 0x7E02_0000);
        assert_eq!(set.get(NamespaceKind::Time), &NamespaceSource::Host);
    }

    #[test]
    fn with_and_get_agree() {
        for kind in NamespaceKind::ALL {
            let set = NamespaceSet::default().with(kind, NamespaceSource::Join(Target::Pid(7)));
            for (k, source) in set.iter() {
                assert_eq!(*source == NamespaceSource::Join(Target::Pid(7)), k == kind, "{k}");
            }
            assert_eq!(set.clone_flags() & kind.clone_flag(), 0);
        }
    }

    #[test]
    fn every_mistake_is_told() {
        let mut set = NamespaceSet::default()
            .with(NamespaceKind::User, NamespaceSource::Host)
            .with(NamespaceKind::Mount, NamespaceSource::Host)
            .with(NamespaceKind::Pid, NamespaceSource::Join(Target::Pid(0)))
            .with(NamespaceKind::Net, NamespaceSource::Join(Target::Path("netns/x".into())))
            .with(NamespaceKind::Ipc, NamespaceSource::Join(Target::Instance("a/b/c".parse().unwrap())));
        set.time_offsets.monotonic = TimeOffset::new(1, 0).unwrap();
        let text = set.validate(Privilege::Unprivileged).unwrap_err().to_string();
        for part in ["user namespace", "mount namespace", "offsets", "0 is no", "not absolute", "snapshot"] {
            assert!(text.contains(part), "{part}: {text}");
        }
        let set = NamespaceSet::default().with(NamespaceKind::User, NamespaceSource::Host);
        set.validate(Privilege::Privileged).unwrap();
        let offsets = TimeOffsets { monotonic: TimeOffset::new(1, 0).unwrap(), ..TimeOffsets::default() };
        NamespaceSet::default().with_time_offsets(offsets).validate(Privilege::Unprivileged).unwrap();
    }

    #[test]
    fn json() {
        let set = NamespaceSet::default()
            .with(NamespaceKind::Net, NamespaceSource::Join(Target::Path("/run/netns/x".into())))
            .with(NamespaceKind::Ipc, NamespaceSource::Host);
        let json = serde_json::to_string(&set).unwrap();
        assert_eq!(serde_json::from_str::<NamespaceSet>(&json).unwrap(), set);
        let short = r#"{"network":{"join":{"path":"/run/netns/x"}},"ipc":"host"}"#;
        assert_eq!(serde_json::from_str::<NamespaceSet>(short).unwrap(), set);
        assert!(serde_json::from_str::<NamespaceSet>(r#"{"nett":"host"}"#).is_err());
        let ns = Namespace::own(NamespaceKind::Net).unwrap();
        let held = NamespaceSet::default().with(NamespaceKind::Net, NamespaceSource::Join(ns.into()));
        assert!(serde_json::to_string(&held).is_err());
    }

    #[test]
    fn joins_are_opened_in_order_and_checked() {
        let own = |kind| NamespaceSource::Join(Namespace::own(kind).unwrap().into());
        let set = NamespaceSet::default()
            .with(NamespaceKind::Net, NamespaceSource::Join(Target::Instance("x".parse().unwrap())))
            .with(NamespaceKind::User, own(NamespaceKind::User))
            .with(NamespaceKind::Uts, NamespaceSource::Join(Target::Pid(std::process::id())));
        let joins = set.open_joins(|id, kind| {
            assert_eq!(id.to_string(), "default/x");
            Namespace::own(kind)
        });
        let kinds: Vec<_> = joins.unwrap().iter().map(Namespace::kind).collect();
        assert_eq!(kinds, [NamespaceKind::User, NamespaceKind::Uts, NamespaceKind::Net]);
        let wrong = NamespaceSet::default().with(NamespaceKind::Net, own(NamespaceKind::Uts));
        assert!(wrong.open_joins(|_, kind| Namespace::own(kind)).is_err());
    }
}
