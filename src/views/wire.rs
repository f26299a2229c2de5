//! Requests and answers of FUSE as bytes (`fuse(4)`, `include/uapi/linux/fuse.h`), version 7.31.
//!
//! Each begins with its length and a header. All numbers are the machine's own. A request is whatever the kernel makes of
//! what a container does: nothing of it is believed.

/// What a request wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wish<'a> {
    Init,
    /// The file of this name in the directory.
    Lookup(&'a [u8]),
    Attributes,
    Open,
    Read {
        handle: u64,
        offset: u64,
        size: u32,
    },
    Release {
        handle: u64,
    },
    /// Answered with nothing.
    Statistics,
    /// No answer is expected.
    Forget,
    /// The kernel is to be told that there is no such thing.
    Unknown,
}

/// A request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Request<'a> {
    /// Its number, for the answer.
    pub(super) unique: u64,
    /// Of the file or directory.
    pub(super) node: u64,
    pub(super) wish: Wish<'a>,
}

/// The length of the header of a request.
const HEADER_IN: usize = 40;
const HEADER_OUT: usize = 16;

const LOOKUP: u32 = 1;
const FORGET: u32 = 2;
const GETATTR: u32 = 3;
const OPEN: u32 = 14;
const READ: u32 = 15;
const STATFS: u32 = 17;
const RELEASE: u32 = 18;
const INIT: u32 = 26;
const BATCH_FORGET: u32 = 42;

const VERSION: (u32, u32) = (7, 31);
/// The least that the kernel takes; nothing is ever written.
const MAX_WRITE: u32 = 4096;
/// Seconds for which the kernel need not ask again which file has a name: that never changes. What the file is, with its
/// size, it asks whenever it wants to know.
const VALID: u64 = 365 * 24 * 3600;
/// Reads go past the page cache, and a close is not told.
const OPEN_FLAGS: u32 = 1 | 1 << 5;

/// What a file is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Attributes {
    pub(super) node: u64,
    pub(super) mode: u32,
    pub(super) size: u64,
}

impl<'a> Request<'a> {
    /// `None` for what is no request at all, and can have no answer.
    pub(super) fn parse(bytes: &'a [u8]) -> Option<Self> {
        let header = bytes.get(..HEADER_IN)?;
        let length = usize::try_from(u32_at(header, 0)?).ok()?;
        let body = bytes.get(HEADER_IN..length)?;
        let wish = match u32_at(header, 4)? {
            INIT => Some(Wish::Init),
            LOOKUP => body.split(|byte| *byte == 0).next().map(Wish::Lookup),
            GETATTR => Some(Wish::Attributes),
            OPEN => Some(Wish::Open),
            READ => read(body),
            RELEASE => u64_at(body, 0).map(|handle| Wish::Release { handle }),
            STATFS => Some(Wish::Statistics),
            FORGET | BATCH_FORGET => Some(Wish::Forget),
            _ => Some(Wish::Unknown),
        };
        let (unique, node) = (u64_at(header, 8)?, u64_at(header, 16)?);
        Some(Self { unique, node, wish: wish.unwrap_or(Wish::Unknown) })
    }
}

fn read<'a>(body: &[u8]) -> Option<Wish<'a>> {
    Some(Wish::Read { handle: u64_at(body, 0)?, offset: u64_at(body, 8)?, size: u32_at(body, 16)? })
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 4)?.try_into().ok().map(u32::from_ne_bytes)
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..at + 8)?.try_into().ok().map(u64::from_ne_bytes)
}

/// An answer in the making.
#[derive(Debug)]
pub(super) struct Reply<'a>(&'a mut Vec<u8>);

impl<'a> Reply<'a> {
    /// One without content yet, in place of what is in `buffer`.
    pub(super) fn to(unique: u64, buffer: &'a mut Vec<u8>) -> Self {
        buffer.clear();
        let mut reply = Self(buffer);
        reply.u32s(&[0, 0]);
        reply.u64s(&[unique]);
        reply
    }

    /// Makes it a refusal.
    pub(super) fn fail(self, errno: i32) {
        self.0.truncate(HEADER_OUT);
        if let Some(slot) = self.0.get_mut(4..8) {
            slot.copy_from_slice(&(-errno.abs()).to_ne_bytes());
        }
        self.end();
    }

    pub(super) fn init(mut self) {
        let background: u32 = u32::from_ne_bytes([16, 0, 12, 0]);
        let background = if cfg!(target_endian = "big") { background.rotate_left(16) } else { background };
        // No read-ahead, no further abilities; as many requests beside the readers' own as the kernel has by itself.
        self.u32s(&[VERSION.0, VERSION.1, 0, 0, background, MAX_WRITE, 1, 0]);
        self.zeros(32);
        self.end();
    }

    pub(super) fn entry(mut self, file: Attributes) {
        self.u64s(&[file.node, 0, VALID, 0, 0]);
        self.attributes(file);
        self.end();
    }

    pub(super) fn attr(mut self, file: Attributes) {
        self.u64s(&[0, 0]);
        self.attributes(file);
        self.end();
    }

    pub(super) fn opened(mut self, handle: u64) {
        self.u64s(&[handle]);
        self.u32s(&[OPEN_FLAGS, 0]);
        self.end();
    }

    pub(super) fn data(self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
        self.end();
    }

    /// Those of a file system that holds nothing.
    pub(super) fn statistics(mut self) {
        self.u64s(&[0; 5]);
        self.u32s(&[4096, 255, 4096, 0]);
        self.zeros(24);
        self.end();
    }

    fn attributes(&mut self, file: Attributes) {
        let links = if file.mode & 0o170_000 == 0o040_000 { 2 } else { 1 };
        self.u64s(&[file.node, file.size, 0, 0, 0, 0]);
        self.u32s(&[0, 0, 0, file.mode, links, 0, 0, 0, 4096, 0]);
    }

    fn u32s(&mut self, numbers: &[u32]) {
        numbers.iter().for_each(|n| self.0.extend_from_slice(&n.to_ne_bytes()));
    }

    fn u64s(&mut self, numbers: &[u64]) {
        numbers.iter().for_each(|n| self.0.extend_from_slice(&n.to_ne_bytes()));
    }

    fn zeros(&mut self, count: usize) {
        self.0.resize(self.0.len() + count, 0);
    }

    fn end(self) {
        let length = u32::try_from(self.0.len()).unwrap_or(u32::MAX);
        if let Some(slot) = self.0.get_mut(..4) {
            slot.copy_from_slice(&length.to_ne_bytes());
        }
    }
}

#[cfg(test)]
pub(super) fn request(opcode: u32, unique: u64, node: u64, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(HEADER_IN + body.len()).unwrap();
    let mut bytes = [length.to_ne_bytes(), opcode.to_ne_bytes()].concat();
    bytes.extend_from_slice(&unique.to_ne_bytes());
    bytes.extend_from_slice(&node.to_ne_bytes());
    bytes.resize(HEADER_IN, 0);
    bytes.extend_from_slice(body);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(bytes: &[u8]) -> Option<Wish<'_>> {
        Request::parse(bytes).map(|request| request.wish)
    }

    #[test]
    fn requests_are_read() {
        let read = [7_u64, 4096, 100, 0, 0].map(u64::to_ne_bytes).concat();
        let cases: [(u32, &[u8], Wish<'_>); 8] = [
            (INIT, &[0; 64], Wish::Init),
            (LOOKUP, b"meminfo\0", Wish::Lookup(b"meminfo")),
            (LOOKUP, b"", Wish::Lookup(b"")),
            (READ, &read, Wish::Read { handle: 7, offset: 4096, size: 100 }),
            (READ, &read[..12], Wish::Unknown),
            (RELEASE, &read, Wish::Release { handle: 7 }),
            (RELEASE, b"", Wish::Unknown),
            (16, &read, Wish::Unknown),
        ];
        for (opcode, body, wish) in cases {
            let bytes = request(opcode, 9, 3, body);
            assert_eq!(Request::parse(&bytes), Some(Request { unique: 9, node: 3, wish }), "{opcode}");
        }
    }

    #[test]
    fn what_is_cut_short_or_lies_about_its_length_is_none() {
        let whole = request(LOOKUP, 1, 1, b"stat\0");
        for length in 0..whole.len() {
            assert_eq!(parsed(&whole[..length]), None, "{length}");
        }
        for claimed in [0_u32, 39, 1000, u32::MAX] {
            let mut bytes = whole.clone();
            bytes[..4].copy_from_slice(&claimed.to_ne_bytes());
            assert_eq!(parsed(&bytes), None, "{claimed}");
        }
    }

    #[test]
    fn answers_have_the_kernels_sizes() {
        let mut buffer = b"old".to_vec();
        let file = Attributes { node: 2, mode: 0o100_444, size: 0 };
        let mut size = |make: &dyn Fn(Reply<'_>)| {
            make(Reply::to(5, &mut buffer));
            assert_eq!(u32_at(&buffer, 0), u32::try_from(buffer.len()).ok());
            assert_eq!(u64_at(&buffer, 8), Some(5));
            (buffer.len() - HEADER_OUT, u32_at(&buffer, 4).unwrap().cast_signed())
        };
        assert_eq!(size(&|r| r.init()), (64, 0));
        assert_eq!(size(&|r| r.entry(file)), (128, 0));
        assert_eq!(size(&|r| r.attr(file)), (104, 0));
        assert_eq!(size(&|r| r.opened(1)), (16, 0));
        assert_eq!(size(&|r| r.statistics()), (80, 0));
        assert_eq!(size(&|r| r.data(b"text")), (4, 0));
        assert_eq!(size(&|r| r.fail(libc::ENOENT)), (0, -libc::ENOENT));
    }
}
