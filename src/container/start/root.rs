//! What the root and the caller's mounts are made from, opened on the host before anything is touched.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::io::Errno;

use super::descriptors::Descriptors;
use super::plan::{ROOT_ATTRS, Root, Tree, Upper, mount_attrs};
use super::{Request, UserNamespace};
use crate::container::config::Mount;
use crate::error::{Error, ErrorKind, Result};
use crate::rootfs::tree::{self, Depth};
use crate::rootfs::{FileIds, Rootfs};

impl Request<'_> {
    /// The root, as the plan gets it.
    pub(super) fn root(&self, fds: &mut Descriptors) -> Result<Root> {
        match &self.config.rootfs {
            Rootfs::Dir(dir) => {
                let what = "open the root file system";
                let tree = self.host_dir(fds, what, dir.path(), Depth::Tree, dir.file_ids())?;
                Ok(Root::Dir(tree))
            }
            Rootfs::Overlay(overlay) => {
                let ids = overlay.file_ids();
                let lower = overlay.lower().iter();
                let lower = lower.map(|p| self.host_dir(fds, "open a layer", p, Depth::One, ids));
                let lower = lower.collect::<Result<Vec<_>>>()?;
                let upper = overlay.upper_dir().or(self.upper.as_deref()).ok_or_else(|| {
                    Error::new(ErrorKind::InvalidState, "find the instance's upper directory")
                })?;
                make_upper(upper)?;
                let upper = self.host_dir(fds, "open the upper directory", upper, Depth::One, ids)?;
                Ok(Root::Overlay { lower, upper: Upper::Dir(upper) })
            }
            Rootfs::Host => self.host_root(fds),
        }
    }

    /// The caller's mounts: for each bind its tree and whether it is a directory.
    pub(super) fn own_mounts(&self, fds: &mut Descriptors) -> Result<Vec<Option<(Tree, bool)>>> {
        self.config
            .mounts
            .iter()
            .map(|mount| {
                let Mount::Bind(bind) = mount else { return Ok(None) };
                let what = "open the source of a mount";
                let (fd, is_dir) = tree::open_source(what, bind.source())?;
                if !self.host.can_clone_mounts() {
                    if self.maps(bind.file_ids()) {
                        return Err(Error::new(ErrorKind::PermissionDenied, what)
                            .path(bind.source())
                            .detail("a mount with an id map needs CAP_SYS_ADMIN on the host")
                            .hint("bind it with the owners that it has"));
                    }
                    return Ok(Some((Tree::Path(bind.source().to_owned()), is_dir)));
                }
                let depth = if bind.is_recursive() { Depth::Tree } else { Depth::One };
                let mapped = self.maps(bind.file_ids());
                let path = bind.source().to_owned();
                let fd = fds.tree(what, fd, path, depth, mount_attrs(mount), mapped)?;
                Ok(Some((Tree::Given(fd), is_dir)))
            })
            .collect()
    }

    fn maps(&self, ids: FileIds) -> bool {
        ids == FileIds::Mapped && self.has_user_namespace()
    }

    /// Root inside a user namespace with a map of its own id alone: on disk and inside they are the same ids, and no
    /// file system of the host would take a map from it.
    fn is_mapped_already(&self) -> bool {
        matches!(self.users, UserNamespace::New(map) if self.host.is_own_map(map))
    }

    pub(super) fn host_dir(
        &self,
        fds: &mut Descriptors,
        what: &'static str,
        path: &Path,
        depth: Depth,
        ids: FileIds,
    ) -> Result<Tree> {
        if !self.host.can_clone_mounts() {
            drop(tree::open_dir(what, path)?);
            return Ok(Tree::Path(path.to_owned()));
        }
        if !self.maps(ids) || self.is_mapped_already() {
            return fds.ready(tree::detach_dir(what, path, depth, ROOT_ATTRS)?).map(Tree::Given);
        }
        let dir: OwnedFd = tree::open_dir(what, path)?;
        let fd = fds.tree(what, dir, path.to_owned(), depth, ROOT_ATTRS, true)?;
        Ok(Tree::Given(fd))
    }
}

/// Makes the two directories that overlayfs wants, on one mount.
fn make_upper(dir: &Path) -> Result<()> {
    for (name, mode) in [("upper", 0o755), ("work", 0o700)] {
        let path: PathBuf = dir.join(name);
        match rustix::fs::mkdir(&path, rustix::fs::Mode::from_raw_mode(mode)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => {
                let e = Error::sys("make the overlay's directories", errno).path(path);
                return Err(match errno {
                    Errno::NOENT => e.hint("the upper directory must exist before the container starts"),
                    Errno::NOTDIR => e.with_kind(ErrorKind::InvalidConfig).detail("lies in no directory"),
                    Errno::NOSPC | Errno::DQUOT => e.hint("free space on its file system"),
                    _ => e,
                });
            }
        }
    }
    Ok(())
}
