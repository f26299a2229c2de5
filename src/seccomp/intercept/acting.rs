//! What a helper does as the caller: with its root and working directory, as the user that counts for its files, and with as
//! few capabilities as the call needs.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::io::Errno;

use super::Subject;
use crate::caps::{CapSet, Capability};
use crate::idmap::{HostGid, HostUid};
use crate::seccomp::Call;
use crate::seccomp::hands::{Arg, Batch, HOME, Hands, Identity, Rule};
use crate::seccomp::notify::Caller;
use crate::sys::nsfs;

/// How long a helper may take for a call on files. A path that lies on a dead network file system takes longer: the helper
/// is killed, and the kernel decides about the call.
pub(super) const WITHIN: Duration = Duration::from_secs(5);

pub(super) const AT_FDCWD: Arg = Arg::Number(libc::AT_FDCWD as i64 as u64);
/// `O_PATH | O_CLOEXEC`.
pub(super) const O_PATH: u64 = (libc::O_PATH | libc::O_CLOEXEC) as u64;

/// The caller, and where its paths begin.
#[derive(Debug)]
pub(super) struct Actor {
    pub(super) caller: Caller,
    root: OwnedFd,
    /// `None` for the root.
    start: Option<OwnedFd>,
}

impl Actor {
    /// Opens the caller's root, and what a path of it is relative to: its working directory, or its descriptor `dir`.
    pub(super) fn open(call: &Call<'_>, caller: Caller, dir: i32, path: &[u8]) -> Result<Self, Errno> {
        let start = if path.first() == Some(&b'/') {
            Ok(None)
        } else if dir == libc::AT_FDCWD {
            caller.open("cwd").map(Some)
        } else if dir >= 0 {
            caller.open(&format!("fd/{dir}")).map(Some)
        } else {
            Err(Errno::BADF)
        };
        let root = caller.open("root");
        // The number was the caller's all the time.
        if !call.is_waiting() {
            return Err(Errno::SRCH);
        }
        Ok(Self { caller, root: root?, start: start? })
    }

    /// What comes first with each batch of this actor: root and start.
    pub(super) fn places(&self) -> [BorrowedFd<'_>; 2] {
        [self.root.as_fd(), self.start.as_ref().unwrap_or(&self.root).as_fd()]
    }

    /// What a batch of this actor begins with. The root comes as its first descriptor and the start as its second.
    pub(super) fn enter(&self, batch: &mut Batch, hands: &dyn Hands, caps: CapSet) {
        self.go(batch);
        if !self.caller.groups.is_empty() {
            let groups: Vec<u8> = self.caller.groups.iter().flat_map(|g| g.to_ne_bytes()).collect();
            let groups_at = batch.bytes(&groups);
            batch.call(libc::SYS_setgroups, &[Arg::Number(self.caller.groups.len() as u64), groups_at]);
        }
        batch.call(libc::SYS_setfsgid, &[self.caller.fsgid.into()]);
        batch.call(libc::SYS_setfsuid, &[self.caller.fsuid.into()]);
        capset(batch, hands.permitted(), caps.bits() & hands.permitted());
    }

    /// The same for a helper that stays the caller until it is to be another: most calls are followed by one more. So it goes
    /// to the caller's root as the caller, which may fail, and beside `caps` it uses `CAP_SYS_CHROOT` all the time. The number
    /// of the last step.
    pub(super) fn become_caller(&self, batch: &mut Batch, hands: &dyn Hands, caps: CapSet) -> usize {
        let effective = caps.insert(Capability::SysChroot).bits() & hands.permitted();
        let Caller { fsuid, fsgid, .. } = self.caller;
        batch.act_as(Identity { fsuid, fsgid, groups: self.caller.groups.clone(), effective });
        self.go(batch)
    }

    /// What it ends with then.
    pub(super) fn go_home(batch: &mut Batch) {
        let here = batch.text(b".");
        batch.undo(libc::SYS_fchdir, &[HOME]);
        batch.undo(libc::SYS_chroot, &[here]);
    }

    fn go(&self, batch: &mut Batch) -> usize {
        let (root, start) = (Arg::Slot(1), Arg::Slot(2));
        let here = batch.text(b".");
        batch.call(libc::SYS_fchdir, &[root]);
        batch.call(libc::SYS_chroot, &[here]);
        if self.start.is_some() {
            batch.call(libc::SYS_fchdir, &[start]);
        }
        batch.call(libc::SYS_umask, &[self.caller.umask.into()])
    }

    /// What it ends with.
    pub(super) fn leave(&self, batch: &mut Batch, hands: &dyn Hands) {
        capset_back(batch, hands.permitted());
        batch.undo(libc::SYS_setfsuid, &[0_u32.into()]);
        batch.undo(libc::SYS_setfsgid, &[0_u32.into()]);
        if !self.caller.groups.is_empty() {
            batch.undo(libc::SYS_setgroups, &[0_u32.into(), 0_u32.into()]);
        }
        Self::go_home(batch);
    }

    /// Whether the caller's capabilities in its user namespace reach a file of these owners, as the kernel has it
    /// (`capable_wrt_inode_uidgid`).
    pub(super) fn reaches(&self, subject: &Subject, found: &Found) -> bool {
        let uid = subject.id_map.uid_to_inner(HostUid::new(found.uid));
        let gid = subject.id_map.gid_to_inner(HostGid::new(found.gid));
        uid.is_some() && gid.is_some()
    }
}

impl Actor {
    /// The caller's mount namespace, where that is the container's to change: one that belongs to its user namespace. Of one
    /// that it shares with others it may have no more than a view.
    pub(super) fn mounts(&self, subject: &Subject) -> Result<OwnedFd, Errno> {
        let mounts = self.caller.open_readable("ns/mnt")?;
        let owner = rustix::fs::fstat(nsfs::owner(mounts.as_fd())?)?;
        if (owner.st_dev, owner.st_ino) == subject.user_namespace { Ok(mounts) } else { Err(Errno::PERM) }
    }
}

/// Leaves the helper these capabilities.
pub(super) fn capset(batch: &mut Batch, permitted: u64, effective: u64) {
    batch.capset(permitted, effective, Rule::Next);
}

/// Gives it all of its own again.
pub(super) fn capset_back(batch: &mut Batch, permitted: u64) {
    batch.capset(permitted, permitted, Rule::Always);
}

/// `struct open_how`: these flags, and no links of proc, which lead out of any root.
pub(super) fn open_how(batch: &mut Batch, flags: u64) -> Arg {
    let how = [flags, 0, libc::RESOLVE_NO_MAGICLINKS];
    batch.bytes(&how.iter().flat_map(|w| w.to_ne_bytes()).collect::<Vec<u8>>())
}

pub(super) const OPEN_HOW: Arg = Arg::Number(24);

/// Lengths of `struct statfs` and `struct statx`.
const STATFS: usize = 120;
const STATX: usize = 256;
/// Room for [`inspect`].
const INSPECTED: usize = STATFS + STATX;

/// What is to be known of a file that a helper has opened as the caller.
#[derive(Clone, Copy, Debug)]
pub(super) struct Found {
    /// Who owns it, as the host numbers them.
    pub(super) uid: u32,
    pub(super) gid: u32,
    /// Type and permissions.
    pub(super) mode: u32,
    /// Of a device: major and minor number.
    pub(super) device: (u32, u32),
    /// Whether its mount says that nodes on it cannot be opened.
    pub(super) nodev: bool,
    /// Whether it lies on a tmpfs: one that was mounted in a user namespace has no devices, and does not say so.
    pub(super) tmpfs: bool,
}

impl Found {
    pub(super) fn is(&self, kind: u32) -> bool {
        self.mode & libc::S_IFMT == kind
    }

    /// Reads what [`inspect`] asked for.
    pub(super) fn parse(out: &[u8]) -> Option<Self> {
        const TMPFS_MAGIC: u64 = 0x0102_1994;
        const ST_NODEV: u64 = 4;
        let (statfs, statx) = out.split_at_checked(STATFS)?;
        let long = |at: usize| statfs.get(at..at + 8)?.try_into().ok().map(u64::from_ne_bytes);
        let word = |at: usize| statx.get(at..at + 4)?.try_into().ok().map(u32::from_ne_bytes);
        let mode = statx.get(28..30)?.try_into().ok().map(u16::from_ne_bytes)?;
        Some(Self {
            uid: word(20)?,
            gid: word(24)?,
            mode: mode.into(),
            device: (word(128)?, word(132)?),
            nodev: long(80)? & ST_NODEV != 0,
            tmpfs: long(0)? == TMPFS_MAGIC,
        })
    }
}

/// Asks about what `fd` names. The number of the last step.
pub(super) fn inspect(batch: &mut Batch, fd: Arg) -> usize {
    let room = batch.room(INSPECTED);
    let statx = match room {
        Arg::Data(at) => Arg::Data(at + STATFS),
        other => other,
    };
    let nothing = batch.text(b"");
    batch.call(libc::SYS_fstatfs, &[fd, room]);
    let flags = libc::AT_EMPTY_PATH | libc::AT_SYMLINK_NOFOLLOW;
    batch.call(libc::SYS_statx, &[fd, nothing, flags.into(), libc::STATX_BASIC_STATS.into(), statx])
}
