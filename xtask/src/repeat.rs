//! `cargo xtask test --repeat N [NAME...]`: test programs many times in a row, and what they reported, summed up.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use crate::fixtures::at;
use crate::setup::{self, Wanted};
use crate::test::Totals;
use crate::{Result, paths, sh};

/// The tests of faults, of crashes and of many at once: each is a test program.
const USUAL: &[&str] = &[
    "archives",
    "closed_streams",
    "crash",
    "faults",
    "file_size",
    "full_disk",
    "misbehave",
    "parallel",
    "pool",
    "reopen",
    "shift",
    "syscall_faults",
    "torture",
];

/// Runs the programs `rounds` times, in turn; an error if one of them failed once.
pub fn run(rounds: u32, names: &[String], no_skip: bool) -> Result {
    if rounds == 0 {
        return Err("--repeat 0 would test nothing".to_owned());
    }
    setup::run(Wanted::WhatIsQuick)?;
    let logs = paths::target().join("repeat");
    at(&logs, fs::create_dir_all(&logs))?;
    let mut programs = programs(names)?;
    for program in &mut programs {
        // A build that somebody starts meanwhile changes nothing.
        let copy = logs.join(&program.name);
        at(&copy, fs::copy(&program.executable, &copy).map(drop))?;
        program.executable = copy;
    }
    for round in 1..=rounds {
        for program in &mut programs {
            let log = logs.join(format!("{}.{round}", program.name));
            let good = program.once(&log, (round, rounds), no_skip)?;
            let end = if good { "ok".to_owned() } else { format!("FAILED: see {}.*", log.display()) };
            println!("{round} of {rounds}: {} {end}, {:.0} s", program.name, program.last_seconds());
        }
    }
    println!("\n{rounds} times in a row:");
    programs.iter().for_each(|program| program.print(rounds));
    match programs.iter().filter(|p| p.failures > 0).map(|p| p.name.as_str()).collect::<Vec<_>>()[..] {
        [] => Ok(()),
        ref failed => Err(format!("not all passed: {}", failed.join(", "))),
    }
}

/// Builds the test programs and finds those that are asked for.
fn programs(names: &[String]) -> Result<Vec<Program>> {
    let mut build = sh::cargo();
    build.args(["test", "--no-run", "--quiet", "--workspace", "--all-features", "--message-format=json"]);
    let built = build.stderr(Stdio::inherit()).output().map_err(|e| format!("cargo: {e}"))?;
    if !built.status.success() {
        return Err("the tests cannot be built: `cargo test --no-run --workspace --all-features`".to_owned());
    }
    let mut found: Vec<Program> =
        String::from_utf8_lossy(&built.stdout).lines().filter_map(artifact).collect();
    let wanted: Vec<&str> =
        if names.is_empty() { USUAL.to_vec() } else { names.iter().map(String::as_str).collect() };
    if let Some(unknown) = wanted.iter().find(|name| !found.iter().any(|p| p.name == **name)) {
        return Err(format!("there is no test program `{unknown}`"));
    }
    found.retain(|program| wanted.contains(&program.name.as_str()));
    found.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(found)
}

/// A test program in one line of cargo's messages.
fn artifact(line: &str) -> Option<Program> {
    let message: serde_json::Value = serde_json::from_str(line).ok()?;
    let executable = message.get("executable")?.as_str()?;
    let is_test = message.get("target")?.get("kind")?.as_array()?.iter().any(|kind| kind == "test");
    let name = message.get("target")?.get("name")?.as_str()?;
    let package = Path::new(message.get("manifest_path")?.as_str()?).parent()?;
    is_test.then(|| Program::new(name, executable, package))
}

/// One test program and what its runs said.
#[derive(Debug)]
struct Program {
    name: String,
    executable: PathBuf,
    /// Where cargo would run it.
    package: PathBuf,
    totals: Totals,
    failures: u32,
    skipped: usize,
    seconds: Vec<f64>,
    reports: Reports,
}

impl Program {
    fn new(name: &str, executable: &str, package: &Path) -> Self {
        Self {
            name: name.to_owned(),
            executable: executable.into(),
            package: package.to_owned(),
            totals: Totals::default(),
            failures: 0,
            skipped: 0,
            seconds: Vec::new(),
            reports: Reports::default(),
        }
    }

    /// Runs it once, with its words in `LOG.out` and `LOG.err`; whether it passed.
    fn once(&mut self, log: &Path, (round, rounds): (u32, u32), no_skip: bool) -> Result<bool> {
        let [out, err] = ["out", "err"].map(|end| PathBuf::from(format!("{}.{end}", log.display())));
        let mut command = Command::new(&self.executable);
        command
            .current_dir(&self.package)
            .env("STOCKADE_FIXTURES", paths::fixtures())
            .env("STOCKADE_PART", format!("{round}/{rounds}"))
            .stdin(Stdio::null())
            .stdout(at(&out, File::create(&out))?)
            .stderr(at(&err, File::create(&err))?);
        if no_skip {
            command.env("STOCKADE_NO_SKIP", "1");
        }
        let start = Instant::now();
        let passed = sh::run(&mut command).is_ok();
        self.seconds.push(start.elapsed().as_secs_f64());
        let read = |path: &Path| fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
        let before = self.totals.passed;
        at(&out, read(&out))?.lines().for_each(|line| self.totals.add(line));
        for line in at(&err, read(&err))?.lines() {
            if line.starts_with("skipped:") {
                self.skipped += 1;
            } else {
                self.reports.add(line);
            }
        }
        // A program that says nothing of its tests has not run them.
        let good = passed && self.totals.passed > before;
        self.failures += u32::from(!good);
        Ok(good)
    }

    fn last_seconds(&self) -> f64 {
        self.seconds.last().copied().unwrap_or_default()
    }

    fn print(&self, rounds: u32) {
        let sum: f64 = self.seconds.iter().sum();
        println!(
            "{}: {} of {rounds} runs passed; {} tests passed, {} failed, {} ignored, {} skipped; {sum:.0} s",
            self.name,
            rounds - self.failures,
            self.totals.passed,
            self.totals.failed,
            self.totals.ignored,
            self.skipped,
        );
        self.reports.lines(rounds).iter().for_each(|line| println!("    {line}"));
    }
}

/// Lines with counts, of all runs. Lines that differ in their numbers only are one.
#[derive(Debug, Default)]
struct Reports {
    /// The line with `\0` for each number, in the order of the first run; and the numbers of each run.
    lines: Vec<String>,
    numbers: BTreeMap<String, Vec<Vec<f64>>>,
}

impl Reports {
    fn add(&mut self, line: &str) {
        let (shape, numbers) = shape(line.trim_end());
        if shape.is_empty() {
            return;
        }
        let runs = self.numbers.entry(shape.clone()).or_insert_with(|| {
            self.lines.push(shape);
            Vec::new()
        });
        runs.push(numbers);
    }

    /// Each shape once: with the least and the most of each number; of parts of one whole, with the sums.
    fn lines(&self, rounds: u32) -> Vec<String> {
        let one = |shape: &String| {
            let runs = self.numbers.get(shape).map(Vec::as_slice).unwrap_or_default();
            let column = |at: usize| runs.iter().filter_map(move |run| run.get(at).copied());
            let range = |at: usize| {
                let (least, most) =
                    (column(at).fold(f64::MAX, f64::min), column(at).fold(f64::MIN, f64::max));
                if least == most { least.to_string() } else { format!("{least}..{most}") }
            };
            if let Some(rest) = shape.strip_prefix(PART) {
                let of = range(1);
                let sums = fill(rest, |at| column(at + 2).sum::<f64>().to_string());
                return format!("{} parts of {of}, in all: {sums}", runs.len());
            }
            let line = fill(shape, range);
            if runs.len() == rounds as usize { line } else { format!("({} times) {line}", runs.len()) }
        };
        self.lines.iter().map(one).collect()
    }
}

/// The shape of `part K/N: `.
const PART: &str = "part \0/\0: ";

/// The line with a zero byte in place of each number, and the numbers.
fn shape(line: &str) -> (String, Vec<f64>) {
    let (mut shape, mut numbers) = (String::new(), Vec::new());
    let mut rest = line;
    while let Some(first) = rest.chars().next() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        if digits == 0 {
            shape.push(first);
            rest = &rest[first.len_utf8()..];
            continue;
        }
        let mut end = digits;
        if let Some(fraction) = rest[digits..].strip_prefix('.') {
            let more = fraction.find(|c: char| !c.is_ascii_digit()).unwrap_or(fraction.len());
            if more > 0 {
                end += 1 + more;
            }
        }
        // Digits with at most one point are a number.
        numbers.push(rest[..end].parse().unwrap_or_default());
        shape.push('\0');
        rest = &rest[end..];
    }
    (shape, numbers)
}

/// The shape with its numbers put back, each by its place.
fn fill(shape: &str, number: impl Fn(usize) -> String) -> String {
    let mut parts = shape.split('\0');
    let mut line = parts.next().unwrap_or_default().to_owned();
    for (at, part) in parts.enumerate() {
        line.push_str(&number(at));
        line.push_str(part);
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_many_runs_are_one_line() {
        let mut reports = Reports::default();
        for line in [
            "killed hosts: 200 in 10.5 s.",
            "part 1/2: 70 tried, 5 told of",
            "killed hosts: 200 in 9 s.",
            "part 2/2: 30 tried, 6 told of",
            "once: 1",
            "",
        ] {
            reports.add(line);
        }
        assert_eq!(
            reports.lines(2),
            [
                "killed hosts: 200 in 9..10.5 s.",
                "2 parts of 2, in all: 100 tried, 11 told of",
                "(1 times) once: 1"
            ]
        );
    }

    #[test]
    fn programs_are_found_in_what_cargo_says() {
        let line = |kind: &str| {
            format!(
                r#"{{"reason":"compiler-artifact","manifest_path":"/p/Cargo.toml","executable":"/t/x-1",
                     "target":{{"kind":["{kind}"],"name":"x"}}}}"#
            )
        };
        let program = artifact(&line("test")).unwrap();
        assert_eq!((program.name.as_str(), program.package), ("x", PathBuf::from("/p")));
        assert!(artifact(&line("bin")).is_none());
        assert!(artifact("not JSON").is_none());
    }
}
