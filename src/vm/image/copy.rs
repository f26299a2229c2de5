//! Copies of images: shared blocks where the file system can, else the parts that hold something.

use std::fs::{File, OpenOptions};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::SeekFrom;
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::error::{Error, ErrorKind, Result};
use crate::sys::raw::retry;

const STEP: &str = "copy a disk image";
/// Bytes of one step.
const STEP_BYTES: usize = 16 << 20;

/// How an image was copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum CopyMethod {
    /// Both share their blocks until one of them is written to (`FICLONE`: Btrfs, XFS, bcachefs, overlays of them). Takes
    /// no time and no space.
    Shared,
    /// What holds something was copied; holes stay holes.
    Sparse,
}

/// Copies a disk image to a new file, for one more machine that writes to it.
///
/// ```no_run
/// use stockade::Rootfs;
/// use stockade::vm::{Disk, PackImage, copy_image};
///
/// let image = PackImage::new(Rootfs::dir("/srv/debian")).run("/var/cache/images")?;
/// copy_image(&image, "/var/lib/guests/web.ext4")?;
/// let disk = Disk::new("/var/lib/guests/web.ext4");
/// # Ok::<(), stockade::Error>(())
/// ```
///
/// The copy is its owner's alone (mode 0600), is written to disk before this returns, and is removed again where that fails.
/// Nothing may write to the image meanwhile.
///
/// # Errors
/// [`AlreadyExists`](ErrorKind::AlreadyExists) where there is something at `to`;
/// [`InvalidConfig`](ErrorKind::InvalidConfig) for what is no regular file;
/// [`Exhausted`](ErrorKind::Exhausted) where the disk is full.
pub fn copy_image(from: impl AsRef<Path>, to: impl AsRef<Path>) -> Result<CopyMethod> {
    copy(from.as_ref(), to.as_ref(), true).map_err(|e| e.with_op("copy_image"))
}

/// Goes with its end, unless it is kept.
struct New(Option<PathBuf>);

impl Drop for New {
    fn drop(&mut self) {
        if let Some(path) = &self.0 {
            // The failure that is told is the one before.
            let _ = std::fs::remove_file(path);
        }
    }
}

fn copy(from: &Path, to: &Path, may_share: bool) -> Result<CopyMethod> {
    let failed = |path: &Path, e| Error::io(STEP, e).path(path);
    // A fifo without a writer must not hang the caller.
    let source = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(from);
    let source = source.map_err(|e| failed(from, e))?;
    let meta = source.metadata().map_err(|e| failed(from, e))?;
    if !meta.is_file() {
        return Err(Error::new(ErrorKind::InvalidConfig, STEP).path(from).detail("is no regular file"));
    }
    let copy = OpenOptions::new().write(true).create_new(true).mode(0o600).open(to);
    let copy = copy.map_err(|e| failed(to, e))?;
    let mut new = New(Some(to.to_owned()));
    let method = if may_share && retry(|| rustix::fs::ioctl_ficlone(&copy, &source)).is_ok() {
        CopyMethod::Shared
    } else {
        sparse(&source, &copy, meta.len()).map_err(|e| Error::sys(STEP, e).path(to))?;
        CopyMethod::Sparse
    };
    copy.sync_all().map_err(|e| failed(to, e))?;
    let dir = to.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let synced = File::open(dir).and_then(|dir| dir.sync_all());
    synced.map_err(|e| failed(dir, e))?;
    new.0 = None;
    Ok(method)
}

fn sparse(from: &File, to: &File, len: u64) -> Result<(), Errno> {
    rustix::fs::ftruncate(to, len)?;
    let mut at = 0;
    while at < len {
        let begin = match retry(|| rustix::fs::seek(from, SeekFrom::Data(at))) {
            // Nothing but a hole is left.
            Err(Errno::NXIO) => break,
            // A file system that knows no holes.
            Err(Errno::INVAL) if at == 0 => 0,
            found => found?,
        };
        let end = match retry(|| rustix::fs::seek(from, SeekFrom::Hole(begin))) {
            Err(Errno::INVAL | Errno::NXIO) => len,
            found => found?.min(len),
        };
        range(from, to, begin, end)?;
        at = end.max(begin + 1);
    }
    Ok(())
}

/// Copies a range, in the kernel where it can.
fn range(from: &File, to: &File, begin: u64, end: u64) -> Result<(), Errno> {
    let mut at = begin;
    while at < end {
        let want = usize::try_from(end - at).unwrap_or(STEP_BYTES).min(STEP_BYTES);
        let (mut source, mut target) = (at, at);
        let done = retry(|| {
            rustix::fs::copy_file_range(from.as_fd(), Some(&mut source), to.as_fd(), Some(&mut target), want)
        });
        at += match done {
            // Cut short meanwhile.
            Ok(0) => return Err(Errno::IO),
            Ok(n) => n as u64,
            Err(Errno::XDEV | Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => by_hand(from, to, at, want)?,
            Err(e) => return Err(e),
        };
    }
    Ok(())
}

fn by_hand(from: &File, to: &File, at: u64, want: usize) -> Result<u64, Errno> {
    let mut part = vec![0; want.min(1 << 20)];
    let os = |e: std::io::Error| Errno::from_io_error(&e).unwrap_or(Errno::IO);
    let n = from.read_at(&mut part, at).map_err(os)?;
    if n == 0 {
        return Err(Errno::IO);
    }
    to.write_all_at(&part[..n], at).map_err(os)?;
    Ok(n as u64)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    /// 64 MiB with three pieces of data, one at the end.
    fn image(path: &Path) -> Vec<(u64, Vec<u8>)> {
        let file = File::create(path).unwrap();
        file.set_len(64 << 20).unwrap();
        let pieces = vec![(0, vec![1; 4096]), (20 << 20, vec![2; 3 << 20]), ((64 << 20) - 512, vec![3; 512])];
        for (at, bytes) in &pieces {
            file.write_all_at(bytes, *at).unwrap();
        }
        pieces
    }

    #[test]
    fn a_copy_has_the_same_content_and_is_its_own() {
        let dir = tempfile::tempdir().unwrap();
        let from = dir.path().join("from");
        let pieces = image(&from);
        let before = std::fs::metadata(&from).unwrap();
        for (name, may_share) in [("shared", true), ("sparse", false)] {
            let to = dir.path().join(name);
            let method = copy(&from, &to, may_share).unwrap();
            assert!(may_share || method == CopyMethod::Sparse);
            assert!(std::fs::read(&to).unwrap() == std::fs::read(&from).unwrap(), "{name}");
            let meta = std::fs::metadata(&to).unwrap();
            assert_eq!(meta.mode() & 0o777, 0o600);
            assert!(meta.blocks() * 512 <= before.blocks() * 512 + (1 << 20), "{name}: holes were filled");
            // What is written to it is not written to the image.
            OpenOptions::new().write(true).open(&to).unwrap().write_all_at(&[9; 4096], 20 << 20).unwrap();
        }
        let file = File::open(&from).unwrap();
        for (at, bytes) in pieces {
            let mut is = vec![0; bytes.len()];
            file.read_exact_at(&mut is, at).unwrap();
            assert!(is == bytes);
        }
        assert_eq!(std::fs::metadata(&from).unwrap().modified().unwrap(), before.modified().unwrap());
    }

    #[test]
    fn a_copy_between_file_systems_is_whole() {
        let (here, there) = (tempfile::tempdir().unwrap(), tempfile::tempdir_in("/dev/shm"));
        let Ok(there) = there else { return support::skip("copies: needs /dev/shm") };
        let from = here.path().join("from");
        image(&from);
        let to = there.path().join("to");
        assert_eq!(copy_image(&from, &to).unwrap(), CopyMethod::Sparse);
        assert!(std::fs::read(&to).unwrap() == std::fs::read(&from).unwrap());
    }

    #[test]
    fn what_cannot_be_copied_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        assert_eq!(copy_image(at("none"), at("to")).unwrap_err().kind(), ErrorKind::NotFound);
        assert_eq!(copy_image(dir.path(), at("to")).unwrap_err().kind(), ErrorKind::InvalidConfig);
        image(&at("from"));
        std::fs::write(at("there"), "mine").unwrap();
        let e = copy_image(at("from"), at("there")).unwrap_err();
        assert_eq!((e.kind(), e.what()), (ErrorKind::AlreadyExists, at("there").to_str()), "{e}");
        assert_eq!(std::fs::read(at("there")).unwrap(), b"mine");
        assert_eq!(copy_image(at("from"), at("none/to")).unwrap_err().kind(), ErrorKind::NotFound);
        // A full disk: what can be is written, and goes again.
        assert!(!at("to").exists());
        let full = File::options().write(true).open("/dev/full").unwrap();
        let source = File::open(at("from")).unwrap();
        assert!(range(&source, &full, 0, 4096).is_err());
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2);
    }
}
