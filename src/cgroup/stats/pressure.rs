//! Pressure stall information: `cpu.pressure`, `memory.pressure`, `io.pressure`, `irq.pressure`.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::parse::{cut, number, words};

/// Time lost by waiting, for each resource (`Documentation/accounting/psi.rst` of the kernel). `None` where the kernel
/// does not count it: without `CONFIG_PSI`, with `psi=0` on its command line, or `0` in `cgroup.pressure`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Pressures {
    /// Waiting for a CPU.
    pub cpu: Option<Pressure>,
    /// Waiting for memory.
    pub memory: Option<Pressure>,
    /// Waiting for block devices.
    pub io: Option<Pressure>,
    /// Waiting for interrupt handlers (Linux 6.1, `CONFIG_IRQ_TIME_ACCOUNTING`): `full` alone.
    pub irq: Option<Pressure>,
}

/// Time lost by waiting for one resource.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Pressure {
    /// While at least one task waited; `None` where the kernel does not tell.
    pub some: Option<Stall>,
    /// While every task that was not idle waited, so that nothing got done.
    pub full: Option<Stall>,
}

/// One line of a pressure file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Stall {
    /// Of the last 10 seconds.
    pub avg10: StallShare,
    /// Of the last minute.
    pub avg60: StallShare,
    /// Of the last five minutes.
    pub avg300: StallShare,
    /// Since the cgroup was made.
    pub total: Duration,
}

/// A part of the time, in hundredths of a percent, as exactly as the kernel tells it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct StallShare(u32);

impl StallShare {
    /// In hundredths of a percent: 0 to 10,000.
    pub fn hundredths(self) -> u32 {
        self.0
    }

    /// In percent: 0 to 100.
    pub fn percent(self) -> f64 {
        f64::from(self.0) / 100.0
    }

    fn parse(text: &[u8]) -> Option<Self> {
        let (whole, part) = cut(text, b'.')?;
        if part.len() != 2 {
            return None;
        }
        let n = number(whole)?.checked_mul(100)?.checked_add(number(part)?)?;
        u32::try_from(n).ok().map(Self)
    }
}

impl fmt::Display for StallShare {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:02} %", self.0 / 100, self.0 % 100)
    }
}

impl Pressure {
    pub(super) fn parse(text: &[u8]) -> Self {
        let mut out = Self::default();
        for line in text.split(|b| *b == b'\n') {
            let mut words = words(line);
            match words.next() {
                Some(b"some") => out.some = Some(stall(words)),
                Some(b"full") => out.full = Some(stall(words)),
                _ => {}
            }
        }
        out
    }
}

fn stall<'a>(words: impl Iterator<Item = &'a [u8]>) -> Stall {
    let mut out = Stall::default();
    for (key, value) in words.filter_map(|w| cut(w, b'=')) {
        let share = || StallShare::parse(value).unwrap_or_default();
        match key {
            b"avg10" => out.avg10 = share(),
            b"avg60" => out.avg60 = share(),
            b"avg300" => out.avg300 = share(),
            b"total" => out.total = Duration::from_micros(number(value).unwrap_or(0)),
            _ => {}
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_lines_are_read_exactly() {
        let got = Pressure::parse(
            b"some avg10=1.05 avg60=12.34 avg300=100.00 total=1500000\nfull avg10=0.00 avg60=0.10 avg300=0.01 total=7\n",
        );
        let some = got.some.unwrap();
        assert_eq!(some.avg10.to_string(), "1.05 %");
        assert_eq!((some.avg60.hundredths(), some.avg300.percent()), (1234, 100.0));
        assert_eq!(some.total, Duration::from_millis(1500));
        assert_eq!(got.full.unwrap().avg60.hundredths(), 10);
        let irq = Pressure::parse(b"full avg10=0.00 avg60=0.00 avg300=0.00 total=3\n");
        assert_eq!((irq.some, irq.full.unwrap().total), (None, Duration::from_micros(3)));
        let bad =
            Pressure::parse(b"some avg10=99999999999.99 avg60=1 avg300=1.234 total=x new=5\nodd\n").some;
        assert_eq!(bad, Some(Stall::default()));
    }
}
