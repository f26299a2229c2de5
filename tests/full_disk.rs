//! A disk that is full at each write of a container's life, and the order in which what must last is flushed.

mod again;
mod leftovers;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio as Std};

use leftovers::{SLEEP, eprint};
use stockade::container::{ContainerBuilder, ContainerConfig};
use stockade::instance::{DeleteMode, DeleteOptions};
use stockade::{ErrorKind, Rootfs, Runtime};
use support::{HostSnapshot, require_fixture, require_root};

/// More pages than a life needs.
const MOST: usize = 40;

fn open(state: &Path, run: &Path) -> stockade::Result<Runtime> {
    Runtime::builder().state_dir(state).run_dir(run).open()
}

fn config(ephemeral: bool) -> ContainerBuilder {
    let root = support::fixture("busybox").unwrap();
    let name = format!("{}one", leftovers::NAME);
    let builder = ContainerConfig::builder(name).rootfs(Rootfs::overlay([root])).args(["sleep", SLEEP]);
    if ephemeral { builder.ephemeral() } else { builder }
}

fn stop() -> DeleteOptions {
    DeleteOptions::new().mode(DeleteMode::Stop)
}

/// A whole life; says which verbs failed, all for want of space.
fn life(state: &Path, run: &Path, ephemeral: bool) -> Vec<&'static str> {
    let mut failed = Vec::new();
    let mut note = |verb: &'static str, done: stockade::Result<()>| {
        if let Err(e) = done {
            assert_eq!(e.kind(), ErrorKind::Exhausted, "{verb}: {e}");
            failed.push(verb);
        }
    };
    let rt = match open(state, run) {
        Ok(rt) => rt,
        Err(e) => {
            note("open", Err(e));
            return failed;
        }
    };
    let c = match rt.create(config(ephemeral).build().unwrap()) {
        Ok(c) => c,
        Err(e) => {
            note("create", Err(e));
            return failed;
        }
    };
    note("start", c.start());
    if !ephemeral {
        if c.status().is_running() {
            note("stop", c.stop());
        }
        note("rename", c.rename(&format!("{}two", leftovers::NAME).parse().unwrap()));
        note("start again", c.start());
    }
    note("delete", c.delete_with(stop()));
    failed
}

fn mount(args: &[&str], at: &Path) {
    assert!(Command::new("mount").args(args).arg(at).status().unwrap().success(), "mount {args:?}");
}

/// Every file below, but those that a runtime keeps for itself.
fn files(dir: &Path) -> BTreeSet<PathBuf> {
    let mut found = BTreeSet::new();
    for entry in std::fs::read_dir(dir).unwrap().flatten() {
        if entry.file_type().unwrap().is_dir() {
            found.extend(files(&entry.path()));
        } else {
            found.insert(entry.path());
        }
    }
    let own = ["lock", "idmap.lock", "idmap.session"];
    found.retain(|f| !own.iter().any(|own| f.ends_with(own)));
    found
}

/// In a mount namespace of its own.
fn grow() {
    let mut lives = 0;
    for full in ["state", "run"] {
        for ephemeral in [false, true] {
            let mut whole = false;
            let mut outcomes = Vec::new();
            for pages in 1..MOST {
                let dirs = support::private_dirs_in_memory();
                let small = if full == "state" { dirs.state() } else { dirs.run() };
                mount(&["-t", "tmpfs", "-o", &format!("size={}k,mode=700", pages * 4), "none"], small);
                let failed = life(dirs.state(), dirs.run(), ephemeral);
                lives += 1;
                // With room again nothing of it is left but what a user would see and can delete.
                mount(&["-o", "remount,size=1m"], small);
                let rt = open(dirs.state(), dirs.run()).unwrap();
                for c in rt.list().unwrap() {
                    c.delete_with(stop()).unwrap();
                }
                let list = std::fs::read_to_string(dirs.state().join("idmap.json")).unwrap_or_default();
                assert!(!list.contains("owner"), "{full}, {pages} pages, {failed:?}: {list}");
                rt.close();
                let mut left = files(dirs.state());
                left.extend(files(dirs.run()));
                left.retain(|f| !f.ends_with("idmap.json"));
                assert!(left.is_empty(), "{full}, {pages} pages, {failed:?}: {left:?}");
                assert!(Command::new("umount").arg(small).status().unwrap().success());
                whole = failed.is_empty();
                outcomes.push(failed.first().copied().unwrap_or("none"));
                if whole {
                    break;
                }
            }
            let durable = if ephemeral { "ephemeral" } else { "durable" };
            eprint(&format!(
                "full {full} directory, {durable}: the first that failed, page by page: {outcomes:?}\n"
            ));
            assert!(whole, "never enough");
        }
    }
    eprint(&format!("full disks: {lives} lives\n"));
}

#[test]
fn a_disk_that_grows_by_one_page() {
    const TEST: &str = "a_disk_that_grows_by_one_page";
    if again::role().is_some() {
        return grow();
    }
    let _serial = support::serial();
    require_root!();
    let _ = require_fixture!("busybox");
    let before = HostSnapshot::take();
    let around = ["timeout", "120", "unshare", "--mount", "--propagation", "private"];
    let status = again::command(&around, TEST, "own-mounts").stdout(Std::null()).status().unwrap();
    assert!(status.success());
    before.assert_unchanged();
}

/// What a disk has kept for certain, as far as the calls of one process say: a file's bytes after its fsync, a name
/// after its directory's.
#[derive(Default)]
struct Disk {
    /// Files with bytes, and directories with names, that are not flushed.
    dirty: BTreeSet<PathBuf>,
    renames: u32,
    /// What was wrong.
    wrong: Vec<String>,
}

impl Disk {
    /// One line of `strace -y`. `state` is the only directory that counts.
    fn call(&mut self, line: &str, state: &str) {
        let paths: Vec<&str> = line.split(['<', '>', '"']).collect();
        let at = |n: usize| paths.get(n).copied().unwrap_or("").trim_end_matches(" (deleted)");
        if !at(1).starts_with(state) {
            return;
        }
        let Some((name, _)) = line.split_once('(') else { return };
        let full = |dir: &str, file: &str| Path::new(dir).join(file);
        // A temporary name itself may be lost.
        let fleeting = |p: &Path| p.file_name().is_some_and(|n| n.to_string_lossy().starts_with(".tmp-"));
        match name {
            "write" => drop(self.dirty.insert(at(1).into())),
            "fsync" => drop(self.dirty.remove(Path::new(at(1)))),
            "mkdirat" | "openat" if fleeting(&full(at(1), at(3))) => {}
            "mkdirat" => drop(self.dirty.insert(full(at(1), at(3)).parent().unwrap().into())),
            "openat" if line.contains("O_CREAT") && line.contains("O_EXCL") => {
                self.dirty.insert(full(at(1), at(3)).parent().unwrap().into());
            }
            "renameat" => {
                let (from, to) = (full(at(1), at(3)), full(at(5), at(7)));
                self.renames += 1;
                let temporary = |p: &Path| p.to_string_lossy().contains("/.tmp-");
                if !temporary(&to) {
                    let early = self.dirty.iter().find(|d| d.starts_with(&from));
                    self.wrong.extend(early.map(|d| format!("{} before {} was flushed", line, d.display())));
                }
                self.dirty.retain(|d| !d.starts_with(&from));
                for end in [&from, &to].into_iter().filter(|p| !temporary(p)) {
                    self.dirty.insert(end.parent().unwrap().into());
                }
            }
            _ => {}
        }
    }
}

#[test]
fn what_must_last_is_flushed_in_order() {
    const TEST: &str = "what_must_last_is_flushed_in_order";
    let dir = |name| PathBuf::from(std::env::var_os(name).unwrap());
    if again::role().is_some() {
        let rt = open(&dir("STATE"), &dir("RUN")).unwrap();
        let c = rt.create(config(false).build().unwrap()).unwrap();
        eprint("reported\n");
        c.rename(&format!("{}two", leftovers::NAME).parse().unwrap()).unwrap();
        eprint("reported\n");
        c.delete().unwrap();
        eprint("reported\n");
        return;
    }
    let _serial = support::serial();
    require_root!();
    let _ = require_fixture!("busybox");
    support::require!(Command::new("strace").arg("-V").output().is_ok(), "needs strace");
    let dirs = support::private_dirs();
    let log = dirs.run().join("calls");
    let around = ["timeout", "60", "strace", "-f", "-y", "-s", "200", "-o", log.to_str().unwrap()];
    let mut command = again::command(&around, TEST, "driver");
    command.env("STATE", dirs.state()).env("RUN", dirs.run());
    let status = command.stdout(Std::null()).stderr(Std::null()).status().unwrap();
    assert!(status.success());
    let (mut disk, mut reports) = (Disk::default(), 0);
    let state = dirs.state().to_str().unwrap();
    for line in std::fs::read_to_string(&log).unwrap().lines() {
        let call = line.split_once(' ').map_or("", |(_, call)| call.trim_start());
        if call.starts_with("write(2") && call.contains("reported") {
            reports += 1;
            // The directories of projects hold names that say nothing by themselves; temporary ones do not count.
            let kept = |p: &&PathBuf| !p.to_string_lossy().contains("/.tmp-");
            let open: Vec<_> = disk.dirty.iter().filter(kept).collect();
            assert!(open.is_empty(), "report {reports}: {open:?} could be lost");
        }
        disk.call(call, state);
    }
    assert!(disk.wrong.is_empty(), "{:?}", disk.wrong);
    assert!(reports == 3 && disk.renames >= 5, "{reports} reports, {} renames", disk.renames);
    eprint(&format!("flushes: {} renames in order, {reports} reports\n", disk.renames));
}
