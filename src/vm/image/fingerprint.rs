//! Whether a source is the one that was packed.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// Of whole trees: what they are, and how much.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Contents {
    /// Another one for a tree that differs in a name, an owner, a mode, a size or a time.
    pub(super) fingerprint: u128,
    pub(super) entries: u64,
    /// In whole blocks.
    bytes: u64,
}

const BLOCK: u64 = 4096;

impl Contents {
    /// Bytes of an image that holds it and as much more.
    pub(super) fn image_size(&self, free: u64) -> u64 {
        // Inodes of 256 bytes, two for each entry; directories; the journal; and what the file system keeps of all.
        let inodes = (self.entries * 2 + 4096) * 256;
        let content = self.bytes + self.entries * BLOCK;
        let whole = content + inodes + free + (32 << 20);
        (whole + whole / 50).next_multiple_of(1 << 20)
    }
}

/// Looks at all that is in these directories, or at these files.
pub(super) fn look_at(trees: &[PathBuf]) -> Result<Contents> {
    let mut seen = Seen { one: DefaultHasher::new(), two: DefaultHasher::new(), entries: 0, bytes: 0 };
    // Another start, so that the two have nothing in common.
    0x5bd1_e995_u32.hash(&mut seen.two);
    for tree in trees {
        seen.mark(b"tree");
        seen.tree(tree)?;
    }
    let fingerprint = u128::from(seen.one.finish()) << 64 | u128::from(seen.two.finish());
    Ok(Contents { fingerprint, entries: seen.entries, bytes: seen.bytes })
}

struct Seen {
    one: DefaultHasher,
    two: DefaultHasher,
    entries: u64,
    bytes: u64,
}

impl Seen {
    fn mark(&mut self, bytes: &[u8]) {
        bytes.hash(&mut self.one);
        bytes.hash(&mut self.two);
    }

    fn tree(&mut self, tree: &Path) -> Result<()> {
        const STEP: &str = "look at a root file system";
        // Names relative to the tree: it is the same one at another place.
        let mut left = vec![PathBuf::new()];
        while let Some(relative) = left.pop() {
            let path = if relative.as_os_str().is_empty() { tree.to_owned() } else { tree.join(&relative) };
            let failed = |e| Error::io(STEP, e).path(&path);
            let meta = std::fs::symlink_metadata(&path).map_err(failed)?;
            self.mark(relative.as_os_str().as_bytes());
            for number in [
                u64::from(meta.mode()),
                u64::from(meta.uid()),
                u64::from(meta.gid()),
                meta.rdev(),
                meta.mtime().cast_unsigned(),
                meta.mtime_nsec().cast_unsigned(),
                meta.ctime().cast_unsigned(),
                meta.ctime_nsec().cast_unsigned(),
                if meta.is_dir() { 0 } else { meta.size() },
            ] {
                number.hash(&mut self.one);
                number.hash(&mut self.two);
            }
            self.entries += 1;
            if meta.is_dir() {
                let mut names = Vec::new();
                for entry in std::fs::read_dir(&path).map_err(failed)? {
                    names.push(relative.join(entry.map_err(failed)?.file_name()));
                }
                names.sort();
                left.extend(names);
            } else if meta.is_file() {
                self.bytes += meta.size().next_multiple_of(BLOCK);
            }
        }
        Ok(())
    }
}
