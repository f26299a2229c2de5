//! Where things are.

use std::path::{Path, PathBuf};

/// The workspace.
pub fn root() -> PathBuf {
    let xtask = Path::new(env!("CARGO_MANIFEST_DIR"));
    xtask.parent().unwrap_or(xtask).to_owned()
}

/// Cargo's output directory.
pub fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), |dir| root().join(dir))
}

/// Where the test fixtures are: given to tests as `STOCKADE_FIXTURES`.
pub fn fixtures() -> PathBuf {
    std::env::var_os("STOCKADE_FIXTURES").map_or_else(|| target().join("fixtures"), PathBuf::from)
}

/// What outlives a clone of the project: `STOCKADE_CACHE`, or `stockade` in the user's cache directory.
pub fn cache() -> PathBuf {
    let env = |name| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    env("STOCKADE_CACHE")
        .or_else(|| env("XDG_CACHE_HOME").map(|dir| dir.join("stockade")))
        .or_else(|| env("HOME").map(|dir| dir.join(".cache/stockade")))
        .unwrap_or_else(|| target().join("cache"))
}

/// The program, if it is on the search path or in the system directories that a user's path often lacks.
pub fn program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|dir| dir.join(name))
        .find(|file| file.is_file())
}
