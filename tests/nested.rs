//! Two levels: a Debian with systemd in a Debian with systemd, each in a user namespace of its own. The runtime that starts
//! the inner one is this test program, run inside the outer one.
#![allow(clippy::print_stderr, clippy::print_stdout)]

mod rig;

use std::fs;
use std::time::Duration;

use rig::{Rig, end, sh};
use stockade::container::{Container, ContainerConfig, Mount, Nesting, SystemConfig};
use stockade::idmap::IdMap;
use stockade::instance::{ExecOptions, ShutdownOptions, Status, Stdio};
use stockade::{Rootfs, Runtime};
use support::until;

const SOON: Duration = Duration::from_secs(300);
/// Which part of the test this process is to be.
const PART: &str = "STOCKADE_TEST_PART";
const INSIDE: &str = "the_inner_part";

#[track_caller]
fn running(c: &Container) {
    let mut last = String::new();
    until(SOON, "systemd has booted", || {
        last = sh(c, "systemctl is-system-running").1;
        ["running", "degraded"].contains(&last.as_str())
    });
    assert_eq!(last, "running", "{}", sh(c, "systemctl --failed --no-legend --plain").1);
}

#[test]
fn systemd_runs_in_systemd() {
    if std::env::var_os(PART).is_some() {
        return;
    }
    let Some(rig) = Rig::new() else { return };
    let debian = match support::fixture("debian") {
        Ok(root) => root,
        Err(why) => {
            support::skip(why);
            return rig.end();
        }
    };
    let exe = std::env::current_exe().unwrap();
    let config = ContainerConfig::system("outer")
        .system_with(SystemConfig::new().nesting(Nesting::Allow))
        .rootfs(Rootfs::overlay([&debian]))
        .mount(Mount::bind(exe.parent().unwrap(), "/srv/test").read_only())
        .mount(Mount::bind(&debian, "/srv/debian").idmapped().suid().read_only())
        .kill_on_drop();
    let outer = rig.run(config);
    running(&outer);
    // A file system of the container's own: the kernel lets it map ids of no other.
    let made = sh(
        &outer,
        "mkdir -p /srv/inner && mount -t tmpfs -o mode=755 inner /srv/inner && cp -a /srv/debian/. /srv/inner/",
    );
    assert_eq!(made.0, 0, "{}", made.1);
    let (code, text) = sh(&outer, "unshare -Urmpf --mount-proc true; echo $?");
    assert_eq!((code, text.as_str()), (0, "0"), "another user namespace can mount proc");

    let exe = format!("/srv/test/{}", exe.file_name().unwrap().to_str().unwrap());
    let options = ExecOptions::new([exe.as_str(), "--exact", INSIDE, "--nocapture", "--test-threads=1"])
        .env(PART, "inside")
        .stdout(Stdio::Piped)
        .stderr(Stdio::Piped);
    let out = outer.exec(options).unwrap().output().unwrap();
    let text = String::from_utf8_lossy(&[out.stdout, out.stderr].concat()).into_owned();
    eprint!("{text}");
    assert!(out.status.success() && text.contains("inner: halted"), "{text}");
    outer.shutdown_with(ShutdownOptions::new().deadline(SOON)).unwrap();
    end(outer);
    rig.end();
}

/// The part inside; alone it has nothing to do.
#[test]
fn the_inner_part() {
    if std::env::var_os(PART).is_none() {
        return;
    }
    let dirs = support::private_dirs();
    let cgroup = "/sys/fs/cgroup/inner";
    fs::create_dir(cgroup).unwrap();
    {
        let rt =
            Runtime::builder().state_dir(dirs.state()).run_dir(dirs.run()).cgroup(cgroup).open().unwrap();
        let config = ContainerConfig::system("inner")
            .rootfs(Rootfs::dir("/srv/inner"))
            .idmap(IdMap::range(1000, 60_000).unwrap())
            .kill_on_drop();
        let inner = rt.create(config.build().unwrap()).unwrap();
        inner.start().unwrap();
        running(&inner);
        println!("inner: running");
        assert_eq!(
            sh(&inner, "cat /proc/self/uid_map").1.split_whitespace().collect::<Vec<_>>(),
            ["0", "1000", "60000"]
        );
        assert_eq!(sh(&inner, "stat -c %u /").1, "0");
        let first = inner.info().unwrap().pid;
        inner.exec(ExecOptions::new(["systemctl", "reboot"])).unwrap();
        until(SOON, "another first process", || {
            inner.status() == Status::Running && inner.info().unwrap().pid != first
        });
        running(&inner);
        println!("inner: rebooted to running");
        inner.shutdown_with(ShutdownOptions::new().deadline(SOON)).unwrap();
        inner.delete().unwrap();
    }
    fs::remove_dir(cgroup).unwrap();
    println!("inner: halted");
}
