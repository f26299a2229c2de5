//! Many starts beside busy threads: every one succeeds, and the host grows by nothing.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use stockade::container::ContainerConfig;
use stockade::instance::{StartOptions, WaitOptions};
use stockade::{ExitStatus, Rootfs, Runtime, SpawnStrategy};
use support::{HostSnapshot, PrivateDirs, require_fixture, require_root, scaled};

/// Starts in one go.
const STARTS: usize = 1000;
/// Starts before the first look at memory and descriptors: caches are filled by then.
const WARM_UP: usize = 100;
/// Threads that do what must not be interrupted by a child: allocate, format, log, read the environment.
const BUSY: usize = 8;
/// What the resident set may grow by, in KiB, over [`STARTS`] starts: allocators keep freed pages for their own
/// reasons. A leak of 2 KiB in each start would be more.
const SLACK: u64 = 2 * 1024;
/// How long one container may take on a machine that does much else. It decides no test that works.
const DEADLINE: Duration = Duration::from_secs(120);

fn runtime(dirs: &PrivateDirs, strategy: SpawnStrategy) -> Runtime {
    let builder = Runtime::builder().state_dir(dirs.state()).run_dir(dirs.run());
    builder.spawn_strategy(strategy).open().unwrap()
}

/// One life: start, run `true`, wait, delete.
fn life(rt: &Runtime, root: &Rootfs, name: &str) {
    let config = ContainerConfig::builder(name)
        .ephemeral()
        .kill_on_drop()
        .rootfs(root.clone())
        .args(["true"])
        .build()
        .unwrap();
    let c = rt.create(config).unwrap();
    c.start_with(StartOptions::new().deadline(DEADLINE)).unwrap_or_else(|e| panic!("{name}: {e}"));
    let status = c.wait_with(WaitOptions::new().deadline(DEADLINE));
    assert_eq!(status.unwrap_or_else(|e| panic!("{name}: {e}")), ExitStatus::Exited(0), "{name}");
    match c.delete() {
        // An ephemeral container goes with its end, whoever sees that first.
        Err(e) if e.kind() == stockade::ErrorKind::NotFound => {}
        done => done.unwrap_or_else(|e| panic!("{name}: {e}")),
    }
}

/// Resident KiB of this process that no file stands behind.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|l| l.strip_prefix("RssAnon:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

/// What a busy thread does until it is told to stop: holds the allocator's and the environment's locks much of the
/// time, so that a child which touched either would hang.
fn be_busy(stop: &AtomicBool, work: &AtomicU64) {
    let mut log: Vec<String> = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let mut line = String::new();
        for (name, value) in std::env::vars_os() {
            let _ = write!(line, "{}={} ", name.display(), value.len());
        }
        log.push(format!("{:?}: {line}", std::thread::current().id()));
        if log.len() > 50 {
            log = Vec::new();
        }
        work.fetch_add(1, Ordering::Relaxed);
        // Two processors have to do for all of them and for the containers.
        std::thread::yield_now();
    }
}

/// Runs `work` beside the busy threads, and checks that they got on.
fn beside_busy_threads(work: impl FnOnce()) {
    let stop = AtomicBool::new(false);
    let done: Vec<AtomicU64> = (0..BUSY).map(|_| AtomicU64::new(0)).collect();
    std::thread::scope(|s| {
        for counter in &done {
            let stop = &stop;
            s.spawn(move || be_busy(stop, counter));
        }
        // Also on panic: the scope waits for the threads.
        struct Stop<'a>(&'a AtomicBool);
        impl Drop for Stop<'_> {
            fn drop(&mut self) {
                self.0.store(true, Ordering::Relaxed);
            }
        }
        let _stop = Stop(&stop);
        work();
    });
    let done: Vec<u64> = done.iter().map(|n| n.load(Ordering::Relaxed)).collect();
    assert!(done.iter().all(|n| *n > 0), "a busy thread got nothing done: {done:?}");
}

/// Past the capture of the test harness.
fn eprint(text: &str) {
    use std::io::Write;
    let _ = std::io::stderr().write_all(text.as_bytes());
}

fn a_thousand_starts(strategy: SpawnStrategy, rootfs: impl Fn(&std::path::Path) -> Rootfs) {
    let root = require_fixture!("busybox");
    let root = rootfs(&root);
    let before = HostSnapshot::take();
    let dirs = support::private_dirs();
    {
        let rt = runtime(&dirs, strategy);
        beside_busy_threads(|| {
            for i in 0..scaled(WARM_UP) {
                life(&rt, &root, &format!("warm-{i}"));
            }
            let leaks = dirs.leak_check();
            let (rss, fds) = (resident(), descriptors());
            let starts = scaled(STARTS);
            for i in 0..starts {
                life(&rt, &root, &format!("c-{i}"));
            }
            let (rss_after, fds_after) = (resident(), descriptors());
            eprint(&format!(
                "{strategy:?}: {starts} of {starts}; RSS {rss} -> {rss_after} KiB, {fds} descriptors\n"
            ));
            assert_eq!(fds_after, fds, "descriptors leak");
            assert!(rss_after <= rss + SLACK, "memory leaks: {rss} KiB, then {rss_after} KiB");
            leaks.assert_clean();
        });
        rt.close();
    }
    before.assert_unchanged();
}

#[test]
fn a_thousand_starts_beside_busy_threads() {
    let _serial = support::serial();
    require_root!();
    a_thousand_starts(SpawnStrategy::Exec, |root| Rootfs::overlay([root]).into());
}

#[test]
fn a_thousand_forked_starts_beside_busy_threads() {
    let _serial = support::serial();
    require_root!();
    a_thousand_starts(SpawnStrategy::Fork, |root| Rootfs::dir(root).into());
}

#[test]
fn starts_from_several_threads_at_once() {
    const THREADS: usize = 4;
    const EACH: usize = 50;
    let _serial = support::serial();
    require_root!();
    let root: Rootfs = Rootfs::overlay([require_fixture!("busybox")]).into();
    for strategy in [SpawnStrategy::Exec, SpawnStrategy::Fork] {
        let before = HostSnapshot::take();
        let dirs = support::private_dirs();
        let rt = runtime(&dirs, strategy);
        life(&rt, &root, "warm");
        let leaks = dirs.leak_check();
        let fds = descriptors();
        std::thread::scope(|s| {
            for thread in 0..THREADS {
                let (rt, root) = (&rt, &root);
                s.spawn(move || {
                    for i in 0..scaled(EACH) {
                        life(rt, root, &format!("t{thread}-{i}"));
                    }
                });
            }
        });
        assert_eq!(descriptors(), fds, "{strategy:?}");
        leaks.assert_clean();
        rt.close();
        before.assert_unchanged();
    }
}
