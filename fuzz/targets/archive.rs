//! Unpacking whatever bytes into a directory, with small limits.
//!
//! Looked at afterwards: nothing beside the target was made or changed; a failure leaves nothing; a success is within
//! the limits and is what is told of it. A plain archive is tried a second time with the checksums of its headers set
//! right, since no mutation would hit one.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use stockade::ErrorKind;
use stockade::idmap::IdMap;
use stockade::rootfs::{OnFailure, Unpack, UnpackDevices, UnpackIds, UnpackLimits};

const MEMBERS: u64 = 100;
const BYTES: u64 = 256 * 1024;
const DEPTH: u32 = 16;
const BLOCK: usize = 512;

/// Unpacks the bytes as they are and with right checksums.
pub(crate) fn run(data: &[u8]) {
    unpack(data);
    let mut right = data.to_vec();
    if set_sums(&mut right) {
        unpack(&right);
    }
}

/// A directory with a target in it, which does not exist, beside a witness that must stay as it is.
struct Place(PathBuf);

impl Place {
    fn new() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let memory = Path::new("/dev/shm");
        let within = if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() };
        let name = format!("stockade-fuzz-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let place = Self(within.join(name));
        // Set-user-id files of an archive are not for others.
        let mut builder = fs::DirBuilder::new();
        std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
        builder.create(&place.0).unwrap();
        fs::create_dir(place.0.join("outside")).unwrap();
        fs::write(place.0.join("outside/file"), "untouched").unwrap();
        place
    }

    /// What lies outside of the target, with its times, owners and modes.
    fn outside(&self) -> Vec<(String, u32, u32, u64, i64, i64)> {
        let mut found = Vec::new();
        for dir in [self.0.clone(), self.0.join("outside")] {
            for entry in fs::read_dir(dir).unwrap() {
                let entry = entry.unwrap();
                let name = entry.file_name().to_string_lossy().into_owned();
                if name == "target" {
                    continue;
                }
                let meta = entry.metadata().unwrap();
                found.push((
                    name,
                    meta.mode(),
                    meta.uid(),
                    meta.nlink(),
                    meta.mtime_nsec(),
                    meta.ctime_nsec(),
                ));
            }
        }
        found.sort();
        found
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn ids(data: &[u8]) -> UnpackIds {
    if !is_root() {
        return UnpackIds::Caller;
    }
    match data.len() % 3 {
        0 => UnpackIds::Caller,
        1 => UnpackIds::AsIs,
        _ => IdMap::range(100_000, 65_536).map_or(UnpackIds::Caller, UnpackIds::Shifted),
    }
}

fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|meta| meta.uid() == 0)
}

fn unpack(data: &[u8]) {
    let place = Place::new();
    let target = place.0.join("target");
    let there_before = data.len() % 2 == 1;
    if there_before {
        fs::create_dir(&target).unwrap();
    }
    let before = place.outside();
    let mut limits = UnpackLimits::default();
    (limits.members, limits.bytes, limits.depth, limits.ratio) = (MEMBERS, BYTES, DEPTH, 20);
    let ids = ids(data);
    let caller = ids == UnpackIds::Caller;
    let unpack = Unpack::new().ids(ids).devices(UnpackDevices::List).limits(limits);
    let result = unpack.on_failure(OnFailure::Remove).run(data, &target);
    assert_eq!(place.outside(), before, "something outside of the target was touched");
    match result {
        Err(e) => {
            assert_eq!(e.op(), Some("unpack"), "{e}");
            assert_ne!(e.kind(), ErrorKind::AlreadyExists, "{e}");
            assert_eq!(target.exists(), there_before, "a failure leaves the target as it was: {e}");
            if there_before {
                assert_eq!(fs::read_dir(&target).unwrap().count(), 0, "a failure leaves nothing: {e}");
            }
        }
        Ok(done) => {
            let mut tree = Tree { caller, ..Tree::default() };
            tree.walk(&target, 0);
            assert!(done.members <= MEMBERS && done.written <= BYTES, "{done:?}");
            assert!(tree.entries <= MEMBERS, "{tree:?}, {done:?}");
            assert_eq!(tree.directories, done.directories, "{tree:?}, {done:?}");
            assert!(tree.files <= done.files + done.hard_links, "{tree:?}, {done:?}");
            assert!(tree.symlinks <= done.symlinks + done.hard_links, "{tree:?}, {done:?}");
            assert!(tree.fifos <= done.fifos + done.hard_links, "{tree:?}, {done:?}");
            assert!(done.archive <= data.len() as u64);
        }
    }
}

/// What is in the target.
#[derive(Debug, Default)]
struct Tree {
    caller: bool,
    entries: u64,
    directories: u64,
    files: u64,
    symlinks: u64,
    fifos: u64,
}

impl Tree {
    fn walk(&mut self, dir: &Path, depth: u32) {
        assert!(depth <= DEPTH, "too deep: {}", dir.display());
        for entry in fs::read_dir(dir).unwrap() {
            let entry = entry.unwrap();
            let meta = entry.metadata().unwrap();
            let kind = meta.file_type();
            self.entries += 1;
            assert!(!self.caller || meta.mode() & 0o6000 == 0 || kind.is_dir(), "set-id bits: {entry:?}");
            assert!(!kind.is_char_device() && !kind.is_block_device(), "a device: {entry:?}");
            if kind.is_dir() {
                self.directories += 1;
                self.walk(&entry.path(), depth + 1);
            } else if kind.is_symlink() {
                self.symlinks += 1;
            } else if kind.is_fifo() {
                self.fifos += 1;
            } else {
                self.files += 1;
            }
        }
    }
}

/// Sets the checksum of each header of a plain archive; says whether one was changed.
fn set_sums(tar: &mut [u8]) -> bool {
    let mut changed = false;
    let mut at = 0;
    while let Some(block) = tar.get_mut(at..at + BLOCK) {
        if block.iter().all(|b| *b == 0) {
            break;
        }
        let old: [u8; 8] = block[148..156].try_into().unwrap();
        block[148..156].fill(b' ');
        let sum: u32 = block.iter().map(|b| u32::from(*b)).sum();
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        changed |= block[148..156] != old;
        let digits = block[124..136].iter().take_while(|b| b.is_ascii_digit());
        let size = digits.fold(0_usize, |n, b| n.saturating_mul(8).saturating_add(usize::from(b & 7)));
        at = at.saturating_add(BLOCK).saturating_add(size.min(tar.len()).next_multiple_of(BLOCK));
    }
    changed
}
