//! Compiles stage-2 (crates/stage2) and, for virtual machines, the guest's agent (crates/guest-agent) with plain rustc for
//! the target architecture, from sources of this package.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=crates/guest-agent");
    println!("cargo::rerun-if-changed=src/vm/agent/wire.rs");
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
    if env::var_os("CARGO_FEATURE_VM").is_some() {
        guest_agent(&root, &target);
    }
}

fn rustc(main: &Path, out: &Path, target: &str) -> Command {
    let mut cmd = plain_rustc();
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
    cmd
}

/// The first program of guests: static, with the standard library and the C library that are there.
fn guest_agent(root: &Path, target: &str) {
    let main = root.join("crates/guest-agent/main.rs");
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets it")).join("guest-agent");
    let mut cmd = plain_rustc();
    cmd.args(["--edition=2024", "--crate-name=guest_agent", "--crate-type=bin", "--target", target])
        .args(["-Copt-level=s", "-Cpanic=abort", "-Crelocation-model=static", "-Cstrip=symbols"])
        .args(["-Ctarget-feature=+crt-static", "-Clink-arg=-Wl,--build-id=none,-z,noexecstack"])
        .arg("-o")
        .arg(&out)
        .arg(&main);
    match cmd.status() {
        Ok(s) if s.success() => {}
        Ok(s) => {
            panic!("rustc could not compile the guest's agent ({s}); it needs the C library's static archive")
        }
        Err(e) => panic!("cannot run rustc for the guest's agent: {e}"),
    }
    let len = std::fs::metadata(&out).expect("rustc wrote it").len();
    assert!(len < 4 << 20, "the guest's agent has grown to {len} bytes");
}

fn plain_rustc() -> Command {
    let mut cmd = Command::new(env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()));
    if let Some(linker) = env::var_os("RUSTC_LINKER") {
        cmd.arg(format!("-Clinker={}", linker.to_string_lossy()));
    }
    cmd
}
