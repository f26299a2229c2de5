//! Signal numbers.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// A signal, 1 to 64 (`signal(7)`).
///
/// ```
/// use stockade::Signal;
///
/// assert_eq!("TERM".parse::<Signal>().unwrap(), Signal::TERM);
/// assert_eq!("SIGRTMIN+3".parse::<Signal>().unwrap().to_string(), "SIGRTMIN+3");
/// assert!(Signal::new(0).is_err());
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "i32", into = "i32")]
pub struct Signal(i32);

impl Signal {
    /// Hangup.
    pub const HUP: Self = Self(libc::SIGHUP);
    /// Interrupt, as from Ctrl-C.
    pub const INT: Self = Self(libc::SIGINT);
    /// Quit, as from Ctrl-\\.
    pub const QUIT: Self = Self(libc::SIGQUIT);
    /// Kill; cannot be caught.
    pub const KILL: Self = Self(libc::SIGKILL);
    /// First signal without a meaning of its own.
    pub const USR1: Self = Self(libc::SIGUSR1);
    /// Second signal without a meaning of its own.
    pub const USR2: Self = Self(libc::SIGUSR2);
    /// Please end.
    pub const TERM: Self = Self(libc::SIGTERM);
    /// Power failure: sysvinit and busybox init halt on it.
    pub const PWR: Self = Self(libc::SIGPWR);
    /// Terminal size changed.
    pub const WINCH: Self = Self(libc::SIGWINCH);

    /// Checks a number.
    ///
    /// # Errors
    /// [`InvalidConfig`](crate::ErrorKind::InvalidConfig) outside 1 to 64.
    pub fn new(number: i32) -> Result<Self> {
        if (1..=64).contains(&number) {
            Ok(Self(number))
        } else {
            Err(Error::invalid("signal", "must be a number from 1 to 64").object(number.to_string()))
        }
    }

    /// `SIGRTMIN+n` as the C library counts it, so `realtime(3)` asks systemd to halt.
    ///
    /// # Errors
    /// [`InvalidConfig`](crate::ErrorKind::InvalidConfig) where that is above 64.
    pub fn realtime(n: u8) -> Result<Self> {
        Self::new(libc::SIGRTMIN() + i32::from(n))
    }

    /// The number.
    pub fn as_raw(self) -> i32 {
        self.0
    }
}

impl fmt::Display for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match nix::sys::signal::Signal::try_from(self.0) {
            Ok(s) => f.write_str(s.as_str()),
            Err(_) if self.0 == libc::SIGRTMIN() => f.write_str("SIGRTMIN"),
            Err(_) if self.0 > libc::SIGRTMIN() => write!(f, "SIGRTMIN+{}", self.0 - libc::SIGRTMIN()),
            Err(_) => write!(f, "signal {}", self.0),
        }
    }
}

impl FromStr for Signal {
    type Err = Error;

    /// Reads `9`, `KILL`, `SIGKILL` or `SIGRTMIN+3`, in any case.
    fn from_str(s: &str) -> Result<Self> {
        if let Ok(n) = s.parse() {
            return Self::new(n);
        }
        let unknown = || Error::invalid("signal", "is no signal's name").object(s.to_owned());
        let upper = s.to_ascii_uppercase();
        let name = upper.strip_prefix("SIG").unwrap_or(&upper);
        if let Some(rest) = name.strip_prefix("RTMIN") {
            let n = match rest.strip_prefix('+') {
                Some(n) => n.parse().map_err(|_| unknown())?,
                None if rest.is_empty() => 0,
                None => return Err(unknown()),
            };
            return Self::realtime(n);
        }
        format!("SIG{name}")
            .parse::<nix::sys::signal::Signal>()
            .map(|s| Self(s as i32))
            .map_err(|_| unknown())
    }
}

impl TryFrom<i32> for Signal {
    type Error = Error;

    fn try_from(n: i32) -> Result<Self> {
        Self::new(n)
    }
}

impl From<Signal> for i32 {
    fn from(s: Signal) -> Self {
        s.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_go_both_ways() {
        for n in 1..=64 {
            let s = Signal::new(n).unwrap();
            let text = s.to_string();
            if !text.starts_with("signal ") {
                assert_eq!(text.parse::<Signal>().unwrap(), s, "{text}");
            }
        }
        assert_eq!("sigint".parse::<Signal>().unwrap(), Signal::INT);
        assert_eq!("15".parse::<Signal>().unwrap(), Signal::TERM);
    }

    #[test]
    fn refuses_what_is_no_signal() {
        for bad in ["", "SIG", "0", "65", "-1", "NOPE", "RTMIN+99", "RTMIN-1", "RTMIN+x"] {
            assert!(bad.parse::<Signal>().is_err(), "{bad}");
        }
        assert!(serde_json::from_str::<Signal>("0").is_err());
    }
}
