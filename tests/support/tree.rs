//! Two directory trees, compared in everything that an archive keeps.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{self, File, Metadata};
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

/// One file of a tree.
#[derive(Debug, PartialEq, Eq)]
struct Entry {
    kind: &'static str,
    mode: u32,
    owner: (u32, u32),
    /// Of regular files and links.
    size: u64,
    /// Seconds and nanoseconds.
    mtime: (i64, i64),
    device: u64,
    link: Option<PathBuf>,
    xattrs: BTreeMap<OsString, Vec<u8>>,
    /// The first path of the same file, where it has several.
    same_as: Option<PathBuf>,
}

/// Every difference between two trees, one line each; empty where they are the same.
///
/// Compared are, for the trees' own directories and for everything in them: type, mode with set-id bits, owner,
/// size, time of modification to the nanosecond, device numbers, targets of links, extended attributes with file
/// capabilities and ACLs, which names are hard links of one file, and every byte of content.
///
/// # Errors
/// What reading either tree gives.
pub fn tree_differences(left: &Path, right: &Path) -> std::io::Result<Vec<String>> {
    let (mut a, mut b) = (BTreeMap::new(), BTreeMap::new());
    walk(left, Path::new(""), &mut a, &mut BTreeMap::new())?;
    walk(right, Path::new(""), &mut b, &mut BTreeMap::new())?;
    let mut found = Vec::new();
    for (path, entry) in &a {
        let shown = Path::new(".").join(path);
        match b.get(path) {
            None => found.push(format!("{}: only in {}", shown.display(), left.display())),
            Some(other) if entry != other => {
                found.push(format!("{}: {entry:?} is not {other:?}", shown.display()));
            }
            Some(_) => {
                // Hard links of one file have one content.
                let read = entry.kind == "file" && entry.same_as.as_ref().is_none_or(|first| first == path);
                if read && !same_content(&left.join(path), &right.join(path))? {
                    found.push(format!("{}: the contents differ", shown.display()));
                }
            }
        }
    }
    let only = b.keys().filter(|path| !a.contains_key(*path));
    found.extend(only.map(|path| format!("./{}: only in {}", path.display(), right.display())));
    Ok(found)
}

/// How many files a tree has, its own directory counted.
///
/// # Errors
/// What reading it gives.
pub fn tree_size(dir: &Path) -> std::io::Result<usize> {
    let mut found = BTreeMap::new();
    walk(dir, Path::new(""), &mut found, &mut BTreeMap::new())?;
    Ok(found.len())
}

fn walk(
    root: &Path,
    path: &Path,
    found: &mut BTreeMap<PathBuf, Entry>,
    links: &mut BTreeMap<(u64, u64), PathBuf>,
) -> std::io::Result<()> {
    let full = if path.as_os_str().is_empty() { root.to_path_buf() } else { root.join(path) };
    let meta = fs::symlink_metadata(&full)?;
    found.insert(path.to_path_buf(), entry(&full, path, &meta, links)?);
    if meta.is_dir() {
        let mut names: Vec<OsString> =
            fs::read_dir(&full)?.map(|e| e.map(|e| e.file_name())).collect::<std::io::Result<_>>()?;
        names.sort();
        for name in names {
            walk(root, &path.join(name), found, links)?;
        }
    }
    Ok(())
}

fn entry(
    full: &Path,
    path: &Path,
    meta: &Metadata,
    links: &mut BTreeMap<(u64, u64), PathBuf>,
) -> std::io::Result<Entry> {
    let kind = meta.file_type();
    let kind = match () {
        () if kind.is_file() => "file",
        () if kind.is_dir() => "directory",
        () if kind.is_symlink() => "link",
        () if kind.is_char_device() => "character device",
        () if kind.is_block_device() => "block device",
        () if kind.is_fifo() => "pipe",
        () => "socket",
    };
    // Names are visited in order, so both trees have the same first one.
    let same_as = (meta.nlink() > 1 && kind != "directory")
        .then(|| links.entry((meta.dev(), meta.ino())).or_insert_with(|| path.to_path_buf()).clone());
    Ok(Entry {
        kind,
        mode: meta.mode(),
        owner: (meta.uid(), meta.gid()),
        size: if matches!(kind, "file" | "link") { meta.size() } else { 0 },
        mtime: (meta.mtime(), meta.mtime_nsec()),
        device: meta.rdev(),
        link: if kind == "link" { Some(fs::read_link(full)?) } else { None },
        xattrs: xattrs(full)?,
        same_as,
    })
}

/// The extended attributes of a file, following no link; none where the file system has none.
///
/// # Errors
/// What reading them gives.
pub fn xattrs(path: &Path) -> std::io::Result<BTreeMap<OsString, Vec<u8>>> {
    let mut names = vec![0; 65_536];
    let count = match rustix::fs::llistxattr(path, &mut names) {
        Err(rustix::io::Errno::OPNOTSUPP) => 0,
        result => result?,
    };
    let mut found = BTreeMap::new();
    for name in names[..count].split(|b| *b == 0).filter(|name| !name.is_empty()) {
        let mut value = vec![0; 65_536];
        let count = rustix::fs::lgetxattr(path, name, &mut value)?;
        value.truncate(count);
        found.insert(std::ffi::OsStr::from_bytes(name).to_owned(), value);
    }
    Ok(found)
}

fn same_content(left: &Path, right: &Path) -> std::io::Result<bool> {
    let (mut left, mut right) = (File::open(left)?, File::open(right)?);
    let (mut a, mut b) = (vec![0; 65_536], vec![0; 65_536]);
    loop {
        let n = left.read(&mut a)?;
        if n == 0 {
            return Ok(right.read(&mut b)? == 0);
        }
        if right.read_exact(&mut b[..n]).is_err() || a[..n] != b[..n] {
            return Ok(false);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_of_difference_is_seen() {
        let dir = tempfile::tempdir().unwrap();
        let (a, b) = (dir.path().join("a"), dir.path().join("b"));
        let change = |at: &Path, path: &str, text: &str| fs::write(at.join(path), text).unwrap();
        for at in [&a, &b] {
            fs::create_dir_all(at.join("sub")).unwrap();
            change(at, "sub/file", "text");
            fs::hard_link(at.join("sub/file"), at.join("twin")).unwrap();
            change(at, "other", "text");
            std::os::unix::fs::symlink("sub", at.join("link")).unwrap();
        }
        let same_times = || {
            let earlier = std::time::SystemTime::UNIX_EPOCH;
            let touch = |path: PathBuf| File::open(path).unwrap().set_modified(earlier).unwrap();
            for at in [&a, &b] {
                ["sub/file", "other", "sub", ""].iter().for_each(|path| touch(at.join(path)));
                let times = rustix::fs::Timestamps {
                    last_access: rustix::fs::Timespec { tv_sec: 0, tv_nsec: 0 },
                    last_modification: rustix::fs::Timespec { tv_sec: 0, tv_nsec: 0 },
                };
                let flags = rustix::fs::AtFlags::SYMLINK_NOFOLLOW;
                rustix::fs::utimensat(rustix::fs::CWD, at.join("link"), &times, flags).unwrap();
            }
        };
        same_times();
        let differences = || tree_differences(&a, &b).unwrap();
        assert_eq!(differences(), Vec::<String>::new());
        assert_eq!(tree_size(&a).unwrap(), 6);

        change(&b, "other", "test");
        assert!(differences().iter().any(|d| d.contains("./other") && d.contains("mtime")));
        same_times();
        assert_eq!(differences(), ["./other: the contents differ"]);
        change(&b, "other", "text");
        change(&b, "more", "");
        same_times();
        assert!(differences().iter().any(|d| d.starts_with("./more: only in")));
        fs::remove_file(b.join("more")).unwrap();
        // The same content under both names, but not one file.
        fs::remove_file(b.join("twin")).unwrap();
        change(&b, "twin", "text");
        same_times();
        assert!(differences().iter().any(|d| d.contains("./twin")));
        assert!(tree_differences(&a, &dir.path().join("c")).is_err());
    }
}
