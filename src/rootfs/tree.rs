//! Directories of the host as detached mount trees, ready to be handed to a child.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;

use crate::error::{Error, ErrorKind, Result};
use crate::sys::mount::{MOUNT_ATTR_IDMAP, MountAttr, clone_tree, mount_setattr};

/// `MS_PRIVATE`: mounts made later on the host do not appear in the copy.
const PRIVATE: u64 = 1 << 18;

/// How much of a tree to take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Depth {
    /// The mount that the directory is on, alone.
    One,
    /// All mounts below it too.
    Tree,
}

/// Opens a directory of the host. Links in the path are followed: it is the caller's own.
pub(crate) fn open_dir(what: &'static str, path: &Path) -> Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty()).map_err(|e| dir_error(what, path, e))
}

fn dir_error(what: &'static str, path: &Path, errno: Errno) -> Error {
    let e = Error::sys(what, errno).path(path);
    match errno {
        Errno::NOTDIR => e.with_kind(ErrorKind::InvalidConfig).detail("is not a directory"),
        Errno::NOENT => e.hint("the directory must exist before the container starts"),
        _ => e,
    }
}

/// A detached copy of the mount at `dir`, private, with these `MOUNT_ATTR_*` flags and, given a user namespace,
/// with the ids of its map (`mount_setattr(2)`).
///
/// Needs `CAP_SYS_ADMIN` over this process's mount namespace, and for an id map over the file system's.
pub(crate) fn detach(
    what: &'static str,
    dir: BorrowedFd<'_>,
    path: &Path,
    depth: Depth,
    attrs: u64,
    id_map: Option<BorrowedFd<'_>>,
) -> Result<OwnedFd> {
    let tree = clone_tree(dir, "", depth == Depth::Tree).map_err(|e| Error::sys(what, e).path(path))?;
    set_attrs(what, tree, path, depth, attrs, id_map)
}

/// The same for a directory by its path, without an id map.
pub(crate) fn detach_dir(what: &'static str, path: &Path, depth: Depth, attrs: u64) -> Result<OwnedFd> {
    // The empty last part makes the kernel refuse what is no directory.
    let tree = clone_tree(CWD, path.join(""), depth == Depth::Tree).map_err(|e| dir_error(what, path, e))?;
    set_attrs(what, tree, path, depth, attrs, None)
}

fn set_attrs(
    what: &'static str,
    tree: OwnedFd,
    path: &Path,
    depth: Depth,
    attrs: u64,
    id_map: Option<BorrowedFd<'_>>,
) -> Result<OwnedFd> {
    let mut attr = MountAttr { set: attrs, clear: 0, propagation: PRIVATE, userns_fd: 0 };
    if let Some(userns) = id_map {
        attr.set |= MOUNT_ATTR_IDMAP;
        attr.userns_fd = userns.as_raw_fd() as u64;
    }
    mount_setattr(tree.as_fd(), depth == Depth::Tree, &attr).map_err(|errno| {
        let e = Error::sys(what, errno).path(path);
        match errno {
            Errno::INVAL | Errno::OPNOTSUPP if id_map.is_some() => e
                .with_kind(ErrorKind::Unsupported)
                .detail("its file system, or one mounted below it, cannot be mounted with an id map")
                .hint("ext4, xfs, btrfs and (since Linux 6.3) tmpfs can; overlayfs cannot"),
            Errno::PERM if id_map.is_some() => e
                .detail(
                    "its mount already has an id map, or the file system belongs to another user namespace",
                )
                .hint("name the directory by a path on a mount without an id map"),
            _ => e,
        }
    })?;
    Ok(tree)
}

/// Opens a file or directory of the host, for a bind mount; says whether it is a directory.
pub(crate) fn open_source(what: &'static str, path: &Path) -> Result<(OwnedFd, bool)> {
    let fd =
        rustix::fs::openat(CWD, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).map_err(|errno| {
            let e = Error::sys(what, errno).path(path);
            if errno == Errno::NOENT {
                e.hint("the source of a bind mount must exist before the container starts")
            } else {
                e
            }
        })?;
    let stat = rustix::fs::fstat(&fd).map_err(|e| Error::sys(what, e).path(path))?;
    let is_dir = rustix::fs::FileType::from_raw_mode(stat.st_mode).is_dir();
    Ok((fd, is_dir))
}
