//! Going through a tree by descriptors.
//!
//! An entry is opened once, without following it, and all that is done to it is done through that descriptor. One
//! directory is open at a time, whatever the depth: the way back is `..`, which is taken only if it is where the way
//! came from.

use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Dir, FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;

use crate::error::{Error, ErrorKind, Result};
use crate::sys::raw::retry;

const STEP: &str = "shift owners";
const ENTRY: OFlags = OFlags::PATH.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// Something in the tree.
pub(super) struct Entry {
    /// Opened with `O_PATH`.
    pub(super) fd: OwnedFd,
    pub(super) stat: Stat,
}

impl Entry {
    pub(super) fn kind(&self) -> FileType {
        FileType::from_raw_mode(self.stat.st_mode)
    }

    fn id(&self) -> (u64, u64) {
        (self.stat.st_dev, self.stat.st_ino)
    }

    fn of(fd: OwnedFd) -> Result<Self, Errno> {
        let stat = rustix::fs::fstat(&fd)?;
        Ok(Self { fd, stat })
    }
}

/// A directory on the way down.
struct Level {
    /// What is still to come in it.
    names: std::vec::IntoIter<CString>,
    id: (u64, u64),
}

/// Visits `top`, then everything below it, each directory before what is in it.
pub(super) fn walk(top: &Path, visit: &mut dyn FnMut(&Entry, &Path) -> Result<()>) -> Result<()> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let failed = |path: &Path, e: Errno| Error::sys(STEP, e).path(path);
    let mut path = top.to_owned();
    let fd = retry(|| rustix::fs::openat(CWD, top, flags, Mode::empty())).map_err(|e| failed(top, e))?;
    let mut current = Entry::of(fd).map_err(|e| failed(top, e))?;
    visit(&current, &path)?;
    let mut levels = vec![level(&current).map_err(|e| failed(&path, e))?];
    while let Some(last) = levels.last_mut() {
        let Some(name) = last.names.next() else {
            levels.pop();
            if let Some(parent) = levels.last() {
                current = climb(current.fd.as_fd(), parent.id, &path)?;
                path.pop();
            }
            continue;
        };
        path.push(to_path(&name));
        let entry = match open(current.fd.as_fd(), &name) {
            Ok(entry) => entry,
            Err(Errno::NOENT) => {
                path.pop();
                continue;
            }
            Err(Errno::XDEV) => {
                return Err(Error::invalid("mount point in the tree", "has a file system of its own")
                    .path(&path)
                    .hint("unmount it first, and shift it by itself where that is wanted"));
            }
            Err(e) => return Err(failed(&path, e)),
        };
        visit(&entry, &path)?;
        if entry.kind().is_dir() {
            levels.push(level(&entry).map_err(|e| failed(&path, e))?);
            current = entry;
        } else {
            path.pop();
        }
    }
    Ok(())
}

fn open(dir: BorrowedFd<'_>, name: &CString) -> Result<Entry, Errno> {
    let inside = ResolveFlags::BENEATH
        | ResolveFlags::NO_SYMLINKS
        | ResolveFlags::NO_MAGICLINKS
        | ResolveFlags::NO_XDEV;
    Entry::of(retry(|| rustix::fs::openat2(dir, name, ENTRY, Mode::empty(), inside))?)
}

fn climb(from: BorrowedFd<'_>, to: (u64, u64), path: &Path) -> Result<Entry> {
    let flags = ENTRY | OFlags::DIRECTORY;
    let resolve = ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
    let parent = retry(|| rustix::fs::openat2(from, c"..", flags, Mode::empty(), resolve))
        .and_then(Entry::of)
        .map_err(|e| Error::sys(STEP, e).path(path))?;
    if parent.id() == to {
        return Ok(parent);
    }
    Err(Error::new(ErrorKind::InvalidState, STEP)
        .path(path)
        .detail("the directory was moved meanwhile")
        .hint("run it again when nothing else uses the tree"))
}

/// The names in a directory, in order.
fn level(dir: &Entry) -> Result<Level, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let open = |more| retry(|| rustix::fs::openat(&dir.fd, c".", flags | more, Mode::empty()));
    let fd = match open(OFlags::NOATIME) {
        Err(Errno::PERM) => open(OFlags::empty())?,
        other => other?,
    };
    let mut names = Vec::new();
    for entry in Dir::new(fd)? {
        let entry = entry?;
        if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
            names.push(entry.file_name().to_owned());
        }
    }
    names.sort_unstable();
    Ok(Level { names: names.into_iter(), id: dir.id() })
}

fn to_path(name: &CString) -> PathBuf {
    use std::os::unix::ffi::OsStrExt;
    PathBuf::from(std::ffi::OsStr::from_bytes(name.to_bytes()))
}
