//! Removing a cgroup with all that its processes have made in it.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags};
use rustix::io::Errno;
use rustix::path::Arg;

use super::group::Cgroup;
use crate::error::{Error, ErrorKind, Result};
use crate::sys::fd::open_dir;
use crate::sys::raw::retry;

/// The longest pause between two attempts on an empty cgroup that the kernel still calls busy.
const PAUSE_MAX: Duration = Duration::from_millis(20);
/// What one pass over the descendants may take in any case, so that a call with a spent deadline still cleans up.
const PASS_MIN: Duration = Duration::from_millis(100);

impl Cgroup {
    /// Removes the cgroup, child cgroups included, when no process is left in them. One `rmdir` where it
    /// succeeds at once; otherwise it waits for the processes to end and tries again until the deadline. It kills
    /// nobody: [`kill`](Self::kill) does. `None` waits for ever. Removing a cgroup that is gone is no error.
    ///
    /// # Errors
    /// [`Timeout`](ErrorKind::Timeout): at the deadline a process is still in it, or was put into it again; empty
    /// children may be gone by then. [`PermissionDenied`](ErrorKind::PermissionDenied): the parent is not the
    /// caller's to write. [`InvalidConfig`](ErrorKind::InvalidConfig): it is the mount's root.
    pub fn remove(&self, deadline: Option<Instant>) -> Result<()> {
        let Some(name) = self.name() else {
            return Err(Error::invalid("cgroup", "is the root of the mount")
                .object(self.path().display().to_string()));
        };
        // Through its own descriptor, so that no descriptor of the parent needs to be held.
        let by_name = Path::new("..").join(name);
        // First: who finds the cgroup finds them.
        let _alone = self.v1_remove(deadline).map_err(|e| self.rename_step(e))?;
        if rmdir(self.fd(), &by_name).map_err(|e| self.remove_error(e))? {
            return Ok(());
        }
        let mut pause = Duration::from_millis(1);
        loop {
            if !self.is_at(&by_name).map_err(|e| self.remove_error(e))? {
                return Ok(());
            }
            self.wait_empty(deadline).map_err(|e| self.rename_step(e))?;
            let pass = deadline.map(|d| d.max(Instant::now() + PASS_MIN));
            self.v1_remove_below(pass)?;
            remove_children(self.fd(), pass).map_err(|e| self.remove_error(e))?;
            if rmdir(self.fd(), &by_name).map_err(|e| self.remove_error(e))? {
                return Ok(());
            }
            let left = deadline.map_or(PAUSE_MAX, |d| d.saturating_duration_since(Instant::now()));
            if left.is_zero() {
                return Err(self.timeout("remove").detail("the kernel still calls it busy"));
            }
            std::thread::sleep(pause.min(left));
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    /// The names of the child cgroups.
    pub(crate) fn child_names(&self) -> Result<Vec<String>> {
        let names = open_dir(self.fd(), ".").and_then(|dir| children(&dir));
        let names = names.map_err(|e| self.error("list".to_owned(), "", e))?;
        Ok(names.into_iter().filter_map(|n| n.into_string().ok()).collect())
    }

    /// Whether the name still means this cgroup: it could have been removed and made again by somebody else.
    fn is_at(&self, by_name: &Path) -> Result<bool, Errno> {
        let own = retry(|| rustix::fs::fstat(self))?;
        match retry(|| rustix::fs::statat(self, by_name, AtFlags::SYMLINK_NOFOLLOW)) {
            Ok(there) => Ok(there.st_ino == own.st_ino),
            Err(Errno::NOENT) => Ok(false),
            Err(e) => Err(e),
        }
    }

    fn remove_error(&self, errno: Errno) -> Error {
        self.error("remove cgroup".to_owned(), "", errno)
    }

    fn rename_step(&self, e: Error) -> Error {
        if e.kind() != ErrorKind::Timeout {
            return e;
        }
        self.timeout("remove").detail(self.who_is_in()).hint("kill the processes first")
    }
}

/// Removes one directory; `false` where it is busy, `true` where it is gone, now or before.
pub(super) fn rmdir(dir: BorrowedFd<'_>, name: impl Arg + Copy) -> Result<bool, Errno> {
    match retry(|| rustix::fs::unlinkat(dir, name, AtFlags::REMOVEDIR)) {
        Ok(()) | Err(Errno::NOENT | Errno::NODEV) => Ok(true),
        Err(Errno::BUSY) => Ok(false),
        Err(e) => Err(e),
    }
}

/// A directory on the way down: its name in the one above, and the children that are still to be entered.
struct Level {
    name: CString,
    busy: Vec<CString>,
}

/// Removes every descendant of `top` that is not busy, deepest first. A busy one stays and is no error.
///
/// A container decides how deep its tree is, so there is neither recursion nor a descriptor per level: the way
/// up is `..`, which is stable because cgroups cannot be moved.
pub(super) fn remove_children(top: BorrowedFd<'_>, deadline: Option<Instant>) -> Result<(), Errno> {
    let mut here = open_dir(top, ".")?;
    let mut levels = vec![Level { name: CString::default(), busy: sweep(&here)? }];
    while let Some(level) = levels.last_mut() {
        if deadline.is_some_and(|d| d <= Instant::now()) {
            return Ok(());
        }
        if let Some(name) = level.busy.pop() {
            match open_dir(here.as_fd(), name.as_c_str()) {
                Ok(child) => here = child,
                Err(Errno::NOENT) => continue,
                Err(e) => return Err(e),
            }
            levels.push(Level { name, busy: sweep(&here)? });
        } else if levels.len() > 1 {
            here = open_dir(here.as_fd(), c"..")?;
            if let Some(done) = levels.pop() {
                rmdir(here.as_fd(), done.name.as_c_str())?;
            }
        } else {
            break;
        }
    }
    Ok(())
}

/// Removes the children of `dir` that have none themselves; returns those that are busy.
fn sweep(dir: &OwnedFd) -> Result<Vec<CString>, Errno> {
    let mut busy = Vec::new();
    for name in children(dir)? {
        if !rmdir(dir.as_fd(), name.as_c_str())? {
            busy.push(name);
        }
    }
    Ok(busy)
}

fn children(dir: &OwnedFd) -> Result<Vec<CString>, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let readable = match retry(|| rustix::fs::openat(dir, c".", flags, Mode::empty())) {
        // It was removed meanwhile.
        Err(Errno::NOENT | Errno::NODEV) => return Ok(Vec::new()),
        opened => opened?,
    };
    let dots = |name: &CStr| name == c"." || name == c"..";
    let mut out = Vec::new();
    for entry in Dir::new(readable)? {
        match entry {
            Ok(e) if e.file_type() == FileType::Directory && !dots(e.file_name()) => {
                out.push(e.file_name().to_owned());
            }
            Ok(_) => {}
            Err(Errno::NOENT | Errno::NODEV) => break,
            Err(e) => return Err(e),
        }
    }
    Ok(out)
}
