//! What a container is made from: its whole configuration, typed and checked.

mod access;
mod builder;
mod check;
mod choices;
mod confine;
mod intercept;
mod mounts;
mod nic;
mod system;
mod views;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

pub use self::builder::ContainerBuilder;
pub use self::check::Problem;
pub use self::choices::{CgroupConfig, EtcFile, IdMapConfig, Network, SeccompConfig};
pub use self::mounts::{BindMount, Mount, MountOptions, MountSet, Propagation, TmpfsMount};
pub use self::nic::{IpNet, MacAddress, Nic, NicKind};
pub(in crate::container) use self::nic::{ROUTED_V4, ROUTED_V6};
pub use self::system::{InitRequest, Nesting, OnReboot, SystemConfig, SystemIdentity};
use crate::caps::{CapabilitySets, Securebits};
use crate::cgroup::{DevicePolicy, Enforce, Limits};
use crate::error::{Error, Result};
use crate::instance::{CpuNodes, Cpus, sealed};
use crate::name::InstanceId;
use crate::namespaces::{NamespaceKind, NamespaceSet, NamespaceSource, Privilege, Target};
use crate::os_text;
use crate::process::{
    Landlock, OomScoreAdj, Personality, Resource, Rlimit, SecurityLabel, SessionKeyring, Sysctl, Umask, User,
};
use crate::rootfs::Rootfs;
use crate::seccomp::Interception;
use crate::store::Durability;
use crate::views::ResourceViews;

/// The `PATH` of a container that is not told another.
pub const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The configuration of one container, checked as a whole.
///
/// Made by [`builder`](Self::builder), or read from JSON, which is checked in the same way. What is not said is as
/// follows: the program is `/sbin/init`, run as root in `/` with umask 0022; every namespace but time is new; the
/// id map is the container's own; the capabilities are those of
/// [`CapabilitySets::system_unprivileged`]; the seccomp policy is the library's; there is no network but
/// loopback; the usual file systems are mounted and the usual paths hidden; there are no limits.
///
/// ```
/// use stockade::container::{ContainerConfig, Mount};
/// use stockade::rootfs::Rootfs;
///
/// let config = ContainerConfig::builder("job-17")
///     .ephemeral()
///     .rootfs(Rootfs::overlay(["/srv/debian"]))
///     .args(["/bin/sh", "-c", "make test"])
///     .cwd("/src")
///     .mount(Mount::bind("/var/lib/ci/job-17", "/src").idmapped())
///     .build()?;
/// assert_eq!(config.id().to_string(), "default/job-17");
/// # Ok::<(), stockade::Error>(())
/// ```
///
/// A configuration that is wrong says everything that is wrong at once:
///
/// ```
/// use stockade::container::ContainerConfig;
/// use stockade::rootfs::Rootfs;
///
/// let e = ContainerConfig::builder("a/b/c/d").rootfs(Rootfs::dir("srv/x")).cwd("tmp").build().unwrap_err();
/// for field in ["id: ", "rootfs: ", "cwd: "] {
///     assert!(e.to_string().contains(field));
/// }
/// ```
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
// Makes inherent functions of both, which the checked implementations below call.
#[serde(remote = "Self", deny_unknown_fields)]
pub struct ContainerConfig {
    pub(crate) id: InstanceId,
    #[serde(default)]
    pub(crate) ephemeral: bool,
    #[serde(default)]
    pub(crate) kill_on_drop: bool,

    pub(crate) rootfs: Rootfs,
    #[serde(default)]
    pub(crate) read_only_root: bool,
    #[serde(default)]
    pub(crate) propagation: Propagation,
    #[serde(default)]
    pub(crate) base_mounts: MountSet,
    #[serde(default)]
    pub(crate) mounts: Vec<Mount>,
    #[serde(with = "os_text::list")]
    pub(crate) masked_paths: Vec<PathBuf>,
    #[serde(with = "os_text::list")]
    pub(crate) readonly_paths: Vec<PathBuf>,
    #[serde(default)]
    pub(crate) resolv_conf: EtcFile,
    #[serde(default)]
    pub(crate) hosts: EtcFile,
    #[serde(default)]
    pub(crate) hostname_file: EtcFile,

    #[serde(with = "os_text::list")]
    pub(crate) args: Vec<OsString>,
    #[serde(with = "os_text::pairs")]
    pub(crate) env: Vec<(OsString, OsString)>,
    #[serde(with = "os_text")]
    pub(crate) cwd: PathBuf,
    #[serde(default)]
    pub(crate) user: User,
    #[serde(default)]
    pub(crate) umask: Umask,
    #[serde(default)]
    pub(crate) rlimits: BTreeMap<Resource, Rlimit>,
    #[serde(default)]
    pub(crate) oom_score_adj: Option<OomScoreAdj>,
    #[serde(default)]
    pub(crate) personality: Personality,

    #[serde(default)]
    pub(crate) privilege: Privilege,
    #[serde(default)]
    pub(crate) capabilities: Option<CapabilitySets>,
    #[serde(default)]
    pub(crate) securebits: Securebits,
    #[serde(default)]
    pub(crate) no_new_privs: bool,
    #[serde(default)]
    pub(crate) seccomp: SeccompConfig,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) label: Option<SecurityLabel>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) landlock: Option<Landlock>,
    #[serde(default, skip_serializing_if = "is_default")]
    pub(crate) keyring: SessionKeyring,
    #[serde(default, skip_serializing_if = "is_default")]
    pub(crate) intercept: Interception,
    #[serde(default, skip_serializing_if = "is_default")]
    pub(crate) resource_views: ResourceViews,

    #[serde(default, serialize_with = "without_descriptors")]
    pub(crate) namespaces: NamespaceSet,
    #[serde(default)]
    pub(crate) idmap: IdMapConfig,
    /// Leaves the loopback device of a new network namespace down.
    #[serde(default)]
    pub(crate) loopback_down: bool,
    #[serde(default)]
    pub(crate) hostname: Option<String>,
    #[serde(default)]
    pub(crate) domainname: Option<String>,
    #[serde(default)]
    pub(crate) sysctls: Vec<Sysctl>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) nics: Vec<Nic>,

    #[serde(default)]
    pub(crate) cgroup: CgroupConfig,
    #[serde(default)]
    pub(crate) limits: Limits,
    #[serde(default, skip_serializing_if = "is_default")]
    pub(crate) cpus: Cpus,
    #[serde(default, skip_serializing_if = "is_default")]
    pub(crate) cpu_nodes: CpuNodes,
    #[serde(default)]
    pub(crate) enforce: Enforce,
    /// `None` for what goes with the privilege.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) devices: Option<DevicePolicy>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) system: Option<SystemConfig>,
}

impl ContainerConfig {
    /// What is not said otherwise.
    fn new(id: InstanceId, rootfs: Rootfs) -> Self {
        Self {
            id,
            ephemeral: false,
            kill_on_drop: false,
            rootfs,
            read_only_root: false,
            propagation: Propagation::default(),
            base_mounts: MountSet::default(),
            mounts: Vec::new(),
            masked_paths: mounts::MASKED.iter().map(PathBuf::from).collect(),
            readonly_paths: mounts::READ_ONLY.iter().map(PathBuf::from).collect(),
            resolv_conf: EtcFile::Keep,
            hosts: EtcFile::Keep,
            hostname_file: EtcFile::Keep,
            args: vec!["/sbin/init".into()],
            env: vec![("PATH".into(), DEFAULT_PATH.into()), ("container".into(), "stockade".into())],
            cwd: "/".into(),
            user: User::default(),
            umask: Umask::default(),
            rlimits: BTreeMap::new(),
            oom_score_adj: None,
            personality: Personality::default(),
            privilege: Privilege::default(),
            capabilities: None,
            securebits: Securebits::default(),
            no_new_privs: false,
            seccomp: SeccompConfig::default(),
            label: None,
            landlock: None,
            keyring: SessionKeyring::Own,
            intercept: Interception::default(),
            resource_views: ResourceViews::EMPTY,
            namespaces: NamespaceSet::default(),
            idmap: IdMapConfig::default(),
            loopback_down: false,
            hostname: None,
            domainname: None,
            sysctls: Vec::new(),
            nics: Vec::new(),
            cgroup: CgroupConfig::default(),
            limits: Limits::default(),
            cpus: Cpus::All,
            cpu_nodes: CpuNodes::Any,
            enforce: Enforce::default(),
            devices: None,
            system: None,
        }
    }

    /// Begins the configuration of the container `name`, or `project/name`.
    pub fn builder(name: impl Into<String>) -> ContainerBuilder {
        ContainerBuilder::new(name.into())
    }

    /// Begins the configuration of a container that runs a whole distribution with its own init; see
    /// [`ContainerBuilder::system`].
    ///
    /// ```no_run
    /// use stockade::container::ContainerConfig;
    /// use stockade::rootfs::Rootfs;
    ///
    /// let runtime = stockade::Runtime::open()?;
    /// let debian = runtime.create(ContainerConfig::system("debian").rootfs(Rootfs::dir("/srv/debian")).build()?)?;
    /// debian.start()?;
    /// debian.shutdown()?;
    /// # Ok::<(), stockade::Error>(())
    /// ```
    pub fn system(name: impl Into<String>) -> ContainerBuilder {
        Self::builder(name).system()
    }

    /// The same configuration for another name: after a rename.
    pub(crate) fn with_id(mut self, id: InstanceId) -> Self {
        self.id = id;
        self
    }

    /// Checks it anew after a change.
    pub(crate) fn check(&self) -> Result<()> {
        let problems = check::problems(self);
        if problems.is_empty() {
            return Ok(());
        }
        Err(Error::invalid("configuration of container", check::list(&problems)).object(self.id.to_string()))
    }

    /// Whether the runtime chooses its CPUs, or they are named.
    pub(crate) fn allots_cpus(&self) -> bool {
        self.cpus != Cpus::All || self.cpu_nodes != CpuNodes::Any
    }

    /// Where its record is kept.
    pub(crate) fn durability(&self) -> Durability {
        if self.ephemeral { Durability::Ephemeral } else { Durability::Durable }
    }
}

impl Serialize for ContainerConfig {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        Self::serialize(self, s)
    }
}

impl<'de> Deserialize<'de> for ContainerConfig {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let config = Self::deserialize(d)?;
        let problems = check::problems(&config);
        if problems.is_empty() { Ok(config) } else { Err(serde::de::Error::custom(check::list(&problems))) }
    }
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// Descriptors cannot be stored. A record of a run has in their place a path that says so and never exists, so
/// that a later start from the record fails with a clear error instead of joining something else.
fn without_descriptors<S: Serializer>(set: &NamespaceSet, s: S) -> Result<S::Ok, S::Error> {
    let is_fd = |source: &NamespaceSource| matches!(source, NamespaceSource::Join(Target::Fd(_)));
    if !set.iter().any(|(_, source)| is_fd(source)) {
        return set.serialize(s);
    }
    let mut kept = set.clone();
    for kind in NamespaceKind::ALL.into_iter().filter(|kind| is_fd(set.get(*kind))) {
        let lost = Target::Path(format!("/proc/0/descriptor-was-not-stored/{kind}").into());
        kept = kept.with(kind, NamespaceSource::Join(lost));
    }
    kept.serialize(s)
}

impl sealed::Sealed for ContainerConfig {}

impl fmt::Debug for ContainerConfig {
    /// Values of environment variables are left out: they may be secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.env.iter().map(|(name, _)| name).collect();
        f.debug_struct("ContainerConfig")
            .field("id", &self.id)
            .field("ephemeral", &self.ephemeral)
            .field("rootfs", &self.rootfs)
            .field("args", &self.args)
            .field("env", &names)
            .field("cwd", &self.cwd)
            .field("user", &self.user)
            .field("privilege", &self.privilege)
            .field("namespaces", &self.namespaces)
            .field("idmap", &self.idmap)
            .field("mounts", &self.mounts)
            .field("limits", &self.limits)
            .field("cpus", &self.cpus)
            .finish_non_exhaustive()
    }
}
