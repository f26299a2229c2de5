//! A child cgroup of the test's own that is gone at the end, whatever happens.

use std::fs;
use std::ops::Deref;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use stockade::cgroup::{Cgroup, Hierarchy};

pub(crate) fn soon() -> Option<Instant> {
    Some(Instant::now() + Duration::from_secs(20))
}

/// A new cgroup below the test's own, and the processes in it.
pub(crate) struct Leaf {
    cgroup: Cgroup,
    processes: Vec<Child>,
}

impl Leaf {
    /// `None`, with a loud reason, where this process may not make one.
    pub(crate) fn new() -> Option<Self> {
        static N: AtomicU32 = AtomicU32::new(0);
        let name = format!("stockade-test-{}-{}", std::process::id(), N.fetch_add(1, Ordering::Relaxed));
        match Hierarchy::detect().and_then(|h| h.own().create_child(&name)) {
            Ok(cgroup) => Some(Self { cgroup, processes: Vec::new() }),
            Err(e) => {
                support::skip(format!("no cgroup can be made here: {e}"));
                None
            }
        }
    }

    /// Runs `script` in `cgroup`: it waits until it has been put there.
    pub(crate) fn run_in(&mut self, cgroup: &Cgroup, script: &str) -> u32 {
        let mut shell = Command::new("sh");
        shell.args(["-c", &format!("read go; {script}")]).stdin(Stdio::piped()).stderr(Stdio::null());
        let mut child = shell.spawn().unwrap();
        let pid = child.id();
        let go = child.stdin.take();
        self.processes.push(child);
        fs::write(cgroup.path().join("cgroup.procs"), pid.to_string()).unwrap();
        drop(go);
        pid
    }

    pub(crate) fn run(&mut self, script: &str) -> u32 {
        let same = Hierarchy::detect().unwrap().open(self.path()).unwrap();
        self.run_in(&same, script)
    }
}

impl Deref for Leaf {
    type Target = Cgroup;

    fn deref(&self) -> &Cgroup {
        &self.cgroup
    }
}

impl Drop for Leaf {
    fn drop(&mut self) {
        if let Err(e) = self.cgroup.kill() {
            assert_eq!(e.kind(), stockade::ErrorKind::NotFound, "{e}");
        }
        for p in &mut self.processes {
            let _ = p.kill();
            let _ = p.wait();
        }
        let removed = self.cgroup.remove(soon());
        assert!(std::thread::panicking() || removed.is_ok(), "{removed:?}");
    }
}
