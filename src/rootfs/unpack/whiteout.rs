//! Whiteouts of image layers (OCI image-spec, `layer.md`) in the form of overlayfs (`overlayfs.rst` of the kernel).

use std::collections::HashSet;
use std::os::fd::AsRawFd;

use rustix::fs::{AtFlags, FileType, Mode, XattrFlags};
use rustix::io::Errno;

use super::archive::{Archive, bad};
use super::make::{Maker, opening};
use super::options::SkippedPart;
use super::tree::ROOT;
use crate::error::{Error, Result};
use crate::sys::raw::retry;

/// What the names of whiteouts begin with.
const PREFIX: &[u8] = b".wh.";
/// Names of a layered file system's own, such as `.wh..wh.plnk`, which are no part of the image.
const OWN: &[u8] = b".wh..wh.";
/// The name that hides all of a directory's content in the layers below.
const OPAQUE: &[u8] = b".wh..wh..opq";
/// What tells overlayfs the same: for a mount by the host's root, and for one with `userxattr`.
const MARKS: [&[u8]; 2] = [b"trusted.overlay.opaque", b"user.overlay.opaque"];

/// The whiteouts of one unpacking that have not been replaced by a later member: directory and name.
pub(super) type Hidden = HashSet<(usize, Box<[u8]>)>;

/// Whether a path has to do with whiteouts.
pub(super) fn concerns(names: &[&[u8]]) -> bool {
    names.iter().any(|name| name.starts_with(PREFIX))
}

impl Maker<'_> {
    /// Makes what stands for a whiteout. Its place in the archive says nothing: it hides what the layers below have, and
    /// nothing of its own layer.
    pub(super) fn whiteout(
        &mut self,
        names: &[&[u8]],
        is_dir: bool,
        archive: &mut Archive<'_, '_>,
    ) -> Result<()> {
        let Some((name, way)) = names.split_last() else { return Ok(()) };
        if names.iter().any(|name| name.starts_with(OWN) && *name != OPAQUE) {
            return Ok(());
        }
        if concerns(way) || is_dir {
            return Err(bad("a whiteout is a directory"));
        }
        let hidden = &name[PREFIX.len()..];
        if matches!(hidden, b"" | b"." | b"..") {
            return Err(bad("a whiteout names nothing"));
        }
        self.go(way, archive)?;
        let here = self.tree.here();
        if *name == OPAQUE {
            return self.set_opaque(here, names);
        }
        if let Some(node) = self.tree.child(here, hidden) {
            return self.set_opaque(node, names);
        }
        self.tree.remember(size_of::<(usize, Box<[u8]>)>() + hidden.len() + 64)?;
        let dir = self.tree.fd().map_err(opening)?;
        match retry(|| rustix::fs::mknodat(dir, hidden, FileType::CharacterDevice, Mode::empty(), 0)) {
            Ok(()) => {
                self.hidden.insert((here, hidden.into()));
                Ok(())
            }
            // A file of this layer, which hides the one below, or the same whiteout again.
            Err(Errno::EXIST) => Ok(()),
            Err(e) => Err(Error::sys("make a whiteout", e)),
        }
    }

    /// Removes a whiteout that a directory of the same layer replaces; whether there was one.
    pub(super) fn uncover(&mut self, name: &[u8]) -> Result<bool> {
        let here = self.tree.here();
        if self.hidden.is_empty() || !self.hidden.remove(&(here, name.into())) {
            return Ok(false);
        }
        let dir = self.tree.fd().map_err(opening)?;
        retry(|| rustix::fs::unlinkat(dir, name, AtFlags::empty()))
            .map_err(|e| Error::sys("replace a whiteout", e))?;
        Ok(true)
    }

    /// Has a directory hide what the layers below have in it. The way stays where it is.
    pub(super) fn set_opaque(&mut self, node: usize, names: &[&[u8]]) -> Result<()> {
        if node == ROOT {
            self.done.opaque_root = true;
            return Ok(());
        }
        if !self.opaque.insert(node) {
            return Ok(());
        }
        let here = self.tree.here();
        self.tree.go_to(node);
        let dir = self.tree.fd().map_err(opening)?;
        let path = format!("/proc/thread-self/fd/{}", dir.as_raw_fd());
        let results =
            MARKS.map(|mark| (mark, retry(|| rustix::fs::setxattr(&*path, mark, b"y", XattrFlags::empty()))));
        self.tree.go_to(here);
        let one_is_set = results.iter().any(|(_, result)| result.is_ok());
        for (mark, result) in results {
            match result {
                Ok(()) => {}
                Err(e @ (Errno::PERM | Errno::OPNOTSUPP)) if one_is_set => {
                    self.skip(names, SkippedPart::Xattr(mark.to_vec()), Some(e.raw_os_error()));
                }
                Err(e) => return Err(Error::sys("make a directory opaque", e)),
            }
        }
        Ok(())
    }
}
