//! The outer of the two stages: prepares the place of the measurement, and takes it away again.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use super::{INNER, Options, own_program};
use crate::fixtures::at;
use crate::{Result, paths, sh};

/// A tmpfs of the measurement's own mount namespace, with which it goes.
const MEMORY: &str = "/media";
/// The root of every row: a copy in memory, since one peer writes into its root. World-readable on the way, for
/// the rows with a user namespace.
pub const ROOTFS: &str = "/media/root";
/// Bundles, records and logs.
pub const SCRATCH: &str = "/media/scratch";
/// Where the stages see cgroup2.
pub const CGROUP: &str = "/sys/fs/cgroup";

/// Runs in a private mount namespace. `stage` is what comes inside.
pub fn run(options: &Options, stage: &str) -> Result {
    mount_cgroup2()?;
    // The second for what peers keep of their own accord: lxc leaves lock files in /run.
    for dir in [MEMORY, "/run"] {
        sh::run(Command::new("mount").args(["-t", "tmpfs", "-o", "mode=755", "stockade-bench", dir]))?;
    }
    for dir in [ROOTFS, SCRATCH].map(Path::new) {
        at(dir, fs::create_dir(dir))?;
    }
    let busybox = paths::fixtures().join("busybox/.");
    sh::run(Command::new("cp").arg("-a").arg(busybox).arg(ROOTFS))?;

    let group = Group::new()?;
    // The shell joins the cgroup first, so that the new cgroup namespace has it as its root.
    let join =
        "echo 0 > \"$0/cgroup.procs\" && exec unshare --mount --cgroup --propagation private -- \"$@\"";
    let mut command = Command::new("sh");
    command.args(["-c", join]).arg(&group.0).arg(own_program()?);
    command.args([INNER, "--stage", stage]).args(options.words()).stdin(Stdio::null());
    let mut child = command.spawn().map_err(|e| format!("`sh` did not start: {e}"))?;

    // Far above what any row needs: a runtime that hangs is ended by the cgroup's removal.
    let rounds = options.rounds * options.beside.len() as u32;
    let end = Instant::now() + Duration::from_secs(60) + Duration::from_secs(3) * rounds;
    loop {
        match child.try_wait().map_err(|e| format!("waiting for the measurement: {e}"))? {
            Some(status) if status.success() => return Ok(()),
            Some(status) => return Err(format!("the measurement ended with {status}")),
            None if Instant::now() > end => {
                drop(group);
                let _ = child.wait();
                return Err("the measurement did not end in time: a program hangs".to_owned());
            }
            None => sleep(Duration::from_millis(50)),
        }
    }
}

/// Makes [`CGROUP`] one cgroup2 mount whose root is the root of the cgroup namespace. What is mounted there is
/// taken away first, in this mount namespace alone: runtimes read the mount table, and the kernel refuses the same
/// file system twice on one place.
pub fn mount_cgroup2() -> Result {
    sh::run(Command::new("umount").args(["--recursive", CGROUP]))?;
    sh::run(Command::new("mount").args(["-t", "cgroup2", "cgroup2", CGROUP]))
}

/// The cgroup of the measurement: removed, with all processes in it, on drop.
struct Group(PathBuf);

impl Group {
    fn new() -> Result<Self> {
        let text = at(Path::new("/proc/self/cgroup"), fs::read_to_string("/proc/self/cgroup"))?;
        let own = text
            .lines()
            .find_map(|line| line.strip_prefix("0::/"))
            .ok_or("this process is in no cgroup of version 2")?;
        let group = Path::new(CGROUP).join(own).join(format!("stockade-bench-{}", std::process::id()));
        at(&group, fs::create_dir(&group))?;
        Ok(Self(group))
    }

    fn remove(&self) -> Result {
        // Asynchronous, cgroups(7): the processes leave some moments later.
        let kill = self.0.join("cgroup.kill");
        at(&kill, fs::write(&kill, "1"))?;
        let end = Instant::now() + Duration::from_secs(10);
        loop {
            match remove_groups(&self.0) {
                Err(_) if Instant::now() < end => sleep(Duration::from_millis(20)),
                result => return at(&self.0, result),
            }
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if let Err(why) = self.remove() {
            eprintln!("xtask: the cgroup of the measurement is left: {why}");
        }
    }
}

/// Removes a cgroup with those below it: their files are not removed one by one.
fn remove_groups(dir: &Path) -> std::io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_groups(&entry.path())?;
        }
    }
    fs::remove_dir(dir)
}
