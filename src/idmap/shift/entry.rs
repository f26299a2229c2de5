//! One file, directory or other entry. The order is such that after a crash at any point the next run finishes it.

use std::os::fd::AsRawFd;
use std::path::Path;

use rustix::fs::{AtFlags, CWD, FileType, Gid, Mode, Uid, XattrFlags};
use rustix::io::Errno;

use super::Shift;
use super::attrs::{self, Caps, Kept};
use super::walk::Entry;
use crate::error::{Error, Result};
use crate::idmap::ids::IdKind;
use crate::sys::raw::retry;

const CAPS: &str = "security.capability";
const ACCESS_LIST: &str = "system.posix_acl_access";
const DEFAULT_LIST: &str = "system.posix_acl_default";
pub(super) const KEPT: &str = "trusted.stockade.shift";
/// Set-user-id, set-group-id, sticky and the nine of access.
const MODE_BITS: u32 = 0o7777;
const SET_ID: u32 = 0o6000;
/// The kernel's limit for the value of one attribute (`xattr(7)`).
const MAX_VALUE: usize = 65_536;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Changed,
    Same,
}

pub(super) fn shift(shift: &Shift<'_>, entry: &Entry, path: &Path) -> Result<Outcome> {
    let file = File { name: format!("/proc/thread-self/fd/{}", entry.fd.as_raw_fd()), path };
    let (uid, gid) = (entry.stat.st_uid, entry.stat.st_gid);
    let new_uid = shift.translate(IdKind::Uid, uid, path)?;
    let new_gid = shift.translate(IdKind::Gid, gid, path)?;
    let moves = (uid, gid) != (new_uid, new_gid);
    let chown = || {
        let flags = AtFlags::EMPTY_PATH | AtFlags::SYMLINK_NOFOLLOW;
        let (uid, gid) = (Uid::from_raw(new_uid), Gid::from_raw(new_gid));
        retry(|| rustix::fs::chownat(&entry.fd, c"", Some(uid), Some(gid), flags))
            .map_err(|e| file.failed("change the owner of a file", e))
    };
    if entry.kind() == FileType::Symlink {
        // Nothing else of it has ids, and it has no mode.
        if moves {
            chown()?;
        }
        return Ok(if moves { Outcome::Changed } else { Outcome::Same });
    }

    let names = file.list()?;
    let mut changed = moves;
    for name in [ACCESS_LIST, DEFAULT_LIST].into_iter().filter(|name| names.contains(name)) {
        changed |= file.shift_list(shift, name)?;
    }
    let left = if names.contains(KEPT) { file.get(KEPT)?.as_deref().and_then(Kept::decode) } else { None };
    let now = if names.contains(CAPS) { file.caps()? } else { None };
    // What an earlier run kept is what there was: the file may have lost it.
    let (mode, before) = match &left {
        Some(kept) => (kept.mode, kept.caps),
        None => (entry.stat.st_mode & MODE_BITS, now),
    };
    let caps = before.map(|caps| caps.with_root(|id| shift.translate(IdKind::Uid, id, path))).transpose()?;

    let loses = !entry.kind().is_dir() && (mode & SET_ID != 0 || caps.is_some());
    let mut kept = names.contains(KEPT);
    if moves && loses && left.is_none() {
        kept = file.keep(&Kept { mode, caps })?;
    }
    if moves {
        chown()?;
    }
    if loses && (moves || left.is_some()) {
        file.set_mode(mode)?;
    }
    if let Some(caps) = caps
        && (moves || now != Some(caps))
    {
        file.set(CAPS, &caps.encode())?;
        changed = true;
    }
    if kept {
        file.remove(KEPT)?;
        changed = true;
    }
    Ok(if changed { Outcome::Changed } else { Outcome::Same })
}

/// Names of attributes.
struct Names(Vec<u8>);

impl Names {
    fn contains(&self, name: &str) -> bool {
        self.0.split(|b| *b == 0).any(|n| n == name.as_bytes())
    }
}

/// An entry by the name that its descriptor has in proc: what needs more than an `O_PATH` descriptor goes by that.
pub(super) struct File<'a> {
    pub(super) name: String,
    /// For messages only.
    pub(super) path: &'a Path,
}

impl File<'_> {
    fn failed(&self, step: &'static str, errno: Errno) -> Error {
        let e = Error::sys(step, errno).path(self.path);
        match errno {
            Errno::PERM => e.hint(
                "it needs CAP_CHOWN, CAP_FOWNER, CAP_FSETID and CAP_SETFCAP over the file, which must be neither \
                 immutable nor append-only (chattr(1))",
            ),
            Errno::NOSPC | Errno::DQUOT => e.hint("free space on its file system and run the shift again"),
            _ => e,
        }
    }

    fn list(&self) -> Result<Names> {
        let mut buf = vec![0_u8; 1024];
        loop {
            match rustix::fs::listxattr(&self.name, &mut buf) {
                Ok(n) => {
                    buf.truncate(n);
                    return Ok(Names(buf));
                }
                Err(Errno::RANGE) if buf.len() < MAX_VALUE => buf = vec![0; MAX_VALUE],
                Err(Errno::OPNOTSUPP) => return Ok(Names(Vec::new())),
                Err(e) => return Err(self.failed("list the attributes of a file", e)),
            }
        }
    }

    fn get(&self, name: &str) -> Result<Option<Vec<u8>>> {
        let mut buf = vec![0_u8; 1024];
        loop {
            match rustix::fs::getxattr(&self.name, name, &mut buf) {
                Ok(n) => {
                    buf.truncate(n);
                    return Ok(Some(buf));
                }
                Err(Errno::RANGE) if buf.len() < MAX_VALUE => buf = vec![0; MAX_VALUE],
                Err(Errno::NODATA) => return Ok(None),
                Err(e) => return Err(self.failed("read an attribute of a file", e)),
            }
        }
    }

    fn set(&self, name: &str, value: &[u8]) -> Result<()> {
        rustix::fs::setxattr(&self.name, name, value, XattrFlags::empty())
            .map_err(|e| self.failed("write an attribute of a file", e))
    }

    fn remove(&self, name: &str) -> Result<()> {
        match rustix::fs::removexattr(&self.name, name) {
            Ok(()) | Err(Errno::NODATA) => Ok(()),
            Err(e) => Err(self.failed("remove an attribute of a file", e)),
        }
    }

    fn caps(&self) -> Result<Option<Caps>> {
        let Some(value) = self.get(CAPS)? else { return Ok(None) };
        Caps::decode(&value).map(Some).ok_or_else(|| {
            Error::new(crate::ErrorKind::Unsupported, "read the capabilities of a file")
                .path(self.path)
                .detail("their form is not known")
                .hint("remove them with `setcap -r` and give them again afterwards")
        })
    }

    fn shift_list(&self, shift: &Shift<'_>, name: &str) -> Result<bool> {
        let Some(value) = self.get(name)? else { return Ok(false) };
        let new = attrs::list_with(&value, |kind, id| shift.translate(kind, id, self.path))?;
        if new == value {
            return Ok(false);
        }
        self.set(name, &new).map(|()| true)
    }

    /// Whether it could be.
    pub(super) fn keep(&self, kept: &Kept) -> Result<bool> {
        match rustix::fs::setxattr(&self.name, KEPT, &kept.encode(), XattrFlags::empty()) {
            Ok(()) => Ok(true),
            Err(Errno::PERM | Errno::OPNOTSUPP) => Ok(false),
            Err(e) => Err(self.failed("write an attribute of a file", e)),
        }
    }

    fn set_mode(&self, mode: u32) -> Result<()> {
        retry(|| rustix::fs::chmodat(CWD, &self.name, Mode::from_raw_mode(mode), AtFlags::empty()))
            .map_err(|e| self.failed("set the mode of a file", e))
    }
}
