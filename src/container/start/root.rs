//! What the root and the caller's mounts are made from, opened on the host before anything is touched.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::io::Errno;

use super::Request;
use super::descriptors::Descriptors;
use super::plan::{Root, Tree, Upper, mount_attrs};
use crate::container::config::Mount;
use crate::error::{Error, ErrorKind, Result};
use crate::rootfs::tree::{self, Depth};
use crate::rootfs::{FileIds, Rootfs};
use crate::sys::mount::MOUNT_ATTR_NODEV;

/// Files of the host that hold secrets; hidden from a container made of the host's own files.
const KEY_FILES: [&str; 9] = [
    "/etc/shadow",
    "/etc/shadow-",
    "/etc/gshadow",
    "/etc/gshadow-",
    "/etc/ssl/private",
    "/etc/sudoers.d",
    "/etc/krb5.keytab",
    "/var/lib/private",
    "/var/spool/cron",
];

/// Homes, which hold keys of all kinds.
const HOMES: [&str; 2] = ["/root", "/home"];

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
            Rootfs::Host => {
                let root = Path::new("/");
                refuse_overlay(root)?;
                let lower = self.host_dir(fds, "open the host's root", root, Depth::One, FileIds::Mapped)?;
                Ok(Root::Overlay { lower: vec![lower], upper: Upper::Memory })
            }
        }
    }

    /// What a container of the host's own files must not see.
    pub(super) fn hidden(&self) -> Vec<String> {
        if !matches!(self.config.rootfs, Rootfs::Host) {
            return Vec::new();
        }
        let mut hidden: Vec<String> = HOMES.iter().chain(&KEY_FILES).map(ToString::to_string).collect();
        hidden.extend(self.runtime_dirs.iter().map(|d| d.display().to_string()));
        hidden.extend(ssh_host_keys());
        hidden
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

    fn host_dir(
        &self,
        fds: &mut Descriptors,
        what: &'static str,
        path: &Path,
        depth: Depth,
        ids: FileIds,
    ) -> Result<Tree> {
        let dir: OwnedFd = tree::open_dir(what, path)?;
        if !self.host.can_clone_mounts() {
            return Ok(Tree::Path(path.to_owned()));
        }
        let fd = fds.tree(what, dir, path.to_owned(), depth, MOUNT_ATTR_NODEV, self.maps(ids))?;
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

fn refuse_overlay(root: &Path) -> Result<()> {
    const OVERLAYFS_MAGIC: i64 = 0x794c_7630;
    let fs = rustix::fs::statfs(root).map_err(|e| Error::sys("look at the host's root", e).path(root))?;
    if fs.f_type == OVERLAYFS_MAGIC {
        return Err(Error::new(ErrorKind::Unsupported, "use the host's files as root file system")
            .path(root)
            .detail("is an overlay itself, which can neither be a layer with an id map nor be stacked so")
            .hint("give a directory with Rootfs::dir, such as one made by debootstrap"));
    }
    Ok(())
}

fn ssh_host_keys() -> Vec<String> {
    let Ok(dir) = std::fs::read_dir("/etc/ssh") else { return Vec::new() };
    dir.flatten()
        .map(|e| e.path().display().to_string())
        .filter(|p| p.contains("/ssh_host_") && p.ends_with("_key"))
        .collect()
}
