//! The attributes of a file that hold ids, as the kernel writes them: little-endian numbers.

use crate::error::Result;
use crate::idmap::ids::IdKind;

const REVISION: u32 = 0xFF00_0000;
const REVISION_2: u32 = 0x0200_0000;
const REVISION_3: u32 = 0x0300_0000;

/// File capabilities (`security.capability`; `struct vfs_ns_cap_data`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Caps {
    /// Without the revision: whether they are effective at once.
    flags: u32,
    /// Permitted and inheritable, the lower halves first.
    sets: [u32; 4],
    /// The root of the user namespace in which they count, as the host numbers it; revision 2 is for the host's.
    root: u32,
}

impl Caps {
    pub(super) fn decode(value: &[u8]) -> Option<Self> {
        let mut words = value.chunks_exact(4).map(|w| u32::from_le_bytes([w[0], w[1], w[2], w[3]]));
        let magic = words.next()?;
        let sets = [words.next()?, words.next()?, words.next()?, words.next()?];
        let root = match (magic & REVISION, value.len()) {
            (REVISION_2, 20) => 0,
            (REVISION_3, 24) => words.next()?,
            _ => return None,
        };
        Some(Self { flags: magic & !REVISION, sets, root })
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let revision = if self.root == 0 { REVISION_2 } else { REVISION_3 };
        let mut words = vec![revision | self.flags];
        words.extend(self.sets);
        if self.root != 0 {
            words.push(self.root);
        }
        words.into_iter().flat_map(u32::to_le_bytes).collect()
    }

    pub(super) fn with_root(self, translate: impl FnOnce(u32) -> Result<u32>) -> Result<Self> {
        Ok(Self { root: translate(self.root)?, ..self })
    }
}

/// What a file has and a change of its owner takes away, while that is under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Kept {
    pub(super) mode: u32,
    pub(super) caps: Option<Caps>,
}

impl Kept {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = self.mode.to_le_bytes().to_vec();
        out.extend(self.caps.iter().flat_map(Caps::encode));
        out
    }

    pub(super) fn decode(value: &[u8]) -> Option<Self> {
        let (mode, caps) = value.split_first_chunk()?;
        let caps = if caps.is_empty() { None } else { Some(Caps::decode(caps)?) };
        Some(Self { mode: u32::from_le_bytes(*mode) & 0o7777, caps })
    }
}

/// An access control list (`struct posix_acl_xattr_header` and `..._entry`) with other ids.
pub(super) fn list_with(value: &[u8], translate: impl Fn(IdKind, u32) -> Result<u32>) -> Result<Vec<u8>> {
    const HEADER: usize = 4;
    const USER: u16 = 0x02;
    const GROUP: u16 = 0x08;
    let mut out = value.to_vec();
    for entry in out.get_mut(HEADER..).unwrap_or_default().chunks_exact_mut(8) {
        let kind = match u16::from_le_bytes([entry[0], entry[1]]) {
            USER => IdKind::Uid,
            GROUP => IdKind::Gid,
            _ => continue,
        };
        let id = u32::from_le_bytes([entry[4], entry[5], entry[6], entry[7]]);
        entry[4..].copy_from_slice(&translate(kind, id)?.to_le_bytes());
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    const V2: [u8; 20] = [1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

    #[test]
    fn capabilities_have_the_hosts_root_or_another() {
        let caps = Caps::decode(&V2).unwrap();
        assert_eq!(caps.encode(), V2);
        let shifted = caps.with_root(|id| Ok(id + 100_000)).unwrap();
        let v3 = shifted.encode();
        assert_eq!(
            (v3.len(), v3[3], &v3[4..20], &v3[20..]),
            (24, 3, &V2[4..20], &100_000_u32.to_le_bytes()[..])
        );
        assert_eq!(Caps::decode(&v3), Some(shifted));
        assert_eq!(shifted.with_root(|id| Ok(id - 100_000)).unwrap().encode(), V2);
        for bad in [&V2[..19], &v3[..20], &[0; 20], &[]] {
            assert_eq!(Caps::decode(bad), None);
        }
    }

    #[test]
    fn what_is_kept_comes_back() {
        for caps in [None, Caps::decode(&V2)] {
            let kept = Kept { mode: 0o6755, caps };
            assert_eq!(Kept::decode(&kept.encode()), Some(kept));
        }
        assert_eq!(Kept::decode(&[1, 2]), None);
        assert_eq!(Kept::decode(&[0, 0, 0, 0, 9]), None);
    }

    #[test]
    fn only_named_users_and_groups_of_a_list_have_ids() {
        let entry =
            |tag: u16, id: u32| [&tag.to_le_bytes()[..], &7_u16.to_le_bytes(), &id.to_le_bytes()].concat();
        let list = |ids: [u32; 2]| {
            let entries = [
                entry(1, u32::MAX),
                entry(2, ids[0]),
                entry(4, u32::MAX),
                entry(8, ids[1]),
                entry(16, u32::MAX),
            ];
            [&2_u32.to_le_bytes()[..], &entries.concat()].concat()
        };
        let shifted =
            list_with(&list([5, 6]), |kind, id| Ok(if kind == IdKind::Uid { id + 1000 } else { id + 2000 }));
        assert_eq!(shifted.unwrap(), list([1005, 2006]));
        assert!(list_with(&[], |_, id| Ok(id)).unwrap().is_empty());
    }
}
