//! The console of a system container: who keeps its terminals, and what was written to it last.
//!
//! The terminals are the container's own, from its devpts. Their masters, without which whoever writes would get errors
//! or block, are held by the *keeper*: stage-2 in a process of its own, which reads them and puts what the console gets
//! into a ring in a file of the run directory. So nothing of it depends on this process: a host that dies takes no
//! console away, and the next one reads the same file. The keeper also writes down there how the first process has ended,
//! which nobody else could tell a later host.
//!
//! ```text
//! init --> /dev/console = pts/0 ==> master --> keeper --> run directory: console
//! ```

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::PathBuf;
use std::time::Duration;

use rustix::process::Pid;

use super::handle::Container;
use crate::cgroup::Cgroup;
use crate::error::{Error, ErrorKind, Result};
use crate::exit::ExitStatus;
use crate::op::{Cancel, Deadline};
use crate::spawn::{Child, Fd, Plan, Spec, launch, ring};
use crate::store::{CONSOLE, Place};
use crate::sys::pidfd;

/// Its cgroup in the leaf: beside what the container can reach.
const CGROUP: &str = "console";
/// How long it may take to read what is left once the first process has ended.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// What [`keep`] needs of a start.
#[derive(Debug)]
pub(super) struct Wanted<'a> {
    pub(super) leaf: &'a Cgroup,
    pub(super) first: &'a Child,
    pub(super) terminals: Vec<OwnedFd>,
    pub(super) deadline: Deadline,
    pub(super) cancel: Option<&'a Cancel>,
}

impl Container {
    /// What was written last to its `/dev/console`, oldest first: as much as its configuration says
    /// ([`SystemConfig::console_log`](super::SystemConfig::console_log)), of the present run and those before since the
    /// machine started. Empty before the first run.
    ///
    /// It is kept by a process of its own, so it is complete also where no runtime was open, and can be read when the
    /// container has stopped, until it is deleted. The bytes are the container's: they may hold anything, and control
    /// sequences that a terminal obeys.
    ///
    /// ```no_run
    /// # let runtime = stockade::Runtime::open()?;
    /// let web = runtime.container(&"web".parse()?)?;
    /// println!("{}", String::from_utf8_lossy(&web.console_log()?).escape_debug());
    /// # Ok::<(), stockade::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Unsupported`](ErrorKind::Unsupported): it is no system container, or keeps nothing.
    pub fn console_log(&self) -> Result<Vec<u8>> {
        self.console_log_inner().map_err(|e| e.with_op("read console").with_instance(self.id()))
    }

    fn console_log_inner(&self) -> Result<Vec<u8>> {
        if self.config().system.as_ref().is_none_or(|system| system.console_log == 0) {
            return Err(Error::new(ErrorKind::Unsupported, "read the console's output")
                .detail("the container keeps none")
                .hint("make it a system container, with a console_log that is not 0"));
        }
        let path = self.ring_path()?;
        match File::open(&path) {
            Ok(file) => Ring { file }.read().map_err(|e| unreadable(e, &path)),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(e) => Err(unreadable(e, &path)),
        }
    }

    /// How the first process of the last run has ended, as its keeper saw it.
    pub(super) fn end_seen_by_keeper(&self) -> Option<ExitStatus> {
        self.config().system.as_ref()?;
        Ring { file: File::open(self.ring_path().ok()?).ok()? }.end()
    }

    fn ring_path(&self) -> Result<PathBuf> {
        let dir = self.runtime.inner().store.instance_path(&self.id(), Place::Run)?;
        Ok(dir.join(CONSOLE))
    }

    /// Starts the keeper of a run that has just begun.
    pub(super) fn keep_terminals(&self, wanted: Wanted<'_>) -> Result<Child> {
        let size = self.config().system.as_ref().map_or(0, |system| system.console_log);
        let path = self.ring_path()?;
        let ring = Ring::make(&path, size).map_err(|e| Error::io("make the console's file", e).path(path))?;
        let cgroup = wanted.leaf.create_child(CGROUP)?;
        let mut fds: Vec<BorrowedFd<'_>> = wanted.terminals.iter().map(AsFd::as_fd).collect();
        let count = fds.len() as u8;
        fds.extend([ring.file.as_fd(), wanted.first.as_fd(), cgroup.as_fd()]);

        let strategy = self.runtime.inner().host.strategy();
        let mut plan = Plan::new(fds.len() as u8);
        plan.close_inherited();
        plan.chdir("leave the working directory", "/");
        // As for exec: no process with the host's memory is in a cgroup that has limits.
        plan.clone_sibling(0, Some(Fd::Slot(count + 2)), strategy.is_fork());
        plan.setsid();
        plan.keep_terminals(0, count, Fd::Slot(count), size, Fd::Slot(count + 1));

        let spec = Spec { strategy, namespaces: 0, cgroup: None, ambient: 0, own_memory_first: false };
        let mut started = launch(&spec)?;
        let sent = started.send(&mut plan, &fds);
        started.or_its_own(&plan, sent)?;
        Ok(started.wait_exec(&plan, wanted.deadline, wanted.cancel)?.child)
    }
}

fn unreadable(e: std::io::Error, path: &std::path::Path) -> Error {
    Error::io("read the console's output", e).path(path)
}

/// The keeper of a run that another runtime began, while it is there.
pub(super) fn find_keeper(leaf: &Cgroup) -> Option<Child> {
    let pid = *leaf.open_child(CGROUP).ok()?.procs().ok()?.first()?;
    let pid = Pid::from_raw(i32::try_from(pid).ok()?)?;
    let keeper = Child::new(pid, pidfd::open(pid).ok()?);
    // Still there, so the number meant this one.
    let still = leaf.open_child(CGROUP).ok()?.procs().ok()?;
    still.contains(&keeper.id()).then_some(keeper)
}

/// Waits until the keeper of a run that has ended has read what was left.
pub(super) fn let_finish(keeper: &Child) {
    if keeper.wait(Deadline::after(LAST_WORDS), None).is_err() {
        keeper.kill_and_reap();
    }
}

/// The file of a console.
#[derive(Debug)]
struct Ring {
    file: File,
}

impl Ring {
    /// Makes it ready for another run. What was written in earlier ones stays, where it has the same size.
    fn make(path: &std::path::Path, size: u64) -> std::io::Result<Self> {
        let file =
            File::options().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)?;
        let whole = ring::DATA + size;
        if file.metadata()?.len() != whole {
            file.set_len(0)?;
            file.set_len(whole)?;
        }
        file.write_all_at(&0_u64.to_ne_bytes(), ring::END)?;
        Ok(Self { file })
    }

    fn word(&self, at: u64) -> std::io::Result<u64> {
        let mut word = [0; 8];
        self.file.read_exact_at(&mut word, at)?;
        Ok(u64::from_ne_bytes(word))
    }

    fn read(&self) -> std::io::Result<Vec<u8>> {
        let size = self.file.metadata()?.len().saturating_sub(ring::DATA);
        if size == 0 {
            return Ok(Vec::new());
        }
        let before = self.word(ring::TOTAL)?;
        let mut data = vec![0; usize::try_from(size).unwrap_or(usize::MAX)];
        self.file.read_exact_at(&mut data, ring::DATA)?;
        // What came while this was read has overwritten the oldest, and is not in the count yet: up to one write more.
        let after = self.word(ring::TOTAL)?;
        Ok(order(&data, before, after))
    }

    fn end(&self) -> Option<ExitStatus> {
        let word = self.word(ring::END).ok()?;
        let status = u32::try_from(word & !ring::ENDED).ok()?;
        (word & ring::ENDED != 0).then(|| pidfd::Ended::from_wait_status(status.cast_signed()).into())
    }
}

/// The bytes of a ring, oldest first, of which `before` were written before it was read and `after` afterwards.
fn order(data: &[u8], before: u64, after: u64) -> Vec<u8> {
    let size = data.len() as u64;
    let lost = after.saturating_sub(before).min(size);
    let first = (before.saturating_sub(size) + if before >= size { lost } else { 0 }).min(before);
    let at = |n: u64| usize::try_from(n % size).unwrap_or(0);
    let (from, len) = (at(first), usize::try_from(before - first).unwrap_or(0));
    let (end, start) = (&data[from..], &data[..from]);
    end.iter().chain(start).take(len).copied().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ring_reads_from_its_oldest_byte() {
        assert_eq!(order(b"ab\0\0", 2, 2), b"ab");
        assert_eq!(order(b"abcd", 4, 4), b"abcd");
        // e and f lie over a and b.
        assert_eq!(order(b"efcd", 6, 6), b"cdef");
        // One more was written meanwhile, over c.
        assert_eq!(order(b"efgd", 6, 7), b"def");
        assert_eq!(order(b"efgh", 6, 100), b"");
        assert_eq!(order(b"\0\0\0\0", 0, 0), b"");
    }

    #[test]
    fn a_file_of_another_size_is_begun_anew() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("console");
        let ring = Ring::make(&path, 4).unwrap();
        assert_eq!((ring.read().unwrap(), ring.end()), (vec![], None));
        ring.file.write_all_at(b"abcd", ring::DATA).unwrap();
        ring.file.write_all_at(&4_u64.to_ne_bytes(), ring::TOTAL).unwrap();
        ring.file.write_all_at(&(ring::ENDED | 1).to_ne_bytes(), ring::END).unwrap();
        assert_eq!(ring.read().unwrap(), b"abcd");
        assert_eq!(ring.end(), Some(ExitStatus::Signaled { signal: 1, core_dumped: false }));
        let same = Ring::make(&path, 4).unwrap();
        assert_eq!((same.read().unwrap(), same.end()), (b"abcd".to_vec(), None));
        assert_eq!(Ring::make(&path, 8).unwrap().read().unwrap(), b"");
        assert_eq!(Ring::make(&path, 0).unwrap().read().unwrap(), b"");
    }
}
