//! `cargo xtask bench-intercept`: intercepted calls beside the same ones on the host.

use std::fs;
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
    sh::run(Command::new(example).arg(program).arg(rounds.to_string()))
}
