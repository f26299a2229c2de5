//! A container's life, on a busybox root: start, exec, freeze, stop, restart, rename, delete.

use std::fs;
use std::path::Path;
use std::time::Duration;

use stockade::container::{Container, ContainerBuilder, ContainerConfig, Process};
use stockade::instance::{ExecOptions, KillOptions, KillTarget, StartOptions, Status, Stdio, WaitOptions};
use stockade::{ErrorKind, ExitStatus, Rootfs, Runtime, Signal};
use support::{HostSnapshot, PrivateDirs, require_fixture, require_root};

fn runtime(dirs: &PrivateDirs) -> Runtime {
    Runtime::builder().state_dir(dirs.state()).run_dir(dirs.run()).open().unwrap()
}

fn busybox(name: &str) -> Option<ContainerBuilder> {
    let root = support::fixture("busybox").ok()?;
    Some(ContainerConfig::builder(name).rootfs(Rootfs::overlay([root])))
}

fn output(process: Process) -> (ExitStatus, String) {
    let out = process.output().unwrap();
    (out.status, String::from_utf8(out.stdout).unwrap())
}

fn sh(c: &Container, script: &str) -> (ExitStatus, String) {
    output(c.exec(ExecOptions::new(["sh", "-c", script]).stdout(Stdio::Piped)).unwrap())
}

/// Makes the files that a runtime keeps for itself: what comes after them is a leak.
fn warm(rt: &Runtime) {
    let c = rt.create(busybox("warm").unwrap().args(["sleep", "1000"]).build().unwrap()).unwrap();
    c.start().unwrap();
    c.stop().unwrap();
    c.delete().unwrap();
}

#[test]
fn a_whole_life_changes_nothing_on_the_host_and_leaves_nothing() {
    let _serial = support::serial();
    require_root!();
    let _ = require_fixture!("busybox");
    let before = HostSnapshot::take();
    let dirs = support::private_dirs();
    {
        let rt = runtime(&dirs);
        warm(&rt);
        let leaks = dirs.leak_check();
        let config = busybox("life").unwrap().args(["sleep", "1000"]).build().unwrap();
        let c = rt.create(config).unwrap();
        assert_eq!(c.status(), Status::Stopped);
        c.start().unwrap();
        assert_eq!(c.status(), Status::Running);
        assert_eq!(c.start().unwrap_err().kind(), ErrorKind::InvalidState);

        let (status, text) = sh(&c, "hostname; id -u; echo $$ > /file; cat /proc/1/comm");
        assert_eq!((status, &*text), (ExitStatus::Exited(0), "life\n0\nsleep\n"));
        assert_eq!(sh(&c, "exit 7").0, ExitStatus::Exited(7));
        assert_eq!(sh(&c, "kill -9 $$").0.shell_code(), Some(137));

        // Nothing of the host is mounted any more but the devices.
        let (_, mounts) = sh(&c, "cat /proc/1/mountinfo");
        let roots = mounts.lines().filter(|l| l.split(' ').nth(4) == Some("/")).count();
        assert_eq!(roots, 1, "{mounts}");

        c.freeze().unwrap();
        assert_eq!(c.status(), Status::Frozen);
        let e = c.exec(ExecOptions::new(["true"]).deadline(Duration::from_millis(100))).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::Timeout, "{e}");
        c.unfreeze().unwrap();
        assert_eq!(sh(&c, "true").0, ExitStatus::Exited(0));

        c.restart().unwrap();
        assert_eq!(sh(&c, "test -s /file").0, ExitStatus::Exited(0), "changes outlive a run");
        c.stop().unwrap();
        assert_eq!(c.status(), Status::Stopped);
        assert_eq!(c.wait().unwrap().shell_code(), Some(137));

        c.rename(&"other".parse().unwrap()).unwrap();
        assert_eq!(rt.get(&"life".parse().unwrap()).unwrap_err().kind(), ErrorKind::NotFound);
        let again = rt.container(&"other".parse().unwrap()).unwrap();
        again.start_with(StartOptions::new()).unwrap();
        again.kill(Signal::KILL).unwrap();
        again.wait_with(WaitOptions::new().deadline(Duration::from_secs(5))).unwrap();
        again.delete().unwrap();
        assert_eq!(c.start().unwrap_err().kind(), ErrorKind::NotFound);
        rt.close();
        leaks.assert_clean();
    }
    before.assert_unchanged();
}

/// The processes of a cgroup that have not ended.
fn procs(cgroup: &Path) -> Vec<String> {
    fs::read_to_string(cgroup.join("cgroup.procs")).unwrap().lines().map(str::to_owned).collect()
}

#[test]
fn a_signal_to_all_reaches_the_cgroups_below() {
    let _serial = support::serial();
    require_root!();
    let _ = require_fixture!("busybox");
    let host = HostSnapshot::take();
    let dirs = support::private_dirs();
    let rt = runtime(&dirs);
    warm(&rt);
    let leaks = dirs.leak_check();
    let script = "for i in 1 2 3; do sleep 1000 & done; exec sleep 1000";
    let config = busybox("all").unwrap().args(["sh", "-c", script]).kill_on_drop();
    let c = rt.create(config.build().unwrap()).unwrap();
    c.start().unwrap();
    let top = c.info().unwrap().cgroup.unwrap();
    let init = c.info().unwrap().pid.unwrap().to_string();
    let wait = |what, holds: &mut dyn FnMut() -> bool| support::until(Duration::from_secs(60), what, holds);
    wait("the sleepers have started", &mut || procs(&top).len() == 4);

    // One stays beside the first process, one is in a cgroup below, and one in a cgroup below that.
    let deep = top.join("below/deep");
    fs::create_dir_all(&deep).unwrap();
    let sleepers: Vec<String> = procs(&top).into_iter().filter(|pid| *pid != init).collect();
    for (pid, cgroup) in sleepers.iter().zip([&top, &top.join("below"), &deep]) {
        fs::write(cgroup.join("cgroup.procs"), pid).unwrap();
    }
    let all = || [&top, &top.join("below"), &deep].map(|cgroup| procs(cgroup).len());
    assert_eq!(all(), [2, 1, 1]);

    // The first process of a pid namespace has no default action for it.
    c.kill(KillOptions::new(Signal::TERM).target(KillTarget::All)).unwrap();
    wait("all but the first have ended", &mut || all() == [1, 0, 0]);
    assert_eq!((procs(&top), c.status()), (vec![init], Status::Running));
    c.kill(KillOptions::new(Signal::KILL).target(KillTarget::All)).unwrap();
    c.wait().unwrap();
    c.delete().unwrap();
    assert!(!top.exists());
    drop(c);
    rt.close();
    leaks.assert_clean();
    drop(dirs);
    host.assert_unchanged();
}
