//! How a process ended.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::signal::Signal;
use crate::sys::pidfd::Ended;

/// How the first process of an instance, or a process that was run in one, ended (`waitid(2)`).
///
/// ```
/// use stockade::ExitStatus;
///
/// let killed = ExitStatus::Signaled { signal: 9, core_dumped: false };
/// assert!(!killed.success());
/// assert_eq!((killed.code(), killed.shell_code()), (None, Some(137)));
/// assert_eq!(killed.to_string(), "killed by SIGKILL");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ExitStatus {
    /// It ended by itself with this code, 0 to 255.
    Exited(i32),
    /// A signal ended it.
    Signaled {
        /// The signal's number (`signal(7)`).
        signal: i32,
        /// Whether a core dump was written (`core(5)`).
        core_dumped: bool,
    },
    /// It has ended and nobody can say how: another part of the host process took the status, or the process
    /// ended while no runtime was there to see it. Linux 6.15 and newer can tell in the first case.
    Unknown,
}

impl ExitStatus {
    /// Whether it exited with code 0. `Unknown` is no success.
    pub fn success(self) -> bool {
        self == Self::Exited(0)
    }

    /// The code that it exited with; `None` where a signal ended it or the status is unknown.
    pub fn code(self) -> Option<i32> {
        match self {
            Self::Exited(code) => Some(code),
            _ => None,
        }
    }

    /// The signal that ended it.
    pub fn signal(self) -> Option<Signal> {
        match self {
            Self::Signaled { signal, .. } => Signal::new(signal).ok(),
            _ => None,
        }
    }

    /// Whether the first process of a pid namespace has ended by `reboot(2)` with a request to restart: the kernel then
    /// kills it with `SIGHUP`, which nothing else in the namespace can do.
    pub fn is_reboot(self) -> bool {
        matches!(self, Self::Signaled { signal: libc::SIGHUP, .. })
    }

    /// The same with a request to halt or to power off: killed by `SIGINT`.
    pub fn is_halt(self) -> bool {
        matches!(self, Self::Signaled { signal: libc::SIGINT, .. })
    }

    /// What a shell would show in `$?`: the code, or 128 plus the signal's number; `None` where unknown.
    pub fn shell_code(self) -> Option<i32> {
        match self {
            Self::Exited(code) => Some(code),
            Self::Signaled { signal, .. } => Some(128 + signal),
            Self::Unknown => None,
        }
    }
}

impl fmt::Display for ExitStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Exited(code) => write!(f, "exited with code {code}"),
            Self::Signaled { signal, core_dumped } => {
                match Signal::new(signal) {
                    Ok(s) => write!(f, "killed by {s}")?,
                    Err(_) => write!(f, "killed by signal {signal}")?,
                }
                f.write_str(if core_dumped { " (core dumped)" } else { "" })
            }
            Self::Unknown => f.write_str("ended with unknown status"),
        }
    }
}

impl From<Ended> for ExitStatus {
    fn from(e: Ended) -> Self {
        match e {
            Ended::Exited(code) => Self::Exited(code),
            Ended::Signaled { signal, core } => Self::Signaled { signal, core_dumped: core },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes() {
        assert!(ExitStatus::Exited(0).success());
        assert!(!ExitStatus::Exited(3).success());
        assert!(!ExitStatus::Unknown.success());
        assert_eq!(ExitStatus::Exited(3).shell_code(), Some(3));
        assert_eq!(ExitStatus::Signaled { signal: 15, core_dumped: false }.shell_code(), Some(143));
        assert_eq!(ExitStatus::Unknown.shell_code(), None);
        assert_eq!(ExitStatus::from(Ended::Exited(7)), ExitStatus::Exited(7));
    }

    #[test]
    fn says_what_happened() {
        let s = ExitStatus::Signaled { signal: 11, core_dumped: true };
        assert_eq!(s.to_string(), "killed by SIGSEGV (core dumped)");
        assert_eq!(s.signal(), Some(Signal::new(11).unwrap()));
        assert_eq!(ExitStatus::Exited(3).to_string(), "exited with code 3");
    }

    #[test]
    fn json_is_stable() {
        for (status, text) in [
            (ExitStatus::Exited(2), r#"{"exited":2}"#),
            (
                ExitStatus::Signaled { signal: 9, core_dumped: false },
                r#"{"signaled":{"signal":9,"core_dumped":false}}"#,
            ),
            (ExitStatus::Unknown, r#""unknown""#),
        ] {
            assert_eq!(serde_json::to_string(&status).unwrap(), text);
            assert_eq!(serde_json::from_str::<ExitStatus>(text).unwrap(), status);
        }
    }
}
