//! `cargo xtask test`: everything that must hold before a change is taken.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use crate::args::Args;
use crate::setup::{self, Wanted};
use crate::{Result, package, paths, repeat, sh};

/// Runs the steps in order and stops at the first that fails.
pub fn run(mut args: Args) -> Result {
    let quick = args.switch("--quick");
    let no_skip = args.switch("--no-skip");
    if let Some(rounds) = args.value("--repeat")? {
        return repeat::run(rounds, &args.rest()?, no_skip);
    }
    args.done()?;

    let mut steps = Steps::default();
    let wanted = if quick { Wanted::WhatIsQuick } else { Wanted::Everything };
    steps.step("setup", || setup::run(wanted))?;
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
    // Last, so that the test runner's closing lines are near the end.
    let log = SkipLog::new()?;
    let totals = steps.step("tests", || tests(&log.0, no_skip));
    let skipped = log.lines();
    for line in &skipped {
        println!("{line}");
    }
    println!("skipped tests: {}", skipped.len());
    let totals = totals?;
    steps.print();
    println!(
        "total: {} passed; {} failed; {} ignored; {} skipped; {:.0} s",
        totals.passed,
        totals.failed,
        totals.ignored,
        skipped.len(),
        steps.total().as_secs_f64()
    );
    Ok(())
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

    fn total(&self) -> Duration {
        self.done.iter().map(|(_, time)| *time).sum()
    }

    fn print(&self) {
        for (name, time) in &self.done {
            println!("{name:>14} {:7.1} s", time.as_secs_f64());
        }
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

    fn lines(&self) -> Vec<String> {
        let text = fs::read_to_string(&self.0).unwrap_or_default();
        text.lines().filter(|line| line.starts_with("skipped:")).map(str::to_owned).collect()
    }
}

impl Drop for SkipLog {
    fn drop(&mut self) {
        // Its lines have been printed: a left file would be harmless.
        let _ = fs::remove_file(&self.0);
    }
}

/// What the test programs report, added up.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Totals {
    pub passed: u32,
    pub failed: u32,
    pub ignored: u32,
}

impl Totals {
    /// Adds a line such as `test result: ok. 3 passed; 0 failed; 1 ignored; ...`; others change nothing.
    pub fn add(&mut self, line: &str) {
        let Some(rest) = line.strip_prefix("test result: ") else { return };
        for part in rest.split([';', '.']) {
            let mut words = part.split_whitespace();
            let (Some(count), Some(what)) = (words.next().and_then(|w| w.parse::<u32>().ok()), words.next())
            else {
                continue;
            };
            match what {
                "passed" => self.passed += count,
                "failed" => self.failed += count,
                "ignored" => self.ignored += count,
                _ => {}
            }
        }
    }
}

fn tests(skip_log: &Path, no_skip: bool) -> Result<Totals> {
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
    if !status.success() {
        return Err(format!("`{}` ended with {status}", sh::shown(&command)));
    }
    if totals.passed == 0 {
        return Err("no test ran".to_owned());
    }
    Ok(totals)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_are_added_up() {
        let mut totals = Totals::default();
        totals.add(
            "test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 2 filtered out; finished in 0.00s",
        );
        totals.add("test result: FAILED. 4 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out");
        totals.add("test x ... ok. 9 passed");
        assert_eq!(totals, Totals { passed: 7, failed: 2, ignored: 1 });
    }

    #[test]
    fn a_failing_step_is_named() {
        let mut steps = Steps::default();
        assert_eq!(steps.step("one", || Ok(5)), Ok(5));
        let failed = steps.step("two", || Err::<(), _>("no".to_owned()));
        assert_eq!(failed, Err("step `two`: no".to_owned()));
        assert_eq!(steps.done.len(), 2);
    }
}
