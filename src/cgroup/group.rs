//! One cgroup: a directory descriptor, made, opened and looked at.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Mode};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::file::READ_ONLY;
use super::v1::Side;
use super::{Controller, DELEGATION};
use crate::error::{Error, ErrorKind, Result};
use crate::sys::fd::open_dir;
use crate::sys::raw::retry;

/// The kernel's number of a cgroup: unique until the machine restarts, as `bpf_get_current_cgroup_id` gives it.
/// With the boot id it says whether a path still means the same cgroup.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct CgroupId(u64);

impl CgroupId {
    /// The number itself.
    pub fn get(self) -> u64 {
        self.0
    }
}

impl fmt::Display for CgroupId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A cgroup v2 directory, held by an `O_PATH` descriptor.
///
/// Dropping it closes the descriptor and leaves the cgroup; [`remove`](Self::remove) deletes it. The descriptor
/// ([`AsFd`]) is fit for `CLONE_INTO_CGROUP` (`clone(2)`). Every operation works on the descriptor: the path is
/// for messages and records only.
#[derive(Debug)]
pub struct Cgroup {
    fd: OwnedFd,
    path: PathBuf,
    /// `None` for the mount's root, which nobody can remove.
    name: Option<OsString>,
    /// Where its v1 groups are.
    pub(super) v1: Side,
}

impl Cgroup {
    pub(super) fn from_parts(fd: OwnedFd, path: PathBuf, name: Option<OsString>, v1: Side) -> Self {
        Self { fd, path, name, v1 }
    }

    /// Another handle on it.
    pub(crate) fn try_clone(&self) -> Result<Self> {
        let fd = self.fd.try_clone().map_err(|e| Error::io("duplicate a descriptor", e))?;
        Ok(Self::from_parts(fd, self.path.clone(), self.name.clone(), self.v1.clone()))
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// The path under the mount that [`Hierarchy::detect`](super::Hierarchy::detect) found.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The name in the parent; `None` for the mount's root.
    pub fn name(&self) -> Option<&OsStr> {
        self.name.as_deref()
    }

    /// The cgroup's number (`fstat(2)`: its inode).
    ///
    /// # Errors
    /// None that is known; what the kernel says is passed on.
    pub fn id(&self) -> Result<CgroupId> {
        let stat = retry(|| rustix::fs::fstat(&self.fd))
            .map_err(|e| Error::sys("get the id of cgroup", e).path(&self.path))?;
        Ok(CgroupId(stat.st_ino))
    }

    /// The cgroup above; `None` at the mount's root.
    ///
    /// # Errors
    /// [`Exhausted`](ErrorKind::Exhausted) when no descriptor is left.
    pub fn parent(&self) -> Result<Option<Self>> {
        let (Some(_), Some(path)) = (&self.name, self.path.parent()) else {
            return Ok(None);
        };
        let fd = open_dir(self.fd(), "..")
            .map_err(|e| Error::sys("open the parent of cgroup", e).path(&self.path))?;
        let is_root = is_mount_root(fd.as_fd());
        let name = path.file_name().filter(|_| !is_root).map(OsStr::to_owned);
        Ok(Some(Self { fd, path: path.to_path_buf(), name, v1: self.v1.parent() }))
    }

    /// Makes the child cgroup `name`: `mkdirat(2)` and `openat(2)`, nothing else.
    ///
    /// # Errors
    /// [`InvalidConfig`](ErrorKind::InvalidConfig): the name is empty, longer than 255 bytes, holds `/` or a
    /// control character, begins with a dot, or could be that of an interface file (`memory.max`).
    /// [`AlreadyExists`](ErrorKind::AlreadyExists): there is such a child; [`open_child`](Self::open_child)
    /// opens it. [`PermissionDenied`](ErrorKind::PermissionDenied): this cgroup is not the caller's to write, or
    /// is mounted read-only. [`Exhausted`](ErrorKind::Exhausted): the kernel's or an ancestor's limit on
    /// cgroups. [`NotFound`](ErrorKind::NotFound): this cgroup was removed.
    pub fn create_child(&self, name: &str) -> Result<Self> {
        check_name(name)?;
        let path = self.path.join(name);
        retry(|| rustix::fs::mkdirat(&self.fd, name, Mode::from_raw_mode(0o755)))
            .map_err(|e| create_error(e, &path, || self.owner_of("")))?;
        match open_dir(self.fd(), name) {
            Ok(fd) => Ok(Self { fd, path, name: Some(name.into()), v1: self.v1.child(name) }),
            Err(e) => {
                let e = Error::sys("open new cgroup", e).path(&path);
                Err(match retry(|| rustix::fs::unlinkat(&self.fd, name, AtFlags::REMOVEDIR)) {
                    Ok(()) => e,
                    Err(left) => e.also(format!("the cgroup could not be removed again: {left}")),
                })
            }
        }
    }

    /// Opens the existing child cgroup `name`.
    ///
    /// # Errors
    /// [`InvalidConfig`](ErrorKind::InvalidConfig) as [`create_child`](Self::create_child);
    /// [`NotFound`](ErrorKind::NotFound): there is no such child.
    pub fn open_child(&self, name: &str) -> Result<Self> {
        check_name(name)?;
        let path = self.path.join(name);
        match open_dir(self.fd(), name) {
            Ok(fd) => Ok(Self { fd, path, name: Some(name.into()), v1: self.v1.child(name) }),
            Err(e) => Err(Error::sys("open cgroup", e).path(path)),
        }
    }

    /// The processes in the cgroup itself, not those in its descendants, as `cgroup.procs` lists them: in no
    /// order, perhaps twice when one is moved meanwhile, and 0 for one that the caller's pid namespace does not
    /// show. A number may belong to another process by the time it is used: to signal them use
    /// [`kill`](Self::kill) or [`freeze`](Self::freeze) first.
    ///
    /// # Errors
    /// [`NotFound`](ErrorKind::NotFound): the cgroup was removed. `EOPNOTSUPP`
    /// ([`Unsupported`](ErrorKind::Unsupported)): it is a threaded cgroup.
    pub fn procs(&self) -> Result<Vec<u32>> {
        Ok(self.read("cgroup.procs")?.lines().filter_map(|l| l.parse().ok()).collect())
    }

    /// Kills every process in the cgroup and its descendants with SIGKILL, frozen ones and those that fork
    /// meanwhile included (`cgroup.kill`, Linux 5.14). Returns at once: [`wait_empty`](Self::wait_empty) waits.
    ///
    /// # Errors
    /// [`PermissionDenied`](ErrorKind::PermissionDenied): the file is not the caller's to write.
    /// [`Unsupported`](ErrorKind::Unsupported): the mount's root of a host, or a threaded cgroup.
    pub fn kill(&self) -> Result<()> {
        self.write("cgroup.kill", "1")
    }
}

impl AsFd for Cgroup {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

fn is_mount_root(fd: BorrowedFd<'_>) -> bool {
    use rustix::fs::{StatxAttributes, StatxFlags};
    retry(|| rustix::fs::statx(fd, "", AtFlags::EMPTY_PATH, StatxFlags::empty()))
        .is_ok_and(|s| s.stx_attributes.contains(StatxAttributes::MOUNT_ROOT))
}

fn check_name(name: &str) -> Result<()> {
    let interface = |prefix: &str| name.strip_prefix(prefix).is_some_and(|rest| rest.starts_with('.'));
    let why = if name.is_empty() {
        "is empty"
    } else if name.len() > 255 {
        "is longer than 255 bytes"
    } else if name.contains('/') || name.chars().any(char::is_control) {
        "may not hold `/` or control characters"
    } else if name.starts_with('.') {
        "may not begin with a dot"
    } else if interface("cgroup") || Controller::ALL.iter().any(|c| interface(c.name())) {
        "begins like an interface file of the kernel"
    } else {
        return Ok(());
    };
    Err(Error::invalid("cgroup name", why).object(name.chars().take(80).collect::<String>()))
}

fn create_error(errno: Errno, path: &Path, owner: impl Fn() -> Option<u32>) -> Error {
    let e = Error::sys("create cgroup", errno).path(path);
    match errno {
        Errno::EXIST => {
            e.hint("another instance uses it, or a former one left it: remove it or take another name")
        }
        Errno::ACCESS | Errno::PERM => {
            let whose = owner().map(|uid| format!(": it belongs to user {uid}")).unwrap_or_default();
            e.detail(format!("the parent cgroup is not the caller's to write{whose}")).hint(DELEGATION)
        }
        Errno::ROFS => e.with_kind(ErrorKind::PermissionDenied).hint(READ_ONLY),
        Errno::AGAIN => e
            .detail("a limit on the number or depth of cgroups was hit")
            .hint("raise cgroup.max.descendants or cgroup.max.depth of an ancestor"),
        Errno::NOSPC => e.detail("the kernel has no cgroup number left").hint(
            "with the memory controller 65,535 cgroups exist at most, dying ones included: see cgroup.stat",
        ),
        Errno::NOENT | Errno::NODEV => {
            e.with_kind(ErrorKind::NotFound).detail("the parent cgroup was removed")
        }
        _ => e,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_one_plain_component_that_is_no_interface_file() {
        for good in ["web", "web.1", "stockade.web", "memoryx.y", "x.scope", "memory", &"x".repeat(255)] {
            check_name(good).unwrap();
        }
        let long = "x".repeat(256);
        for bad in
            ["", ".", "..", ".x", "a/b", "/", "a\nb", "a\0b", "cgroup.procs", "memory.max", "pids.", &long]
        {
            assert_eq!(check_name(bad).unwrap_err().kind(), ErrorKind::InvalidConfig, "{bad:?}");
        }
    }

    #[test]
    fn create_errors_have_a_kind_and_a_way_out() {
        let cases = [
            (Errno::EXIST, ErrorKind::AlreadyExists),
            (Errno::ACCESS, ErrorKind::PermissionDenied),
            (Errno::PERM, ErrorKind::PermissionDenied),
            (Errno::ROFS, ErrorKind::PermissionDenied),
            (Errno::NOSPC, ErrorKind::Exhausted),
            (Errno::AGAIN, ErrorKind::Exhausted),
        ];
        for (errno, kind) in cases {
            let e = create_error(errno, Path::new("/sys/fs/cgroup/x"), || Some(7));
            assert_eq!(e.kind(), kind, "{e}");
            assert!(e.way_out().is_some() && e.to_string().contains("/sys/fs/cgroup/x"), "{e}");
        }
        assert_eq!(create_error(Errno::NODEV, Path::new("/x"), || None).kind(), ErrorKind::NotFound);
    }
}
