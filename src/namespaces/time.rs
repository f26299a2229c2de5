//! Offsets of the clocks in a time namespace.

use std::fmt::Write;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// The kernel refuses offsets beyond this many seconds, some 146 years (`KTIME_SEC_MAX / 2`).
const MAX_SECS: i64 = i64::MAX / 1_000_000_000 / 2;

/// A signed length of time: how far a clock is ahead (or behind, if negative) of the host's.
///
/// The nanoseconds always count forward, as in `struct timespec`: half a second back is -1 s and 500,000,000 ns.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "Parts", into = "Parts")]
pub struct TimeOffset {
    secs: i64,
    nanos: u32,
}

/// The form in an OCI configuration.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Parts {
    #[serde(default)]
    secs: i64,
    #[serde(default, rename = "nanosecs")]
    nanos: u32,
}

impl TryFrom<Parts> for TimeOffset {
    type Error = Error;

    fn try_from(p: Parts) -> Result<Self> {
        Self::new(p.secs, p.nanos)
    }
}

impl From<TimeOffset> for Parts {
    fn from(o: TimeOffset) -> Self {
        Self { secs: o.secs, nanos: o.nanos }
    }
}

impl TimeOffset {
    /// No offset.
    pub const ZERO: Self = Self { secs: 0, nanos: 0 };

    /// `secs` seconds plus `nanos` nanoseconds.
    ///
    /// # Errors
    /// [`InvalidConfig`](crate::ErrorKind::InvalidConfig) where `nanos` is a second or more, or `secs` is beyond
    /// the 146 years that the kernel takes in either direction.
    pub fn new(secs: i64, nanos: u32) -> Result<Self> {
        let bad = |why| Err(Error::invalid("time offset", why).object(format!("{secs} s {nanos} ns")));
        if nanos >= 1_000_000_000 {
            bad("has a second or more in its nanoseconds")
        } else if !(-MAX_SECS..MAX_SECS).contains(&secs) {
            bad("is longer than the 146 years that the kernel takes")
        } else {
            Ok(Self { secs, nanos })
        }
    }

    /// Ahead of the host by `d`.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn ahead(d: Duration) -> Result<Self> {
        Self::new(i64::try_from(d.as_secs()).unwrap_or(i64::MAX), d.subsec_nanos())
    }

    /// Behind the host by `d`. No clock can be set before 0: the kernel refuses more than the host's uptime.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn behind(d: Duration) -> Result<Self> {
        let secs = i64::try_from(d.as_secs()).unwrap_or(i64::MAX);
        match d.subsec_nanos() {
            0 => Self::new(-secs, 0),
            n => Self::new(-secs - 1, 1_000_000_000 - n),
        }
    }

    /// Whole seconds, rounded down.
    pub const fn secs(self) -> i64 {
        self.secs
    }

    /// Nanoseconds to add to the seconds, below a billion.
    pub const fn nanos(self) -> u32 {
        self.nanos
    }
}

/// The offsets of a time namespace (`time_namespaces(7)`, Linux 5.6).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TimeOffsets {
    /// Of `CLOCK_MONOTONIC`, with its raw and coarse variants.
    pub monotonic: TimeOffset,
    /// Of `CLOCK_BOOTTIME`, which is also the uptime.
    pub boottime: TimeOffset,
}

impl TimeOffsets {
    /// Whether both clocks are the host's.
    pub fn is_zero(&self) -> bool {
        *self == Self::default()
    }

    /// The text for `/proc/PID/timens_offsets`. It can be written only while the new namespace has no process,
    /// that is by a process that called `unshare(CLONE_NEWTIME)` and has neither forked nor executed since.
    ///
    /// ```
    /// use stockade::namespaces::{TimeOffset, TimeOffsets};
    ///
    /// let offsets = TimeOffsets { boottime: TimeOffset::new(600, 0)?, ..TimeOffsets::default() };
    /// assert_eq!(offsets.proc_text(), "monotonic 0 0\nboottime 600 0\n");
    /// # Ok::<(), stockade::Error>(())
    /// ```
    pub fn proc_text(&self) -> String {
        let mut out = String::new();
        for (clock, o) in [("monotonic", self.monotonic), ("boottime", self.boottime)] {
            // Writing to a `String` cannot fail.
            let _ = writeln!(out, "{clock} {} {}", o.secs, o.nanos);
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn back_and_forth() {
        let half = Duration::from_millis(500);
        assert_eq!(TimeOffset::ahead(half).unwrap(), TimeOffset::new(0, 500_000_000).unwrap());
        assert_eq!(TimeOffset::behind(half).unwrap(), TimeOffset::new(-1, 500_000_000).unwrap());
        assert_eq!(TimeOffset::behind(Duration::from_secs(3)).unwrap().secs(), -3);
        assert_eq!(TimeOffset::behind(Duration::ZERO).unwrap(), TimeOffset::ZERO);
    }

    #[test]
    fn limits() {
        assert!(TimeOffset::new(0, 1_000_000_000).is_err());
        assert!(TimeOffset::new(MAX_SECS, 0).is_err());
        assert!(TimeOffset::new(MAX_SECS - 1, 999_999_999).is_ok());
        assert!(TimeOffset::ahead(Duration::MAX).is_err());
        assert!(TimeOffset::behind(Duration::MAX).is_err());
    }

    #[test]
    fn json_is_that_of_oci() {
        let offsets: TimeOffsets = serde_json::from_str(r#"{"boottime":{"secs":-5,"nanosecs":7}}"#).unwrap();
        assert_eq!(offsets.boottime, TimeOffset::new(-5, 7).unwrap());
        assert!(!offsets.is_zero() && TimeOffsets::default().is_zero());
        assert_eq!(offsets.proc_text(), "monotonic 0 0\nboottime -5 7\n");
        assert!(serde_json::from_str::<TimeOffset>(r#"{"nanosecs":1000000000}"#).is_err());
    }
}
