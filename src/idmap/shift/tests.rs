//! What the public calls cannot show: a crash between two steps on one file.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::Path;

use super::attrs::{Caps, Kept};
use super::entry::{File, KEPT};
use super::*;

const CAPS: &str = "security.capability";
/// `cap_net_raw+ep`.
const RAW: [u8; 20] = [1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

fn xattr(path: &Path, name: &str) -> Option<Vec<u8>> {
    let mut buf = [0_u8; 256];
    rustix::fs::lgetxattr(path, name, &mut buf).ok().map(|n| buf[..n].to_vec())
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

#[test]
fn a_crash_between_the_steps_on_one_file_loses_nothing() {
    let _serial = support::serial();
    support::require_root!();
    let (from, to) = (IdMap::range(0, 65_536).unwrap(), IdMap::range(2_000_000_000, 65_536).unwrap());
    let owner = 2_000_000_000;
    let raw = Caps::decode(&RAW).unwrap();
    let shifted = raw.with_root(|_| Ok(owner)).unwrap();
    // After how many steps it ends: kept, owner changed, mode back, capabilities back.
    for (set_id, has_caps) in [(0o4755, false), (0o755, true), (0o6711, true)] {
        for steps in 1..=4 {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("f");
            fs::write(&path, "x").unwrap();
            fs::set_permissions(&path, PermissionsExt::from_mode(set_id)).unwrap();
            let flags = rustix::fs::XattrFlags::empty();
            if has_caps {
                rustix::fs::setxattr(&path, CAPS, &RAW, flags).unwrap();
            }
            let file = File { name: path.display().to_string(), path: &path };
            let kept = Kept { mode: set_id, caps: has_caps.then_some(shifted) };
            if !file.keep(&kept).unwrap() {
                return support::skip("no trusted attributes here");
            }
            if steps >= 2 {
                chown(&path, Some(owner), Some(owner)).unwrap();
                assert_eq!((mode(&path) & 0o6000, xattr(&path, CAPS)), (0, None), "the kernel took them");
            }
            if steps >= 3 {
                fs::set_permissions(&path, PermissionsExt::from_mode(set_id)).unwrap();
            }
            if steps >= 4 && has_caps {
                rustix::fs::setxattr(&path, CAPS, &shifted.encode(), flags).unwrap();
            }
            // On, or back.
            let back = steps % 2 == 0;
            let report = if back {
                shift_tree(dir.path(), &to, &from).unwrap();
                shift_tree(dir.path(), &from, &to).unwrap()
            } else {
                shift_tree(dir.path(), &from, &to).unwrap()
            };
            assert_eq!((report.entries, report.changed), (2, 2));
            assert_eq!((fs::metadata(&path).unwrap().uid(), mode(&path)), (owner, set_id), "{steps}");
            assert_eq!(xattr(&path, CAPS), has_caps.then(|| shifted.encode()), "{steps}");
            assert_eq!(xattr(&path, KEPT), None);
            assert_eq!(shift_tree(dir.path(), &from, &to).unwrap().changed, 0);
        }
    }
}

#[test]
fn maps_that_share_ids_are_refused() {
    let range = |first, count| IdMap::range(first, count).unwrap();
    let e = Shift::new(&range(0, 65_536), &range(65_535, 5)).unwrap_err();
    assert_eq!(e.kind(), crate::ErrorKind::InvalidConfig);
    assert!(e.to_string().contains("third range"), "{e}");
    assert!(Shift::new(&IdMap::identity(), &range(5, 5)).is_err());
    assert!(Shift::new(&range(0, 65_536), &range(65_536, 5)).is_ok());
}

#[test]
fn ids_go_through_the_container() {
    let map = |ranges: &[(u32, u32, u32)]| {
        let ranges: Vec<_> =
            ranges.iter().map(|(i, h, n)| super::super::range::IdRange::new(*i, *h, *n)).collect();
        IdMap::new(ranges.clone(), ranges).unwrap()
    };
    let (from, to) = (map(&[(0, 0, 100), (500, 500, 10)]), map(&[(0, 1000, 1), (1, 5000, 600)]));
    let shift = Shift::new(&from, &to).unwrap();
    let path = Path::new("/x");
    for (old, new) in [(0, 1000), (1, 5000), (99, 5098), (505, 5504), (5504, 5504), (1000, 1000)] {
        assert_eq!(shift.translate(IdKind::Uid, old, path).unwrap(), new);
        assert_eq!(shift.translate(IdKind::Gid, new, path).unwrap(), new);
    }
    let e = shift.translate(IdKind::Gid, 300, path).unwrap_err();
    assert!(e.to_string().contains("/x") && e.to_string().contains("300"), "{e}");
    let keeps = Shift::new(&from, &to).unwrap().unmapped(Unmapped::Keep);
    assert_eq!(keeps.translate(IdKind::Uid, 300, path).unwrap(), 300);
    let small = Shift::new(&to, &from).unwrap();
    assert_eq!(small.translate(IdKind::Uid, 5504, path).unwrap(), 505);
    assert!(small.translate(IdKind::Uid, 5200, path).is_err(), "nobody by the second map");
}
