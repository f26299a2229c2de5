//! The parts of calls that are taken apart here.

use super::{acting, bpf, fuse, mknod, mount};
use crate::idmap::IdMap;

/// The names of the forms that these bytes are of.
pub(crate) fn take(bytes: &[u8], into: &mut Vec<&'static str>) {
    if let Some(mut options) = mount::options(bytes) {
        assert!(options.iter().all(|o| !o.key.is_empty() && o.key != b"source"));
        let map = IdMap::range(1_000_000, 65_536).expect("a range of the usual size");
        if mount::shift_hugetlbfs(&mut options, &map).is_some() {
            for key in [&b"uid"[..], b"gid"] {
                let of = options.iter().filter(|o| o.key == key).filter_map(|o| o.value.clone());
                let ids: Vec<u32> = of.filter_map(|v| String::from_utf8(v).ok()?.parse().ok()).collect();
                assert!(matches!(ids[..], [id] if (1_000_000..1_065_536).contains(&id)), "{ids:?}");
            }
        }
        into.push("mount options");
    }
    if bpf::Attr::parse(bytes).is_some_and(|attr| attr.loads_device_program()) {
        into.push("bpf load");
    }
    if bytes.len() >= 8 && bpf::is_plain(bytes) {
        into.push("bpf program");
    }
    if let Some((parent, name)) = mknod::split(bytes) {
        assert!(!parent.is_empty() && !name.is_empty() && !name.contains(&b'/'));
        into.push("path");
    }
    if let Some(words) = fuse::words("program", bytes, bytes, fuse::options(u64::MAX, bytes)) {
        assert!(words.len() == 5 && words[1..3].iter().all(|word| word[0] != b'-'));
        into.push("words of a program");
    }
    if fuse::fuse_lines(bytes).inspect(|l| assert_eq!(l.iter().filter(|b| **b == b' ').count(), 4)).count()
        > 0
    {
        into.push("mount of FUSE");
    }
    if acting::Found::parse(bytes).is_some() {
        into.push("found");
    }
}
