//! The same container on hosts that show v1 alone, both, or v2 alone: views made in mount namespaces of their own.

use std::path::Path;
use std::time::Duration;

use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use stockade::ErrorKind;
use stockade::cgroup::{Enforce, Hierarchy, Limit, Limits};
use stockade::instance::{ExecOptions, KillOptions, KillTarget, Status};

use crate::again;
use crate::host::{group_of, limits_of, own_group, procs, read};
use crate::rig::{Rig, busybox, end, sh};

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum View {
    V1Only,
    /// v1 and v2, but not the hierarchy of systemd.
    NoNamed,
    Hybrid,
    V2Only,
}

const TREE: &str = "/sys/fs/cgroup";

/// Changes what the mount namespace, which is this process's own, shows.
fn show(view: View) {
    match view {
        View::Hybrid => {}
        View::NoNamed => unmount(Path::new(TREE).join("systemd"), UnmountFlags::DETACH).unwrap(),
        View::V1Only => unmount(Path::new(TREE).join("unified"), UnmountFlags::DETACH).unwrap(),
        View::V2Only => {
            unmount(TREE, UnmountFlags::DETACH).unwrap();
            mount("cgroup2", TREE, "cgroup2", MountFlags::empty(), None).unwrap();
        }
    }
}

/// Runs the test `name` again, in a mount namespace of its own. `true` in that process.
pub(crate) fn in_view(name: &str, view: View) -> bool {
    if again::role().is_some() {
        show(view);
        return true;
    }
    let lacking = support::privilege().err();
    let v1 = own_group("pids").is_some() && Path::new(TREE).join("unified/cgroup.procs").exists();
    let lacking = lacking.or_else(|| (!v1).then(|| "needs a host with v1 and, beside it, v2".into()));
    if let Some(why) = lacking {
        support::skip(why);
        return false;
    }
    let _serial = support::serial();
    let mut command = again::command(&["unshare", "-m", "--propagation", "private"], name, "viewer");
    assert!(command.status().unwrap().success());
    false
}

fn whole_life(v2_path: &str) {
    let Some(rig) = Rig::new() else { return };
    let c = rig.run(busybox("viewed").limits(Limits::new().pids_max(16)));
    let at = c.info().unwrap().cgroup.unwrap();
    assert!(at.starts_with(v2_path), "{}", at.display());
    let group = group_of(&c, "pids");
    assert_eq!((read(&group, "pids.max"), limits_of(&c).pids_max), ("16".to_owned(), Some(Limit::Value(16))));
    let command = c.exec(ExecOptions::new(["sh", "-c", "while :; do :; done"])).unwrap();
    let first = c.info().unwrap().pid.unwrap();
    let mut inside = procs(&group);
    inside.sort_unstable();
    let mut both = [first, command.pid()];
    both.sort_unstable();
    assert_eq!(inside, both);
    assert!(sh(&c, "cat /proc/self/cgroup").1.lines().any(|l| l.ends_with(":pids:/")));

    let used = || c.stats().unwrap().cpu.unwrap().usage;
    support::until(Duration::from_secs(10), "it runs", || used() > Duration::from_millis(20));
    c.freeze().unwrap();
    assert_eq!(c.status(), Status::Frozen);
    let then = used();
    std::thread::sleep(Duration::from_millis(100));
    assert_eq!(used(), then);
    c.update(Limits::new().pids_max(17)).unwrap();
    assert_eq!(read(&group, "pids.max"), "17");
    c.unfreeze().unwrap();
    support::until(Duration::from_secs(10), "it goes on", || used() > then);
    let mut events = c.resource_events().unwrap();
    c.kill(KillOptions::new(stockade::Signal::KILL).target(KillTarget::All)).unwrap();
    support::until(Duration::from_secs(10), "its end", || c.status() == Status::Stopped);
    assert_eq!(command.wait().unwrap().shell_code(), Some(137));
    drop(command);
    while events.try_next().is_ok_and(|e| e.is_some()) {}
    drop(events);
    assert!(!group.exists());
    end(c);
    rig.end();
}

#[test]
fn v1_alone() {
    if in_view("views::v1_alone", View::V1Only) {
        assert!(!Path::new(TREE).join("unified/cgroup.procs").exists());
        whole_life("cgroup2:");
        println!("covered: limits, commands, freezing, killing with v1 alone mounted");
    }
}

#[test]
fn v1_beside_v2() {
    if in_view("views::v1_beside_v2", View::Hybrid) {
        whole_life("/sys/fs/cgroup/unified");
        println!("covered: the same with both mounted");
    }
}

#[test]
fn v2_alone_says_who_holds_the_controller() {
    if !in_view("views::v2_alone_says_who_holds_the_controller", View::V2Only) {
        return;
    }
    let Some(rig) = Rig::new() else { return };
    assert!(Hierarchy::detect().unwrap().delegation().unwrap().through_v1.is_empty());
    let config = || busybox("plain").limits(Limits::new().pids_max(16));
    let c = rig.runtime.create(config().build().unwrap()).unwrap();
    let e = c.start().unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Unsupported, "{e}");
    assert!(e.way_out().is_some_and(|hint| hint.contains("mount the v1 hierarchy")), "{e}");
    end(c);
    let c = rig.run(config().enforce(Enforce::BestEffort));
    let skipped = c.info().unwrap().skipped_limits;
    assert!(skipped.len() == 1 && skipped[0].starts_with("pids.max"), "{skipped:?}");
    c.freeze().unwrap();
    c.unfreeze().unwrap();
    end(c);
    rig.end();
}

#[test]
fn v1_alone_without_the_right_to_mount_is_an_error_that_says_so() {
    let name = "views::v1_alone_without_the_right_to_mount_is_an_error_that_says_so";
    if again::role().is_some() {
        let e = Hierarchy::detect().unwrap_err();
        assert_eq!(e.kind(), ErrorKind::PermissionDenied, "{e}");
        assert!(e.way_out().is_some_and(|hint| hint.contains("mount one on /sys/fs/cgroup/unified")), "{e}");
        // A runtime is opened all the same, for instances that want no cgroup.
        let dirs = support::private_dirs();
        let runtime =
            stockade::Runtime::builder().state_dir(dirs.state()).run_dir(dirs.run()).open().unwrap();
        let e = runtime.delegation().unwrap_err();
        assert!(e.to_string().contains("mount the cgroup v2 tree"), "{e}");
        runtime.close();
        return;
    }
    if let Some(why) = support::privilege().err() {
        return support::skip(why);
    }
    let has_v2 = Path::new(TREE).join("unified/cgroup.procs").exists();
    support::require!(has_v2, "needs a host with v1 and, beside it, v2");
    let script = format!(r#"umount {TREE}/unified && exec setpriv --bounding-set -sys_admin "$@""#);
    let around = ["unshare", "-m", "--propagation", "private", "sh", "-c", &script, "sh"];
    assert!(again::command(&around, name, "no right").status().unwrap().success());
}
