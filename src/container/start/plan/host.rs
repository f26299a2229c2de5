//! What only a root of the host's own files needs.

use std::os::unix::ffi::OsStrExt;

use rustix::mount::MountFlags;

use super::{AT_RECURSIVE, Builder, CWD, OPEN_TREE_CLONE, RECURSIVE, View};
use crate::spawn::{Fd, FsConfig, MaskFrom, Mount, Tolerate};
use crate::sys::mount::{MOUNT_ATTR_NODEV, MOUNT_ATTR_NOSUID, MOUNT_ATTR_RDONLY, MountAttr};

/// Directories that it has to itself: path, options. The host's hold sockets, keys and other people's files.
const FRESH: [(&str, &str); 5] = [
    ("/tmp", "mode=1777"),
    ("/var/tmp", "mode=1777"),
    ("/run", "mode=755"),
    ("/home", "mode=755"),
    ("/root", "mode=700"),
];

impl Builder<'_> {
    /// The directories of the view, each with everything that is mounted below it, read-only.
    pub(super) fn open_view(&mut self, view: &View) -> Vec<Fd> {
        let set = MOUNT_ATTR_RDONLY | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOSUID;
        let attr = MountAttr { set, ..MountAttr::default() };
        let mut dirs = Vec::with_capacity(view.dirs.len());
        for path in &view.dirs {
            let bytes = path.as_os_str().as_bytes();
            let tree =
                self.plan.open_tree("open a directory of the host", CWD, bytes, OPEN_TREE_CLONE | RECURSIVE);
            self.plan.mount_setattr("make a directory of the host read-only", tree, &attr, AT_RECURSIVE);
            dirs.push(tree);
        }
        dirs
    }

    /// A memory file system for the root.
    pub(super) fn empty_root(&mut self) -> Fd {
        let what = "make the root file system";
        let root = self.plan.fsopen(what, "tmpfs");
        self.plan.fsconfig(what, root, FsConfig::Text("mode", "755"));
        self.plan.fsconfig(what, root, FsConfig::Create);
        self.plan.fsmount(what, root, MOUNT_ATTR_NODEV | MOUNT_ATTR_NOSUID)
    }

    /// Puts the view together below the root.
    pub(super) fn attach_view(&mut self, view: &View, dirs: Vec<Fd>) {
        for (path, tree) in view.dirs.iter().zip(dirs) {
            let path = path.to_string_lossy();
            self.plan.mkdir("make the place of a directory", &path, 0o755);
            self.plan.move_mount("attach a directory of the host", tree, &path);
        }
        for (target, path) in &view.links {
            self.plan.symlink(&target.to_string_lossy(), &path.to_string_lossy());
        }
    }

    /// Covers what a container of the host's files must not see.
    pub(super) fn hide(&mut self) {
        for (path, data) in FRESH {
            if path.rfind('/') == Some(0) {
                self.plan.mkdir("make a directory of its own", path, 0o755);
                self.plan.tolerate(Tolerate::Existing);
            }
            self.plan.mount(&Mount {
                what: "mount a directory of its own",
                source: "tmpfs",
                target: path,
                fstype: "tmpfs",
                flags: MountFlags::NOSUID | MountFlags::NODEV,
                data,
            });
            self.plan.tolerate(Tolerate::Missing);
        }
        if self.parts.hidden.is_empty() {
            return;
        }
        self.enter_old_root();
        for path in &self.parts.hidden {
            self.plan.mask_path(path, MaskFrom::DevNull);
        }
    }
}
