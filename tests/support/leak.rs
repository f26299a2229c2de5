//! Files left behind.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// What stood in some directories, to see later what was left there.
#[derive(Debug)]
pub struct LeakCheck {
    dirs: Vec<PathBuf>,
    before: BTreeSet<PathBuf>,
}

impl LeakCheck {
    /// Notes what stands in the directories now, at any depth.
    pub fn of<P: Into<PathBuf>>(dirs: impl IntoIterator<Item = P>) -> Self {
        let dirs: Vec<PathBuf> = dirs.into_iter().map(Into::into).collect();
        let before = listing(&dirs);
        Self { dirs, before }
    }

    /// What stands there now and did not before.
    pub fn left(&self) -> Vec<PathBuf> {
        listing(&self.dirs).difference(&self.before).cloned().collect()
    }

    /// Checks that nothing was left.
    ///
    /// # Panics
    /// With the paths of what was left.
    #[track_caller]
    pub fn assert_clean(&self) {
        let left = self.left();
        assert!(left.is_empty(), "files left behind: {left:#?}");
    }
}

fn listing(dirs: &[PathBuf]) -> BTreeSet<PathBuf> {
    let mut found = BTreeSet::new();
    for dir in dirs {
        walk(dir, &mut found);
    }
    found
}

fn walk(dir: &Path, found: &mut BTreeSet<PathBuf>) {
    let Ok(entries) = std::fs::read_dir(dir) else { return };
    for entry in entries.flatten() {
        if entry.file_type().is_ok_and(|t| t.is_dir()) {
            walk(&entry.path(), found);
        }
        found.insert(entry.path());
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn only_what_is_new_is_a_leak() {
        let _serial = crate::serial();
        let dirs = crate::private_dirs();
        std::fs::write(dirs.state().join("old"), "").unwrap();
        let check = dirs.leak_check();
        check.assert_clean();
        let left = dirs.run().join("a/b");
        std::fs::create_dir_all(&left).unwrap();
        assert_eq!(check.left(), [dirs.run().join("a"), left]);
    }
}
