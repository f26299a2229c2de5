//! That nothing is left, and nobody hangs.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use stockade::container::{Container, ResourceViews};
use stockade::instance::ExecOptions;
use stockade::{ErrorKind, InstanceId, Rootfs, Runtime};
use support::{HostSnapshot, require_fixture, require_root, scaled};

use super::rig::{Rig, busybox, end, sh};
use super::{debian, works};

const HOST: &str = "STOCKADE_VIEWS_HOST";

/// Descriptors of this process that are open on FUSE.
fn fuse_devices() -> usize {
    let fds = std::fs::read_dir("/proc/self/fd").unwrap().flatten();
    fds.filter(|fd| std::fs::read_link(fd.path()).is_ok_and(|to| to == Path::new("/dev/fuse"))).count()
}

#[test]
fn many_come_and_go() {
    let Some(rig) = Rig::new() else { return };
    let count = scaled(50).max(10);
    let config = |n: usize| busybox(&format!("c{n}")).resource_views(ResourceViews::ALL);
    let all: Vec<Arc<Container>> = (0..count).map(|n| rig.run(config(n))).collect();
    assert_eq!(fuse_devices(), count);
    for c in &all {
        works(c, "cat /proc/meminfo /proc/stat > /dev/null");
    }
    // Some are stopped, some end by themselves, and of some the handle goes first.
    let mut n = 0;
    for c in all {
        n += 1;
        match n % 3 {
            0 => end(c),
            1 => {
                c.kill(stockade::Signal::KILL).unwrap();
                c.wait().unwrap();
                c.delete().unwrap();
            }
            _ => drop(c),
        }
    }
    support::until(Duration::from_secs(10), "the superblocks are gone", || fuse_devices() == 0);
    for n in (1..count).step_by(3) {
        rig.runtime.container(&format!("c{n}").parse().unwrap()).unwrap().delete().unwrap();
    }
    // Again and again one and the same.
    let c = rig.runtime.create(config(0).build().unwrap()).unwrap();
    for _ in 0..5 {
        c.start().unwrap();
        works(&c, "cat /proc/uptime");
        assert_eq!(fuse_devices(), 1);
        c.stop().unwrap();
        assert_eq!(fuse_devices(), 0);
    }
    eprintln!("{count} containers, and one five times");
    end(c);
    rig.end();
}

/// In turns, so that what else the machine does is the same for both.
#[test]
fn what_a_start_takes() {
    let Some(rig) = Rig::new() else { return };
    let configs = [busybox("without"), busybox("with").resource_views(ResourceViews::ALL)];
    let both = configs.map(|config| rig.runtime.create(config.build().unwrap()).unwrap());
    let mut times = [Vec::new(), Vec::new()];
    for _ in 0..scaled(100).max(10) {
        for (c, times) in both.iter().zip(&mut times) {
            let begin = Instant::now();
            c.start().unwrap();
            times.push(begin.elapsed().as_micros());
            c.stop().unwrap();
        }
    }
    let medians = times.each_mut().map(|times| {
        times.sort_unstable();
        (times[times.len() / 2], times[0])
    });
    eprintln!(
        "{} starts each, median and least in us: without {:?}, with {:?}",
        times[0].len(),
        medians[0],
        medians[1]
    );
    both.into_iter().for_each(end);
    rig.end();
}

#[test]
fn a_start_that_fails_leaves_nothing() {
    let Some(rig) = Rig::new() else { return };
    let config = busybox("fails").resource_views(ResourceViews::ALL).args(["/no/such/program"]);
    let c = rig.runtime.create(config.build().unwrap()).unwrap();
    for _ in 0..3 {
        assert_eq!(c.start().unwrap_err().kind(), ErrorKind::PayloadNotFound);
        assert_eq!(fuse_devices(), 0);
    }
    end(c);
    rig.end();
}

#[test]
fn it_is_recorded_and_needs_what_it_shows() {
    use stockade::container::{CgroupConfig, ContainerConfig, MountSet};
    let wanted = ResourceViews::MEMINFO.union(ResourceViews::CPU_ONLINE);
    let base = || ContainerConfig::builder("x").rootfs(Rootfs::dir("/srv/x")).resource_views(wanted);
    let config = base().build().unwrap();
    let text = serde_json::to_string(&config).unwrap();
    assert!(text.contains(r#""resource_views":["meminfo","cpu_online"]"#), "{text}");
    let again: ContainerConfig = serde_json::from_str(&text).unwrap();
    assert_eq!(again.resource_views(), wanted);
    let plain = ContainerConfig::builder("x").rootfs(Rootfs::dir("/srv/x")).build().unwrap();
    assert!(!serde_json::to_string(&plain).unwrap().contains("resource_views"));
    for wrong in [base().cgroup(CgroupConfig::None), base().base_mounts(MountSet::None)] {
        assert_eq!(wrong.problems().iter().filter(|p| p.field == "resource_views").count(), 1);
    }
}

#[test]
fn reads_fail_once_the_runtime_is_closed() {
    let Some(rig) = Rig::new() else { return };
    let other = Runtime::builder().state_dir(rig.dirs.state()).run_dir(rig.dirs.run()).open().unwrap();
    let c = other.create(busybox("closed").resource_views(ResourceViews::ALL).build().unwrap()).unwrap();
    c.start().unwrap();
    works(&c, "cat /proc/meminfo > /dev/null");
    let open =
        c.exec(ExecOptions::new(["sh", "-c", "exec 3</proc/stat; sleep 1; cat <&3 >/dev/null"])).unwrap();
    std::thread::sleep(Duration::from_millis(300));
    other.close();
    assert_eq!(fuse_devices(), 0);
    // Opened before, read after; and opened after.
    assert!(open.wait().unwrap().code().is_some_and(|code| code != 0));
    drop(open);
    let (code, text) = sh(&c, "cat /proc/meminfo");
    assert!(code != 0 && text.contains("not connected"), "{text}");
    // What nobody serves is as ever.
    works(&c, "cat /proc/version /proc/self/status > /dev/null");
    let refused = c.restart().unwrap_err();
    assert!(refused.to_string().contains("closed"), "{refused}");
    end(c);
    rig.end();
}

/// The runtime of a host that a test has started; `None` where it has not.
fn runtime_of_host() -> Option<Runtime> {
    let dirs = PathBuf::from(std::env::var_os(HOST)?);
    Some(Runtime::builder().state_dir(dirs.join("state")).run_dir(dirs.join("run")).open().unwrap())
}

/// What the next test runs where there is no `/dev/fuse`.
#[test]
fn host_without_fuse() {
    let Some(runtime) = runtime_of_host() else { return };
    let config = busybox("none").resource_views(ResourceViews::ALL);
    let c = runtime.create(config.build().unwrap()).unwrap();
    let e = c.start().unwrap_err();
    println!("> {:?} {e}", e.kind());
    assert_eq!(c.status(), stockade::instance::Status::Stopped);
    c.delete().unwrap();
}

#[test]
fn a_machine_without_fuse_is_told_so() {
    require_root!();
    require_fixture!("busybox");
    let _serial = support::serial();
    let host = HostSnapshot::take();
    let dirs = tempfile::tempdir().unwrap();
    let script = "mount --make-rprivate / && mount -t tmpfs none /dev && mknod -m 666 /dev/null c 1 3 && exec \"$0\" \"$@\"";
    let program = std::env::current_exe().unwrap();
    let out = Command::new("unshare")
        .args(["-m", "sh", "-ec", script])
        .arg(program)
        .args(["--exact", "ends::host_without_fuse", "--nocapture"])
        .env(HOST, dirs.path())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&out.stdout);
    assert!(out.status.success(), "{text}{}", String::from_utf8_lossy(&out.stderr));
    let said = text.lines().find_map(|line| line.strip_prefix("> ")).unwrap();
    assert!(
        said.starts_with("Unsupported") && said.contains("/dev/fuse") && said.contains("module"),
        "{said}"
    );
    eprintln!("{said}");
    drop(dirs);
    host.assert_unchanged();
}

#[test]
fn a_pool_has_no_sandboxes_for_them() {
    let Some(rig) = Rig::new() else { return };
    let root = support::fixture("busybox").unwrap();
    let config = |name: &str| {
        stockade::ContainerConfig::builder(name)
            .rootfs(Rootfs::dir(&root))
            .read_only_root()
            .args(["sleep", "1000"])
            .kill_on_drop()
    };
    let with = config("with").resource_views(ResourceViews::ALL);
    let e = rig.runtime.prewarm(with.clone().build().unwrap(), 1).unwrap_err();
    assert!(e.kind() == ErrorKind::InvalidConfig && e.to_string().contains("resource views"), "{e}");
    rig.runtime.prewarm(config("template").build().unwrap(), 1).unwrap();
    let c = rig.run(with);
    assert_eq!(rig.runtime.prewarmed(&config("template").build().unwrap()), 1);
    works(&c, "grep -q '/proc/stat fuse' /proc/mounts");
    end(c);
    rig.end();
}

/// The host of the next test.
#[test]
fn host() {
    let Some(runtime) = runtime_of_host() else { return };
    let root = support::fixture("busybox").unwrap();
    let config = stockade::ContainerConfig::builder("orphan")
        .rootfs(Rootfs::overlay([root]))
        .args(["sleep", "1000"])
        .resource_views(ResourceViews::ALL);
    let c = runtime.create(config.build().unwrap()).unwrap();
    c.start().unwrap();
    println!("> ready");
    std::thread::sleep(Duration::from_secs(600));
}

#[test]
fn a_killed_host_leaves_errors_and_the_next_start_new_files() {
    require_root!();
    require_fixture!("busybox");
    let _serial = support::serial();
    let host = HostSnapshot::take();
    let dirs = tempfile::tempdir().unwrap();
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "ends::host", "--nocapture"])
        .env(HOST, dirs.path())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let out = BufReader::new(child.stdout.take().unwrap());
    assert!(out.lines().map_while(Result::ok).any(|line| line == "> ready"));
    let open = || {
        let builder =
            Runtime::builder().state_dir(dirs.path().join("state")).run_dir(dirs.path().join("run"));
        builder.open().unwrap()
    };
    let runtime = open();
    let c = runtime.container(&"orphan".parse::<InstanceId>().unwrap()).unwrap();
    works(&c, "cat /proc/meminfo > /dev/null");
    // One that reads all the time sees it happen.
    let reader =
        c.exec(ExecOptions::new(["sh", "-c", "while cat /proc/stat > /dev/null; do :; done"])).unwrap();
    std::thread::sleep(Duration::from_millis(200));
    let began = Instant::now();
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(reader.wait().unwrap().success());
    drop(reader);
    for path in super::PATHS {
        let (code, text) = sh(&c, &format!("cat {path}"));
        assert!(code != 0 && text.contains("not connected"), "{path}: {text}");
    }
    eprintln!("all reads failed {} ms after the end of the host", began.elapsed().as_millis());
    c.restart().unwrap();
    works(&c, "cat /proc/meminfo > /dev/null");
    end(c);
    runtime.close();
    drop(dirs);
    host.assert_unchanged();
}

#[test]
fn readers_of_one_container_do_not_wait_for_another() {
    let Some(rig) = Rig::new() else { return };
    let Some(config) = debian("flood") else { return rig.end() };
    let busy = rig.run(config.resource_views(ResourceViews::ALL));
    let quiet = rig.run(busybox("quiet").resource_views(ResourceViews::ALL));
    // Sixteen that read without end, and one that was stopped between two reads.
    let read = "import os, signal\nfor n in range(16):\n  if os.fork() == 0:\n    while True: open('/proc/stat').read()\n\
                f = open('/proc/cpuinfo'); f.read(10)\nos.kill(os.getpid(), signal.SIGSTOP)";
    let flood = busy.exec(ExecOptions::new(["python3", "-c", read])).unwrap();
    std::thread::sleep(Duration::from_millis(300));
    let mut longest = Duration::ZERO;
    for _ in 0..scaled(50) {
        let began = Instant::now();
        works(&quiet, "cat /proc/meminfo > /dev/null");
        longest = longest.max(began.elapsed());
    }
    eprintln!(
        "{} commands beside 16 readers of another container, the longest {} ms",
        scaled(50),
        longest.as_millis()
    );
    end(busy);
    drop(flood);
    end(quiet);
    rig.end();
}
