//! A row: something that can be run once and says how long that took.
//!
//! There are two kinds. A **driver** is one process that lives through the measurement. It gets an empty line on
//! its standard input, does one whole run, checks that it ended with status 0, and answers with one line:
//!
//! ```text
//! TOTAL_US [TO_EXEC_US]
//! ```
//! It ends, having cleaned up, when its input ends. A **command** is one process per run, timed from outside from
//! spawn to reap.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Instant;

use crate::fixtures::at;
use crate::{Result, sh};

/// How a row is run.
pub enum Runner {
    Driver(Driver),
    /// Makes the command of the run with this number.
    Command(Box<dyn Fn(u32) -> Command>),
}

/// One line of the table.
pub struct Row {
    pub name: &'static str,
    /// The row whose figures are the unit of this one's.
    pub base: &'static str,
    pub runner: Runner,
    /// Where standard error goes.
    pub log: PathBuf,
    /// Microseconds.
    pub times: Vec<f64>,
    runs: u32,
}

impl Row {
    pub fn new(name: &'static str, base: &'static str, runner: Runner, log: PathBuf) -> Self {
        Self { name, base, runner, log, times: Vec::new(), runs: 0 }
    }

    /// Runs once; microseconds.
    pub fn once(&mut self) -> Result<f64> {
        self.runs += 1;
        let result = match &mut self.runner {
            Runner::Driver(driver) => driver.once(),
            Runner::Command(make) => timed(make(self.runs).stderr(append(&self.log)?)),
        };
        result.map_err(|why| format!("row `{}`: {why}{}", self.name, tail(&self.log)))
    }

    /// Ends the row's process, if it has one.
    pub fn end(self) -> Result {
        match self.runner {
            Runner::Driver(driver) => {
                driver.end().map_err(|why| format!("row `{}`: {why}{}", self.name, tail(&self.log)))
            }
            Runner::Command(_) => Ok(()),
        }
    }
}

/// Spawn to reap, in microseconds.
fn timed(command: &mut Command) -> Result<f64> {
    command.stdin(Stdio::null()).stdout(Stdio::null());
    let start = Instant::now();
    let status = command.status();
    let time = start.elapsed();
    match status {
        Ok(status) if status.success() => Ok(time.as_secs_f64() * 1e6),
        Ok(status) => Err(format!("`{}` ended with {status}", sh::shown(command))),
        Err(e) => Err(format!("`{}` did not start: {e}", sh::shown(command))),
    }
}

/// A file to which a program's standard error is added.
pub fn append(log: &Path) -> Result<File> {
    at(log, File::options().append(true).create(true).open(log))
}

/// The last lines of a log, for an error.
pub fn tail(log: &Path) -> String {
    let text = fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    let last = &lines[lines.len().saturating_sub(6)..];
    last.iter().map(|line| format!("\n    {line}")).collect()
}

/// A process that does one run per line.
pub struct Driver {
    child: Child,
    ask: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
}

impl Driver {
    pub fn start(command: &mut Command, log: &Path) -> Result<Self> {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(append(log)?);
        let mut child =
            command.spawn().map_err(|e| format!("`{}` did not start: {e}", sh::shown(command)))?;
        match (child.stdin.take(), child.stdout.take()) {
            (Some(ask), Some(out)) => Ok(Self { child, ask: Some(ask), answers: BufReader::new(out) }),
            _ => Err("a driver without pipes".to_owned()),
        }
    }

    fn once(&mut self) -> Result<f64> {
        let gone = |e| format!("the driver is gone: {e}");
        if let Some(ask) = &mut self.ask {
            ask.write_all(b"\n").map_err(gone)?;
        }
        let mut line = String::new();
        self.answers.read_line(&mut line).map_err(gone)?;
        answer(&line)
    }

    fn end(mut self) -> Result {
        self.ask = None;
        let status = self.child.wait().map_err(|e| format!("waiting for the driver: {e}"))?;
        if status.success() { Ok(()) } else { Err(format!("the driver ended with {status}")) }
    }
}

/// The total of a driver's answer.
fn answer(line: &str) -> Result<f64> {
    let total = line.split_whitespace().next().ok_or("the driver gave up")?;
    match total.parse::<f64>() {
        Ok(time) if time.is_finite() && time > 0.0 => Ok(time),
        _ => Err(format!("the driver answered `{}`", line.trim())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_times_or_errors() {
        assert_eq!(answer("1234.5 800.1\n"), Ok(1234.5));
        assert_eq!(answer("7\n"), Ok(7.0));
        for bad in ["", "\n", "fail\n", "-1\n", "0\n", "NaN\n", "inf\n"] {
            assert!(answer(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_command_that_fails_is_no_figure() {
        assert!(timed(&mut Command::new("true")).is_ok_and(|time| time > 0.0));
        assert!(timed(&mut Command::new("false")).is_err_and(|e| e.contains("`false` ended")));
        assert!(timed(&mut Command::new("/nonexistent")).is_err());
    }
}
