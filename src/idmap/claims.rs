//! Which ranges are taken right now, for every process on the host to see.
//!
//! One symbolic link for each range in a directory of the run directory: its name is the range, its target the
//! owner. Making a link either succeeds for one process or fails for all others, with its content in place from
//! the first moment, and costs one system call.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;

use super::ids::{HostGid, HostUid};
use super::map::IdMap;
use super::range::{overlap, span};
use crate::error::{Error, Result};
use crate::sys;

/// How many users and groups an allocated range has.
pub const RANGE_SIZE: u32 = 65_536;

/// The directory in the run directory.
const DIR: &str = "idmap";

/// The first user and group of a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Slot {
    pub(super) uid: u32,
    pub(super) gid: u32,
}

impl Slot {
    pub(super) fn map(self) -> Result<IdMap> {
        IdMap::range_pair(HostUid::new(self.uid), HostGid::new(self.gid), RANGE_SIZE)
    }

    pub(super) fn overlaps(self, other: Self) -> bool {
        let over = |a, b| overlap(&span(a, RANGE_SIZE), &span(b, RANGE_SIZE));
        over(self.uid, other.uid) || over(self.gid, other.gid)
    }

    fn name(self) -> String {
        format!("{}-{}", self.uid, self.gid)
    }

    pub(super) fn from_name(name: &[u8]) -> Option<Self> {
        let (uid, gid) = std::str::from_utf8(name).ok()?.split_once('-')?;
        let slot = Self { uid: uid.parse().ok()?, gid: gid.parse().ok()? };
        (slot.name().as_bytes() == name).then_some(slot)
    }
}

/// The directory of claims.
#[derive(Debug)]
pub(super) struct Claims {
    dir: OwnedFd,
}

impl Claims {
    pub(super) fn open(run_dir: &Path) -> Result<Self> {
        let path = run_dir.join(DIR);
        match rustix::fs::mkdir(&path, Mode::RWXU) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(e) => return Err(Error::sys("create directory", e).path(&path)),
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let dir = sys::raw::retry(|| rustix::fs::open(&path, flags, Mode::empty()))
            .map_err(|e| Error::sys("open directory", e).path(&path))?;
        Ok(Self { dir })
    }

    /// The device and inode of the directory.
    pub(super) fn identity(&self) -> Result<(u64, u64)> {
        let st = rustix::fs::fstat(&self.dir).map_err(|e| Error::sys("identify run directory", e))?;
        Ok((st.st_dev, st.st_ino))
    }

    /// Claims a range; false where somebody has it.
    pub(super) fn take(&self, slot: Slot, owner: &str) -> Result<bool> {
        match rustix::fs::symlinkat(owner, &self.dir, slot.name()) {
            Ok(()) => Ok(true),
            Err(Errno::EXIST) => Ok(false),
            Err(Errno::NOENT) => Err(Error::sys("claim id range", Errno::NOENT)
                .object(slot.name())
                .detail("the run directory was deleted")
                .hint("restart the program that runs the containers")),
            Err(e) => Err(Error::sys("claim id range", e).object(slot.name())),
        }
    }

    /// Gives a range back; it need not be claimed.
    pub(super) fn drop(&self, slot: Slot) -> Result<()> {
        match rustix::fs::unlinkat(&self.dir, slot.name(), AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(e) => Err(Error::sys("release id range", e).object(slot.name())),
        }
    }

    pub(super) fn owner(&self, slot: Slot) -> Result<Option<String>> {
        match rustix::fs::readlinkat(&self.dir, slot.name(), Vec::new()) {
            Ok(owner) => Ok(Some(String::from_utf8_lossy(owner.as_bytes()).into_owned())),
            Err(Errno::NOENT) => Ok(None),
            Err(e) => Err(Error::sys("read id range's owner", e).object(slot.name())),
        }
    }

    /// All ranges that are claimed. Files that are no claims are left out.
    pub(super) fn slots(&self) -> Result<Vec<Slot>> {
        let fail = |e| Error::sys("list id ranges", e);
        let mut out = Vec::new();
        for entry in rustix::fs::Dir::read_from(self.dir.as_fd()).map_err(fail)? {
            out.extend(Slot::from_name(entry.map_err(fail)?.file_name().to_bytes()));
        }
        out.sort_unstable();
        Ok(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_owner_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let (a, b) = (Claims::open(dir.path()).unwrap(), Claims::open(dir.path()).unwrap());
        let slot = Slot { uid: 1, gid: 2 };
        assert!(a.take(slot, "p/x").unwrap());
        assert!(!b.take(slot, "p/y").unwrap());
        std::fs::write(dir.path().join("idmap/01-2"), "").unwrap();
        assert_eq!(b.slots().unwrap(), [slot]);
        assert_eq!(b.owner(slot).unwrap().as_deref(), Some("p/x"));
        b.drop(slot).unwrap();
        b.drop(slot).unwrap();
        assert_eq!(a.owner(slot).unwrap(), None);
        assert_eq!(a.slots().unwrap(), []);
    }

    #[test]
    fn a_deleted_directory_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let claims = Claims::open(dir.path()).unwrap();
        std::fs::remove_dir(dir.path().join(DIR)).unwrap();
        let e = claims.take(Slot { uid: 0, gid: 0 }, "x").unwrap_err();
        assert!(e.to_string().contains("run directory was deleted"), "{e}");
    }
}
