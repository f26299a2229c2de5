//! Limits: what to write to which file, and writing it.
//!
//! Each controller's file turns its part of [`Limits`] into [`Setting`]s; here they are only carried out.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::group::Cgroup;
use super::{Controller, memory, pids};
use crate::error::{Error, ErrorKind, Result};

/// A limit that a number sets or `max` lifts. In serde and JSON a number or the string `"max"`.
///
/// ```
/// use stockade::cgroup::Limit;
///
/// assert_eq!(Limit::Max.to_string(), "max");
/// assert_eq!(Limit::Value(512).to_string(), "512");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(from = "LimitText", into = "LimitText")]
pub enum Limit {
    /// No limit.
    Max,
    /// At most this much, in the unit of the field.
    Value(u64),
}

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum LimitText {
    Value(u64),
    Word(Max),
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Max {
    Max,
}

impl From<LimitText> for Limit {
    fn from(t: LimitText) -> Self {
        match t {
            LimitText::Value(n) => Self::Value(n),
            LimitText::Word(Max::Max) => Self::Max,
        }
    }
}

impl From<Limit> for LimitText {
    fn from(l: Limit) -> Self {
        match l {
            Limit::Max => Self::Word(Max::Max),
            Limit::Value(n) => Self::Value(n),
        }
    }
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Max => f.write_str("max"),
            Self::Value(n) => n.fmt(f),
        }
    }
}

/// Limits of a cgroup. `None` leaves a limit as it is; a new cgroup has none.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct Limits {
    /// Processes and threads together, descendants included (`pids.max`): above it `fork(2)` fails with
    /// `EAGAIN`. At most 4,194,304.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pids_max: Option<Limit>,
    /// Memory in bytes, descendants, page cache and kernel memory included (`memory.max`), rounded down to
    /// whole pages by the kernel: what cannot be reclaimed above it is met by the OOM killer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_max: Option<Limit>,
}

impl Limits {
    /// The controllers that the cgroup must have for these limits.
    pub fn controllers(&self) -> Vec<Controller> {
        let mut out: Vec<Controller> = self.settings().iter().map(|s| s.controller).collect();
        out.sort_unstable();
        out.dedup();
        out
    }

    fn settings(&self) -> Vec<Setting> {
        let mut out = Vec::new();
        pids::settings(self, &mut out);
        memory::settings(self, &mut out);
        out
    }
}

/// One write to one file.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Setting {
    pub(super) controller: Controller,
    pub(super) file: &'static str,
    pub(super) value: String,
}

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

/// A limit that was not set.
#[derive(Debug)]
#[non_exhaustive]
pub struct Skipped {
    /// The file, such as `memory.max`.
    pub file: &'static str,
    /// Why it was not set.
    pub reason: Error,
}

impl Cgroup {
    /// Sets `limits`, and returns those that were skipped: always none with [`Enforce::Required`].
    ///
    /// After an error the limits that were set before it stay set.
    ///
    /// # Errors
    /// [`Unsupported`](ErrorKind::Unsupported): the cgroup lacks the controller; the error names the file, the
    /// controllers that the parent has, and what gives the missing one.
    /// [`PermissionDenied`](ErrorKind::PermissionDenied): the file is not the caller's to write.
    /// [`InvalidConfig`](ErrorKind::InvalidConfig): the kernel does not take the value.
    /// [`NotFound`](ErrorKind::NotFound): the cgroup was removed. The last two fail in both modes.
    pub fn apply(&self, limits: &Limits, enforce: Enforce) -> Result<Vec<Skipped>> {
        let mut skipped = Vec::new();
        for setting in limits.settings() {
            let Err(reason) = self.set(&setting) else { continue };
            let skip = enforce == Enforce::BestEffort
                && !matches!(reason.kind(), ErrorKind::InvalidConfig | ErrorKind::NotFound);
            if !skip {
                return Err(reason);
            }
            skipped.push(Skipped { file: setting.file, reason });
        }
        Ok(skipped)
    }

    /// Carries out one setting.
    pub(super) fn set(&self, setting: &Setting) -> Result<()> {
        self.write(setting.file, &setting.value).map_err(|e| match e.errno() {
            Some(libc::ENOENT) => self.missing(setting.controller, setting.file),
            Some(libc::EINVAL | libc::ERANGE) => e.with_kind(ErrorKind::InvalidConfig),
            _ => e,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_numbers_or_max_in_json() {
        let limits = Limits { pids_max: Some(Limit::Max), memory_max: Some(Limit::Value(1 << 20)) };
        let json = serde_json::to_string(&limits).unwrap();
        assert_eq!(json, r#"{"pids_max":"max","memory_max":1048576}"#);
        assert_eq!(serde_json::from_str::<Limits>(&json).unwrap(), limits);
        assert_eq!(serde_json::from_str::<Limits>("{}").unwrap(), Limits::default());
        for bad in [r#"{"pids_max":"none"}"#, r#"{"pids_max":-1}"#, r#"{"pids_mx":1}"#] {
            serde_json::from_str::<Limits>(bad).unwrap_err();
        }
    }

    #[test]
    fn limits_name_their_writes_and_controllers() {
        assert_eq!(Limits::default().controllers(), []);
        let limits = Limits { pids_max: Some(Limit::Value(5)), memory_max: Some(Limit::Max) };
        assert_eq!(limits.controllers(), [Controller::Memory, Controller::Pids]);
        let writes: Vec<String> =
            limits.settings().iter().map(|s| format!("{}={}", s.file, s.value)).collect();
        assert_eq!(writes, ["pids.max=5", "memory.max=max"]);
    }
}
