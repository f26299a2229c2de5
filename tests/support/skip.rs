//! Skips that nobody can overlook.

use std::fmt::Display;
use std::fs::OpenOptions;
use std::io::Write;

use crate::proc;

/// Says that the running test is skipped, and why.
///
/// The line `skipped: TEST: REASON` goes to the real standard error, past the test harness's capture. Program, test
/// and reason go to the end of the file named by `STOCKADE_SKIP_LOG`, from which `cargo xtask test` prints all of them
/// at the end, and sees which ran in the lane.
/// The caller returns afterwards: [`require!`](crate::require) does both.
///
/// # Panics
/// When `STOCKADE_NO_SKIP` is set: that is the run in which nothing may be skipped.
pub fn skip(reason: impl Display) {
    let thread = std::thread::current();
    let test = thread.name().unwrap_or("?");
    let line = format!("skipped: {test}: {reason}\n");
    assert!(std::env::var_os("STOCKADE_NO_SKIP").is_none(), "{line}but STOCKADE_NO_SKIP is set");
    // A lost message must not fail the test: both writes are best effort, and two ways.
    let _ = std::io::stderr().write_all(line.as_bytes());
    if let Some(log) = std::env::var_os("STOCKADE_SKIP_LOG")
        && let Ok(mut log) = OpenOptions::new().append(true).create(true).open(log)
    {
        let line = format!("{}\t{test}\t{}\n", program(), reason.to_string().replace('\n', " "));
        let _ = log.write_all(line.as_bytes());
    }
}

/// The name of the test program, without the hash that cargo gives it.
fn program() -> String {
    let path = std::env::current_exe().unwrap_or_default();
    let stem = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    stem.rsplit_once('-').map_or(stem.clone(), |(name, _)| name.to_owned())
}

/// Whether the process is root with `CAP_SYS_ADMIN`; the error says what is lacking.
///
/// # Errors
/// A sentence for [`skip`].
pub fn privilege() -> Result<(), String> {
    const CAP_SYS_ADMIN: u32 = 21;
    if !rustix::process::geteuid().is_root() {
        return Err("needs root".to_owned());
    }
    let status = proc::status("/proc/self/status");
    let effective = status.get("CapEff").and_then(|v| u64::from_str_radix(v, 16).ok()).unwrap_or(0);
    if effective >> CAP_SYS_ADMIN & 1 == 0 {
        return Err("needs CAP_SYS_ADMIN".to_owned());
    }
    Ok(())
}

/// Skips the test (with a return) unless the condition holds: `require!(cond, "needs {}", what)`.
#[macro_export]
macro_rules! require {
    ($condition:expr, $($reason:tt)+) => {
        if !$condition {
            $crate::skip(format!($($reason)+));
            return;
        }
    };
}

/// Skips the test (with a return) unless it runs as root with `CAP_SYS_ADMIN`.
#[macro_export]
macro_rules! require_root {
    () => {
        if let Err(why) = $crate::privilege() {
            $crate::skip(why);
            return;
        }
    };
}

/// The path of a fixture, or a skip (with a return): `let root = require_fixture!("busybox");`
#[macro_export]
macro_rules! require_fixture {
    ($name:expr) => {
        match $crate::fixture($name) {
            Ok(path) => path,
            Err(why) => {
                $crate::skip(why);
                return;
            }
        }
    };
}
