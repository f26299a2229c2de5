//! Idmapped mounts: a mount through which files appear with the owners that a user namespace gives them
//! (`mount_setattr(2)`, `MOUNT_ATTR_IDMAP`, Linux 5.12).
//!
//! A container's root keeps its owners 0, 1, 2 ... on disk, and its mount is mapped with the container's user
//! namespace. This needs privilege over the file system, so the parent does it, on a detached tree, once, after
//! the maps of the user namespace were written.

use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags};

use crate::error::{Error, ErrorKind, Result};
use crate::sys;
use crate::sys::mount::{MOUNT_ATTR_IDMAP, MountAttr};

/// The inode of the first user namespace (`PROC_USER_INIT_INO`).
const INITIAL_USERNS: u64 = 0xEFFF_FFFD;

/// File systems that take no map, for messages: magic number, name, what to do instead.
const UNMAPPABLE: &[(u64, &str, &str)] = &[
    (0x794c_7630, "an overlay", "map its layers before they are put together"),
    (0x9fa0, "a proc file system", "mount a new one inside the container"),
    (0x6265_6572, "a sysfs", "mount a new one inside the container"),
    (0x6367_7270, "a cgroup file system", "mount a new one inside the container"),
    (0x1cd1, "a devpts", "mount a new one inside the container"),
    (0x6969, "an NFS", "keep the data on a local file system, or let the owners on disk be the container's"),
    (0x6573_5546, "a FUSE file system", "its server must support maps (FUSE_ALLOW_IDMAP, Linux 6.12)"),
];

/// How much of a mount tree a call is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Depth {
    /// The top mount only.
    Mount,
    /// The top mount and everything mounted below it.
    Tree,
}

/// Maps the owners in a detached mount tree with a user namespace. Needs `CAP_SYS_ADMIN` over the file systems.
///
/// `tree` is a descriptor of `open_tree(2)` with `OPEN_TREE_CLONE` or of `fsmount(2)` that is attached nowhere yet
/// and that has no map yet; `userns` one of a user namespace that has its maps, and that is not the first one.
///
/// # Errors
/// [`Unsupported`](ErrorKind::Unsupported) where the file system takes no map,
/// [`InvalidConfig`](ErrorKind::InvalidConfig) for a wrong user namespace, else as `mount_setattr(2)`. The text says
/// what is wrong where that can be found out.
pub fn apply(tree: BorrowedFd<'_>, userns: BorrowedFd<'_>, depth: Depth) -> Result<()> {
    set(tree, userns, depth).map_err(|errno| explain(tree, userns, errno))
}

fn set(tree: BorrowedFd<'_>, userns: BorrowedFd<'_>, depth: Depth) -> std::result::Result<(), Errno> {
    use std::os::fd::AsRawFd;
    // A descriptor is never negative.
    let userns_fd = u64::try_from(userns.as_raw_fd()).map_err(|_| Errno::BADF)?;
    let attr = MountAttr { set: MOUNT_ATTR_IDMAP, userns_fd, ..MountAttr::default() };
    sys::mount::mount_setattr(tree, depth == Depth::Tree, &attr)
}

fn explain(tree: BorrowedFd<'_>, userns: BorrowedFd<'_>, errno: Errno) -> Error {
    let e = Error::sys("map the owners in mount", errno);
    if !matches!(errno, Errno::INVAL | Errno::PERM | Errno::BADF) {
        return e;
    }
    if sys::nsfs::kind_flag(userns) != Ok(crate::namespaces::NamespaceKind::User.clone_flag()) {
        return e.with_kind(ErrorKind::InvalidConfig).detail("the descriptor is not a user namespace");
    }
    if rustix::fs::fstat(userns).is_ok_and(|st| st.st_ino == INITIAL_USERNS) {
        return e
            .with_kind(ErrorKind::InvalidConfig)
            .detail("the user namespace is the host's first one")
            .hint("give the container a user namespace of its own, or mount without a map");
    }
    if let Some((_, name, instead)) = UNMAPPABLE.iter().find(|(m, ..)| Some(*m) == magic(tree)) {
        return e
            .with_kind(ErrorKind::Unsupported)
            .detail(format!("{name} takes no map of owners"))
            .hint(*instead);
    }
    match errno {
        Errno::PERM => e.hint(
            "the mount must not have a map already, nor be a copy of one that has, and the caller needs \
             CAP_SYS_ADMIN over the file system",
        ),
        _ => e.hint(
            "the mount must be attached nowhere yet, the maps of the user namespace must be written before, and \
             every file system in the tree must take maps",
        ),
    }
}

fn magic(tree: BorrowedFd<'_>) -> Option<u64> {
    rustix::fs::fstatfs(tree).ok().and_then(|st| u64::try_from(st.f_type).ok())
}

/// Finds out, by trying, which file systems take a map of owners; asks the kernel once for each.
#[derive(Debug, Default)]
pub struct MountProbe {
    /// By device number and magic number, since a device number may be used again.
    known: Mutex<HashMap<(u64, Option<u64>), bool>>,
}

impl MountProbe {
    /// A probe that knows nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether the file system at `path` takes a map of owners. Nothing is mounted anywhere: the try is made on a
    /// detached copy of the mount. Needs `CAP_SYS_ADMIN` over the mount namespace and the file system.
    ///
    /// `userns` is any user namespace but the first one. With one that has no maps yet the answer is always no, and
    /// is not remembered.
    ///
    /// # Errors
    /// [`PermissionDenied`](ErrorKind::PermissionDenied) where the caller may not find out, or the mount at `path`
    /// has a map already; [`InvalidConfig`](ErrorKind::InvalidConfig) where `userns` is the wrong one;
    /// [`NotFound`](ErrorKind::NotFound) where `path` does not exist.
    pub fn supported(&self, path: &Path, userns: BorrowedFd<'_>) -> Result<bool> {
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        let at = sys::raw::retry(|| rustix::fs::open(path, flags, Mode::empty()))
            .map_err(|e| Error::sys("open", e).path(path))?;
        let st = rustix::fs::fstat(&at).map_err(|e| Error::sys("identify file system", e).path(path))?;
        let key = (st.st_dev, magic(at.as_fd()));
        if let Some(known) = self.lock().get(&key) {
            return Ok(*known);
        }
        let tree = clone_top(&at).map_err(|e| {
            Error::sys("copy mount", e).path(path).hint(match e {
                Errno::PERM => "the caller needs CAP_SYS_ADMIN over its mount namespace",
                _ => "other mounts below it may be locked to it by a user namespace",
            })
        })?;
        let found = match set(tree.as_fd(), userns, Depth::Mount) {
            Ok(()) => true,
            Err(errno) => {
                let e = explain(tree.as_fd(), userns, errno);
                if errno != Errno::INVAL || e.kind() == ErrorKind::InvalidConfig {
                    return Err(e.path(path));
                }
                // A namespace without maps fails in the same way, so only believe one that works elsewhere.
                if !works_on_tmpfs(userns) {
                    return Ok(false);
                }
                false
            }
        };
        self.lock().insert(key, found);
        Ok(found)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<(u64, Option<u64>), bool>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn clone_top(at: &OwnedFd) -> std::result::Result<OwnedFd, Errno> {
    sys::mount::clone_tree(at.as_fd(), "", false)
}

/// Whether a new, detached tmpfs takes this user namespace (Linux 6.3).
fn works_on_tmpfs(userns: BorrowedFd<'_>) -> bool {
    let new = || {
        let fs = rustix::mount::fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
        rustix::mount::fsconfig_create(fs.as_fd())?;
        rustix::mount::fsmount(fs.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())
    };
    new().and_then(|tmpfs: OwnedFd| set(tmpfs.as_fd(), userns, Depth::Mount)).is_ok()
}

#[cfg(test)]
mod tests;
