//! Many containers at once, and several runtimes on the same directories: of two that do the same thing one wins, and
//! nothing is left.
#![expect(clippy::print_stdout, reason = "how a process in a role tells the test how it fared")]

mod again;
mod leftovers;

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Stdio as Std};
use std::sync::Barrier;
use std::time::Instant;

use leftovers::{Leftovers, SLEEP, eprint};
use stockade::container::{ContainerBuilder, ContainerConfig};
use stockade::instance::{DeleteMode, DeleteOptions, ExecOptions, Status};
use stockade::{ErrorKind, InstanceId, Rootfs, Runtime, SpawnStrategy};
use support::{HostSnapshot, PrivateDirs, require_fixture, require_root, scaled};

fn open(state: &Path, run: &Path) -> Runtime {
    Runtime::builder().state_dir(state).run_dir(run).open().unwrap()
}

fn config(name: &str, kind: usize) -> ContainerBuilder {
    let root = support::fixture("busybox").unwrap();
    let builder = ContainerConfig::builder(name).rootfs(Rootfs::overlay([root])).args(["sleep", SLEEP]);
    let builder = if kind & 1 == 0 { builder } else { builder.ephemeral() };
    if kind & 2 == 0 { builder } else { builder.privileged() }
}

fn stop() -> DeleteOptions {
    DeleteOptions::new().mode(DeleteMode::Stop)
}

/// Directories, with what a runtime keeps for itself in them.
fn dirs() -> (PrivateDirs, Leftovers) {
    let dirs = support::private_dirs_in_memory();
    let rt = open(dirs.state(), dirs.run());
    for kind in 0..4 {
        let c = rt.create(config("warm", kind).build().unwrap()).unwrap();
        c.start().unwrap();
        c.delete_with(stop()).unwrap();
    }
    rt.close();
    let leftovers = Leftovers::of(&dirs);
    (dirs, leftovers)
}

#[test]
fn a_hundred_lives_in_parallel() {
    let lives = scaled(100);
    let _serial = support::serial();
    require_root!();
    let _ = require_fixture!("busybox");
    let before = HostSnapshot::take();
    let (dirs, leftovers) = dirs();
    let rt = open(dirs.state(), dirs.run());
    let all = Barrier::new(lives);
    let start = Instant::now();
    std::thread::scope(|s| {
        for n in 0..lives {
            let (rt, all) = (&rt, &all);
            s.spawn(move || {
                let name = format!("{}{n}", leftovers::NAME);
                all.wait();
                let c = rt.create(config(&name, n).build().unwrap()).unwrap();
                c.start().unwrap_or_else(|e| panic!("{name}: {e}"));
                let ran = c.exec(ExecOptions::new(["true"])).unwrap().wait().unwrap();
                assert!(ran.success(), "{name}: {ran}");
                c.freeze().unwrap();
                c.unfreeze().unwrap();
                if !c.config().is_ephemeral() {
                    c.stop().unwrap();
                    c.rename(&format!("{name}r").parse().unwrap()).unwrap();
                    c.start().unwrap();
                }
                c.delete_with(stop()).unwrap();
            });
        }
    });
    eprint(&format!("{lives} lives in parallel in {:.1} s\n", start.elapsed().as_secs_f64()));
    assert_eq!(rt.list().unwrap().len(), 0);
    rt.close();
    leftovers.assert_none("lives in parallel");
    drop(dirs);
    before.assert_unchanged();
}

#[test]
fn a_thousand_at_once_and_then_none() {
    const THREADS: usize = 4;
    let many = scaled(1000);
    let _serial = support::serial();
    require_root!();
    let _ = require_fixture!("busybox");
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    support::require!(limit.is_none_or(|l| l >= 8192), "needs 8,192 descriptors, has {limit:?}");
    let before = HostSnapshot::take();
    let (dirs, leftovers) = dirs();
    let rt = open(dirs.state(), dirs.run());
    let start = Instant::now();
    // Who made them is another runtime than who ends them: the records have to serve.
    std::thread::scope(|s| {
        for thread in 0..THREADS {
            let rt = &rt;
            s.spawn(move || {
                for n in (thread..many).step_by(THREADS) {
                    let name = format!("{}{n}", leftovers::NAME);
                    let c = rt.create(config(&name, n | 1).build().unwrap()).unwrap();
                    c.start().unwrap_or_else(|e| panic!("{name}: {e}"));
                }
            });
        }
    });
    let up = start.elapsed();
    assert_eq!(leftovers.cgroups().len(), many);
    assert_eq!(leftovers.processes().len(), many);
    let second = open(dirs.state(), dirs.run());
    let opened = start.elapsed() - up;
    let all = second.list().unwrap();
    assert_eq!(all.len(), many);
    assert!(all.iter().all(|c| c.status() == Status::Running));
    drop(all);
    let list = start.elapsed() - up - opened;
    std::thread::scope(|s| {
        for thread in 0..THREADS {
            let rt = &second;
            s.spawn(move || {
                for n in (thread..many).step_by(THREADS) {
                    let id: InstanceId = format!("{}{n}", leftovers::NAME).parse().unwrap();
                    rt.container(&id).unwrap().delete_with(stop()).unwrap();
                }
            });
        }
    });
    eprint(&format!(
        "{many} containers at once: up after {:.1} s, a second runtime opened in {:.1} ms and listed them in {:.0} ms, \
         none after {:.1} s\n",
        up.as_secs_f64(),
        opened.as_secs_f64() * 1e3,
        list.as_secs_f64() * 1e3,
        start.elapsed().as_secs_f64()
    ));
    second.close();
    rt.close();
    leftovers.assert_none("many containers");
    drop(dirs);
    before.assert_unchanged();
}

/// Another process with a runtime on the same directories, which does what it is told, line by line.
struct Peer {
    child: Child,
    stdin: ChildStdin,
    out: BufReader<ChildStdout>,
}

impl Peer {
    fn new(test: &str, dirs: &PrivateDirs) -> Self {
        let mut command = again::command(&["timeout", "120"], test, "peer");
        command.env("STATE", dirs.state()).env("RUN", dirs.run());
        let mut child = command.stdin(Std::piped()).stdout(Std::piped()).spawn().unwrap();
        let stdin = child.stdin.take().unwrap();
        let mut out = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        while !line.ends_with("ready\n") {
            line.clear();
            assert_ne!(out.read_line(&mut line).unwrap(), 0, "the peer ended");
        }
        Self { child, stdin, out }
    }

    fn tell(&mut self, words: &str) {
        writeln!(self.stdin, "{words}").unwrap();
    }

    fn answer(&mut self) -> String {
        let mut line = String::new();
        self.out.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    fn end(mut self) {
        drop(self.stdin);
        assert!(self.child.wait().unwrap().success());
    }
}

/// What a peer is told: `VERB NAME`. Its answer is `ok` or the kind of the error.
fn serve() {
    let dir = |name| PathBuf::from(std::env::var_os(name).unwrap());
    let rt = open(&dir("STATE"), &dir("RUN"));
    println!("ready");
    for line in std::io::stdin().lines() {
        let line = line.unwrap();
        let (verb, name) = line.split_once(' ').unwrap();
        let done = act(&rt, verb, name);
        println!("{}", done.map_or_else(|kind| format!("{kind:?}"), |()| "ok".to_owned()));
    }
    rt.close();
}

fn act(rt: &Runtime, verb: &str, name: &str) -> Result<(), ErrorKind> {
    let find = || rt.container(&name.parse::<InstanceId>().unwrap());
    let done = match verb {
        "create" => rt.create(config(name, 0).build().unwrap()).map(drop),
        "start" => find().and_then(|c| c.start()),
        "stop" => find().and_then(|c| c.stop()),
        "delete" => find().and_then(|c| c.delete()),
        "rename" => find().and_then(|c| c.rename(&format!("{name}r").parse().unwrap())),
        other => panic!("{other}"),
    };
    done.map_err(|e| e.kind())
}

#[test]
fn of_two_processes_that_do_the_same_one_wins() {
    const TEST: &str = "of_two_processes_that_do_the_same_one_wins";
    let rounds = scaled(60);
    if again::role().is_some() {
        return serve();
    }
    let _serial = support::serial();
    require_root!();
    let _ = require_fixture!("busybox");
    let before = HostSnapshot::take();
    let (dirs, leftovers) = dirs();
    let mut peers = [Peer::new(TEST, &dirs), Peer::new(TEST, &dirs)];
    let mut tell = |verb: &str, name: &str| {
        peers.iter_mut().for_each(|p| p.tell(&format!("{verb} {name}")));
        peers.each_mut().map(Peer::answer)
    };
    let rt = open(dirs.state(), dirs.run());
    let mut lost = std::collections::BTreeMap::<(String, String), u32>::new();
    for round in 0..rounds {
        let name = format!("{}{round}", leftovers::NAME);
        let renamed = format!("{name}r");
        for verb in ["create", "start", "stop", "rename", "delete"] {
            let name = if verb == "delete" { &renamed } else { &name };
            let answers = tell(verb, name);
            let wins = answers.iter().filter(|a| *a == "ok").count();
            // Who comes to a stop when all is over finds that it is, which is what it wanted.
            let most = if verb == "stop" { 2 } else { 1 };
            assert!((1..=most).contains(&wins), "{verb}: {answers:?}");
            for answer in answers {
                let fair: &[&str] = match verb {
                    "create" => &["ok", "AlreadyExists"],
                    "start" | "stop" => &["ok", "Busy", "InvalidState"],
                    _ => &["ok", "Busy", "NotFound"],
                };
                assert!(fair.contains(&&*answer), "{verb}: {answer}");
                *lost.entry((verb.to_owned(), answer)).or_default() += 1;
            }
            let running = usize::from(verb == "start");
            assert_eq!(leftovers.processes().len(), running, "after {verb}");
            assert_eq!(leftovers.cgroups().len(), running, "after {verb}");
            let there = rt.list().unwrap().len();
            assert_eq!(there, usize::from(verb != "delete"), "after {verb}");
        }
    }
    eprint(&format!("two processes, {rounds} rounds: {lost:?}\n"));
    peers.into_iter().for_each(Peer::end);
    rt.close();
    leftovers.assert_none("two processes");
    drop(dirs);
    before.assert_unchanged();
}

#[test]
fn of_two_runtimes_in_one_process_one_wins() {
    let rounds = scaled(60);
    let _serial = support::serial();
    require_root!();
    let _ = require_fixture!("busybox");
    let before = HostSnapshot::take();
    let (dirs, leftovers) = dirs();
    let two = [open(dirs.state(), dirs.run()), open(dirs.state(), dirs.run())];
    for round in 0..rounds {
        let name = format!("{}{round}", leftovers::NAME);
        for verb in ["create", "start", "stop", "delete"] {
            let both = Barrier::new(2);
            let answers = std::thread::scope(|s| {
                let threads = two.each_ref().map(|rt| {
                    let (both, name) = (&both, &name);
                    s.spawn(move || {
                        both.wait();
                        act(rt, verb, name)
                    })
                });
                threads.map(|t| t.join().unwrap())
            });
            let wins = answers.iter().filter(|a| a.is_ok()).count();
            let most = if verb == "stop" { 2 } else { 1 };
            assert!((1..=most).contains(&wins), "{verb}: {answers:?}");
            assert_eq!(
                leftovers.processes().len(),
                usize::from(verb == "start"),
                "after {verb}: {answers:?}"
            );
        }
    }
    eprint(&format!("two runtimes in one process: {rounds} rounds\n"));
    two.into_iter().for_each(Runtime::close);
    leftovers.assert_none("two runtimes");
    drop(dirs);
    before.assert_unchanged();
}

/// The children of this process, ended or not, without those of the harness.
fn children() -> BTreeSet<u32> {
    let mut found = BTreeSet::new();
    for task in std::fs::read_dir("/proc/self/task").unwrap().flatten() {
        let text = std::fs::read_to_string(task.path().join("children")).unwrap_or_default();
        found.extend(text.split_whitespace().map(|pid| pid.parse::<u32>().unwrap()));
    }
    found
}

#[test]
fn an_exec_that_is_given_up_at_any_moment_leaves_no_child() {
    const EXECS: u32 = 600;
    let _serial = support::serial();
    require_root!();
    let _ = require_fixture!("busybox");
    let before = HostSnapshot::take();
    for strategy in [SpawnStrategy::Exec, SpawnStrategy::Fork] {
        let (dirs, leftovers) = dirs();
        let rt = Runtime::builder().state_dir(dirs.state()).run_dir(dirs.run()).spawn_strategy(strategy);
        let rt = rt.open().unwrap();
        let c = rt.create(config(&format!("{}x", leftovers::NAME), 0).build().unwrap()).unwrap();
        c.start().unwrap();
        let own = children();
        // As long as this machine takes for one, and half of that more.
        let one = |_| {
            let start = Instant::now();
            let process = c.exec(ExecOptions::new(["true"])).unwrap();
            let took = start.elapsed();
            assert!(process.wait().unwrap().success());
            took
        };
        let most = (0..10).map(one).min().unwrap() * 3 / 2;
        let (mut ran, mut given_up) = (0, 0);
        for n in 0..EXECS {
            match c.exec(ExecOptions::new(["true"]).deadline(most * n / EXECS)) {
                Ok(process) => {
                    assert!(process.wait().unwrap().success());
                    ran += 1;
                }
                Err(e) => {
                    assert_eq!(e.kind(), ErrorKind::Timeout, "{e}");
                    given_up += 1;
                }
            }
            assert_eq!(children(), own, "{strategy:?}: exec {n} left a child");
        }
        eprint(&format!("execs given up at any moment, {strategy:?}: {given_up}; {ran} ran\n"));
        assert!(given_up > 0);
        // A child that nobody reaps would keep the pid namespace, and with it the stop, from its end.
        c.delete_with(stop()).unwrap();
        rt.close();
        leftovers.assert_none("execs given up");
    }
    before.assert_unchanged();
}
