//! Directories in the cache that are made once, whole, by one process, and kept by their version.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use crate::fixtures::{at, lock, remove};
use crate::{Result, paths};

/// Everything of the machine in the cache.
pub fn dir() -> PathBuf {
    paths::cache().join("vm")
}

/// The directory `NAME-VERSION`, made now unless it stands. Without a version, or where making it fails (no network),
/// the newest of that name that stands.
pub fn made(name: &str, version: Result<String>, make: impl FnOnce(&Path) -> Result) -> Result<PathBuf> {
    made_in(&dir(), name, version, make)
}

fn made_in(
    dir: &Path,
    name: &str,
    version: Result<String>,
    make: impl FnOnce(&Path) -> Result,
) -> Result<PathBuf> {
    let _lock = lock(dir)?;
    let prefix = format!("{name}-");
    let made = version.and_then(|version| {
        let place = dir.join(format!("{prefix}{}", version.replace(['/', ':'], "_")));
        if !place.is_dir() {
            // Its name is of no use to anybody before it is whole.
            let part = dir.join(format!(".{name}.part"));
            remove(&part)?;
            at(&part, fs::create_dir_all(&part))?;
            let made = make(&part).and_then(|()| at(&place, fs::rename(&part, &place)));
            if made.is_err() {
                remove(&part)?;
            }
            made?;
        }
        Ok(place)
    });
    made.or_else(|why| {
        let older = newest(dir, &prefix).ok_or_else(|| why.clone())?;
        eprintln!("vm: {why}; taking {}", older.display());
        Ok(older)
    })
}

fn newest(dir: &Path, prefix: &str) -> Option<PathBuf> {
    let age = |path: &Path| fs::metadata(path).and_then(|m| m.modified()).unwrap_or(SystemTime::UNIX_EPOCH);
    let entries = fs::read_dir(dir).ok()?.flatten();
    let ours = entries.filter(|e| e.file_name().to_string_lossy().starts_with(prefix)).map(|e| e.path());
    ours.max_by_key(|path| age(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stands_is_taken_and_what_fails_leaves_the_older_one() {
        let dir = std::env::temp_dir().join(format!("stockade-xtask-cache-{}", std::process::id()));
        let none = made_in(&dir, "x", Err("no list".to_owned()), |_| Ok(()));
        assert_eq!(none, Err("no list".to_owned()));
        let first = made_in(&dir, "x", Ok("1:2".to_owned()), |d| at(d, fs::write(d.join("f"), "1"))).unwrap();
        assert_eq!((first.clone(), fs::read(first.join("f")).unwrap()), (dir.join("x-1_2"), b"1".to_vec()));
        let again = made_in(&dir, "x", Ok("1:2".to_owned()), |_| Err("made twice".to_owned()));
        assert_eq!(again.as_ref(), Ok(&first));
        let failed = made_in(&dir, "x", Ok("3".to_owned()), |_| Err("no network".to_owned()));
        assert_eq!(failed.as_ref(), Ok(&first));
        assert!(!dir.join(".x.part").exists());
        assert!(made_in(&dir, "y", Ok("3".to_owned()), |_| Err("no network".to_owned())).is_err());
        fs::remove_dir_all(&dir).unwrap();
    }
}
