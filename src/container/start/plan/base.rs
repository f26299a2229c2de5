//! The base mounts: proc, /dev and what belongs to it, sysfs, cgroup2.

use rustix::mount::MountFlags;

use super::{AT_RECURSIVE, Builder};
use crate::container::config::CgroupConfig;
use crate::namespaces::{NamespaceKind, NamespaceSource};
use crate::rootfs::standard::{self as std_fs, INERT};
use crate::spawn::{Mount, Tolerate};
use crate::sys::mount::{MOUNT_ATTR_RDONLY, MountAttr};

impl Builder<'_> {
    pub(super) fn base_mounts(&mut self) {
        self.proc();
        self.dev();
        self.plan.mount(&Mount {
            what: "mount devpts",
            source: "devpts",
            target: "/dev/pts",
            fstype: "devpts",
            flags: std_fs::PTS_FLAGS,
            data: if self.parts.tty_group { std_fs::PTS_DATA_GROUP } else { std_fs::PTS_DATA },
        });
        self.plan.mount(&Mount {
            what: "mount /dev/shm",
            source: "shm",
            target: "/dev/shm",
            fstype: "tmpfs",
            flags: INERT,
            data: std_fs::SHM_DATA,
        });
        if self.is_new(NamespaceKind::Ipc) {
            self.plan.mount(&Mount {
                what: "mount mqueue",
                source: "mqueue",
                target: "/dev/mqueue",
                fstype: "mqueue",
                flags: INERT,
                data: "",
            });
        }
        self.sysfs();
        if self.parts.cgroup2 && self.own_sysfs() && self.is_new(NamespaceKind::Cgroup) {
            let delegated = self.config.cgroup == CgroupConfig::Delegated;
            let read_only = if delegated { MountFlags::empty() } else { MountFlags::RDONLY };
            self.plan.mount(&Mount {
                what: "mount cgroup2",
                source: "cgroup",
                target: "/sys/fs/cgroup",
                fstype: "cgroup2",
                flags: INERT | read_only,
                data: "",
            });
        }
        self.system_mounts();
    }

    fn proc(&mut self) {
        let own = self.is_new(NamespaceKind::Pid) || !self.user_namespace();
        let joined = matches!(self.config.namespaces.pid, NamespaceSource::Join(_));
        if own || joined {
            self.plan.mount_top(&Mount {
                what: "mount proc",
                source: "proc",
                target: "/proc",
                fstype: "proc",
                flags: INERT,
                data: "",
            });
        } else {
            // Only the owner of a pid namespace may mount its proc.
            self.bind_from_host("bind the host's /proc", "proc", "/proc");
        }
    }

    fn dev(&mut self) {
        self.plan.mount_top(&Mount {
            what: "mount /dev",
            source: "tmpfs",
            target: "/dev",
            fstype: "tmpfs",
            flags: std_fs::DEV_FLAGS,
            data: std_fs::DEV_DATA,
        });
        if self.binds_devices() {
            // The host's own nodes are bound over empty files.
            self.enter_old_root();
            for d in std_fs::DEVICES {
                self.plan.mknod("make the place of a device", d.path, 0o100_666, 0);
                self.plan.mount(&Mount {
                    what: "bind device",
                    source: &d.path[1..],
                    target: d.path,
                    fstype: "",
                    flags: MountFlags::BIND,
                    data: "",
                });
                self.plan.check_device(d.path, libc::makedev(d.major, d.minor));
            }
        } else {
            for d in std_fs::DEVICES {
                self.plan.mknod("make device", d.path, std_fs::DEVICE_MODE, libc::makedev(d.major, d.minor));
            }
        }
        for (target, path) in std_fs::LINKS {
            self.plan.symlink(target, path);
        }
        for dir in std_fs::DIRS {
            self.plan.mkdir("make directory", dir, 0o755);
        }
    }

    /// Whether no device nodes can be made: not in a user namespace, nor against the device policy.
    pub(super) fn binds_devices(&self) -> bool {
        self.user_namespace() || !self.config.may_make_devices()
    }

    /// Whether the container may mount a sysfs of its own: it shows the network namespace's devices, and only the
    /// owner of that may mount it.
    pub(super) fn own_sysfs(&self) -> bool {
        self.config.namespaces.net != NamespaceSource::Host || !self.user_namespace()
    }

    fn sysfs(&mut self) {
        if self.own_sysfs() {
            let read_only =
                if self.config.system.is_some() { MountFlags::empty() } else { MountFlags::RDONLY };
            self.plan.mount_top(&Mount {
                what: "mount sysfs",
                source: "sysfs",
                target: "/sys",
                fstype: "sysfs",
                flags: INERT | read_only,
                data: "",
            });
            return;
        }
        self.bind_from_host("bind the host's /sys", "sys", "/sys");
        let attr = MountAttr { set: MOUNT_ATTR_RDONLY, ..MountAttr::default() };
        self.plan.mount_setattr_path("make /sys read-only", "/sys", &attr, AT_RECURSIVE);
    }

    /// Binds `source`, relative to the host's root, with everything below.
    fn bind_from_host(&mut self, what: &'static str, source: &str, target: &str) {
        self.plan.mkdir("make the place of a mount", target, 0o755);
        self.plan.tolerate(Tolerate::Existing);
        self.enter_old_root();
        let flags = MountFlags::BIND | MountFlags::REC;
        self.plan.mount(&Mount { what, source, target, fstype: "", flags, data: "" });
    }
}
