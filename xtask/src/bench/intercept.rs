//! `cargo xtask bench-intercept`: intercepted calls beside the same ones on the host, and filters beside libseccomp's.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::args::Args;
use crate::fixtures::at;
use crate::{Result, paths, sh};

/// The program that measures.
const EXAMPLE: &str = "intercept_bench";

/// Builds and runs it.
pub fn run(mut args: Args) -> Result {
    let rounds: u32 = args.value("--n")?.unwrap_or(10);
    args.done()?;
    if rounds == 0 {
        return Err("--n must be at least 1".to_owned());
    }
    if !sh::is_root() {
        return Err("bench-intercept needs root: it makes device nodes and containers".to_owned());
    }
    let dir = paths::target().join("bench");
    at(&dir, fs::create_dir_all(&dir))?;
    let program = dir.join("intercept");
    let source = paths::root().join("benches/intercept.c");
    sh::run(Command::new("cc").args(["-O2", "-static", "-o"]).arg(&program).arg(source))?;
    sh::run(sh::cargo().args(["build", "--quiet", "--release", "--example", EXAMPLE]))?;
    let example = paths::target().join("release/examples").join(EXAMPLE);
    sh::run(Command::new(example).arg(program).arg(rounds.to_string()))?;
    filters(&dir)
}

/// Our filter beside libseccomp's, whose library is on most machines; its header is not needed.
fn filters(dir: &Path) -> Result {
    let program = dir.join("filter");
    let source = paths::root().join("benches/filter.c");
    let mut cc = Command::new("cc");
    cc.args(["-O2", "-o"]).arg(&program).arg(source).arg("-l:libseccomp.so.2");
    let built = cc.output().map_err(|e| format!("cc: {e}"))?;
    if !built.status.success() {
        println!("filters: left out, as libseccomp.so.2 is not there");
        return Ok(());
    }
    sh::run(sh::cargo().args(["build", "--quiet", "--release", "--example", "filter_bench"]))?;
    let example = paths::target().join("release/examples/filter_bench");
    sh::run(Command::new(example).arg(program).arg("200"))
}
