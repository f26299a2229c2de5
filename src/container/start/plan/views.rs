//! The files that show the container its own part of the machine.

use std::path::Path;

use super::{Builder, OPEN_TREE_CLONE};
use crate::spawn::{Fd, KernelFs, Tolerate};
use crate::views::View;

impl Builder<'_> {
    /// Attaches them over the kernel's. A file can only be taken from a mount that is attached, so theirs lies over the root
    /// for a moment.
    pub(super) fn views(&mut self) {
        let Some(mount) = self.parts.views else { return };
        let wanted: Vec<View> = View::ALL.into_iter().filter(|view| self.shows(*view)).collect();
        let what = "attach the resource views";
        self.enter(None);
        self.plan.chdir("enter the root", "/");
        self.plan.move_mount(what, mount, "/");
        let open = |view: &View| {
            let tree = self.plan.open_tree("open a resource view", mount, view.name(), OPEN_TREE_CLONE);
            (*view, tree)
        };
        let opened: Vec<(View, Fd)> = wanted.iter().map(open).collect();
        self.plan.detach_top("detach the resource views");
        for fs in [KernelFs::Sys, KernelFs::Proc] {
            let here = |view: View| Path::new(view.path()).strip_prefix(fs.path()).ok()?.to_str();
            for (view, tree) in &opened {
                let Some(target) = here(*view) else { continue };
                self.enter(Some(fs));
                self.plan.move_mount(what, *tree, target);
                // Not every kernel has each of them.
                self.plan.tolerate(Tolerate::Missing);
            }
        }
    }

    /// Whether a file is to be shown: unless something of the caller's is there.
    fn shows(&self, view: View) -> bool {
        let path = Path::new(view.path());
        let has_own_clock = self.config.namespaces.time_offsets.boottime.secs() != 0;
        self.config.resource_views.contains(view.bit())
            && !(view == View::Uptime && has_own_clock)
            && !self
                .config
                .mounts
                .iter()
                .any(|mount| path.starts_with(mount.target()) && mount.target() != Path::new("/"))
    }
}
