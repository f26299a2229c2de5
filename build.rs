//! Compiles stage-2 (crates/stage2) with plain rustc for the target architecture, from sources of this package.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

fn main() {
    let root = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it"));
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets it")).join("stage2");
    let target = env::var("TARGET").expect("cargo sets it");
    let main = root.join("crates/stage2/main.rs");
    println!("cargo::rerun-if-changed=crates/stage2");
    println!("cargo::rerun-if-changed=src/spawn/interp");
    if !main.is_file() {
        panic!("{} is missing from the package", main.display());
    }

    let status = rustc(&main, &out, &target).status();
    match status {
        Ok(s) if s.success() => {}
        Ok(s) => panic!("rustc could not compile stage-2 ({s})"),
        Err(e) => panic!("cannot run rustc for stage-2: {e}"),
    }
    let image = std::fs::read(&out).expect("rustc wrote it");
    assert!(image.starts_with(b"\x7fELF"), "stage-2 is not an ELF executable");
    assert!(image.len() < 64 * 1024, "stage-2 has grown to {} bytes", image.len());
}

fn rustc(main: &Path, out: &Path, target: &str) -> Command {
    let mut cmd = Command::new(env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()));
    cmd.args([
        "--edition=2024",
        "--crate-name=stage2",
        "--crate-type=bin",
        "--cfg=stage2",
        "--target",
        target,
    ])
    .args(["-Copt-level=s", "-Cpanic=abort", "-Crelocation-model=static", "-Ctarget-feature=+crt-static"])
    .args(["-Cstrip=symbols", "-Coverflow-checks=off", "-Cdebug-assertions=off", "-Cforce-unwind-tables=no"])
    // No C runtime: the entry point is ours, and an undefined symbol fails the build.
    .args(["-Clink-arg=-nostartfiles", "-Clink-arg=-nostdlib", "-Clink-arg=-static"])
    .args(["-Clink-arg=-Wl,--build-id=none,-z,noseparate-code,-z,noexecstack,-z,norelro,--no-dynamic-linker"])
    .arg("-o")
    .arg(out)
    .arg(main);
    if let Some(linker) = env::var_os("RUSTC_LINKER") {
        cmd.arg(format!("-Clinker={}", linker.to_string_lossy()));
    }
    cmd
}
