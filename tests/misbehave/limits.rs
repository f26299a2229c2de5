//! Containers that want more than there is: processes and memory.

use std::time::Instant;

use stockade::cgroup::{Controller, Hierarchy, Limit, Limits};
use stockade::container::{CgroupConfig, Container, ContainerBuilder};
use stockade::instance::{StartOptions, Status, StopOptions};
use stockade::process::Resource;
use stockade::{ErrorKind, Runtime};
use support::{require, require_root, scaled};

use super::{LONG, exec, leaves_nothing, make, privileged, sleeper, started};

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
    support::until(LONG, "the bomb has gone off", || pids(&c) >= enough);
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

/// Past the capture of the test harness.
fn eprint(text: &str) {
    use std::io::Write;
    let _ = std::io::stderr().write_all(text.as_bytes());
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
            for _ in 0..3 {
                let came_of_it = c.start_with(StartOptions::new().deadline(LONG));
                let text = came_of_it.as_ref().map_or_else(ToString::to_string, |_| "it runs".to_owned());
                eprint(&format!("memory.max of {bytes}: {text}\n"));
                match came_of_it {
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
        let mut killed = 0;
        let rounds = scaled(20);
        for _ in 0..rounds {
            c.start().unwrap();
            let group = c.info().unwrap().cgroup.unwrap();
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
        assert_eq!(killed, rounds);
        c.delete().unwrap();
    });
}
