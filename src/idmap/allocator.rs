//! Ranges of ids that no two instances share.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::area::IdArea;
use super::claims::{Claims, RANGE_SIZE, Slot};
use super::ids::{IdKind, clip};
use super::map::IdMap;
use super::record::{self, Entry};
use super::session::{self, Session, StateDir};
use super::subid::SubidUser;
use crate::error::{Error, ErrorKind, Result};

/// What a [`RangeAllocator`] hands out.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct AllocatorOptions {
    /// The user ids that ranges are cut from.
    pub uids: IdArea,
    /// The group ids that ranges are cut from.
    pub gids: IdArea,
}

impl AllocatorOptions {
    /// These areas.
    pub fn new(uids: IdArea, gids: IdArea) -> Self {
        Self { uids, gids }
    }

    /// What this host has for the calling user; see [`IdArea::of_host`].
    ///
    /// # Errors
    /// As there.
    pub fn of_host() -> Result<Self> {
        let user = SubidUser::current();
        Ok(Self {
            uids: IdArea::of_host(IdKind::Uid, &user, RANGE_SIZE)?,
            gids: IdArea::of_host(IdKind::Gid, &user, RANGE_SIZE)?,
        })
    }
}

/// How long an owner keeps a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Lifetime {
    /// Until it is released.
    Durable,
    /// Until it is released or the machine restarts.
    Ephemeral,
}

/// A range that somebody has.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Allocation {
    /// Whose it is.
    pub owner: String,
    /// The range as a map.
    pub map: IdMap,
    /// How long it stays.
    pub lifetime: Lifetime,
}

/// Hands out ranges of 65,536 users and groups that no two owners share, whichever process they are in.
///
/// Durable ranges are kept in `idmap.json` in the state directory; whoever changes that file holds
/// `idmap.lock`. What is taken at the moment, durable or not, is a link in `idmap/` in the run directory, which
/// belongs on a tmpfs. All processes that use one state directory at a time must use one run directory and the
/// same options; [`open`](Self::open) refuses others. A host that restarts finds the ranges of instances which
/// outlived it, and should [`release`](Self::release) those of instances which did not.
///
/// An owner is any text, such as an instance's id. Calls for one owner must not overlap: the owner's own lock
/// sees to that. Where an owner may have got an ephemeral range from another process since this one opened the
/// allocator, ask with [`get`](Self::get) first.
///
/// ```
/// use stockade::idmap::{AllocatorOptions, IdArea, RangeAllocator};
///
/// # let (state, run) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
/// # let (state_dir, run_dir) = (state.path(), run.path());
/// let area = IdArea::new([(1_000_000, 10_000_000)]);
/// let ranges = RangeAllocator::open_with(state_dir, run_dir, AllocatorOptions::new(area.clone(), area))?;
/// let web = ranges.allocate("default/web")?;
/// let job = ranges.allocate_ephemeral("default/job")?;
/// assert!(!web.shares_host_ids(&job));
/// ranges.release("default/job")?;
/// # Ok::<(), stockade::Error>(())
/// ```
#[derive(Debug)]
pub struct RangeAllocator {
    state: StateDir,
    claims: Claims,
    /// Every range that can be handed out.
    slots: Vec<Slot>,
    known: Mutex<Known>,
    /// Held for as long as this lives.
    _session: OwnedFd,
}

/// What this process believes. The claims are what counts.
#[derive(Debug, Default)]
struct Known {
    /// Ranges last seen with an owner, each checked before it is trusted.
    owners: HashMap<String, (Slot, Lifetime)>,
    /// For each slot, whether it was taken when last looked at.
    taken: Vec<bool>,
    /// No slot below this index is free.
    from: usize,
}

impl Known {
    fn mark(&mut self, index: usize, taken: bool) {
        if let Some(t) = self.taken.get_mut(index) {
            *t = taken;
        }
        if !taken {
            self.from = self.from.min(index);
        }
    }
}

impl RangeAllocator {
    /// Opens the allocator of a state and a run directory, both of which exist, with
    /// [`AllocatorOptions::of_host`].
    ///
    /// # Errors
    /// As [`open_with`](Self::open_with) and [`AllocatorOptions::of_host`].
    pub fn open(state_dir: &Path, run_dir: &Path) -> Result<Self> {
        Self::open_with(state_dir, run_dir, AllocatorOptions::of_host()?)
    }

    /// As [`open`](Self::open), with areas of the caller's choice, cut down to the ids that this process's own
    /// user namespace maps.
    ///
    /// # Errors
    /// [`Corrupt`](ErrorKind::Corrupt) where the list of ranges cannot be read,
    /// [`Unsupported`](ErrorKind::Unsupported) where a newer program wrote it,
    /// [`InvalidConfig`](ErrorKind::InvalidConfig) where another process uses the same state directory with
    /// another run directory or other options, [`Timeout`](ErrorKind::Timeout) where another process holds the
    /// lock for ten seconds, or whatever working on the files gives.
    pub fn open_with(state_dir: &Path, run_dir: &Path, options: AllocatorOptions) -> Result<Self> {
        let own = IdMap::of_current_process()?;
        let uids = options.uids.intersection(&IdArea::named_by(&own, IdKind::Uid));
        let gids = options.gids.intersection(&IdArea::named_by(&own, IdKind::Gid));
        let slots: Vec<Slot> = uids
            .blocks(RANGE_SIZE)
            .zip(gids.blocks(RANGE_SIZE))
            .map(|(uid, gid)| Slot { uid, gid })
            .collect();
        let state = StateDir::open(state_dir)?;
        let claims = Claims::open(run_dir)?;

        let lock = session::lock(&state)?;
        let ranges = record::read(&state)?;
        record::remove_unfinished(&state)?;
        let run_dir = claims.identity()?;
        let session = session::join(&state, &Session { run_dir, uids, gids })?;
        for entry in &ranges {
            claim_durable(&claims, entry)?;
        }
        let this = Self { state, claims, slots, known: Mutex::default(), _session: session };
        {
            let mut known = this.known();
            this.look_around(&mut known)?;
            this.learn_owners(&mut known, &ranges)?;
        }
        drop(lock);
        Ok(this)
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        // Nothing in it needs more than one step to change, so a panic elsewhere leaves it whole.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives `owner` a range that stays his until it is released, over restarts of the machine; the one that he
    /// has, if he has one, even if that was an ephemeral one so far. Costs two flushes to the disk.
    ///
    /// # Errors
    /// [`Exhausted`](ErrorKind::Exhausted) where every range is taken, or as [`open_with`](Self::open_with).
    pub fn allocate(&self, owner: &str) -> Result<IdMap> {
        check_owner(owner)?;
        let _lock = session::lock(&self.state)?;
        let mut ranges = record::read(&self.state)?;
        if let Some(entry) = ranges.iter().find(|e| e.owner == owner) {
            claim_durable(&self.claims, entry)?;
            return entry.slot().map();
        }
        let (slot, before) = self.claim_for_durable(owner)?;
        ranges.push(Entry::new(owner, slot));
        match record::write(&self.state, ranges) {
            Ok(()) => {
                self.known().owners.insert(owner.to_owned(), (slot, Lifetime::Durable));
                slot.map()
            }
            Err(e) => {
                // After a failed flush nobody knows what the disk holds. Only where the old list is still there
                // can the range go to somebody else.
                let old_list = record::read(&self.state).is_ok_and(|r| r.iter().all(|e| e.owner != owner));
                if old_list && before.is_none() {
                    self.forget(&mut self.known(), owner, slot)?;
                } else if !old_list {
                    // So that a release looks into the list.
                    self.known().owners.insert(owner.to_owned(), (slot, Lifetime::Durable));
                }
                Err(e)
            }
        }
    }

    /// A range for an owner who is not in the list, and what he had before. Others are not held up while the list
    /// is written, as the lock on what is known ends here.
    fn claim_for_durable(&self, owner: &str) -> Result<(Slot, Option<Lifetime>)> {
        let mut known = self.known();
        match self.verified(&mut known, owner)? {
            Some((slot, lifetime)) => Ok((slot, Some(lifetime))),
            None => Ok((self.take(&mut known, owner, Lifetime::Ephemeral)?, None)),
        }
    }

    /// Gives `owner` a range that stays his until it is released or the machine restarts. Nothing is written to
    /// the state directory: on a tmpfs as run directory this takes a few microseconds.
    ///
    /// # Errors
    /// [`Exhausted`](ErrorKind::Exhausted) where every range is taken, or whatever making a link in the run
    /// directory gives.
    pub fn allocate_ephemeral(&self, owner: &str) -> Result<IdMap> {
        check_owner(owner)?;
        let mut known = self.known();
        match self.verified(&mut known, owner)? {
            Some((slot, _)) => slot.map(),
            None => self.take(&mut known, owner, Lifetime::Ephemeral)?.map(),
        }
    }

    /// Takes back whatever range `owner` has. Nothing of him may run any more, and no file of his may be left that
    /// others should not own. Says whether there was one.
    ///
    /// # Errors
    /// As [`open_with`](Self::open_with); the range stays his then.
    pub fn release(&self, owner: &str) -> Result<bool> {
        check_owner(owner)?;
        {
            let mut known = self.known();
            if let Some((slot, Lifetime::Ephemeral)) = self.verified(&mut known, owner)? {
                self.forget(&mut known, owner, slot)?;
                return Ok(true);
            }
        }
        let _lock = session::lock(&self.state)?;
        let mut ranges = record::read(&self.state)?;
        let before = ranges.len();
        ranges.retain(|e| e.owner != owner);
        let mut found = ranges.len() < before;
        if found {
            record::write(&self.state, ranges)?;
        }
        let mut known = self.known();
        for slot in self.claims.slots()? {
            if self.claims.owner(slot)?.as_deref() == Some(owner) {
                self.forget(&mut known, owner, slot)?;
                found = true;
            }
        }
        Ok(found)
    }

    /// The range that `owner` has.
    ///
    /// # Errors
    /// As [`open_with`](Self::open_with).
    pub fn get(&self, owner: &str) -> Result<Option<IdMap>> {
        check_owner(owner)?;
        let mut known = self.known();
        if let Some((slot, _)) = self.verified(&mut known, owner)? {
            return slot.map().map(Some);
        }
        let durable = record::read(&self.state)?.into_iter().find(|e| e.owner == owner).map(|e| e.slot());
        let (slot, lifetime) = match durable {
            Some(slot) => (slot, Lifetime::Durable),
            None => match self.find_claim(owner)? {
                Some(slot) => (slot, Lifetime::Ephemeral),
                None => return Ok(None),
            },
        };
        known.owners.insert(owner.to_owned(), (slot, lifetime));
        slot.map().map(Some)
    }

    /// Everything that is handed out, by every process, from the lowest ids on.
    ///
    /// # Errors
    /// As [`open_with`](Self::open_with).
    pub fn list(&self) -> Result<Vec<Allocation>> {
        let _lock = session::lock(&self.state)?;
        let durable = record::read(&self.state)?;
        let mut out: Vec<(Slot, String, Lifetime)> =
            durable.iter().map(|e| (e.slot(), e.owner.clone(), Lifetime::Durable)).collect();
        for slot in self.claims.slots()? {
            let listed = durable.iter().any(|e| e.slot() == slot);
            if let Some(owner) = self.claims.owner(slot)?.filter(|_| !listed) {
                out.push((slot, owner, Lifetime::Ephemeral));
            }
        }
        out.sort_by_key(|(slot, ..)| *slot);
        out.into_iter()
            .map(|(slot, owner, lifetime)| Ok(Allocation { owner, map: slot.map()?, lifetime }))
            .collect()
    }

    /// How many ranges there are, free or not.
    pub fn capacity(&self) -> usize {
        self.slots.len()
    }

    /// Learns whose the claims are, so that an owner who is back after a crash of this program gets his old range.
    fn learn_owners(&self, known: &mut Known, durable: &[Entry]) -> Result<()> {
        for slot in self.claims.slots()? {
            if let Some(owner) = self.claims.owner(slot)? {
                known.owners.insert(owner, (slot, Lifetime::Ephemeral));
            }
        }
        known.owners.extend(durable.iter().map(|e| (e.owner.clone(), (e.slot(), Lifetime::Durable))));
        Ok(())
    }

    fn find_claim(&self, owner: &str) -> Result<Option<Slot>> {
        for slot in self.claims.slots()? {
            if self.claims.owner(slot)?.as_deref() == Some(owner) {
                return Ok(Some(slot));
            }
        }
        Ok(None)
    }

    /// The range that `owner` is known to have, if he still has it.
    fn verified(&self, known: &mut Known, owner: &str) -> Result<Option<(Slot, Lifetime)>> {
        let Some(&(slot, lifetime)) = known.owners.get(owner) else { return Ok(None) };
        if self.claims.owner(slot)?.as_deref() == Some(owner) {
            return Ok(Some((slot, lifetime)));
        }
        known.owners.remove(owner);
        Ok(None)
    }

    /// Claims the lowest free range.
    fn take(&self, known: &mut Known, owner: &str, lifetime: Lifetime) -> Result<Slot> {
        if let Some(slot) = self.take_known_free(known, owner, lifetime)? {
            return Ok(slot);
        }
        // Other processes may have given something back.
        self.look_around(known)?;
        self.take_known_free(known, owner, lifetime)?.ok_or_else(|| {
            let e = Error::new(ErrorKind::Exhausted, "allocate id range").object(clip(owner));
            if self.slots.is_empty() {
                e.detail("no 65,536 users and groups are this user's to map")
                    .hint("add a line for him to /etc/subuid and /etc/subgid")
            } else {
                e.detail(format!("all {} ranges are taken", self.slots.len()))
                    .hint("delete instances, or give the allocator a larger area of ids")
            }
        })
    }

    fn take_known_free(&self, known: &mut Known, owner: &str, lifetime: Lifetime) -> Result<Option<Slot>> {
        while let Some(&slot) = self.slots.get(known.from) {
            let index = known.from;
            if !known.taken.get(index).copied().unwrap_or(true) && self.claims.take(slot, owner)? {
                known.mark(index, true);
                known.owners.insert(owner.to_owned(), (slot, lifetime));
                return Ok(Some(slot));
            }
            known.mark(index, true);
            known.from = index + 1;
        }
        Ok(None)
    }

    fn forget(&self, known: &mut Known, owner: &str, slot: Slot) -> Result<()> {
        self.claims.drop(slot)?;
        known.owners.remove(owner);
        if let Ok(index) = self.slots.binary_search(&slot) {
            known.mark(index, false);
        }
        Ok(())
    }

    /// Learns from the claims which ranges are taken. Claims need not be of today's areas.
    fn look_around(&self, known: &mut Known) -> Result<()> {
        let mut taken = vec![false; self.slots.len()];
        for claim in self.claims.slots()? {
            match self.slots.binary_search(&claim) {
                Ok(index) => taken[index] = true,
                Err(_) => self
                    .slots
                    .iter()
                    .zip(&mut taken)
                    .filter(|(slot, _)| slot.overlaps(claim))
                    .for_each(|(_, taken)| *taken = true),
            }
        }
        (known.taken, known.from) = (taken, 0);
        Ok(())
    }
}

/// Makes the claim of a durable range that a restart of the machine took away.
fn claim_durable(claims: &Claims, entry: &Entry) -> Result<()> {
    if claims.take(entry.slot(), &entry.owner)? {
        return Ok(());
    }
    match claims.owner(entry.slot())? {
        Some(owner) if owner == entry.owner => Ok(()),
        owner => Err(Error::new(ErrorKind::Corrupt, "claim id range")
            .object(clip(&entry.owner))
            .detail(format!("the range is also taken by `{}`", clip(&owner.unwrap_or_default())))),
    }
}

fn check_owner(owner: &str) -> Result<()> {
    if owner.is_empty() || owner.len() > 1024 || owner.contains('\0') {
        return Err(Error::invalid("owner of an id range", "is empty, longer than 1024 bytes, or has a NUL")
            .object(clip(owner)));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
