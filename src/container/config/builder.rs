//! Building a configuration.

use std::ffi::OsString;
use std::path::PathBuf;

use super::check::{self, Problem};
use super::choices::{CgroupConfig, EtcFile, IdMapConfig, Network, SeccompConfig};
use super::mounts::{Mount, MountSet, Propagation};
use super::nic::Nic;
use super::system::SystemConfig;
use super::{ContainerConfig, InstanceId};
use crate::caps::{CapabilitySets, Securebits};
use crate::cgroup::{DevicePolicy, Enforce, Limits};
use crate::error::{Error, Result};
use crate::instance::keys::LimitKeys;
use crate::instance::{CpuNodes, Cpus};
use crate::namespaces::{NamespaceKind, NamespaceSet, NamespaceSource, Privilege, TimeOffsets};
use crate::process::{
    Landlock, OomScoreAdj, Personality, Resource, Rlimit, SecurityLabel, SessionKeyring, Sysctl, Umask, User,
};
use crate::rootfs::Rootfs;
use crate::seccomp::Interception;

/// Collects what a container is to be like; made by [`ContainerConfig::builder`].
///
/// No setter fails. [`build`](Self::build) checks everything together and touches nothing on the host.
#[derive(Clone, Debug)]
#[must_use = "nothing is made before `build`"]
pub struct ContainerBuilder {
    name: String,
    /// With stand-ins for a root that was not given and for a name that is none.
    pub(super) config: ContainerConfig,
    has_rootfs: bool,
    /// What setters were given and could not take.
    refused: Vec<Problem>,
}

impl ContainerBuilder {
    pub(super) fn new(name: String) -> Self {
        let mut refused = Vec::new();
        let id = name.parse().unwrap_or_else(|e: Error| {
            refused.push(Problem::of("id", &e));
            // A plain word is always a name.
            InstanceId::new("unnamed").expect("a plain word is a name")
        });
        let config = ContainerConfig::new(id, Rootfs::dir("/not-set").into());
        Self { name, config, has_rootfs: false, refused }
    }

    fn take<T>(&mut self, field: &'static str, value: Result<T>) -> Option<T> {
        value.map_err(|e| self.refused.push(Problem::of(field, &e))).ok()
    }

    /// Its records live on tmpfs alone, and a stop or a shutdown deletes it. One whose program ends by itself stays
    /// until it is deleted, so that its status can be asked for.
    pub fn ephemeral(mut self) -> Self {
        self.config.ephemeral = true;
        self
    }

    /// Dropping the last handle of it stops it by force. Otherwise it lives on.
    pub fn kill_on_drop(mut self) -> Self {
        self.config.kill_on_drop = true;
        self
    }

    /// Sets the root file system. Every container needs one.
    pub fn rootfs(mut self, rootfs: impl Into<Rootfs>) -> Self {
        self.config.rootfs = rootfs.into();
        self.has_rootfs = true;
        self
    }

    /// Makes the root read-only. Other mounts keep their own flags.
    pub fn read_only_root(mut self) -> Self {
        self.config.read_only_root = true;
        self
    }

    /// Sets how mount events pass.
    pub fn propagation(mut self, propagation: Propagation) -> Self {
        self.config.propagation = propagation;
        self
    }

    /// Sets which of the usual mounts it gets.
    pub fn base_mounts(mut self, set: MountSet) -> Self {
        self.config.base_mounts = set;
        self
    }

    /// Adds a mount, made after those that were added before.
    pub fn mount(mut self, mount: impl Into<Mount>) -> Self {
        self.config.mounts.push(mount.into());
        self
    }

    /// Sets the paths inside that are hidden, in place of the ten that OCI runtimes hide. Missing ones are passed
    /// over.
    pub fn masked_paths<I>(mut self, paths: I) -> Self
    where
        I: IntoIterator,
        I::Item: Into<PathBuf>,
    {
        self.config.masked_paths = paths.into_iter().map(Into::into).collect();
        self
    }

    /// Sets the paths inside that are read-only, in place of the five that OCI runtimes make so. Missing ones are
    /// passed over.
    pub fn readonly_paths<I>(mut self, paths: I) -> Self
    where
        I: IntoIterator,
        I::Item: Into<PathBuf>,
    {
        self.config.readonly_paths = paths.into_iter().map(Into::into).collect();
        self
    }

    /// Sets `/etc/resolv.conf`.
    pub fn resolv_conf(mut self, file: impl Into<EtcFile>) -> Self {
        self.config.resolv_conf = file.into();
        self
    }

    /// Sets `/etc/hosts`.
    pub fn hosts(mut self, file: impl Into<EtcFile>) -> Self {
        self.config.hosts = file.into();
        self
    }

    /// Sets `/etc/hostname`. The host name itself is [`hostname`](Self::hostname).
    pub fn hostname_file(mut self, file: impl Into<EtcFile>) -> Self {
        self.config.hostname_file = file.into();
        self
    }

    /// Sets the program and its arguments. A program without a slash is looked for in the `PATH` of its
    /// environment.
    pub fn args<I>(mut self, args: I) -> Self
    where
        I: IntoIterator,
        I::Item: Into<OsString>,
    {
        self.config.args = args.into_iter().map(Into::into).collect();
        self
    }

    /// Sets a variable of the environment. Unless told otherwise this is `PATH` ([`DEFAULT_PATH`]) and
    /// `container=stockade`.
    ///
    /// [`DEFAULT_PATH`]: super::DEFAULT_PATH
    pub fn env(mut self, name: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        let (name, value) = (name.into(), value.into());
        match self.config.env.iter_mut().find(|(n, _)| *n == name) {
            Some(var) => var.1 = value,
            None => self.config.env.push((name, value)),
        }
        self
    }

    /// Empties the environment, its first content included.
    pub fn env_clear(mut self) -> Self {
        self.config.env.clear();
        self
    }

    /// Sets the working directory: an absolute path inside.
    pub fn cwd(mut self, cwd: impl Into<PathBuf>) -> Self {
        self.config.cwd = cwd.into();
        self
    }

    /// Sets user and groups of the program.
    pub fn user(mut self, user: User) -> Self {
        self.config.user = user;
        self
    }

    /// Sets the file mode creation mask.
    pub fn umask(mut self, umask: Umask) -> Self {
        self.config.umask = umask;
        self
    }

    /// Sets a resource limit; `u64::MAX` is none (`setrlimit(2)`).
    pub fn rlimit(mut self, resource: Resource, soft: u64, hard: u64) -> Self {
        let limit = Rlimit::new(soft, hard).map_err(|e| e.object(resource.name()));
        if let Some(limit) = self.take("rlimits", limit) {
            self.config.rlimits.insert(resource, limit);
        }
        self
    }

    /// Sets how readily the kernel kills it when memory is short, -1000 to 1000. Unless told otherwise as the host
    /// process.
    pub fn oom_score_adj(mut self, value: i32) -> Self {
        if let Some(value) = self.take("oom_score_adj", OomScoreAdj::new(value)) {
            self.config.oom_score_adj = Some(value);
        }
        self
    }

    /// Sets the execution domain.
    pub fn personality(mut self, personality: Personality) -> Self {
        self.config.personality = personality;
        self
    }

    /// Makes it **privileged**: it shares the host's user namespace, and its root is root of the host. Only for
    /// payloads that are trusted like the host itself.
    pub fn privileged(mut self) -> Self {
        self.config.privilege = Privilege::Privileged;
        self.namespace(NamespaceKind::User, NamespaceSource::Host)
    }

    /// Sets the capabilities, in place of those that go with the privilege.
    pub fn capabilities(mut self, sets: CapabilitySets) -> Self {
        self.config.capabilities = Some(sets);
        self
    }

    /// Sets the secure bits.
    pub fn securebits(mut self, bits: Securebits) -> Self {
        self.config.securebits = bits;
        self
    }

    /// No program in it gains privilege by being executed (`PR_SET_NO_NEW_PRIVS`): `sudo` and its like have no
    /// effect.
    pub fn no_new_privs(mut self) -> Self {
        self.config.no_new_privs = true;
        self
    }

    /// Sets which system calls it may make.
    pub fn seccomp(mut self, seccomp: impl Into<SeccompConfig>) -> Self {
        self.config.seccomp = seccomp.into();
        self
    }

    /// Sets which calls this process makes in its stead, that the kernel would refuse an unprivileged container. None unless
    /// told otherwise. Needs root of the host, a user namespace, and a seccomp policy: of that it takes nothing away.
    ///
    /// ```
    /// use stockade::seccomp::{Interception, Nodes};
    /// use stockade::{ContainerConfig, Rootfs};
    ///
    /// let config = ContainerConfig::system("build")
    ///     .rootfs(Rootfs::dir("/srv/debian"))
    ///     .intercept(Interception::new().mknod(Nodes::Plain).setxattr())
    ///     .build()?;
    /// assert!(!config.intercept().is_empty());
    /// # Ok::<(), stockade::Error>(())
    /// ```
    pub fn intercept(mut self, what: Interception) -> Self {
        self.config.intercept = what;
        self
    }

    /// Sets the label that its programs run under, for AppArmor or SELinux. A start, and an exec, fails where the kernel
    /// has not that module active, or the module does not know the label. It is written through `/proc`, so it needs the
    /// standard mounts.
    pub fn label(mut self, label: SecurityLabel) -> Self {
        self.config.label = Some(label);
        self
    }

    /// Sets what its programs may do to files, by Landlock.
    pub fn landlock(mut self, rules: Landlock) -> Self {
        self.config.landlock = Some(rules);
        self
    }

    /// Sets which session keyring its programs have.
    pub fn keyring(mut self, keyring: SessionKeyring) -> Self {
        self.config.keyring = keyring;
        self
    }

    /// Sets where all its namespaces come from, in place of everything said before about namespaces, network and
    /// time offsets.
    pub fn namespaces(mut self, set: NamespaceSet) -> Self {
        self.config.namespaces = set;
        self
    }

    /// Sets where one of its namespaces comes from.
    pub fn namespace(mut self, kind: NamespaceKind, source: NamespaceSource) -> Self {
        self.config.namespaces = self.config.namespaces.with(kind, source);
        self
    }

    /// Gives it a time namespace with these offsets.
    pub fn time_offsets(mut self, offsets: TimeOffsets) -> Self {
        self.config.namespaces = self.config.namespaces.with_time_offsets(offsets);
        self
    }

    /// Sets its network. For that of a namespace that exists see [`namespace`](Self::namespace).
    pub fn network(mut self, network: Network) -> Self {
        match network {
            Network::None => self.namespace(NamespaceKind::Net, NamespaceSource::New),
            Network::Host => self.namespace(NamespaceKind::Net, NamespaceSource::Host),
            Network::Joined => {
                if self.config.network() != Network::Joined {
                    self.refused.push(Problem::new("network", "name the namespace to join with `namespace`"));
                }
                self
            }
        }
    }

    /// Adds a network interface to its own network namespace.
    pub fn nic(mut self, mut nic: Nic) -> Self {
        let number = self.config.nics.len();
        self.refused.extend(nic.take_refused(number));
        nic.settle_name(&self.config.nics);
        self.config.nics.push(nic);
        self
    }

    /// Leaves the loopback device of its own network namespace down: not even `127.0.0.1` answers.
    pub fn without_loopback(mut self) -> Self {
        self.config.loopback_down = true;
        self
    }

    /// Sets the id map.
    pub fn idmap(mut self, idmap: impl Into<IdMapConfig>) -> Self {
        self.config.idmap = idmap.into();
        self
    }

    /// Sets the host name. Unless told otherwise it is the instance's name.
    pub fn hostname(mut self, name: impl Into<String>) -> Self {
        self.config.hostname = Some(name.into());
        self
    }

    /// Sets the NIS domain name (`setdomainname(2)`).
    pub fn domainname(mut self, name: impl Into<String>) -> Self {
        self.config.domainname = Some(name.into());
        self
    }

    /// Sets a kernel parameter of one of its new namespaces, such as `net.ipv4.ip_forward`.
    pub fn sysctl(mut self, name: &str, value: impl Into<String>) -> Self {
        if let Some(sysctl) = self.take("sysctls", Sysctl::new(name, value)) {
            self.config.sysctls.push(sysctl);
        }
        self
    }

    /// Sets whether it has a control group of its own.
    pub fn cgroup(mut self, cgroup: CgroupConfig) -> Self {
        self.config.cgroup = cgroup;
        self
    }

    /// Sets its limits.
    pub fn limits(mut self, limits: Limits) -> Self {
        self.config.limits = limits;
        self
    }

    /// Sets what keys `limits.*` say, as LXD and Incus have them: limits, CPUs, resource limits, `oom_score_adj`. See
    /// [`LimitKeys`], which also tells which keys have no effect. What is set by other setters and not named by a key
    /// stays. A percentage of memory is of this host's.
    ///
    /// ```
    /// use stockade::{ContainerConfig, Rootfs};
    ///
    /// let config = ContainerConfig::builder("web")
    ///     .rootfs(Rootfs::dir("/srv/web"))
    ///     .limits_from_keys([("limits.cpu", "2"), ("limits.memory", "512MiB"), ("limits.kernel.nofile", "4096")])
    ///     .build()?;
    /// assert_eq!(config.cpus().to_string(), "2");
    /// let wrong = ContainerConfig::builder("web").rootfs(Rootfs::dir("/srv/web")).limits_from_keys([("limits.cpu", "0")]);
    /// assert_eq!(wrong.problems()[0].field, "limits.cpu");
    /// # Ok::<(), stockade::Error>(())
    /// ```
    pub fn limits_from_keys<K: AsRef<str>, V: AsRef<str>>(
        mut self,
        keys: impl IntoIterator<Item = (K, V)>,
    ) -> Self {
        let (keys, problems) = LimitKeys::read(keys);
        self.refused.extend(problems.into_iter().map(|(key, why)| Problem::new(key, why)));
        if let Some(limits) = self.take("limits.memory", keys.limits()) {
            self.config.limits = self.config.limits.patched(&limits);
        }
        if *keys.cpus() != Cpus::All {
            self.config.cpus = keys.cpus().clone();
        }
        if *keys.cpu_nodes() != CpuNodes::Any {
            self.config.cpu_nodes = keys.cpu_nodes().clone();
        }
        self.config.rlimits.extend(keys.rlimits());
        self.config.oom_score_adj = keys.oom_score_adj().or(self.config.oom_score_adj);
        self
    }

    /// Sets how many CPUs it has, or which: a number is a count, and the runtime chooses those that the fewest other
    /// containers with a count or a set have, and chooses anew whenever one of them starts, stops or changes; see
    /// [`Runtime::rebalance_cpus`](crate::Runtime::rebalance_cpus). Needs the cpuset controller, as
    /// [`Limits::cpuset_cpus`](field@Limits::cpuset_cpus) does, in whose place it is.
    ///
    /// ```
    /// use stockade::instance::Cpus;
    /// use stockade::{ContainerConfig, Rootfs};
    ///
    /// let any_two = ContainerConfig::builder("job").rootfs(Rootfs::dir("/srv/job")).cpus(2).build()?;
    /// assert_eq!(*any_two.cpus(), Cpus::Count(2));
    /// let pinned = ContainerConfig::builder("rt").rootfs(Rootfs::dir("/srv/rt")).cpus("0-1,3".parse::<Cpus>()?);
    /// # pinned.build()?;
    /// # Ok::<(), stockade::Error>(())
    /// ```
    pub fn cpus(mut self, cpus: impl Into<Cpus>) -> Self {
        self.config.cpus = cpus.into();
        self
    }

    /// Sets the memory nodes whose CPUs it may get. Without a count it has all of them; of a set of CPUs nothing is
    /// taken away.
    pub fn cpu_nodes(mut self, nodes: impl Into<CpuNodes>) -> Self {
        self.config.cpu_nodes = nodes.into();
        self
    }

    /// Sets which device nodes may be opened and made in it; from the first instruction of its program on, and for
    /// all that it starts. Needs a cgroup of its own and root of the host.
    ///
    /// Unless told otherwise a privileged container has [`DevicePolicy::standard`], and one in a user namespace has no
    /// policy: the kernel lets it make no device nodes, and it can open only those that it was given.
    pub fn devices(mut self, policy: DevicePolicy) -> Self {
        self.config.devices = Some(policy);
        self
    }

    /// Sets what to do about a limit, or about the device policy, that cannot be set on this host.
    pub fn enforce(mut self, enforce: Enforce) -> Self {
        self.config.enforce = enforce;
        self
    }

    /// Makes it a **system container**: a whole distribution, whose own init is the first process and which boots, halts and
    /// reboots as on a machine. The same as [`system_with`](Self::system_with) with the defaults.
    pub fn system(self) -> Self {
        self.system_with(SystemConfig::default())
    }

    /// Makes it a system container, with these options. What is different then:
    ///
    /// * its cgroup is [`CgroupConfig::Delegated`], and no path is hidden or read-only but what follows: set these after
    ///   this call to have them otherwise;
    /// * `/proc/sys` but for `/proc/sys/net`, and `/proc/sysrq-trigger`, are read-only, and
    ///   `/proc/sys/kernel/random/boot_id` is new in each start; sysfs is writable, as far as it belongs to its namespaces;
    /// * `/dev/console` and `/dev/tty1` and so on are terminals of its own devpts. No terminal of the host enters it. A
    ///   stream that is [`Stdio::Null`](crate::instance::Stdio::Null) is the console. One more process, of 100 KiB, keeps
    ///   the terminals and what was written last to the console ([`Container::console_log`](crate::Container::console_log)),
    ///   also when this process ends. It is in the container's cgroup, and counts for its limit of processes;
    /// * `shutdown` and a graceful `restart` speak to its init
    ///   ([`InitRequest`](super::InitRequest)), and one that reboots itself is started again
    ///   ([`OnReboot`](super::OnReboot)).
    ///
    /// It needs namespaces of its own of every kind but time, a network that is not the host's, and a user namespace: it
    /// cannot be privileged. A root file system is the distribution's to write: with a read-only one most do not come
    /// up.
    pub fn system_with(mut self, system: SystemConfig) -> Self {
        self.config.system = Some(system);
        self.config.masked_paths.clear();
        self.config.readonly_paths.clear();
        self.cgroup(CgroupConfig::Delegated)
    }

    /// Everything that keeps this from being a configuration; empty where [`build`](Self::build) succeeds.
    pub fn problems(&self) -> Vec<Problem> {
        let mut all = self.refused.clone();
        if !self.has_rootfs {
            all.push(Problem::new("rootfs", "is not set"));
        }
        all.extend(check::problems(&self.config));
        all
    }

    /// Checks everything.
    ///
    /// # Errors
    /// [`InvalidConfig`](crate::ErrorKind::InvalidConfig), which lists every invalid field as `field: reason`.
    pub fn build(self) -> Result<ContainerConfig> {
        let problems = self.problems();
        if problems.is_empty() {
            Ok(self.config)
        } else {
            let name = self.name.chars().take(200).collect::<String>();
            Err(Error::invalid("configuration of container", check::list(&problems)).object(name))
        }
    }
}
