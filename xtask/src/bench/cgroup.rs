//! `cargo xtask bench-cgroup`: statistics and limits beside the bare reads and writes of the same files.

use crate::args::Args;
use crate::{Result, paths, sh};

/// The program that measures.
const EXAMPLE: &str = "cgroup_bench";

/// Builds and runs it.
pub fn run(mut args: Args) -> Result {
    let rounds: usize = args.value("--n")?.unwrap_or(1000);
    args.done()?;
    if rounds == 0 {
        return Err("--n must be at least 1".to_owned());
    }
    sh::run(sh::cargo().args(["build", "--quiet", "--release", "--example", EXAMPLE]))?;
    let program = paths::target().join("release/examples").join(EXAMPLE);
    sh::run(std::process::Command::new(program).arg(rounds.to_string()))
}
