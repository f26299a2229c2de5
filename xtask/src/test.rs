//! `cargo xtask test`: everything that must hold before a change is taken.

mod lane;
mod sums;

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use crate::args::Args;
use crate::setup::{self, Wanted};
use crate::{Result, package, paths, repeat, sh};

use lane::Lane;
use sums::{Place, Skips, Sums};

pub use sums::Totals;

/// Runs the steps in order and stops at the first that fails; the tests run on the host and in the lane whatever comes
/// of them in the other place.
pub fn run(mut args: Args) -> Result {
    let quick = args.switch("--quick");
    let no_skip = args.switch("--no-skip");
    if let Some(rounds) = args.value("--repeat")? {
        return repeat::run(rounds, &args.rest()?, no_skip);
    }
    let no_vm = args.switch("--no-vm") || quick;
    let lane_only = args.switch("--lane-only");
    let mut programs: Vec<String> = Vec::new();
    while let Some(name) = args.value("--program")? {
        programs.push(name);
    }
    args.done()?;
    if !programs.is_empty() && !lane_only {
        return Err("--program chooses among those of --lane-only".to_owned());
    }
    if no_vm && lane_only {
        return Err("the lane alone, without the lane, is nothing".to_owned());
    }

    let mut steps = Steps::default();
    let wanted = if quick { Wanted::WhatIsQuick } else { Wanted::Everything };
    steps.step("setup", || setup::run(wanted))?;
    if !lane_only {
        checks(&mut steps, quick)?;
    }
    // Last, so that the test runner's closing lines are near the end.
    let mut sums = Sums::default();
    let mut failures = Vec::new();
    if !lane_only {
        let log = SkipLog::new()?;
        match steps.step("tests", || tests(&log.0, no_skip)) {
            Ok((totals, failed)) => {
                failures.extend(failed);
                sums.host = Some(Place { totals, skips: Skips::read(&log.0), ..Place::default() });
            }
            Err(why) => failures.push(why),
        }
    }
    if !no_vm {
        match steps.step("lane", || lane::run(&programs)) {
            Ok(Lane::Ran { place, failures: failed }) => {
                failures.extend(failed.into_iter().map(|why| format!("lane: {why}")));
                sums.lane = Some(place);
            }
            Ok(Lane::Absent(why)) if lane_only || in_ci() => failures.push(format!("no lane here: {why}")),
            Ok(Lane::Absent(why)) => println!("skipped: the whole lane: {why}"),
            Err(why) => failures.push(why),
        }
    }
    if sums.lane.is_some() && sums.host.is_some() {
        failures.extend(
            sums.nowhere().into_iter().map(|(program, test)| format!("{program} {test} ran nowhere")),
        );
    }
    steps.print();
    sums.print();
    if failures.is_empty() { Ok(()) } else { Err(failures.join("\n  ")) }
}

/// What is looked at before the tests.
fn checks(steps: &mut Steps, quick: bool) -> Result {
    steps.step("format", || sh::run(sh::cargo().args(["fmt", "--all", "--check"])))?;
    steps.step("lints", || {
        let lint = ["clippy", "--quiet", "--workspace", "--all-targets", "--all-features"];
        sh::run(sh::cargo().args(lint).args(["--", "-D", "warnings"]))
    })?;
    if !quick {
        steps.step("documentation", || {
            let doc = ["doc", "--quiet", "--no-deps", "--workspace", "--all-features"];
            sh::run(sh::cargo().args(doc).env("RUSTDOCFLAGS", "-D warnings"))
        })?;
        steps.step("package", package::check)?;
    }
    Ok(())
}

/// Whether this is a CI job, where nothing may be left out.
fn in_ci() -> bool {
    std::env::var("CI").is_ok_and(|v| !v.is_empty() && v != "false" && v != "0")
}

/// Which steps ran, and how long each took.
#[derive(Default)]
struct Steps {
    done: Vec<(&'static str, Duration)>,
}

impl Steps {
    fn step<T>(&mut self, name: &'static str, work: impl FnOnce() -> Result<T>) -> Result<T> {
        println!("== {name}");
        let start = Instant::now();
        let result = work();
        self.done.push((name, start.elapsed()));
        result.map_err(|why| format!("step `{name}`: {why}"))
    }

    fn print(&self) {
        for (name, time) in &self.done {
            println!("{name:>14} {:7.1} s", time.as_secs_f64());
        }
        let total: Duration = self.done.iter().map(|(_, time)| *time).sum();
        println!("{:>14} {:7.1} s", "together", total.as_secs_f64());
    }
}

/// The file in which tests note what they skip.
struct SkipLog(PathBuf);

impl SkipLog {
    fn new() -> Result<Self> {
        let path = paths::target().join(format!("skipped-{}.log", std::process::id()));
        fs::write(&path, "").map_err(|e| format!("{}: {e}", path.display()))?;
        Ok(Self(path))
    }
}

impl Drop for SkipLog {
    fn drop(&mut self) {
        // Its lines have been printed: a left file would be harmless.
        let _ = fs::remove_file(&self.0);
    }
}

/// What the programs reported, and why that is not enough, if so.
fn tests(skip_log: &Path, no_skip: bool) -> Result<(Totals, Option<String>)> {
    let mut command = sh::cargo();
    command
        .args(["test", "--workspace", "--all-features", "--no-fail-fast"])
        .env("STOCKADE_SKIP_LOG", skip_log)
        .env("STOCKADE_FIXTURES", paths::fixtures())
        .stdout(Stdio::piped());
    if no_skip {
        command.env("STOCKADE_NO_SKIP", "1");
    }
    let mut child = command.spawn().map_err(|e| format!("`{}` did not start: {e}", sh::shown(&command)))?;
    let mut totals = Totals::default();
    if let Some(out) = child.stdout.take() {
        for line in BufReader::new(out).split(b'\n').map_while(std::io::Result::ok) {
            let line = String::from_utf8_lossy(&line);
            totals.add(&line);
            println!("{line}");
        }
        // A closed standard output is no reason to lose the status.
        let _ = std::io::stdout().flush();
    }
    let status = child.wait().map_err(|e| format!("waiting for the tests: {e}"))?;
    let failed = match status.success() {
        false => Some(format!("`{}` ended with {status}", sh::shown(&command))),
        true if totals.passed == 0 => Some("no test ran".to_owned()),
        true => None,
    };
    Ok((totals, failed))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failing_step_is_named() {
        let mut steps = Steps::default();
        assert_eq!(steps.step("one", || Ok(5)), Ok(5));
        let failed = steps.step("two", || Err::<(), _>("no".to_owned()));
        assert_eq!(failed, Err("step `two`: no".to_owned()));
        assert_eq!(steps.done.len(), 2);
    }
}
