//! Life of a cgroup, with real processes: needs a writable cgroup v2, as root has it.
#![allow(clippy::print_stderr)]

mod cgroup_util;

use std::fs;
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use cgroup_util::{Leaf, soon};
use stockade::ErrorKind;
use stockade::cgroup::{Cgroup, Controller, Hierarchy};

/// How long the kernel may take for what it does by itself.
const SOON: Duration = Duration::from_secs(20);

fn short() -> Option<Instant> {
    Some(Instant::now() + Duration::from_millis(50))
}

/// State letter and CPU ticks of a process.
fn stat(pid: u32) -> (char, u64) {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let rest: Vec<&str> = text.rsplit_once(") ").unwrap().1.split(' ').collect();
    (rest[0].chars().next().unwrap(), rest[11].parse::<u64>().unwrap() + rest[12].parse::<u64>().unwrap())
}

/// Runs the test `name` again in a process of its own, as `uid`; `true` in that process.
fn alone(name: &str, uid: u32) -> bool {
    const MARK: &str = "STOCKADE_TEST_ALONE";
    if std::env::var_os(MARK).is_some() {
        return true;
    }
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", name, "--nocapture"]).env(MARK, "1").current_dir("/");
    if uid != 0 {
        command.uid(uid).gid(uid);
    }
    match command.output() {
        Ok(out) => {
            let text = String::from_utf8_lossy(&out.stdout) + String::from_utf8_lossy(&out.stderr);
            assert!(out.status.success() && text.contains("1 passed"), "{text}");
            std::io::Write::write_all(&mut std::io::stderr(), text.as_bytes()).unwrap();
        }
        Err(e) => support::skip(format!("the test program cannot be run as uid {uid}: {e}")),
    }
    false
}

#[test]
fn detect_finds_the_callers_own_cgroup() {
    let h = Hierarchy::detect().unwrap();
    let own = fs::read_to_string("/proc/self/cgroup").unwrap();
    let own = own.lines().find_map(|l| l.strip_prefix("0::/")).unwrap().to_owned();
    assert_eq!(
        h.own().path(),
        if own.is_empty() { h.root().path().to_owned() } else { h.root().path().join(own) }
    );
    assert!(h.own().procs().unwrap().contains(&std::process::id()));
    assert!(h.root().parent().unwrap().is_none());
}

#[test]
fn create_open_ids_and_names() {
    let Some(leaf) = Leaf::new() else { return };
    let h = Hierarchy::detect().unwrap();
    let name = leaf.name().unwrap().to_str().unwrap();

    let again = h.own().create_child(name).unwrap_err();
    assert_eq!(again.kind(), ErrorKind::AlreadyExists);
    assert!(again.to_string().contains(name), "{again}");
    for bad in ["a/b", "..", "cgroup.procs", ""] {
        assert_eq!(leaf.create_child(bad).unwrap_err().kind(), ErrorKind::InvalidConfig);
    }

    let opened = h.open(leaf.path()).unwrap();
    assert_eq!((opened.id().unwrap(), opened.name()), (leaf.id().unwrap(), leaf.name()));
    assert_eq!(h.own().open_child(name).unwrap().id().unwrap(), leaf.id().unwrap());
    let parent = leaf.parent().unwrap().unwrap();
    assert_eq!((parent.path(), parent.name()), (h.own().path(), h.own().name()));
    assert_eq!(parent.id().unwrap(), h.own().id().unwrap());

    for bad in [Path::new("/etc"), &h.root().path().join("a/../b"), h.root().path()] {
        assert_eq!(h.open(bad).unwrap_err().kind(), ErrorKind::InvalidConfig, "{}", bad.display());
    }
    assert_eq!(h.open(&leaf.path().join("none")).unwrap_err().kind(), ErrorKind::NotFound);

    let old = leaf.id().unwrap();
    leaf.remove(soon()).unwrap();
    assert_eq!(h.open(leaf.path()).unwrap_err().kind(), ErrorKind::NotFound);
    let new = h.own().create_child(name).unwrap();
    assert_ne!(new.id().unwrap(), old);
    new.remove(soon()).unwrap();
    new.remove(soon()).unwrap();
}

#[test]
fn a_removed_cgroup_is_empty_and_takes_no_more() {
    let Some(leaf) = Leaf::new() else { return };
    let watch = leaf.watch().unwrap();
    leaf.remove(soon()).unwrap();
    assert!(!watch.read().unwrap().populated);
    leaf.wait_empty(soon()).unwrap();
    assert_eq!(leaf.create_child("x").unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(leaf.kill().unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(leaf.freeze(soon()).unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(leaf.procs().unwrap_err().kind(), ErrorKind::NotFound);
}

#[test]
fn a_stale_handle_does_not_empty_a_namesake() {
    let Some(leaf) = Leaf::new() else { return };
    let h = Hierarchy::detect().unwrap();
    leaf.remove(soon()).unwrap();
    let namesake = h.own().create_child(leaf.name().unwrap().to_str().unwrap()).unwrap();
    let inner = namesake.create_child("inner").unwrap();
    leaf.remove(soon()).unwrap();
    assert_eq!(namesake.open_child("inner").unwrap().id().unwrap(), inner.id().unwrap());
    namesake.remove(soon()).unwrap();
}

#[test]
fn freeze_stops_and_thaw_lets_go() {
    let Some(mut leaf) = Leaf::new() else { return };
    let busy = leaf.run("while :; do :; done");
    let idle = leaf.run("exec sleep 60");
    let mut procs = leaf.procs().unwrap();
    procs.sort_unstable();
    let mut expected = [busy, idle];
    expected.sort_unstable();
    assert_eq!(procs, expected);
    support::until(SOON, "it runs", || stat(busy).0 == 'R');
    assert!(leaf.populated().unwrap() && !leaf.state().unwrap().frozen);

    leaf.freeze(soon()).unwrap();
    assert!(leaf.state().unwrap().frozen);
    let (state, ticks) = stat(busy);
    assert_ne!(state, 'R');
    std::thread::sleep(Duration::from_millis(100));
    assert_eq!(stat(busy), (state, ticks));
    leaf.freeze(soon()).unwrap();

    leaf.thaw(soon()).unwrap();
    assert!(!leaf.state().unwrap().frozen);
    support::until(SOON, "it goes on", || stat(busy).1 > ticks);
    leaf.thaw(soon()).unwrap();

    leaf.freeze(soon()).unwrap();
    leaf.kill().unwrap();
    leaf.wait_empty(soon()).unwrap();
    assert!(!leaf.populated().unwrap());
}

#[test]
fn a_freeze_that_comes_too_late_is_taken_back() {
    let Some(mut leaf) = Leaf::new() else { return };
    for _ in 0..3 {
        leaf.run("while :; do :; done");
    }
    let wish = || fs::read_to_string(leaf.path().join("cgroup.freeze")).unwrap();
    support::until(SOON, "it is frozen", || match leaf.freeze(Some(Instant::now())) {
        // All three may have stopped by the first look.
        Ok(()) => {
            assert_eq!(wish(), "1\n");
            leaf.thaw(soon()).unwrap();
            false
        }
        Err(e) => {
            assert_eq!((e.kind(), wish().as_str()), (ErrorKind::Timeout, "0\n"));
            true
        }
    });
    leaf.thaw(soon()).unwrap();
}

#[test]
fn an_empty_cgroup_freezes_too() {
    let Some(leaf) = Leaf::new() else { return };
    leaf.freeze(soon()).unwrap();
    leaf.thaw(soon()).unwrap();
}

#[test]
fn a_child_of_a_frozen_cgroup_cannot_be_thawed() {
    let Some(leaf) = Leaf::new() else { return };
    let child = leaf.create_child("child").unwrap();
    leaf.freeze(soon()).unwrap();
    let err = child.thaw(short()).unwrap_err();
    assert_eq!(err.kind(), ErrorKind::Timeout);
    assert!(err.to_string().contains("ancestor"), "{err}");
    leaf.thaw(soon()).unwrap();
    child.thaw(soon()).unwrap();
}

#[test]
fn a_populated_cgroup_is_not_removed_and_the_error_says_who_is_in_it() {
    let Some(mut leaf) = Leaf::new() else { return };
    let pid = leaf.run("exec sleep 60");
    for err in [leaf.remove(short()).unwrap_err(), leaf.wait_empty(short()).unwrap_err()] {
        assert_eq!(err.kind(), ErrorKind::Timeout);
        assert!(err.to_string().contains(&pid.to_string()), "{err}");
    }
    assert!(leaf.populated().unwrap());
    leaf.kill().unwrap();
    leaf.remove(soon()).unwrap();
    assert!(!leaf.path().exists());
}

#[test]
fn remove_waits_for_a_process_that_ends_by_itself() {
    let Some(mut leaf) = Leaf::new() else { return };
    leaf.run("exec sleep 0.1");
    leaf.remove(soon()).unwrap();
    assert!(!leaf.path().exists());
}

#[test]
fn remove_takes_nested_children_with_it_even_with_a_spent_deadline() {
    let Some(mut leaf) = Leaf::new() else { return };
    for (a, b) in [("init.scope", "x"), ("system.slice", "dbus.service"), ("system.slice", "cron.service")] {
        let a = leaf.create_child(a).or_else(|_| leaf.open_child(a)).unwrap();
        a.create_child(b).unwrap();
    }
    let deep = leaf.open_child("system.slice").unwrap().open_child("cron.service").unwrap();
    leaf.run_in(&deep, "exec sleep 60");
    assert!(leaf.procs().unwrap().is_empty());
    let err = leaf.remove(short()).unwrap_err();
    assert_eq!(err.kind(), ErrorKind::Timeout);
    assert!(err.to_string().contains("child cgroups"), "{err}");

    leaf.kill().unwrap();
    leaf.wait_empty(soon()).unwrap();
    leaf.remove(Some(Instant::now())).unwrap();
    assert!(!leaf.path().exists());
}

#[test]
fn a_deep_tree_is_removed_with_few_descriptors() {
    if !alone("a_deep_tree_is_removed_with_few_descriptors", 0) {
        return;
    }
    let Some(leaf) = Leaf::new() else { return };
    let mut at: Cgroup = leaf.create_child("deep").unwrap();
    for _ in 0..200 {
        at = at.create_child("d").unwrap();
    }
    let open = fs::read_dir("/proc/self/fd").unwrap().count() as u64;
    let limit = rustix::process::Rlimit { current: Some(open + 8), maximum: Some(open + 8) };
    rustix::process::setrlimit(rustix::process::Resource::Nofile, limit).unwrap();
    leaf.remove(soon()).unwrap();
    assert!(!leaf.path().exists());
}

#[test]
fn a_thousand_cycles_leak_no_descriptor() {
    if !alone("a_thousand_cycles_leak_no_descriptor", 0) {
        return;
    }
    let h = Hierarchy::detect().unwrap();
    let name = format!("stockade-test-{}-cycle", std::process::id());
    match h.own().create_child(&name) {
        Ok(c) => c.remove(soon()).unwrap(),
        Err(e) => return support::skip(format!("no cgroup can be made here: {e}")),
    }
    let count = || fs::read_dir("/proc/self/fd").unwrap().count();
    let before = count();
    for n in 0..support::scaled(1000) {
        let c = h.own().create_child(&name).unwrap();
        assert!(c.create_child(&name).and_then(|i| i.open_child("none")).is_err());
        if n % 2 == 0 {
            c.open_child(&name).unwrap().remove(soon()).unwrap();
        }
        c.state().unwrap();
        c.remove(soon()).unwrap();
    }
    assert_eq!(count(), before);
}

#[test]
fn an_ordinary_user_can_look_but_not_make() {
    if !rustix::process::geteuid().is_root() && std::env::var_os("STOCKADE_TEST_ALONE").is_none() {
        support::skip("becoming an ordinary user needs root");
        return;
    }
    if !alone("an_ordinary_user_can_look_but_not_make", 65534) {
        return;
    }
    assert!(!rustix::process::geteuid().is_root());
    let h = Hierarchy::detect().unwrap();
    let err = h.own().create_child("stockade-test-user").unwrap_err();
    assert_eq!(err.kind(), ErrorKind::PermissionDenied);
    assert!(err.way_out().unwrap().contains("Delegate=yes"), "{err}");
    h.own().controllers().unwrap();
}

#[test]
fn a_delegated_cgroup_belongs_to_its_new_owner() {
    use std::os::unix::fs::MetadataExt;
    let Some(leaf) = Leaf::new() else { return };
    let owner = |file: &str| fs::metadata(leaf.path().join(file)).map(|m| (m.uid(), m.gid())).unwrap();
    leaf.delegate(100_000, 100_001).unwrap();
    for file in ["", "cgroup.procs", "cgroup.subtree_control", "cgroup.threads"] {
        assert_eq!(owner(file), (100_000, 100_001), "{file}");
    }
    for file in ["cgroup.freeze", "cgroup.kill", "cgroup.max.depth"] {
        assert_eq!(owner(file), (0, 0), "{file}");
    }
    assert_eq!(leaf.delegate(u32::MAX, 0).unwrap_err().kind(), ErrorKind::InvalidConfig);
}

#[test]
fn the_descriptor_is_a_close_on_exec_directory() {
    let Some(leaf) = Leaf::new() else { return };
    let flags = rustix::io::fcntl_getfd(leaf.as_fd()).unwrap();
    assert!(flags.contains(rustix::io::FdFlags::CLOEXEC));
    assert!(rustix::fs::fcntl_getfl(leaf.as_fd()).unwrap().contains(rustix::fs::OFlags::PATH));
}

#[test]
fn a_controller_that_the_cgroup_lacks_is_not_enabled() {
    let Some(leaf) = Leaf::new() else { return };
    let has = leaf.controllers().unwrap();
    let Some(lacking) = Controller::ALL.into_iter().find(|c| !has.contains(c)) else {
        support::skip("the cgroup has every controller");
        return;
    };
    let err = leaf.enable_controllers(&[lacking]).unwrap_err();
    assert_eq!(err.kind(), ErrorKind::Unsupported, "{err}");
    assert!(err.to_string().contains("subtree_control"), "{err}");
    leaf.enable_controllers(&[]).unwrap();
}
