//! Containers that behave badly, and callers that do: every call comes back in time, with an error where one is
//! due, and nothing is left.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use stockade::cgroup::{Controller, Hierarchy, Limit, Limits};
use stockade::container::{CgroupConfig, Container, ContainerBuilder, ContainerConfig};
use stockade::instance::{ExecOptions, ShutdownOptions, StartOptions, Status, Stdio, StopOptions};
use stockade::namespaces::{NamespaceKind, NamespaceSource, Target};
use stockade::process::Resource;
use stockade::{ErrorKind, ExitStatus, Fault, Rootfs, Runtime, Signal};
use support::{HostSnapshot, PrivateDirs, require, require_root};

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

fn make(rt: &Runtime, config: ContainerBuilder) -> std::sync::Arc<Container> {
    rt.create(config.build().unwrap()).unwrap()
}

fn started(rt: &Runtime, config: ContainerBuilder) -> std::sync::Arc<Container> {
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

/// The processes that the container sees in its /proc.
fn processes(c: &Container) -> usize {
    let out = c.exec(exec("ls -d /proc/[0-9]* | wc -l").stdout(Stdio::Piped)).unwrap().output().unwrap();
    String::from_utf8(out.stdout).unwrap().trim().parse().unwrap()
}

fn until(what: &str, mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < LONG, "waited too long until {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
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

/// Processes that start others for ever, and go on where they cannot.
const BOMB: &str =
    r#"echo 'BEGIN { while (1) system("awk -f /bomb &") }' >/bomb; exec awk -f /bomb 2>/dev/null"#;

fn stops_a_fork_bomb(rt: &Runtime, config: ContainerBuilder, enough: usize) {
    let c = started(rt, config);
    let bomb = c.exec(exec(BOMB)).unwrap();
    // Seen from outside: inside no process may be left to be had.
    let pids = |c: &Container| {
        let ns = std::fs::read_link(format!("/proc/{}/ns/pid", c.info().unwrap().pid.unwrap())).unwrap();
        let all = std::fs::read_dir("/proc").unwrap().flatten();
        all.filter(|e| std::fs::read_link(e.path().join("ns/pid")).is_ok_and(|n| n == ns)).count()
    };
    until("the bomb has gone off", || pids(&c) >= enough);
    let start = Instant::now();
    c.stop_with(StopOptions::new().deadline(LONG)).unwrap();
    assert!(start.elapsed() < LONG);
    assert_eq!(bomb.wait().unwrap().shell_code(), Some(137));
    c.delete().unwrap();
}

#[test]
fn a_fork_bomb_is_stopped_in_time() {
    let _serial = support::serial();
    privileged!();
    leaves_nothing(|rt, _| {
        // The limit keeps the machine usable; a container's ids are its own, so it counts nobody else.
        let bomb = || sleeper("bomb").rlimit(Resource::Nproc, 100, 100);
        stops_a_fork_bomb(rt, bomb(), 50);
        stops_a_fork_bomb(rt, bomb().cgroup(CgroupConfig::None), 50);
    });
}

#[test]
fn a_fork_bomb_in_a_cgroup_with_a_limit_is_stopped_in_time() {
    let _serial = support::serial();
    privileged!();
    require!(has(Controller::Pids), "needs the pids controller on cgroup v2");
    leaves_nothing(|rt, _| {
        let mut limits = Limits::default();
        limits.pids_max = Some(Limit::Value(100));
        stops_a_fork_bomb(rt, sleeper("bomb").limits(limits), 50);
    });
}

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
        for _ in 0..50 {
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
fn exec_beside_the_death_of_the_first_process() {
    const ROUNDS: usize = 20;
    let _serial = support::serial();
    privileged!();
    leaves_nothing(|rt, _| {
        let c = make(rt, sleeper("dying"));
        let ran = AtomicUsize::new(0);
        for round in 0..ROUNDS {
            c.start().unwrap();
            let killed = AtomicBool::new(false);
            std::thread::scope(|s| {
                let (killed, ran, c) = (&killed, &ran, &c);
                s.spawn(move || {
                    for n in 0..100 {
                        match c.exec(exec("exit 3")) {
                            Ok(process) => {
                                let status = process.wait().unwrap();
                                assert!(
                                    status == ExitStatus::Exited(3) || status.shell_code() == Some(137),
                                    "round {round}, exec {n}: {status}"
                                );
                                ran.fetch_add(1, Ordering::Relaxed);
                            }
                            Err(e) => {
                                assert!(killed.load(Ordering::SeqCst), "round {round}, exec {n}: {e}");
                                let expected = [ErrorKind::InvalidState, ErrorKind::Died];
                                assert!(expected.contains(&e.kind()), "round {round}, exec {n}: {e:?} {e}");
                                return;
                            }
                        }
                    }
                });
                std::thread::sleep(Duration::from_millis(round as u64));
                killed.store(true, Ordering::SeqCst);
                c.kill(Signal::KILL).unwrap();
                assert_eq!(c.wait().unwrap().shell_code(), Some(137));
            });
            assert_eq!(c.status(), Status::Stopped);
        }
        assert!(ran.into_inner() > 0);
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
        until("it counts as stopped", || c.status() == Status::Stopped);
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
fn stop_beside_execs() {
    let _serial = support::serial();
    privileged!();
    leaves_nothing(|rt, _| {
        let c = make(rt, sleeper("busy"));
        for round in 0..10_u64 {
            c.start().unwrap();
            std::thread::scope(|s| {
                for _ in 0..2 {
                    s.spawn(|| {
                        while let Ok(process) = c.exec(exec("sleep 1000")) {
                            // Never waited for.
                            drop(process);
                        }
                    });
                }
                std::thread::sleep(Duration::from_millis(5 * round));
                let stopped = c.stop_with(StopOptions::new().deadline(LONG));
                stopped.unwrap_or_else(|e| panic!("round {round}: {e}"));
            });
            assert_eq!(c.status(), Status::Stopped);
        }
        c.delete().unwrap();
    });
}

/// Of two calls at once one wins; the other is told why it did not.
fn race(
    rounds: usize,
    prepare: impl Fn() -> std::sync::Arc<Container>,
    call: impl Fn(&Container) -> stockade::Result<()> + Sync,
) {
    let refused = [ErrorKind::Busy, ErrorKind::InvalidState, ErrorKind::NotFound];
    for round in 0..rounds {
        let c = prepare();
        let go = std::sync::Barrier::new(2);
        let results: Vec<_> = std::thread::scope(|s| {
            let both: Vec<_> = (0..2)
                .map(|_| {
                    s.spawn(|| {
                        go.wait();
                        call(&c)
                    })
                })
                .collect();
            both.into_iter().map(|t| t.join().unwrap()).collect()
        });
        let won = results.iter().filter(|r| r.is_ok()).count();
        assert_eq!(won, 1, "round {round}: {results:?}");
        for e in results.iter().filter_map(|r| r.as_ref().err()) {
            assert!(refused.contains(&e.kind()), "round {round}: {e}");
        }
    }
}

#[test]
fn of_two_starts_or_deletes_at_once_one_wins() {
    let _serial = support::serial();
    privileged!();
    leaves_nothing(|rt, _| {
        let c = make(rt, sleeper("race"));
        let stopped = || {
            if c.status() == Status::Running {
                c.stop().unwrap();
            }
            c.clone()
        };
        race(30, stopped, |c| c.start());
        c.stop().unwrap();
        c.delete().unwrap();
        race(30, || make(rt, sleeper("deleted")), |c| c.delete());
    });
}

#[test]
fn two_stops_at_once_both_find_it_stopped() {
    let _serial = support::serial();
    privileged!();
    leaves_nothing(|rt, _| {
        let c = make(rt, sleeper("race"));
        for round in 0..30 {
            c.start().unwrap();
            let results: Vec<_> = std::thread::scope(|s| {
                let both: Vec<_> = (0..2).map(|_| s.spawn(|| c.stop())).collect();
                both.into_iter().map(|t| t.join().unwrap()).collect()
            });
            assert!(results.iter().any(Result::is_ok), "round {round}: {results:?}");
            for e in results.iter().filter_map(|r| r.as_ref().err()) {
                assert_eq!(e.kind(), ErrorKind::InvalidState, "round {round}: {e}");
            }
            assert_eq!(c.status(), Status::Stopped);
        }
        c.delete().unwrap();
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

/// Whether instances here can have limits of that kind.
fn has(controller: Controller) -> bool {
    let hierarchy = Hierarchy::detect().unwrap();
    hierarchy.own().controllers().unwrap().contains(&controller)
}

fn memory(bytes: u64) -> Limits {
    let mut limits = Limits::default();
    limits.memory_max = Some(Limit::Value(bytes));
    limits
}

#[test]
fn a_memory_limit_that_nothing_fits_in_ends_the_start_and_not_the_host() {
    let _serial = support::serial();
    privileged!();
    require!(has(Controller::Memory), "needs the memory controller on cgroup v2");
    leaves_nothing(|rt, _| {
        for bytes in [0, 4 << 10, 1 << 20] {
            let c = make(rt, sleeper("tight").limits(memory(bytes)));
            for _ in 0..5 {
                match c.start_with(StartOptions::new().deadline(LONG)) {
                    Ok(_) => {
                        assert!(bytes > 4 << 10, "nothing runs in {bytes} bytes");
                        c.stop().unwrap();
                    }
                    Err(e) => {
                        assert_eq!(e.kind(), ErrorKind::Died, "{bytes}: {e}");
                        assert!(e.way_out().is_some_and(|h| h.contains("memory")), "{bytes}: {e}");
                    }
                }
                assert_eq!(c.status(), Status::Stopped);
            }
            c.delete().unwrap();
        }
    });
}

#[test]
fn exec_into_a_container_that_runs_out_of_memory_all_the_time() {
    let _serial = support::serial();
    privileged!();
    require!(has(Controller::Memory), "needs the memory controller on cgroup v2");
    leaves_nothing(|rt, _| {
        // Each round takes more than there is; with the group setting the whole container goes.
        let eater = "while :; do head -c 64m /dev/zero | tail -c 64m >/dev/null; done";
        let c = make(rt, sleeper("oom").limits(memory(16 << 20)).args(["sh", "-c", eater]));
        let hierarchy = Hierarchy::detect().unwrap();
        let mut killed = 0;
        for _ in 0..20 {
            c.start().unwrap();
            let group = c.info().unwrap().cgroup.unwrap();
            let group = hierarchy.root().path().join(group.strip_prefix("/").unwrap_or(&group));
            std::fs::write(group.join("memory.oom.group"), "1").unwrap();
            let start = Instant::now();
            loop {
                match c.exec(exec("exit 3")) {
                    Ok(process) => drop(process.wait().unwrap()),
                    Err(e) => {
                        let expected = [ErrorKind::InvalidState, ErrorKind::Died, ErrorKind::Timeout];
                        assert!(expected.contains(&e.kind()), "{e:?} {e}");
                    }
                }
                if c.status() == Status::Stopped {
                    killed += 1;
                    break;
                }
                assert!(start.elapsed() < LONG, "it was never killed");
            }
        }
        assert_eq!(killed, 20);
        c.delete().unwrap();
    });
}
