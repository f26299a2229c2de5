//! A cpio archive in the `newc` format, which the kernel takes as its first root (its
//! `Documentation/driver-api/early-userspace/buffer-format.rst`).

/// An archive under way.
#[derive(Debug, Default)]
pub struct Archive {
    bytes: Vec<u8>,
    entries: u32,
}

const DIR: u32 = 0o040_755;
const PROGRAM: u32 = 0o100_755;

impl Archive {
    pub fn dir(&mut self, name: &str) {
        self.entry(name, DIR, &[]);
    }

    /// A regular file that can be executed.
    pub fn file(&mut self, name: &str, content: &[u8]) {
        self.entry(name, PROGRAM, content);
    }

    /// The whole archive.
    pub fn finish(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, &[]);
        self.bytes
    }

    fn entry(&mut self, name: &str, mode: u32, content: &[u8]) {
        self.entries += 1;
        let size = |len: usize| u32::try_from(len).unwrap_or(u32::MAX);
        // inode, mode, owner, group, links, time, size, four device numbers, length of the name, no check sum
        let fields =
            [self.entries, mode, 0, 0, 1, 0, size(content.len()), 0, 0, 0, 0, size(name.len() + 1), 0];
        self.bytes.extend_from_slice(b"070701");
        for field in fields {
            self.bytes.extend_from_slice(format!("{field:08x}").as_bytes());
        }
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(content);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_aligned_and_the_end_is_marked() {
        let mut archive = Archive::default();
        archive.dir("d");
        archive.file("d/f", b"hello");
        let bytes = archive.finish();
        assert_eq!(bytes.len() % 4, 0);
        // A header of 110 bytes, a name with its NUL, padding; the same again with five bytes of content.
        assert_eq!(&bytes[..14], b"07070100000001");
        assert_eq!(&bytes[112..118], b"070701");
        assert_eq!(&bytes[112 + 54..112 + 62], b"00000005");
        assert_eq!(&bytes[112 + 110..112 + 114], b"d/f\0");
        assert_eq!(&bytes[228..236], b"hello\0\0\0");
        assert_eq!(&bytes[236 + 110..236 + 120], b"TRAILER!!!");
    }
}
