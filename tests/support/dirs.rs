//! Directories that a test has for itself.

use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::LeakCheck;

/// A state and a run directory, removed on drop.
#[derive(Debug)]
pub struct PrivateDirs {
    state: TempDir,
    run: TempDir,
}

impl PrivateDirs {
    /// The durable directory, on the file system of temporary files.
    pub fn state(&self) -> &Path {
        self.state.path()
    }

    /// The volatile directory, on a tmpfs where one is writable.
    pub fn run(&self) -> &Path {
        self.run.path()
    }

    /// A check that both hold nothing more than now.
    pub fn leak_check(&self) -> LeakCheck {
        LeakCheck::of([self.state(), self.run()])
    }
}

/// Makes a state and a run directory for one test.
///
/// # Panics
/// When no temporary directory can be made.
pub fn private_dirs() -> PrivateDirs {
    PrivateDirs { state: named(std::env::temp_dir()), run: in_memory() }
}

/// The same with both in memory where that can be: for a test that does much, and for which nothing hangs on the disk.
///
/// # Panics
/// As [`private_dirs`].
pub fn private_dirs_in_memory() -> PrivateDirs {
    PrivateDirs { state: in_memory(), run: in_memory() }
}

fn in_memory() -> TempDir {
    let found = ["/dev/shm", "/run"].into_iter().find_map(|dir| prefixed().tempdir_in(dir).ok());
    found.unwrap_or_else(|| named(std::env::temp_dir()))
}

fn named(dir: PathBuf) -> TempDir {
    prefixed().tempdir_in(dir).expect("a temporary directory for the test's files")
}

fn prefixed() -> tempfile::Builder<'static, 'static> {
    let mut builder = tempfile::Builder::new();
    builder.prefix("stockade-test-");
    builder
}
