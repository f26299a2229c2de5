//! Emptying a directory.

use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags};
use rustix::io::Errno;

use super::tree::open_dir;
use crate::sys::raw::retry;

/// Far above what an archive may hold in depth; each pass takes away a layer.
const PASSES: usize = 10_000;

/// The names in a directory.
fn names(dir: BorrowedFd<'_>) -> Result<Vec<(Vec<u8>, FileType)>, Errno> {
    let mut out = Vec::new();
    for entry in Dir::read_from(dir)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            out.push((name.to_vec(), entry.file_type()));
        }
    }
    Ok(out)
}

/// Whether nothing is in a directory.
pub(super) fn is_empty(dir: BorrowedFd<'_>) -> Result<bool, Errno> {
    Ok(names(dir)?.is_empty())
}

/// Removes everything in a directory, following no link. A tree may be deeper than any path, and than descriptors
/// go round: so the directories in a directory are moved up, and it is removed when it has none left.
pub(super) fn clear(root: BorrowedFd<'_>) -> Result<(), Errno> {
    let mut number = 0_u64;
    for _ in 0..PASSES {
        let found = names(root)?;
        if found.is_empty() {
            return Ok(());
        }
        for (name, kind) in found {
            if kind != FileType::Directory {
                match unlink(root, &name, AtFlags::empty()) {
                    // The file system does not tell types.
                    Err(Errno::ISDIR | Errno::PERM) => {}
                    result => {
                        result?;
                        continue;
                    }
                }
            }
            open_up(root, &name)?;
            let dir = open_dir(root, &name, OFlags::RDONLY)?;
            for (inner, kind) in names(dir.as_fd())? {
                if kind != FileType::Directory && unlink(&dir, &inner, AtFlags::empty()).is_ok() {
                    continue;
                }
                open_up(dir.as_fd(), &inner)?;
                move_up(&dir, &inner, root, &mut number)?;
            }
            unlink(root, &name, AtFlags::REMOVEDIR)?;
        }
    }
    Err(Errno::NOTEMPTY)
}

fn unlink(dir: impl AsFd, name: &[u8], flags: AtFlags) -> Result<(), Errno> {
    match retry(|| rustix::fs::unlinkat(&dir, name, flags)) {
        Err(Errno::NOENT) => Ok(()),
        result => result,
    }
}

/// Gives the owner all rights on a directory, where they may be lacking: root has them anyway.
fn open_up(parent: BorrowedFd<'_>, name: &[u8]) -> Result<(), Errno> {
    if rustix::process::geteuid().is_root() {
        return Ok(());
    }
    let dir = open_dir(parent, name, OFlags::PATH)?;
    super::make::chmod_path_fd(dir.as_fd(), Mode::RWXU)
}

fn move_up(from: impl AsFd, name: &[u8], root: BorrowedFd<'_>, number: &mut u64) -> Result<(), Errno> {
    loop {
        let new = format!(".removing-{number}");
        *number += 1;
        match rustix::fs::renameat(&from, name, root, &*new) {
            Err(Errno::EXIST | Errno::NOTEMPTY | Errno::NOTDIR | Errno::ISDIR | Errno::INTR) => {}
            result => return result,
        }
    }
}
