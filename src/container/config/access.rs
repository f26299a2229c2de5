//! Reading a configuration.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use super::ContainerConfig;
use super::choices::{CgroupConfig, EtcFile, IdMapConfig, Network, SeccompConfig};
use super::mounts::{Mount, MountSet, Propagation};
use super::nic::Nic;
use super::system::SystemConfig;
use crate::caps::{Capability, CapabilitySets, Securebits};
use crate::cgroup::{DeviceAccess, DeviceKind, DevicePolicy, DeviceVerdict, Enforce, Limits};
use crate::instance::{CpuNodes, Cpus};
use crate::name::InstanceId;
use crate::namespaces::{NamespaceKind, NamespaceSet, NamespaceSource, Privilege};
use crate::process::{
    Landlock, OomScoreAdj, Personality, Resource, Rlimit, SecurityLabel, SessionKeyring, Sysctl, Umask, User,
};
use crate::rootfs::{Rootfs, standard};
use crate::seccomp::Interception;
use crate::views::ResourceViews;

macro_rules! by_ref {
    ($($(#[$doc:meta])* $name:ident: $t:ty;)*) => {$(
        $(#[$doc])*
        pub fn $name(&self) -> &$t {
            &self.$name
        }
    )*};
}

macro_rules! by_value {
    ($($(#[$doc:meta])* $name:ident: $t:ty;)*) => {$(
        $(#[$doc])*
        pub fn $name(&self) -> $t {
            self.$name
        }
    )*};
}

/// What each field means stands at the setters of [`ContainerBuilder`](super::ContainerBuilder).
impl ContainerConfig {
    by_ref! {
        /// Which container.
        id: InstanceId;
        /// Its root file system.
        rootfs: Rootfs;
        /// Its further mounts, in the order in which they are made.
        mounts: [Mount];
        /// Its network interfaces.
        nics: [Nic];
        /// The paths that are hidden.
        masked_paths: [PathBuf];
        /// The paths that are read-only.
        readonly_paths: [PathBuf];
        /// `/etc/resolv.conf`.
        resolv_conf: EtcFile;
        /// `/etc/hosts`.
        hosts: EtcFile;
        /// `/etc/hostname`.
        hostname_file: EtcFile;
        /// The program and its arguments; never empty.
        args: [OsString];
        /// The environment, each name once.
        env: [(OsString, OsString)];
        /// The working directory.
        cwd: Path;
        /// User and groups of the program.
        user: User;
        /// Its resource limits.
        rlimits: BTreeMap<Resource, Rlimit>;
        /// Its system call policy.
        seccomp: SeccompConfig;
        /// The calls that are made in its stead.
        intercept: Interception;
        /// Where its namespaces come from, and the time offsets.
        namespaces: NamespaceSet;
        /// Its id map.
        idmap: IdMapConfig;
        /// Its kernel parameters.
        sysctls: [Sysctl];
        /// Its limits.
        limits: Limits;
        /// How many CPUs it has, or which.
        cpus: Cpus;
        /// The nodes that those CPUs are on.
        cpu_nodes: CpuNodes;
    }

    by_value! {
        /// How mount events pass.
        propagation: Propagation;
        /// Which of the usual mounts it gets.
        base_mounts: MountSet;
        /// The file mode creation mask.
        umask: Umask;
        /// How readily the kernel kills it; `None` as the host process.
        oom_score_adj: Option<OomScoreAdj>;
        /// The execution domain.
        personality: Personality;
        /// Whether it has the host's user namespace.
        privilege: Privilege;
        /// Which session keyring its programs have.
        keyring: SessionKeyring;
        /// The secure bits.
        securebits: Securebits;
        /// Whether it has a control group of its own.
        cgroup: CgroupConfig;
        /// What to do about a limit that cannot be set.
        enforce: Enforce;
        /// The files that show it its own part of the machine.
        resource_views: ResourceViews;
    }

    /// Whether its records live on tmpfs alone and a stop deletes it.
    pub fn is_ephemeral(&self) -> bool {
        self.ephemeral
    }

    /// Whether dropping the last handle stops it.
    pub fn is_killed_on_drop(&self) -> bool {
        self.kill_on_drop
    }

    /// Whether the root is read-only.
    pub fn has_read_only_root(&self) -> bool {
        self.read_only_root
    }

    /// The label of a security module that its programs run under.
    pub fn label(&self) -> Option<&SecurityLabel> {
        self.label.as_ref()
    }

    /// What its programs may do to files, by Landlock.
    pub fn landlock(&self) -> Option<&Landlock> {
        self.landlock.as_ref()
    }

    /// Whether no program in it gains privilege by being executed.
    pub fn has_no_new_privs(&self) -> bool {
        self.no_new_privs
    }

    /// Whether its root is root of the host.
    pub fn is_privileged(&self) -> bool {
        self.privilege == Privilege::Privileged
    }

    /// Its capabilities: those that were set, or those that go with its privilege. On the host's own files
    /// ([`Rootfs::host`]) these are without `CAP_SYS_ADMIN`, which could unmount what hides the host's secrets.
    pub fn capabilities(&self) -> CapabilitySets {
        self.capabilities.unwrap_or_else(|| match (self.privilege, &self.rootfs) {
            (Privilege::Privileged, _) => CapabilitySets::system_privileged(),
            (_, Rootfs::Host) => {
                let all = CapabilitySets::system_unprivileged();
                all.limited_to(all.bounding.remove(Capability::SysAdmin))
            }
            _ => CapabilitySets::system_unprivileged(),
        })
    }

    /// Its device policy: the one that was set, or that of its privilege, which for a privileged container with a
    /// cgroup of its own is [`DevicePolicy::standard`]. `None` where there is none to be.
    pub fn devices(&self) -> Option<&DevicePolicy> {
        static STANDARD: OnceLock<DevicePolicy> = OnceLock::new();
        let by_privilege = self.privilege == Privilege::Privileged && self.cgroup == CgroupConfig::Auto;
        let standard = || by_privilege.then(|| STANDARD.get_or_init(DevicePolicy::standard));
        self.devices.as_ref().or_else(standard)
    }

    /// Whether it runs only with a policy that denies what it does not name.
    pub(crate) fn confines_devices(&self) -> bool {
        let denies = |policy: &DevicePolicy| policy.default_verdict() == DeviceVerdict::Deny;
        self.enforce == Enforce::Required && self.devices().is_some_and(denies)
    }

    /// Whether the policy lets the child make the usual device nodes.
    pub(crate) fn may_make_devices(&self) -> bool {
        let may = |p: &DevicePolicy, d: &standard::Device| {
            p.allows(DeviceKind::Char, d.major, d.minor, DeviceAccess::MKNOD)
        };
        self.devices().is_none_or(|p| standard::DEVICES.iter().all(|d| may(p, d)))
    }

    /// Whether a process in it can open `/dev/null` and gets the null device.
    pub(crate) fn may_open_null(&self) -> bool {
        const READ_WRITE: DeviceAccess = DeviceAccess::READ.union(DeviceAccess::WRITE);
        let may = |p: &DevicePolicy| p.allows(DeviceKind::Char, 1, 3, READ_WRITE);
        self.has_null_device() && self.devices().is_none_or(may)
    }

    /// Whether `/dev/null` inside is sure to be the null device.
    pub(crate) fn has_null_device(&self) -> bool {
        self.base_mounts == MountSet::Standard && !self.mounts.iter().any(|m| m.target().starts_with("/dev"))
    }

    /// Its network.
    pub fn network(&self) -> Network {
        match self.namespaces.get(NamespaceKind::Net) {
            NamespaceSource::New => Network::None,
            NamespaceSource::Host => Network::Host,
            _ => Network::Joined,
        }
    }

    /// The host name to set: `None` where it has no uts namespace of its own.
    pub fn hostname(&self) -> Option<&str> {
        self.namespaces
            .is_new(NamespaceKind::Uts)
            .then(|| self.hostname.as_deref().unwrap_or(self.id.name.as_str()))
    }

    /// What it has as a container that runs a distribution's own init; `None` where it does not.
    pub fn system_config(&self) -> Option<&SystemConfig> {
        self.system.as_ref()
    }

    /// The NIS domain name to set.
    pub fn domainname(&self) -> Option<&str> {
        self.domainname.as_deref()
    }
}
