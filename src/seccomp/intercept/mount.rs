//! `mount(2)` of new file systems that the host allows by name.
//!
//! A helper makes the file system, detached, and attaches it where the caller's path leads in the caller's mount namespace.
//! The device is one that the caller could open itself: it is opened as the caller, and what is mounted is that device, not
//! what the path stands for a moment later. The result is `nodev` whatever the caller says.

use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use rustix::io::Errno;

use super::Interceptor;
use super::acting::{AT_FDCWD, Actor, Found, O_PATH, OPEN_HOW, inspect, open_how};
use super::config::MountIds;
use crate::caps::{CapSet, Capability};
use crate::idmap::{IdMap, InnerGid, InnerUid};
use crate::seccomp::hands::{Arg, Batch, Hands};
use crate::seccomp::notify::{Call, Response};
use crate::sys::mount::{
    MOUNT_ATTR_IDMAP, MOUNT_ATTR_NODEV, MOUNT_ATTR_NOEXEC, MOUNT_ATTR_NOSUID, MOUNT_ATTR_RDONLY, MountAttr,
};

/// How long it may take: a journal may have to be replayed.
const WITHIN: Duration = Duration::from_secs(30);
const NAME_MAX: usize = 64;
const PATH_MAX: usize = 4095;
/// What fits into one batch beside the rest.
const OPTIONS_MAX: usize = 20;

const FSCONFIG_SET_FLAG: u32 = 0;
const FSCONFIG_SET_STRING: u32 = 1;
const FSCONFIG_CMD_CREATE: u32 = 6;
const FSOPEN_CLOEXEC: u32 = 1;
const FSMOUNT_CLOEXEC: u32 = 1;
const MOUNT_ATTR_NOATIME: u64 = 0x10;
const MOUNT_ATTR_STRICTATIME: u64 = 0x20;
const MOUNT_ATTR_NODIRATIME: u64 = 0x80;

/// An option of a file system, as `fsconfig(2)` takes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Opt {
    pub(super) key: Vec<u8>,
    pub(super) value: Option<Vec<u8>>,
}

/// Splits the data of `mount(2)`. `None` where it is none that could be taken apart.
pub(super) fn options(data: &[u8]) -> Option<Vec<Opt>> {
    let parts: Vec<&[u8]> = data.split(|b| *b == b',').filter(|part| !part.is_empty()).collect();
    if parts.len() > OPTIONS_MAX {
        return None;
    }
    let option = |part: &[u8]| {
        let (key, value) = match part.iter().position(|b| *b == b'=') {
            Some(at) => (&part[..at], Some(part[at + 1..].to_vec())),
            None => (part, None),
        };
        // The kernel takes no longer ones (`fsconfig(2)`), and a device is for the caller's own argument to name.
        let fits = !key.is_empty() && key.len() < 256 && value.as_ref().is_none_or(|v| v.len() < 256);
        (fits && key != b"source").then(|| Opt { key: key.to_vec(), value })
    };
    parts.into_iter().map(option).collect()
}

/// Gives the pages of huge pages to somebody in the container: the ids are inside's, and root's without any.
pub(super) fn shift_hugetlbfs(options: &mut Vec<Opt>, map: &IdMap) -> Option<()> {
    for (key, is_user) in [(&b"uid"[..], true), (b"gid", false)] {
        let given = options.iter().rposition(|o| o.key == key);
        let text = given.and_then(|at| options[at].value.clone()).unwrap_or_else(|| b"0".to_vec());
        let inner: u32 = std::str::from_utf8(&text).ok()?.parse().ok()?;
        let host = if is_user {
            map.uid_to_host(InnerUid::new(inner))?.as_raw()
        } else {
            map.gid_to_host(InnerGid::new(inner))?.as_raw()
        };
        options.retain(|o| o.key != key);
        options.push(Opt { key: key.to_vec(), value: Some(host.to_string().into_bytes()) });
    }
    Some(())
}

/// What the caller asks for, copied from its memory once.
struct Wanted {
    kind: Vec<u8>,
    source: Vec<u8>,
    target: Vec<u8>,
    flags: u64,
    options: Vec<Opt>,
}

pub(super) fn answer(of: &Interceptor, call: &mut Call<'_>) -> Result<Response, Errno> {
    let [source, target, kind, flags, data, _] = call.args();
    let Some(config) = &of.what.mount else { return Ok(Response::Continue) };
    if kind == 0 {
        return Ok(Response::Continue);
    }
    let kind = call.text(kind, NAME_MAX)?;
    let name = std::str::from_utf8(&kind).unwrap_or_default();
    let program = config.programs.get(name);
    if program.is_none() && !config.allowed.contains(name) {
        return Ok(Response::Continue);
    }
    let caller = call.who()?;
    if !of.subject.has(&caller) || !caller.has(Capability::SysAdmin) {
        return Ok(Response::Continue);
    }
    if let Some(program) = program {
        return super::fuse::answer(of, call, program, caller);
    }
    let text = |at: u64| if at == 0 { Ok(Vec::new()) } else { call.text(at, PATH_MAX) };
    let (source, target, data) = (text(source)?, text(target)?, text(data)?);
    let Some(mut options) = options(&data) else { return Ok(Response::Continue) };
    if kind == b"hugetlbfs" && shift_hugetlbfs(&mut options, &of.subject.id_map).is_none() {
        return Ok(Response::Continue);
    }
    let wanted = Wanted { kind, source, target, flags: plain(flags), options };
    let actor = Actor::open(call, caller, libc::AT_FDCWD, b"")?;
    let namespaces = (actor.mounts(&of.subject)?, actor.caller.open_readable("ns/user")?);
    if !call.is_waiting() {
        return Err(Errno::SRCH);
    }
    call.hands().with(|hands| {
        let device = if needs_device(&wanted.kind) { Some(wanted.device(hands, &actor)?) } else { None };
        let users = (config.ids == MountIds::Shifted).then_some(&namespaces.1);
        let mount = wanted.make(hands, device, users)?;
        wanted.attach(hands, &actor, &namespaces.0, &mount)?;
        Ok(Response::Value(0))
    })
}

/// Flags of `mount(2)` without the magic number that old programs put into the upper half; the kernel takes it away, too.
pub(super) fn plain(flags: u64) -> u64 {
    if flags & 0xffff_0000 == 0xc0ed_0000 { flags & 0xffff } else { flags }
}

/// Whether a file system lies on a block device (`proc_filesystems(5)`). One whose module is not loaded yet may.
fn needs_device(kind: &[u8]) -> bool {
    let known = std::fs::read("/proc/filesystems").unwrap_or_default();
    let nodev = [b"nodev\t", kind].concat();
    !known.split(|b| *b == b'\n').any(|line| line == nodev)
}

impl Wanted {
    fn is_read_only(&self) -> bool {
        self.flags & libc::MS_RDONLY != 0
    }

    /// The numbers of the block device that the caller names and could open as well.
    fn device(&self, hands: &mut dyn Hands, actor: &Actor) -> Result<(u32, u32), Errno> {
        let mut batch = Batch::new(2);
        actor.enter(&mut batch, hands, CapSet::EMPTY);
        let source = batch.text(&self.source);
        // Nothing is opened that blocks: first what it is, then whether it opens.
        let how = open_how(&mut batch, O_PATH);
        let (_, named) = batch.open(libc::SYS_openat2, &[AT_FDCWD, source, how, OPEN_HOW]);
        let access = libc::R_OK | if self.is_read_only() { 0 } else { libc::W_OK };
        let nothing = batch.text(b"");
        let flags = libc::AT_EACCESS | libc::AT_EMPTY_PATH;
        batch.call(libc::SYS_faccessat2, &[named, nothing, access.into(), flags.into()]);
        let last = inspect(&mut batch, named);
        actor.leave(&mut batch, hands);
        let done = hands.run(&batch, &actor.places(), WITHIN)?;
        done.up_to(last)?;
        let found = Found::parse(&done.out).ok_or(Errno::IO)?;
        if !found.is(libc::S_IFBLK) {
            return Err(Errno::NOTBLK);
        }
        // There no node opens, so for the caller it is none.
        if found.nodev {
            return Err(Errno::ACCESS);
        }
        Ok(found.device)
    }

    /// The file system, detached.
    fn make(
        &self,
        hands: &mut dyn Hands,
        device: Option<(u32, u32)>,
        users: Option<&OwnedFd>,
    ) -> Result<OwnedFd, Errno> {
        let mut batch = Batch::new(u8::from(users.is_some()));
        let kind = batch.text(&self.kind);
        let (_, fs) = batch.open(libc::SYS_fsopen, &[kind, FSOPEN_CLOEXEC.into()]);
        let mut set = |key: &[u8], value: Option<&[u8]>| {
            let key = batch.text(key);
            let (command, value) = match value {
                Some(value) => (FSCONFIG_SET_STRING, batch.text(value)),
                None => (FSCONFIG_SET_FLAG, Arg::Number(0)),
            };
            batch.call(libc::SYS_fsconfig, &[fs, command.into(), key, value, 0_u32.into()]);
        };
        for option in &self.options {
            set(&option.key, option.value.as_deref());
        }
        let fs_flags = [
            (libc::MS_RDONLY, &b"ro"[..]),
            (libc::MS_SYNCHRONOUS, b"sync"),
            (libc::MS_DIRSYNC, b"dirsync"),
            (libc::MS_LAZYTIME, b"lazytime"),
        ];
        for (_, name) in fs_flags.iter().filter(|(bit, _)| self.flags & bit != 0) {
            set(name, None);
        }
        match device {
            // A node of the helper's own that nobody can put another in the place of.
            Some((major, minor)) => {
                set(b"source", Some(DEVICE));
                let node = batch.text(DEVICE);
                let mode = libc::S_IFBLK | 0o600;
                let number = libc::makedev(major, minor);
                batch.call(libc::SYS_mknodat, &[AT_FDCWD, node, mode.into(), number.into()]);
                batch.call(libc::SYS_fsconfig, &create(fs));
                batch.undo(libc::SYS_unlinkat, &[AT_FDCWD, node, 0_u32.into()]);
            }
            None => {
                if !self.source.is_empty() {
                    set(b"source", Some(&self.source));
                }
                batch.call(libc::SYS_fsconfig, &create(fs));
            }
        }
        let attrs = Arg::Number(self.attrs());
        let (mut last, mount) = batch.open(libc::SYS_fsmount, &[fs, FSMOUNT_CLOEXEC.into(), attrs]);
        if users.is_some() {
            // The number of the descriptor is known to the helper alone: it is put where the kernel reads it.
            let attr = MountAttr { set: MOUNT_ATTR_IDMAP, ..MountAttr::default() };
            let words = [attr.set, attr.clear, attr.propagation, 0];
            let attr = batch.bytes(&words.iter().flat_map(|w| w.to_ne_bytes()).collect::<Vec<u8>>());
            let Arg::Data(at) = attr else { return Err(Errno::IO) };
            batch.point(Arg::Data(at + 24), Arg::Slot(1));
            let nothing = batch.text(b"");
            let args = [mount, nothing, libc::AT_EMPTY_PATH.into(), attr, Arg::Number(32)];
            last = batch.call(libc::SYS_mount_setattr, &args);
        }
        batch.send_back(mount);
        let fds: Vec<_> = users.iter().map(|fd| fd.as_fd()).collect();
        let done = hands.run(&batch, &fds, WITHIN)?;
        done.up_to(last)?;
        done.fd.ok_or(Errno::IO)
    }

    fn attrs(&self) -> u64 {
        let flag = |bit: u64, attr: u64| if self.flags & bit != 0 { attr } else { 0 };
        let atime = if self.flags & libc::MS_NOATIME != 0 {
            MOUNT_ATTR_NOATIME
        } else {
            flag(libc::MS_STRICTATIME, MOUNT_ATTR_STRICTATIME)
        };
        MOUNT_ATTR_NODEV
            | atime
            | flag(libc::MS_RDONLY, MOUNT_ATTR_RDONLY)
            | flag(libc::MS_NOSUID, MOUNT_ATTR_NOSUID)
            | flag(libc::MS_NOEXEC, MOUNT_ATTR_NOEXEC)
            | flag(libc::MS_NODIRATIME, MOUNT_ATTR_NODIRATIME)
    }

    /// Puts it where the caller's path leads, in the caller's mount namespace.
    fn attach(
        &self,
        hands: &mut dyn Hands,
        actor: &Actor,
        mounts: &OwnedFd,
        mount: &OwnedFd,
    ) -> Result<(), Errno> {
        let home = hands.mounts().try_clone_to_owned().map_err(|_| Errno::MFILE)?;
        let (theirs, ours, tree) = (Arg::Slot(3), Arg::Slot(4), Arg::Slot(5));
        let new_mounts = Arg::from(libc::CLONE_NEWNS);
        let mut batch = Batch::new(5);
        batch.call(libc::SYS_setns, &[theirs, new_mounts]);
        actor.enter(&mut batch, hands, CapSet::of(&[Capability::SysAdmin]));
        let path = batch.text(&self.target);
        let how = open_how(&mut batch, O_PATH);
        let (_, target) = batch.open(libc::SYS_openat2, &[AT_FDCWD, path, how, OPEN_HOW]);
        let nothing = batch.text(b"");
        let flags = libc::MOVE_MOUNT_F_EMPTY_PATH | libc::MOVE_MOUNT_T_EMPTY_PATH;
        let moved = batch.call(libc::SYS_move_mount, &[tree, nothing, target, nothing, flags.into()]);
        actor.leave(&mut batch, hands);
        batch.undo(libc::SYS_setns, &[ours, new_mounts]);
        let [root, start] = actor.places();
        let fds = [root, start, mounts.as_fd(), home.as_fd(), mount.as_fd()];
        hands.run(&batch, &fds, WITHIN)?.up_to(moved).map(drop)
    }
}

/// Where the device lies for the helper, and so what the mount says that it is made of.
const DEVICE: &[u8] = b"/device";

fn create(fs: Arg) -> [Arg; 5] {
    [fs, FSCONFIG_CMD_CREATE.into(), Arg::Number(0), Arg::Number(0), Arg::Number(0)]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn opt(key: &str, value: Option<&str>) -> Opt {
        Opt { key: key.into(), value: value.map(Into::into) }
    }

    #[test]
    fn options_are_split_at_commas() {
        assert_eq!(options(b""), Some(vec![]));
        let some = options(b"errors=remount-ro,,noload,a=b=c,d=").unwrap();
        let expected = [
            opt("errors", Some("remount-ro")),
            opt("noload", None),
            opt("a", Some("b=c")),
            opt("d", Some("")),
        ];
        assert_eq!(some, expected);
        for refused in ["source=/dev/sda", "=x", &"a,".repeat(21), &"k".repeat(256)] {
            assert_eq!(options(refused.as_bytes()), None, "{refused}");
        }
    }

    #[test]
    fn huge_pages_belong_to_somebody_inside() {
        let map = IdMap::range(1_000_000, 65_536).unwrap();
        let mut options = vec![opt("uid", Some("5")), opt("size", Some("2M"))];
        shift_hugetlbfs(&mut options, &map).unwrap();
        let expected = [opt("size", Some("2M")), opt("uid", Some("1000005")), opt("gid", Some("1000000"))];
        assert_eq!(options, expected);
        assert_eq!(shift_hugetlbfs(&mut vec![opt("gid", Some("65536"))], &map), None);
        assert_eq!(shift_hugetlbfs(&mut vec![opt("gid", Some("x"))], &map), None);
    }
}
