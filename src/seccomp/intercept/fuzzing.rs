//! The parts of calls that are taken apart here.

use super::{acting, bpf, mknod, mount};
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
    if acting::Found::parse(bytes).is_some() {
        into.push("found");
    }
}
