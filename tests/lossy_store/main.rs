//! The machine loses power: of the state directory only what was synced is there afterwards for sure. The next host
//! finds every container whose making was reported, whole, and none whose end was.
//!
//! A real host runs under `strace`. From its calls, and its own words between them, a model disk ([`disk`]) gives every
//! state that a crash could have left at any moment. Each is put into a directory, and a runtime opened on it. The run
//! directory is empty then: it is on a tmpfs.
#![expect(clippy::print_stdout, reason = "how the host tells the test what it does")]

#[path = "../again/mod.rs"]
mod again;
mod disk;
mod trace;

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Stdio as Std;
use std::sync::Arc;
use std::time::Instant;

use disk::{Disk, Entry, Tree};
use stockade::container::{Container, ContainerBuilder, ContainerConfig};
use stockade::{InstanceId, Rootfs, Runtime};
use support::{HostSnapshot, require, require_fixture, require_root};
use trace::Op;

/// What begins the host's words, among those of the test harness.
const SAYS: &str = "lossy: ";
/// Of the states after one call so many are tried, others after each call. `STOCKADE_LOSSY_STATES=100000` tries all.
const STATES: usize = 5;

fn open(state: &Path, run: &Path) -> Runtime {
    Runtime::builder().state_dir(state).run_dir(run).open().unwrap()
}

/// The container `name`. Its program tells which of several of that name it is.
fn config(name: &str, program: &str) -> ContainerBuilder {
    let root = support::fixture("busybox").unwrap();
    ContainerConfig::builder(name).rootfs(Rootfs::overlay([root])).args(["echo", program])
}

fn say(text: &str) {
    println!("{SAYS}{text}");
}

fn create(rt: &Runtime, config: ContainerBuilder) -> Arc<Container> {
    let config = config.build().unwrap();
    let name = config.id().to_string();
    let program = config.args().last().unwrap().to_string_lossy().into_owned();
    say(&format!("creates {name} {program}"));
    let made = rt.create(config).unwrap();
    say(&format!("made {name} {program}"));
    made
}

fn delete(c: &Container) {
    let name = c.id().to_string();
    say(&format!("deletes {name}"));
    c.delete().unwrap();
    say(&format!("deleted {name}"));
}

fn rename(c: &Arc<Container>, new: &str) {
    let old = c.id().to_string();
    say(&format!("renames {old} default/{new}"));
    c.rename(&new.parse().unwrap()).unwrap();
    say(&format!("renamed {old} default/{new}"));
}

/// A life of some containers.
fn life(state: &Path, run: &Path) {
    let rt = open(state, run);
    let a = create(&rt, config("a", "1"));
    let b = create(&rt, config("b", "2").privileged());
    rename(&a, "c");
    let again = create(&rt, config("a", "3"));
    for c in [&again, &b] {
        c.start().unwrap();
        c.wait().unwrap();
    }
    delete(&again);
    rename(&b, "a");
    let other = create(&rt, config("other/d", "4").privileged());
    delete(&a);
    drop((a, b, again));
    rt.close();
    let rt = open(state, run);
    let _ephemeral = rt.create(config("e", "5").ephemeral().build().unwrap()).unwrap();
    create(&rt, config("c", "6"));
    delete(&other);
    delete(&rt.container(&"default/a".parse().unwrap()).unwrap());
    rt.close();
}

/// One container, in directories that a host has made which was killed before it synced them.
fn one(state: &Path, run: &Path) {
    let rt = open(state, run);
    create(&rt, config("a", "1").privileged());
    rt.close();
}

/// What must be there and what may be, by the words of the host: names, each with its program.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Expected {
    must: BTreeMap<String, String>,
    /// Its making or its end was begun.
    may: BTreeMap<String, String>,
    /// A container that has the one name or the other.
    renames: Option<(String, String, String)>,
}

impl Expected {
    fn add(&mut self, line: &str) {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words[..] {
            ["creates", name, program] => {
                self.may.insert(name.into(), program.into());
            }
            ["made", name, program] => {
                self.may.remove(name);
                self.must.insert(name.into(), program.into());
            }
            ["deletes", name] => {
                let program = self.must.remove(name).unwrap();
                self.may.insert(name.into(), program);
            }
            ["deleted", name] => {
                self.may.remove(name).unwrap();
            }
            ["renames", old, new] => {
                self.renames = Some((old.into(), new.into(), self.must.remove(old).unwrap()));
            }
            ["renamed", ..] => {
                let (_, new, program) = self.renames.take().unwrap();
                self.must.insert(new, program);
            }
            _ => panic!("the host said: {line}"),
        }
    }

    fn check(&self, found: &BTreeMap<String, String>) -> Result<(), String> {
        let mut rest = found.clone();
        for (name, program) in &self.must {
            if rest.remove(name).as_ref() != Some(program) {
                return Err(format!("{name} was made, and is lost or another one"));
            }
        }
        if let Some((old, new, program)) = &self.renames {
            let there = [rest.remove(old), rest.remove(new)];
            if there.iter().flatten().collect::<Vec<_>>() != [program] {
                return Err(format!("of {old} and {new} one must be there: {there:?}"));
            }
        }
        for (name, program) in rest {
            if self.may.get(&name) != Some(&program) {
                return Err(format!("{name} ({program}) is there, and was deleted or never made"));
            }
        }
        Ok(())
    }
}

/// Puts a state of the disk into a directory.
fn build(tree: &Tree, base: &Path) {
    std::fs::DirBuilder::new().mode(0o700).create(base).unwrap();
    for (path, entry) in tree {
        let path = base.join(path);
        match entry {
            Entry::Dir => std::fs::DirBuilder::new().mode(0o700).create(path).unwrap(),
            Entry::File(bytes) => std::fs::write(path, bytes).unwrap(),
            Entry::Link(to) => symlink(to, path).unwrap(),
        }
    }
}

/// Instances by their directories: [`Runtime::list`] leaves out what it cannot read.
fn on_disk(state: &Path) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for project in std::fs::read_dir(state.join("instances")).unwrap().flatten() {
        for instance in std::fs::read_dir(project.path()).unwrap().flatten() {
            found.insert(format!("{}/{}", project.file_name().display(), instance.file_name().display()));
        }
    }
    found
}

/// Who has ids, and who should, by the files.
fn ids(state: &Path) -> (BTreeSet<String>, BTreeSet<String>) {
    let json = |path: PathBuf| -> serde_json::Value {
        std::fs::read(path).map_or(serde_json::Value::Null, |text| serde_json::from_slice(&text).unwrap())
    };
    let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
    let list = json(state.join("idmap.json"));
    let owners = list["ranges"].as_array().into_iter().flatten().map(|range| text(&range["owner"]));
    let mut should = BTreeSet::new();
    for name in on_disk(state) {
        let record = json(state.join("instances").join(name).join("record.json"));
        if record["record"]["config"]["args"].to_string().contains("echo")
            && !record["record"]["config"].to_string().contains("\"user\":\"host\"")
        {
            should.insert(text(&record["record"]["uuid"]));
        }
    }
    (owners.collect(), should)
}

/// Opens a runtime on what a crash left.
fn judge(tree: &Tree, expected: &Expected, state: &str, run: &Path) -> Result<usize, String> {
    let dir = support::private_dirs_in_memory();
    let base = dir.state().join("base");
    build(tree, &base);
    let state = base.join(state);
    let rt = Runtime::builder().state_dir(&state).run_dir(run).open().map_err(|e| e.to_string())?;
    let containers: Vec<Arc<Container>> = rt
        .list()
        .map_err(|e| e.to_string())?
        .iter()
        .map(|c| rt.container(&c.id()).map_err(|e| e.to_string()))
        .collect::<Result<_, _>>()?;
    let found: BTreeMap<String, String> = containers
        .iter()
        .map(|c| (c.id().to_string(), c.config().args().last().unwrap().to_string_lossy().into_owned()))
        .collect();
    let names: BTreeSet<String> = found.keys().cloned().collect();
    if on_disk(&state) != names {
        return Err(format!("half-made: {:?}, and whole {names:?}", on_disk(&state)));
    }
    expected.check(&found)?;
    let (have, should) = ids(&state);
    if have != should {
        return Err(format!("{have:?} have ids, and {should:?} should"));
    }
    // A name that is free can be taken, and all can be ended.
    for name in ["a", "b", "other/d"] {
        let id: InstanceId = name.parse().unwrap();
        if !names.contains(&id.to_string()) {
            let made = rt.create(config(name, "new").build().unwrap()).map_err(|e| format!("create: {e}"))?;
            made.delete().map_err(|e| format!("delete what was new: {e}"))?;
            break;
        }
    }
    for c in &containers {
        c.delete().map_err(|e| format!("delete: {e}"))?;
    }
    drop(containers);
    rt.close();
    drop(open(&state, run));
    let left: Vec<_> = std::fs::read_dir(state.join("instances")).unwrap().collect();
    let (have, _) = ids(&state);
    if !left.is_empty() || !have.is_empty() {
        return Err(format!("left: {left:?} and ids of {have:?}"));
    }
    Ok(names.len())
}

/// Runs a host under `strace`; what it did below `base`.
fn traced(test: &str, role: &str, base: &Path, run: &Path) -> Vec<Op> {
    let log = run.join("trace");
    let log_text = log.to_str().unwrap();
    let around = [
        "strace",
        "-f",
        "-y",
        "-xx",
        "-qq",
        "-s",
        "1000000",
        "-e",
        "signal=none",
        "-e",
        trace::CALLS,
        "-o",
        log_text,
    ];
    let mut command = again::command(&around, test, role);
    command.env("STATE", base.join("new/state")).env("RUN", run.join("run"));
    let out = command.stdout(Std::piped()).stderr(Std::piped()).output().unwrap();
    let said = String::from_utf8_lossy(&out.stdout);
    assert!(out.status.success(), "{said}{}", String::from_utf8_lossy(&out.stderr));
    let ops = trace::parse(&std::fs::read_to_string(&log).unwrap(), base.to_str().unwrap());
    std::fs::remove_file(log).unwrap();
    ops
}

/// The first, the last, and of the others every so many from place `n` on.
fn some_of(mut all: Vec<Tree>, n: usize, most: usize) -> Vec<Tree> {
    if all.len() <= most {
        return all;
    }
    let last = all.pop();
    let first = all.remove(0);
    let step = all.len().div_ceil(most - 2);
    let others = all.into_iter().skip(n % step).step_by(step);
    std::iter::once(first).chain(others).chain(last).collect()
}

#[test]
fn what_was_reported_survives_a_loss_of_power() {
    const TEST: &str = "what_was_reported_survives_a_loss_of_power";
    let dir = |name| PathBuf::from(std::env::var_os(name).unwrap());
    match again::role().as_deref() {
        Some("life") => return life(&dir("STATE"), &dir("RUN")),
        Some("one") => return one(&dir("STATE"), &dir("RUN")),
        _ => {}
    }
    let _serial = support::serial();
    require_root!();
    let _ = require_fixture!("busybox");
    require!(std::process::Command::new("strace").arg("-V").output().is_ok(), "needs strace");
    let before = HostSnapshot::take();
    let start = Instant::now();
    let most = std::env::var("STOCKADE_LOSSY_STATES").map_or(STATES, |n| n.parse().unwrap());
    for role in ["one", "life"] {
        let dirs = support::private_dirs_in_memory();
        let mut disk = Disk::new();
        if role == "one" {
            let made = ["new", "new/state", "new/state/instances", "new/state/instances/default"];
            for dir in made {
                std::fs::DirBuilder::new().mode(0o700).create(dirs.state().join(dir)).unwrap();
                disk.apply(&Op::Mkdir(dir.into()));
            }
            // The state directory itself was there before.
            disk.apply(&Op::Sync(String::new()));
            disk.apply(&Op::Sync("new".into()));
        }
        let ops = traced(TEST, role, dirs.state(), dirs.run());
        let count = |is: fn(&Op) -> bool| ops.iter().filter(|op| is(op)).count();
        let syncs = count(|op| matches!(op, Op::Sync(_)));
        let renames = count(|op| matches!(op, Op::Rename(..)));
        assert!(syncs > 2 && renames > 0, "the trace is not read: {ops:?}");
        let mut expected = Expected::default();
        let mut seen = BTreeSet::new();
        let (mut possible, mut states, mut containers) = (0, 0, 0);
        for (n, op) in ops.iter().enumerate() {
            disk.apply(op);
            if let Op::Said(text) = op {
                let said = text.lines().filter_map(|line| line.split_once(SAYS));
                said.for_each(|(_, line)| expected.add(line));
            }
            let all = disk.crashes();
            possible += all.len();
            for tree in some_of(all, n, most) {
                if !seen.insert((tree.clone(), expected.clone())) {
                    continue;
                }
                let run = dirs.run().join(format!("after-{states}"));
                states += 1;
                match judge(&tree, &expected, "new/state", &run) {
                    Ok(found) => containers += found,
                    Err(why) => panic!(
                        "{role}: a crash after call {n}, {op:?}: {why}\nexpected: {expected:?}\non the disk: {tree:#?}"
                    ),
                }
                let _ = std::fs::remove_dir_all(run);
            }
        }
        let text = format!(
            "lossy store, {role}: {} calls ({syncs} syncs, {renames} renames), {possible} states after a crash, \
             {states} of them tried, {containers} containers found in them, {:.1} s\n",
            ops.len(),
            start.elapsed().as_secs_f64()
        );
        let _ = std::io::stderr().write_all(text.as_bytes());
        assert!(states >= ops.len() / 2 && containers > 0, "{states} states, {containers} containers");
    }
    before.assert_unchanged();
}
