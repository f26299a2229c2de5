//! Archives made by hand, good and bad.

/// One header.
#[derive(Clone)]
pub(crate) struct Head<'a> {
    pub(crate) path: &'a [u8],
    pub(crate) kind: u8,
    pub(crate) link: &'a [u8],
    pub(crate) mode: u32,
    pub(crate) owner: (u32, u32),
    pub(crate) mtime: u64,
    /// Where it is not the length of the content.
    pub(crate) size: Option<u64>,
    pub(crate) device: (u32, u32),
}

impl Default for Head<'_> {
    fn default() -> Self {
        Self {
            path: b"",
            kind: b'0',
            link: b"",
            mode: 0o644,
            owner: (0, 0),
            mtime: 1_000_000_000,
            size: None,
            device: (0, 0),
        }
    }
}

impl Head<'_> {
    /// The block, in the ustar format.
    pub(crate) fn block(&self, content: usize) -> [u8; 512] {
        let mut b = [0; 512];
        let path = &self.path[..self.path.len().min(100)];
        b[..path.len()].copy_from_slice(path);
        let mut number = |at: usize, width: usize, n: u64| {
            b[at..at + width - 1].copy_from_slice(format!("{n:0digits$o}", digits = width - 1).as_bytes());
        };
        number(100, 8, self.mode.into());
        number(108, 8, self.owner.0.into());
        number(116, 8, self.owner.1.into());
        number(124, 12, self.size.unwrap_or(content as u64));
        number(136, 12, self.mtime);
        number(329, 8, self.device.0.into());
        number(337, 8, self.device.1.into());
        b[156] = self.kind;
        let link = &self.link[..self.link.len().min(100)];
        b[157..157 + link.len()].copy_from_slice(link);
        b[257..265].copy_from_slice(b"ustar\x0000");
        with_sum(b)
    }
}

/// Sets the checksum.
pub(crate) fn with_sum(mut block: [u8; 512]) -> [u8; 512] {
    block[148..156].fill(b' ');
    let sum: u32 = block.iter().map(|b| u32::from(*b)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    block
}

/// A record of an extended header.
pub(crate) fn record(key: &[u8], value: &[u8]) -> Vec<u8> {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while length != rest + length.to_string().len() {
        length = rest + length.to_string().len();
    }
    [length.to_string().as_bytes(), b" ", key, b"=", value, b"\n"].concat()
}

/// An archive. Its bytes end without an end mark until [`end`](Self::end).
#[derive(Clone, Default)]
pub(crate) struct Tar(Vec<u8>);

impl Tar {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    pub(crate) fn raw(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self
    }

    pub(crate) fn add(self, head: Head<'_>, content: &[u8]) -> Self {
        let block = head.block(content.len());
        let padding = content.len().next_multiple_of(512) - content.len();
        self.raw(&block).raw(content).raw(&vec![0; padding])
    }

    pub(crate) fn file(self, path: impl AsRef<[u8]>, content: &str) -> Self {
        self.add(Head { path: path.as_ref(), ..Head::default() }, content.as_bytes())
    }

    pub(crate) fn dir(self, path: impl AsRef<[u8]>) -> Self {
        self.add(Head { path: path.as_ref(), kind: b'5', mode: 0o755, ..Head::default() }, b"")
    }

    pub(crate) fn symlink(self, path: &str, to: &str) -> Self {
        let head =
            Head { path: path.as_bytes(), kind: b'2', link: to.as_bytes(), mode: 0o777, ..Head::default() };
        self.add(head, b"")
    }

    pub(crate) fn hard_link(self, path: &str, to: &str) -> Self {
        self.add(Head { path: path.as_bytes(), kind: b'1', link: to.as_bytes(), ..Head::default() }, b"")
    }

    /// An extended header for the next member.
    pub(crate) fn pax(self, records: &[(&str, &[u8])]) -> Self {
        let text: Vec<u8> = records.iter().flat_map(|(k, v)| record(k.as_bytes(), v)).collect();
        self.add(Head { path: b"pax", kind: b'x', ..Head::default() }, &text)
    }

    /// A file with a name of any length and any bytes.
    pub(crate) fn long(self, path: &[u8], content: &str) -> Self {
        self.pax(&[("path", path)]).file("short", content)
    }

    pub(crate) fn end(self) -> Self {
        self.raw(&[0; 1024])
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0
    }
}
