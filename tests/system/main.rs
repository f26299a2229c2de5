//! System containers: a whole Debian with systemd, and inits that are not as they should be.

#[path = "../rig/mod.rs"]
mod rig;

mod bad;
mod console;
mod crash;
mod image;
mod reboot;

use std::sync::Arc;
use std::time::Duration;

use image::{Image, SOON, eprint};
use rig::{Rig, end, sh};
use stockade::container::{Container, ContainerBuilder, ContainerConfig};
use stockade::instance::{ExecOptions, RestartMode, RestartOptions, ShutdownOptions, Status};
use stockade::{ExitStatus, Rootfs};
use support::{scaled, until};

/// How often Debian boots, reboots and is shut down.
const ROUNDS: usize = 10;

/// `None`, with a loud reason, where there is no Debian with systemd.
fn debian() -> Option<(Rig, Image)> {
    let root = support::fixture("debian");
    match root {
        Ok(root) if root.join("lib/systemd/systemd").exists() => {}
        Ok(_) => {
            support::skip("the Debian root has no systemd: run `cargo xtask setup`");
            return None;
        }
        Err(why) => {
            support::skip(why);
            return None;
        }
    }
    let rig = Rig::new()?;
    Some((rig, Image::of("debian")))
}

fn system(name: &str, image: &Image) -> ContainerBuilder {
    ContainerConfig::system(name).rootfs(Rootfs::dir(image.path())).kill_on_drop()
}

/// Waits until systemd has booted, and fails where a unit has.
#[track_caller]
fn running(c: &Container) {
    let mut last = String::new();
    until(SOON, "systemd has booted", || {
        last = sh(c, "systemctl is-system-running").1;
        ["running", "degraded"].contains(&last.as_str())
    });
    assert_eq!(last, "running", "{}", sh(c, "systemctl --failed --no-legend --plain").1);
}

/// What must hold of every run.
#[track_caller]
fn is_as_it_should(c: &Container, machine_id: &str) {
    let mounts = sh(c, "cat /proc/1/mountinfo").1;
    let root = mounts.lines().find(|l| l.split(' ').nth(4) == Some("/")).unwrap();
    assert!(root.contains("idmapped"), "{root}");
    let sys = mounts.lines().find(|l| l.split(' ').nth(4) == Some("/proc/sys")).unwrap();
    assert!(sys.split(' ').nth(5).unwrap().starts_with("ro,"), "{sys}");
    let owners = sh(c, "stat -c %u:%g / /etc/passwd /usr/bin/sudo | sort -u; stat -c %a /usr/bin/sudo").1;
    assert_eq!(owners, "0:0\n4755");
    let name = c.id().name.clone();
    let who = sh(c, "hostname; cat /etc/hostname /etc/machine-id; cat /proc/1/comm; tty -s; echo $?").1;
    assert_eq!(who, format!("{name}\n{name}\n{machine_id}\nsystemd\n1"));
    assert_eq!(sh(c, "cat /proc/self/cgroup").1.lines().last().unwrap(), "0::/stockade.exec");
    let consoles = sh(c, "stat -c %t:%T /dev/console /dev/tty1 /dev/tty4 | tr '\\n' ' '").1;
    assert_eq!(consoles.trim(), "88:0 88:1 88:4");
}

fn boot_id(c: &Container) -> String {
    sh(c, "cat /proc/sys/kernel/random/boot_id").1
}

/// Boots, is looked at, reboots itself, and is shut down.
fn round(rig: &Rig, image: &Image, n: usize) {
    let c = rig.run(system(&format!("deb{n}"), image));
    // Half of them by a thread that waits, half by looks alone.
    let waiter = n.is_multiple_of(2).then(|| {
        let c = Arc::clone(&c);
        std::thread::spawn(move || c.wait().unwrap())
    });
    running(&c);
    let machine_id = sh(&c, "cat /etc/machine-id").1;
    assert_eq!(machine_id.len(), 32, "{machine_id}");
    is_as_it_should(&c, &machine_id);
    let (first, first_boot) = (c.info().unwrap().pid.unwrap(), boot_id(&c));

    c.exec(ExecOptions::new(["systemctl", "reboot"])).unwrap();
    until(SOON, "another first process", || {
        c.status() == Status::Running && c.info().unwrap().pid.is_some_and(|pid| pid != first)
    });
    running(&c);
    is_as_it_should(&c, &machine_id);
    assert_ne!(boot_id(&c), first_boot);

    let cgroup = c.info().unwrap().cgroup.unwrap();
    c.shutdown_with(ShutdownOptions::new().deadline(SOON)).unwrap();
    assert_eq!(c.status(), Status::Stopped);
    let ended = c.info().unwrap().exit_status.unwrap();
    assert!(ended.is_halt(), "{ended}");
    if let Some(waiter) = waiter {
        assert_eq!(waiter.join().unwrap(), ended);
    }
    assert!(!cgroup.exists(), "{}", cgroup.display());
    let log = String::from_utf8_lossy(&c.console_log().unwrap()).into_owned();
    assert!(log.contains("Reached target") && log.trim_end().ends_with("Halting system."), "{log}");
    end(c);
}

#[test]
fn debian_boots_reboots_and_halts_many_times_in_a_row() {
    let Some((rig, image)) = debian() else { return };
    let rounds = scaled(ROUNDS).max(3);
    for n in 0..rounds {
        round(&rig, &image, n);
    }
    eprint(&format!("{rounds} of {rounds}: running, rebooted from inside to running, halted, nothing left"));
    drop(image);
    rig.end();
}

#[test]
fn debian_is_restarted_by_its_own_reboot_and_powers_itself_off() {
    let Some((rig, image)) = debian() else { return };
    let c = rig.run(system("deb", &image));
    let supervisor = c.supervise().unwrap();
    // Before it listens to anything: asked when it does.
    let graceful = RestartOptions::new().deadline(SOON).mode(RestartMode::Graceful(SOON));
    let first = c.info().unwrap().pid;
    c.restart_with(graceful).unwrap();
    assert_ne!(c.info().unwrap().pid, first);
    running(&c);
    assert!(sh(&c, "journalctl --no-pager -b -1 2>/dev/null; true").0 == 0);
    // The run that was supervised has ended on purpose.
    until(SOON, "the thread has seen it", || supervisor.is_finished());
    assert!(supervisor.stop().unwrap().is_some_and(ExitStatus::is_reboot));
    let supervisor = c.supervise().unwrap();
    c.exec(ExecOptions::new(["systemctl", "poweroff"])).unwrap();
    until(SOON, "it is off", || supervisor.is_finished());
    assert!(supervisor.stop().unwrap().is_some_and(ExitStatus::is_halt));
    assert_eq!(c.status(), Status::Stopped);
    std::thread::sleep(Duration::from_millis(100));
    assert_eq!(c.status(), Status::Stopped);
    end(c);
    drop(image);
    rig.end();
}
