//! What killed hosts, crowds and failed calls may leave behind, looked for everywhere: files, ids, cgroups, processes.
#![allow(dead_code, reason = "each test program uses a part of it")]

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use support::{LeakCheck, PrivateDirs};

/// What every name of these tests' containers begins with.
pub(crate) const NAME: &str = "lo-";
/// The program of every container is `sleep` with this: it is known by it.
pub(crate) const SLEEP: &str = "98765";

/// What there was before.
pub(crate) struct Leftovers {
    files: LeakCheck,
    state: PathBuf,
    run: PathBuf,
    own: String,
    cgroups: BTreeSet<PathBuf>,
}

impl Leftovers {
    /// Notes what is there now.
    pub(crate) fn of(dirs: &PrivateDirs) -> Self {
        let text = fs::read_to_string("/proc/self/cgroup").unwrap();
        let own =
            text.lines().find_map(|l| l.strip_prefix("0::")).unwrap_or("/").trim_end_matches('/').to_owned();
        let (files, state, run) = (dirs.leak_check(), dirs.state().into(), dirs.run().into());
        let mut this = Self { files, state, run, own, cgroups: BTreeSet::new() };
        // Of a test that failed before.
        this.cgroups = this.cgroups();
        this
    }

    /// The cgroups of these tests' containers, by their paths.
    pub(crate) fn cgroups(&self) -> BTreeSet<PathBuf> {
        let mut found = BTreeSet::new();
        for mount in ["/sys/fs/cgroup/unified", "/sys/fs/cgroup"] {
            let Ok(dir) = fs::read_dir(format!("{mount}{}", self.own)) else { continue };
            // A container that was made of a sandbox keeps that one's.
            let ours = |p: &PathBuf| {
                let path = p.to_string_lossy();
                path.contains(&format!(":{NAME}")) || path.contains("/stockade-") && path.contains("-pool-")
            };
            found.extend(dir.flatten().map(|e| e.path()).filter(ours).filter(|p| !self.cgroups.contains(p)));
        }
        found
    }

    /// Processes of these tests' containers, and children on their way to one.
    pub(crate) fn processes(&self) -> Vec<String> {
        let own = format!("0::{}/", self.own);
        let mut found = Vec::new();
        for pid in fs::read_dir("/proc").unwrap().flatten() {
            let Ok(words) = fs::read(pid.path().join("cmdline")) else { continue };
            let words = String::from_utf8_lossy(&words).replace('\0', " ");
            let cgroup = fs::read_to_string(pid.path().join("cgroup")).unwrap_or_default();
            let here = cgroup.lines().any(|l| format!("{l}/").starts_with(&own));
            if here
                && (words.contains(SLEEP) && words.starts_with("sleep")
                    || words.starts_with("stockade-stage2"))
            {
                found.push(format!("{}: {words}", pid.file_name().display()));
            }
        }
        found
    }

    /// The ids that are handed out.
    pub(crate) fn ids(&self) -> Vec<String> {
        let mut found = Vec::new();
        if let Ok(claims) = fs::read_dir(self.run.join("idmap")) {
            found.extend(claims.flatten().map(|e| e.file_name().to_string_lossy().into_owned()));
        }
        let list = fs::read_to_string(self.state.join("idmap.json")).unwrap_or_default();
        if list.contains("owner") {
            found.push(list);
        }
        found
    }

    /// Checks that nothing is left. Processes may take a moment to go.
    #[track_caller]
    pub(crate) fn assert_none(&self, what: &str) {
        let end = Instant::now() + Duration::from_secs(10);
        while !self.processes().is_empty() && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(5));
        }
        let (processes, cgroups, ids, files) =
            (self.processes(), self.cgroups(), self.ids(), self.files.left());
        assert!(processes.is_empty(), "{what}: processes left: {processes:?}");
        assert!(cgroups.is_empty(), "{what}: cgroups left: {cgroups:?}");
        assert!(ids.is_empty(), "{what}: ids left: {ids:?}");
        assert!(files.is_empty(), "{what}: files left: {files:?}");
    }
}

/// Past the capture of the test harness.
pub(crate) fn eprint(text: &str) {
    let _ = std::io::stderr().write_all(text.as_bytes());
}

/// Numbers that look random and are the same in every run (splitmix64).
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    /// One below `n`, which is not 0.
    pub(crate) fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }
}
