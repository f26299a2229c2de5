//! `cargo xtask bench-peers`: what a start costs here, beside the floor and the other runtimes.
//!
//! Three processes, so that the host sees nothing of it:
//!
//! ```text
//! bench-peers              builds everything
//!   `- inner, stage guard  private mount namespace; makes one cgroup below its own and removes it at the end,
//!      |                   killing what is left in it
//!      `- inner, stage measure   in that cgroup, which a cgroup namespace makes its root: a pure cgroup2 view
//!         |                      in which even a runtime that enables controllers touches only ours
//!         |- one driver per in-process row, asked over a pipe for one run at a time
//!         `- one process per run of a command-line row
//! ```
//! The rows take turns (A B C A B C ...), so a noisy machine is noisy for all of them: read ratios.

pub mod boot;
pub mod cgroup;
mod guard;
pub mod intercept;
mod measure;
mod ours;
mod peers;
mod report;
mod row;
pub mod unpack;
pub mod vm;

use std::path::PathBuf;
use std::process::Command;

use crate::args::Args;
use crate::{Result, fixtures, paths, sh};

/// The task name of the inner stages.
pub const INNER: &str = "bench-peers-inner";

/// What the person asked for, handed from stage to stage.
#[derive(Debug, Clone)]
struct Options {
    json: bool,
    rounds: u32,
    only: Option<String>,
    /// How many containers run beside: the rows are measured for each of these numbers.
    beside: Vec<u32>,
}

impl Options {
    fn take(args: &mut Args) -> Result<Self> {
        let rounds = args.value("--n")?.unwrap_or(50);
        if rounds == 0 {
            return Err("--n must be at least 1".to_owned());
        }
        let beside: Option<String> = args.value("--beside")?;
        let beside = beside.map_or(Ok(vec![0]), |list| numbers(&list))?;
        Ok(Self { json: args.switch("--json"), rounds, only: args.value("--only")?, beside })
    }

    fn words(&self) -> Vec<String> {
        let beside: Vec<String> = self.beside.iter().map(u32::to_string).collect();
        let mut words = vec!["--n".to_owned(), self.rounds.to_string()];
        words.extend(["--beside".to_owned(), beside.join(",")]);
        words.extend(self.json.then(|| "--json".to_owned()));
        if let Some(only) = &self.only {
            words.extend(["--only".to_owned(), only.clone()]);
        }
        words
    }
}

/// Different numbers with commas between them.
fn numbers(list: &str) -> Result<Vec<u32>> {
    let mut found = Vec::new();
    for word in list.split(',') {
        match word.trim().parse() {
            Ok(number) if !found.contains(&number) => found.push(number),
            _ => return Err(format!("--beside takes numbers, each once, as in 0,100,500: not `{list}`")),
        }
    }
    Ok(found)
}

/// Where the compiled floor is.
fn floor() -> PathBuf {
    paths::target().join("bench/floor")
}

/// Builds what is measured and starts the guard.
pub fn run(mut args: Args) -> Result {
    let options = Options::take(&mut args)?;
    args.done()?;
    if !sh::is_root() {
        return Err("bench-peers needs root: the floor and the peers make namespaces and cgroups".to_owned());
    }
    fixtures::busybox()?;
    build_floor()?;
    ours::build()?;
    sh::run(
        Command::new("unshare")
            .args(["--mount", "--propagation", "private", "--"])
            .arg(own_program()?)
            .args([INNER, "--stage", "guard"])
            .args(options.words()),
    )
}

/// The two inner stages.
pub fn inner(mut args: Args) -> Result {
    let options = Options::take(&mut args)?;
    let stage: Option<String> = args.value("--stage")?;
    args.done()?;
    match stage.as_deref() {
        Some("guard") => guard::run(&options, "measure"),
        Some("guard-boot") => guard::run(&options, "boot"),
        Some("boot") => boot::measure(&options),
        Some("measure") => measure::run(&options),
        _ => Err(format!("{INNER} is for bench-peers itself")),
    }
}

fn own_program() -> Result<PathBuf> {
    std::env::current_exe().map_err(|e| format!("own program: {e}"))
}

fn build_floor() -> Result {
    let source = paths::root().join("benches/floor.c");
    let program = floor();
    let dir = paths::target().join("bench");
    std::fs::create_dir_all(&dir).map_err(|e| format!("{}: {e}", dir.display()))?;
    let changed = |file: &PathBuf| std::fs::metadata(file).and_then(|m| m.modified()).ok();
    if changed(&program) > changed(&source) {
        return Ok(());
    }
    sh::run(Command::new("cc").args(["-O2", "-static", "-o"]).arg(&program).arg(&source).arg("-lpthread"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_given_once_each() {
        assert_eq!(numbers("0,100, 500"), Ok(vec![0, 100, 500]));
        for bad in ["", "0,", "1,1", "-1", "many"] {
            assert!(numbers(bad).is_err(), "{bad:?}");
        }
    }
}
