//! Where the instances' cgroups go: what is delegated, the leaf for the host, and containers that make cgroups of their
//! own. What needs controllers of v2 runs in the lane, where the tests may change the tree.
#![allow(clippy::print_stderr, clippy::print_stdout)]

mod cgroup_util;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use cgroup_util::{Leaf, soon};
use stockade::cgroup::{Boundary, CgroupKind, Controller, Enforce, Hierarchy, Limit, Limits};
use stockade::container::{CgroupConfig, Container, ContainerBuilder, ContainerConfig};
use stockade::instance::{ExecOptions, Stdio};
use stockade::{ErrorKind, Placement, Rootfs, Runtime};
use support::{PrivateDirs, require_fixture, require_root};

const PART: &str = "STOCKADE_TEST_PART";

fn in_lane() -> bool {
    std::env::var_os("VM_LANE").is_some()
}

/// Runs the calling test again as a process of its own, in `cgroup`, by `sh -c "SETUP; exec TEST"` and as `uid`.
fn again(test: &str, part: &str, cgroup: &Path, uid: u32, setup: &str) -> String {
    let exe = std::env::current_exe().unwrap();
    let script = format!("echo $$ > {}/cgroup.procs || exit 9; {setup} exec \"$@\"", cgroup.display());
    let mut shell = Command::new("unshare");
    shell.args(["-m", "--propagation", "private", "sh", "-c", &script, "sh"]);
    if uid != 0 {
        // That of the caller may be his alone.
        shell.env_remove("TMPDIR");
        let ids = uid.to_string();
        shell.args(["setpriv", "--reuid", &ids, "--regid", &ids, "--clear-groups"]);
    }
    shell.arg(exe).args(["--exact", test, "--nocapture"]).env(PART, part).current_dir("/");
    let out = shell.output().unwrap();
    let text = String::from_utf8_lossy(&[out.stdout, out.stderr].concat()).into_owned();
    assert!(out.status.success() && text.contains("1 passed"), "{part}: {text}");
    text
}

fn part() -> Option<String> {
    std::env::var(PART).ok()
}

fn own_cgroup() -> String {
    let text = fs::read_to_string("/proc/self/cgroup").unwrap();
    text.lines().find_map(|l| l.strip_prefix("0::")).unwrap().to_owned()
}

fn read(path: impl AsRef<Path>) -> String {
    let path = path.as_ref();
    fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display())).trim().to_owned()
}

#[test]
fn the_report_ends_at_the_cgroup_and_is_printable() {
    let Some(mut leaf) = Leaf::new() else { return };
    let h = Hierarchy::detect().unwrap();
    let pid = leaf.run("exec sleep 1000");
    let found = h.delegation_of(&leaf).unwrap();
    let last = found.levels.last().unwrap();
    assert_eq!((&*last.path, last.kind, &*last.processes), (leaf.path(), CgroupKind::Domain, &[pid][..]));
    assert!(found.attainable().is_empty(), "{found}");
    assert_ne!(found.boundary, Boundary::None);
    let text = found.to_string();
    assert!(text.contains(leaf.path().to_str().unwrap()) && text.contains("instances can have: "), "{text}");
    let v1 = fs::read_to_string("/proc/cgroups").unwrap();
    let memory = v1.lines().find_map(|l| l.strip_prefix("memory\t")).unwrap();
    assert_eq!(found.held_by_v1.contains(&Controller::Memory), !memory.starts_with('0'), "{text}");
    eprintln!("{text}");
}

#[test]
fn a_mark_of_systemd_is_the_boundary() {
    let _serial = support::serial();
    require_root!();
    let Some(leaf) = Leaf::new() else { return };
    let below = leaf.create_child("below").unwrap();
    let h = Hierarchy::detect().unwrap();
    if let Err(e) =
        rustix::fs::setxattr(leaf.path(), "trusted.delegate", b"1", rustix::fs::XattrFlags::empty())
    {
        support::skip(format!("no attribute can be set on a cgroup: {e}"));
        return;
    }
    let found = h.delegation_of(&below).unwrap();
    assert_eq!(found.boundary, Boundary::Marked);
    let paths: Vec<&Path> = found.levels.iter().map(|l| &*l.path).collect();
    assert_eq!(paths, [leaf.path(), below.path()]);
}

#[test]
fn what_is_missing_is_named_with_its_owner_and_a_way_out() {
    let _serial = support::serial();
    let name = "what_is_missing_is_named_with_its_owner_and_a_way_out";
    let Some(part) = part() else {
        require_root!();
        let Some(leaf) = Leaf::new() else { return };
        again(name, "owner", leaf.path(), 65_534, "");
        let mount = Hierarchy::detect().unwrap().root().path().to_owned();
        let ro = format!("mount -o remount,bind,ro {} || exit 8;", mount.display());
        again(name, "read-only", leaf.path(), 0, &ro);
        // A cgroup that is gone while somebody holds it.
        let gone = leaf.create_child("gone").unwrap();
        gone.remove(soon()).unwrap();
        let h = Hierarchy::detect().unwrap();
        assert_eq!(h.delegation_of(&gone).unwrap_err().kind(), ErrorKind::NotFound);
        assert_eq!(gone.create_child("x").unwrap_err().kind(), ErrorKind::NotFound);
        // Members of a threaded subtree.
        fs::write(leaf.create_child("t").unwrap().path().join("cgroup.type"), "threaded").unwrap();
        let threaded = leaf.path().join("t");
        assert_eq!(h.open(&threaded).unwrap().kind().unwrap(), CgroupKind::Threaded);
        assert_eq!(leaf.kind().unwrap(), CgroupKind::ThreadedDomain);
        again(name, "threaded", leaf.path(), 0, "");
        return;
    };
    let h = Hierarchy::detect().unwrap();
    let found = h.delegation().unwrap();
    match &*part {
        "owner" => {
            assert_eq!(found.boundary, Boundary::None, "{found}");
            assert_eq!(found.attainable(), []);
            let e = h.own().create_child("x").unwrap_err();
            assert_eq!(e.kind(), ErrorKind::PermissionDenied);
            assert!(e.to_string().contains("belongs to user 0") && e.to_string().contains("/x"), "{e}");
            assert!(e.way_out().unwrap().contains("Delegate=yes"), "{e}");
            let all = h.own().controllers().unwrap();
            let wanted = all.first().copied().unwrap_or(Controller::Pids);
            let e = h.own().enable_controllers(&[wanted]).unwrap_err();
            assert_eq!(e.kind(), ErrorKind::PermissionDenied);
            let text = e.to_string();
            assert!(text.contains("cgroup.subtree_control") && text.contains("user 0"), "{e}");
            let dirs = support::private_dirs();
            let e = runtime(&dirs, Placement::OwnWithLeaf).unwrap_err();
            assert_eq!(e.kind(), ErrorKind::PermissionDenied, "{e}");
        }
        "read-only" => {
            assert!(found.read_only && found.boundary == Boundary::None, "{found}");
            let e = h.own().create_child("x").unwrap_err();
            assert_eq!(e.kind(), ErrorKind::PermissionDenied);
            assert!(e.way_out().unwrap().contains("mounted read-only"), "{e}");
        }
        "threaded" => {
            let dirs = support::private_dirs();
            let e = runtime(&dirs, Placement::OwnWithLeaf).unwrap_err();
            assert_eq!(e.kind(), ErrorKind::Unsupported);
            assert!(e.to_string().contains("threaded"), "{e}");
        }
        other => panic!("no part {other}"),
    }
}

fn runtime(dirs: &PrivateDirs, placement: Placement) -> stockade::Result<Runtime> {
    let builder = Runtime::builder().state_dir(dirs.state()).run_dir(dirs.run());
    builder.cgroup_placement(placement).open()
}

fn busybox(name: &str) -> ContainerBuilder {
    let root = support::fixture("busybox").unwrap();
    ContainerConfig::builder(name).ephemeral().rootfs(Rootfs::overlay([root])).args(["sleep", "1000"])
}

fn limits() -> Limits {
    let mut l = Limits::default();
    l.pids_max = Some(Limit::Value(50));
    l.memory_max = Some(Limit::Value(64 << 20));
    l
}

fn sh(c: &Container, script: &str) -> String {
    let options = ExecOptions::new(["sh", "-c", script]).stdout(Stdio::Piped).stderr(Stdio::Piped);
    let out = c.exec(options).unwrap().output().unwrap();
    let text = String::from_utf8_lossy(&[out.stdout, out.stderr].concat()).into_owned();
    assert_eq!(out.status.shell_code(), Some(0), "{script}: {text}");
    text
}

/// A container with limits that must hold where the controllers are there, and are reported where they are not.
fn start_limited(rt: &Runtime, config: ContainerBuilder) -> std::sync::Arc<Container> {
    let found = rt.delegation().unwrap();
    let has = [found.attainable(), found.through_v1].concat();
    let full = [Controller::Memory, Controller::Pids].iter().all(|c| has.contains(c));
    assert!(full || !in_lane(), "{}", rt.delegation().unwrap());
    let enforce = if full { Enforce::Required } else { Enforce::BestEffort };
    let c = rt.create(config.limits(limits()).enforce(enforce).build().unwrap()).unwrap();
    c.start().unwrap();
    let info = c.info().unwrap();
    if full {
        let kernel = Hierarchy::detect().unwrap().open(&info.cgroup.unwrap()).unwrap().limits().unwrap();
        assert_eq!((kernel.pids_max, kernel.memory_max), (limits().pids_max, limits().memory_max));
        assert!(info.skipped_limits.is_empty());
    } else {
        let skipped = info.skipped_limits;
        assert!(skipped.len() == 2 && skipped.iter().all(|s| s.contains("cgroup_no_v1")), "{skipped:?}");
    }
    eprintln!("limits: {}", if full { "set" } else { "reported as skipped" });
    c
}

#[test]
fn the_host_moves_into_a_leaf_only_when_asked_and_back() {
    let _serial = support::serial();
    let name = "the_host_moves_into_a_leaf_only_when_asked_and_back";
    if part().is_none() {
        require_root!();
        let _ = require_fixture!("busybox");
        // Two deep, so that controllers have a way to go.
        let Some(leaf) = Leaf::new() else { return };
        let deep = leaf.create_child("deep").unwrap();
        eprint!("{}", again(name, "move", deep.path(), 0, ""));
        assert!(deep.procs().unwrap().is_empty());
        return;
    }
    let dirs = support::private_dirs();
    let before = own_cgroup();
    let at = PathBuf::from(Hierarchy::detect().unwrap().own().path());
    {
        let rt = runtime(&dirs, Placement::Own).unwrap();
        assert_eq!(own_cgroup(), before, "moved without being asked");
        drop(rt);
    }
    // Somebody else is in it.
    let mut other = Command::new("sleep").arg("1000").spawn().unwrap();
    let e = runtime(&dirs, Placement::OwnWithLeaf).unwrap_err();
    other.kill().unwrap();
    other.wait().unwrap();
    assert_eq!(e.kind(), ErrorKind::InvalidState);
    assert!(e.to_string().contains(&format!("{} sleep", other.id())), "{e}");
    assert_eq!((own_cgroup(), at.join("stockade-host").exists()), (before.clone(), false));

    let rt = runtime(&dirs, Placement::OwnWithLeaf).unwrap();
    assert_eq!(own_cgroup(), format!("{before}/stockade-host"));
    assert_eq!(read(at.join("cgroup.procs")), "");
    let tasks = fs::read_dir("/proc/self/task").unwrap().count();
    assert_eq!(read(at.join("stockade-host/cgroup.threads")).lines().count(), tasks);
    // What it starts is beside it, and the containers beside the leaf, in a second runtime too.
    let second_dirs = support::private_dirs();
    let second = runtime(&second_dirs, Placement::OwnWithLeaf).unwrap();
    for rt in [&rt, &second] {
        let c = start_limited(rt, busybox("c"));
        assert_eq!(c.info().unwrap().cgroup.unwrap().parent().unwrap(), at);
        c.stop().unwrap();
    }
    second.close();
    assert_eq!(own_cgroup(), format!("{before}/stockade-host"), "the first still needs it");
    // While a container runs nothing can be undone.
    let c = start_limited(&rt, busybox("stays"));
    let stays = c.info().unwrap().cgroup.unwrap();
    drop(c);
    rt.close();
    assert_eq!(own_cgroup(), format!("{before}/stockade-host"));
    assert!(stays.exists());
    let rt = runtime(&dirs, Placement::OwnWithLeaf).unwrap();
    rt.container(&"stays".parse().unwrap()).unwrap().stop().unwrap();
    rt.close();
    assert_eq!(own_cgroup(), before, "moved back");
    assert!(!at.join("stockade-host").exists());
    assert_eq!(read(at.join("cgroup.subtree_control")), "");
}

/// As the kernel lists words: none is no line.
fn line(words: &str) -> String {
    if words.is_empty() { String::new() } else { format!("{words}\n") }
}

/// What a container's root tries on a cgroup of its own.
fn delegated(config: ContainerBuilder, kind: &str) {
    let dirs = support::private_dirs();
    let rt = runtime(&dirs, Placement::Own).unwrap();
    let c = start_limited(&rt, config.kill_on_drop().cgroup(CgroupConfig::Delegated));
    let leaf = c.info().unwrap().cgroup.unwrap();
    assert!(read(leaf.join("cgroup.procs")).is_empty());
    let given = read(leaf.join("payload/cgroup.controllers"));
    // Children, processes and controllers are its own.
    let text = sh(
        &c,
        "cd /sys/fs/cgroup && cat /proc/self/cgroup | grep ^0:: && mkdir init sub && echo 1 > init/cgroup.procs &&
         for c in $(cat cgroup.controllers); do echo +$c > cgroup.subtree_control || exit 5; done
         echo $$ > sub/cgroup.procs && cat sub/cgroup.controllers && cat /proc/1/cgroup | grep ^0::",
    );
    assert_eq!(text, format!("0::/stockade.exec\n{}0::/init\n", line(&given)), "{kind}");
    // Commands still find a place, now that its root may hold no process.
    assert_eq!(sh(&c, "grep ^0:: /proc/self/cgroup"), "0::/stockade.exec\n");
    // Whatever it writes, its limits are above what it sees.
    let limited = |file: &str| leaf.join(file).exists().then(|| read(leaf.join(file)));
    let before = ["pids.max", "memory.max"].map(limited);
    sh(
        &c,
        "cd /sys/fs/cgroup; for f in pids.max memory.max; do echo max > $f; echo max > ../$f; done 2> /dev/null
         mkdir /mnt/again; mount -t cgroup2 none /mnt/again && ls -d /mnt/again/sub && ! ls -d /mnt/again/payload
         for p in .. ../.. /mnt/again/.. /sys/fs; do echo $$ > $p/cgroup.procs; done 2> /dev/null; true",
    );
    assert_eq!(["pids.max", "memory.max"].map(limited), before);
    assert!(read(leaf.join("cgroup.procs")).is_empty(), "a process has left the payload's cgroup");
    let init: u32 = read(leaf.join("payload/init/cgroup.procs")).lines().count().try_into().unwrap();
    assert_eq!(init, 1);
    // Everything below goes with it.
    c.stop().unwrap();
    assert!(!leaf.exists());
    eprintln!("{kind}: delegated with `{given}`");
}

#[test]
fn a_container_with_an_init_makes_cgroups_below_limits_that_it_cannot_reach() {
    let _serial = support::serial();
    require_root!();
    let _ = require_fixture!("busybox");
    if in_lane() {
        // The machine is thrown away: it may have the option that systemd's hosts have.
        delegated(busybox("plain"), "user namespace");
        delegated(busybox("plain-p").privileged(), "privileged");
        let at = Hierarchy::detect().unwrap().root().path().to_owned();
        let set = Command::new("mount").args(["-o", "remount,nsdelegate"]).arg(&at).status().unwrap();
        assert!(set.success());
        assert!(Hierarchy::detect().unwrap().delegation().unwrap().nsdelegate);
    }
    delegated(busybox("d"), "user namespace");
    delegated(busybox("d-p").privileged(), "privileged");
}

#[test]
fn a_delegated_cgroup_needs_a_namespace_of_its_own() {
    use stockade::namespaces::{NamespaceKind, NamespaceSource};
    let config = ContainerConfig::builder("x")
        .rootfs(Rootfs::dir("/"))
        .cgroup(CgroupConfig::Delegated)
        .namespace(NamespaceKind::Cgroup, NamespaceSource::Host);
    let e = config.build().unwrap_err();
    assert!(e.to_string().contains("new cgroup namespace"), "{e}");
}

#[test]
fn controllers_come_down_the_way_and_stop_at_who_is_in_it() {
    let _serial = support::serial();
    require_root!();
    if !in_lane() {
        support::skip("only the lane's tree has controllers to hand down");
        return;
    }
    let Some(mut leaf) = Leaf::new() else { return };
    let middle = leaf.create_child("middle").unwrap();
    let end = middle.create_child("end").unwrap();
    let h = Hierarchy::detect().unwrap();
    assert!(!end.controllers().unwrap().contains(&Controller::Pids));
    h.enable_controllers_for(&end, &[Controller::Pids]).unwrap();
    assert_eq!(end.enabled_controllers().unwrap(), [Controller::Pids]);
    assert_eq!(end.create_child("x").unwrap().controllers().unwrap(), [Controller::Pids]);

    // A process on the way: what is enabled there goes on, what is not is refused and says who it is.
    let (blocked, below) = (leaf.create_child("blocked").unwrap(), "below");
    let below = blocked.create_child(below).unwrap();
    let pid = leaf.run_in(&blocked, "exec sleep 1000");
    let e = h.enable_controllers_for(&below, &[Controller::Memory]).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::InvalidState, "{e}");
    assert!(e.to_string().contains(&pid.to_string()), "{e}");
    assert!(e.what().unwrap().contains("blocked/cgroup.subtree_control"), "{e}");
    let found = h.delegation_of(&below).unwrap();
    assert_eq!(found.occupied().unwrap().processes, [pid]);
    assert!(!found.attainable().contains(&Controller::Memory), "{found}");
}
