//! Files about ids, parsed.

use super::claims::Slot;
use super::session::Session;
use super::subid::SubidUser;
use super::{IdMap, record, subid};

/// The names of the formats that these bytes are of.
pub(crate) fn take(bytes: &[u8], into: &mut Vec<&'static str>) {
    if let Ok(entries) = record::parse(bytes, "idmap.json") {
        for entry in &entries {
            entry.slot().map().expect("a range that was taken is one");
        }
        into.push("id ranges");
    }
    if let Ok(session) = serde_json::from_slice::<Session>(bytes) {
        let text = serde_json::to_vec(&session).expect("what was read can be written");
        assert_eq!(serde_json::from_slice::<Session>(&text).expect("and read again"), session);
        into.push("session");
    }
    if let Some(slot) = Slot::from_name(bytes) {
        assert!(slot.overlaps(slot));
        into.push("claim");
    }
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Ok(entries) = subid::parse(text) {
        for entry in &entries {
            assert!(entry.count > 0 && entry.first.checked_add(entry.count).is_some());
            let _ = SubidUser::root().owns(entry);
        }
        if !entries.is_empty() {
            into.push("subid");
        }
    }
    if subid::name_of(text, 1000).is_some() {
        into.push("passwd");
    }
    if IdMap::parse_kernel(text, text).is_ok() {
        into.push("kernel's id map");
    }
    if IdMap::parse_lxc(text).is_ok() {
        into.push("lxc's id map");
    }
}
