//! Roots that do not boot, and inits that do not behave.

use std::time::Duration;

use stockade::container::{CgroupConfig, ContainerBuilder, InitRequest, Network, OnReboot, SystemConfig};
use stockade::instance::{AtDeadline, ExecOptions, ShutdownOptions, Status};
use stockade::process::User;
use stockade::{ErrorKind, ExitStatus, Signal};
use support::until;

use super::image::{Image, SOON, eprint};
use super::rig::{Rig, end, sh};

/// How long an init that does not end is waited for.
const SHORT: Duration = Duration::from_millis(300);

#[test]
fn a_root_without_a_usable_init_is_named() {
    let Some(rig) = Rig::new() else { return };
    for (image, kind) in [
        (Image::without_init(), ErrorKind::PayloadNotFound),
        (Image::linked("/nowhere/at/all"), ErrorKind::PayloadNotFound),
        (Image::linked("init"), ErrorKind::PayloadNotExecutable),
        (Image::linked("/etc/passwd"), ErrorKind::PayloadNotExecutable),
        (Image::linked("/etc"), ErrorKind::PayloadNotExecutable),
    ] {
        let c = rig.runtime.create(image.system("web").build().unwrap()).unwrap();
        let e = c.start().unwrap_err();
        assert_eq!(e.kind(), kind, "{e}");
        assert!(e.to_string().contains("/sbin/init"), "{e}");
        assert_eq!(c.status(), Status::Stopped);
        assert_eq!(c.console_log().unwrap(), b"");
        end(c);
    }
    rig.end();
}

#[test]
fn an_init_that_exits_at_once_is_seen_as_ended() {
    let Some(rig) = Rig::new() else { return };
    // The second leaves a process behind, which ends with it.
    for (script, code) in [("echo here; exit 3", 3), ("sleep 1000 & exit 0", 0)] {
        let image = Image::script(script);
        let c = rig.run(image.system("web"));
        assert_eq!(c.wait().unwrap(), ExitStatus::Exited(code));
        assert_eq!(c.status(), Status::Stopped);
        if code == 3 {
            assert_eq!(c.console_log().unwrap(), b"here\r\n");
        }
        end(c);
    }
    rig.end();
}

#[test]
fn an_init_that_does_not_end_runs_on_or_is_killed() {
    let Some(rig) = Rig::new() else { return };
    let all = "trap '' 1 2 3 10 12 15 30 37 38 39; ";
    for script in [
        "while :; do sleep 1; done".to_owned(),
        "while :; do :; done".to_owned(),
        format!("{all} while :; do sleep 1; done"),
        // Another program than the one that was executed, with a child from before.
        "sleep 1000 & exec sleep 1000".to_owned(),
    ] {
        let image = Image::script(&script);
        let c = rig.run(image.system("web"));
        let e = c.shutdown_with(ShutdownOptions::new().deadline(SHORT)).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::Timeout, "{script}: {e}");
        assert!(e.to_string().contains("SIG") && e.way_out().is_some(), "{e}");
        assert_eq!(c.status(), Status::Running, "{script}");
        assert_eq!(sh(&c, "echo still here").1, "still here");
        let kill = ShutdownOptions::new().deadline(SHORT).at_deadline(AtDeadline::Kill);
        c.shutdown_with(kill).unwrap();
        assert_eq!(c.status(), Status::Stopped);
        assert_eq!(c.info().unwrap().exit_status.and_then(ExitStatus::signal), Some(Signal::KILL));
        end(c);
    }
    rig.end();
}

#[test]
fn a_read_only_root_runs_what_can_live_with_it() {
    let Some(rig) = Rig::new() else { return };
    let image = Image::script("echo up; exec sleep 1000");
    std::fs::write(image.path().join("etc/hostname"), "of-the-image\n").unwrap();
    let c = rig.run(image.system("web").read_only_root());
    assert_ne!(sh(&c, "touch /x").0, 0);
    assert_eq!(
        sh(&c, "hostname; cat /etc/hostname; touch /dev/x /tmp/y; ls /dev/x").1.lines().next(),
        Some("web")
    );
    c.stop().unwrap();
    end(c);
    drop(image);
    rig.end();
}

#[test]
fn only_plain_files_of_the_root_get_name_and_number() {
    let Some(rig) = Rig::new() else { return };
    let image = Image::script("exec sleep 1000");
    let outside = image.path().parent().unwrap().join("outside");
    std::fs::write(&outside, "untouched").unwrap();
    std::fs::create_dir_all(image.path().join("var/lib/dbus")).unwrap();
    std::os::unix::fs::symlink(&outside, image.path().join("etc/machine-id")).unwrap();
    std::os::unix::fs::symlink("../../../etc/passwd", image.path().join("var/lib/dbus/machine-id")).unwrap();
    let fifo = image.path().join("etc/hostname");
    assert!(std::process::Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    let c = rig.run(image.system("web"));
    assert_eq!(std::fs::read_to_string(&outside).unwrap(), "untouched");
    assert!(sh(&c, "cat /etc/passwd").1.starts_with("root:"));
    c.stop().unwrap();
    end(c);
    drop(image);
    let image = Image::script("exec sleep 1000");
    for name in ["etc/hostname", "etc/machine-id"] {
        std::fs::write(image.path().join(name), "a much longer text than what comes in its place, twice\n")
            .unwrap();
    }
    let mut ids = Vec::new();
    for name in ["one", "two", "one"] {
        let c = rig.run(image.system(name));
        let (host, id) = (sh(&c, "cat /etc/hostname").1, sh(&c, "cat /etc/machine-id").1);
        assert_eq!((host.as_str(), id.len()), (name, 32));
        assert!(!ids.contains(&id), "{ids:?} {id}");
        c.restart().unwrap();
        assert_eq!(sh(&c, "cat /etc/machine-id").1, id);
        ids.push(id);
        end(c);
    }
    drop(image);
    rig.end();
}

#[test]
fn the_way_to_halt_can_be_named() {
    let Some(rig) = Rig::new() else { return };
    let script = "trap 'echo by signal; exec poweroff -f' USR1; while :; do sleep 0.01; done";
    let image = Image::script(script);
    for (n, halt) in [
        InitRequest::from(Signal::USR1),
        // Fails at first: it is tried again.
        InitRequest::exec(["sh", "-c", "test -e /tmp/again || { touch /tmp/again; exit 1; }; kill -USR1 1"]),
    ]
    .into_iter()
    .enumerate()
    {
        let system = SystemConfig::new().halt(halt);
        let c = rig.run(image.system("web").system_with(system));
        c.shutdown_with(ShutdownOptions::new().deadline(SOON)).unwrap();
        assert!(c.info().unwrap().exit_status.unwrap().is_halt());
        assert!(c.console_log().unwrap().ends_with(b"by signal\r\n"), "{n}");
        end(c);
    }
    let system = SystemConfig::new().halt(InitRequest::exec(["/no/such/program"]));
    let c = rig.run(image.system("web").system_with(system));
    assert_eq!(c.shutdown().unwrap_err().kind(), ErrorKind::PayloadNotFound);
    assert_eq!(c.status(), Status::Running);
    end(c);
    drop(image);
    rig.end();
}

#[test]
fn a_poweroff_ends_commands_that_run() {
    let Some(rig) = Rig::new() else { return };
    let image = Image::script("while :; do sleep 1; done");
    let mut ended = 0;
    for _ in 0..support::scaled(20) {
        let c = rig.run(image.system("web"));
        let long: Vec<_> = (0..3).map(|_| c.exec(ExecOptions::new(["sleep", "1000"])).unwrap()).collect();
        let off = c.exec(ExecOptions::new(["poweroff", "-f"])).unwrap();
        assert!(c.wait().unwrap().is_halt());
        for process in &long {
            let status = process.wait_timeout(SOON).unwrap().unwrap();
            assert_eq!(status.signal(), Some(Signal::KILL), "{status}");
            ended += 1;
        }
        // The one who calls reboot(2) comes to its end in it.
        assert!(off.wait_timeout(SOON).unwrap().is_some());
        let e = c.exec(ExecOptions::new(["true"])).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::InvalidState);
        end(c);
    }
    eprint(&format!("{ended} commands ended with their container"));
    drop(image);
    rig.end();
}

#[test]
fn what_a_system_container_cannot_do_without_is_said() {
    let _serial = support::serial();
    let base = || {
        let root = stockade::Rootfs::dir("/srv/x");
        stockade::container::ContainerConfig::system("web").rootfs(root)
    };
    let wrong: Vec<(ContainerBuilder, &str)> = vec![
        (base().privileged(), "user namespace"),
        (base().network(Network::Host), "network namespace"),
        (base().cgroup(CgroupConfig::Auto), "Delegated"),
        (base().user(User::new(1, 1)), "root"),
        (base().system_with(SystemConfig::new().ttys(64)), "system.ttys"),
        (base().system_with(SystemConfig::new().console_log(1 << 40)), "system.console_log"),
        (base().system_with(SystemConfig::new().halt(InitRequest::exec([""; 0]))), "system.halt"),
        (
            base().system_with(
                SystemConfig::new().on_reboot(OnReboot::Restart { most: 0, within: Duration::from_secs(1) }),
            ),
            "system.on_reboot",
        ),
    ];
    for (builder, word) in wrong {
        let e = builder.build().unwrap_err();
        assert!(e.to_string().contains(word), "{word}: {e}");
    }
    let config = base().build().unwrap();
    let text = serde_json::to_string(&config).unwrap();
    assert_eq!(serde_json::from_str::<stockade::container::ContainerConfig>(&text).unwrap(), config);
}

#[test]
fn a_container_that_is_none_has_no_console_and_no_reboots() {
    let Some(rig) = Rig::new() else { return };
    let c = rig.run(super::rig::busybox("web").args(["busybox", "reboot", "-f"]));
    assert!(c.wait().unwrap().is_reboot());
    until(SOON, "it stays stopped", || c.status() == Status::Stopped);
    assert_eq!(c.console_log().unwrap_err().kind(), ErrorKind::Unsupported);
    end(c);
    rig.end();
}
