//! Where the roots made by `cargo xtask setup` are.

use std::path::{Path, PathBuf};

/// The absolute path of a fixture: `busybox` (a static busybox with all its applets) or `debian` (Debian 12 with
/// Python, sudo, capsh, procps, and systemd to boot it; made as root only).
///
/// They stand under `STOCKADE_FIXTURES`, or `target/fixtures` of this workspace. Tests share them and must not
/// change them.
///
/// # Errors
/// A sentence for [`skip`](crate::skip), when it was not made.
pub fn fixture(name: &str) -> Result<PathBuf, String> {
    let base = match std::env::var_os("STOCKADE_FIXTURES") {
        Some(dir) => PathBuf::from(dir),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/fixtures"),
    };
    // The stamp is written last, so a half-made fixture does not count.
    let found = base.join(format!("{name}.stamp")).is_file();
    match base.join(name).canonicalize() {
        Ok(path) if found => Ok(path),
        _ => Err(format!("no `{name}` fixture in {}: run `cargo xtask setup` (as root)", base.display())),
    }
}
