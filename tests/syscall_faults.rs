//! A fault in each system call that the host itself makes in a container's life, by `strace`'s injection: every call of
//! the library ends, with success or an error, and nothing is left.
//!
//! All of them take minutes: by itself the test does what it has time for. `STOCKADE_PART=K/N` has it do the whole of one
//! of N parts, however long that takes; the N parts are all faults, as in `cargo xtask test --repeat N`.
#![expect(clippy::print_stdout, reason = "how the driver tells the test how it fared")]

mod again;
mod leftovers;

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio as Std};
use std::time::{Duration, Instant};

use leftovers::{Leftovers, Random, SLEEP, eprint};
use stockade::container::{ContainerBuilder, ContainerConfig};
use stockade::instance::{DeleteMode, DeleteOptions, ExecOptions, StartOptions};
use stockade::{ErrorKind, Rootfs, Runtime};
use support::{HostSnapshot, PrivateDirs, require_fixture, require_root, scaled};

const ERRORS: [&str; 6] = ["EPERM", "ENOSYS", "ENOMEM", "EINTR", "EBUSY", "ENOSPC"];
/// Memory and locks of the program itself, where the standard library gives up; calls that cannot fail; and `close`,
/// which closes whatever it says.
const LEFT_OUT: &str = "mmap munmap mremap mprotect madvise brk futex rt_sigprocmask rt_sigreturn sigaltstack \
                        clock_nanosleep sched_yield getpid gettid geteuid getegid getuid getgid exit exit_group close restart_syscall";
/// How long to go on without `STOCKADE_PART`: each fault is tried once at each place first, then the next fault.
const BUDGET: Duration = Duration::from_secs(50);
/// What is only slow must not end here.
const HANG: &str = "60";

fn open(state: &Path, run: &Path) -> Runtime {
    Runtime::builder().state_dir(state).run_dir(run).open().unwrap()
}

fn config(kind: usize) -> ContainerBuilder {
    let root = support::fixture("busybox").unwrap();
    let name = format!("{}one", leftovers::NAME);
    let builder = ContainerConfig::builder(name).rootfs(Rootfs::overlay([root])).args(["sleep", SLEEP]);
    if kind == 0 { builder } else { builder.ephemeral().privileged() }
}

fn stop() -> DeleteOptions {
    DeleteOptions::new().mode(DeleteMode::Stop)
}

/// A whole life, whatever fails in it. The calls between the two lines are those that are counted.
fn drive() {
    let dir = |name| PathBuf::from(std::env::var_os(name).unwrap());
    let kind: usize = std::env::var("KIND").unwrap().parse().unwrap();
    let rt = open(&dir("STATE"), &dir("RUN"));
    let config = config(kind).build().unwrap();
    // Another thread reads, so that what is counted here does not begin with a read or without.
    let word = std::thread::spawn(|| std::io::stdin().lines().next());
    println!("thread {}", rustix::thread::gettid());
    word.join().unwrap().unwrap().unwrap();
    let mut failed = Vec::new();
    let mut note = |verb: &'static str, done: stockade::Result<()>| {
        if let Err(e) = done {
            failed.push(format!("{verb}: {:?}: {e}", e.kind()));
        }
    };
    match rt.create(config) {
        Ok(c) => {
            let start = StartOptions::new().deadline(Duration::from_secs(20));
            note("start", c.start_with(start).map(drop));
            let ran = c.exec(ExecOptions::new(["true"])).and_then(|p| p.wait());
            note("exec", ran.map(drop));
            note("stop", c.stop());
            match c.delete_with(stop()) {
                // An ephemeral one goes with its stop.
                Err(e) if e.kind() == ErrorKind::NotFound && kind == 1 => {}
                done => note("delete", done),
            }
        }
        Err(e) => note("create", Err(e)),
    }
    println!("done {}", failed.join(" | "));
    rt.close();
}

/// Runs the driver under `strace` with these arguments, from its `ready` to its end; says what it said.
fn run(test: &str, kind: usize, dirs: &PrivateDirs, strace: &[&str]) -> Result<String, String> {
    let mut command = again::command(&["timeout", "-s", "KILL", HANG], test, "driver");
    command.env("STATE", dirs.state()).env("RUN", dirs.run()).env("KIND", kind.to_string());
    command.stdin(Std::piped()).stdout(Std::piped()).stderr(Std::piped());
    let mut driver = command.spawn().unwrap();
    let mut out = BufReader::new(driver.stdout.take().unwrap());
    let mut line = String::new();
    let thread = loop {
        line.clear();
        assert_ne!(out.read_line(&mut line).unwrap(), 0, "the driver ended");
        // The harness's own words come first, on the same line.
        if let Some((_, thread)) = line.trim_end().rsplit_once("thread ") {
            break thread.to_owned();
        }
    };
    // That thread alone: no child, and not the harness.
    let mut tracer = Command::new("strace");
    tracer.args(["-p", &thread]).args(strace).stdout(Std::null()).stderr(Std::piped());
    let mut tracer = tracer.spawn().unwrap();
    let mut words = BufReader::new(tracer.stderr.take().unwrap());
    let mut attached = String::new();
    words.read_line(&mut attached).unwrap();
    assert!(attached.contains("attached"), "strace: {attached}");
    driver.stdin.take().unwrap().write_all(b"go\n").unwrap();
    let (mut said, mut failed) = (String::new(), String::new());
    // The containers have no stream of the driver, so this is its end.
    out.read_to_string(&mut said).unwrap();
    driver.stderr.take().unwrap().read_to_string(&mut failed).unwrap();
    let status = driver.wait().unwrap();
    let mut rest = String::new();
    words.read_to_string(&mut rest).unwrap();
    tracer.wait().unwrap();
    if status.success() { Ok(said) } else { Err(format!("{status}: {said}{failed}")) }
}

/// The calls of one life, each with how often it is made, and which of those are the driver's own words.
fn calls(test: &str, kind: usize, dirs: &PrivateDirs) -> Vec<(String, u32)> {
    let log = dirs.state().join("calls");
    let said = run(test, kind, dirs, &["-o", log.to_str().unwrap()]).unwrap();
    assert!(said.contains("done \n"), "{said}");
    let text = std::fs::read_to_string(&log).unwrap();
    std::fs::remove_file(log).unwrap();
    let mut counts = BTreeMap::<&str, u32>::new();
    let mut found = Vec::new();
    for line in text.lines() {
        let Some((name, rest)) = line.split_once('(') else { continue };
        let n = counts.entry(name).or_default();
        *n += 1;
        if name == "write" && rest.starts_with("1, \"done") {
            break;
        }
        let own = matches!(name, "read" | "write") && (rest.starts_with("0,") || rest.starts_with("1,"));
        if !own && !LEFT_OUT.split_whitespace().any(|out| out == name) {
            found.push((name.to_owned(), *n));
        }
    }
    found
}

/// One of some parts of all faults.
#[derive(Clone, Copy)]
struct Part {
    number: u64,
    of: u64,
}

impl Part {
    /// What the environment asks for: `STOCKADE_PART`, counted from 1.
    fn asked() -> Option<Self> {
        let asked = std::env::var("STOCKADE_PART").ok()?;
        let part = asked
            .split_once('/')
            .and_then(|(number, of)| Some(Self { number: number.parse().ok()?, of: of.parse().ok()? }));
        let part = part.filter(|part| (1..=part.of).contains(&part.number));
        Some(part.unwrap_or_else(|| panic!("STOCKADE_PART={asked} is no K/N")))
    }

    /// Whether the fault is in this part. It is told by what it is, not by its place in the list: a call that is made in
    /// one run of the test and not in the next puts no other fault into another part.
    fn has(self, kind: usize, name: &str, n: u32, round: usize) -> bool {
        let mut hasher = DefaultHasher::new();
        (kind, name, n, round).hash(&mut hasher);
        Random(hasher.finish()).below(self.of) == self.number - 1
    }
}

#[test]
fn parts_are_all_faults_and_no_fault_is_in_two() {
    for n in 0..500 {
        let has = |number| Part { number, of: 7 }.has(1, "openat", n, 3);
        assert_eq!((1..=7).filter(|number| has(*number)).count(), 1);
    }
    let (three, all) = (Part { number: 3, of: 7 }, 500);
    let of_three = (0..all).filter(|n| three.has(0, "read", *n, 0)).count();
    assert!((40..110).contains(&of_three), "{of_three} of {all}");
}

#[test]
fn a_fault_in_each_call_of_the_host() {
    const TEST: &str = "a_fault_in_each_call_of_the_host";
    if again::role().is_some() {
        return drive();
    }
    let _serial = support::serial();
    require_root!();
    let _ = require_fixture!("busybox");
    support::require!(Command::new("strace").arg("-V").output().is_ok(), "needs strace");
    let before = HostSnapshot::take();
    let dirs = support::private_dirs_in_memory();
    for kind in 0..2 {
        let rt = open(dirs.state(), dirs.run());
        let c = rt.create(config(kind).build().unwrap()).unwrap();
        c.start().unwrap();
        c.delete_with(stop()).unwrap();
    }
    let leftovers = Leftovers::of(&dirs);
    let start = Instant::now();
    let places: Vec<(usize, String, u32)> = (0..2)
        .flat_map(|kind| calls(TEST, kind, &dirs).into_iter().map(move |(name, n)| (kind, name, n)))
        .collect();
    leftovers.assert_none("without a fault");
    let places: Vec<_> = places.into_iter().step_by(100 / scaled(100)).collect();
    let part = Part::asked();
    let all = places.len() * ERRORS.len();
    let (mut tried, mut told, mut due) = (0_usize, 0_usize, 0_usize);
    'all: for round in 0..ERRORS.len() {
        for (kind, name, n) in &places {
            if part.is_some_and(|part| !part.has(*kind, name, *n, round)) {
                continue;
            }
            due += 1;
            // On a slow machine it goes on until half of the places have had one.
            if part.is_none() && start.elapsed() > BUDGET && tried >= places.len() / 2 {
                break 'all;
            }
            let error = ERRORS[(*n as usize + round) % ERRORS.len()];
            let fault = format!("inject={name}:error={error}:when={n}");
            let what = format!("kind {kind}, {fault}");
            let trace = format!("trace={name}");
            let said = run(TEST, *kind, &dirs, &["-e", &trace, "-e", &fault, "-o", "/dev/null"]);
            let said = said.unwrap_or_else(|why| panic!("{what}: {why}"));
            tried += 1;
            told += usize::from(!said.contains("done \n"));
            // What could not be removed because of the fault can be now.
            let rt = open(dirs.state(), dirs.run());
            for c in rt.list().unwrap() {
                c.delete_with(stop()).unwrap_or_else(|e| panic!("{what}: {e}; {said}"));
            }
            rt.close();
            // Empty directories of projects go with the next open.
            open(dirs.state(), dirs.run()).close();
            leftovers.assert_none(&format!("{what}: {said}"));
        }
    }
    let seconds = start.elapsed().as_secs_f64();
    match part {
        Some(Part { number, of }) => {
            eprint(&format!(
                "part {number}/{of}: {tried} faults in the host's calls tried, {told} were told of\n"
            ));
            eprint(&format!(
                "all parts: {all} faults at {} places; this one took {seconds:.0} s\n",
                places.len()
            ));
            assert_eq!(tried, due);
            // Small parts may hold but a few that matter.
            assert!(tried > 0 && (told > tried / 4 || tried < 50), "{tried} tried, {told} told of");
        }
        None => {
            eprint(&format!(
                "faults in the host's calls: {tried} of {all} tried, {told} were told of, in {seconds:.0} s\n"
            ));
            assert!(
                tried >= places.len() / 2 && told > tried / 4,
                "{tried} of {} places, {told}",
                places.len()
            );
        }
    }
    drop(dirs);
    before.assert_unchanged();
}
