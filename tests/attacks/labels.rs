//! Labels of security modules: set, kept, and not to be shaken off. AppArmor is in the lane's kernel.

use std::path::PathBuf;
use std::process::Command;

use nix::libc;
use stockade::instance::{ExecOptions, Stdio};
use stockade::process::SecurityLabel;
use stockade::{ErrorKind, Weaken};

use crate::inside::{first_pid, say};
use crate::rig::{Rig, busybox, end, sh};

fn apparmor_is_active() -> bool {
    std::fs::read_to_string("/sys/module/apparmor/parameters/enabled").is_ok_and(|text| text.starts_with('Y'))
}

/// A profile that is loaded, under a name that nobody else has.
struct Profile {
    parser: PathBuf,
    name: String,
    text: String,
}

impl Profile {
    fn load(parser: PathBuf) -> Self {
        let name = format!("stockade-test-{}", std::process::id());
        // All but one file.
        let text = format!(
            "profile {name} flags=(attach_disconnected,mediate_deleted) {{
                file, capability, network, mount, umount, pivot_root, signal, ptrace, unix,
                deny /etc/passwd rwklx,
            }}"
        );
        let profile = Self { parser, name, text };
        profile.run("-r");
        profile
    }

    fn run(&self, how: &str) {
        use std::io::Write;
        let mut child = Command::new(&self.parser)
            .args(["--skip-cache", "--quiet", how])
            .stdin(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(self.text.as_bytes()).unwrap();
        assert!(child.wait().unwrap().success(), "{how}");
    }

    fn label(&self) -> SecurityLabel {
        SecurityLabel::AppArmor(self.name.clone())
    }
}

impl Drop for Profile {
    fn drop(&mut self) {
        self.run("-R");
    }
}

fn label_of(pid: u32) -> String {
    std::fs::read_to_string(format!("/proc/{pid}/attr/apparmor/current")).unwrap().trim().to_owned()
}

/// A module that is not there, or a label that it does not know, is an error, and nothing runs without its label.
#[test]
fn a_label_that_cannot_be_set_is_an_error() {
    let Some(rig) = Rig::new() else { return };
    let (apparmor, selinux) = ("AppArmor is not active", "SELinux is not active");
    let mut tried = 0;
    for (label, absent) in [
        (SecurityLabel::AppArmor("stockade-no-such-profile".into()), apparmor),
        (SecurityLabel::SeLinux("system_u:system_r:no_such_t:s0".into()), selinux),
    ] {
        let c = rig.runtime.create(busybox("c").label(label).build().unwrap()).unwrap();
        let e = c.start().unwrap_err();
        if absent == apparmor && apparmor_is_active() {
            assert!(e.kind() == ErrorKind::NotFound && e.step() == "set the AppArmor profile", "{e}");
            assert!(e.way_out().unwrap().contains("load the profile"), "{e}");
        } else if e.kind() == ErrorKind::Unsupported {
            assert!(e.to_string().contains(absent) && e.way_out().is_some(), "{e}");
        }
        assert!(!c.status().is_running());
        c.delete().unwrap();
        tried += 1;
    }
    say(&format!("labels that cannot be set: {tried} tried"));
    rig.end();
}

/// **The labels of CVE-2019-16884, CVE-2023-28642 and CVE-2025-52881** (runc), and of **CVE-2015-1335** (LXC). The profile is
/// enforced, in the first process and in what it executes, in commands of exec too; and root of the container, who may
/// mount what he likes over `/proc`, cannot have a command of exec run without it. Step: the write to
/// `attr/apparmor/exec`. Held by: the file is looked up from what must be procfs.
#[test]
fn an_apparmor_profile_is_enforced_and_cannot_be_shaken_off() {
    support::require!(apparmor_is_active(), "AppArmor is not active in this kernel");
    let parser = std::env::var_os("STOCKADE_APPARMOR_PARSER")
        .map(PathBuf::from)
        .or_else(|| Some(PathBuf::from("/usr/sbin/apparmor_parser")))
        .filter(|path| path.is_file());
    let Some(parser) = parser else {
        return support::skip("needs apparmor_parser (Debian's package apparmor)");
    };
    let Some(rig) = Rig::new() else { return };
    let profile = Profile::load(parser);
    let enforced = format!("{} (enforce)", profile.name);
    for privileged in [false, true] {
        let config = busybox("c").label(profile.label());
        let c = rig.run(if privileged { config.privileged() } else { config });
        assert_eq!(label_of(first_pid(&c)), enforced);
        // By what a shell executes, and what that executes.
        let read = "sh -c 'cat /proc/self/attr/apparmor/current'";
        assert_eq!(sh(&c, read).1, enforced);
        let (code, said) = sh(&c, "cat /etc/passwd");
        assert!(code != 0 && said.contains("Permission denied"), "{said}");
        assert_eq!(sh(&c, "cat /etc/group > /dev/null").0, 0);
        // A program cannot take it off.
        assert_ne!(sh(&c, "echo 'changeprofile unconfined' > /proc/self/attr/apparmor/current").0, 0);
        assert_eq!(sh(&c, read).1, enforced);

        // The attack: a /proc in which the label goes into a file of the attacker's.
        let fake = "mount -t tmpfs none /proc && mkdir -p /proc/thread-self/attr/apparmor \
                    && : > /proc/thread-self/attr/apparmor/exec";
        assert_eq!(sh(&c, fake).0, 0);
        let sleep = || ExecOptions::new(["sleep", "1000"]).stdout(Stdio::Piped);
        let e = c.exec(sleep()).unwrap_err();
        assert!(e.errno() == Some(libc::EXDEV) && e.to_string().contains("/proc"), "{e}");
        let weak = c.exec(sleep().weaken(Weaken::Unverified)).unwrap();
        assert_eq!(label_of(weak.pid()), "unconfined", "weakened, the command has no label");
        end(c);
    }
    drop(profile);
    rig.end();
}
