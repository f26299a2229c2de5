//! Sets of ids of the host that ranges are cut from.

use std::ops::Range;

use serde::{Deserialize, Serialize};

use super::ids::{IdKind, NO_ID};
use super::map::IdMap;
use super::range::span;
use super::subid::{self, SubidEntry, SubidUser};
use crate::error::Result;

/// Where ids are taken from on a host that assigns root none. Below live users, services and what other
/// programs take by habit.
const DEFAULT: Range<u64> = 1_000_000..1_000_000_000;

/// The same where this process is itself in a small user namespace.
const DEFAULT_NESTED: Range<u64> = 65_536..1_000_000;

/// A set of ids of the host.
///
/// ```
/// use stockade::idmap::IdArea;
///
/// let area = IdArea::new([(1_000_000, 200_000)]);
/// assert_eq!(area.blocks(65_536).collect::<Vec<_>>(), [1_000_000, 1_065_536, 1_131_072]);
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Vec<(u32, u32)>", into = "Vec<(u32, u32)>")]
pub struct IdArea(Vec<Range<u64>>);

impl IdArea {
    /// The ids of these ranges, each a first id and a number of ids. What lies past the last id is left out.
    pub fn new(ranges: impl IntoIterator<Item = (u32, u32)>) -> Self {
        Self::of(ranges.into_iter().map(|(first, count)| span(first, count)))
    }

    fn of(ranges: impl IntoIterator<Item = Range<u64>>) -> Self {
        let mut all: Vec<Range<u64>> = ranges
            .into_iter()
            .map(|r| r.start..r.end.min(u64::from(NO_ID)))
            .filter(|r| r.start < r.end)
            .collect();
        all.sort_by_key(|r| r.start);
        let mut out: Vec<Range<u64>> = Vec::with_capacity(all.len());
        for r in all {
            match out.last_mut() {
                Some(last) if r.start <= last.end => last.end = last.end.max(r.end),
                _ => out.push(r),
            }
        }
        Self(out)
    }

    /// The ids in both.
    #[must_use]
    pub fn intersection(&self, other: &Self) -> Self {
        let both = self
            .0
            .iter()
            .flat_map(|a| other.0.iter().map(move |b| a.start.max(b.start)..a.end.min(b.end)))
            .filter(|r| r.start < r.end);
        Self::of(both)
    }

    /// The ids that are in this one only.
    #[must_use]
    pub fn difference(&self, other: &Self) -> Self {
        let mut gaps = Vec::with_capacity(other.0.len() + 1);
        let mut start = 0;
        for r in &other.0 {
            gaps.push(start..r.start);
            start = r.end;
        }
        gaps.push(start..u64::from(NO_ID));
        self.intersection(&Self::of(gaps))
    }

    /// The first ids of the disjoint blocks of `size` ids that fit, from the lowest on.
    pub fn blocks(&self, size: u32) -> impl Iterator<Item = u32> + '_ {
        let step = u64::from(size.max(1));
        self.0.iter().flat_map(move |r| {
            let n = (r.end - r.start) / step;
            // Below the end of an area, so below 2^32.
            (0..n).filter_map(move |i| u32::try_from(r.start + i * step).ok())
        })
    }

    /// Whether there is no id in it.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What the user may take ids from on this host, cut down to what this process's own user namespace maps:
    /// the user's entries of at least `size` ids in `/etc/subuid` or `/etc/subgid`. Root, who may map any id,
    /// has 1,000,000 to 999,999,999 where he has no such entry, without what the file gives to others.
    ///
    /// # Errors
    /// Whatever reading these files or `/proc/self/uid_map` gives.
    pub fn of_host(kind: IdKind, user: &SubidUser, size: u32) -> Result<Self> {
        let entries = subid::read(match kind {
            IdKind::Uid => subid::SUBUID,
            IdKind::Gid => subid::SUBGID,
        })?;
        Ok(Self::chosen(&entries, user, size, &Self::named_by(&IdMap::of_current_process()?, kind)))
    }

    /// The ids that a process in a namespace with this map can name.
    pub(super) fn named_by(own: &IdMap, kind: IdKind) -> Self {
        Self::of(own.ranges(kind).iter().map(super::range::IdRange::inner_ids))
    }

    fn chosen(entries: &[SubidEntry], user: &SubidUser, size: u32, valid: &Self) -> Self {
        let (own, others): (Vec<&SubidEntry>, Vec<_>) = entries.iter().partition(|e| user.owns(e));
        let area = |list: &[&SubidEntry]| {
            Self::new(list.iter().filter(|e| e.count >= size).map(|e| (e.first, e.count)))
        };
        let own = area(&own);
        if !own.is_empty() || user.uid != 0 {
            return own.intersection(valid);
        }
        let taken = Self::new(others.iter().map(|e| (e.first, e.count)));
        let free = valid.difference(&taken);
        [DEFAULT, DEFAULT_NESTED]
            .map(|area| free.intersection(&Self::of([area])))
            .into_iter()
            .find(|area| area.blocks(size).next().is_some())
            .unwrap_or_default()
    }
}

impl From<Vec<(u32, u32)>> for IdArea {
    fn from(ranges: Vec<(u32, u32)>) -> Self {
        Self::new(ranges)
    }
}

impl From<IdArea> for Vec<(u32, u32)> {
    fn from(area: IdArea) -> Self {
        let number = |n: u64| u32::try_from(n).unwrap_or(NO_ID);
        area.0.iter().map(|r| (number(r.start), number(r.end - r.start))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: u32 = 65_536;

    fn all() -> IdArea {
        IdArea::new([(0, u32::MAX)])
    }

    fn chosen(text: &str, user: &SubidUser, valid: &IdArea) -> Vec<(u32, u32)> {
        IdArea::chosen(&subid::parse(text).unwrap(), user, SIZE, valid).into()
    }

    #[test]
    fn set_operations() {
        let a = IdArea::new([(10, 10), (15, 10), (100, 5), (u32::MAX, 5), (7, 0)]);
        assert_eq!(a, IdArea::new([(10, 15), (100, 5)]));
        let b = IdArea::new([(0, 12), (20, 82)]);
        assert_eq!(a.intersection(&b), IdArea::new([(10, 2), (20, 5), (100, 2)]));
        assert_eq!(a.difference(&b), IdArea::new([(12, 8), (102, 3)]));
        assert_eq!(a.difference(&IdArea::default()), a);
        assert_eq!(all().difference(&all()), IdArea::default());
        assert_eq!(a.blocks(5).collect::<Vec<_>>(), [10, 15, 20, 100]);
        assert_eq!(a.blocks(6).collect::<Vec<_>>(), [10, 16]);
    }

    #[test]
    fn roots_entries_come_first() {
        let text = "root:100000:65536\n0:300000:65536\nroot:5:5\nbob:700000:65536\n";
        assert_eq!(chosen(text, &SubidUser::root(), &all()), [(100_000, 65_536), (300_000, 65_536)]);
    }

    #[test]
    fn without_an_entry_root_has_what_others_have_not() {
        assert_eq!(chosen("", &SubidUser::root(), &all()), [(1_000_000, 999_000_000)]);
        let text = "bob:1000000:1000\neve:1500000:10";
        let expected = [(1_001_000, 499_000), (1_500_010, 998_499_990)];
        assert_eq!(chosen(text, &SubidUser::root(), &all()), expected);
    }

    #[test]
    fn without_an_entry_others_have_nothing() {
        let bob = SubidUser { uid: 1000, name: Some("bob".into()) };
        assert_eq!(chosen("root:1:65536", &bob, &all()), []);
        assert_eq!(chosen("bob:200000:65536", &bob, &all()), [(200_000, 65_536)]);
    }

    #[test]
    fn only_ids_that_the_process_can_name() {
        let nested = IdArea::named_by(&IdMap::range(100_000, 200_000).unwrap(), IdKind::Uid);
        assert_eq!(chosen("", &SubidUser::root(), &nested), [(65_536, 134_464)]);
        let small = IdArea::named_by(&IdMap::range(100_000, 65_536).unwrap(), IdKind::Gid);
        assert_eq!(chosen("", &SubidUser::root(), &small), []);
        assert_eq!(chosen("root:60000:100000", &SubidUser::root(), &small), [(60_000, 5_536)]);
    }

    #[test]
    fn json_is_a_list_of_pairs() {
        let area = IdArea::new([(5, 6), (50, 1)]);
        let json = serde_json::to_string(&area).unwrap();
        assert_eq!(json, "[[5,6],[50,1]]");
        assert_eq!(serde_json::from_str::<IdArea>(&json).unwrap(), area);
    }
}
