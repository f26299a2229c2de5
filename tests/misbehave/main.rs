//! Containers that behave badly, and callers that do: every call comes back in time, with an error where one is
//! due, and nothing is left.

mod limits;
mod races;

use std::sync::Arc;
use std::time::Duration;

use stockade::container::{Container, ContainerBuilder, ContainerConfig};
use stockade::instance::{ExecOptions, ShutdownOptions, StartOptions, Status, StopOptions};
use stockade::namespaces::{NamespaceKind, NamespaceSource, Target};
use stockade::{ErrorKind, ExitStatus, Fault, Rootfs, Runtime, Signal};
use support::{HostSnapshot, PrivateDirs, require_root};

/// What a call may take that would come back at once on an idle machine.
const LONG: Duration = Duration::from_secs(60);
/// For calls that have to run into their deadline.
const SHORT: Duration = Duration::from_millis(100);

fn runtime(dirs: &PrivateDirs) -> Runtime {
    Runtime::builder().state_dir(dirs.state()).run_dir(dirs.run()).open().unwrap()
}

/// A container that sleeps, on a busybox root.
fn sleeper(name: &str) -> ContainerBuilder {
    let root = support::fixture("busybox").unwrap();
    // What a failed test leaves goes with its handles.
    let config = ContainerConfig::builder(name).rootfs(Rootfs::overlay([root])).kill_on_drop();
    config.args(["sleep", "1000"])
}

fn make(rt: &Runtime, config: ContainerBuilder) -> Arc<Container> {
    rt.create(config.build().unwrap()).unwrap()
}

fn started(rt: &Runtime, config: ContainerBuilder) -> Arc<Container> {
    let c = make(rt, config);
    c.start().unwrap();
    c
}

fn exec(script: &str) -> ExecOptions {
    ExecOptions::new(["sh", "-c", script]).deadline(LONG)
}

/// How the script ends in the container.
fn sh(c: &Container, script: &str) -> ExitStatus {
    c.exec(exec(script)).unwrap().wait().unwrap()
}

/// The processes in its cgroup.
fn processes(c: &Container) -> String {
    std::fs::read_to_string(c.info().unwrap().cgroup.unwrap().join("cgroup.procs")).unwrap()
}

/// Runs the test on a runtime of its own and checks that it leaves nothing. The host snapshot has the processes,
/// descriptors, mounts and cgroups in it.
fn leaves_nothing(test: impl FnOnce(&Runtime, &PrivateDirs)) {
    let before = HostSnapshot::take();
    let dirs = support::private_dirs();
    {
        let rt = runtime(&dirs);
        // Makes the files that a runtime keeps.
        let warm = started(&rt, sleeper("warm"));
        warm.stop().unwrap();
        warm.delete().unwrap();
        let leaks = dirs.leak_check();
        test(&rt, &dirs);
        leaks.assert_clean();
        rt.close();
    }
    before.assert_unchanged();
}

macro_rules! privileged {
    () => {
        require_root!();
        let _ = support::require_fixture!("busybox");
    };
}
pub(crate) use privileged;

#[test]
fn one_that_ignores_the_request_to_end_keeps_running_until_it_is_stopped() {
    let _serial = support::serial();
    privileged!();
    leaves_nothing(|rt, _| {
        let stubborn = ["sh", "-c", "trap '' TERM; while :; do sleep 1000; done"];
        let c = started(rt, sleeper("stubborn").args(stubborn));
        let e = c.shutdown_with(ShutdownOptions::new().deadline(SHORT)).unwrap_err();
        assert_eq!((e.kind(), e.op()), (ErrorKind::Timeout, Some("shutdown")), "{e}");
        assert!(e.to_string().contains("SIGTERM") && e.way_out().is_some(), "{e}");
        assert_eq!(c.status(), Status::Running);
        assert_eq!(sh(&c, "true"), ExitStatus::Exited(0));
        c.stop().unwrap();
        assert_eq!(c.wait().unwrap().shell_code(), Some(137));
        c.delete().unwrap();
    });
}

#[test]
fn a_first_process_that_dies_before_its_program_is_no_start() {
    let _serial = support::serial();
    privileged!();
    leaves_nothing(|rt, _| {
        let c = make(rt, sleeper("dies"));
        for op in [0, 7, 20] {
            let e = c.start_with(StartOptions::new().fault(Fault { op, errno: 0 })).unwrap_err();
            assert_eq!((e.kind(), e.op()), (ErrorKind::Died, Some("start")), "{e}");
            assert_eq!(c.status(), Status::Stopped);
        }
        c.start().unwrap();
        c.stop().unwrap();
        c.delete().unwrap();
    });
}

#[test]
fn a_program_that_ends_at_once_has_run() {
    let _serial = support::serial();
    privileged!();
    leaves_nothing(|rt, _| {
        let c = make(rt, sleeper("brief").args(["false"]));
        for _ in 0..support::scaled(50) {
            c.start().unwrap();
            assert_eq!(c.wait().unwrap(), ExitStatus::Exited(1));
            let e = c.exec(exec("true")).unwrap_err();
            assert_eq!(e.kind(), ErrorKind::InvalidState, "{e}");
        }
        c.delete().unwrap();
    });
}

#[test]
fn exec_into_a_frozen_container_gives_up_and_leaves_nothing() {
    let _serial = support::serial();
    privileged!();
    leaves_nothing(|rt, _| {
        let c = started(rt, sleeper("frozen"));
        // Makes what the handle keeps from the first command on.
        assert_eq!(sh(&c, "true"), ExitStatus::Exited(0));
        let before = processes(&c);
        c.freeze().unwrap();
        let host = HostSnapshot::take();
        for _ in 0..20 {
            let e = c.exec(exec("true").deadline(SHORT)).unwrap_err();
            assert_eq!(e.kind(), ErrorKind::Timeout, "{e}");
            assert!(e.to_string().contains("frozen"), "{e}");
        }
        host.assert_unchanged();
        c.unfreeze().unwrap();
        assert_eq!(processes(&c), before);
        // A frozen one can be stopped.
        c.freeze().unwrap();
        c.stop_with(StopOptions::new().deadline(LONG)).unwrap();
        c.delete().unwrap();
    });
}

#[test]
fn a_command_that_nobody_waits_for_does_not_hold_up_the_end() {
    let _serial = support::serial();
    privileged!();
    leaves_nothing(|rt, _| {
        let within = || StopOptions::new().deadline(Duration::from_secs(20));
        let c = make(rt, sleeper("held"));
        // One that runs, whose handle is kept.
        c.start().unwrap();
        let held = c.exec(exec("sleep 1000")).unwrap();
        c.stop_with(within()).unwrap();
        assert_eq!(held.wait().unwrap().shell_code(), Some(137));
        // One whose handle is dropped, and one that has ended unseen.
        c.start().unwrap();
        drop(c.exec(exec("sleep 1000")).unwrap());
        let ended = c.exec(exec("exit 5")).unwrap();
        let stat = format!("/proc/{}/stat", ended.pid());
        support::until(LONG, "it has ended", || std::fs::read_to_string(&stat).unwrap().contains(") Z "));
        c.stop_with(within()).unwrap();
        assert_eq!(ended.wait().unwrap(), ExitStatus::Exited(5));
        // The first process ends by itself, with somebody who waits for it, or who only looks.
        c.start().unwrap();
        drop(c.exec(exec("sleep 1000")).unwrap());
        c.kill(Signal::KILL).unwrap();
        let waited = c.wait_with(stockade::instance::WaitOptions::new().deadline(Duration::from_secs(20)));
        assert_eq!(waited.unwrap().shell_code(), Some(137));
        c.start().unwrap();
        drop(c.exec(exec("sleep 1000")).unwrap());
        c.kill(Signal::KILL).unwrap();
        support::until(LONG, "it counts as stopped", || c.status() == Status::Stopped);
        // Somebody waits already when the command comes.
        c.start().unwrap();
        std::thread::scope(|s| {
            let waiter = s.spawn(|| c.wait_with(stockade::instance::WaitOptions::new().deadline(LONG)));
            std::thread::sleep(SHORT);
            drop(c.exec(exec("sleep 1000")).unwrap());
            c.kill(Signal::KILL).unwrap();
            assert_eq!(waiter.join().unwrap().unwrap().shell_code(), Some(137));
        });
        c.delete().unwrap();
    });
}

#[test]
fn the_first_of_a_pod_can_be_stopped_before_the_others() {
    let _serial = support::serial();
    privileged!();
    leaves_nothing(|rt, _| {
        let first = started(rt, sleeper("first"));
        let mut config = sleeper("second");
        for kind in [NamespaceKind::User, NamespaceKind::Pid] {
            let target = Target::Instance("first".parse().unwrap());
            config = config.namespace(kind, NamespaceSource::Join(target));
        }
        let second = started(rt, config);
        let command = second.exec(exec("sleep 1000")).unwrap();
        // Its pid namespace ends with it, and all that is in there.
        first.stop_with(StopOptions::new().deadline(Duration::from_secs(20))).unwrap();
        assert_eq!(command.wait().unwrap().shell_code(), Some(137));
        assert_eq!(second.wait().unwrap().shell_code(), Some(137));
        second.delete().unwrap();
        first.delete().unwrap();
    });
}

#[test]
fn a_running_container_outlives_its_runtime_and_is_found_again() {
    let _serial = support::serial();
    privileged!();
    leaves_nothing(|_, dirs| {
        let root = support::fixture("busybox").unwrap();
        let config =
            ContainerConfig::builder("stays").rootfs(Rootfs::overlay([root])).args(["sleep", "1000"]);
        let pid = {
            let rt = runtime(dirs);
            let c = started(&rt, config);
            assert_eq!(sh(&c, "echo here >/file"), ExitStatus::Exited(0));
            c.info().unwrap().pid
        };
        let rt = runtime(dirs);
        let c = rt.container(&"stays".parse().unwrap()).unwrap();
        assert_eq!((c.status(), c.info().unwrap().pid), (Status::Running, pid));
        assert_eq!(sh(&c, "grep -q here /file"), ExitStatus::Exited(0));
        c.stop().unwrap();
        // It is a child of this very process, so its status is known.
        assert_eq!(c.wait().unwrap().shell_code(), Some(137));
        c.delete().unwrap();
    });
}

#[test]
fn a_container_that_is_to_go_with_its_handle_does() {
    let _serial = support::serial();
    privileged!();
    leaves_nothing(|rt, _| {
        let c = started(rt, sleeper("gone"));
        drop(c.exec(exec("sleep 1000")).unwrap());
        drop(c);
        let c = rt.container(&"gone".parse().unwrap()).unwrap();
        assert_eq!(c.status(), Status::Stopped);
        assert_eq!(c.wait().unwrap().shell_code(), Some(137));
        c.delete().unwrap();
    });
}
