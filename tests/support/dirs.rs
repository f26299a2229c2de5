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
    let named = |dir: PathBuf| tempfile::Builder::new().prefix("stockade-test-").tempdir_in(dir);
    let run = ["/dev/shm", "/run"].into_iter().find_map(|dir| named(PathBuf::from(dir)).ok());
    let state = named(std::env::temp_dir()).expect("a temporary directory for the test's state");
    let run = match run {
        Some(dir) => dir,
        None => named(std::env::temp_dir()).expect("a temporary directory for the test's run files"),
    };
    PrivateDirs { state, run }
}
