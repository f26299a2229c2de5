//! Which calls are intercepted.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

/// Calls that an unprivileged container may make though the kernel would refuse them: this process makes them in its stead,
/// as far as that does no harm. None unless told otherwise. The keys are those of LXD and Incus.
///
/// | method | key | what becomes possible |
/// |---|---|---|
/// | [`mknod`](Self::mknod) | `security.syscalls.intercept.mknod` | the nodes of `null`, `zero`, `full`, `random`, `urandom`, `tty`, `console` |
/// | [`setxattr`](Self::setxattr) | `security.syscalls.intercept.setxattr` | `trusted.overlay.opaque=y` on directories |
/// | [`mount`](Self::mount) | `security.syscalls.intercept.mount` | mounts of the file systems that are named |
/// | [`bpf_devices`](Self::bpf_devices) | `security.syscalls.intercept.bpf`, `.bpf.devices` | device programs on the container's own cgroups |
/// | [`sched_setscheduler`](Self::sched_setscheduler) | `security.syscalls.intercept.sched_setscheduler` | real-time scheduling |
/// | [`sysinfo`](Self::sysinfo) | `security.syscalls.intercept.sysinfo` | `sysinfo(2)` that shows the container's limits |
///
/// Whatever is refused, or is none of these, the kernel decides about as if nothing were intercepted. A whiteout (a character
/// device 0:0) any user namespace may make itself since Linux 5.8.
///
/// While anything is intercepted, `seccomp(2)` with `SECCOMP_FILTER_FLAG_NEW_LISTENER` fails with `EINVAL` inside.
///
/// ```
/// use stockade::seccomp::{Interception, MountInterception, Nodes};
///
/// let all_but_bpf = Interception::new()
///     .mknod(Nodes::Usable)
///     .setxattr()
///     .mount(MountInterception::new().allow("ext4").shifted())
///     .sched_setscheduler()
///     .sysinfo();
/// assert!(!all_but_bpf.is_empty());
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Interception {
    pub(crate) mknod: Nodes,
    pub(crate) setxattr: bool,
    pub(crate) mount: Option<MountInterception>,
    pub(crate) bpf_devices: bool,
    pub(crate) sched_setscheduler: bool,
    pub(crate) sysinfo: bool,
}

impl Interception {
    /// Nothing is intercepted.
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether nothing is intercepted.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Sets what becomes of `mknod(2)` and `mknodat(2)` of the seven harmless character devices. A device that the
    /// container's device policy forbids to make stays forbidden.
    #[must_use]
    pub fn mknod(mut self, nodes: Nodes) -> Self {
        self.mknod = nodes;
        self
    }

    /// Intercepts `setxattr(2)` and `lsetxattr(2)` of `trusted.overlay.opaque`, by which layers of images say that a
    /// directory hides the one below it.
    #[must_use]
    pub fn setxattr(mut self) -> Self {
        self.setxattr = true;
        self
    }

    /// Intercepts `mount(2)` of new file systems. **Dangerous**: the kernel's code that reads a file system was not written
    /// against images that an attacker made. Needs a device policy that denies what it does not name, since such an image
    /// may hold nodes of any device. What a FUSE program mounts ([`by_program`](MountInterception::by_program)) is not: the
    /// container could do that itself.
    #[must_use]
    pub fn mount(mut self, mount: MountInterception) -> Self {
        self.mount = Some(mount);
        self
    }

    /// Intercepts `bpf(2)` where it loads a program of type `CGROUP_DEVICE`, or attaches it to a cgroup that belongs to the
    /// container, or takes it away from there. Such a program can only take rights from what is below.
    #[must_use]
    pub fn bpf_devices(mut self) -> Self {
        self.bpf_devices = true;
        self
    }

    /// Intercepts `sched_setscheduler(2)` by root of the container. **A real-time process takes its CPU from the whole
    /// host.**
    #[must_use]
    pub fn sched_setscheduler(mut self) -> Self {
        self.sched_setscheduler = true;
        self
    }

    /// Intercepts `sysinfo(2)`: memory and swap are those of the container's limits, processes those in it, and the time is
    /// since its start. `free` of busybox shows that; tools that read `/proc/meminfo` do not ask.
    #[must_use]
    pub fn sysinfo(mut self) -> Self {
        self.sysinfo = true;
        self
    }

    /// What is intercepted of `mknod(2)`.
    pub fn nodes(&self) -> Nodes {
        self.mknod
    }

    /// What is intercepted of `mount(2)`.
    pub fn mounts(&self) -> Option<&MountInterception> {
        self.mount.as_ref()
    }

    /// Everything that is wrong with it: field, reason.
    pub(crate) fn problems(&self) -> Vec<(&'static str, String)> {
        let mut found = Vec::new();
        let Some(mount) = &self.mount else { return found };
        let mut wrong =
            |name: &str, why| found.push(("intercept.mount", format!("`{}` {why}", name.escape_default())));
        for name in &mount.allowed {
            if let Some(why) = bad_name(name).or_else(|| host_name(name)) {
                wrong(name, why);
            }
        }
        for (name, program) in &mount.programs {
            if let Some(why) = bad_name(name).or_else(|| fuse_name(name)) {
                wrong(name, why);
            }
            if mount.allowed.contains(name) {
                wrong(name, "is to be mounted by the host and by a program");
            }
            if !is_program(program) {
                wrong(program, "is no name of a program");
            }
        }
        found
    }
}

/// Why this is no name of a file system.
fn bad_name(name: &str) -> Option<&'static str> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-.".contains(c);
    let good = !name.is_empty() && name.len() <= 32 && name.chars().all(plain);
    (!good).then_some("is no name of a file system")
}

/// Whether this names a file in one of the directories where programs are, and nothing else.
fn is_program(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-.+".contains(c);
    !name.is_empty() && name.len() <= 255 && name.chars().all(plain) && !name.starts_with(['-', '.'])
}

/// Why no program can mount this one: it is what such programs mount themselves.
fn fuse_name(name: &str) -> Option<&'static str> {
    let kind = name.split('.').next().unwrap_or_default();
    matches!(kind, "fuse" | "fuseblk").then_some("is what the program itself mounts")
}

/// Why no container may mount this one of the host's.
fn host_name(name: &str) -> Option<&'static str> {
    // Each of them shows or changes the host itself, whoever mounts it.
    const HOST: [&str; 14] = [
        "bdev",
        "bpf",
        "binfmt_misc",
        "cgroup",
        "cgroup2",
        "configfs",
        "debugfs",
        "devtmpfs",
        "efivarfs",
        "pstore",
        "resctrl",
        "securityfs",
        "selinuxfs",
        "tracefs",
    ];
    HOST.contains(&name).then_some("shows or changes the host itself")
}

/// What becomes of a device node that a container makes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Nodes {
    /// The kernel refuses it: `EPERM`.
    #[default]
    Refused,
    /// It is made, and no more. In most places it cannot be opened: the root of a container and its other mounts are
    /// `nodev`. Right for unpacking images. Where the file system cannot hold one, as an overlay that the container has
    /// mounted itself, it is refused.
    Plain,
    /// It is made; and where it could not be opened, or could not be made, a working one is mounted over it, as LXD does. It
    /// cannot be removed then until it is unmounted: `EBUSY`.
    Usable,
}

/// Which mounts are made in a container's stead; see [`Interception::mount`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MountInterception {
    pub(crate) allowed: BTreeSet<String>,
    /// Programs by file system.
    pub(crate) programs: BTreeMap<String, String>,
    pub(crate) ids: MountIds,
}

/// Whose the files of an intercepted mount are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum MountIds {
    /// The ids are the host's: 0 is its root, so nobody's inside.
    #[default]
    Host,
    /// They are the container's.
    Shifted,
}

impl MountInterception {
    /// Nothing is allowed.
    pub fn new() -> Self {
        Self::default()
    }

    /// Mounts this file system in the container's stead (`security.syscalls.intercept.mount.allowed`).
    #[must_use]
    pub fn allow(mut self, file_system: impl Into<String>) -> Self {
        self.allowed.insert(file_system.into());
        self
    }

    /// Has this file system mounted by a FUSE program of the container's (`security.syscalls.intercept.mount.fuse`):
    /// `PROGRAM SOURCE TARGET -o OPTIONS`, out of the caller's root by the container's `PATH`, as the caller, with no right
    /// that it lacks. The call succeeds once the program has mounted a FUSE file system and gone to the background, which ends
    /// it with code 0 in the foreground. Where it does not within 30 s, or fails, or is not there, the kernel decides about the
    /// call.
    ///
    /// Such programs need `/dev/fuse` in the container. What it mounts is as safe for the host as the kernel's FUSE, which
    /// the container may use without this. A file system may not be allowed as well.
    ///
    /// ```
    /// use stockade::seccomp::{Interception, MountInterception};
    ///
    /// let mounts = MountInterception::new().by_program("ext4", "fuse2fs").by_program("ntfs", "ntfs-3g");
    /// assert!(!Interception::new().mount(mounts).is_empty());
    /// ```
    #[must_use]
    pub fn by_program(mut self, file_system: impl Into<String>, program: impl Into<String>) -> Self {
        self.programs.insert(file_system.into(), program.into());
        self
    }

    /// Whether the host mounts anything itself.
    pub(crate) fn is_hosts(&self) -> bool {
        !self.allowed.is_empty()
    }

    /// Gives the files the ids that they have inside the container, by a mount with an id map
    /// (`security.syscalls.intercept.mount.shift`); a file system that takes none is not mounted then.
    #[must_use]
    pub fn shifted(mut self) -> Self {
        self.ids = MountIds::Shifted;
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_file_systems() {
        let problems =
            |name: &str| Interception::new().mount(MountInterception::new().allow(name)).problems().len();
        assert_eq!((problems("ext4"), problems("fuse.sshfs")), (0, 0));
        for bad in ["", "a/b", "devtmpfs", "debugfs", "ext4\n", &"x".repeat(33)] {
            assert_eq!(problems(bad), 1, "{bad:?}");
        }
    }

    #[test]
    fn programs_of_file_systems() {
        let of = |name: &str, program: &str| {
            let mount = MountInterception::new().allow("xfs").by_program(name, program);
            Interception::new().mount(mount).problems().len()
        };
        assert_eq!((of("ext4", "fuse2fs"), of("ntfs", "ntfs-3g"), of("a.b", "x+y_z.1")), (0, 0, 0));
        for program in
            ["", "a/b", "/bin/x", "a b", "-o", "..", ".x", "a\0", "a,b", "a#b", "é", &"x".repeat(256)]
        {
            assert_eq!(of("ext4", program), 1, "{program:?}");
        }
        for name in ["", "a/b", "a=b", "xfs", "fuse", "fuseblk", "fuse.ext4", &"x".repeat(33)] {
            assert_eq!(of(name, "fuse2fs"), 1, "{name:?}");
        }
    }

    #[test]
    fn json_with_safe_defaults() {
        let read: Interception = serde_json::from_str(r#"{"mknod":"usable","sysinfo":true}"#).unwrap();
        assert_eq!(read, Interception::new().mknod(Nodes::Usable).sysinfo());
        let programs: Interception =
            serde_json::from_str(r#"{"mount":{"programs":{"ext4":"fuse2fs"}}}"#).unwrap();
        let expected = Interception::new().mount(MountInterception::new().by_program("ext4", "fuse2fs"));
        assert_eq!(programs, expected);
        let text = serde_json::to_string(&expected).unwrap();
        assert_eq!(serde_json::from_str::<Interception>(&text).unwrap(), expected);
        assert!(serde_json::from_str::<Interception>("{}").unwrap().is_empty());
        assert!(serde_json::from_str::<Interception>(r#"{"mknodd":"usable"}"#).is_err());
    }
}
