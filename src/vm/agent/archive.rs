//! A cpio archive in the `newc` format, which the kernel takes as its first root (its
//! `Documentation/driver-api/early-userspace/buffer-format.rst`).

/// An archive under way.
#[derive(Debug, Default)]
pub(super) struct Archive {
    bytes: Vec<u8>,
    entries: usize,
}

const DIRECTORY: usize = 0o040_755;
const PROGRAM: usize = 0o100_755;
const SECRET: usize = 0o100_600;
const CHARACTER_DEVICE: usize = 0o020_600;

impl Archive {
    pub(super) fn directory(&mut self, name: &str) {
        self.entry(name, DIRECTORY, (0, 0), &[]);
    }

    pub(super) fn program(&mut self, name: &str, content: &[u8]) {
        self.entry(name, PROGRAM, (0, 0), content);
    }

    /// A file that root alone can read.
    pub(super) fn secret(&mut self, name: &str, content: &[u8]) {
        self.entry(name, SECRET, (0, 0), content);
    }

    pub(super) fn device(&mut self, name: &str, major: usize, minor: usize) {
        self.entry(name, CHARACTER_DEVICE, (major, minor), &[]);
    }

    /// The whole archive.
    pub(super) fn finish(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, (0, 0), &[]);
        self.bytes
    }

    fn entry(&mut self, name: &str, mode: usize, (major, minor): (usize, usize), content: &[u8]) {
        self.entries += 1;
        // inode, mode, owner, group, links, time, size, device of the file, device that it is, name, no check sum
        let fields = [self.entries, mode, 0, 0, 1, 0, content.len(), 0, 0, major, minor, name.len() + 1, 0];
        self.bytes.extend_from_slice(b"070701");
        for field in fields {
            // What is longer than 32 bits fits into no guest's memory below 4 GiB, and is refused there.
            self.bytes.extend_from_slice(format!("{:08x}", field as u32).as_bytes());
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
    fn entries_are_aligned_and_end_with_the_trailer() {
        let mut archive = Archive::default();
        archive.directory("dev");
        archive.device("dev/console", 5, 1);
        archive.program("init", b"12345");
        archive.secret("s", b"");
        let bytes = archive.finish();
        assert!(bytes.len().is_multiple_of(4));
        let heads: Vec<usize> =
            (0..bytes.len()).step_by(4).filter(|at| bytes[*at..].starts_with(b"070701")).collect();
        assert_eq!(heads.len(), 5);
        // Of the device: mode, and the numbers that it is.
        let device = std::str::from_utf8(&bytes[heads[1]..heads[1] + 110]).unwrap();
        assert_eq!((&device[14..22], &device[78..94]), ("00002180", "0000000500000001"));
    }
}
