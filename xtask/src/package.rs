//! The package as crates.io would hand it out: it must compile from its own files alone.

use std::path::PathBuf;
use std::process::Command;

use crate::fixtures::remove;
use crate::{Result, paths, sh};

/// Packs the library, unpacks it outside the workspace and checks it there, without the network.
pub fn check() -> Result {
    sh::run(sh::cargo().args([
        "package",
        "--quiet",
        "--package",
        "stockade",
        "--no-verify",
        "--allow-dirty",
    ]))?;
    let name = format!("stockade-{}", env!("CARGO_PKG_VERSION"));
    let packed = paths::target().join("package").join(format!("{name}.crate"));
    let dir = Unpacked::new()?;
    sh::run(Command::new("tar").arg("-xzf").arg(&packed).arg("-C").arg(&dir.0))?;
    sh::run(
        sh::cargo()
            .args(["check", "--quiet", "--offline", "--all-features", "--manifest-path"])
            .arg(dir.0.join(name).join("Cargo.toml"))
            .arg("--target-dir")
            .arg(paths::target().join("package-check"))
            // Warnings here are those of the workspace, which clippy has reported.
            .env("RUSTFLAGS", "-A warnings"),
    )
}

/// A directory outside the workspace, or cargo would take the package for a forgotten member.
struct Unpacked(PathBuf);

impl Unpacked {
    fn new() -> Result<Self> {
        let dir = std::env::temp_dir().join(format!("stockade-package-{}", std::process::id()));
        std::fs::create_dir(&dir).map_err(|e| format!("{}: {e}", dir.display()))?;
        Ok(Self(dir))
    }
}

impl Drop for Unpacked {
    fn drop(&mut self) {
        if let Err(why) = remove(&self.0) {
            eprintln!("xtask: {why}");
        }
    }
}
