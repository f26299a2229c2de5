//! A whole Debian with systemd as its first process.
#![allow(clippy::print_stderr)]

mod rig;

use std::sync::Arc;
use std::time::Duration;

use rig::{Rig, end, sh};
use stockade::container::{Container, ContainerBuilder, ContainerConfig};
use stockade::instance::Status;
use stockade::{ExitStatus, Rootfs};
use support::{require_fixture, require_root, until};

/// How long a boot or an orderly end may take on a slow machine.
const SOON: Duration = Duration::from_secs(300);

fn debian(name: &str) -> ContainerBuilder {
    ContainerConfig::system(name)
        .rootfs(Rootfs::overlay([support::fixture("debian").unwrap()]))
        .kill_on_drop()
}

#[track_caller]
fn booted(c: &Container) {
    let mut last = String::new();
    until(SOON, "systemd has booted", || {
        last = sh(c, "systemctl is-system-running").1;
        ["running", "degraded"].contains(&last.trim())
    });
    let failed = sh(c, "systemctl --failed --no-legend").1;
    eprintln!("{last} {failed}");
    eprintln!("{}", sh(c, "cat /proc/self/mountinfo; cat /proc/1/environ | tr '\\0' '\\n'; cat /etc/machine-id /etc/hostname; ls -l /dev; ls -l /proc/1/fd; cat /proc/self/cgroup; ps axf").1);
    eprintln!("{}", String::from_utf8_lossy(&c.console_log().unwrap()));
    assert_eq!(last.trim(), "running", "{failed}");
}

#[test]
fn debian_boots() {
    let Some(rig) = Rig::new() else { return };
    let c = rig.run(debian("deb"));
    booted(&c);
    c.shutdown().unwrap();
    eprintln!("{}", String::from_utf8_lossy(&c.console_log().unwrap()));
    end(c);
    rig.end();
}
