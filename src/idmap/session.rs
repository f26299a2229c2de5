//! Locks in the state directory.
//!
//! All locks are of `flock(2)`, which belong to the open file description: they hold between processes and
//! between two handles in one process, and go away with the last descriptor, however a process ends.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::area::IdArea;
use crate::error::{Error, ErrorKind, Result};
use crate::sys;

const LOCK: &str = "idmap.lock";
const SESSION: &str = "idmap.session";

/// How long another process may hold the lock. It holds it for the time of a small file's flush.
const PATIENCE: Duration = Duration::from_secs(10);

/// What all processes that use one state directory at the same time must agree on.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Session {
    /// The device and inode of the directory with the claims.
    pub(super) run_dir: (u64, u64),
    pub(super) uids: IdArea,
    pub(super) gids: IdArea,
}

/// The state directory.
#[derive(Debug)]
pub(super) struct StateDir {
    pub(super) fd: OwnedFd,
    /// For messages only.
    path: PathBuf,
}

impl StateDir {
    pub(super) fn open(path: &Path) -> Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = sys::raw::retry(|| rustix::fs::open(path, flags, Mode::empty()))
            .map_err(|e| Error::sys("open state directory", e).path(path))?;
        Ok(Self { fd, path: path.to_owned() })
    }

    /// How a file in it is called in a message.
    pub(super) fn name(&self, file: &str) -> String {
        self.path.join(file).display().to_string()
    }

    fn open_lock(&self, file: &'static str) -> Result<OwnedFd> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        sys::raw::retry(|| rustix::fs::openat(&self.fd, file, flags, Mode::RUSR | Mode::WUSR))
            .map_err(|e| Error::sys("open lock", e).object(self.name(file)))
    }
}

/// Takes a lock if it is free.
fn try_lock(file: &OwnedFd, operation: FlockOperation) -> Result<bool> {
    match sys::raw::retry(|| rustix::fs::flock(file, operation)) {
        Ok(()) => Ok(true),
        Err(Errno::WOULDBLOCK) => Ok(false),
        Err(e) => Err(Error::sys("lock", e)),
    }
}

/// The right to change the list of ranges, until dropped.
pub(super) fn lock(state: &StateDir) -> Result<OwnedFd> {
    let file = state.open_lock(LOCK)?;
    let start = Instant::now();
    while !try_lock(&file, FlockOperation::NonBlockingLockExclusive)? {
        if start.elapsed() > PATIENCE {
            return Err(Error::new(ErrorKind::Timeout, "lock id ranges")
                .object(state.name(LOCK))
                .detail("another process has held it for ten seconds")
                .hint("look for a stopped process that uses the same state directory"));
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(file)
}

/// Joins the processes that use the state directory; they all agree on `ours` until the result is dropped.
/// The caller holds [`lock`].
pub(super) fn join(state: &StateDir, ours: &Session) -> Result<OwnedFd> {
    let file = state.open_lock(SESSION)?;
    if try_lock(&file, FlockOperation::NonBlockingLockExclusive)? {
        // Nobody else is here, so whatever the file says is over.
        let text = serde_json::to_vec(ours)
            .map_err(|e| Error::new(ErrorKind::Kernel, "write session").with_source(e))?;
        let fail = |e| Error::sys("write session", e).object(state.name(SESSION));
        rustix::fs::ftruncate(&file, 0).map_err(fail)?;
        let n = sys::raw::retry(|| rustix::io::pwrite(&file, &text, 0)).map_err(fail)?;
        if n != text.len() {
            return Err(fail(Errno::NOSPC));
        }
    } else {
        let text = sys::fd::read_at(state.fd.as_fd(), SESSION, 1 << 20)
            .map_err(|e| Error::sys("read session", e).object(state.name(SESSION)))?;
        let theirs: Session = serde_json::from_slice(&text).map_err(|e| {
            Error::new(ErrorKind::Corrupt, "read session").object(state.name(SESSION)).with_source(e)
        })?;
        if theirs != *ours {
            return Err(Error::invalid(
                "id ranges",
                "another process uses the same state directory with another run directory or other areas of ids",
            )
            .object(state.name(SESSION))
            .hint("give both processes the same run directory and options, or each a state directory of its own"));
        }
    }
    if try_lock(&file, FlockOperation::NonBlockingLockShared)? {
        Ok(file)
    } else {
        Err(Error::new(ErrorKind::Busy, "lock session").object(state.name(SESSION)))
    }
}
