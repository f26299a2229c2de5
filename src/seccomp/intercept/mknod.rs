//! `mknod(2)` and `mknodat(2)`: the nodes of devices that can do no harm.
//!
//! The node is made by a helper with the caller's root, working directory, user and mask, so the kernel looks the path up,
//! checks the directory and finds the owner as it would for the caller; the one thing more that the helper may do is to make
//! a device. Where the mount is `nodev`, or the file system holds no nodes, a node that works is mounted over it.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;

use super::acting::{AT_FDCWD, Actor, Found, O_PATH, OPEN_HOW, WITHIN, inspect, open_how};
use super::{Interceptor, Nodes, Subject};
use crate::caps::{CapSet, Capability};
use crate::cgroup::{DeviceAccess, DeviceKind};
use crate::seccomp::hands::{Arg, Batch, Done, Hands};
use crate::seccomp::notify::{Call, Response};
use crate::sys::seccomp::NOTIF_SEND;

/// Which of the two calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    Mknod,
    Mknodat,
}

/// Memory devices, random numbers, and the caller's own terminals.
const HARMLESS: [(u32, u32); 7] = [(1, 3), (1, 5), (1, 7), (1, 8), (1, 9), (5, 0), (5, 1)];

const PATH_MAX: usize = 4095;

/// What is to be made, and where.
struct Wanted<'a> {
    actor: &'a Actor,
    parent: &'a [u8],
    name: &'a [u8],
    /// Type and permissions.
    mode: u32,
    device: u32,
}

/// What came of the quick way.
enum Quick {
    Answered,
    Failed(Errno),
    /// The caller could not go to its own root or working directory, and nothing was tried.
    NotThere,
}

/// The directory that it goes into.
struct Parent {
    fd: OwnedFd,
    found: Found,
    /// What a name in it takes beside being the caller.
    caps: CapSet,
}

pub(super) fn answer(of: &Interceptor, call: &mut Call<'_>, form: Form) -> Result<Response, Errno> {
    let a = call.args();
    let (dir, path, mode, device) = match form {
        Form::Mknod => (libc::AT_FDCWD, a[0], a[1], a[2]),
        Form::Mknodat => (a[0] as i32, a[1], a[2], a[3]),
    };
    let (mode, device) = (mode as u32 & 0xffff, device as u32);
    if !is_harmless(of, mode, device) {
        return Ok(Response::Continue);
    }
    let caller = call.who()?;
    if !of.subject.has(&caller) || !caller.has(Capability::Mknod) {
        return Ok(Response::Continue);
    }
    let path = call.text(path, PATH_MAX)?;
    let Some((parent, name)) = split(&path) else { return Ok(Response::Continue) };
    let actor = Actor::open(call, caller, dir, &path)?;
    let wanted = Wanted { actor: &actor, parent, name, mode, device };
    if of.what.mknod == Nodes::Plain {
        let success = call.success();
        match call.hands().with(|hands| wanted.quickly(hands, success))? {
            Quick::Answered => return Ok(call.was_answered()),
            Quick::Failed(Errno::ACCESS) if wanted.may_override() => {}
            Quick::Failed(Errno::PERM | Errno::ACCESS) => return Ok(Response::Continue),
            Quick::Failed(errno) => return Ok(Response::errno(errno)),
            Quick::NotThere => {}
        }
    }
    call.hands().with(|hands| wanted.make(of, hands))
}

fn is_harmless(of: &Interceptor, mode: u32, device: u32) -> bool {
    // As the kernel packs them (`new_decode_dev`).
    let numbers = (device >> 8 & 0xfff, device & 0xff | device >> 12 & 0xf_ff00);
    let allowed = |p: &crate::cgroup::DevicePolicy| {
        p.allows(DeviceKind::Char, numbers.0, numbers.1, DeviceAccess::MKNOD)
    };
    mode & libc::S_IFMT == libc::S_IFCHR
        && HARMLESS.contains(&numbers)
        && of.subject.devices.as_ref().is_none_or(allowed)
}

/// The directory and the name in it. `None` for what the kernel refuses as a new name anyhow.
pub(super) fn split(path: &[u8]) -> Option<(&[u8], &[u8])> {
    let (parent, name) = match path.iter().rposition(|b| *b == b'/') {
        Some(at) => (&path[..=at], &path[at + 1..]),
        None => (&b"."[..], path),
    };
    (!matches!(name, b"" | b"." | b"..")).then_some((parent, name))
}

impl Wanted<'_> {
    fn make(&self, of: &Interceptor, hands: &mut dyn Hands) -> Result<Response, Errno> {
        let (mut parent, mut made) = self.open_and_make(hands)?;
        if made == Err(Errno::ACCESS) {
            (parent, made) = self.make_by_capability(of, hands, parent)?;
        }
        let usable = of.what.mknod == Nodes::Usable;
        match made {
            Ok(()) => {
                if usable && (parent.found.nodev || parent.found.tmpfs) {
                    // Without it the node is there all the same, as it would be on such a mount.
                    let _ = self.cover(&of.subject, hands, &parent);
                }
                Ok(Response::Value(0))
            }
            // The file system takes no devices from anybody.
            Err(Errno::PERM) if usable => {
                self.make_file(hands, &parent)?;
                match self.cover(&of.subject, hands, &parent) {
                    Ok(()) => Ok(Response::Value(0)),
                    Err(errno) => {
                        let _ = self.remove(hands, &parent);
                        Err(errno)
                    }
                }
            }
            Err(Errno::PERM | Errno::ACCESS) => Ok(Response::Continue),
            Err(errno) => Ok(Response::errno(errno)),
        }
    }

    /// Makes the node where nothing more is to be known, and answers.
    fn quickly(
        &self,
        hands: &mut dyn Hands,
        (listener, success): (BorrowedFd<'_>, [u8; 24]),
    ) -> Result<Quick, Errno> {
        let mut batch = Batch::new(3);
        let there = self.actor.become_caller(&mut batch, hands, CapSet::of(&[Capability::Mknod]));
        let path = batch.text(self.parent);
        let how = open_how(&mut batch, O_PATH | libc::O_DIRECTORY as u64);
        let (_, parent) = batch.open(libc::SYS_openat2, &[AT_FDCWD, path, how, OPEN_HOW]);
        let name = batch.text(self.name);
        let node = batch.call(libc::SYS_mknodat, &[parent, name, self.mode.into(), self.device.into()]);
        let success = batch.bytes(&success);
        // A caller that was killed meanwhile gets no answer.
        batch.attempt(libc::SYS_ioctl, &[Arg::Slot(3), NOTIF_SEND.into(), success]);
        Actor::go_home(&mut batch);
        let [root, start] = self.actor.places();
        let done = hands.run(&batch, &[root, start, listener], WITHIN)?;
        match (done.step(node), done.up_to(node)) {
            (Some(Ok(_)), _) => Ok(Quick::Answered),
            (Some(Err(errno)), _) => Ok(Quick::Failed(errno)),
            (None, Err(Errno::ACCESS)) if done.up_to(there).is_err() => Ok(Quick::NotThere),
            (None, Err(Errno::ACCESS)) => Ok(Quick::Failed(Errno::ACCESS)),
            (None, other) => Err(other.err().unwrap_or(Errno::IO)),
        }
    }

    /// The usual way, in one go: looks the directory up and makes the node in it.
    fn open_and_make(&self, hands: &mut dyn Hands) -> Result<(Parent, Result<(), Errno>), Errno> {
        match self.attempt(hands, CapSet::of(&[Capability::Mknod])) {
            // A directory on the way that only a capability opens.
            Err(Errno::ACCESS) if self.may_override() => {
                let caps = CapSet::of(&[Capability::DacReadSearch]);
                let (parent, _) = self.attempt(hands, caps)?;
                Ok((parent, Err(Errno::ACCESS)))
            }
            done => done,
        }
    }

    fn may_override(&self) -> bool {
        self.actor.caller.has(Capability::DacOverride)
    }

    fn attempt(&self, hands: &mut dyn Hands, caps: CapSet) -> Result<(Parent, Result<(), Errno>), Errno> {
        let mut batch = Batch::new(2);
        self.actor.enter(&mut batch, hands, caps);
        let path = batch.text(self.parent);
        let how = open_how(&mut batch, O_PATH | libc::O_DIRECTORY as u64);
        let (_, parent) = batch.open(libc::SYS_openat2, &[AT_FDCWD, path, how, OPEN_HOW]);
        let name = batch.text(self.name);
        let node = if caps.contains(Capability::Mknod) {
            Some(batch.attempt(libc::SYS_mknodat, &[parent, name, self.mode.into(), self.device.into()]))
        } else {
            None
        };
        let last = inspect(&mut batch, parent);
        self.actor.leave(&mut batch, hands);
        batch.send_back(parent);
        let done = hands.run(&batch, &self.actor.places(), WITHIN)?;
        let made = node.map_or(Err(Errno::ACCESS), |node| result_of(&done, node));
        // All but the attempt itself has to have gone well.
        for step in (0..=last).filter(|step| Some(*step) != node) {
            done.step(step).ok_or(Errno::IO)??;
        }
        let fd = done.fd.ok_or(Errno::IO)?;
        let found = Found::parse(&done.out).ok_or(Errno::IO)?;
        Ok((Parent { fd, found, caps: CapSet::EMPTY }, made))
    }

    /// With `CAP_DAC_OVERRIDE`, where the caller has it and the kernel would let it count on this directory.
    fn make_by_capability(
        &self,
        of: &Interceptor,
        hands: &mut dyn Hands,
        mut parent: Parent,
    ) -> Result<(Parent, Result<(), Errno>), Errno> {
        if !self.may_override() || !self.actor.reaches(&of.subject, &parent.found) {
            return Ok((parent, Err(Errno::ACCESS)));
        }
        parent.caps = CapSet::of(&[Capability::DacOverride]);
        let caps = parent.caps.insert(Capability::Mknod);
        let args = |name| [Arg::Slot(3), name, self.mode.into(), self.device.into()];
        let made = self
            .in_directory(hands, &parent, caps, |batch, name| batch.attempt(libc::SYS_mknodat, &args(name)));
        Ok((parent, made))
    }

    /// An empty file with the node's permissions, for the node to be mounted on.
    fn make_file(&self, hands: &mut dyn Hands, parent: &Parent) -> Result<(), Errno> {
        let flags = libc::O_CREAT | libc::O_EXCL | libc::O_NOFOLLOW | libc::O_WRONLY | libc::O_CLOEXEC;
        self.in_directory(hands, parent, parent.caps, |batch, name| {
            batch.open(libc::SYS_openat, &[Arg::Slot(3), name, flags.into(), (self.mode & 0o777).into()]).0
        })
    }

    fn remove(&self, hands: &mut dyn Hands, parent: &Parent) -> Result<(), Errno> {
        self.in_directory(hands, parent, parent.caps, |batch, name| {
            batch.attempt(libc::SYS_unlinkat, &[Arg::Slot(3), name, 0_u32.into()])
        })
    }

    /// Makes one call as the caller, with the directory as slot 3.
    fn in_directory(
        &self,
        hands: &mut dyn Hands,
        parent: &Parent,
        caps: CapSet,
        step: impl FnOnce(&mut Batch, Arg) -> usize,
    ) -> Result<(), Errno> {
        let mut batch = Batch::new(3);
        self.actor.enter(&mut batch, hands, caps);
        let name = batch.text(self.name);
        let step = step(&mut batch, name);
        self.actor.leave(&mut batch, hands);
        let [root, start] = self.actor.places();
        let fds = [root, start, parent.fd.as_fd()];
        result_of(&hands.run(&batch, &fds, WITHIN)?, step)
    }

    /// Mounts a node that works over what was made. It belongs to the caller, and lies on a file system of the helper's
    /// that nobody else sees.
    fn cover(&self, subject: &Subject, hands: &mut dyn Hands, parent: &Parent) -> Result<(), Errno> {
        let mounts = self.actor.mounts(subject)?;
        let home = hands.mounts().try_clone_to_owned().map_err(|_| Errno::MFILE)?;
        let (to, theirs, ours) = (Arg::Slot(1), Arg::Slot(2), Arg::Slot(3));
        let new_mounts = Arg::from(libc::CLONE_NEWNS);
        let mode = self.mode & !self.actor.caller.umask;
        let mut batch = Batch::new(3);
        let (node, nothing, name) = (batch.text(b"node"), batch.text(b""), batch.text(self.name));
        batch.call(libc::SYS_umask, &[0_u32.into()]);
        batch.call(libc::SYS_mknodat, &[AT_FDCWD, node, mode.into(), self.device.into()]);
        let owner = [self.actor.caller.fsuid, self.actor.caller.fsgid].map(Arg::from);
        batch.call(libc::SYS_fchownat, &[AT_FDCWD, node, owner[0], owner[1], 0_u32.into()]);
        let flags = u64::from(libc::OPEN_TREE_CLONE) | libc::OPEN_TREE_CLOEXEC as u64;
        let (_, tree) = batch.open(libc::SYS_open_tree, &[AT_FDCWD, node, flags.into()]);
        batch.call(libc::SYS_setns, &[theirs, new_mounts]);
        let move_flags = Arg::from(libc::MOVE_MOUNT_F_EMPTY_PATH);
        let moved = batch.call(libc::SYS_move_mount, &[tree, nothing, to, name, move_flags]);
        batch.undo(libc::SYS_setns, &[ours, new_mounts]);
        // Only now: what has no name is not mounted.
        batch.undo(libc::SYS_unlinkat, &[AT_FDCWD, node, 0_u32.into()]);
        let done = hands.run(&batch, &[parent.fd.as_fd(), mounts.as_fd(), home.as_fd()], WITHIN)?;
        done.up_to(moved).map(drop)
    }
}

fn result_of(done: &Done, step: usize) -> Result<(), Errno> {
    match done.step(step) {
        Some(result) => result.map(drop),
        // One before it failed.
        None => Err(done.up_to(step).err().unwrap_or(Errno::IO)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_split_at_the_last_slash() {
        assert_eq!(split(b"null"), Some((&b"."[..], &b"null"[..])));
        assert_eq!(split(b"/null"), Some((&b"/"[..], &b"null"[..])));
        assert_eq!(split(b"a//b"), Some((&b"a//"[..], &b"b"[..])));
        for refused in ["", "/", "a/", "a/.", "a/..", "..", "."] {
            assert_eq!(split(refused.as_bytes()), None, "{refused}");
        }
    }
}
