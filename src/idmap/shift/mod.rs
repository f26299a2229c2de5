//! Changing the owners on disk from one id map to another, where a mount with an id map is not to be had: file systems
//! that take none (NFS, FUSE, overlayfs), and data that goes to another machine.
//!
//! # What happens to a file
//!
//! A user or group that is id *n* inside the container by the first map becomes what is id *n* inside by the second.
//! That goes for the owner and the group, the ids in access control lists (`acl(5)`), and the root of file capabilities
//! (`capabilities(7)`, version 3). A change of owner takes set-id bits and capabilities away: they are put back.
//! Contents, links, other attributes and the times of access and change stay; `ctime` cannot.
//!
//! # Crashes
//!
//! A shift that was broken off, by an error, a crash or a power cut, is continued by running it again: an id in the
//! range of the second map has been shifted already and is left alone. So the two maps must not share ids of the host.
//! Swapping them takes a shift back, a half one too.
//!
//! While the owner of a file with set-id bits or capabilities is changed, these are kept in an attribute of the file,
//! `trusted.stockade.shift`, which only the host's root can read or make. Where that cannot be, on a file system
//! without attributes or without `CAP_SYS_ADMIN` on the host, a crash at this very moment can lose them for one file.
//!
//! # Limits
//!
//! An id that has nothing to do with either map is an error, or stays ([`Unmapped`]). A file that had an owner in the
//! second range from the beginning counts as shifted. Hard links from outside of the tree are to the same file, which
//! is shifted. Lists of NFSv4 and signatures (IMA, EVM) are not known here. Nothing else should use the tree
//! meanwhile: what others change in it may be missed, but never leads the shift out of it.

mod attrs;
mod entry;
#[cfg(test)]
mod tests;
mod walk;

use std::fmt;
use std::ops::ControlFlow;
use std::path::Path;

use super::ids::IdKind;
use super::map::IdMap;
use crate::error::{Error, Result};

/// What to do with an id that is in neither map.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Unmapped {
    /// End with an error that names the file.
    #[default]
    Refuse,
    /// Leave it as it is.
    Keep,
}

/// How far a shift is, or what it did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ShiftReport {
    /// Entries looked at, the top directory included. A file counts once for each of its links in the tree.
    pub entries: u64,
    /// Files that were changed.
    pub changed: u64,
}

/// Shifts a tree with default options.
///
/// ```no_run
/// use stockade::idmap::{IdMap, shift::shift_tree};
/// use stockade::rootfs::{FileIds, Rootfs};
///
/// let (on_disk, of_container) = (IdMap::range(0, 65_536)?, IdMap::range(1_000_000, 65_536)?);
/// shift_tree("/srv/web", &on_disk, &of_container)?;
/// let config = stockade::ContainerConfig::builder("web")
///     .rootfs(Rootfs::dir("/srv/web").ids(FileIds::AsIs))
///     .idmap(of_container);
/// # Ok::<(), stockade::Error>(())
/// ```
///
/// # Errors
/// As [`Shift::new`] and [`Shift::run`].
pub fn shift_tree(dir: impl AsRef<Path>, from: &IdMap, to: &IdMap) -> Result<ShiftReport> {
    Shift::new(from, to)?.run(dir)
}

type Watch<'a> = dyn FnMut(&ShiftReport, &Path) -> ControlFlow<()> + 'a;

/// A shift to be run; see the [module](self).
pub struct Shift<'a> {
    from: &'a IdMap,
    to: &'a IdMap,
    unmapped: Unmapped,
    watch: Option<Box<Watch<'a>>>,
}

impl<'a> Shift<'a> {
    /// From the ids that `from` gives the files to those that `to` gives them. `IdMap::range(0, 65_536)` is a tree that
    /// is not shifted.
    ///
    /// # Errors
    /// [`InvalidConfig`](crate::ErrorKind::InvalidConfig) where both have an id of the host.
    pub fn new(from: &'a IdMap, to: &'a IdMap) -> Result<Self> {
        if from.shares_host_ids(to) {
            return Err(Error::invalid("id maps of a shift", "have ids of the host in common").hint(
                "after a crash nobody could tell what was shifted: go by a third range, in two shifts",
            ));
        }
        Ok(Self { from, to, unmapped: Unmapped::default(), watch: None })
    }

    /// Sets what becomes of ids in neither map.
    #[must_use]
    pub fn unmapped(mut self, unmapped: Unmapped) -> Self {
        self.unmapped = unmapped;
        self
    }

    /// Sets what is called after each entry, with what was done so far and the entry's path. `Break` ends the shift with
    /// [`Cancelled`](crate::ErrorKind::Cancelled), to be continued or taken back.
    ///
    /// ```no_run
    /// # use stockade::idmap::{IdMap, shift::Shift};
    /// # let (from, to) = (IdMap::range(0, 65_536)?, IdMap::range(1_000_000, 65_536)?);
    /// use std::ops::ControlFlow;
    ///
    /// let cancel = stockade::Cancel::new()?;
    /// let shift = Shift::new(&from, &to)?.progress(|done, path| {
    ///     if done.entries % 1000 == 0 {
    ///         println!("{} {}", done.entries, path.display());
    ///     }
    ///     if cancel.is_cancelled() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    /// });
    /// shift.run("/srv/web")?;
    /// # Ok::<(), stockade::Error>(())
    /// ```
    #[must_use]
    pub fn progress(mut self, watch: impl FnMut(&ShiftReport, &Path) -> ControlFlow<()> + 'a) -> Self {
        self.watch = Some(Box::new(watch));
        self
    }

    /// Shifts `dir` and everything below. Links inside are not followed, and no other file system is entered.
    ///
    /// Needs `CAP_CHOWN`, `CAP_DAC_OVERRIDE`, `CAP_FOWNER`, `CAP_FSETID` and `CAP_SETFCAP` over the files, as root has
    /// them, and `/proc`. Costs about four system calls for each entry.
    ///
    /// # Errors
    /// [`PermissionDenied`](crate::ErrorKind::PermissionDenied);
    /// [`InvalidConfig`](crate::ErrorKind::InvalidConfig) for an id in neither map and for a mount point in the tree;
    /// [`Exhausted`](crate::ErrorKind::Exhausted) on a full disk;
    /// [`InvalidState`](crate::ErrorKind::InvalidState) where a directory was moved meanwhile;
    /// [`Cancelled`](crate::ErrorKind::Cancelled). Each names the path. What was shifted before stays so.
    pub fn run(mut self, dir: impl AsRef<Path>) -> Result<ShiftReport> {
        let dir = dir.as_ref();
        let mut report = ShiftReport::default();
        let mut watch = self.watch.take();
        walk::walk(dir, &mut |entry, path| {
            report.entries += 1;
            if entry::shift(&self, entry, path)? == entry::Outcome::Changed {
                report.changed += 1;
            }
            match watch.as_mut().map(|watch| watch(&report, path)) {
                Some(ControlFlow::Break(())) => {
                    Err(Error::new(crate::ErrorKind::Cancelled, "shift owners").path(path))
                }
                _ => Ok(()),
            }
        })?;
        Ok(report)
    }

    /// What stands in the place of a host's id; the same where it is shifted already, or may stay.
    fn translate(&self, kind: IdKind, id: u32, path: &Path) -> Result<u32> {
        let inner = self.from.ranges(kind).iter().find_map(|r| r.to_inner(id));
        let new = inner.and_then(|inner| self.to.ranges(kind).iter().find_map(|r| r.to_host(inner)));
        let done = || self.to.ranges(kind).iter().any(|r| r.to_inner(id).is_some());
        match new {
            Some(new) => Ok(new),
            None if self.unmapped == Unmapped::Keep || done() => Ok(id),
            None => {
                Err(Error::invalid("owner of a file", format!("{kind} {id} has no place in both id maps"))
                    .path(path)
                    .hint("give it to another owner, use larger maps, or let it be with Unmapped::Keep"))
            }
        }
    }
}

impl fmt::Debug for Shift<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shift")
            .field("from", self.from)
            .field("to", self.to)
            .field("unmapped", &self.unmapped)
            .finish_non_exhaustive()
    }
}
