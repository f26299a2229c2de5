//! One extent of a map, and what can be done with a list of them.

use std::fmt::{self, Write};
use std::ops::Range;

use serde::{Deserialize, Serialize};

use super::ids::{IdKind, NO_ID};

/// The most extents that the kernel takes in one map (Linux 4.15; `user_namespaces(7)`).
pub const MAX_EXTENTS: usize = 340;

/// The kernel takes less than one page of text in the one write that sets a map. This is the smallest page size.
const MAX_TEXT: usize = 4095;

/// `count` ids from `inner` on, inside, stand for as many from `host` on, outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IdRange {
    /// The first id inside.
    pub inner: u32,
    /// The first id outside.
    pub host: u32,
    /// How many ids; not 0.
    pub count: u32,
}

impl IdRange {
    /// `count` ids from `inner` on stand for those from `host` on.
    pub const fn new(inner: u32, host: u32, count: u32) -> Self {
        Self { inner, host, count }
    }

    /// The ids inside. The numbers are `u64` since the end may lie past the last `u32`.
    pub fn inner_ids(&self) -> Range<u64> {
        span(self.inner, self.count)
    }

    /// The ids outside.
    pub fn host_ids(&self) -> Range<u64> {
        span(self.host, self.count)
    }

    /// The id outside that stands behind `inner`.
    pub fn to_host(&self, inner: u32) -> Option<u32> {
        let offset = inner.checked_sub(self.inner)?;
        if offset < self.count { self.host.checked_add(offset) } else { None }
    }

    /// The id inside that stands for `host`.
    pub fn to_inner(&self, host: u32) -> Option<u32> {
        self.swapped().to_host(host)
    }

    /// The same extent seen from the other side.
    pub const fn swapped(&self) -> Self {
        Self { inner: self.host, host: self.inner, count: self.count }
    }

    /// The first `n` ids and the rest; a side without ids is `None`.
    pub fn split_at(&self, n: u32) -> (Option<Self>, Option<Self>) {
        if n == 0 {
            (None, Some(*self))
        } else if n >= self.count {
            (Some(*self), None)
        } else {
            let first = Self { count: n, ..*self };
            // Inside of this extent, so both sums fit wherever the extent itself is valid.
            let rest = Self::new(self.inner.wrapping_add(n), self.host.wrapping_add(n), self.count - n);
            (Some(first), Some(rest))
        }
    }

    /// The part whose inner ids lie in `ids`.
    fn clipped(&self, ids: &Range<u64>) -> Option<Self> {
        let own = self.inner_ids();
        let (start, end) = (own.start.max(ids.start), own.end.min(ids.end));
        let skip = u32::try_from(start.checked_sub(own.start)?).ok()?;
        let len = u32::try_from(end.checked_sub(start)?).ok()?;
        self.split_at(skip).1?.split_at(len).0
    }
}

impl fmt::Display for IdRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.inner, self.host, self.count)
    }
}

pub(super) fn span(first: u32, count: u32) -> Range<u64> {
    u64::from(first)..u64::from(first) + u64::from(count)
}

pub(super) fn overlap(a: &Range<u64>, b: &Range<u64>) -> bool {
    a.start.max(b.start) < a.end.min(b.end)
}

/// Everything that is wrong with `ranges` as one half of a map.
pub(super) fn problems(kind: IdKind, ranges: &[IdRange]) -> Vec<String> {
    let mut out = Vec::new();
    for r in ranges {
        if r.count == 0 {
            out.push(format!("{kind} range `{r}` has no ids"));
        }
        for (side, ids) in [("inside", r.inner_ids()), ("outside", r.host_ids())] {
            if ids.end > u64::from(NO_ID) {
                out.push(format!("{kind} range `{r}` goes past the last id, 4294967294, {side}"));
            }
        }
    }
    overlaps(kind, ranges, "inside", IdRange::inner_ids, &mut out);
    overlaps(kind, ranges, "outside", IdRange::host_ids, &mut out);
    if !out.is_empty() {
        return out;
    }
    let merged = normalized(ranges.to_vec());
    if merged.len() > MAX_EXTENTS {
        out.push(format!("the {kind} map has {} extents, the kernel takes {MAX_EXTENTS}", merged.len()));
    } else if text(&merged).len() > MAX_TEXT {
        out.push(format!("the {kind} map is longer than the {MAX_TEXT} bytes that the kernel takes"));
    }
    out
}

fn overlaps(
    kind: IdKind,
    ranges: &[IdRange],
    side: &str,
    ids: fn(&IdRange) -> Range<u64>,
    out: &mut Vec<String>,
) {
    let mut sorted: Vec<&IdRange> = ranges.iter().filter(|r| r.count > 0).collect();
    sorted.sort_by_key(|r| ids(r).start);
    // Compared with the one that reaches farthest so far, so that no overlap hides behind a short neighbour.
    let mut farthest: Option<&IdRange> = None;
    for r in sorted {
        if let Some(f) = farthest.filter(|f| overlap(&ids(f), &ids(r))) {
            out.push(format!("{kind} ranges `{f}` and `{r}` overlap {side}"));
        }
        if farthest.is_none_or(|f| ids(r).end > ids(f).end) {
            farthest = Some(r);
        }
    }
}

/// Sorted by inner id, with neighbours that continue each other on both sides made one.
pub(super) fn normalized(mut ranges: Vec<IdRange>) -> Vec<IdRange> {
    ranges.sort_unstable();
    let mut out: Vec<IdRange> = Vec::with_capacity(ranges.len());
    for r in ranges {
        match out.last_mut() {
            Some(last)
                if last.inner_ids().end == u64::from(r.inner) && last.host_ids().end == u64::from(r.host) =>
            {
                last.count += r.count;
            }
            _ => out.push(r),
        }
    }
    out
}

/// `ranges` without the inner ids in `hole`.
pub(super) fn without(ranges: &[IdRange], hole: &Range<u64>) -> Vec<IdRange> {
    let (below, above) = (0..hole.start, hole.end..u64::MAX);
    ranges.iter().flat_map(|r| [r.clipped(&below), r.clipped(&above)]).flatten().collect()
}

/// First through `inner`, then through `outer`; what one of them does not map is left out.
pub(super) fn composed(inner: &[IdRange], outer: &[IdRange]) -> Vec<IdRange> {
    let mut out = Vec::new();
    for i in inner {
        for o in outer {
            let Some(part) = i.swapped().clipped(&o.inner_ids()) else { continue };
            let Some(host) = o.to_host(part.inner) else { continue };
            out.push(IdRange::new(part.host, host, part.count));
        }
    }
    normalized(out)
}

pub(super) fn inverted(ranges: &[IdRange]) -> Vec<IdRange> {
    normalized(ranges.iter().map(IdRange::swapped).collect())
}

/// The text that `/proc/PID/uid_map` takes.
pub(super) fn text(ranges: &[IdRange]) -> String {
    ranges.iter().fold(String::new(), |mut out, r| {
        // Writing to a `String` cannot fail.
        let _ = writeln!(out, "{r}");
        out
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn r(inner: u32, host: u32, count: u32) -> IdRange {
        IdRange::new(inner, host, count)
    }

    #[test]
    fn split_and_clip() {
        assert_eq!(r(0, 10, 4).split_at(1), (Some(r(0, 10, 1)), Some(r(1, 11, 3))));
        assert_eq!(r(0, 10, 4).split_at(0), (None, Some(r(0, 10, 4))));
        assert_eq!(r(0, 10, 4).split_at(9), (Some(r(0, 10, 4)), None));
        assert_eq!(r(5, 10, 4).clipped(&(6..8)), Some(r(6, 11, 2)));
        assert_eq!(r(5, 10, 4).clipped(&(0..5)), None);
        assert_eq!(r(5, 10, 4).clipped(&(9..20)), None);
    }

    #[test]
    fn every_problem_is_told() {
        let bad = [r(0, 100, 0), r(0, 200, 10), r(5, 300, 10), r(1000, 205, 1), r(4_294_967_290, 500, 6)];
        let text = problems(IdKind::Uid, &bad).join("\n");
        for part in ["no ids", "overlap inside", "overlap outside", "past the last id"] {
            assert!(text.contains(part), "{part} missing in {text}");
        }
        assert_eq!(problems(IdKind::Gid, &[r(0, 0, u32::MAX)]), Vec::<String>::new());
    }

    #[test]
    fn an_overlap_does_not_hide_behind_a_short_range() {
        let bad = [r(0, 1000, 100), r(10, 5000, 1), r(50, 6000, 1)];
        assert_eq!(problems(IdKind::Uid, &bad).len(), 2);
    }

    #[test]
    fn the_kernels_limits_hold() {
        let many = |n: u32, base: u32| (0..n).map(|i| r(2 * i, base + 2 * i, 1)).collect::<Vec<_>>();
        assert_eq!(problems(IdKind::Uid, &many(200, 0)), Vec::<String>::new());
        assert!(problems(IdKind::Uid, &many(341, 0))[0].contains("341 extents"));
        assert!(problems(IdKind::Uid, &many(340, 1_000_000_000))[0].contains("4095 bytes"));
        let neighbours: Vec<_> = (0..1000).map(|i| r(i, i, 1)).collect();
        assert_eq!(problems(IdKind::Uid, &neighbours), Vec::<String>::new());
    }
}
