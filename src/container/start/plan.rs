//! From a configuration to the list of operations that makes the container, in the order that works:
//!
//! 1. become root of the user namespace; names and loopback of the namespaces;
//! 2. make mounts private, put the root together, attach it over `/`, `pivot_root`;
//! 3. mount at absolute paths inside the new root: proc, /dev and the rest, which follow no links;
//! 4. detach the old root (proc and sysfs need it until here); the caller's mounts, masks, read-only paths, which
//!    follow the image's links: with the old root over `/` a link with `..` could lead to the host;
//! 5. the tail that exec shares: see [`super::super::tail`].

mod base;
mod host;
mod system;
mod views;

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::mount::{MountPropagationFlags, OpenTreeFlags};

use super::super::config::{ContainerConfig, Mount as ConfigMount, MountSet, Propagation};
use super::super::streams::Stream;
use super::super::tail::{Tail, bound, tail};
use crate::namespaces::{NamespaceKind, NamespaceSource};
use crate::rootfs::Rootfs;
use crate::spawn::{Fd, FsConfig, KernelFs, MaskFrom, Plan, Tolerate};
use crate::sys::mount::{
    MOUNT_ATTR_NODEV, MOUNT_ATTR_NOEXEC, MOUNT_ATTR_NOSUID, MOUNT_ATTR_NOSYMFOLLOW, MOUNT_ATTR_RDONLY,
    MountAttr,
};

const CWD: Fd = Fd::Raw(libc::AT_FDCWD);
const OPEN_TREE_CLONE: u32 = OpenTreeFlags::OPEN_TREE_CLONE.bits() | OpenTreeFlags::OPEN_TREE_CLOEXEC.bits();
const RECURSIVE: u32 = OpenTreeFlags::AT_RECURSIVE.bits();
const AT_RECURSIVE: u32 = 0x8000;
/// Where files for binding are made: inside the container's /dev, a tmpfs of its own.
const ETC_DIR: &str = "/dev/.stockade";

/// A directory of the host as the plan gets it.
#[derive(Clone, Debug)]
pub(super) enum Tree {
    /// A detached tree that the parent made.
    Given(Fd),
    /// A path that the child opens itself, with the rights of the user who started it.
    Path(PathBuf),
}

/// Where an overlay's changes go.
#[derive(Clone, Debug)]
pub(super) enum Upper {
    /// A directory that holds `upper` and `work`.
    Dir(Tree),
    /// A tmpfs that the child makes; gone with the container.
    Memory,
}

/// The flags of the root's mount. Links are not followed while the base mounts are made: see
/// [`Builder::follow_links`].
pub(super) const ROOT_ATTRS: u64 = MOUNT_ATTR_NODEV | MOUNT_ATTR_NOSYMFOLLOW;

/// What the root is put together from.
#[derive(Clone, Debug)]
pub(super) enum Root {
    Dir(Tree),
    Overlay { lower: Vec<Tree>, upper: Upper },
    View(View),
}

/// Directories of the host, read-only, below a root of their own.
#[derive(Clone, Debug, Default)]
pub(super) struct View {
    pub(super) dirs: Vec<PathBuf>,
    /// Links: target, path.
    pub(super) links: Vec<(PathBuf, PathBuf)>,
}

/// How the user namespace looks from inside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Users {
    /// The host's: the container is privileged.
    Host,
    /// One in which all groups may be set.
    Mapped,
    /// One of a single id, where setgroups(2) is denied and group `tty` has no number.
    Single,
}

/// Everything that the plan is made from beside the configuration.
#[derive(Debug)]
pub(super) struct Parts {
    pub(super) users: Users,
    /// Group `tty` (5) has a number there.
    pub(super) tty_group: bool,
    pub(super) root: Root,
    /// The caller's mounts, in order: a bind's tree, or nothing for a tmpfs.
    pub(super) mounts: Vec<Option<(Tree, bool)>>,
    /// Paths that the container must not see, for a root made of the host's files.
    pub(super) hidden: Vec<Vec<u8>>,
    /// The mount of the files that show it its own part of the machine.
    pub(super) views: Option<Fd>,
    /// Generated files of /etc: name, content.
    pub(super) etc: Vec<(&'static str, Vec<u8>)>,
    pub(super) streams: [Stream; 3],
    pub(super) tail: Tail,
    /// Whether it gets a session keyring.
    pub(super) keyring: bool,
    /// Whether there is a cgroup2 mount to be had.
    pub(super) cgroup2: bool,
    /// The cgroup namespace is made in the child, once the host has put it into its v1 groups.
    pub(super) cgroup_namespace_late: bool,
    /// What a system container takes for the number of this boot, with a line feed.
    pub(super) boot_id: String,
    /// The number of its machine.
    pub(super) machine_id: String,
}

/// Adds to `plan` everything from becoming root to the program.
pub(super) fn build(plan: &mut Plan, config: &ContainerConfig, parts: &Parts) {
    Builder { plan, config, parts, old_root: None, place: None }.build();
}

/// Adds to `plan` everything that does not depend on the name and the program: the child is parked after it.
pub(super) fn build_sandbox(plan: &mut Plan, config: &ContainerConfig, parts: &Parts) {
    plan.close_inherited();
    let mut builder = Builder { plan, config, parts, old_root: None, place: None };
    builder.identity();
    builder.below_root();
    bound(builder.plan, &parts.tail);
    builder.plan.close_others();
    builder.plan.park();
}

/// The rest, for a parked child.
pub(super) fn build_program(plan: &mut Plan, config: &ContainerConfig, streams: &[Stream; 3], t: &Tail) {
    names(plan, config);
    if !config.nics.is_empty() {
        plan.network_socket();
        plan.barrier(0);
    }
    tail(plan, streams, t);
}

fn names(plan: &mut Plan, config: &ContainerConfig) {
    if let Some(name) = config.hostname() {
        plan.set_hostname(name);
    }
    if let Some(name) = config.domainname() {
        plan.set_domainname(name);
    }
}

struct Builder<'a> {
    plan: &'a mut Plan,
    config: &'a ContainerConfig,
    parts: &'a Parts,
    /// The host's root, for what has to come from it.
    old_root: Option<Fd>,
    /// Where the child is, once the old root is detached: the root, or a file system of the kernel's.
    place: Option<KernelFs>,
}

impl Builder<'_> {
    fn build(mut self) {
        self.identity();
        names(self.plan, self.config);
        if !self.config.nics.is_empty() {
            self.plan.network_socket();
        }
        self.below_root();
        tail(self.plan, &self.parts.streams, &self.parts.tail);
    }

    fn below_root(&mut self) {
        self.root();
        if self.config.base_mounts == MountSet::Standard {
            self.base_mounts();
        }
        self.follow_links();
        if self.config.rootfs == Rootfs::Host {
            self.hide();
        }
        let trees = self.trees_by_path();
        self.plan.detach_top("detach the old root");
        // Only now are paths of the image looked up: the old root lies over `/`, and `..` from there leads to it.
        self.own_mounts(&trees);
        self.identity_files();
        self.etc_files();
        // The host has made the network interfaces meanwhile. Some sysctls are of one of them.
        if !self.config.nics.is_empty() {
            self.plan.barrier(0);
        }
        if !self.config.sysctls.is_empty() {
            self.enter(Some(KernelFs::Proc));
        }
        for sysctl in &self.config.sysctls {
            self.plan.write_proc("set sysctl", &sysctl.path().to_string_lossy(), sysctl.value().as_bytes());
        }
        self.views();
        self.masks();
        self.read_only();
        self.enter(None);
        if self.config.read_only_root {
            let attr = MountAttr { set: MOUNT_ATTR_RDONLY, ..MountAttr::default() };
            self.plan.mount_setattr_path("make the root read-only", "/", &attr, 0);
        }
        self.plan.setsid();
    }

    fn user_namespace(&self) -> bool {
        self.parts.users != Users::Host
    }

    fn is_new(&self, kind: NamespaceKind) -> bool {
        self.config.namespaces.is_new(kind)
    }

    fn identity(&mut self) {
        if self.parts.cgroup_namespace_late {
            // Its root is what the process is in now, v1 groups included.
            self.plan.unshare("make a cgroup namespace", NamespaceKind::Cgroup.clone_flag());
        }
        if self.config.namespaces.time == NamespaceSource::New
            && !self.config.namespaces.time_offsets.is_zero()
        {
            self.plan.unshare("make a time namespace", NamespaceKind::Time.clone_flag());
            let offsets = self.config.namespaces.time_offsets.proc_text();
            self.plan.enter_kernel(KernelFs::Proc);
            self.plan.write_proc("set clock offsets", "/proc/self/timens_offsets", offsets.as_bytes());
        }
        // Before the ids change, so that it counts as a key of the host's user, who may have more.
        if self.parts.keyring {
            self.plan.keyring();
        }
        if self.user_namespace() {
            self.plan.set_ids("become root of the user namespace", 0, 0);
            if self.parts.users == Users::Mapped {
                self.plan.set_groups(&[]);
            }
            self.plan.clear_ambient();
        }
        self.plan.umask(0);
        if self.is_new(NamespaceKind::Net) && !self.config.loopback_down {
            self.plan.loopback_up();
        }
    }

    // --- the root -----------------------------------------------------------------------------------------

    fn root(&mut self) {
        // Slave mounts still get what the host mounts later; nothing ever goes the other way.
        let from_host = match self.config.propagation {
            Propagation::Slave => MountPropagationFlags::DOWNSTREAM,
            _ => MountPropagationFlags::PRIVATE,
        };
        let from_host = (from_host | MountPropagationFlags::REC).bits();
        self.plan.propagation("make the host's mounts private", "/", from_host);
        if self.needs_old_root() {
            let flags = (rustix::fs::OFlags::PATH | rustix::fs::OFlags::DIRECTORY).bits();
            self.old_root = Some(self.plan.open("open the host's root", "/", flags));
        }
        let mut dirs = Vec::new();
        let root = match &self.parts.root {
            Root::Dir(tree) => self.tree("open the root file system", tree),
            Root::Overlay { lower, upper } => self.overlay(lower, upper),
            Root::View(view) => {
                dirs = self.open_view(view);
                self.empty_root()
            }
        };
        self.plan.move_mount("attach the root file system", root, "/");
        self.plan.pivot_root(root);
        if let Root::View(view) = &self.parts.root {
            self.attach_view(view, dirs);
        }
        let own = match self.config.propagation {
            Propagation::Shared => MountPropagationFlags::SHARED,
            Propagation::Unbindable => MountPropagationFlags::UNBINDABLE,
            _ => return,
        };
        self.plan.propagation("set the propagation of the root", "/", own.bits());
    }

    fn needs_old_root(&self) -> bool {
        let standard = self.config.base_mounts == MountSet::Standard;
        (standard && (self.binds_devices() || !self.own_sysfs()))
            || !self.parts.hidden.is_empty()
            || self.parts.mounts.iter().flatten().any(|(tree, _)| matches!(tree, Tree::Path(_)))
    }

    /// A tree as a descriptor in the child, before pivot_root.
    fn tree(&mut self, what: &'static str, tree: &Tree) -> Fd {
        match tree {
            Tree::Given(fd) => *fd,
            Tree::Path(path) => {
                // Not to take the mounts below would show what they hide, which the kernel refuses here.
                let fd =
                    self.plan.open_tree(what, CWD, path.as_os_str().as_bytes(), OPEN_TREE_CLONE | RECURSIVE);
                let attr = MountAttr { set: ROOT_ATTRS, ..MountAttr::default() };
                self.plan.mount_setattr("set the flags of the root file system", fd, &attr, AT_RECURSIVE);
                fd
            }
        }
    }

    /// Mounts an overlay. Its layers are attached to a scratch directory first: overlayfs takes layers with an id
    /// map only from this mount namespace. It keeps copies of its own, so the scratch mount goes right after. Were
    /// it left over the old root, detaching "the top" later would take it away and leave the host's root.
    fn overlay(&mut self, lower: &[Tree], upper: &Upper) -> Fd {
        // Before the scratch mount: a copy of the host's root with all its mounts would have it on top.
        let lower: Vec<Fd> = lower.iter().map(|t| self.tree("open a layer", t)).collect();
        let upper_dir = match upper {
            Upper::Dir(tree) => Some(self.tree("open the upper directory", tree)),
            Upper::Memory => None,
        };
        let scratch = self.plan.fsopen("make a scratch file system", "tmpfs");
        self.plan.fsconfig("make a scratch file system", scratch, FsConfig::Create);
        let scratch =
            self.plan.fsmount("make a scratch file system", scratch, MOUNT_ATTR_NODEV | MOUNT_ATTR_NOSUID);
        self.plan.move_mount("attach the scratch file system", scratch, "/");
        self.plan.fchdir("enter the scratch file system", scratch);
        let mut names = Vec::with_capacity(lower.len());
        for (i, fd) in lower.into_iter().enumerate() {
            let name = format!("l{i}");
            self.plan.mkdir("make the place of a layer", &name, 0o755);
            self.plan.move_mount("attach a layer", fd, &name);
            names.push(name);
        }
        self.plan.mkdir("make the place of the changes", "u", 0o755);
        match upper_dir {
            Some(fd) => self.plan.move_mount("attach the upper directory", fd, "u"),
            None => {
                self.plan.mkdir("make the upper directory", "u/upper", 0o755);
                self.plan.mkdir("make the work directory", "u/work", 0o700);
            }
        }
        let fs = self.plan.fsopen("open overlayfs", "overlay");
        self.plan.fsconfig("set the overlay's layers", fs, FsConfig::Text("lowerdir", &names.join(":")));
        self.plan.fsconfig("set the overlay's upper directory", fs, FsConfig::Text("upperdir", "u/upper"));
        self.plan.fsconfig("set the overlay's work directory", fs, FsConfig::Text("workdir", "u/work"));
        if self.user_namespace() {
            self.plan.fsconfig("let the overlay use user xattrs", fs, FsConfig::Flag("userxattr"));
        }
        self.plan.fsconfig("put the overlay together", fs, FsConfig::Create);
        let root = self.plan.fsmount("mount the overlay", fs, ROOT_ATTRS);
        self.plan.detach_top("detach the scratch file system");
        self.plan.check_writable("check the overlay", root);
        root
    }

    fn enter_old_root(&mut self) {
        if let Some(fd) = self.old_root {
            self.plan.fchdir("enter the host's root", fd);
        }
    }

    /// The base mounts are made at paths that the image could have made links of, and a link could lead one of them
    /// over another. From here on links lead where they do for the payload: inside the root.
    fn follow_links(&mut self) {
        let attr = MountAttr { clear: MOUNT_ATTR_NOSYMFOLLOW, ..MountAttr::default() };
        self.plan.mount_setattr_path("follow links again", "/", &attr, AT_RECURSIVE);
    }

    /// The trees of the caller's mounts that the child opens itself, in order, while there is the old root.
    fn trees_by_path(&mut self) -> Vec<Option<Fd>> {
        let mounts = self.config.mounts.iter().zip(&self.parts.mounts);
        mounts
            .map(|(mount, source)| match source {
                Some((Tree::Path(path), _)) => Some(self.tree_from_old_root(path, mount_attrs(mount))),
                _ => None,
            })
            .collect()
    }

    fn own_mounts(&mut self, trees: &[Option<Fd>]) {
        if self.config.mounts.is_empty() {
            return;
        }
        let mounts = self.config.mounts.iter().zip(&self.parts.mounts).zip(trees);
        for ((mount, source), opened) in mounts {
            let attrs = mount_attrs(mount);
            let (fd, is_dir) = match (mount, source, opened) {
                (ConfigMount::Tmpfs(t), ..) => (self.tmpfs(t.max_size(), t.top_mode(), attrs), true),
                (_, Some((Tree::Given(fd), is_dir)), _) | (_, Some((_, is_dir)), Some(fd)) => (*fd, *is_dir),
                _ => continue,
            };
            let target = mount.target();
            let kernel_files = target.starts_with("/proc") || target.starts_with("/sys");
            self.plan.chdir("enter the root", "/");
            self.plan.attach("attach mount", fd, target.as_os_str().as_bytes(), is_dir, kernel_files);
        }
    }

    fn tmpfs(&mut self, size: Option<u64>, mode: u32, attrs: u64) -> Fd {
        let what = "make a tmpfs";
        let fs = self.plan.fsopen(what, "tmpfs");
        self.plan.fsconfig(what, fs, FsConfig::Text("mode", &format!("{mode:o}")));
        if let Some(size) = size {
            self.plan.fsconfig(what, fs, FsConfig::Text("size", &size.to_string()));
        }
        self.plan.fsconfig(what, fs, FsConfig::Create);
        self.plan.fsmount(what, fs, attrs)
    }

    /// A tree of the host by its path, opened after pivot_root.
    fn tree_from_old_root(&mut self, path: &Path, attrs: u64) -> Fd {
        let relative = path.strip_prefix("/").unwrap_or(path);
        let dir = self.old_root.unwrap_or(CWD);
        let what = "open the source of a mount";
        let fd = self.plan.open_tree(what, dir, relative.as_os_str().as_bytes(), OPEN_TREE_CLONE | RECURSIVE);
        let attr = MountAttr { set: attrs, ..MountAttr::default() };
        self.plan.mount_setattr("set the flags of a mount", fd, &attr, AT_RECURSIVE);
        fd
    }

    /// Puts generated files over those of the image, by binds: the image stays as it is.
    fn etc_files(&mut self) {
        if self.parts.etc.is_empty() {
            return;
        }
        self.plan.mkdir("make the place of generated files", ETC_DIR, 0o755);
        self.plan.tolerate(Tolerate::Existing);
        self.plan.chdir("enter the root", "/");
        for (name, content) in &self.parts.etc {
            let made = format!("{ETC_DIR}/{name}");
            self.plan.create_file("write a generated file", &made, content, 0o644);
            let tree = self.plan.open_tree("open a generated file", CWD, &made, OPEN_TREE_CLONE);
            let attr = MountAttr { set: MOUNT_ATTR_RDONLY, ..MountAttr::default() };
            self.plan.mount_setattr("make a generated file read-only", tree, &attr, 0);
            self.plan.attach(
                "attach a generated file",
                tree,
                format!("/etc/{name}").as_bytes(),
                false,
                false,
            );
        }
    }

    /// Goes to the root, or to a file system of the kernel's.
    fn enter(&mut self, place: Option<KernelFs>) {
        if self.place == place {
            return;
        }
        match place {
            Some(fs) => self.plan.enter_kernel(fs),
            None => self.plan.chdir("enter the root", "/"),
        }
        self.place = place;
    }

    /// The paths in the order in which they are worked on, each with the place that it is looked up from: nothing of an
    /// image's can lead what is in procfs or sysfs astray.
    fn by_place(&self, paths: &[PathBuf]) -> Vec<(Option<KernelFs>, PathBuf)> {
        let place_of = |path: &Path| {
            let standard = self.config.base_mounts == MountSet::Standard;
            let is_in = |fs: &KernelFs| standard && path.starts_with(fs.path()) && path != fs.path();
            [KernelFs::Proc, KernelFs::Sys].into_iter().find(is_in)
        };
        let mut found: Vec<_> = paths.iter().map(|path| (place_of(path), path.clone())).collect();
        found.sort_by_key(|(place, _)| match place {
            // What comes next begins in procfs.
            Some(KernelFs::Sys) => 0,
            Some(KernelFs::Proc) => 1,
            None => 2,
        });
        found
    }

    /// Hides what the payload must not see. A null device that the image or a mount brings may be anything, so it covers
    /// nothing.
    fn masks(&mut self) {
        let from = if self.config.has_null_device() { MaskFrom::DevNull } else { MaskFrom::Nothing };
        for (place, path) in self.by_place(&self.config.masked_paths) {
            self.enter(place);
            let dir = place.map_or("", KernelFs::path);
            self.plan.mask_path_in(path.as_os_str().as_bytes(), dir, from);
        }
    }

    fn read_only(&mut self) {
        self.kernel_settings();
        for (place, path) in self.by_place(&self.config.readonly_paths) {
            self.enter(place);
            self.plan.read_only_path_in(path.as_os_str().as_bytes(), place.map_or("", KernelFs::path));
        }
    }
}

/// The `MOUNT_ATTR_*` flags of a mount.
pub(super) fn mount_attrs(mount: &ConfigMount) -> u64 {
    let o = mount.options();
    let flag = |on: bool, bit: u64| if on { bit } else { 0 };
    flag(o.read_only, MOUNT_ATTR_RDONLY)
        | flag(o.nosuid, MOUNT_ATTR_NOSUID)
        | flag(o.nodev, MOUNT_ATTR_NODEV)
        | flag(o.noexec, MOUNT_ATTR_NOEXEC)
}
