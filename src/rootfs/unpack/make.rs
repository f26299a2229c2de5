//! Making the members in the target.
//!
//! A name is only ever made anew (`O_EXCL`, `mkdirat(2)`, `symlinkat(2)` ...), in a directory that was opened
//! without following links; nothing that exists is opened for writing. What stands in the way of a later member is
//! removed by its name.

use std::collections::HashSet;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, Timespec, Timestamps, UTIME_OMIT, XattrFlags};
use rustix::io::Errno;

use super::archive::{Archive, bad, shown};
use super::content::{write, write_with_holes};
use super::member::{Kind, Member, Meta};
use super::names::{joined, path_buf, split};
use super::options::{DeviceKind, Skipped, SkippedPart, UnpackDevices, UnpackIds, UnpackWhiteouts, Unpacked};
use super::sparse::Map;
use super::tree::{CLOSED, ROOT, Tree};
use super::whiteout::{self, Hidden};
use crate::error::{Error, ErrorKind, Result};
use crate::sys::raw::retry;

/// How often something in the way is removed, should somebody put it back.
const TRIES: usize = 8;
/// The mode of a directory that no member names.
const UNNAMED: Mode = Mode::RWXU.union(Mode::RGRP).union(Mode::XGRP).union(Mode::ROTH).union(Mode::XOTH);

/// The work of one unpacking on the target.
pub(super) struct Maker<'o> {
    pub(super) tree: Tree,
    pub(super) ids: &'o UnpackIds,
    pub(super) devices: UnpackDevices,
    pub(super) whiteouts: UnpackWhiteouts,
    pub(super) hidden: Hidden,
    /// Directories that hide what is below them.
    pub(super) opaque: HashSet<usize>,
    pub(super) done: Unpacked,
    /// The target's own mode, in case no member says another.
    pub(super) root_mode: Mode,
}

/// What was opened of a file that was made, to set things on it.
enum Made<'f> {
    Open(BorrowedFd<'f>),
    /// A link or a device, which must not be opened: its name in a directory.
    Named(BorrowedFd<'f>, &'f [u8]),
}

impl Maker<'_> {
    /// Makes one member; its content is read from the archive.
    pub(super) fn make(&mut self, member: Member, archive: &mut Archive<'_, '_>) -> Result<()> {
        let named = shown(&member.path);
        let name_it = |e: Error| if e.what().is_some() { e } else { e.object(named) };
        self.try_make(member, archive).map_err(name_it)
    }

    fn try_make(&mut self, member: Member, archive: &mut Archive<'_, '_>) -> Result<()> {
        archive.input.watch.member()?;
        self.done.members += 1;
        let Member { path, kind, meta, text_acls, .. } = member;
        let names = split(&path)?;
        archive.input.watch.depth(names.len())?;
        for key in text_acls {
            self.skip(&names, SkippedPart::TextAcl(key), None);
        }
        let Some((name, way)) = names.split_last() else {
            // The target itself.
            return match kind {
                Kind::Directory => self.tree.set_meta(ROOT, meta),
                _ => Err(bad("a member that is no directory has the name of the root")),
            };
        };
        if self.whiteouts == UnpackWhiteouts::Overlay && whiteout::concerns(&names) {
            return self.whiteout(&names, kind == Kind::Directory, archive);
        }
        self.go(way, archive)?;
        match kind {
            Kind::Directory => return self.directory(name, meta, &names),
            Kind::File(map) => self.file(name, map.as_ref(), &meta, &names, archive)?,
            Kind::Symlink(to) => self.symlink(name, &to, &meta, &names)?,
            Kind::HardLink(to) => self.hard_link(name, &to, &names)?,
            Kind::Fifo => {
                self.node(name, FileType::Fifo, 0, &meta, &names)?;
                self.done.fifos += 1;
            }
            Kind::Device { kind, major, minor } => {
                self.device(name, (kind, major, minor), &meta, &names)?;
            }
        }
        Ok(())
    }

    /// Goes to the directory of a member, and makes those on the way that are not there.
    pub(super) fn go(&mut self, way: &[&[u8]], archive: &mut Archive<'_, '_>) -> Result<()> {
        let first = self.tree.turn_to(way);
        for (depth, name) in way.iter().enumerate().skip(first) {
            let here = self.tree.here();
            let node = match self.tree.child(here, name) {
                Some(node) => node,
                None => {
                    archive.input.watch.member()?;
                    let hides = self.uncover(name)?;
                    let dir = self.tree.fd().map_err(opening)?;
                    match retry(|| rustix::fs::mkdirat(dir, *name, CLOSED)) {
                        Ok(()) => {}
                        Err(Errno::EXIST) => {
                            return Err(bad("it lies below a link or a file"));
                        }
                        Err(e) => return Err(Error::sys("make a directory", e)),
                    }
                    let node = self.tree.add(here, name)?;
                    if hides {
                        self.set_opaque(node, &way[..=depth])?;
                    }
                    node
                }
            };
            self.tree.go_into(node);
        }
        Ok(())
    }

    /// Makes something in the present directory; what has its name already is removed.
    fn create<T>(
        &mut self,
        step: &'static str,
        name: &[u8],
        mut make: impl FnMut(BorrowedFd<'_>) -> Result<T, Errno>,
    ) -> Result<T> {
        for _ in 0..TRIES {
            let dir = self.tree.fd().map_err(opening)?;
            match retry(|| make(dir)) {
                Err(Errno::EXIST) => self.remove(name)?,
                result => return result.map_err(|e| Error::sys(step, e)),
            }
        }
        Err(Error::sys(step, Errno::EXIST).detail("somebody else makes files of this name"))
    }

    fn remove(&mut self, name: &[u8]) -> Result<()> {
        let here = self.tree.here();
        let known = self.tree.child(here, name).is_some();
        let flags = if known { AtFlags::REMOVEDIR } else { AtFlags::empty() };
        let dir = self.tree.fd().map_err(opening)?;
        match retry(|| rustix::fs::unlinkat(dir, name, flags)) {
            Ok(()) => {
                self.tree.remove(here, name);
                if !self.hidden.is_empty() {
                    self.hidden.remove(&(here, name.into()));
                }
            }
            Err(Errno::NOENT) => {}
            Err(Errno::NOTEMPTY | Errno::EXIST) if known => {
                return Err(bad("it would replace a directory that is not empty"));
            }
            Err(e) => return Err(Error::sys("replace an earlier member", e)),
        }
        Ok(())
    }

    fn directory(&mut self, name: &[u8], meta: Meta, names: &[&[u8]]) -> Result<()> {
        let here = self.tree.here();
        let node = match self.tree.child(here, name) {
            Some(node) => node,
            None => {
                let hides = self.uncover(name)?;
                self.create("make a directory", name, |dir| rustix::fs::mkdirat(dir, name, CLOSED))?;
                let node = self.tree.add(here, name)?;
                if hides {
                    self.set_opaque(node, names)?;
                }
                node
            }
        };
        self.tree.set_meta(node, meta)
    }

    fn file(
        &mut self,
        name: &[u8],
        map: Option<&Map>,
        meta: &Meta,
        names: &[&[u8]],
        archive: &mut Archive<'_, '_>,
    ) -> Result<()> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mode = Mode::RUSR | Mode::WUSR;
        let file = self.create("make a file", name, |dir| rustix::fs::openat(dir, name, flags, mode))?;
        match map {
            None => write(&file, archive)?,
            Some(map) => write_with_holes(&file, map, archive)?,
        }
        self.set(&Made::Open(file.as_fd()), meta, true, names)?;
        self.done.files += 1;
        Ok(())
    }

    fn symlink(&mut self, name: &[u8], to: &[u8], meta: &Meta, names: &[&[u8]]) -> Result<()> {
        if to.contains(&0) {
            return Err(bad("what it links to holds a zero byte"));
        }
        self.create("make a symbolic link", name, |dir| rustix::fs::symlinkat(to, dir, name))?;
        self.set_named(name, meta, false, names)?;
        self.done.symlinks += 1;
        Ok(())
    }

    fn hard_link(&mut self, name: &[u8], to: &[u8], names: &[&[u8]]) -> Result<()> {
        let target = split(to).map_err(|e| e.object(format!("{} -> {}", joined(names), shown(to))))?;
        let missing = || bad("it is a hard link to what no member before it has made");
        let Some((last, way)) = target.split_last() else { return Err(missing()) };
        let Some(parent) = self.tree.find(way) else { return Err(missing()) };
        if self.tree.child(parent, last).is_some() {
            return Err(bad("it is a hard link to a directory"));
        }
        if !self.hidden.is_empty() && self.hidden.contains(&(parent, (*last).into())) {
            return Err(missing());
        }
        if target == names {
            // A name linked to itself stays, if it is there.
            let dir = self.tree.fd().map_err(opening)?;
            return match rustix::fs::statat(dir, *last, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(_) => Ok(()),
                Err(_) => Err(missing()),
            };
        }
        // A descriptor of the target's directory, while the way stays at the link's.
        let here = self.tree.here();
        self.tree.go_to(parent);
        let from = self.tree.fd().and_then(|fd| rustix::io::fcntl_dupfd_cloexec(fd, 3)).map_err(opening)?;
        self.tree.go_to(here);
        let stat = |dir: BorrowedFd<'_>, name: &[u8]| {
            rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW).map(|s| (s.st_dev, s.st_ino))
        };
        let found = match stat(from.as_fd(), last) {
            Ok(found) => found,
            Err(Errno::NOENT) if self.was_skipped(&target) => {
                let target = path_buf(&target);
                self.skip(names, SkippedPart::LinkToDevice(target), None);
                return Ok(());
            }
            Err(Errno::NOENT) => return Err(missing()),
            Err(e) => return Err(Error::sys("make a hard link", e)),
        };
        // The same file under both names already: to remove one would be no replacement.
        if stat(self.tree.fd().map_err(opening)?, name) != Ok(found) {
            self.create("make a hard link", name, |dir| {
                rustix::fs::linkat(&from, *last, dir, name, AtFlags::empty())
            })?;
        }
        self.done.hard_links += 1;
        Ok(())
    }

    fn device(
        &mut self,
        name: &[u8],
        (kind, major, minor): (DeviceKind, u32, u32),
        meta: &Meta,
        names: &[&[u8]],
    ) -> Result<()> {
        let part = SkippedPart::Device { kind, major, minor, mode: meta.mode, owner: (meta.uid, meta.gid) };
        if self.devices == UnpackDevices::List {
            self.skip(names, part, None);
            return Ok(());
        }
        let file_type = match kind {
            DeviceKind::Character => FileType::CharacterDevice,
            DeviceKind::Block => FileType::BlockDevice,
        };
        match self.node(name, file_type, rustix::fs::makedev(major, minor), meta, names) {
            Err(e) if e.errno() == Some(Errno::PERM.raw_os_error()) && e.step() == MAKE_NODE => {
                self.skip(names, part, e.errno());
            }
            result => {
                result?;
                self.done.devices += 1;
            }
        }
        Ok(())
    }

    fn node(&mut self, name: &[u8], kind: FileType, dev: u64, meta: &Meta, names: &[&[u8]]) -> Result<()> {
        let mode = Mode::RUSR | Mode::WUSR;
        self.create(MAKE_NODE, name, |dir| rustix::fs::mknodat(dir, name, kind, mode, dev))?;
        self.set_named(name, meta, true, names)
    }

    /// Sets owner, mode, attributes and time of something that must not be opened.
    fn set_named(&mut self, name: &[u8], meta: &Meta, mode: bool, names: &[&[u8]]) -> Result<()> {
        let dir = self.tree.fd().map_err(opening)?;
        let dir = rustix::io::fcntl_dupfd_cloexec(dir, 3).map_err(|e| Error::sys("set the owner", e))?;
        self.set(&Made::Named(dir.as_fd(), name), meta, mode, names)
    }

    /// The owner first, since a change of owner takes set-id bits and capabilities away; the mode after the
    /// attributes, since without the right to write some cannot be set.
    fn set(&mut self, made: &Made<'_>, meta: &Meta, with_mode: bool, names: &[&[u8]]) -> Result<()> {
        let owner = self.ids.owner(meta.uid, meta.gid)?;
        if let Some((uid, gid)) = owner {
            let result = match made {
                Made::Open(fd) => rustix::fs::fchown(fd, Some(uid), Some(gid)),
                Made::Named(dir, name) => {
                    rustix::fs::chownat(dir, *name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)
                }
            };
            result.map_err(|e| no_owner(e, uid.as_raw(), gid.as_raw()))?;
        }
        for (name, value) in &meta.xattrs {
            self.xattr(made, name, value, names)?;
        }
        if with_mode {
            let mode = Mode::from_raw_mode(self.ids.mode(meta.mode));
            let result = match made {
                Made::Open(fd) => rustix::fs::fchmod(fd, mode),
                Made::Named(dir, name) => chmod_named(*dir, name, mode),
            };
            result.map_err(|e| Error::sys("set the mode", e))?;
        }
        let times = times(meta.mtime);
        let result = match made {
            Made::Open(fd) => rustix::fs::futimens(fd, &times),
            Made::Named(dir, name) => rustix::fs::utimensat(dir, *name, &times, AtFlags::SYMLINK_NOFOLLOW),
        };
        result.map_err(|e| Error::sys("set the time", e))
    }

    fn xattr(&mut self, made: &Made<'_>, name: &[u8], value: &[u8], names: &[&[u8]]) -> Result<()> {
        if name.contains(&0) || name.is_empty() {
            return Err(bad("an extended attribute has no proper name"));
        }
        if MISREAD.iter().any(|prefix| name.starts_with(prefix)) {
            self.skip(names, SkippedPart::Xattr(name.to_vec()), None);
            return Ok(());
        }
        let changed = self.ids.xattr(name, value)?;
        let value = changed.as_deref().unwrap_or(value);
        let result = match made {
            Made::Open(fd) => rustix::fs::fsetxattr(fd, name, value, XattrFlags::empty()),
            Made::Named(dir, file) => {
                rustix::fs::lsetxattr(in_proc(*dir, file), name, value, XattrFlags::empty())
            }
        };
        match result {
            Ok(()) => Ok(()),
            Err(e @ (Errno::OPNOTSUPP | Errno::PERM)) => {
                self.skip(names, SkippedPart::Xattr(name.to_vec()), Some(e.raw_os_error()));
                Ok(())
            }
            Err(e) => Err(Error::sys("set an extended attribute", e)
                .detail(format!("the attribute is `{}`", shown(name)))),
        }
    }

    pub(super) fn skip(&mut self, names: &[&[u8]], what: SkippedPart, errno: Option<i32>) {
        self.done.skipped_total += 1;
        if self.done.skipped.len() < Unpacked::MAX_SKIPPED {
            self.done.skipped.push(Skipped { path: path_buf(names), what, errno });
        }
    }

    fn was_skipped(&self, names: &[&[u8]]) -> bool {
        let path = path_buf(names);
        let device =
            |s: &Skipped| matches!(s.what, SkippedPart::Device { .. } | SkippedPart::LinkToDevice(_));
        self.done.skipped.iter().any(|s| device(s) && s.path == path)
    }

    /// Sets what was put off: the directories' own owners, modes and times, each after those in it.
    pub(super) fn finish(&mut self) -> Result<()> {
        self.done.directories = self.tree.count() as u64;
        self.done.whiteouts = self.hidden.len() as u64;
        self.done.opaque = self.opaque.len() as u64;
        for node in self.tree.last_first() {
            let path = self.tree.path(node);
            let name_it = |e: Error| if e.what().is_some() { e } else { e.object(shown(&path)) };
            let fd = self.tree.open(node).map_err(|e| name_it(opening(e)))?;
            let names = split(&path)?;
            match self.tree.take_meta(node) {
                Some(meta) => self.set(&Made::Open(fd.as_fd()), &meta, true, &names).map_err(name_it)?,
                None => self.set_unnamed(&fd, UNNAMED).map_err(name_it)?,
            }
        }
        let root = rustix::io::fcntl_dupfd_cloexec(self.tree.root(), 3).map_err(opening)?;
        let name_it = |e: Error| if e.what().is_some() { e } else { e.object("./") };
        match self.tree.take_meta(ROOT) {
            Some(meta) => self.set(&Made::Open(root.as_fd()), &meta, true, &[]).map_err(name_it),
            None => self.set_unnamed(&root, self.root_mode).map_err(name_it),
        }
    }

    /// A directory that no member describes belongs to root.
    fn set_unnamed(&mut self, fd: &OwnedFd, mode: Mode) -> Result<()> {
        if let (UnpackIds::Shifted(_), Some((uid, gid))) = (self.ids, self.ids.owner(0, 0)?) {
            rustix::fs::fchown(fd, Some(uid), Some(gid))
                .map_err(|e| no_owner(e, uid.as_raw(), gid.as_raw()))?;
        }
        rustix::fs::fchmod(fd, mode).map_err(|e| Error::sys("set the mode", e))
    }
}

/// Attributes that an image does not bring: overlayfs would take a file for something else, and a shift of owners for
/// one that it has begun with.
const MISREAD: [&[u8]; 3] = [b"trusted.overlay.", b"user.overlay.", b"trusted.stockade."];

const MAKE_NODE: &str = "make a device or a pipe";

pub(super) fn opening(errno: Errno) -> Error {
    let e = Error::sys("open a directory of the target", errno);
    match errno {
        Errno::LOOP | Errno::NOTDIR | Errno::NOENT | Errno::XDEV => {
            e.with_kind(ErrorKind::Kernel).detail("somebody else changed the target meanwhile")
        }
        _ => e,
    }
}

fn no_owner(errno: Errno, uid: u32, gid: u32) -> Error {
    let e = Error::sys("set the owner", errno).detail(format!("the owner is {uid}:{gid}"));
    match errno {
        Errno::PERM | Errno::INVAL => {
            e.hint("this needs CAP_CHOWN; `UnpackIds::Caller` unpacks without privilege")
        }
        _ => e,
    }
}

fn times((sec, nsec): (i64, u32)) -> Timestamps {
    Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        last_modification: Timespec { tv_sec: sec, tv_nsec: nsec.into() },
    }
}

/// A name in a directory as a path: for calls that take no descriptor of a directory. The last part is not followed
/// by those that are used here.
fn in_proc(dir: BorrowedFd<'_>, name: &[u8]) -> Vec<u8> {
    let mut path = format!("/proc/thread-self/fd/{}/", dir.as_raw_fd()).into_bytes();
    path.extend_from_slice(name);
    path
}

/// Changes the mode of a device or pipe, following no link (`fchmodat2(2)` is too young).
fn chmod_named(dir: BorrowedFd<'_>, name: &[u8], mode: Mode) -> Result<(), Errno> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let fd = retry(|| rustix::fs::openat(dir, name, flags, Mode::empty()))?;
    let kind = FileType::from_raw_mode(rustix::fs::fstat(&fd)?.st_mode);
    if kind == FileType::Symlink { Err(Errno::LOOP) } else { chmod_path_fd(fd.as_fd(), mode) }
}

/// Changes the mode of what an `O_PATH` descriptor is open on.
pub(super) fn chmod_path_fd(fd: BorrowedFd<'_>, mode: Mode) -> Result<(), Errno> {
    let path = format!("/proc/thread-self/fd/{}", fd.as_raw_fd());
    retry(|| rustix::fs::chmodat(CWD, &*path, mode, AtFlags::empty()))
}
