//! The inits of Debian, and busybox's: each comes up, halts and reboots when it is asked from outside.
#![allow(clippy::print_stderr)]

mod rig;

use std::path::PathBuf;
use std::time::Duration;

use rig::{Rig, end, sh};
use stockade::Rootfs;
use stockade::container::{Container, ContainerConfig};
use stockade::instance::{RestartMode, RestartOptions, ShutdownOptions, Status};
use support::until;

/// How long any of them may take on a slow machine. What is tested is that the time-out is never needed.
const SOON: Duration = Duration::from_secs(30);

/// An init: what it is started by, from which roots, and how its first process is then called.
struct Init {
    name: &'static str,
    args: &'static [&'static str],
    layers: Vec<PathBuf>,
    comm: &'static str,
    /// What runs when it has come up.
    up: &'static str,
}

fn all() -> Result<Vec<Init>, String> {
    let (debian, inits) = (support::fixture("debian")?, support::fixture("inits")?);
    let busybox = support::fixture("busybox")?;
    let layer = |name: &str| vec![inits.join(name), debian.clone()];
    let init: &[&str] = &["/sbin/init"];
    let sysv = "test -p /run/initctl";
    Ok(vec![
        Init { name: "systemd", args: init, layers: vec![debian.clone()], comm: "systemd", up: "true" },
        Init { name: "busybox", args: init, layers: vec![busybox], comm: "init", up: "true" },
        Init { name: "sysvinit", args: init, layers: layer("sysvinit"), comm: "init", up: sysv },
        Init { name: "openrc-sysvinit", args: init, layers: layer("openrc"), comm: "init", up: sysv },
        Init {
            name: "openrc-init",
            args: &["/sbin/openrc-init"],
            layers: layer("openrc"),
            comm: "openrc-init",
            up: "test -d /run/openrc/started",
        },
        Init {
            name: "runit",
            args: init,
            layers: layer("runit"),
            comm: "runit",
            up: "test -e /run/runit.stopit",
        },
        Init {
            name: "s6",
            args: &["s6-svscan", "/service"],
            layers: layer("s6"),
            comm: "s6-svscan",
            up: "test -p /service/.s6-svscan/control",
        },
    ])
}

#[track_caller]
fn is_up(c: &Container, init: &Init) {
    until(SOON, init.name, || {
        let (code, comm) = sh(c, &format!("{} && cat /proc/1/comm", init.up));
        code == 0 && comm == init.comm
    });
}

/// From outside: a reboot into the next run, then a halt.
fn goes_through_its_life(rig: &Rig, init: &Init) {
    let config = ContainerConfig::system(init.name)
        .rootfs(Rootfs::overlay(init.layers.clone()))
        .args(init.args.iter().copied())
        .kill_on_drop();
    let c = rig.run(config);
    is_up(&c, init);
    let first = c.info().unwrap().pid;
    let log = || String::from_utf8_lossy(&c.console_log().unwrap()).into_owned();
    let mode = RestartMode::Graceful(SOON);
    c.restart_with(RestartOptions::new().deadline(SOON).mode(mode))
        .unwrap_or_else(|e| panic!("{e}\n{}", log()));
    assert_ne!(c.info().unwrap().pid, first);
    is_up(&c, init);
    c.shutdown_with(ShutdownOptions::new().deadline(SOON)).unwrap_or_else(|e| panic!("{e}\n{}", log()));
    assert_eq!(c.status(), Status::Stopped);
    let ended = c.info().unwrap().exit_status.unwrap();
    assert!(ended.is_halt(), "{}: {ended}\n{}", init.name, log());
    end(c);
}

#[test]
fn each_init_reboots_and_halts_from_outside() {
    let Some(rig) = Rig::new() else { return };
    let all = match all() {
        Ok(all) => all,
        Err(why) => {
            support::skip(why);
            return rig.end();
        }
    };
    for init in &all {
        let began = std::time::Instant::now();
        goes_through_its_life(&rig, init);
        eprintln!("{}: came up twice, rebooted, halted: {:.1} s", init.name, began.elapsed().as_secs_f32());
    }
    assert_eq!(all.len(), 7);
    rig.end();
}
