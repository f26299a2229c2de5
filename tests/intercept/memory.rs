//! Callers whose memory, paths and directories lie on a FUSE file system of their own that never answers: it is they who
//! wait for it, and nobody else.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use stockade::Runtime;
use stockade::cgroup::DevicePolicy;
use stockade::container::{Container, Mount};
use stockade::instance::{ExecOptions, Stdio};
use stockade::seccomp::{Interception, MountInterception, Nodes, NotifyLoop};

use super::calls::debian;
use super::ends::{answering, assert_none_answers};
use super::rig::{Rig, busybox, end};
use super::{inside, works};

/// The node of FUSE for a container.
fn fuse(work: &Path) -> bool {
    let node = work.join("fuse");
    let made =
        std::process::Command::new("mknod").args(["-m", "666"]).arg(&node).args(["c", "10", "229"]).status();
    let opened = std::fs::File::options().read(true).write(true).open(&node);
    if !made.unwrap().success() || opened.is_err() {
        support::skip(format!("needs /dev/fuse: {opened:?}"));
        return false;
    }
    true
}

fn start(runtime: &Runtime, work: &Path, name: &str) -> Option<Arc<Container>> {
    let mount = MountInterception::new().by_program("showfs", "true");
    let what = Interception::new().mknod(Nodes::Plain).sysinfo().mount(mount);
    let config = debian(work, name)?
        .devices(DevicePolicy::standard())
        .mount(Mount::bind(work.join("fuse"), "/dev/fuse").dev())
        .intercept(what);
    let c = runtime.create(config.build().unwrap()).unwrap();
    c.start().unwrap();
    Some(c)
}

/// Begins a case, and waits until it says this. What it says after that. `None`, loudly, where it does not run there.
fn begin(c: &Container, case: &str, until: &str) -> Option<impl Iterator<Item = String> + use<>> {
    let options = ExecOptions::new([inside::PROGRAM, "--exact", "inside::entry", "--nocapture"]);
    let options = options.env(inside::CASE, case).cwd("/work").stdout(Stdio::Piped).stderr(Stdio::Piped);
    let mut process = c.exec(options).unwrap();
    let out = std::fs::File::from(process.take_stdout().unwrap());
    let mut said = BufReader::new(out).lines().map_while(Result::ok);
    for line in said.by_ref() {
        if line.ends_with(&format!("> {until}")) {
            return Some(said);
        }
    }
    let mut errors = String::new();
    let _ =
        std::io::Read::read_to_string(&mut std::fs::File::from(process.take_stderr().unwrap()), &mut errors);
    assert!(errors.contains("GLIBC_"), "{case}: {errors}");
    support::skip("this program needs a newer C library than the Debian fixture has");
    None
}

/// How many threads that answer wait for a page of somebody else's memory.
fn stuck() -> usize {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap().flatten();
    let waits = tasks.filter(|t| {
        let read = |file| std::fs::read_to_string(t.path().join(file)).unwrap_or_default();
        read("comm").trim() == "stockade-notify" && read("wchan").starts_with("folio_wait")
    });
    waits.count()
}

fn open_fds() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

/// A runtime whose calls are answered either way, for the time of `test`.
fn with_runtime(drive: NotifyLoop, test: impl FnOnce(&Runtime, &Path)) {
    let Some(rig) = Rig::new() else { return };
    let work = tempfile::tempdir().unwrap();
    if fuse(work.path()) {
        let builder = Runtime::builder().state_dir(rig.dirs.state()).run_dir(rig.dirs.run());
        let runtime = builder.notify_loop(drive).open().unwrap();
        let (supervisor, done) = (runtime.supervisor().unwrap(), AtomicBool::new(false));
        std::thread::scope(|s| {
            s.spawn(|| {
                while drive == NotifyLoop::Host && !done.load(Ordering::Relaxed) {
                    supervisor.dispatch().unwrap();
                    std::thread::sleep(Duration::from_millis(1));
                }
            });
            let ran = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| test(&runtime, work.path())));
            done.store(true, Ordering::Relaxed);
            ran.unwrap();
        });
        drop(supervisor);
        runtime.close();
        assert_none_answers();
    }
    drop(work);
    rig.end();
}

/// A thread that reads or writes such memory waits for the file system: another takes its place. All is back once the
/// containers have ended.
#[test]
fn memory_that_never_comes_holds_up_its_own_container_alone() {
    for drive in [NotifyLoop::Thread, NotifyLoop::Host] {
        with_runtime(drive, |runtime, work| {
            let other = runtime
                .create(busybox("other").intercept(Interception::new().mknod(Nodes::Usable)).build().unwrap())
                .unwrap();
            other.start().unwrap();
            let calls = || {
                works(
                    &other,
                    "for i in 1 2 3 4 5; do mknod /null c 1 3; echo > /null; umount /null; rm /null; done",
                )
            };
            calls();
            let before = open_fds();
            let mut hung = Vec::new();
            for n in 0..3 {
                let Some(c) = start(runtime, work, &format!("hung-{n}")) else { break };
                // 15 is a read.
                let Some(said) = begin(&c, "hung-mknod", "asked 15") else { break };
                hung.push((c, said));
                let begun = Instant::now();
                support::until(Duration::from_secs(20), "a thread hangs", || {
                    calls();
                    stuck() == n + 1
                });
                calls();
                eprintln!("{drive:?}: calls beside {} that hang, after {:?}", n + 1, begun.elapsed());
            }
            let most = answering();
            assert!(most >= hung.len(), "{most} threads");
            let (count, threads) = (hung.len(), most);
            for (c, said) in hung {
                end(c);
                assert_eq!(said.filter(|line| line.contains("> ") && !line.contains("asked")).count(), 0);
            }
            support::until(Duration::from_secs(20), "threads are back", || answering() <= 2);
            // Each thread that is there may have made a helper meanwhile.
            support::until(Duration::from_secs(20), "descriptors are back", || open_fds() <= before + 6);
            calls();
            eprintln!("{drive:?}: {count} containers hung, {threads} threads at most, {} after", answering());
            end(other);
        });
    }
}

/// The helper is in no namespace below the one that has mounted it, so the kernel lets it not near.
#[test]
fn paths_that_never_lead_anywhere_do_not_stop_the_helper() {
    with_runtime(NotifyLoop::Thread, |runtime, work| {
        let Some(c) = start(runtime, work, "path") else { return };
        let said = begin(&c, "hung-path", "free");
        end(c);
        if let Some(said) = said {
            assert_eq!(said.filter(|line| line.contains("hung")).count(), 0);
            eprintln!("20 calls beside one whose path leads nowhere");
        }
    });
}

/// The process that becomes a FUSE program cannot be killed while it waits there. Its container ends all the same.
#[test]
fn a_directory_that_cannot_be_entered_does_not_keep_the_container() {
    with_runtime(NotifyLoop::Thread, |runtime, work| {
        let Some(c) = start(runtime, work, "cwd") else { return };
        let before = open_fds();
        works(&c, "mkdir /m");
        let Some(mut said) = begin(&c, "hung-cwd", "asked 34") else { return end(c) };
        let begun = Instant::now();
        let answer = said.next().unwrap_or_default();
        assert!(answer.ends_with("> ENODEV"), "{answer}");
        eprintln!("answered after {:?}", begun.elapsed());
        c.stop().unwrap();
        support::until(Duration::from_secs(20), "descriptors are back", || open_fds() <= before);
        end(c);
    });
}
