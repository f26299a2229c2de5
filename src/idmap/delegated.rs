//! The ids that an ordinary user may map: his own, and those that `/etc/subuid` and `/etc/subgid` give him.

use super::area::IdArea;
use super::claims::RANGE_SIZE;
use super::ids::{HostGid, HostUid, IdKind};
use super::map::IdMap;
use super::range::{IdRange, MAX_EXTENTS};
use super::subid::{self, SubidEntry, SubidUser};
use crate::error::Result;

/// The map that has root inside as the user himself and, from 1 on, all that the files give him, in their order of
/// numbers; `None` where that is less than a distribution expects, 65,536 ids with his own.
///
/// # Errors
/// Where the files cannot be read.
pub(crate) fn map(user: &SubidUser, own: (HostUid, HostGid)) -> Result<Option<IdMap>> {
    let ours = IdMap::of_current_process()?;
    let halves = [(IdKind::Uid, subid::SUBUID, own.0.as_raw()), (IdKind::Gid, subid::SUBGID, own.1.as_raw())];
    let [uids, gids] = halves.map(|(kind, file, own)| {
        let entries = subid::read(file)?;
        Ok(extents(&entries, user, own, &IdArea::named_by(&ours, kind)))
    });
    let (Some(uids), Some(gids)) = (uids?, gids?) else { return Ok(None) };
    IdMap::new(uids, gids).map(Some)
}

fn extents(entries: &[SubidEntry], user: &SubidUser, own: u32, valid: &IdArea) -> Option<Vec<IdRange>> {
    let his = entries.iter().filter(|e| user.owns(e)).map(|e| (e.first, e.count));
    let ranges = IdArea::new(his).intersection(valid).difference(&IdArea::new([(own, 1)]));
    let mut out = vec![IdRange::new(0, own, 1)];
    let mut next = 1_u32;
    for (first, count) in Vec::<(u32, u32)>::from(ranges).into_iter().take(MAX_EXTENTS - 1) {
        let count = count.min(u32::MAX - next);
        out.push(IdRange::new(next, first, count));
        next += count;
    }
    (next >= RANGE_SIZE).then_some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str, own: u32) -> Option<Vec<IdRange>> {
        let bob = SubidUser { uid: 1000, name: Some("bob".into()) };
        extents(&subid::parse(text).unwrap(), &bob, own, &IdArea::new([(0, u32::MAX)]))
    }

    #[test]
    fn the_user_is_root_and_the_rest_comes_from_the_files() {
        let expected = [IdRange::new(0, 1000, 1), IdRange::new(1, 100_000, 65_536)];
        assert_eq!(of("root:1:5\nbob:100000:65536\n", 1000).unwrap(), expected);
        let both = "bob:300000:65536\n1000:100000:5\n";
        let expected = [IdRange::new(0, 7, 1), IdRange::new(1, 100_000, 5), IdRange::new(6, 300_000, 65_536)];
        assert_eq!(of(both, 7).unwrap(), expected);
    }

    #[test]
    fn too_few_ids_are_none() {
        assert_eq!(of("", 1000), None);
        assert_eq!(of("bob:100000:65534", 1000), None);
        assert!(of("bob:100000:65535", 1000).is_some());
        assert_eq!(of("eve:100000:65536", 1000), None);
    }

    #[test]
    fn his_own_id_is_not_mapped_twice() {
        let split = of("bob:500:70000", 1000).unwrap();
        assert_eq!(
            split,
            [IdRange::new(0, 1000, 1), IdRange::new(1, 500, 500), IdRange::new(501, 1001, 69_499)]
        );
    }

    #[test]
    fn only_what_the_process_can_name() {
        let bob = SubidUser { uid: 0, name: None };
        let entries = subid::parse("0:100000:65536").unwrap();
        assert_eq!(extents(&entries, &bob, 0, &IdArea::new([(0, 65_536)])), None);
    }
}
