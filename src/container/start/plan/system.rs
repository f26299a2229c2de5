//! What only a container with a distribution's own init needs.

use rustix::mount::MountFlags;

use super::{Builder, ETC_DIR};
use crate::container::config::{Nesting, SystemConfig, SystemIdentity};
use crate::rootfs::standard::INERT;
use crate::spawn::{KernelFs, Mount, Tolerate};
use crate::sys::mount::{MOUNT_ATTR_RDONLY, MountAttr};

/// Seen from /proc.
const BOOT_ID: &str = "sys/kernel/random/boot_id";
/// Where distributions keep the number of the machine.
const MACHINE_IDS: [&str; 2] = ["/etc/machine-id", "/var/lib/dbus/machine-id"];

impl Builder<'_> {
    fn system(&self) -> Option<&SystemConfig> {
        self.config.system.as_ref()
    }

    /// Console, terminals, and what containers inside need. /dev and devpts are mounted.
    pub(super) fn system_mounts(&mut self) {
        let Some(system) = self.config.system.as_ref() else { return };
        self.plan.terminal("/dev/console");
        for n in 1..=system.ttys {
            self.plan.terminal(&format!("/dev/tty{n}"));
        }
        if system.nesting == Nesting::Allow {
            self.make_dir();
            for (what, fstype, target) in [
                ("mount another proc", "proc", "/dev/.stockade/proc"),
                ("mount another sysfs", "sysfs", "/dev/.stockade/sys"),
            ] {
                self.plan.mkdir("make the place of a mount", target, 0o755);
                self.plan.mount(&Mount { what, source: fstype, target, fstype, flags: INERT, data: "" });
            }
        }
    }

    fn make_dir(&mut self) {
        self.plan.mkdir("make the place of generated files", ETC_DIR, 0o755);
        self.plan.tolerate(Tolerate::Existing);
    }

    /// Gives the root file system this instance's name and number.
    pub(super) fn identity_files(&mut self) {
        if self.system().is_none_or(|system| system.identity != SystemIdentity::Instance) {
            return;
        }
        if let Some(name) = self.config.hostname() {
            self.plan.write_over("write the host name", "/etc/hostname", format!("{name}\n").as_bytes());
        }
        let id = format!("{}\n", self.parts.machine_id);
        for path in MACHINE_IDS {
            self.plan.write_over("write the machine id", path, id.as_bytes());
        }
    }

    /// The parts of proc that are of the whole machine: read-only, though nobody inside could write most of them, so that
    /// an init sees that it need not try.
    pub(super) fn kernel_settings(&mut self) {
        if self.system().is_none() {
            return;
        }
        let read_only = MountAttr { set: MOUNT_ATTR_RDONLY, ..MountAttr::default() };
        self.enter(Some(KernelFs::Proc));
        self.bind("bind /proc/sys", "sys", "sys");
        self.bind("bind /proc/sys/net", "sys/net", "sys/net");
        self.plan.mount_setattr_path("make /proc/sys read-only", "sys", &read_only, 0);
        self.make_dir();
        let made = format!("{ETC_DIR}/boot_id");
        self.plan.create_file("write the boot id", &made, self.parts.boot_id.as_bytes(), 0o444);
        self.bind("bind the boot id", &made, BOOT_ID);
        self.plan.mount_setattr_path("make the boot id read-only", BOOT_ID, &read_only, 0);
        self.plan.read_only_path_in("/proc/sysrq-trigger", KernelFs::Proc.path());
    }

    fn bind(&mut self, what: &'static str, source: &str, target: &str) {
        self.plan.mount(&Mount { what, source, target, fstype: "", flags: MountFlags::BIND, data: "" });
    }
}
