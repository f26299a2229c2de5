//! Scopes of systemd's, asked of a real one: Debian's, booted as a container. The runtime that asks is another, in a
//! process of this test program inside.
#![allow(clippy::print_stderr, clippy::print_stdout)]

use std::fs;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use stockade::cgroup::{Boundary, Controller, Enforce, Limit, Limits};
use stockade::container::{CgroupConfig, ContainerConfig, Mount};
use stockade::instance::{ExecOptions, Stdio};
use stockade::{ErrorKind, Placement, Rootfs, Runtime, SystemdScope};
use support::{HostSnapshot, PrivateDirs, require_fixture, require_root, until};

/// Which part of a test this process is to be.
const PART: &str = "STOCKADE_TEST_PART";
/// How long a boot, and a job of systemd's, may take in a slow machine.
const SOON: Duration = Duration::from_secs(180);
const SCOPE: &str = "stockade-test.scope";

fn part() -> Option<String> {
    std::env::var(PART).ok()
}

fn open(dirs: &PrivateDirs, scope: SystemdScope) -> stockade::Result<Runtime> {
    let runtime = Runtime::builder().state_dir(dirs.state()).run_dir(dirs.run());
    runtime.cgroup_placement(Placement::SystemdScope(scope)).open()
}

fn threads() -> Vec<String> {
    let tasks = fs::read_dir("/proc/self/task").unwrap();
    let mut all: Vec<String> =
        tasks.flatten().filter_map(|t| fs::read_to_string(t.path().join("comm")).ok()).collect();
    all.sort();
    all
}

/// A thread that was joined is still listed for a moment, while the kernel takes it apart.
#[track_caller]
fn assert_as_before(threads_before: &[String], fds_before: usize) {
    until(SOON, "the thread of the call is gone", || threads() == threads_before);
    assert_eq!(descriptors(), fds_before);
}

fn descriptors() -> usize {
    fs::read_dir("/proc/self/fd").unwrap().count()
}

#[test]
fn a_booted_debian_gives_a_scope_that_holds_containers_and_goes() {
    let _serial = support::serial();
    require_root!();
    let debian = require_fixture!("debian");
    let busybox = require_fixture!("busybox");
    if !debian.join("lib/systemd/systemd").exists() {
        support::skip("the Debian root has no systemd: run `cargo xtask setup`");
        return;
    }
    let before = HostSnapshot::take();
    let dirs = support::private_dirs();
    let exe = std::env::current_exe().unwrap();
    {
        let rt = Runtime::builder().state_dir(dirs.state()).run_dir(dirs.run()).open().unwrap();
        let config = ContainerConfig::builder("boot")
            .ephemeral()
            .kill_on_drop()
            .rootfs(Rootfs::overlay([debian]))
            .args(["/lib/systemd/systemd"])
            .cgroup(CgroupConfig::Delegated)
            // What is hidden in proc would keep the containers inside from mounting their own.
            .masked_paths::<[&str; 0]>([])
            .readonly_paths::<[&str; 0]>([])
            .mount(Mount::bind(exe.parent().unwrap(), "/srv/test").read_only())
            .mount(Mount::bind(&busybox, "/srv/busybox").read_only())
            .build()
            .unwrap();
        let boot = rt.create(config).unwrap();
        boot.start().unwrap();
        let run = |args: &[&str]| {
            let options = ExecOptions::new(args.iter().copied())
                .env(PART, "inside")
                .stdout(Stdio::Piped)
                .stderr(Stdio::Piped)
                .deadline(SOON);
            let out = boot.exec(options).unwrap().output().unwrap();
            let text = String::from_utf8_lossy(&[out.stdout, out.stderr].concat()).into_owned();
            (out.status.shell_code(), text)
        };
        let mut last = String::new();
        until(SOON, "systemd has booted", || {
            last = run(&["systemctl", "is-system-running"]).1;
            ["running", "degraded"].contains(&last.trim())
        });
        eprintln!("systemd is {}", last.trim());

        let exe = format!("/srv/test/{}", exe.file_name().unwrap().to_str().unwrap());
        let name = "a_runtime_in_a_scope_of_systemd";
        let (status, text) = run(&[&exe, "--exact", name, "--nocapture", "--test-threads=1"]);
        eprint!("{text}");
        assert_eq!(status, Some(0), "{text}");
        assert!(text.contains("1 passed") && text.contains("scope: gone"), "{text}");
        boot.stop().unwrap();
    }
    before.assert_unchanged();
}

fn systemctl(args: &[&str]) -> String {
    let Output { stdout, stderr, .. } = Command::new("systemctl").args(args).output().unwrap();
    String::from_utf8_lossy(&[stdout, stderr].concat()).into_owned()
}

fn property(name: &str) -> String {
    systemctl(&["show", "--value", "-p", name, SCOPE]).trim().to_owned()
}

/// The part inside; alone it has nothing to do.
#[test]
fn a_runtime_in_a_scope_of_systemd() {
    let _serial = support::serial();
    if part().as_deref() != Some("inside") {
        return;
    }
    let dirs = support::private_dirs();
    let (threads_before, fds_before) = (threads(), descriptors());
    let scope = || SystemdScope::new().name(SCOPE).slice("machine.slice").deadline(SOON);
    let rt = open(&dirs, scope()).unwrap();
    until(SOON, "the thread of the call is gone", || threads() == threads_before);
    let delegation = rt.delegation().unwrap();
    println!("{delegation}");
    assert!([Boundary::Marked, Boundary::Root].contains(&delegation.boundary), "{delegation}");
    assert_eq!(
        ["ActiveState", "Delegate", "Slice"].map(property),
        ["active", "yes", "machine.slice"].map(str::to_owned)
    );
    let cgroup = Path::new("/sys/fs/cgroup").join(property("ControlGroup").trim_start_matches('/'));
    assert!(cgroup.join("stockade-keeper").is_dir(), "{}", cgroup.display());

    let attainable = delegation.attainable();
    let mut limits = Limits::default();
    limits.pids_max = Some(Limit::Value(20));
    let config = ContainerConfig::builder("web")
        .ephemeral()
        .kill_on_drop()
        .rootfs(Rootfs::dir("/srv/busybox"))
        .read_only_root()
        .args(["sleep", "12345"])
        .limits(limits)
        .enforce(if attainable.contains(&Controller::Pids) { Enforce::Required } else { Enforce::BestEffort })
        .build()
        .unwrap();
    let web = rt.create(config).unwrap();
    web.start().unwrap();
    let leaf = web.info().unwrap().cgroup.unwrap();
    assert!(leaf.starts_with(&cgroup), "{leaf:?}");
    if attainable.contains(&Controller::Pids) {
        assert_eq!(fs::read_to_string(leaf.join("pids.max")).unwrap(), "20\n");
        println!("limit: pids.max 20");
    } else {
        let skipped = web.info().unwrap().skipped_limits;
        assert!(skipped.iter().any(|s| s.contains("pids.max")), "{skipped:?}");
        println!("limit: skipped, {skipped:?}");
    }
    let status = systemctl(&["status", "--no-pager", SCOPE]);
    println!("{status}");
    assert!(status.contains("sleep 12345") && status.contains("stockade-keeper"), "{status}");

    // Another runtime of the same scope, as after a crash of this one.
    let other = support::private_dirs();
    let again = open(&other, scope()).unwrap();
    assert_eq!(again.delegation().unwrap().levels.last().unwrap().path, cgroup);
    again.close();
    assert_eq!(property("ActiveState"), "active");

    // One that is not delegated is nobody's to use; one that is systemd's own is refused.
    let mut plain = Command::new("systemd-run");
    plain.args(["--quiet", "--scope", "--unit=plain", "--slice=machine.slice", "sleep", "1000"]);
    let mut plain = plain.spawn().unwrap();
    until(SOON, "the other scope", || systemctl(&["is-active", "plain.scope"]).trim() == "active");
    let text = |e: &stockade::Error| format!("{e} {:?}", std::error::Error::source(e));
    let e = open(&other, scope().name("plain.scope")).unwrap_err();
    assert!(text(&e).contains("not delegated"), "{e:?}");
    assert_eq!(e.kind(), ErrorKind::InvalidState);
    plain.kill().unwrap();
    plain.wait().unwrap();
    let e = open(&other, scope().name("init.scope")).unwrap_err();
    assert!(e.kind() == ErrorKind::InvalidConfig && text(&e).contains("init.scope"), "{e:?}");

    web.stop().unwrap();
    drop(web);
    rt.close();
    until(SOON, "the scope is gone", || property("ActiveState") == "inactive" && !cgroup.exists());
    assert_as_before(&threads_before, fds_before);
    println!("scope: gone");
}

/// Runs this test again as a process of its own with the bus at `address`.
fn with_bus(test: &str, address: &str) -> String {
    let mut again = Command::new(std::env::current_exe().unwrap());
    again.args(["--exact", test, "--nocapture"]).env(PART, "bus");
    again.env("DBUS_SYSTEM_BUS_ADDRESS", address).env("DBUS_SESSION_BUS_ADDRESS", address);
    let out = again.output().unwrap();
    let text = String::from_utf8_lossy(&[out.stdout, out.stderr].concat()).into_owned();
    assert!(out.status.success() && text.contains("1 passed"), "{text}");
    text
}

#[test]
fn without_a_bus_the_error_says_what_else_there_is() {
    let _serial = support::serial();
    let name = "without_a_bus_the_error_says_what_else_there_is";
    if part().is_none() {
        let text = with_bus(name, "unix:path=/nowhere/at/all");
        assert!(text.contains("error: "), "{text}");
        return;
    }
    let dirs = support::private_dirs();
    let (threads_before, fds_before) = (threads(), descriptors());
    let e = open(&dirs, SystemdScope::new()).unwrap_err();
    println!("error: {e}");
    assert_eq!(e.kind(), ErrorKind::Unsupported, "{e}");
    assert!(e.way_out().is_some_and(|h| h.contains("OwnWithLeaf") || h.contains("DBUS_SESSION")), "{e}");
    assert_as_before(&threads_before, fds_before);
}

#[test]
fn a_bus_that_never_answers_is_left_at_the_deadline() {
    let _serial = support::serial();
    let name = "a_bus_that_never_answers_is_left_at_the_deadline";
    if part().is_none() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("bus");
        let _listener = UnixListener::bind(&path).unwrap();
        with_bus(name, &format!("unix:path={}", path.display()));
        return;
    }
    let dirs = support::private_dirs();
    let (threads_before, fds_before) = (threads(), descriptors());
    let began = Instant::now();
    let wait = Duration::from_millis(300);
    let e = open(&dirs, SystemdScope::new().deadline(wait)).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Timeout, "{e}");
    assert!(began.elapsed() >= wait);
    assert_as_before(&threads_before, fds_before);
}
