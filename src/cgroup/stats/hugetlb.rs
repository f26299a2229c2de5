//! `hugetlb.SIZE.current`, `.events`, `.rsvd.current`.

use serde::{Deserialize, Serialize};

use super::parse::{flat_keyed, number};

/// Huge pages of one size that a cgroup and its descendants use.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct HugetlbStats {
    /// The size of a page in bytes.
    pub page_size: u64,
    /// Bytes in use (`hugetlb.SIZE.current`).
    pub current: u64,
    /// Bytes reserved (`hugetlb.SIZE.rsvd.current`).
    pub reserved: u64,
    /// What the limit did, descendants included (`hugetlb.SIZE.events`).
    pub events: HugetlbEvents,
    /// What the cgroup's own limit did (`hugetlb.SIZE.events.local`).
    pub events_local: HugetlbEvents,
}

flat_keyed! {
    /// How often a limit of huge pages acted.
    pub struct HugetlbEvents {
        /// Allocations that failed at the limit.
        max: u64 = "max",
    }
}

/// One of the files of a page size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum File {
    Current,
    Reserved,
    Events,
    EventsLocal,
}

/// The page size in bytes and the file of a name such as `hugetlb.2MB.rsvd.current`; `None` for those that hold no
/// statistics.
pub(super) fn parse_name(name: &str) -> Option<(u64, File)> {
    let (size, file) = name.strip_prefix("hugetlb.")?.split_once('.')?;
    let file = match file {
        "current" => File::Current,
        "rsvd.current" => File::Reserved,
        "events" => File::Events,
        "events.local" => File::EventsLocal,
        _ => return None,
    };
    let units = [("KB", 10), ("MB", 20), ("GB", 30)];
    let (n, shift) = units.iter().find_map(|(unit, shift)| Some((size.strip_suffix(unit)?, *shift)))?;
    Some((number(n.as_bytes())?.checked_mul(1 << shift)?, file))
}

impl HugetlbStats {
    /// The entry of a page size.
    pub(in crate::cgroup) fn of(all: &mut Vec<Self>, page_size: u64) -> &mut Self {
        let at = all.iter().position(|s| s.page_size == page_size).unwrap_or_else(|| {
            all.push(Self { page_size, ..Self::default() });
            all.len() - 1
        });
        &mut all[at]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_give_size_and_file() {
        assert_eq!(parse_name("hugetlb.2MB.current"), Some((2 << 20, File::Current)));
        assert_eq!(parse_name("hugetlb.64KB.rsvd.current"), Some((64 << 10, File::Reserved)));
        assert_eq!(parse_name("hugetlb.1GB.events"), Some((1 << 30, File::Events)));
        assert_eq!(parse_name("hugetlb.1GB.events.local"), Some((1 << 30, File::EventsLocal)));
        for not in [
            "hugetlb.2MB.max",
            "hugetlb.2MB.numa_stat",
            "hugetlb.MB.current",
            "hugetlb.2.current",
            "hugetlb.current",
            "hugetlb.99999999999999999GB.current",
            "memory.current",
        ] {
            assert_eq!(parse_name(not), None, "{not}");
        }
    }
}
