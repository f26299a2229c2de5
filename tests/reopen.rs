//! A container that another runtime, or another process, has started: found, used, stopped and waited for; and hosts
//! that take the exit statuses of all their children. A status is the true one or unknown, never a wrong number.
#![expect(clippy::print_stdout, reason = "how a process in a role tells the test that it is ready")]

mod again;
mod rig;

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio as Std};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rig::{Rig, end, sh};
use stockade::container::{Container, ContainerBuilder, ContainerConfig};
use stockade::instance::{ExecOptions, Status, WaitOptions};
use stockade::{ErrorKind, ExitStatus, InstanceId, Rootfs, Runtime};

const KILLED: ExitStatus = ExitStatus::Signaled { signal: 9, core_dumped: false };

fn open(state: &Path, run: &Path) -> Runtime {
    Runtime::builder().state_dir(state).run_dir(run).open().unwrap()
}

fn again_in(rig: &Rig) -> Runtime {
    open(rig.dirs.state(), rig.dirs.run())
}

fn id(name: &str) -> InstanceId {
    name.parse().unwrap()
}

/// As the others' containers, but one that stays when a handle goes.
fn lasting(name: &str) -> ContainerBuilder {
    let root = support::fixture("busybox").unwrap();
    ContainerConfig::builder(name).rootfs(Rootfs::overlay([root])).args(["sleep", "1000"])
}

/// Whether the kernel tells how a process ended that others reaped: Linux 6.15.
fn kernel_tells() -> bool {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut parts = release.split(['.', '-']).map(|p| p.parse::<u32>().unwrap_or(0));
    (parts.next().unwrap(), parts.next().unwrap()) >= (6, 15)
}

/// The true status, or unknown where the kernel cannot tell.
#[track_caller]
fn true_or_unknown(status: ExitStatus, truth: ExitStatus) {
    assert!(status == truth || status == ExitStatus::Unknown, "{status}, in truth {truth}");
    assert!(status == truth || !kernel_tells(), "{status}, though the kernel knows {truth}");
}

/// This program again, in that role, with the directories of the runtime.
fn other(around: &[&str], test: &str, role: &str, state: &Path, run: &Path) -> Command {
    let around: Vec<&str> = ["timeout", "120"].into_iter().chain(around.iter().copied()).collect();
    let mut command = again::command(&around, test, role);
    command.env("STATE", state).env("RUN", run);
    command
}

fn dirs_of_role() -> (PathBuf, PathBuf) {
    let dir = |name| PathBuf::from(std::env::var_os(name).unwrap());
    (dir("STATE"), dir("RUN"))
}

/// Runs it to its end, which must be good.
#[track_caller]
fn succeed(mut command: Command) {
    let out = command.output().unwrap();
    let text = format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    assert!(out.status.success() && text.contains("1 passed"), "{text}");
}

fn soon() -> WaitOptions {
    WaitOptions::new().deadline(Duration::from_secs(20))
}

/// Everything that can be done with a container that somebody else has started.
fn use_all(c: &Container) {
    assert_eq!(c.status(), Status::Running);
    let info = c.info().unwrap();
    assert!(
        info.pid.is_some() && info.started_at.is_some() && info.cgroup.is_some() && info.id_map.is_some()
    );
    assert_eq!(info.exit_status, None);
    assert_eq!(sh(c, "cat /proc/1/comm; echo here > /tmp/x; exit 5"), (5, "sleep".to_owned()));
    assert_eq!(c.start().unwrap_err().kind(), ErrorKind::InvalidState);
    let e = c.wait_with(WaitOptions::new().deadline(Duration::from_millis(20))).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Timeout);
    c.freeze().unwrap();
    assert_eq!(c.status(), Status::Frozen);
    c.unfreeze().unwrap();
    assert_eq!(c.status(), Status::Running);
}

#[test]
fn two_runtimes_of_one_process_see_one_container() {
    let Some(rig) = Rig::new() else { return };
    let second = again_in(&rig);
    let c = rig.run(lasting("x"));
    let d = second.container(&id("x")).unwrap();
    assert_eq!(second.list().unwrap().len(), 1);
    assert_eq!(d.info().unwrap().pid, c.info().unwrap().pid);
    assert_eq!(d.info().unwrap().id_map, c.info().unwrap().id_map);
    use_all(&d);
    d.freeze().unwrap();
    assert_eq!(c.status(), Status::Frozen);
    c.unfreeze().unwrap();
    assert_eq!(d.status(), Status::Running);
    let waiting = {
        let c = Arc::clone(&c);
        std::thread::spawn(move || c.wait_with(soon()).unwrap())
    };
    d.stop().unwrap();
    true_or_unknown(waiting.join().unwrap(), KILLED);
    true_or_unknown(d.wait().unwrap(), KILLED);
    assert_eq!((c.status(), d.status()), (Status::Stopped, Status::Stopped));

    // What one starts the other finds, however often.
    for (a, b) in [(&c, &d), (&d, &c), (&d, &c)] {
        a.start().unwrap();
        assert_eq!(b.status(), Status::Running);
        assert_eq!(b.info().unwrap().pid, a.info().unwrap().pid);
        assert_eq!(b.start().unwrap_err().kind(), ErrorKind::InvalidState);
        assert_eq!(sh(b, "cat /tmp/x").1, "here");
        b.stop().unwrap();
    }
    // A restart behind one's back: the old run's end is no end of the new one.
    c.start().unwrap();
    assert_eq!(d.status(), Status::Running);
    let old = c.info().unwrap().pid;
    d.restart().unwrap();
    assert_eq!(c.status(), Status::Running);
    assert_ne!(c.info().unwrap().pid, old);
    assert_eq!(c.info().unwrap().pid, d.info().unwrap().pid);
    assert_eq!(again_in(&rig).container(&id("x")).unwrap().status(), Status::Running);
    c.stop().unwrap();
    assert_eq!(d.status(), Status::Stopped);
    d.delete().unwrap();
    assert_eq!(c.start().unwrap_err().kind(), ErrorKind::NotFound);
    drop((c, d));
    second.close();
    rig.end();
}

#[test]
fn another_process_finds_and_stops_it() {
    const NAME: &str = "another_process_finds_and_stops_it";
    if again::role().is_some() {
        let (state, run) = dirs_of_role();
        let c = open(&state, &run).container(&id("x")).unwrap();
        use_all(&c);
        c.stop().unwrap();
        assert_eq!(c.status(), Status::Stopped);
        // Who started it reaps it at some time, or never.
        let status = c.wait().unwrap();
        assert!(status == KILLED || status == ExitStatus::Unknown, "{status}");
        assert_eq!(open(&state, &run).container(&id("x")).unwrap().wait().unwrap(), status);
        return;
    }
    let Some(rig) = Rig::new() else { return };
    let c = rig.run(lasting("x"));
    succeed(other(&[], NAME, "user", rig.dirs.state(), rig.dirs.run()));
    assert_eq!(c.status(), Status::Stopped);
    // It is this process's child: its own status is there, whatever the other one wrote.
    assert_eq!(c.wait_with(soon()).unwrap(), KILLED);
    c.start().unwrap();
    let waiting = {
        let c = Arc::clone(&c);
        std::thread::spawn(move || c.wait_with(soon()).unwrap())
    };
    succeed(other(&[], NAME, "user", rig.dirs.state(), rig.dirs.run()));
    assert_eq!(waiting.join().unwrap(), KILLED);
    end(c);
    rig.end();
}

#[test]
fn a_process_that_did_not_start_it_waits_for_it() {
    const NAME: &str = "a_process_that_did_not_start_it_waits_for_it";
    if again::role().is_some() {
        let (state, run) = dirs_of_role();
        let c = open(&state, &run).container(&id("x")).unwrap();
        assert_eq!(c.status(), Status::Running);
        println!("waits");
        true_or_unknown(c.wait_with(soon()).unwrap(), ExitStatus::Exited(42));
        assert_eq!(c.status(), Status::Stopped);
        return;
    }
    let Some(rig) = Rig::new() else { return };
    let script = "while [ ! -e /tmp/go ]; do sleep 0.02; done; exit 42";
    let c = rig.run(lasting("x").args(["sh", "-c", script]));
    let waiting = {
        let c = Arc::clone(&c);
        std::thread::spawn(move || c.wait_with(soon()).unwrap())
    };
    let mut command = other(&[], NAME, "waiter", rig.dirs.state(), rig.dirs.run());
    let mut waiter = command.stdout(Std::piped()).spawn().unwrap();
    let mut lines = BufReader::new(waiter.stdout.take().unwrap()).lines();
    assert!(lines.any(|l| l.unwrap().contains("waits")));
    sh(&c, "touch /tmp/go");
    let text: Vec<String> = lines.map_while(Result::ok).collect();
    assert!(waiter.wait().unwrap().success(), "{text:?}");
    assert_eq!(waiting.join().unwrap(), ExitStatus::Exited(42));
    end(c);
    rig.end();
}

#[test]
fn a_container_outlives_the_process_that_started_it() {
    const NAME: &str = "a_container_outlives_the_process_that_started_it";
    if again::role().is_some() {
        let (state, run) = dirs_of_role();
        let runtime = open(&state, &run);
        for (name, command) in
            [("lives", "exec sleep 1000"), ("ends", "while [ ! -e /tmp/go ]; do sleep 0.02; done")]
        {
            let c = runtime.create(lasting(name).args(["sh", "-c", command]).build().unwrap()).unwrap();
            c.start().unwrap();
        }
        println!("started");
        std::thread::sleep(Duration::from_secs(100));
        return;
    }
    let Some(rig) = Rig::new() else { return };
    // `timeout` would take the signal and pass on another one.
    let mut command = again::command(&[], NAME, "starter");
    command.env("STATE", rig.dirs.state()).env("RUN", rig.dirs.run());
    let mut starter = command.stdout(Std::piped()).spawn().unwrap();
    let mut lines = BufReader::new(starter.stdout.take().unwrap()).lines();
    assert!(lines.any(|l| l.unwrap().contains("started")));
    starter.kill().unwrap();
    starter.wait().unwrap();
    drop(lines);
    {
        let (lives, ends) =
            (rig.runtime.container(&id("lives")).unwrap(), rig.runtime.container(&id("ends")).unwrap());
        use_all(&lives);
        lives.stop().unwrap();
        let status = lives.wait_with(soon()).unwrap();
        assert!(status == KILLED || status == ExitStatus::Unknown, "{status}");
        lives.restart().unwrap_err();
        lives.start().unwrap();
        lives.stop().unwrap();
        assert_eq!(lives.wait().unwrap(), KILLED, "this run was its own");
        lives.delete().unwrap();

        // The other one ends while nobody looks.
        let touch = ends.exec(ExecOptions::new(["touch", "/tmp/go"])).unwrap().wait().unwrap();
        assert!(
            touch == ExitStatus::Exited(0) || touch == KILLED,
            "{touch}: with the container at the latest"
        );
        let pid = ends.info().unwrap().pid;
        drop(ends);
        while pid.is_some_and(|pid| Path::new(&format!("/proc/{pid}/ns")).exists()) {
            std::thread::sleep(Duration::from_millis(10));
        }
        let ends = rig.runtime.container(&id("ends")).unwrap();
        assert_eq!(ends.status(), Status::Stopped);
        let status = ends.wait().unwrap();
        assert!(status == ExitStatus::Exited(0) || status == ExitStatus::Unknown, "{status}");
        assert_eq!(ends.info().unwrap().exit_status, Some(status));
        ends.delete().unwrap();
    }
    rig.end();
}

/// Statuses of execs and of runs, where somebody else takes them.
fn statuses_are_true() {
    let (state, run) = dirs_of_role();
    let runtime = open(&state, &run);
    let c = runtime.create(lasting("x").build().unwrap()).unwrap();
    c.start().unwrap();
    for code in 0..20 {
        let exit = format!("exit {code}");
        let process = c.exec(ExecOptions::new(["sh", "-c", &exit])).unwrap();
        let status = process.wait_timeout(Duration::from_secs(20)).unwrap().expect("an end");
        true_or_unknown(status, ExitStatus::Exited(code));
        assert_eq!(process.wait().unwrap(), status, "the second time too");
    }
    let output = c.exec(ExecOptions::new(["sh", "-c", "kill -TERM $$"])).unwrap().output().unwrap();
    true_or_unknown(output.status, ExitStatus::Signaled { signal: 15, core_dumped: false });
    assert_eq!(c.exec(ExecOptions::new(["no-such"])).unwrap_err().kind(), ErrorKind::PayloadNotFound);
    c.stop().unwrap();
    true_or_unknown(c.wait_with(soon()).unwrap(), KILLED);
    c.restart().unwrap_err();
    c.delete().unwrap();
    for code in [0, 1, 77] {
        let exit = format!("exit {code}");
        let config = lasting("x").args(["sh", "-c", &exit]).build().unwrap();
        let c = runtime.create(config).unwrap();
        c.start().unwrap();
        true_or_unknown(c.wait_with(soon()).unwrap(), ExitStatus::Exited(code));
        c.delete().unwrap();
    }
    let missing = runtime.create(lasting("x").args(["/no/such"]).build().unwrap()).unwrap();
    assert_eq!(missing.start().unwrap_err().kind(), ErrorKind::PayloadNotFound);
    missing.delete().unwrap();
}

#[test]
fn a_host_that_ignores_sigchld() {
    const NAME: &str = "a_host_that_ignores_sigchld";
    if again::role().is_some() {
        let status = fs::read_to_string("/proc/self/status").unwrap();
        let ignored = status.lines().find_map(|l| l.strip_prefix("SigIgn:\t")).unwrap();
        assert_eq!(u64::from_str_radix(ignored, 16).unwrap() >> 16 & 1, 1, "SIGCHLD is not ignored");
        return statuses_are_true();
    }
    let Some(rig) = Rig::new() else { return };
    succeed(other(&["env", "--ignore-signal=CHLD"], NAME, "host", rig.dirs.state(), rig.dirs.run()));
    rig.end();
}

#[test]
#[expect(clippy::disallowed_methods, reason = "the host does what the library never does")]
fn a_host_that_reaps_every_child() {
    const NAME: &str = "a_host_that_reaps_every_child";
    if again::role().is_some() {
        let stop = Arc::new(AtomicBool::new(false));
        let reaper = {
            let stop = Arc::clone(&stop);
            std::thread::spawn(move || {
                let mut reaped = 0_u32;
                while !stop.load(Ordering::Relaxed) {
                    match rustix::process::wait(rustix::process::WaitOptions::NOHANG) {
                        Ok(Some(_)) => reaped += 1,
                        _ => std::thread::sleep(Duration::from_micros(100)),
                    }
                }
                reaped
            })
        };
        statuses_are_true();
        stop.store(true, Ordering::Relaxed);
        assert_ne!(reaper.join().unwrap(), 0, "it took none");
        return;
    }
    let Some(rig) = Rig::new() else { return };
    succeed(other(&[], NAME, "host", rig.dirs.state(), rig.dirs.run()));
    rig.end();
}

fn edit(path: &Path, change: impl FnOnce(&mut serde_json::Value)) -> String {
    let mut value = serde_json::from_str(&text_of(path)).unwrap();
    change(&mut value);
    let text = value.to_string();
    put(path, &text);
    text
}

/// A record's text: the target of a link, or a file's.
fn text_of(path: &Path) -> String {
    match fs::read_link(path) {
        Ok(target) => target.to_str().unwrap().to_owned(),
        Err(_) => fs::read_to_string(path).unwrap(),
    }
}

fn put(path: &Path, text: &str) {
    match fs::read_link(path) {
        Ok(_) => {
            fs::remove_file(path).unwrap();
            std::os::unix::fs::symlink(text, path).unwrap();
        }
        Err(_) => fs::write(path, text).unwrap(),
    }
}

#[test]
fn a_record_of_a_process_that_is_gone() {
    let Some(rig) = Rig::new() else { return };
    let record = rig.dirs.run().join("instances/default/x/run.json");
    let changes: [fn(&mut serde_json::Value); 3] = [
        // Its number is another process's now: this one's.
        |r| r["record"]["pid"] = std::process::id().into(),
        |r| r["record"]["pid"] = 0x3fff_ffff.into(),
        |r| r["record"]["boot_id"] = "00000000-0000-0000-0000-000000000000".into(),
    ];
    for (n, change) in changes.into_iter().enumerate() {
        let c = rig.run(lasting("x"));
        let stale = text_of(&record);
        c.stop().unwrap();
        put(&record, &stale);
        edit(&record, change);
        let second = again_in(&rig);
        let d = second.container(&id("x")).unwrap();
        assert_eq!(d.status(), Status::Stopped);
        assert_eq!(d.info().unwrap().pid, None);
        match n {
            2 => assert_eq!(d.wait().unwrap_err().kind(), ErrorKind::InvalidState),
            _ => assert_eq!(d.wait().unwrap(), ExitStatus::Unknown),
        }
        d.start().unwrap();
        assert_eq!(sh(&d, "exit 0").0, 0);
        d.stop().unwrap();
        drop((d, second));
        end(c);
    }
    rig.end();
}

#[test]
fn records_of_a_newer_version_are_refused_and_left_alone() {
    let Some(rig) = Rig::new() else { return };
    let record = rig.dirs.state().join("instances/default/x/record.json");
    let run = rig.dirs.run().join("instances/default/x/run.json");
    for path in [&record, &run] {
        let c = rig.run(lasting("x"));
        c.stop().unwrap();
        let text = text_of(path);
        let newer = edit(path, |r| {
            r["schema"] = 1000.into();
            r["something"] = "new".into();
        });
        let second = again_in(&rig);
        let e = second.get(&id("x")).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::Unsupported, "{e}");
        assert!(e.to_string().contains("version 1000") && e.what() == path.to_str(), "{e}");
        assert_eq!(second.list().unwrap().len(), 0);
        let taken = second.create(lasting("x").build().unwrap()).unwrap_err();
        assert_eq!(taken.kind(), ErrorKind::AlreadyExists);
        assert_eq!(text_of(path), newer);
        // Nobody can read this: an error, and no panic.
        put(path, "{");
        assert_eq!(second.get(&id("x")).unwrap_err().kind(), ErrorKind::Corrupt);
        put(path, &text);
        second.close();
        end(c);
    }
    rig.end();
}
