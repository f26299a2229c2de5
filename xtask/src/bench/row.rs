//! A row: something that can be run once and says how long that took.
//!
//! There are two kinds. A **driver** is one process that lives through the measurement. It gets an empty line on
//! its standard input, does one whole run, checks that it ended with status 0, and answers with one line:
//!
//! ```text
//! TOTAL_US [TO_EXEC_US]
//! ```
//! It ends, having cleaned up, when its input ends. A **command** is one process per run, timed from outside from
//! spawn to reap; or several of them, one after the other.

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
    Command(MakeRun),
    /// So many of them in a loop: the time of one is the loop's divided by their number.
    Loop(u32, MakeRun),
}

/// Makes the command of the run with this number.
pub type MakeRun = Box<dyn Fn(u32) -> Command>;

/// Microseconds of one run.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Times {
    pub total: f64,
    /// Until the host knows that the payload was executed.
    pub to_exec: Option<f64>,
}

/// One line of the table.
pub struct Row {
    pub name: &'static str,
    /// The row whose figures are the unit of this one's.
    pub base: &'static str,
    pub runner: Runner,
    /// Where standard error goes.
    pub log: PathBuf,
    runs: u32,
}

impl Row {
    pub fn new(name: &'static str, base: &'static str, runner: Runner, log: PathBuf) -> Self {
        Self { name, base, runner, log, runs: 0 }
    }

    /// Runs once.
    pub fn once(&mut self) -> Result<Times> {
        let result = match &mut self.runner {
            Runner::Driver(driver) => driver.once("").and_then(|line| answer(&line)),
            Runner::Command(make) => timed(1, &mut self.runs, make, &self.log),
            Runner::Loop(count, make) => timed(*count, &mut self.runs, make, &self.log),
        };
        result.map_err(|why| format!("row `{}`: {why}{}", self.name, tail(&self.log)))
    }

    /// Ends the row's process, if it has one.
    pub fn end(self) -> Result {
        match self.runner {
            Runner::Driver(driver) => {
                driver.end().map_err(|why| format!("row `{}`: {why}{}", self.name, tail(&self.log)))
            }
            Runner::Command(_) | Runner::Loop(..) => Ok(()),
        }
    }
}

/// Spawn to reap, the mean of `count` commands that are run one after the other.
fn timed(count: u32, runs: &mut u32, make: &MakeRun, log: &Path) -> Result<Times> {
    let mut commands = Vec::new();
    for _ in 0..count {
        *runs += 1;
        let mut command = make(*runs);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(append(log)?);
        commands.push(command);
    }
    let start = Instant::now();
    for command in &mut commands {
        match command.status() {
            Ok(status) if status.success() => {}
            Ok(status) => return Err(format!("`{}` ended with {status}", sh::shown(command))),
            Err(e) => return Err(format!("`{}` did not start: {e}", sh::shown(command))),
        }
    }
    Ok(Times { total: start.elapsed().as_secs_f64() * 1e6 / f64::from(count), to_exec: None })
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

    /// Sends a line, which is empty for a run, and gives the answer.
    pub fn once(&mut self, question: &str) -> Result<String> {
        let gone = |e| format!("the driver is gone: {e}");
        if let Some(ask) = &mut self.ask {
            ask.write_all(format!("{question}\n").as_bytes()).map_err(gone)?;
        }
        let mut line = String::new();
        self.answers.read_line(&mut line).map_err(gone)?;
        Ok(line)
    }

    pub fn end(mut self) -> Result {
        self.ask = None;
        let status = self.child.wait().map_err(|e| format!("waiting for the driver: {e}"))?;
        if status.success() { Ok(()) } else { Err(format!("the driver ended with {status}")) }
    }
}

/// A driver's answer. To have executed the payload later than the end is no answer.
fn answer(line: &str) -> Result<Times> {
    let mut words = line.split_whitespace();
    let total = words.next().ok_or("the driver gave up")?;
    let time = |word: &str| match word.parse::<f64>() {
        Ok(time) if time.is_finite() && time > 0.0 => Ok(time),
        _ => Err(format!("the driver answered `{}`", line.trim())),
    };
    let times = Times { total: time(total)?, to_exec: words.next().map(time).transpose()? };
    match times.to_exec {
        Some(to_exec) if to_exec > times.total => Err(format!("the driver answered `{}`", line.trim())),
        _ => Ok(times),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_times_or_errors() {
        assert_eq!(answer("1234.5 800.1\n"), Ok(Times { total: 1234.5, to_exec: Some(800.1) }));
        assert_eq!(answer("7\n"), Ok(Times { total: 7.0, to_exec: None }));
        for bad in ["", "\n", "fail\n", "-1\n", "0\n", "NaN\n", "inf\n", "7 0\n", "7 8\n", "7 x\n"] {
            assert!(answer(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_command_that_fails_is_no_figure() {
        let log = Path::new("/dev/null");
        let timed = |count, program: &'static str| {
            let (mut runs, make): (u32, MakeRun) = (0, Box::new(move |_| Command::new(program)));
            timed(count, &mut runs, &make, log).map(|times| (runs, times))
        };
        assert!(timed(1, "true").is_ok_and(|(runs, times)| runs == 1 && times.total > 0.0));
        assert!(timed(3, "true").is_ok_and(|(runs, _)| runs == 3));
        assert!(timed(1, "false").is_err_and(|e| e.contains("`false` ended")));
        assert!(timed(1, "/nonexistent").is_err());
    }
}
