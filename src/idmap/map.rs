//! The id map of a user namespace.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::ids::{HostGid, HostUid, IdKind, InnerGid, InnerUid, clip, parse_id};
use super::range::{self, IdRange};
use super::raw::RawIdmap;
use crate::error::{Error, ErrorKind, Result};

/// Which ids of the host stand behind the user and group ids inside a user namespace (`user_namespaces(7)`).
///
/// A value of this type is always one that the kernel takes: no overlap on either side, no empty range, nothing
/// past the last id, at most [`MAX_EXTENTS`](super::MAX_EXTENTS) extents, less than a page of text. Its extents
/// are sorted by inner id and merged, so that two maps are equal exactly when they map the same ids alike.
/// The map without any id is the default.
///
/// ```
/// use stockade::idmap::{HostUid, IdMap, InnerUid};
///
/// let map = IdMap::range(100_000, 65_536)?;
/// assert_eq!(map.uid_to_host(InnerUid::new(33)), Some(HostUid::new(100_033)));
/// assert_eq!(map.uid_to_inner(HostUid::new(99_999)), None);
/// # Ok::<(), stockade::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "Halves")]
pub struct IdMap {
    uids: Vec<IdRange>,
    gids: Vec<IdRange>,
}

/// A map as it is stored, before it is checked.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Halves {
    uids: Vec<IdRange>,
    gids: Vec<IdRange>,
}

impl TryFrom<Halves> for IdMap {
    type Error = Error;

    fn try_from(h: Halves) -> Result<Self> {
        Self::new(h.uids, h.gids)
    }
}

impl IdMap {
    /// The map of these extents, in any order.
    ///
    /// # Errors
    /// [`InvalidConfig`](ErrorKind::InvalidConfig); its text names every problem there is.
    pub fn new(uids: Vec<IdRange>, gids: Vec<IdRange>) -> Result<Self> {
        let problems = Self::problems(&uids, &gids);
        if problems.is_empty() {
            Ok(Self { uids: range::normalized(uids), gids: range::normalized(gids) })
        } else {
            Err(Error::invalid("id map", problems.join("; ")))
        }
    }

    /// Everything that keeps these extents from being a map, one sentence each; empty for a good map.
    pub fn problems(uids: &[IdRange], gids: &[IdRange]) -> Vec<String> {
        let mut out = range::problems(IdKind::Uid, uids);
        out.extend(range::problems(IdKind::Gid, gids));
        out
    }

    /// Root inside is this one user and group outside, and nobody else exists: the one map that an ordinary user
    /// may write without help (with `setgroups` denied).
    ///
    /// # Errors
    /// [`InvalidConfig`](ErrorKind::InvalidConfig) where an id is 4294967295.
    pub fn single(uid: HostUid, gid: HostGid) -> Result<Self> {
        Self::new(vec![IdRange::new(0, uid.as_raw(), 1)], vec![IdRange::new(0, gid.as_raw(), 1)])
    }

    /// The users and groups from 0 on are `count` ids from `host_base` on.
    ///
    /// # Errors
    /// [`InvalidConfig`](ErrorKind::InvalidConfig) where `count` is 0 or the range goes past the last id.
    pub fn range(host_base: u32, count: u32) -> Result<Self> {
        Self::range_pair(HostUid::new(host_base), HostGid::new(host_base), count)
    }

    /// As [`range`](Self::range), with different bases for users and groups.
    ///
    /// # Errors
    /// As [`range`](Self::range).
    pub fn range_pair(uid_base: HostUid, gid_base: HostGid, count: u32) -> Result<Self> {
        Self::new(
            vec![IdRange::new(0, uid_base.as_raw(), count)],
            vec![IdRange::new(0, gid_base.as_raw(), count)],
        )
    }

    /// Every id stands for itself.
    pub fn identity() -> Self {
        let all = vec![IdRange::new(0, 0, u32::MAX)];
        Self { uids: all.clone(), gids: all }
    }

    /// Parses the two files of a process, `/proc/PID/uid_map` and `/proc/PID/gid_map`: lines of
    /// `inner host count`.
    ///
    /// # Errors
    /// [`InvalidConfig`](ErrorKind::InvalidConfig), naming the line, or what is wrong with the map.
    pub fn parse_kernel(uid_map: &str, gid_map: &str) -> Result<Self> {
        Self::new(parse_kernel_text(uid_map, IdKind::Uid)?, parse_kernel_text(gid_map, IdKind::Gid)?)
    }

    /// Parses the lines of `lxc.idmap`, such as `u 0 100000 65536`: `u`, `g` or `b` for both, then the first id
    /// inside, the first outside and their number.
    ///
    /// # Errors
    /// As [`parse_kernel`](Self::parse_kernel).
    pub fn parse_lxc(text: &str) -> Result<Self> {
        let (mut uids, mut gids) = (Vec::new(), Vec::new());
        for line in text.lines().map(str::trim).filter(|l| !l.is_empty()) {
            let bad = || Error::invalid("id map line", "is not `u|g|b inner host count`").object(clip(line));
            let (kind, rest) = line.split_once(char::is_whitespace).ok_or_else(bad)?;
            let range = parse_range(rest).ok_or_else(bad)?;
            if matches!(kind, "u" | "b") {
                uids.push(range);
            }
            if matches!(kind, "g" | "b") {
                gids.push(range);
            }
            if !matches!(kind, "u" | "g" | "b") {
                return Err(bad());
            }
        }
        Self::new(uids, gids)
    }

    /// The lines of `lxc.idmap` that mean this map.
    pub fn lxc_text(&self) -> String {
        let lines = |letter: &str, ranges: &[IdRange]| -> String {
            ranges.iter().map(|r| format!("{letter} {r}\n")).collect()
        };
        lines("u", &self.uids) + &lines("g", &self.gids)
    }

    /// The map of the user namespace that this process lives in, read from `/proc/self`. Its inner ids are those
    /// that this process can name, and so can map into a namespace of its own making.
    ///
    /// # Errors
    /// Whatever reading `/proc/self/uid_map` gives, or [`Corrupt`](ErrorKind::Corrupt).
    pub fn of_current_process() -> Result<Self> {
        let read = |kind: IdKind| {
            let path = Path::new("/proc/self").join(kind.map_file());
            std::fs::read_to_string(&path).map_err(|e| Error::io("read id map", e).path(&path))
        };
        Self::parse_kernel(&read(IdKind::Uid)?, &read(IdKind::Gid)?)
            .map_err(|e| e.with_kind(ErrorKind::Corrupt).path("/proc/self/uid_map"))
    }

    /// The extents for users, sorted by inner id.
    pub fn uids(&self) -> &[IdRange] {
        &self.uids
    }

    /// The extents for groups, sorted by inner id.
    pub fn gids(&self) -> &[IdRange] {
        &self.gids
    }

    /// The extents of one kind.
    pub fn ranges(&self, kind: IdKind) -> &[IdRange] {
        match kind {
            IdKind::Uid => &self.uids,
            IdKind::Gid => &self.gids,
        }
    }

    /// Whether it maps no id at all.
    pub fn is_empty(&self) -> bool {
        self.uids.is_empty() && self.gids.is_empty()
    }

    /// The text for `/proc/PID/uid_map` or `/proc/PID/gid_map`, to be written with one `write(2)`.
    ///
    /// ```
    /// use stockade::idmap::{IdKind, IdMap};
    ///
    /// let map = IdMap::range(100_000, 65_536)?;
    /// assert_eq!(map.kernel_text(IdKind::Uid), "0 100000 65536\n");
    /// # Ok::<(), stockade::Error>(())
    /// ```
    pub fn kernel_text(&self, kind: IdKind) -> String {
        range::text(self.ranges(kind))
    }

    /// The user of the host behind a user inside.
    pub fn uid_to_host(&self, uid: InnerUid) -> Option<HostUid> {
        self.uids.iter().find_map(|r| r.to_host(uid.as_raw())).map(HostUid::new)
    }

    /// The group of the host behind a group inside.
    pub fn gid_to_host(&self, gid: InnerGid) -> Option<HostGid> {
        self.gids.iter().find_map(|r| r.to_host(gid.as_raw())).map(HostGid::new)
    }

    /// The user inside that a user of the host is; `None` is seen inside as the overflow user, 65534.
    pub fn uid_to_inner(&self, uid: HostUid) -> Option<InnerUid> {
        self.uids.iter().find_map(|r| r.to_inner(uid.as_raw())).map(InnerUid::new)
    }

    /// The group inside that a group of the host is.
    pub fn gid_to_inner(&self, gid: HostGid) -> Option<InnerGid> {
        self.gids.iter().find_map(|r| r.to_inner(gid.as_raw())).map(InnerGid::new)
    }

    /// The owner on the host of what root inside owns.
    ///
    /// # Errors
    /// [`InvalidConfig`](ErrorKind::InvalidConfig) where the map has no root.
    pub fn host_root(&self) -> Result<(HostUid, HostGid)> {
        self.uid_to_host(InnerUid::ROOT)
            .zip(self.gid_to_host(InnerGid::ROOT))
            .ok_or_else(|| Error::invalid("id map", "has no user 0 and group 0 inside"))
    }

    /// This map inside a namespace that itself has the map `outer`: ids go through this one, then through
    /// `outer`. An id that `outer` does not map is not in the result; see [`is_within`](Self::is_within).
    pub fn compose(&self, outer: &Self) -> Self {
        Self {
            uids: range::composed(&self.uids, &outer.uids),
            gids: range::composed(&self.gids, &outer.gids),
        }
    }

    /// Whether every host id of this map exists in a namespace with the map `outer`. The kernel refuses to write
    /// the map from there otherwise (`EPERM`).
    pub fn is_within(&self, outer: &Self) -> bool {
        let ids =
            |m: &Self| [&m.uids, &m.gids].map(|half| half.iter().map(|r| u64::from(r.count)).sum::<u64>());
        ids(&self.compose(outer)) == ids(self)
    }

    /// The map in the other direction: inner and host ids change places.
    pub fn inverse(&self) -> Self {
        Self { uids: range::inverted(&self.uids), gids: range::inverted(&self.gids) }
    }

    /// Whether the two maps use some host id together, as users or as groups.
    pub fn shares_host_ids(&self, other: &Self) -> bool {
        IdKind::ALL.iter().any(|&kind| {
            let theirs = other.ranges(kind);
            self.ranges(kind)
                .iter()
                .any(|a| theirs.iter().any(|b| range::overlap(&a.host_ids(), &b.host_ids())))
        })
    }

    /// The map without `count` inner ids from `first` on; all other ids stay mapped as they are.
    pub fn without(&self, kind: IdKind, first: u32, count: u32) -> Self {
        let hole = range::span(first, count);
        let mut out = self.clone();
        let half = match kind {
            IdKind::Uid => &mut out.uids,
            IdKind::Gid => &mut out.gids,
        };
        *half = range::without(half, &hole);
        out
    }

    /// The map with the entries of `raw.idmap` put in: each punches a hole into the base map and fills it with
    /// its own host ids.
    ///
    /// # Errors
    /// [`InvalidConfig`](ErrorKind::InvalidConfig) where two entries overlap, or an entry's host ids are already
    /// behind other ids of the map.
    ///
    /// ```
    /// use stockade::idmap::{IdKind, IdMap, RawIdmap};
    ///
    /// let map = IdMap::range(100_000, 65_536)?.with_raw(&"uid 1000 1000".parse::<RawIdmap>()?)?;
    /// assert_eq!(map.kernel_text(IdKind::Uid), "0 100000 1000\n1000 1000 1\n1001 101001 64535\n");
    /// assert_eq!(map.kernel_text(IdKind::Gid), "0 100000 65536\n");
    /// # Ok::<(), stockade::Error>(())
    /// ```
    pub fn with_raw(&self, raw: &RawIdmap) -> Result<Self> {
        let half = |kind: IdKind| {
            let entries: Vec<IdRange> = raw.ranges(kind).collect();
            let base = entries
                .iter()
                .fold(self.ranges(kind).to_vec(), |base, e| range::without(&base, &e.inner_ids()));
            base.into_iter().chain(entries).collect::<Vec<_>>()
        };
        Self::new(half(IdKind::Uid), half(IdKind::Gid))
    }
}

fn parse_range(text: &str) -> Option<IdRange> {
    let mut fields = text.split_whitespace();
    let (inner, host, count) = (fields.next()?, fields.next()?, fields.next()?);
    if fields.next().is_some() {
        return None;
    }
    let id = |text| parse_id(text, "id").ok();
    // The whole id space has 4294967295 ids, a count that is no id.
    let count = if count == "4294967295" { u32::MAX } else { id(count)? };
    Some(IdRange::new(id(inner)?, id(host)?, count))
}

fn parse_kernel_text(text: &str, kind: IdKind) -> Result<Vec<IdRange>> {
    text.lines()
        .filter(|l| !l.trim().is_empty())
        .map(|line| {
            parse_range(line).ok_or_else(|| {
                Error::invalid("id map line", format!("is not `inner host count` ({})", kind.map_file()))
                    .object(clip(line))
            })
        })
        .collect()
}
