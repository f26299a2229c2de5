//! The laws of the map algebra, on generated maps.

use proptest::prelude::*;

use super::range::IdRange;
use super::*;

/// Up to eight extents with gaps, shuffled on the host side, so that both sides are free of overlap.
fn half(top: u32) -> impl Strategy<Value = Vec<IdRange>> {
    prop::collection::vec((0..top, 1..top, 0..top), 0..8).prop_flat_map(move |parts| {
        let lens: Vec<(u32, u32, u32)> = parts;
        let order = Just((0..lens.len()).collect::<Vec<_>>()).prop_shuffle();
        (Just(lens), order).prop_map(|(lens, order)| {
            let mut host = 0;
            let mut hosts = vec![0; lens.len()];
            for &i in &order {
                let (_, count, gap) = lens[i];
                hosts[i] = host + gap;
                host += gap + count;
            }
            let mut inner = 0;
            let mut out = Vec::new();
            for (i, &(gap, count, _)) in lens.iter().enumerate() {
                out.push(IdRange::new(inner + gap, hosts[i], count));
                inner += gap + count;
            }
            out
        })
    })
}

fn map() -> impl Strategy<Value = IdMap> {
    (half(50), half(50)).prop_map(|(uids, gids)| IdMap::new(uids, gids).unwrap())
}

/// Every id that a generated map can have on either side.
const IDS: std::ops::Range<u32> = 0..1000;

fn uid(map: &IdMap, id: u32) -> Option<u32> {
    map.uid_to_host(InnerUid::new(id)).map(HostUid::as_raw)
}

fn gid(map: &IdMap, id: u32) -> Option<u32> {
    map.gid_to_host(InnerGid::new(id)).map(HostGid::as_raw)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(128) })]

    #[test]
    fn there_and_back(m in map()) {
        for id in IDS {
            if let Some(host) = m.uid_to_host(InnerUid::new(id)) {
                prop_assert_eq!(m.uid_to_inner(host), Some(InnerUid::new(id)));
            }
            if let Some(host) = m.gid_to_host(InnerGid::new(id)) {
                prop_assert_eq!(m.gid_to_inner(host), Some(InnerGid::new(id)));
            }
        }
    }

    #[test]
    fn inverse_swaps_sides(m in map()) {
        prop_assert_eq!(m.inverse().inverse(), m.clone());
        for id in IDS {
            let back = m.inverse();
            prop_assert_eq!(uid(&back, id), m.uid_to_inner(HostUid::new(id)).map(InnerUid::as_raw));
            prop_assert_eq!(gid(&back, id), m.gid_to_inner(HostGid::new(id)).map(InnerGid::as_raw));
        }
    }

    #[test]
    fn compose_is_one_after_the_other(a in map(), b in map(), c in map()) {
        let ab = a.compose(&b);
        for id in IDS {
            prop_assert_eq!(uid(&ab, id), uid(&a, id).and_then(|id| uid(&b, id)));
            prop_assert_eq!(gid(&ab, id), gid(&a, id).and_then(|id| gid(&b, id)));
        }
        prop_assert_eq!(ab.compose(&c), a.compose(&b.compose(&c)));
        prop_assert_eq!(a.compose(&IdMap::identity()), a.clone());
        prop_assert_eq!(IdMap::identity().compose(&a), a.clone());
        prop_assert!(IdMap::problems(ab.uids(), ab.gids()).is_empty());
        let within = IDS.clone().all(|id| uid(&ab, id).is_some() == uid(&a, id).is_some()
            && gid(&ab, id).is_some() == gid(&a, id).is_some());
        prop_assert_eq!(a.is_within(&b), within);
    }

    #[test]
    fn a_hole_leaves_the_rest(m in map(), first in IDS, count in 0_u32..300) {
        let holed = m.without(IdKind::Uid, first, count);
        for id in IDS {
            let inside = id >= first && id - first < count;
            prop_assert_eq!(uid(&holed, id), if inside { None } else { uid(&m, id) });
            prop_assert_eq!(gid(&holed, id), gid(&m, id));
        }
        prop_assert!(IdMap::problems(holed.uids(), holed.gids()).is_empty());
    }

    #[test]
    fn raw_entries_win_and_the_rest_stays(m in map(), inner in 0_u32..900, count in 1_u32..100) {
        let entry = RawEntry { kind: RawKind::Both, range: IdRange::new(inner, 5_000, count) };
        let raw = RawIdmap::new(vec![entry]);
        let with = m.with_raw(&raw).unwrap();
        for id in IDS {
            let expected = if id >= inner && id - inner < count { Some(5_000 + id - inner) } else { uid(&m, id) };
            prop_assert_eq!(uid(&with, id), expected);
        }
        prop_assert_eq!(raw.to_string().parse::<RawIdmap>().unwrap(), raw);
    }

    #[test]
    fn every_text_form_reads_back(m in map()) {
        let (u, g) = (m.kernel_text(IdKind::Uid), m.kernel_text(IdKind::Gid));
        prop_assert_eq!(IdMap::parse_kernel(&u, &g).unwrap(), m.clone());
        prop_assert_eq!(IdMap::parse_lxc(&m.lxc_text()).unwrap(), m.clone());
        let json = serde_json::to_string(&m).unwrap();
        prop_assert_eq!(serde_json::from_str::<IdMap>(&json).unwrap(), m);
    }

    #[test]
    fn extents_in_any_order_and_cut_make_the_same_map(m in map(), at in 1_u32..50) {
        let cut = |half: &[IdRange]| -> Vec<IdRange> {
            half.iter().rev().flat_map(|r| { let (a, b) = r.split_at(at); [b, a] }).flatten().collect()
        };
        prop_assert_eq!(IdMap::new(cut(m.uids()), cut(m.gids())).unwrap(), m);
    }

    #[test]
    fn a_map_shares_ids_with_another_where_some_id_is_in_both(a in map(), b in map()) {
        let shared = IDS.clone().any(|id| {
            (a.uid_to_inner(HostUid::new(id)).is_some() && b.uid_to_inner(HostUid::new(id)).is_some())
                || (a.gid_to_inner(HostGid::new(id)).is_some() && b.gid_to_inner(HostGid::new(id)).is_some())
        });
        prop_assert_eq!(a.shares_host_ids(&b), shared);
    }

    #[test]
    fn no_text_makes_a_parser_panic(text in "[ubgoth0-9 \n-]{0,60}|.{0,40}") {
        let _ = IdMap::parse_lxc(&text);
        let _ = IdMap::parse_kernel(&text, &text);
        let _ = text.parse::<RawIdmap>();
    }
}

#[test]
fn maps_at_the_edge_of_the_id_space() {
    let all = IdMap::identity();
    assert_eq!(IdMap::parse_kernel("0 0 4294967295", "0 0 4294967295").unwrap(), all);
    assert_eq!(uid(&all, u32::MAX - 1), Some(u32::MAX - 1));
    assert_eq!(uid(&all, u32::MAX), None);
    assert!(IdMap::range(u32::MAX - 5, 5).is_ok());
    assert!(IdMap::range(u32::MAX - 5, 6).is_err());
    assert!(IdMap::range(0, 0).is_err());
    assert!(IdMap::single(HostUid::new(u32::MAX), HostGid::ROOT).is_err());
    let top = IdMap::range(u32::MAX - 5, 5).unwrap();
    assert_eq!(top.compose(&all), top);
    assert!(top.is_within(&all) && !all.is_within(&top));
}

#[test]
fn lxc_lines() {
    let map = IdMap::parse_lxc("u 0 100000 65536\ng 0 200000 65536\n").unwrap();
    assert_eq!(map, IdMap::range_pair(HostUid::new(100_000), HostGid::new(200_000), 65_536).unwrap());
    assert_eq!(IdMap::parse_lxc("b 0 5 1").unwrap(), IdMap::range(5, 1).unwrap());
    for bad in ["x 0 1 1", "u 0 1", "u 0 1 1 1", "u", "u 0 1 -1", "u 0 1 0", "u 0 1 5\nu 3 9 1"] {
        assert!(IdMap::parse_lxc(bad).is_err(), "{bad}");
    }
}

#[test]
fn raw_ids_that_are_taken_already_are_refused() {
    let base = IdMap::range(100_000, 65_536).unwrap();
    let e = base.with_raw(&"uid 100005 1000".parse().unwrap()).unwrap_err();
    assert!(e.to_string().contains("overlap outside"), "{e}");
    // The ids of the hole itself are free again.
    assert!(base.with_raw(&"uid 101000 1000".parse().unwrap()).is_ok());
    assert!(base.with_raw(&"uid 7 1000\nuid 8 1000".parse().unwrap()).is_err());
}

#[test]
fn stored_maps_are_checked() {
    assert!(serde_json::from_str::<IdMap>(r#"{"uids":[{"inner":0,"host":0,"count":0}],"gids":[]}"#).is_err());
    assert!(serde_json::from_str::<IdMap>(r#"{"uids":[]}"#).is_err());
}

#[test]
fn own_map_has_this_user() {
    let own = IdMap::of_current_process().unwrap();
    let uid = rustix::process::geteuid().as_raw();
    assert!(own.uid_to_host(InnerUid::new(uid)).is_some());
    assert_eq!(own.host_root().is_ok(), own.uid_to_host(InnerUid::ROOT).is_some());
    assert!(IdMap::default().host_root().is_err() && IdMap::default().is_empty());
}
