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
    require!(has(Controller::Pids), "needs the pids controller");
    leaves_nothing(|rt, _| {
        stops_a_fork_bomb(rt, sleeper("bomb").limits(Limits::new().pids_max(100)), 50);
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
    let through_v1 = hierarchy.delegation().unwrap().through_v1;
    hierarchy.own().controllers().unwrap().contains(&controller) || through_v1.contains(&controller)
}

fn memory(bytes: u64) -> Limits {
    Limits::new().memory_max(bytes)
}

#[test]
fn a_memory_limit_that_nothing_fits_in_ends_the_start_and_not_the_host() {
    let _serial = support::serial();
    privileged!();
    require!(has(Controller::Memory), "needs the memory controller");
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
    let own = Hierarchy::detect().unwrap().own().controllers().unwrap();
    require!(
        own.contains(&Controller::Memory),
        "needs the memory controller on cgroup v2, whose OOM killer ends groups"
    );
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

#[test]
fn the_oom_killer_ends_the_payload_or_the_first_process() {
    let _serial = support::serial();
    privileged!();
    require!(has(Controller::Memory), "needs the memory controller");
    leaves_nothing(|rt, _| {
        let tight = || memory(24 << 20).memory_swap_max(0);
        // A command beside the first process: that one goes on.
        let c = started(rt, sleeper("payload").limits(tight()));
        let status = c.exec(exec("exec tail /dev/zero")).unwrap().wait().unwrap();
        assert_eq!(status.shell_code(), Some(137), "{status}");
        assert_eq!(c.status(), Status::Running);
        c.stop().unwrap();
        c.delete().unwrap();
        // The first process itself: the container ends.
        let c = started(rt, sleeper("init").limits(tight()).args(["tail", "/dev/zero"]));
        let wait = stockade::instance::WaitOptions::new().deadline(LONG);
        assert_eq!(c.wait_with(wait).unwrap().shell_code(), Some(137));
        assert_eq!(c.status(), Status::Stopped);
        c.delete().unwrap();
    });
}

#[test]
fn a_full_pids_table_refuses_commands_and_not_the_end() {
    let _serial = support::serial();
    privileged!();
    require!(has(Controller::Pids), "needs the pids controller");
    leaves_nothing(|rt, _| {
        let c = started(rt, sleeper("full").limits(Limits::new().pids_max(1)));
        for _ in 0..20 {
            let e = c.exec(exec("true").deadline(LONG)).unwrap_err();
            assert_eq!(e.kind(), ErrorKind::Exhausted, "{e}");
        }
        c.update(Limits::new().pids_max(Limit::Max)).unwrap();
        assert_eq!(super::sh(&c, "true"), stockade::ExitStatus::Exited(0));
        c.update(Limits::new().pids_max(0)).unwrap();
        c.freeze().unwrap();
        c.stop_with(StopOptions::new().deadline(LONG)).unwrap();
        c.delete().unwrap();
    });
}

#[test]
fn ten_thousand_processes_are_stopped() {
    const MANY: usize = 10_000;
    let _serial = support::serial();
    privileged!();
    let free = std::fs::read_to_string("/proc/meminfo").unwrap();
    let free = free.lines().find_map(|l| l.strip_prefix("MemAvailable:")).unwrap();
    let free: u64 = free.trim().trim_end_matches(" kB").parse().unwrap();
    require!(free > 6 << 20, "needs 6 GiB of memory, and {free} KiB are free");
    let most: usize = std::fs::read_to_string("/proc/sys/kernel/pid_max").unwrap().trim().parse().unwrap();
    require!(most > 2 * MANY, "needs twice {MANY} process numbers, and there are {most}");
    leaves_nothing(|rt, _| {
        let bomb = "i=0; while [ $i -lt 10000 ]; do sleep 10000 & i=$((i + 1)); done; wait";
        let c = started(rt, sleeper("many").args(["sh", "-c", bomb]));
        let procs = c.info().unwrap().cgroup.unwrap().join("cgroup.procs");
        let count = || std::fs::read_to_string(&procs).unwrap().lines().count();
        support::until(LONG * 3, "all are there", || count() > MANY);
        let start = Instant::now();
        c.stop_with(StopOptions::new().deadline(LONG)).unwrap();
        eprint(&format!("{MANY} processes were stopped in {:?}\n", start.elapsed()));
        assert!(!procs.exists());
        c.delete().unwrap();
    });
}

/// A process that somebody else has put into the cgroup keeps the kernel from removing it (`EBUSY`).
#[test]
fn a_stranger_in_the_cgroup_does_not_hold_up_the_end() {
    let _serial = support::serial();
    privileged!();
    leaves_nothing(|rt, _| {
        let c = started(rt, sleeper("visited"));
        let group = c.info().unwrap().cgroup.unwrap();
        let mut stranger = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        std::fs::write(group.join("cgroup.procs"), stranger.id().to_string()).unwrap();
        assert_eq!(std::fs::remove_dir(&group).unwrap_err().kind(), std::io::ErrorKind::ResourceBusy);
        // The first process ends by itself: what is left is ended with it.
        c.kill(stockade::Signal::KILL).unwrap();
        let wait = stockade::instance::WaitOptions::new().deadline(LONG);
        assert_eq!(c.wait_with(wait).unwrap().shell_code(), Some(137));
        assert!(!group.exists());
        assert!(!stranger.wait().unwrap().success());
        c.delete().unwrap();
    });
}
