//! Setting the limits of a new cgroup, and reading them back.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::group::Cgroup;
use super::limits::Limits;
use super::setting::{Files, Setting};
use super::v1::Both;
use crate::error::{Error, ErrorKind, Result};

/// What to do about a limit that cannot be set here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Enforce {
    /// Fail.
    #[default]
    Required,
    /// Go on without it, and say so in the result. A value that the kernel refuses fails all the same.
    BestEffort,
}

impl Enforce {
    /// Whether a limit that gave this error may be left out.
    pub(super) fn allows(self, reason: &Error) -> bool {
        self == Self::BestEffort
            && matches!(reason.kind(), ErrorKind::Unsupported | ErrorKind::PermissionDenied)
    }
}

/// A limit that was not set.
#[derive(Debug)]
#[non_exhaustive]
pub struct Skipped {
    /// The file, such as `memory.max`.
    pub file: String,
    /// Why it was not set.
    pub reason: Error,
}

impl fmt::Display for Skipped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.file, self.reason)
    }
}

impl Cgroup {
    /// Sets `limits`, and returns those that were skipped: always none with [`Enforce::Required`]. For a new cgroup:
    /// in one with processes a limit below what they use ends them, and [`update`](Self::update) has more care.
    ///
    /// The values are checked first, and that what they name is on this host: nothing is set then. After a later error
    /// the limits that were set before it stay set.
    ///
    /// # Errors
    /// [`InvalidConfig`](ErrorKind::InvalidConfig): a value is out of range, a CPU or memory node is not on this host,
    /// or the kernel does not take the value. [`NotFound`](ErrorKind::NotFound): there is no such block device, or the
    /// cgroup was removed. These fail in both modes.
    /// [`Unsupported`](ErrorKind::Unsupported): the cgroup lacks the controller; the error names the file, the
    /// controllers that the parent has, and what gives the missing one.
    /// [`PermissionDenied`](ErrorKind::PermissionDenied): the file is not the caller's to write.
    pub fn apply(&self, limits: &Limits, enforce: Enforce) -> Result<Vec<Skipped>> {
        let mut files = Both::open(self)?;
        let (settings, mut skipped) = files.place(limits.settings()?, enforce)?;
        for setting in settings {
            match put(&files, &setting) {
                Ok(()) => {}
                Err(reason) if enforce.allows(&reason) => {
                    skipped.push(Skipped { file: setting.file.into_owned(), reason });
                }
                Err(reason) => return Err(reason),
            }
        }
        Ok(skipped)
    }

    /// The limits that it has now, those that nobody set included: `None` where it lacks the file. Block devices are
    /// given by number. Some 30 small files are read.
    ///
    /// # Errors
    /// [`NotFound`](ErrorKind::NotFound): the cgroup was removed.
    pub fn limits(&self) -> Result<Limits> {
        let files = Both::open(self)?;
        let mut limits = Limits::read(self)?;
        files.read_v1(&mut limits)?;
        Ok(limits)
    }
}

/// Carries out one setting.
pub(super) fn put(files: &dyn Files, setting: &Setting) -> Result<()> {
    let mut done = files.put(&setting.file, &setting.text());
    // A cgroup with processes that had a set of CPUs or nodes once cannot go back to none: it gets all that there are.
    if setting.value.is_empty()
        && let Err(e) = &done
        && e.errno() == Some(libc::ENOSPC)
        && let Ok(all) = files.get(&format!("../{}.effective", setting.file))
    {
        done = files.put(&setting.file, all.trim());
    }
    done.map_err(|e| explain(files, setting, e))
}

/// The error of a read or a write, in terms of the limit.
pub(super) fn explain(files: &dyn Files, setting: &Setting, e: Error) -> Error {
    match e.errno() {
        Some(libc::ENOENT) => files.lacks(setting.controller, &setting.file),
        Some(libc::EOPNOTSUPP) if setting.file == "io.latency" || setting.file == "io.weight" => {
            e.hint("the device has no such policy: see io.cost.qos and the I/O scheduler of the device")
        }
        Some(libc::EINVAL | libc::ERANGE) => e.with_kind(ErrorKind::InvalidConfig),
        Some(libc::ENODEV) if setting.line.is_some() => {
            e.with_kind(ErrorKind::NotFound).detail("there is no such device, or it has gone")
        }
        Some(libc::EBUSY) => e.with_kind(ErrorKind::Busy).detail("more than that is in use"),
        _ => e,
    }
}
