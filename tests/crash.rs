//! A host that is killed at any moment of a mixed load: the next one finds every container that was reported as made,
//! none half-made, and nothing else.
#![expect(clippy::print_stdout, reason = "how the host tells the test what it does")]

mod again;
mod leftovers;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::Stdio as Std;
use std::sync::Arc;
use std::time::{Duration, Instant};

use leftovers::{Leftovers, Random, SLEEP, eprint};
use stockade::container::{CgroupConfig, Container, ContainerBuilder, ContainerConfig};
use stockade::instance::{DeleteMode, DeleteOptions, ExecOptions, Status, WaitOptions};
use stockade::namespaces::{NamespaceKind, NamespaceSource, Target};
use stockade::{ErrorKind, InstanceId, Rootfs, Runtime};
use support::{HostSnapshot, require_fixture, require_root, scaled};

/// How often the host is killed.
const KILLS: u64 = 200;
/// The longest time from its first word to its end, or that of four containers where they take longer.
const LIFE: Duration = Duration::from_millis(40);
/// Threads that work in it.
const THREADS: u64 = 2;
/// What is left of the work after this long is left out, loudly: other tests want their turn.
const BUDGET: Duration = Duration::from_secs(150);

fn open(state: &Path, run: &Path) -> Runtime {
    Runtime::builder().state_dir(state).run_dir(run).open().unwrap()
}

/// How many kinds there are.
const KINDS: u64 = 10;

/// One of the kinds: durable or ephemeral, with a user namespace or without; with a cgroup or without; or out of a pool.
fn config(name: &str, kind: u64) -> ContainerBuilder {
    let root = support::fixture("busybox").unwrap();
    let builder = ContainerConfig::builder(name).args(["sleep", SLEEP]);
    if kind >= 8 {
        let builder = builder.rootfs(Rootfs::dir(root)).read_only_root().ephemeral();
        return if kind & 1 == 0 { builder } else { builder.privileged() };
    }
    let builder = builder.rootfs(Rootfs::overlay([root]));
    let builder = if kind & 1 == 0 { builder } else { builder.ephemeral() };
    let builder = if kind & 2 == 0 { builder } else { builder.privileged() };
    if kind & 4 == 0 { builder } else { builder.cgroup(CgroupConfig::None) }
}

/// One that shares a pod with `first`.
fn member(name: &str, first: &Container) -> ContainerBuilder {
    let target = || NamespaceSource::Join(Target::Instance((*first.id()).clone()));
    let builder = config(name, if is_privileged(first) { 2 } else { 0 });
    let kinds = [NamespaceKind::Net, NamespaceKind::Ipc, NamespaceKind::Pid];
    let users = (!is_privileged(first)).then_some(NamespaceKind::User);
    kinds.into_iter().chain(users).fold(builder, |b, kind| b.namespace(kind, target()))
}

fn is_privileged(c: &Container) -> bool {
    *c.config().namespaces().get(NamespaceKind::User) == NamespaceSource::Host
}

fn is_member(c: &Container) -> bool {
    matches!(c.config().namespaces().get(NamespaceKind::Pid), NamespaceSource::Join(_))
}

fn has_cgroup(c: &Container) -> bool {
    c.config().cgroup() != CgroupConfig::None
}

/// Starts it. A member of a pod cannot run where the pod's first container does not.
fn start(c: &Container) -> bool {
    match c.start() {
        Err(e) if is_member(c) && matches!(e.kind(), ErrorKind::InvalidState | ErrorKind::NotFound) => false,
        done => {
            done.unwrap_or_else(|e| panic!("{:?}: {e}", c.id()));
            true
        }
    }
}

/// What the host does until it is killed: a line before what takes a container away, and one after what makes one.
fn work(rt: &Runtime, thread: u64, seed: u64) {
    let mut random = Random(seed * THREADS + thread + 1);
    let mut containers: BTreeMap<String, Arc<Container>> = BTreeMap::new();
    for n in 0_usize.. {
        let some = containers.iter().nth(random.below(containers.len().max(1) as u64) as usize);
        let some = some.map(|(name, c)| (name.clone(), Arc::clone(c)));
        // Some lives begin with a pod, for which a short one would be too short else.
        let op = match n {
            0..3 if (seed + thread) % 4 == 1 => [0, 2, 9][n],
            _ => random.below(11),
        };
        match (op, some) {
            (0 | 1, _) | (_, None) if containers.len() < 4 => {
                let name = format!("{}t{thread}-{seed}-{n}", leftovers::NAME);
                let c = rt.create(config(&name, random.below(KINDS)).build().unwrap()).unwrap();
                println!("made {name}");
                containers.insert(name, c);
            }
            (2 | 3, Some((_, c))) if c.status() == Status::Stopped => drop(start(&c)),
            (4, Some((_, c))) if c.status() == Status::Running => {
                let _ = c.exec(ExecOptions::new(["true"])).unwrap().wait().unwrap();
            }
            (5, Some((_, c))) if c.status() == Status::Running && has_cgroup(&c) => {
                c.freeze().unwrap();
                c.unfreeze().unwrap();
            }
            (6, Some((name, c))) if c.status() == Status::Running => {
                if c.config().is_ephemeral() {
                    println!("gone? {name}");
                    containers.remove(&name);
                }
                c.stop().unwrap();
            }
            (7, Some((name, c))) if c.status() == Status::Stopped => {
                let new = format!("{name}r");
                println!("renames {name} {new}");
                c.rename(&new.parse().unwrap()).unwrap();
                println!("made {new}");
                containers.remove(&name);
                containers.insert(new, c);
            }
            (8, Some((name, c))) => {
                println!("gone? {name}");
                containers.remove(&name);
                c.delete_with(DeleteOptions::new().mode(DeleteMode::Stop)).unwrap();
            }
            (9 | 10, Some((_, first))) if first.status() == Status::Running && !is_member(&first) => {
                let name = format!("{}t{thread}-{seed}-{n}m", leftovers::NAME);
                let c = rt.create(member(&name, &first).build().unwrap()).unwrap();
                println!("made {name}");
                containers.insert(name, Arc::clone(&c));
                assert!(start(&c));
            }
            _ => {}
        }
    }
}

/// What must be there, and what may be, by the lines of the host.
#[derive(Default)]
struct Expected {
    must: BTreeSet<String>,
    /// Its creation or its end was not reported. Of two names of a rename one is there.
    either: Vec<(String, String)>,
}

impl Expected {
    fn add(&mut self, line: &str) {
        let mut words = line.split(' ');
        match (words.next(), words.next(), words.next()) {
            (Some("made"), Some(name), None) => {
                self.either.retain(|(_, new)| new != name);
                self.must.insert(name.to_owned());
            }
            (Some("gone?"), Some(name), None) => {
                self.must.remove(name);
            }
            (Some("renames"), Some(old), Some(new)) => {
                self.must.remove(old);
                self.either.push((old.to_owned(), new.to_owned()));
            }
            _ => {}
        }
    }

    #[track_caller]
    fn check(&self, names: &BTreeSet<String>, seed: u64) {
        for name in &self.must {
            assert!(names.contains(name), "seed {seed}: {name} was made and is lost; there are {names:?}");
        }
        for (old, new) in &self.either {
            let there = [old, new].into_iter().filter(|n| names.contains(*n)).count();
            assert_eq!(there, 1, "seed {seed}: of {old} and {new} one must be there: {names:?}");
        }
    }
}

fn runs(c: &Container) -> stockade::Result<()> {
    if c.status() == Status::Frozen {
        c.unfreeze()?;
    }
    let ran = c.exec(ExecOptions::new(["true"]))?.wait()?;
    // With the container its command ends too.
    assert!(ran.success() || c.status() == Status::Stopped, "{ran}");
    Ok(())
}

/// Makes sure that a container is whole: runs, or can be started, or can be deleted; it is gone afterwards.
fn whole(c: &Container, counts: &mut BTreeMap<&'static str, u32>) {
    let what = match c.status() {
        Status::Running | Status::Frozen => match runs(c) {
            // The host was killed in the middle of a stop.
            Err(e) if e.kind() == ErrorKind::InvalidState => {
                c.wait_with(WaitOptions::new().deadline(Duration::from_secs(20))).unwrap();
                "stopping"
            }
            done => {
                done.unwrap();
                "running"
            }
        },
        Status::Stopped => "stopped",
        other => panic!("{:?} is {other}", c.id()),
    };
    *counts.entry(what).or_default() += 1;
    if what != "running" && !start(c) {
        *counts.entry("first of the pod is gone").or_default() += 1;
    }
    let stop = DeleteOptions::new().mode(DeleteMode::Stop);
    match c.delete_with(stop) {
        Err(e) if e.kind() == ErrorKind::NotFound && c.config().is_ephemeral() => {}
        done => done.unwrap(),
    }
}

/// Instances by their directories: [`Runtime::list`] leaves out what it cannot read.
fn on_disk(dirs: &support::PrivateDirs) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for dir in [dirs.state(), dirs.run()] {
        let Ok(names) = std::fs::read_dir(dir.join("instances/default")) else { continue };
        found.extend(names.flatten().map(|e| e.file_name().to_string_lossy().into_owned()));
    }
    found
}

#[test]
fn a_host_is_killed_at_any_moment() {
    const TEST: &str = "a_host_is_killed_at_any_moment";
    let dir = |name| PathBuf::from(std::env::var_os(name).unwrap());
    let role = again::role();
    if role.as_deref() == Some("judge") {
        return judge(TEST);
    }
    if role.is_some() {
        let rt = open(&dir("STATE"), &dir("RUN"));
        let seed: u64 = std::env::var("SEED").unwrap().parse().unwrap();
        println!("ready");
        std::thread::scope(|s| {
            // Not all that are killed have pools: those leave the time to others.
            let pools = [8, 9].into_iter().take(if seed.is_multiple_of(2) { 2 } else { 0 });
            let rt = &rt;
            s.spawn(move || {
                for kind in pools {
                    rt.prewarm(config("template", kind).build().unwrap(), 2).unwrap();
                }
            });
            for thread in 0..THREADS {
                s.spawn(move || work(rt, thread, seed));
            }
        });
        return;
    }
    let _serial = support::serial();
    require_root!();
    let _ = require_fixture!("busybox");
    let before = HostSnapshot::take();
    reaping_for(again::command(&[], TEST, "judge"));
    before.assert_unchanged();
}

/// Runs a process of the test and reaps what it and its own leave, as a good init does: others take their time.
#[expect(
    clippy::disallowed_methods,
    clippy::zombie_processes,
    reason = "it waits for whatever child there is"
)]
fn reaping_for(mut command: std::process::Command) {
    rustix::process::set_child_subreaper(Some(rustix::process::getpid())).unwrap();
    // Its harness reports like this one's, which counts.
    let judge = command.stdout(Std::null()).spawn().unwrap();
    let pid = rustix::process::Pid::from_child(&judge);
    let status = loop {
        match rustix::process::wait(rustix::process::WaitOptions::empty()) {
            Ok(Some((ended, status))) if ended == pid => break status,
            Ok(_) => {}
            Err(e) => panic!("wait: {e}"),
        }
    };
    while let Ok(Some(_)) = rustix::process::wait(rustix::process::WaitOptions::NOHANG) {}
    rustix::process::set_child_subreaper(None).unwrap();
    assert_eq!(status.exit_status(), Some(0));
}

/// What is counted: kills, what they left, in which state that was, and of which kinds.
const COUNTED: [&str; 9] = [
    "kills",
    "containers",
    "running",
    "stopping",
    "stopped",
    "in a pod",
    "first of the pod is gone",
    "without a cgroup",
    "for a pool",
];

/// Kills hosts and looks at what they leave.
fn judge(test: &str) {
    let dirs = support::private_dirs_in_memory();
    let start = Instant::now();
    {
        let rt = open(dirs.state(), dirs.run());
        for kind in 0..KINDS {
            let c = rt.create(config("warm", kind).build().unwrap()).unwrap();
            c.start().unwrap();
            c.delete_with(DeleteOptions::new().mode(DeleteMode::Stop)).unwrap();
        }
    }
    let longest = LIFE.max(start.elapsed());
    let leftovers = Leftovers::of(&dirs);
    let mut counts: BTreeMap<&'static str, u32> = COUNTED.into_iter().map(|name| (name, 0)).collect();
    let kills = scaled(KILLS as usize) as u64;
    for seed in 0..kills {
        if start.elapsed() > BUDGET {
            eprint(&format!("out of time after {seed} kills of {kills}\n"));
            assert!(seed >= kills / 4, "far too slow");
            break;
        }
        let mut command = again::command(&[], test, "host");
        command.env("STATE", dirs.state()).env("RUN", dirs.run()).env("SEED", seed.to_string());
        let mut host = command.stdout(Std::piped()).stderr(Std::piped()).spawn().unwrap();
        let mut out = BufReader::new(host.stdout.take().unwrap());
        let mut line = String::new();
        // The harness's own words come first, on the same line.
        while !line.ends_with("ready\n") {
            line.clear();
            assert_ne!(out.read_line(&mut line).unwrap(), 0, "seed {seed}: the host ended");
        }
        let life = Random(seed + 12_345).below(longest.as_micros() as u64);
        std::thread::sleep(Duration::from_micros(life));
        host.kill().unwrap();
        let status = host.wait().unwrap();
        let mut failed = String::new();
        let mut said = String::new();
        let at_once = seed % 2 == 0;
        let first = at_once.then(|| {
            // While children that it made go on to their programs, or to their end.
            let rt = open(dirs.state(), dirs.run());
            let all: Vec<Status> = rt.list().unwrap().iter().map(|c| c.status()).collect();
            assert!(!all.contains(&Status::Error), "seed {seed}: {all:?}");
            rt
        });
        // The end of its output comes when no child has it open any more.
        out.read_to_string(&mut said).unwrap();
        host.stderr.take().unwrap().read_to_string(&mut failed).unwrap();
        assert_eq!(
            std::os::unix::process::ExitStatusExt::signal(&status),
            Some(9),
            "seed {seed}: {said}{failed}"
        );
        drop(first);

        let mut expected = Expected::default();
        // What was cut off was not reported.
        said.split_inclusive('\n').filter_map(|l| l.strip_suffix('\n')).for_each(|l| expected.add(l));
        let rt = open(dirs.state(), dirs.run());
        let names: BTreeSet<String> = rt.list().unwrap().iter().map(|c| c.id().name.to_string()).collect();
        assert_eq!(on_disk(&dirs), names, "seed {seed}: half-made");
        expected.check(&names, seed);
        let mut running = BTreeSet::new();
        for name in &names {
            let c = rt.container(&name.parse::<InstanceId>().unwrap()).unwrap();
            running.extend(c.info().unwrap().cgroup);
        }
        assert_eq!(leftovers.cgroups(), running, "seed {seed}: cgroups after the open");
        // A member of a pod while its first container is there.
        let mut all: Vec<_> =
            names.iter().map(|n| rt.container(&n.parse::<InstanceId>().unwrap()).unwrap()).collect();
        all.sort_by_key(|c| !is_member(c));
        for c in &all {
            let kinds = [
                ("in a pod", is_member(c)),
                ("without a cgroup", !has_cgroup(c)),
                ("for a pool", matches!(c.config().rootfs(), Rootfs::Dir(_))),
            ];
            kinds.iter().filter(|(_, is)| *is).for_each(|(kind, _)| *counts.entry(kind).or_default() += 1);
            whole(c, &mut counts);
        }
        drop(all);
        *counts.entry("containers").or_default() += names.len() as u32;
        rt.close();
        leftovers.assert_none(&format!("seed {seed}"));
        *counts.entry("kills").or_default() += 1;
    }
    eprint(&format!("killed hosts: {counts:?} in {:.0} s\n", start.elapsed().as_secs_f64()));
    assert!(counts["containers"] > counts["kills"], "{counts:?}: the host does too little");
    for kind in ["in a pod", "without a cgroup", "for a pool"] {
        assert!(counts[kind] > 0, "{counts:?}: none is {kind}");
    }
}
