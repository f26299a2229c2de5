//! What the runtimes on one run directory know of each other, in one process or in many: one file, `lock`.
//!
//! - **Sessions.** Each open runtime has an entry of eight bytes, its token, and a lock on it. At its end it clears the
//!   entry. An entry that is not clear and has no lock is of one that crashed: the next that opens looks for what that
//!   left half-done, then clears it. Temporary names and ids of instances begin with the token of their maker, so it
//!   can be told whether that still is at work.
//! - **Instances.** Who acts on an instance has a lock on a range that stands for its name. The length of the range
//!   says what is being done and by which process, so that one call takes the lock and one tells who has it.
//!
//! All locks belong to the open file (`fcntl_locking(2)`, open file description locks), so the kernel gives them back
//! however a process ends. The file is on a tmpfs, nothing is synced, and no lock needs a file of its own.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::Action;
use crate::error::{Error, ErrorKind, Result};
use crate::sys::lock::{Lock, holder, try_lock, unlock};
use crate::sys::raw::retry;

const FILE: &str = "lock";
/// Bytes of an entry.
const ENTRY: u64 = 8;
/// Far more runtimes than one directory ever has open.
const MAX_SESSIONS: u64 = 65_536;
/// Held by who renames, against who looks through all names.
const NAMES: Range<u64> = (1 << 61)..(1 << 61) + 1;
/// Held by who gives out CPUs.
const CPUS: Range<u64> = (1 << 61) + 1..(1 << 61) + 2;
/// Where the ranges of the instances begin. Each has room for four bits of action and 22 of process number, which is
/// all that the kernel gives (`PID_MAX_LIMIT`).
const INSTANCES: u64 = 1 << 62;
const PID_BITS: u32 = 22;
const SLOT_BITS: u32 = PID_BITS + 4;

/// A crashed runtime: the number of its entry, and its token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Crashed {
    entry: u64,
    pub(crate) token: u64,
}

/// The file, with this runtime's own entry in it.
#[derive(Debug)]
pub(crate) struct Between {
    file: OwnedFd,
    path: PathBuf,
    /// This process, once: glibc asks the kernel each time.
    pid: u32,
    entry: u64,
    token: u64,
    crashed: Vec<Crashed>,
    first: bool,
    /// Not all that belongs to nobody is removed.
    untidy: AtomicBool,
}

impl Between {
    /// Joins the runtimes on the directory `dir`, whose path is `path`.
    pub(crate) fn join(dir: BorrowedFd<'_>, path: &Path) -> Result<Self> {
        let path = path.join(FILE);
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = retry(|| rustix::fs::openat(dir, FILE, flags, Mode::RUSR | Mode::WUSR))
            .map_err(|e| Error::sys("open the lock of the runtimes", e).path(&path))?;
        let token = RandomState::new().build_hasher().finish().max(1);
        let mut this = Self {
            file,
            path,
            pid: std::process::id(),
            entry: 0,
            token,
            crashed: Vec::new(),
            first: false,
            untidy: AtomicBool::new(false),
        };
        this.enter().map_err(|e| {
            let e = Error::sys("join the runtimes on a directory", e).path(&this.path);
            if e.kind() == ErrorKind::Exhausted { e.hint("free space on its file system") } else { e }
        })?;
        Ok(this)
    }

    fn enter(&mut self) -> std::result::Result<(), Errno> {
        let entries = self.entries()?;
        self.first = entries.is_empty();
        for (entry, token) in (0..).zip(entries).filter(|(_, token)| *token != 0) {
            let range = range_of_entry(entry);
            if try_lock(self.fd(), &range, Lock::Alone)? {
                // Not of one that has ended well in between.
                if self.read(entry)? == token {
                    self.crashed.push(Crashed { entry, token });
                }
                unlock(self.fd(), &range)?;
            }
        }
        for entry in 0..MAX_SESSIONS {
            let range = range_of_entry(entry);
            if !try_lock(self.fd(), &range, Lock::Alone)? {
                continue;
            }
            if self.read(entry)? == 0 {
                self.write(entry, self.token)?;
                self.entry = entry;
                return Ok(());
            }
            unlock(self.fd(), &range)?;
        }
        Err(Errno::NOSPC)
    }

    fn fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    fn entries(&self) -> std::result::Result<Vec<u64>, Errno> {
        let mut bytes = Vec::new();
        let mut chunk = [0_u8; 4096];
        loop {
            match retry(|| rustix::io::pread(&self.file, &mut chunk, bytes.len() as u64))? {
                0 => break,
                n => bytes.extend_from_slice(&chunk[..n]),
            }
        }
        let entries = bytes.chunks_exact(8).filter_map(|c| c.try_into().ok());
        Ok(entries.map(u64::from_ne_bytes).collect())
    }

    fn read(&self, entry: u64) -> std::result::Result<u64, Errno> {
        let mut bytes = [0_u8; 8];
        let n = retry(|| rustix::io::pread(&self.file, &mut bytes, entry * ENTRY))?;
        Ok(if n == bytes.len() { u64::from_ne_bytes(bytes) } else { 0 })
    }

    fn write(&self, entry: u64, token: u64) -> std::result::Result<(), Errno> {
        let n = retry(|| rustix::io::pwrite(&self.file, &token.to_ne_bytes(), entry * ENTRY))?;
        if n == 8 { Ok(()) } else { Err(Errno::NOSPC) }
    }

    /// The number that stands for this runtime.
    pub(crate) fn token(&self) -> u64 {
        self.token
    }

    /// The runtimes that had crashed when this one joined.
    pub(crate) fn crashed(&self) -> &[Crashed] {
        &self.crashed
    }

    /// Whether nobody has joined before: the directory is new, as after a restart of the machine.
    pub(crate) fn is_first(&self) -> bool {
        self.first
    }

    /// Whether the runtime of this token is open. Where it cannot be told it is.
    pub(crate) fn is_open(&self, token: u64) -> bool {
        if token == self.token {
            return true;
        }
        let Ok(entries) = self.entries() else { return true };
        let mut of_token = (0..).zip(entries).filter(|(_, found)| *found == token);
        of_token.any(|(entry, _)| !matches!(holder(self.fd(), &range_of_entry(entry)), Ok(None)))
    }

    /// What the crashed ones left is dealt with: clears their entries.
    pub(crate) fn forget_crashed(&self) -> Result<()> {
        for crashed in &self.crashed {
            let range = range_of_entry(crashed.entry);
            let cleared = (|| {
                if try_lock(self.fd(), &range, Lock::Alone)? {
                    if self.read(crashed.entry)? == crashed.token {
                        self.write(crashed.entry, 0)?;
                    }
                    unlock(self.fd(), &range)?;
                }
                Ok(())
            })();
            cleared.map_err(|e| Error::sys("clear the entry of a crashed runtime", e).path(&self.path))?;
        }
        Ok(())
    }

    /// Says that something could not be removed, which no instance accounts for: the next runtime that opens looks for
    /// it, as after a crash.
    pub(crate) fn leave_untidy(&self) {
        self.untidy.store(true, Ordering::Relaxed);
    }

    /// Takes the lock on an instance's name, if no other runtime has it; else says who has.
    pub(crate) fn try_name(
        &self,
        name: &str,
        action: Action,
    ) -> Result<std::result::Result<Range<u64>, Other>> {
        let slot = slot_of(name);
        let range = slot..slot + code(action, self.pid);
        let failed = |e| Error::sys("lock the instance", e).path(&self.path);
        if try_lock(self.fd(), &range, Lock::Alone).map_err(failed)? {
            return Ok(Ok(range));
        }
        Ok(Err(self.holder_of(name)?.unwrap_or_default()))
    }

    /// Who else has the lock on an instance's name.
    pub(crate) fn holder_of(&self, name: &str) -> Result<Option<Other>> {
        let slot = slot_of(name);
        let found = holder(self.fd(), &(slot..slot + 1))
            .map_err(|e| Error::sys("look at the lock of the instance", e).path(&self.path))?;
        Ok(found.map(|range| Other::from_code(range.end - range.start)))
    }

    /// Gives back what [`try_name`](Self::try_name) gave.
    pub(crate) fn release(&self, range: &Range<u64>) {
        // Fails only where the lock is not held.
        let _ = unlock(self.fd(), range);
    }

    /// Keeps names from changing, or others from looking through them; `false` where somebody else is at it.
    pub(crate) fn try_names(&self, lock: Lock) -> Result<bool> {
        try_lock(self.fd(), &NAMES, lock).map_err(|e| Error::sys("lock the names", e).path(&self.path))
    }

    /// Keeps other runtimes from giving out CPUs; `false` where one is at it.
    pub(crate) fn try_cpus(&self) -> Result<bool> {
        try_lock(self.fd(), &CPUS, Lock::Alone).map_err(|e| Error::sys("lock the CPUs", e).path(&self.path))
    }

    /// Gives back what [`try_cpus`](Self::try_cpus) took.
    pub(crate) fn release_cpus(&self) {
        self.release(&CPUS);
    }

    /// Gives back what [`try_names`](Self::try_names) took.
    pub(crate) fn release_names(&self) {
        self.release(&NAMES);
    }
}

impl Drop for Between {
    fn drop(&mut self) {
        if self.untidy.load(Ordering::Relaxed) {
            return;
        }
        // Where it cannot be cleared, the next one looks around in vain. The lock goes with the file.
        let _ = self.write(self.entry, 0);
    }
}

/// The holder of a lock in another runtime.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Other {
    /// `None` where it has just given it back, or is of a newer version.
    pub(crate) action: Option<Action>,
    /// As that process numbers itself.
    pub(crate) pid: u32,
}

impl Other {
    fn from_code(length: u64) -> Self {
        let code = length.saturating_sub(1);
        let action = Action::ALL.get((code >> PID_BITS) as usize).copied();
        Self { action, pid: (code & ((1 << PID_BITS) - 1)) as u32 }
    }
}

/// The length of the range that says this, from 1 on.
fn code(action: Action, pid: u32) -> u64 {
    1 + ((action as u64) << PID_BITS | u64::from(pid) & ((1 << PID_BITS) - 1))
}

fn range_of_entry(entry: u64) -> Range<u64> {
    entry * ENTRY..(entry + 1) * ENTRY
}

/// Where the range of a name begins (FNV-1a). Two names that share one would be acted on one after the other.
fn slot_of(name: &str) -> u64 {
    let hash = name
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3));
    let bits = 62 - SLOT_BITS;
    let folded = hash ^ hash >> bits;
    INSTANCES + ((folded & ((1 << bits) - 1)) << SLOT_BITS)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn join(dir: &tempfile::TempDir) -> Between {
        Between::join(std::fs::File::open(dir.path()).unwrap().as_fd(), dir.path()).unwrap()
    }

    /// As a crash does: the lock goes, the entry stays.
    fn crash(between: Between) -> u64 {
        let token = between.token;
        let file = between.file.try_clone().unwrap();
        let entry = between.entry;
        drop(between);
        rustix::io::pwrite(&file, &token.to_ne_bytes(), entry * ENTRY).unwrap();
        token
    }

    #[test]
    fn a_name_is_locked_for_one_and_tells_who() {
        let dir = tempfile::tempdir().unwrap();
        let (a, b) = (join(&dir), join(&dir));
        let range = a.try_name("default/web", Action::Start).unwrap().unwrap();
        for pid in [1, 4_194_303] {
            for action in Action::ALL {
                let other = Other::from_code(code(action, pid));
                assert_eq!(other, Other { action: Some(action), pid });
            }
        }
        let other = b.try_name("default/web", Action::Stop).unwrap().unwrap_err();
        assert_eq!(other, Other { action: Some(Action::Start), pid: std::process::id() });
        let second = b.try_name("default/db", Action::Stop).unwrap().unwrap();
        assert_eq!(a.holder_of("default/db").unwrap().unwrap().action, Some(Action::Stop));
        a.release(&range);
        assert_eq!(b.holder_of("default/web").unwrap(), None);
        b.release(&second);
        let _ = b.try_name("default/web", Action::Delete).unwrap().unwrap();
        drop(b);
        assert_eq!(a.holder_of("default/web").unwrap(), None, "a lock goes with its holder");
    }

    #[test]
    fn ranges_of_names_fit_into_a_file_and_differ() {
        let mut seen = std::collections::HashSet::new();
        for n in 0..10_000 {
            let slot = slot_of(&format!("default/job-{n}"));
            assert!(slot >= INSTANCES && slot.checked_add(1 << SLOT_BITS).unwrap() <= 1 << 63);
            assert!(seen.insert(slot));
        }
        assert!(code(Action::ALL[Action::ALL.len() - 1], u32::MAX) <= 1 << SLOT_BITS);
    }

    #[test]
    fn who_crashed_is_known_until_it_is_dealt_with() {
        let dir = tempfile::tempdir().unwrap();
        let first = join(&dir);
        assert!(first.is_first() && first.crashed().is_empty());
        let closed = join(&dir);
        assert!(!closed.is_first());
        let closed_token = closed.token();
        drop(closed);
        let token = crash(join(&dir));
        let next = join(&dir);
        assert_eq!(next.crashed().iter().map(|c| c.token).collect::<Vec<_>>(), [token]);
        assert!(next.is_open(first.token()) && next.is_open(next.token()));
        assert!(!next.is_open(token) && !next.is_open(closed_token));
        assert_eq!(join(&dir).crashed().len(), 1, "not dealt with yet");
        next.forget_crashed().unwrap();
        assert!(join(&dir).crashed().is_empty());
        assert!(first.is_open(next.token()));
        next.leave_untidy();
        drop(next);
        assert_eq!(join(&dir).crashed().len(), 1, "it closed, but left something");
    }

    #[test]
    fn names_can_be_kept_from_changing() {
        let dir = tempfile::tempdir().unwrap();
        let (a, b) = (join(&dir), join(&dir));
        assert!(a.try_names(Lock::Shared).unwrap() && b.try_names(Lock::Shared).unwrap());
        assert!(!a.try_names(Lock::Alone).unwrap());
        b.release_names();
        assert!(a.try_names(Lock::Alone).unwrap());
        assert!(!b.try_names(Lock::Shared).unwrap());
        a.release_names();
        assert!(b.try_names(Lock::Alone).unwrap());
    }
}
