//! The host's state before and after: what no call of the library may change.
//!
//! The table is ARCHITECTURE.md, "Host effects".

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::time::{Duration, Instant};

use crate::{diff, proc, serial};

/// How long a difference that the test harness can cause itself may last: a thread just started, another
/// process's cgroup.
const GRACE: Duration = Duration::from_secs(1);

/// What the C library blocks in a thread while it starts it: everything but its own two signals.
const STARTING: &str = "fffffffffffbfeff";

/// The state of the test process and of what it could have changed around it.
///
/// In it: working and root directory, umask, credentials with all capability sets, no_new_privs, seccomp mode,
/// blocked signals and namespaces of every thread; signal dispositions, environment, dumpable and subreaper flag,
/// oom_score_adj, resource limits, personality; host and domain name; open descriptors; threads; children; the mount table; the cgroups
/// below our own; the network interfaces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostSnapshot {
    process: BTreeMap<String, String>,
    environment: BTreeMap<OsString, OsString>,
    threads: BTreeMap<u32, Thread>,
    fds: BTreeMap<u32, (String, bool)>,
    children: BTreeMap<u32, String>,
    mounts: BTreeSet<String>,
    interfaces: BTreeSet<String>,
    cgroups: BTreeSet<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Thread {
    name: String,
    facts: BTreeMap<String, String>,
    /// Apart from the other facts: the C library blocks all signals for a moment while it starts a thread.
    blocked: String,
}

/// What differs between two snapshots.
#[derive(Default)]
struct Differences {
    /// Nothing but the code under test can cause these.
    certain: Vec<String>,
    /// These count when they last.
    lasting: Vec<String>,
}

impl HostSnapshot {
    /// Takes a snapshot.
    pub fn take() -> Self {
        let mut last = Self::once();
        // The harness may be starting a thread right now, and a test that has ended may be removing its directories, which it
        // opens for that: wait for two equal views without a thread that starts.
        for _ in 0..500 {
            std::thread::sleep(Duration::from_millis(1));
            let next = Self::once();
            if next == last && next.threads.values().all(|t| t.blocked != STARTING) {
                break;
            }
            last = next;
        }
        last
    }

    /// What is different now, one sentence each; empty when nothing is.
    pub fn differences(&self) -> Vec<String> {
        let end = Instant::now() + GRACE;
        loop {
            let found = self.compare(&Self::once());
            let settled = found.lasting.is_empty() || Instant::now() >= end;
            if !found.certain.is_empty() || settled {
                return [found.certain, found.lasting].concat();
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Checks that nothing changed since the snapshot.
    ///
    /// # Panics
    /// With every difference by name.
    #[track_caller]
    pub fn assert_unchanged(&self) {
        let found = self.differences();
        assert!(found.is_empty(), "the host changed:\n  {}", found.join("\n  "));
    }

    /// Checks that every descriptor opened since the snapshot is closed on exec: for the time while handles live.
    ///
    /// # Panics
    /// With the descriptors that an exec'd program would inherit.
    #[track_caller]
    pub fn assert_new_fds_cloexec(&self) {
        let open: Vec<_> = proc::fds()
            .into_iter()
            .filter(|(fd, (target, cloexec))| {
                !cloexec && self.fds.get(fd).is_none_or(|(before, _)| before != target)
            })
            .collect();
        assert!(open.is_empty(), "descriptors without FD_CLOEXEC: {open:?}");
    }

    fn once() -> Self {
        Self {
            process: process(),
            environment: std::env::vars_os().collect(),
            threads: proc::numbers("/proc/self/task").into_iter().map(|tid| (tid, thread(tid))).collect(),
            fds: proc::fds(),
            children: proc::children(),
            mounts: proc::read("/proc/self/mountinfo").lines().map(str::to_owned).collect(),
            interfaces: interfaces(),
            cgroups: proc::cgroups_below_own(),
        }
    }

    fn compare(&self, now: &Self) -> Differences {
        let mut found = Differences::default();
        let certain = &mut found.certain;
        diff::maps("process:", &self.process, &now.process, certain);
        // Names alone: values may be secrets of whoever runs the tests.
        for name in self.environment.keys().chain(now.environment.keys()).collect::<BTreeSet<_>>() {
            if self.environment.get(name) != now.environment.get(name) {
                certain.push(format!("environment variable {} changed", name.display()));
            }
        }
        diff::maps("descriptor", &self.fds, &now.fds, certain);
        diff::maps("child process", &self.children, &now.children, certain);
        diff::sets("mount", &self.mounts, &now.mounts, certain);
        diff::sets("network interface", &self.interfaces, &now.interfaces, certain);
        diff::sets("cgroup", &self.cgroups, &now.cgroups, &mut found.lasting);
        for (tid, thread) in &now.threads {
            let name = &thread.name;
            match self.threads.get(tid) {
                Some(before) => {
                    let label = format!("thread {tid} ({name}):");
                    diff::maps(&label, &before.facts, &thread.facts, &mut found.certain);
                    if before.blocked != thread.blocked {
                        found
                            .lasting
                            .push(format!("{label} SigBlk was {}, is {}", before.blocked, thread.blocked));
                    }
                }
                None if serial::is_test_thread(*tid) => {}
                None => found.lasting.push(format!(
                    "thread {tid} ({name}) appeared; a test of this program that does not begin with \
                     `support::serial()` would look the same"
                )),
            }
        }
        found
    }
}

fn process() -> BTreeMap<String, String> {
    let mut facts = BTreeMap::new();
    let status = proc::status("/proc/self/status");
    for key in ["SigIgn", "SigCgt"] {
        facts.insert(key.to_owned(), status.get(key).cloned().unwrap_or_default());
    }
    for file in ["oom_score_adj", "personality", "coredump_filter"] {
        facts.insert(file.to_owned(), proc::read(format!("/proc/self/{file}")));
    }
    for limit in proc::read("/proc/self/limits").lines().skip(1) {
        // The name fills the first 26 columns.
        if let Some((name, value)) = limit.split_at_checked(26) {
            facts.insert(format!("limit {}", name.trim()), value.trim().to_owned());
        }
    }
    for name in ["hostname", "domainname"] {
        facts.insert(name.to_owned(), proc::read(format!("/proc/sys/kernel/{name}")));
    }
    facts.insert("dumpable".to_owned(), format!("{:?}", rustix::process::dumpable_behavior()));
    facts.insert("subreaper".to_owned(), format!("{:?}", rustix::process::child_subreaper()));
    facts
}

fn thread(tid: u32) -> Thread {
    const STATUS: [&str; 12] = [
        "Umask",
        "Uid",
        "Gid",
        "Groups",
        "CapInh",
        "CapPrm",
        "CapEff",
        "CapBnd",
        "CapAmb",
        "NoNewPrivs",
        "Seccomp",
        "Seccomp_filters",
    ];
    let dir = format!("/proc/self/task/{tid}");
    let mut status = proc::status(format!("{dir}/status"));
    let mut facts = BTreeMap::new();
    for key in STATUS {
        facts.insert(key.to_owned(), status.remove(key).unwrap_or_default());
    }
    for link in ["cwd", "root"] {
        facts.insert(link.to_owned(), proc::link(format!("{dir}/{link}")));
    }
    for ns in proc::names(format!("{dir}/ns")) {
        let target = proc::link(format!("{dir}/ns/{ns}"));
        facts.insert(format!("namespace {ns}"), target);
    }
    Thread {
        name: status.remove("Name").unwrap_or_default(),
        facts,
        blocked: status.remove("SigBlk").unwrap_or_default(),
    }
}

fn interfaces() -> BTreeSet<String> {
    proc::read("/proc/self/net/dev")
        .lines()
        .skip(2)
        .filter_map(|line| line.split_once(':'))
        .map(|(name, _)| name.trim().to_owned())
        .collect()
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::sync::mpsc;

    use rustix::process::{DumpableBehavior, set_child_subreaper, set_dumpable_behavior};

    use super::*;

    /// The differences while the effect stands, and none once it is undone.
    fn seen<T>(make: impl FnOnce() -> T, undo: impl FnOnce(T)) -> String {
        let _serial = crate::serial();
        let host = HostSnapshot::take();
        host.assert_unchanged();
        let effect = make();
        let found = host.differences();
        undo(effect);
        host.assert_unchanged();
        assert_eq!(found.len(), 1, "{found:?}");
        found.concat()
    }

    #[test]
    fn an_open_file_is_seen() {
        let found = seen(|| File::open("/dev/null").unwrap(), drop);
        assert!(found.starts_with("descriptor ") && found.contains("/dev/null"), "{found}");
    }

    #[test]
    fn a_thread_is_seen() {
        let found = seen(
            || {
                let (tx, rx) = mpsc::channel::<()>();
                let thread = std::thread::Builder::new().name("left-over".to_owned());
                (tx, thread.spawn(move || rx.recv().is_err()).unwrap())
            },
            |(tx, thread)| {
                drop(tx);
                assert!(thread.join().unwrap());
            },
        );
        assert!(found.contains("(left-over) appeared"), "{found}");
    }

    #[test]
    fn a_child_is_seen() {
        let found = seen(
            || std::process::Command::new("sleep").arg("60").spawn().unwrap(),
            |mut child| {
                child.kill().unwrap();
                child.wait().unwrap();
            },
        );
        assert!(found.starts_with("child process ") && found.contains("sleep"), "{found}");
    }

    #[test]
    fn process_flags_are_seen() {
        // An ordinary user's process that is not dumpable cannot read most of its own /proc.
        crate::require_root!();
        let found = seen(
            || set_dumpable_behavior(DumpableBehavior::NotDumpable).unwrap(),
            |()| set_dumpable_behavior(DumpableBehavior::Dumpable).unwrap(),
        );
        assert!(found.contains("dumpable"), "{found}");
        let found = seen(
            || set_child_subreaper(Some(rustix::process::getpid())).unwrap(),
            |()| set_child_subreaper(None).unwrap(),
        );
        assert!(found.contains("subreaper"), "{found}");
    }

    #[test]
    fn descriptors_that_exec_would_pass_on_are_seen() {
        let _serial = crate::serial();
        let host = HostSnapshot::take();
        let file = File::open("/dev/null").unwrap();
        host.assert_new_fds_cloexec();
        // dup(2) gives a descriptor without the flag; rustix::io::dup is that call.
        let open = rustix::io::dup(&file).unwrap();
        let found = std::panic::catch_unwind(|| host.assert_new_fds_cloexec());
        drop((file, open));
        assert!(found.is_err());
        host.assert_unchanged();
    }
}
