//! One of the two directories: the file operations of the store, relative to its `instances` directory.

use std::collections::HashSet;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::fs::{AtFlags, Dir, FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use serde::de::DeserializeOwned;

use super::{file, tree};
use crate::error::{Error, ErrorKind, Result};
use crate::name::{InstanceId, InstanceName};
use crate::op::Crashed;
use crate::sys::raw::retry;

const INSTANCES: &str = "instances";
/// No instance's and no project's name begins with a dot.
const TEMP: &str = ".tmp-";
const DIR: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);
/// Another store holds the exclusive lock only while it reads one directory.
const LOCK_TRIES: u32 = 5000;

#[derive(Debug)]
pub(super) struct Area {
    root: PathBuf,
    /// Holds the shared lock, too.
    instances: OwnedFd,
    durable: bool,
    /// Of the runtime, and so of the temporary names that are its.
    token: u64,
    next: AtomicU64,
    /// Projects whose own names are durable for sure.
    synced: Mutex<HashSet<String>>,
}

/// The directory that an area is in.
pub(super) struct Top {
    root: PathBuf,
    pub(super) fd: OwnedFd,
}

impl Area {
    /// Opens the directory at `root`, which is made where it is missing.
    pub(super) fn top(root: &Path) -> Result<Top> {
        if !root.is_absolute() {
            return Err(Error::invalid("directory of the runtime", "must be an absolute path").path(root));
        }
        let missing: Vec<&Path> = root.ancestors().take_while(|p| !p.exists()).collect();
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(root)
            .map_err(|e| Error::io("make a directory of the runtime", e).path(root))?;
        for parent in missing.iter().filter_map(|p| p.parent()) {
            // One that the caller may write to and not read cannot be synced.
            let _ = retry(|| rustix::fs::open(parent, DIR, Mode::empty())).and_then(rustix::fs::fsync);
        }
        Ok(Top { root: root.to_owned(), fd: open_own(rustix::fs::CWD, root, root)? })
    }

    /// Opens the area in `top`, and removes the temporary names of the runtimes that have `crashed`; all of them
    /// where no other runtime is open.
    pub(super) fn open(top: &Top, durable: bool, token: u64, crashed: &[Crashed]) -> Result<Self> {
        let root = &top.root;
        let path = root.join(INSTANCES);
        match rustix::fs::mkdirat(&top.fd, INSTANCES, Mode::RWXU) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(e) => return Err(Error::sys("make a directory of the runtime", e).path(path)),
        }
        let instances = open_own(top.fd.as_fd(), Path::new(INSTANCES), &path)?;
        close_to_others(&instances).map_err(|e| Error::sys("close a directory to others", e).path(&path))?;
        let (next, synced) = (AtomicU64::new(0), Mutex::default());
        let area = Self { root: root.to_owned(), instances, durable, token, next, synced };
        area.sweep(crashed)?;
        Ok(area)
    }

    /// Takes the shared lock. Removes temporary names where no other store can own them; empty projects, too, where no
    /// other store is open.
    fn sweep(&self, crashed: &[Crashed]) -> Result<()> {
        let lock = |op| retry(|| rustix::fs::flock(&self.instances, op));
        let alone = lock(FlockOperation::NonBlockingLockExclusive).is_ok();
        let names = if alone || !crashed.is_empty() { self.names("")? } else { Vec::new() };
        let dead = |temp: &str| {
            let token = temp.get(..16).and_then(|t| u64::from_str_radix(t, 16).ok());
            token.is_some_and(|token| crashed.iter().any(|c| c.token == token))
        };
        for tries in 0.. {
            match lock(FlockOperation::NonBlockingLockShared) {
                Err(Errno::WOULDBLOCK) if tries < LOCK_TRIES => std::thread::sleep(Duration::from_millis(1)),
                Err(e) => {
                    return Err(Error::sys("lock a directory of the runtime", e)
                        .with_kind(if e == Errno::WOULDBLOCK {
                            ErrorKind::Busy
                        } else {
                            ErrorKind::of_errno(e)
                        })
                        .path(self.path("")));
                }
                Ok(()) => break,
            }
        }
        for name in names {
            if let Some(temp) = name.strip_prefix(TEMP) {
                if alone || dead(temp) {
                    self.remove_temp(&name)?;
                }
            } else if alone {
                // Goes where it is a project without instances.
                let _ = rustix::fs::unlinkat(self.fd(), &name, AtFlags::REMOVEDIR);
            }
        }
        Ok(())
    }

    pub(super) fn path(&self, below: &str) -> PathBuf {
        self.root.join(INSTANCES).join(below)
    }

    fn fd(&self) -> BorrowedFd<'_> {
        self.instances.as_fd()
    }

    fn err(&self, step: &'static str, path: &str, errno: Errno) -> Error {
        let e = Error::sys(step, errno).path(self.path(path));
        match errno {
            Errno::NOSPC | Errno::DQUOT => e.hint("free space on its file system"),
            _ => e,
        }
    }

    /// A name beside the projects that nothing else has.
    pub(super) fn temp_name(&self) -> String {
        format!("{TEMP}{:016x}-{}", self.token, self.next.fetch_add(1, Ordering::Relaxed))
    }

    pub(super) fn make_dir(&self, path: &str) -> Result<()> {
        rustix::fs::mkdirat(self.fd(), path, Mode::RWXU)
            .map_err(|e| self.err("make the directory of an instance", path, e))
    }

    /// Makes a project's directory and an instance's in it; what is there stays.
    pub(super) fn make_place(&self, place: &str) -> Result<()> {
        for path in [project_of(place), place] {
            match self.make_dir(path) {
                Err(e) if e.kind() != ErrorKind::AlreadyExists => return Err(e),
                _ => {}
            }
        }
        Ok(())
    }

    pub(super) fn exists(&self, path: &str) -> Result<bool> {
        match rustix::fs::statat(self.fd(), path, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(_) => Ok(true),
            Err(Errno::NOENT | Errno::NOTDIR) => Ok(false),
            Err(e) => Err(self.err("look for an instance", path, e)),
        }
    }

    /// Renames the directory `from` to `place`, unless that is taken.
    pub(super) fn claim(&self, from: &str, place: &str) -> Result<bool> {
        let rename = || rustix::fs::renameat(self.fd(), from, self.fd(), place);
        let mut renamed = rename();
        if renamed == Err(Errno::NOENT) {
            let project = project_of(place);
            match self.make_dir(project) {
                Err(e) if e.kind() != ErrorKind::AlreadyExists => return Err(e),
                _ => {}
            }
            renamed = rename();
        }
        match renamed {
            Ok(()) => Ok(true),
            Err(Errno::EXIST | Errno::NOTEMPTY) => Ok(false),
            Err(e) => Err(self.err("claim the name of an instance", place, e)),
        }
    }

    /// Undoes a claim.
    pub(super) fn take_back(&self, place: &str, to: &str) -> Result<()> {
        rustix::fs::renameat(self.fd(), place, self.fd(), to)
            .map_err(|e| self.err("give back the name of an instance", place, e))
    }

    /// Removes what is at `place`; says whether something was.
    pub(super) fn discard(&self, place: &str) -> Result<bool> {
        let temp = self.temp_name();
        match rustix::fs::renameat(self.fd(), place, self.fd(), &temp) {
            Ok(()) => {}
            Err(Errno::NOENT) => return Ok(false),
            Err(e) => return Err(self.err("remove the directory of an instance", place, e)),
        }
        self.sync_parent(place)?;
        self.remove_temp(&temp)?;
        Ok(true)
    }

    /// Removes a temporary file, or a directory with everything in it.
    pub(super) fn remove_temp(&self, name: &str) -> Result<()> {
        let err = |e| self.err("remove a directory of an instance", name, e);
        // Most hold these two files at the most: three calls and no listing.
        for file in [super::RUN, super::RECORD] {
            match rustix::fs::unlinkat(self.fd(), format!("{name}/{file}"), AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT) => {}
                // Whatever it is, the removal of the whole tree deals with it.
                Err(_) => break,
            }
        }
        match rustix::fs::unlinkat(self.fd(), name, AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(Errno::NOTDIR) => rustix::fs::unlinkat(self.fd(), name, AtFlags::empty()).map_err(err),
            Err(Errno::NOTEMPTY | Errno::EXIST) => {
                tree::remove(self.fd(), name, || self.temp_name()).map_err(err)
            }
            Err(e) => Err(err(e)),
        }
    }

    pub(super) fn write_new(&self, path: &str, bytes: &[u8]) -> Result<()> {
        file::write_new(self.fd(), path, bytes, self.durable).map_err(|e| self.err("write a record", path, e))
    }

    /// Replaces a file in one step. The caller syncs its directory.
    pub(super) fn replace(&self, path: &str, bytes: &[u8]) -> Result<()> {
        let temp = self.temp_name();
        self.write_new(&temp, bytes)?;
        self.rename_temp(&temp, path)
    }

    fn rename_temp(&self, temp: &str, path: &str) -> Result<()> {
        rustix::fs::renameat(self.fd(), temp, self.fd(), path).map_err(|e| {
            // The error of the rename is the one to report.
            let _ = rustix::fs::unlinkat(self.fd(), temp, AtFlags::empty());
            self.err("write a record", path, e)
        })
    }

    /// Reads a record; `None` where there is none.
    pub(super) fn load<T: DeserializeOwned>(&self, path: &str) -> Result<Option<T>> {
        self.load_if(path, |_| true)
    }

    fn load_if<T: DeserializeOwned>(&self, path: &str, counts: fn(&[u8]) -> bool) -> Result<Option<T>> {
        let name = |e: Error| e.path(self.path(path));
        match file::read(self.fd(), path).map_err(name)?.filter(|bytes| counts(bytes)) {
            Some(bytes) => file::decode(&bytes).map(Some).map_err(name),
            None => Ok(None),
        }
    }

    /// Makes a note: a symbolic link whose target is the record. One call, and it is whole from the first moment.
    /// Says whether there was none yet.
    pub(super) fn note(&self, path: &str, bytes: &[u8]) -> Result<bool> {
        let made = match note_text(bytes) {
            Some(text) => retry(|| rustix::fs::symlinkat(text, self.fd(), path)),
            None => file::write_new(self.fd(), path, bytes, false),
        };
        match made {
            Ok(()) => Ok(true),
            Err(Errno::EXIST) => Ok(false),
            Err(e) => Err(self.err("write a record", path, e)),
        }
    }

    /// Replaces a note in one step.
    pub(super) fn replace_note(&self, path: &str, bytes: &[u8]) -> Result<()> {
        let temp = self.temp_name();
        self.note(&temp, bytes)?;
        self.rename_temp(&temp, path)
    }

    /// Reads a note; `None` where there is none. One that is a file, as long ones are, may be being made: it is empty
    /// then, and is none yet.
    pub(super) fn load_note<T: DeserializeOwned>(&self, path: &str) -> Result<Option<T>> {
        match retry(|| rustix::fs::readlinkat(self.fd(), path, Vec::new())) {
            Ok(text) => file::decode(text.as_bytes()).map(Some).map_err(|e| e.path(self.path(path))),
            Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
            Err(Errno::INVAL) => self.load_if(path, |bytes| !bytes.is_empty()),
            Err(e) => Err(self.err("read a record", path, e)),
        }
    }

    /// Removes a file or a note; it need not be there.
    pub(super) fn unlink(&self, path: &str) -> Result<()> {
        match rustix::fs::unlinkat(self.fd(), path, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(e) => Err(self.err("remove a record", path, e)),
        }
    }

    /// Fails where a newer version wrote the file at `path`. One that nobody can read may be replaced.
    pub(super) fn refuse_newer(&self, path: &str) -> Result<()> {
        let bytes = match rustix::fs::readlinkat(self.fd(), path, Vec::new()) {
            Ok(text) => text.into_bytes(),
            Err(_) => match file::read(self.fd(), path) {
                Ok(Some(bytes)) => bytes,
                _ => return Ok(()),
            },
        };
        match file::check_schema(&bytes) {
            Err(e) if e.kind() == ErrorKind::Unsupported => Err(e.path(self.path(path))),
            _ => Ok(()),
        }
    }

    /// Makes the names in a directory durable, where the area is.
    pub(super) fn sync_dir(&self, path: &str) -> Result<()> {
        if !self.durable {
            return Ok(());
        }
        let sync = |fd: BorrowedFd<'_>| retry(|| rustix::fs::fsync(fd));
        if path.is_empty() {
            return sync(self.fd()).map_err(|e| self.err("sync a directory", path, e));
        }
        retry(|| rustix::fs::openat(self.fd(), path, DIR, Mode::empty()))
            .and_then(|fd| sync(fd.as_fd()))
            .map_err(|e| self.err("sync a directory", path, e))
    }

    /// Makes the names in a place's project durable. With the first of a project, its own name and that of all
    /// projects' directory: who made those may not have come to sync them.
    pub(super) fn sync_parent(&self, place: &str) -> Result<()> {
        let project = project_of(place);
        self.sync_dir(project)?;
        if !self.durable || self.synced().contains(project) {
            return Ok(());
        }
        self.sync_dir("")?;
        retry(|| rustix::fs::open(&self.root, DIR, Mode::empty()))
            .and_then(rustix::fs::fsync)
            .map_err(|e| Error::sys("sync a directory", e).path(&self.root))?;
        self.synced().insert(project.to_owned());
        Ok(())
    }

    fn synced(&self) -> MutexGuard<'_, HashSet<String>> {
        self.synced.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Removes a directory that has nothing in it.
    pub(super) fn remove_if_empty(&self, path: &str) {
        let _ = rustix::fs::unlinkat(self.fd(), path, AtFlags::REMOVEDIR);
    }

    /// Every instance that has the file `record`.
    pub(super) fn list(&self, record: &str) -> Result<Vec<InstanceId>> {
        self.places(|place| self.exists(&format!("{place}/{record}")))
    }

    /// Every instance that has a directory of which this holds.
    pub(super) fn places(&self, counts: impl Fn(&str) -> Result<bool>) -> Result<Vec<InstanceId>> {
        let mut ids = Vec::new();
        for project in self.names("")? {
            let Ok(project_name) = InstanceName::new(&project) else { continue };
            for name in self.names(&project)? {
                let Ok(name) = InstanceName::new(name) else { continue };
                if counts(&format!("{project}/{name}"))? {
                    ids.push(InstanceId { project: project_name.clone(), name, snapshot: None });
                }
            }
        }
        Ok(ids)
    }

    /// The names in a directory; none where it is gone or no directory.
    fn names(&self, path: &str) -> Result<Vec<String>> {
        let err = |e| self.err("list instances", path, e);
        let at = if path.is_empty() { "." } else { path };
        let fd = match retry(|| rustix::fs::openat(self.fd(), at, DIR, Mode::empty())) {
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(Vec::new()),
            other => other.map_err(err)?,
        };
        let mut names = Vec::new();
        for entry in Dir::new(fd).map_err(err)? {
            if let Ok(name) = entry.map_err(err)?.file_name().to_str()
                && !matches!(name, "." | "..")
            {
                names.push(name.to_owned());
            }
        }
        Ok(names)
    }
}

/// The text of a note, where it fits into a link.
fn note_text(bytes: &[u8]) -> Option<&[u8]> {
    /// A path's, less its NUL.
    const MAX: usize = 4095;
    let text = bytes.strip_suffix(b"\n").unwrap_or(bytes);
    (text.len() <= MAX).then_some(text)
}

fn project_of(place: &str) -> &str {
    place.split_once('/').map_or(place, |(project, _)| project)
}

/// Takes the way through a directory from everybody else: with an id map, programs below it that a container has made
/// set-user-id are those of root of the host.
fn close_to_others(dir: &OwnedFd) -> std::result::Result<(), Errno> {
    if rustix::fs::fstat(dir)?.st_mode & 0o077 == 0 {
        return Ok(());
    }
    rustix::fs::fchmod(dir, Mode::RWXU)
}

/// Opens a directory that must belong to the caller and that nobody else may write to: whoever can, decides
/// what the runtime does.
fn open_own(at: BorrowedFd<'_>, path: &Path, shown: &Path) -> Result<OwnedFd> {
    let step = "open a directory of the runtime";
    let fd = retry(|| rustix::fs::openat(at, path, DIR, Mode::empty())).map_err(|e| {
        let err = Error::sys(step, e).path(shown);
        match e {
            Errno::NOTDIR | Errno::LOOP => err.hint("give a directory, not a symbolic link or a file"),
            _ => err,
        }
    })?;
    let stat = rustix::fs::fstat(&fd).map_err(|e| Error::sys(step, e).path(shown))?;
    let refuse = |detail: String| Error::new(ErrorKind::PermissionDenied, step).path(shown).detail(detail);
    let me = rustix::process::geteuid().as_raw();
    if stat.st_uid != me {
        return Err(refuse(format!("belongs to user {}, not to user {me}", stat.st_uid))
            .hint("give a directory of the user that runs the host process"));
    }
    if stat.st_mode & 0o022 != 0 {
        return Err(refuse("others can write to it".into()).hint("take their right: chmod go-w"));
    }
    Ok(fd)
}
