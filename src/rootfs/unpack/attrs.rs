//! Owners, and the attributes that name owners.

use rustix::fs::{Gid, Uid};

use super::options::UnpackIds;
use crate::error::{Error, ErrorKind, Result};
use crate::idmap::{IdMap, InnerGid, InnerUid};

const CAPABILITY: &[u8] = b"security.capability";
const ACLS: [&[u8]; 2] = [b"system.posix_acl_access", b"system.posix_acl_default"];

impl UnpackIds {
    /// The owner on disk of what these ids of the archive own; `None` where it is the caller anyway.
    pub(super) fn owner(&self, uid: u32, gid: u32) -> Result<Option<(Uid, Gid)>> {
        let (uid, gid) = match self {
            Self::AsIs => (uid, gid),
            Self::Shifted(map) => (host_uid(map, uid)?, host_gid(map, gid)?),
            Self::Caller => return Ok(None),
        };
        Ok(Some((Uid::from_raw(uid), Gid::from_raw(gid))))
    }

    /// The mode on disk.
    pub(super) fn mode(&self, mode: u32) -> u32 {
        match self {
            Self::Caller => mode & 0o1777,
            _ => mode & 0o7777,
        }
    }

    /// The value on disk of an extended attribute; `None` where it stays as it is.
    pub(super) fn xattr(&self, name: &[u8], value: &[u8]) -> Result<Option<Vec<u8>>> {
        let Self::Shifted(map) = self else { return Ok(None) };
        if name == CAPABILITY {
            capability(map, value).map(Some)
        } else if ACLS.contains(&name) {
            acl(map, value).map(Some)
        } else {
            Ok(None)
        }
    }
}

fn host_uid(map: &IdMap, uid: u32) -> Result<u32> {
    let host = map.uid_to_host(InnerUid::new(uid));
    host.map(Into::into).ok_or_else(|| unmapped("user", uid))
}

fn host_gid(map: &IdMap, gid: u32) -> Result<u32> {
    let host = map.gid_to_host(InnerGid::new(gid));
    host.map(Into::into).ok_or_else(|| unmapped("group", gid))
}

fn unmapped(kind: &str, id: u32) -> Error {
    Error::invalid("owners of the archive", format!("{kind} {id} is not in the id map"))
        .hint("give the container a larger map, or unpack with the ids as they are")
}

fn malformed(name: &str) -> Error {
    Error::new(ErrorKind::Corrupt, "read the archive").detail(format!("the attribute `{name}` is malformed"))
}

/// File capabilities for the namespace of a map (`struct vfs_ns_cap_data`, `capabilities(7)`, Linux 4.14): they
/// name the root user for whom they count. Older forms mean the root of the namespace that the file system belongs
/// to, which is the map's own here.
fn capability(map: &IdMap, value: &[u8]) -> Result<Vec<u8>> {
    const FORM: u32 = 0xff00_0000;
    const V2: u32 = 0x0200_0000;
    const V3: u32 = 0x0300_0000;
    let bad = || malformed("security.capability");
    let word =
        |at: usize| -> Option<u32> { Some(u32::from_le_bytes(value.get(at..at + 4)?.try_into().ok()?)) };
    let magic = word(0).ok_or_else(bad)?;
    let root = match (magic & FORM, value.len()) {
        (V2, 20) => 0,
        (V3, 24) => word(20).ok_or_else(bad)?,
        _ => return Err(bad()),
    };
    let mut out = value.to_vec();
    out.truncate(20);
    let host = host_uid(map, root)?;
    // Root of the host: the form without an id says it, and is understood everywhere.
    let form = if host == 0 { V2 } else { V3 };
    out[..4].copy_from_slice(&(magic & !FORM | form).to_le_bytes());
    if host != 0 {
        out.extend_from_slice(&host.to_le_bytes());
    }
    Ok(out)
}

/// A POSIX ACL (`struct posix_acl_xattr_header` and entries): version 2, then tag, permissions and id of each.
fn acl(map: &IdMap, value: &[u8]) -> Result<Vec<u8>> {
    const USER: u16 = 0x02;
    const GROUP: u16 = 0x08;
    let bad = || malformed("system.posix_acl");
    let (version, entries) = value.split_first_chunk::<4>().ok_or_else(bad)?;
    let (entries, rest) = entries.as_chunks::<8>();
    if u32::from_le_bytes(*version) != 2 || !rest.is_empty() {
        return Err(bad());
    }
    let mut out = version.to_vec();
    for entry in entries {
        let [t0, t1, p0, p1, id @ ..] = *entry;
        let id = u32::from_le_bytes(id);
        let id = match u16::from_le_bytes([t0, t1]) {
            USER => host_uid(map, id)?,
            GROUP => host_gid(map, id)?,
            _ => id,
        };
        out.extend_from_slice(&[t0, t1, p0, p1]);
        out.extend_from_slice(&id.to_le_bytes());
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shifted() -> UnpackIds {
        UnpackIds::Shifted(IdMap::range(100_000, 65_536).unwrap())
    }

    const V2: [u8; 20] = [1, 0, 0, 2, 0, 4, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

    #[test]
    fn file_capabilities_get_the_maps_root() {
        let v3 = shifted().xattr(CAPABILITY, &V2).unwrap().unwrap();
        assert_eq!(v3[..4], [1, 0, 0, 3]);
        assert_eq!(v3[4..20], V2[4..]);
        assert_eq!(v3[20..], 100_000_u32.to_le_bytes());

        let inner = [&v3[..20], &7_u32.to_le_bytes()].concat();
        assert_eq!(shifted().xattr(CAPABILITY, &inner).unwrap().unwrap()[20..], 100_007_u32.to_le_bytes());
        let outside = [&v3[..20], &70_000_u32.to_le_bytes()].concat();
        assert!(shifted().xattr(CAPABILITY, &outside).is_err());

        let same = UnpackIds::Shifted(IdMap::identity());
        assert_eq!(same.xattr(CAPABILITY, &V2).unwrap().unwrap(), V2);
        assert_eq!(UnpackIds::AsIs.xattr(CAPABILITY, &V2).unwrap(), None);
        assert_eq!(shifted().xattr(b"user.x", &V2).unwrap(), None);
    }

    #[test]
    fn malformed_attributes_are_refused() {
        for bad in [&b""[..], b"\x01", &V2[..19], &[&V2[..], &[0; 4]].concat(), &[0; 20]] {
            assert!(shifted().xattr(CAPABILITY, bad).is_err(), "{bad:?}");
        }
        for bad in [&b""[..], b"\x02\0\0", b"\x02\0\0\0\x01", b"\x03\0\0\0"] {
            assert!(shifted().xattr(ACLS[0], bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn acls_name_users_of_the_host() {
        let entry = |tag: u16, id: u32| [&tag.to_le_bytes()[..], &[6, 0], &id.to_le_bytes()].concat();
        let acl = |ids: [u32; 3]| {
            let entries = [entry(1, ids[0]), entry(2, ids[1]), entry(8, ids[2])].concat();
            [&2_u32.to_le_bytes()[..], &entries].concat()
        };
        let found = shifted().xattr(ACLS[1], &acl([u32::MAX, 33, 5])).unwrap().unwrap();
        assert_eq!(found, acl([u32::MAX, 100_033, 100_005]));
    }

    #[test]
    fn owners_follow_the_choice() {
        let raw = |owner: Option<(Uid, Gid)>| owner.map(|(u, g)| (u.as_raw(), g.as_raw()));
        assert_eq!(raw(UnpackIds::AsIs.owner(5, 6).unwrap()), Some((5, 6)));
        assert_eq!(raw(shifted().owner(5, 6).unwrap()), Some((100_005, 100_006)));
        assert_eq!(raw(UnpackIds::Caller.owner(5, 6).unwrap()), None);
        let e = shifted().owner(0, 65_536).unwrap_err();
        assert!(e.to_string().contains("group 65536"), "{e}");
        assert_eq!((UnpackIds::Caller.mode(0o6755), shifted().mode(0o106_755)), (0o755, 0o6755));
    }
}
