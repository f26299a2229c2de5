//! Checking a configuration. Nothing here looks at the host.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use super::choices::{CgroupConfig, IdMapConfig};
use super::mounts::{self, Mount};
use super::{ContainerConfig, MountSet};
use crate::caps::Capability;
use crate::cgroup::Partition;
use crate::error::Error;
use crate::idmap::{IdKind, InnerGid, InnerUid};
use crate::instance::{CpuNodes, Cpus};
use crate::namespaces::{NamespaceKind, NamespaceSource, Privilege, Target};
use crate::rootfs::{FileIds, Rootfs};

/// The kernel takes no longer argument or variable (`MAX_ARG_STRLEN`, `execve(2)`).
const MAX_ARG: usize = 128 * 1024 - 1;
/// `PATH_MAX` without the final NUL.
const MAX_PATH: usize = 4095;
/// `HOST_NAME_MAX` (`sethostname(2)`).
const MAX_HOSTNAME: usize = 64;
/// The kernel stacks no more (`OVL_MAX_STACK`).
const MAX_LAYERS: usize = 500;
/// How many ids `IdMapConfig::Auto` gives.
const AUTO_IDS: u32 = 65_536;
/// Far more than any of the three files needs.
const MAX_ETC_FILE: usize = 1 << 20;
/// What opens the host's devices to a privileged container.
const UNCONFINED: &str =
    "not for privileged containers without a device policy that is required and denies by default";

/// One thing that is wrong with a configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Problem {
    /// The field, such as `cwd` or `mounts[2]`.
    pub field: String,
    /// What is wrong with it.
    pub reason: String,
}

impl Problem {
    pub(super) fn new(field: impl Into<String>, reason: impl Into<String>) -> Self {
        Self { field: field.into(), reason: reason.into() }
    }

    pub(super) fn of(field: impl Into<String>, error: &Error) -> Self {
        Self::new(field, error.to_string())
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.reason)
    }
}

/// All of them in one line.
pub(in crate::container) fn list(problems: &[Problem]) -> String {
    problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

/// Everything that is wrong with a configuration.
pub(in crate::container) fn problems(config: &ContainerConfig) -> Vec<Problem> {
    let mut check = Check { config, found: Vec::new() };
    if config.id.snapshot.is_some() {
        check.add("id", "is a snapshot's");
    }
    check.rootfs();
    check.mounts();
    check.etc_files();
    check.command();
    check.user();
    check.privilege();
    check.namespaces();
    check.names();
    check.sysctls();
    check.found.extend(super::nic::problems(config));
    check.system();
    let intercepted = super::intercept::problems(config).into_iter();
    check.found.extend(intercepted.map(|(field, why)| Problem::new(field, why)));
    check.found.extend(super::confine::problems(config));
    check.found.extend(super::views::problems(config));
    for (field, why) in config.limits.problems() {
        check.add(format!("limits.{field}"), why);
    }
    check.cpus();
    if config.cgroup == CgroupConfig::None && !config.limits.is_empty() {
        check.add("limits", "need a control group, and the container is to have none");
    }
    if config.cgroup == CgroupConfig::Delegated && !config.namespaces.is_new(NamespaceKind::Cgroup) {
        check.add("cgroup", "to be delegated, it needs a new cgroup namespace");
    }
    if config.cgroup == CgroupConfig::Delegated && matches!(config.namespaces.user, NamespaceSource::Join(_))
    {
        check.add("cgroup", "cannot be delegated in a user namespace of others");
    }
    if let Some(policy) = &config.devices {
        if config.cgroup == CgroupConfig::None {
            check.add("devices", "need a control group, and the container is to have none");
        }
        if let Err(e) = policy.validate() {
            check.found.push(Problem::of("devices", &e));
        }
    }
    if config.cgroup == CgroupConfig::None && !config.namespaces.is_new(NamespaceKind::Pid) {
        check.add("cgroup", "without one the container needs a new pid namespace, to be stopped whole");
    }
    check.found
}

struct Check<'a> {
    config: &'a ContainerConfig,
    found: Vec<Problem>,
}

impl Check<'_> {
    fn add(&mut self, field: impl Into<String>, reason: impl Into<String>) {
        self.found.push(Problem::new(field, reason));
    }

    fn add_err(&mut self, field: &str, result: Result<(), impl Into<String>>) {
        if let Err(reason) = result {
            self.add(field, reason);
        }
    }

    fn new_ns(&self, kind: NamespaceKind) -> bool {
        self.config.namespaces.is_new(kind)
    }

    fn rootfs(&mut self) {
        match &self.config.rootfs {
            Rootfs::Dir(dir) => {
                self.add_err("rootfs", absolute(dir.path()));
                if dir.path() == Path::new("/") {
                    self.add("rootfs", "is the host's own root: use Rootfs::host()");
                }
            }
            Rootfs::Overlay(overlay) => {
                let lower = overlay.lower();
                if lower.is_empty() || lower.len() > MAX_LAYERS {
                    self.add("rootfs.lower", format!("has {} layers, not 1 to {MAX_LAYERS}", lower.len()));
                }
                let mut seen = BTreeSet::new();
                for (n, layer) in lower.iter().enumerate() {
                    let field = format!("rootfs.lower[{n}]");
                    self.add_err(&field, absolute(layer));
                    if !seen.insert(layer) {
                        self.add(field, format!("`{}` is there twice", show(layer)));
                    }
                }
                if let Some(upper) = overlay.upper_dir() {
                    self.add_err("rootfs.upper", absolute(upper));
                    if let Some(layer) = lower.iter().find(|l| upper.starts_with(l) || l.starts_with(upper)) {
                        self.add("rootfs.upper", format!("overlaps the layer `{}`", show(layer)));
                    }
                }
            }
            Rootfs::Host => {
                if self.config.privilege == Privilege::Privileged {
                    self.add("rootfs", "the host's files are for containers with a user namespace only");
                }
                if self.config.base_mounts == MountSet::None {
                    self.add("rootfs", "the host's files cannot be hidden without the standard mounts");
                }
            }
        }
    }

    fn mounts(&mut self) {
        let mut targets = BTreeSet::new();
        for (n, mount) in self.config.mounts.iter().enumerate() {
            let field = format!("mounts[{n}]");
            match inside(mount.target()) {
                Err(why) => self.add(format!("{field}.target"), why),
                Ok(target) => {
                    if target == Path::new("/") {
                        self.add(format!("{field}.target"), "is the root itself");
                    } else if !mounts::may_cover(&target) {
                        let why = format!(
                            "`{}` is in proc or sysfs, where only the files of lxcfs and \
                                           /sys/fs/cgroup may be covered",
                            show(&target)
                        );
                        self.add(format!("{field}.target"), why);
                    }
                    if !targets.insert(target) {
                        let why = format!("`{}` has a mount already", show(mount.target()));
                        self.add(format!("{field}.target"), why);
                    }
                }
            }
            match mount {
                Mount::Bind(bind) => {
                    self.add_err(&format!("{field}.source"), absolute(bind.source()));
                    if bind.file_ids() == FileIds::Mapped
                        && *self.config.namespaces.get(NamespaceKind::User) == NamespaceSource::Host
                    {
                        self.add(format!("{field}.ids"), "an idmapped mount needs a user namespace");
                    }
                }
                Mount::Tmpfs(tmpfs) => {
                    if tmpfs.top_mode() > 0o7777 {
                        let why = format!("0{:o} has bits beyond 07777", tmpfs.top_mode());
                        self.add(format!("{field}.mode"), why);
                    }
                    if tmpfs.max_size() == Some(0) {
                        self.add(format!("{field}.size"), "is 0, which the kernel takes as no limit");
                    }
                }
            }
            if self.config.privilege == Privilege::Privileged
                && !mount.options().nodev
                && !self.config.confines_devices()
            {
                self.add(format!("{field}.options"), format!("devices are {UNCONFINED}"));
            }
        }
        let lists =
            [("masked_paths", &self.config.masked_paths), ("readonly_paths", &self.config.readonly_paths)];
        for (name, paths) in lists {
            for (n, path) in paths.iter().enumerate() {
                match inside(path) {
                    Err(why) => self.add(format!("{name}[{n}]"), why),
                    Ok(path) if path == Path::new("/") => {
                        self.add(format!("{name}[{n}]"), "is the root itself");
                    }
                    Ok(_) => {}
                }
            }
        }
    }

    fn etc_files(&mut self) {
        let c = self.config;
        for (field, file) in
            [("resolv_conf", &c.resolv_conf), ("hosts", &c.hosts), ("hostname_file", &c.hostname_file)]
        {
            if let super::EtcFile::Content(text) = file
                && text.len() > MAX_ETC_FILE
            {
                self.add(field, "is longer than 1 MiB");
            }
        }
    }

    fn command(&mut self) {
        match self.config.args.first() {
            None => self.add("args", "has no program"),
            Some(program) if program.is_empty() => self.add("args[0]", "the program is empty"),
            Some(_) => {}
        }
        for (n, arg) in self.config.args.iter().enumerate() {
            self.add_err(&format!("args[{n}]"), c_text(arg, MAX_ARG));
        }
        for (n, (name, value)) in self.config.env.iter().enumerate() {
            let field = format!("env[{n}]");
            let bytes = name.as_bytes();
            if bytes.is_empty() || bytes.contains(&b'=') || bytes.contains(&0) {
                let why = format!("`{}` is no name of a variable", show(Path::new(name)));
                self.add(field, why);
            } else {
                // The value is never shown: it may be a secret.
                let limit = MAX_ARG.saturating_sub(bytes.len() + 1);
                if c_text(value, limit).is_err() {
                    let why =
                        format!("the value of `{}` has a NUL byte or is too long", show(Path::new(name)));
                    self.add(field, why);
                }
            }
        }
        self.add_err("cwd", absolute(&self.config.cwd));
    }

    fn user(&mut self) {
        let user = &self.config.user;
        if let Err(e) = user.validate() {
            self.found.push(Problem::of("user", &e));
            return;
        }
        if !self.new_ns(NamespaceKind::User) {
            return;
        }
        let idmap = &self.config.idmap;
        let has_uid = |id: InnerUid| match idmap {
            IdMapConfig::Auto => id.as_raw() < AUTO_IDS,
            IdMapConfig::Explicit(map) => map.uid_to_host(id).is_some(),
            IdMapConfig::SingleUser => id == InnerUid::ROOT,
        };
        let has_gid = |id: InnerGid| match idmap {
            IdMapConfig::Auto => id.as_raw() < AUTO_IDS,
            IdMapConfig::Explicit(map) => map.gid_to_host(id).is_some(),
            IdMapConfig::SingleUser => id == InnerGid::ROOT,
        };
        let mut unmapped = Vec::new();
        if !has_uid(user.uid) {
            unmapped.push(("user.uid".to_owned(), IdKind::Uid, user.uid.as_raw()));
        }
        if !has_gid(user.gid) {
            unmapped.push(("user.gid".to_owned(), IdKind::Gid, user.gid.as_raw()));
        }
        for (n, gid) in user.groups.iter().enumerate().filter(|(_, gid)| !has_gid(**gid)) {
            unmapped.push((format!("user.groups[{n}]"), IdKind::Gid, gid.as_raw()));
        }
        for (field, kind, id) in unmapped {
            self.add(field, format!("{kind} {id} is not in the id map"));
        }
        if *idmap == IdMapConfig::SingleUser && !user.groups.is_empty() {
            self.add("user.groups", "a single-user id map allows no supplementary groups");
        }
        if let IdMapConfig::Explicit(map) = idmap
            && (map.uid_to_host(InnerUid::ROOT).is_none() || map.gid_to_host(InnerGid::ROOT).is_none())
        {
            self.add("idmap", "has no user 0 or no group 0, which set the container up");
        }
    }

    fn privilege(&mut self) {
        let c = self.config;
        let privileged = c.privilege == Privilege::Privileged;
        if privileged && *c.namespaces.get(NamespaceKind::User) != NamespaceSource::Host {
            self.add("privileged", "goes with the host's user namespace, and another one is set");
        }
        if let Some(caps) = &c.capabilities {
            if let Err(e) = caps.validate() {
                self.found.push(Problem::of("capabilities", &e));
            }
            let sets = [caps.effective, caps.permitted, caps.inheritable, caps.bounding, caps.ambient];
            if privileged && !c.confines_devices() && sets.iter().any(|set| set.contains(Capability::Mknod)) {
                self.add("capabilities", format!("CAP_MKNOD opens every device: it is {UNCONFINED}"));
            }
        }
        if !self.new_ns(NamespaceKind::User) && c.idmap != IdMapConfig::Auto {
            self.add("idmap", "needs a new user namespace");
        }
    }

    fn namespaces(&mut self) {
        let c = self.config;
        if let Err(e) = c.namespaces.validate(c.privilege) {
            self.found.push(Problem::of("namespaces", &e));
        }
        for (kind, source) in c.namespaces.iter() {
            if matches!(source, NamespaceSource::Join(Target::Fd(_))) && !c.ephemeral {
                let why = format!(
                    "the {kind} namespace is a descriptor, which only an ephemeral container can have"
                );
                self.add("namespaces", why);
            }
        }
        if c.base_mounts == MountSet::Standard
            && *c.namespaces.get(NamespaceKind::User) != NamespaceSource::Host
            && *c.namespaces.get(NamespaceKind::Pid) == NamespaceSource::Host
        {
            self.add(
                "namespaces",
                "the host's proc cannot be mounted from another user namespace: \
                      give it a pid namespace or no base mounts",
            );
        }
    }

    fn cpus(&mut self) {
        let c = self.config;
        if let Some(why) = c.cpus.problem() {
            self.add("cpus", why);
        }
        if matches!(&c.cpu_nodes, CpuNodes::Set(set) if set.is_empty()) {
            self.add("cpu_nodes", "the set is empty");
        }
        if !c.allots_cpus() {
            return;
        }
        if c.cgroup == CgroupConfig::None {
            self.add("cpus", "need a control group, and the container is to have none");
        }
        if c.limits.cpuset_cpus.is_some() {
            self.add(
                "cpus",
                "are chosen here and named in limits.cpuset_cpus as well: leave one of them out",
            );
        }
        let alone = !matches!(c.limits.cpuset_partition, None | Some(Partition::Member));
        if alone && !matches!(c.cpus, Cpus::Set(_)) {
            self.add("cpus", "that nobody else may have (limits.cpuset_partition) must be named as a set");
        }
    }

    fn system(&mut self) {
        let c = self.config;
        let Some(system) = &c.system else { return };
        for (field, reason) in system.problems() {
            self.add(field, reason);
        }
        let kinds = [
            NamespaceKind::Mount,
            NamespaceKind::Pid,
            NamespaceKind::Uts,
            NamespaceKind::Ipc,
            NamespaceKind::Cgroup,
        ];
        for kind in kinds {
            if !self.new_ns(kind) {
                self.add("system", format!("needs a new {kind} namespace"));
            }
        }
        for kind in [NamespaceKind::User, NamespaceKind::Net] {
            if *c.namespaces.get(kind) == NamespaceSource::Host {
                self.add("system", format!("cannot have the host's {kind} namespace"));
            }
        }
        if c.base_mounts != MountSet::Standard {
            self.add("system", "needs the standard mounts");
        }
        if c.rootfs == Rootfs::Host {
            self.add("system", "cannot boot the host's own files");
        }
        if !c.user.is_root() {
            self.add("system", "an init runs as root");
        }
        if c.cgroup != CgroupConfig::Delegated {
            self.add("system", "an init makes cgroups of its own: CgroupConfig::Delegated");
        }
    }

    fn names(&mut self) {
        let c = self.config;
        for (field, name) in [("hostname", &c.hostname), ("domainname", &c.domainname)] {
            let Some(name) = name else { continue };
            let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._".contains(&b);
            let edge = |b: Option<&u8>| b.is_none_or(|b| b"-.".contains(b));
            let bytes = name.as_bytes();
            if bytes.is_empty() || bytes.len() > MAX_HOSTNAME {
                self.add(field, format!("has {} bytes, not 1 to {MAX_HOSTNAME}", bytes.len()));
            } else if !bytes.iter().all(|b| plain(*b)) {
                self.add(field, "may hold only ASCII letters, digits, `-`, `.` and `_`");
            } else if edge(bytes.first()) || edge(bytes.last()) || name.contains("..") {
                self.add(field, "has an empty part, or begins or ends with `-` or `.`");
            }
            if !self.new_ns(NamespaceKind::Uts) {
                self.add(field, "needs a new uts namespace");
            }
        }
    }

    fn sysctls(&mut self) {
        let mut seen = BTreeSet::new();
        for sysctl in &self.config.sysctls {
            let kind = sysctl.namespace();
            if !self.new_ns(kind) {
                let why = format!("`{}` needs a new {kind} namespace", sysctl.name());
                self.add("sysctls", why);
            }
            if !seen.insert(sysctl.name()) {
                self.add("sysctls", format!("`{}` is there twice", sysctl.name()));
            }
        }
        if self.config.domainname.is_some() && seen.contains("kernel/domainname") {
            self.add("sysctls", "`kernel/domainname` is set as the domain name as well");
        }
    }
}

/// Fails where the kernel could not take `text`, or would cut it.
fn c_text(text: &OsStr, limit: usize) -> Result<(), String> {
    if text.as_bytes().contains(&0) {
        Err(format!("`{}` has a NUL byte", show(Path::new(text))))
    } else if text.len() > limit {
        Err(format!("is longer than {limit} bytes"))
    } else {
        Ok(())
    }
}

/// Fails where `path` is not an absolute path that the kernel takes.
fn absolute(path: &Path) -> Result<(), String> {
    c_text(path.as_os_str(), MAX_PATH)?;
    if path.is_absolute() { Ok(()) } else { Err(format!("`{}` is not an absolute path", show(path))) }
}

/// A path inside the container in its shortest form, or what keeps it from being one.
fn inside(path: &Path) -> Result<PathBuf, String> {
    absolute(path)?;
    if path.components().any(|c| c == Component::ParentDir) {
        return Err(format!("`{}` has a `..` in it", show(path)));
    }
    Ok(path.components().collect())
}

/// A path for a message: short and on one line.
fn show(path: &Path) -> String {
    path.to_string_lossy().chars().take(120).map(|c| if c.is_control() { '?' } else { c }).collect()
}
