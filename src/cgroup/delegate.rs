//! Handing a cgroup to a user, such as a container's root.

use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::{AtFlags, CWD, Gid, Uid};
use rustix::io::Errno;

use super::Controller;
use super::group::Cgroup;
use crate::error::{Error, ErrorKind, Result};
use crate::sys::fd::{open_dir, read_at};
use crate::sys::raw::retry;

/// The files to hand over where the kernel does not list them.
const FALLBACK: &str = "cgroup.procs\ncgroup.threads\ncgroup.subtree_control\n";

impl Cgroup {
    /// Gives the cgroup to user `uid` and group `gid` of the caller's user namespace: the directory and the
    /// files that the kernel lists in `/sys/kernel/cgroup/delegate`. Its owner can then make children and move
    /// its processes among them, which is what a container's own init needs; limits stay the caller's. Needs
    /// `CAP_CHOWN`.
    ///
    /// # Errors
    /// [`PermissionDenied`](crate::ErrorKind::PermissionDenied) without the privilege. The files that were
    /// handed over before the error stay so.
    pub fn delegate(&self, uid: u32, gid: u32) -> Result<()> {
        let invalid = |what| Error::invalid(what, "4294967295 is no id");
        let uid = (uid != u32::MAX).then(|| Uid::from_raw(uid)).ok_or_else(|| invalid("uid"))?;
        let gid = (gid != u32::MAX).then(|| Gid::from_raw(gid)).ok_or_else(|| invalid("gid"))?;
        let listed = read_at(CWD, "/sys/kernel/cgroup/delegate", 1 << 16);
        let listed = listed.map_or(FALLBACK.to_owned(), |b| String::from_utf8_lossy(&b).into_owned());
        let error = |e: Errno, file: &str| {
            Error::sys("change the owner of", e)
                .path(self.path().join(file))
                .hint("run with CAP_CHOWN over the id, as root has it")
        };
        chown(self.as_fd(), "", uid, gid).map_err(|e| error(e, ""))?;
        for file in listed.lines().filter(|f| !f.is_empty() && !f.contains('/')) {
            match chown(self.as_fd(), file, uid, gid) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(e) => return Err(error(e, file)),
            }
        }
        Ok(())
    }

    /// The processes in the cgroup and in all below it. A child that comes or goes meanwhile may be missed.
    pub(crate) fn procs_below(&self) -> Result<Vec<u32>> {
        let mut all = Vec::new();
        let mut todo = vec![self.again()?];
        while let Some(here) = todo.pop() {
            // Gone, or threaded: the processes of a threaded cgroup are listed above.
            match here.procs() {
                Ok(pids) => all.extend(pids),
                Err(e) if e.kind() == ErrorKind::NotFound || e.kind() == ErrorKind::Unsupported => {}
                Err(e) => return Err(e),
            }
            todo.extend(here.children().unwrap_or_default());
        }
        Ok(all)
    }

    /// Those below it that can be opened: one may go meanwhile.
    pub(super) fn children(&self) -> Result<Vec<Self>> {
        Ok(self.child_names()?.iter().filter_map(|name| self.open_any(name)).collect())
    }

    /// The child of that name, whatever its owner has called it.
    fn open_any(&self, name: &str) -> Option<Self> {
        let fd = open_dir(self.as_fd(), name).ok()?;
        Some(Self::from_parts(fd, self.path().join(name), Some(name.into()), self.v1.child(name)))
    }

    /// A second handle to it.
    pub(crate) fn again(&self) -> Result<Self> {
        let fd = open_dir(self.as_fd(), ".").map_err(|e| self.error("open".to_owned(), "", e))?;
        Ok(Self::from_parts(fd, self.path().to_owned(), self.name().map(ToOwned::to_owned), self.v1.clone()))
    }

    /// Moves a process, with all its threads, into this cgroup, and into its v1 groups where it has any (feature
    /// `cgroup1`). A child that is made in the cgroup by `CLONE_INTO_CGROUP` is in the first alone.
    ///
    /// # Errors
    /// [`PermissionDenied`](ErrorKind::PermissionDenied): the cgroup, the one that the process is in or the one above both
    /// is not the caller's to write. `ESRCH`: there is no such process. `EBUSY`: the cgroup gives controllers to
    /// its children, and so takes no process.
    pub fn add_process(&self, pid: u32) -> Result<()> {
        self.write("cgroup.procs", &pid.to_string())?;
        self.v1_take_in(pid)
    }

    /// Takes `controllers` from the children of this cgroup.
    pub(crate) fn disable_controllers(&self, controllers: &[Controller]) -> Result<()> {
        if controllers.is_empty() {
            return Ok(());
        }
        let text = controllers.iter().map(|c| format!("-{c}")).collect::<Vec<_>>().join(" ");
        self.write("cgroup.subtree_control", &text)
    }
}

fn chown(dir: BorrowedFd<'_>, file: &str, uid: Uid, gid: Gid) -> Result<(), Errno> {
    let flags = AtFlags::EMPTY_PATH | AtFlags::SYMLINK_NOFOLLOW;
    retry(|| rustix::fs::chownat(dir, file, Some(uid), Some(gid), flags))
}
