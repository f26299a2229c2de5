//! What one machine is given: a directory with its scripts and disks, gone with it.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use crate::Result;
use crate::fixtures::{self, at, remove};

use super::{Options, Parts, cache, tools};

const STAGE2: &str = include_str!("stage2.sh");
/// Bytes of the disk that is `/tmp`, and at least of the other: a sparse file takes what is written to it.
const DISK: u64 = 8 << 30;
/// What the command sees of our environment.
const PASSED_ON: &[&str] = &["PATH", "HOME", "TERM", "LANG", "RUST_BACKTRACE", "RUST_LOG"];

/// The directory of a job, removed on drop.
#[derive(Debug)]
pub struct Job {
    pub dir: PathBuf,
    /// Held as long as the job runs: a directory whose lock is free was left by one that was killed.
    _lock: File,
}

impl Job {
    pub fn new(parts: &Parts, options: &Options) -> Result<Self> {
        let (dir, lock) = place(&cache::dir().join("jobs"))?;
        let job = Self { dir, _lock: lock };
        for share in ["share", "out"] {
            at(&job.dir, fs::create_dir(job.dir.join(share)))?;
        }
        at(&job.dir, fs::write(job.share().join("stage2"), stage2(parts, options)))?;
        at(&job.dir, fs::write(job.share().join("cmd"), command(options)))?;
        job.disk("tmp", None, &parts.tools)?;
        if let Some(from) = &options.disk {
            job.disk("copy", Some(from), &parts.tools)?;
        }
        Ok(job)
    }

    /// What the machine sees as its job.
    pub fn share(&self) -> PathBuf {
        self.dir.join("share")
    }

    /// The status of the command, if it ended.
    pub fn status(&self) -> Option<u8> {
        fs::read_to_string(self.share().join("rc")).ok()?.trim().parse().ok()
    }

    /// The last lines of the machine's console.
    pub fn console(&self) -> String {
        let bytes = fs::read(self.dir.join("console")).unwrap_or_default();
        let text = String::from_utf8_lossy(&bytes);
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }

    fn disk(&self, name: &str, from: Option<&Path>, tools: &tools::Tools) -> Result {
        let path = self.dir.join(name);
        at(&path, File::create(&path).and_then(|file| file.set_len(DISK)))?;
        let mut mke2fs = tools.command("mke2fs")?;
        // No journal and no reserve: nothing on it outlives the machine.
        mke2fs.args(["-q", "-F", "-t", "ext4", "-m", "0", "-O", "^has_journal", "-E", "lazy_itable_init=1"]);
        if let Some(from) = from {
            mke2fs.arg("-d").arg(from);
        }
        crate::sh::output(mke2fs.arg(&path)).map(drop)
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        // What cannot be removed now is found by the next job.
        let _ = remove(&self.dir);
    }
}

/// A new directory for one job, and the lock that says it is in use.
fn place(jobs: &Path) -> Result<(PathBuf, File)> {
    // Several machines start at once: none may take another's name, nor remove what is not yet locked.
    let _one_at_a_time = fixtures::lock(jobs)?;
    remove_what_was_left(jobs);
    let dir = (0..).map(|n| jobs.join(format!("{}-{n}", std::process::id()))).find(|dir| !dir.exists());
    let dir = dir.unwrap_or_else(|| jobs.join("one"));
    at(&dir, fs::create_dir(&dir))?;
    let lock = at(&dir, File::create(dir.join("lock")))?;
    at(&dir, lock.lock())?;
    Ok((dir, lock))
}

fn remove_what_was_left(jobs: &Path) {
    for entry in fs::read_dir(jobs).into_iter().flatten().flatten() {
        let free = File::open(entry.path().join("lock")).is_ok_and(|lock| lock.try_lock().is_ok());
        if free {
            let _ = remove(&entry.path());
        }
    }
}

fn stage2(parts: &Parts, options: &Options) -> String {
    let mut visible = vec![options.dir.clone()];
    visible.extend(options.visible.iter().cloned());
    // One that is seen twice, or below another, would be mounted over itself.
    visible.sort();
    visible.dedup_by(|b, a| b.starts_with(&*a));
    let visible: Vec<String> = visible.iter().map(|dir| quoted(&dir.to_string_lossy())).collect();
    let disk = options.disk.as_ref().map_or_else(String::new, |dir| dir.to_string_lossy().into_owned());
    format!(
        "VISIBLE={}\nMODULES={}\nRELEASE={}\nDISK={}\nKVM={}\n{STAGE2}",
        quoted(&visible.join(" ")),
        quoted(&parts.kernel.modules.to_string_lossy()),
        quoted(&parts.kernel.release),
        quoted(&disk),
        u8::from(options.kvm),
    )
}

fn command(options: &Options) -> String {
    let mut text = String::new();
    let own = PASSED_ON.iter().filter_map(|name| Some(((*name).to_owned(), std::env::var(name).ok()?)));
    for (name, value) in own.chain(options.env.iter().cloned()) {
        let _ = writeln!(text, "export {name}={}", quoted(&value));
    }
    let _ = writeln!(text, "cd {} || exit", quoted(&options.dir.to_string_lossy()));
    let words: Vec<String> = options.command.iter().map(|word| quoted(word)).collect();
    let _ = writeln!(text, "exec {}", words.join(" "));
    text
}

/// The word as a shell takes it whatever is in it.
pub fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_stay_what_they_are() {
        let mut options = Options::new(vec!["echo".into(), "it's $x".into()], "/a b".into());
        options.env.push(("N".into(), "1 2".into()));
        let text = command(&options);
        assert!(text.contains("export N='1 2'\n"), "{text}");
        assert!(text.ends_with("cd '/a b' || exit\nexec 'echo' 'it'\\''s $x'\n"), "{text}");
    }

    #[test]
    fn only_jobs_that_nobody_holds_are_removed() {
        let jobs = std::env::temp_dir().join(format!("stockade-xtask-jobs-{}", std::process::id()));
        for name in ["held", "left"] {
            fs::create_dir_all(jobs.join(name)).unwrap();
            File::create(jobs.join(name).join("lock")).unwrap();
        }
        let held = File::open(jobs.join("held/lock")).unwrap();
        held.lock().unwrap();
        remove_what_was_left(&jobs);
        assert!(jobs.join("held").exists() && !jobs.join("left").exists());
        fs::remove_dir_all(&jobs).unwrap();
    }

    #[test]
    fn jobs_that_start_at_once_have_a_directory_each() {
        let jobs = std::env::temp_dir().join(format!("stockade-xtask-places-{}", std::process::id()));
        let places: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(|| place(&jobs).unwrap())).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        let dirs: std::collections::BTreeSet<_> = places.iter().map(|(dir, _)| dir).collect();
        assert_eq!(dirs.len(), 8);
        assert!(dirs.iter().all(|dir| dir.join("lock").exists()));
        fs::remove_dir_all(&jobs).unwrap();
    }
}
