//! One member of an archive, as its headers describe it.

use std::borrow::Cow;

use tar::Header;

use super::number;
use super::options::DeviceKind;
use super::pax::{Problem, Records};
use super::sparse::Map;

/// The size of all units of an archive.
pub(super) const BLOCK: usize = 512;

/// Something to be made.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Member {
    /// As it is in the archive.
    pub(super) path: Vec<u8>,
    pub(super) kind: Kind,
    pub(super) meta: Meta,
    /// Bytes of content that follow in the archive.
    pub(super) data: u64,
    pub(super) text_acls: Vec<Vec<u8>>,
}

/// What is set on a file whatever its type.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Meta {
    /// Permission bits.
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    /// Seconds since 1970 and nanoseconds after them.
    pub(super) mtime: (i64, u32),
    pub(super) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Kind {
    File(Option<Map>),
    Directory,
    Symlink(Vec<u8>),
    HardLink(Vec<u8>),
    Device { kind: DeviceKind, major: u32, minor: u32 },
    Fifo,
}

/// What a header block is there for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    Member,
    LongName,
    LongLink,
    Pax,
    PaxGlobal,
    /// A volume label: nothing to be made.
    Label,
}

/// Checks the header's sum and says what it is.
pub(super) fn role(block: &[u8; BLOCK]) -> Result<Role, Problem> {
    let header = Header::from_byte_slice(block);
    let old = header.as_old();
    let sum =
        number::field(&old.cksum).ok_or("a header has no checksum: this is no tar archive, or damaged")?;
    // The sum counts its own field as blanks. Some old writers added signed bytes.
    let own = 148..156;
    let bytes = || block.iter().enumerate().map(|(n, b)| if own.contains(&n) { b' ' } else { *b });
    let unsigned: i64 = bytes().map(i64::from).sum();
    let signed: i64 = bytes().map(|b| i64::from(b.cast_signed())).sum();
    if sum != unsigned && sum != signed {
        return Err("the checksum of a header is wrong: this is no tar archive, or damaged");
    }
    Ok(match old.linkflag[0] {
        b'L' => Role::LongName,
        b'K' => Role::LongLink,
        b'x' | b'X' => Role::Pax,
        b'g' => Role::PaxGlobal,
        b'V' => Role::Label,
        _ => Role::Member,
    })
}

/// How many bytes follow the header.
pub(super) fn data_size(block: &[u8; BLOCK], pax: Option<u64>) -> Result<u64, Problem> {
    let old = Header::from_byte_slice(block).as_old();
    // Old writers give a hard link the size of the file, and no content.
    if old.linkflag[0] == b'1' {
        return Ok(0);
    }
    let size = number::field(&old.size).and_then(|n| u64::try_from(n).ok());
    let size = pax.or(size).ok_or("the size of a member is no number")?;
    // So that rounding up to blocks, and adding, cannot overflow.
    if size > i64::MAX as u64 / 2 { Err("a member is larger than any file") } else { Ok(size) }
}

/// What stood in extension headers before the member's own.
#[derive(Debug, Default)]
pub(super) struct Extensions {
    pub(super) name: Option<Vec<u8>>,
    pub(super) link: Option<Vec<u8>>,
    pub(super) pax: Option<Records>,
}

/// Why a header is not turned into a member.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    Bad(Problem),
    /// A type of member that cannot be unpacked.
    Type(u8),
}

impl From<Problem> for Refusal {
    fn from(problem: Problem) -> Self {
        Self::Bad(problem)
    }
}

/// The member that a header and its extensions describe. The map of a file with holes is put in later.
pub(super) fn member(
    block: &[u8; BLOCK],
    before: Extensions,
    global: &Records,
    data: u64,
) -> Result<Member, Refusal> {
    let header = Header::from_byte_slice(block);
    let old = header.as_old();
    let pax = before.pax.unwrap_or_default();

    let path = name(pax.path, before.name, || header.path_bytes())?;
    let link = || name(pax.link, before.link, || header.link_name_bytes().unwrap_or_default());
    let id = |own: Option<u64>, global: Option<u64>, field: &[u8]| {
        let id = own.or(global).or_else(|| u64::try_from(number::field(field)?).ok());
        let id = id.and_then(|id| u32::try_from(id).ok()).filter(|id| *id != u32::MAX);
        id.ok_or("the owner of a member is no id")
    };
    let mtime = pax.mtime.or(global.mtime).or_else(|| Some((number::field(&old.mtime)?, 0)));
    let mode = number::field(&old.mode).ok_or("the mode of a member is no number")?;
    let meta = Meta {
        // The bits for the type of file, which some writers put in, are not looked at.
        mode: u32::try_from(mode & 0o7777).unwrap_or_default(),
        uid: id(pax.uid, global.uid, &old.uid)?,
        gid: id(pax.gid, global.gid, &old.gid)?,
        mtime: mtime.ok_or("the time of a member is no number")?,
        xattrs: pax.xattrs,
    };
    let kind = match old.linkflag[0] {
        // Before directories had a type of their own they were names that end in a slash.
        0 | b'0' if path.ends_with(b"/") => Kind::Directory,
        0 | b'0' | b'7' | b'S' => Kind::File(None),
        b'1' => Kind::HardLink(link()?),
        b'2' => Kind::Symlink(link()?),
        b'3' => device(header, DeviceKind::Character)?,
        b'4' => device(header, DeviceKind::Block)?,
        // The second is GNU's, with a listing as its content.
        b'5' | b'D' => Kind::Directory,
        b'6' => Kind::Fifo,
        other => return Err(Refusal::Type(other)),
    };
    Ok(Member { path, kind, meta, data, text_acls: pax.text_acls })
}

/// The name that counts: PAX, then GNU's long one, then the header's.
fn name<'h>(
    pax: Option<Vec<u8>>,
    long: Option<Vec<u8>>,
    header: impl FnOnce() -> Cow<'h, [u8]>,
) -> Result<Vec<u8>, Problem> {
    let name = pax.or(long).unwrap_or_else(|| header().into_owned());
    if name.is_empty() { Err("a member, or what it links to, has no name") } else { Ok(name) }
}

fn device(header: &Header, kind: DeviceKind) -> Result<Kind, Problem> {
    let fields = match (header.as_ustar(), header.as_gnu()) {
        (Some(h), _) => (h.dev_major, h.dev_minor),
        (_, Some(h)) => (h.dev_major, h.dev_minor),
        _ => return Err("a device has no numbers"),
    };
    let number = |field: &[u8], max: u32| {
        let number = number::field(field).and_then(|n| u32::try_from(n).ok()).filter(|n| *n <= max);
        number.ok_or("the number of a device is out of range")
    };
    // The kernel has 12 bits and 20.
    Ok(Kind::Device { kind, major: number(&fields.0, 0xfff)?, minor: number(&fields.1, 0xf_ffff)? })
}
