//! Pressure stall information: `cpu.pressure`, `memory.pressure`, `io.pressure`, `irq.pressure`.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::parse::Text;
use crate::cgroup::Percent;

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
    pub avg10: Percent,
    /// Of the last minute.
    pub avg60: Percent,
    /// Of the last five minutes.
    pub avg300: Percent,
    /// Since the cgroup was made.
    pub total: Duration,
}

impl Pressure {
    pub(super) fn parse(text: &[u8]) -> Self {
        let mut out = Self::default();
        let mut text = Text::new(text);
        while !text.is_empty() {
            if text.skip("some ") {
                out.some = Some(Stall::parse(&mut text));
            } else if text.skip("full ") {
                out.full = Some(Stall::parse(&mut text));
            } else {
                text.word();
            }
        }
        out
    }
}

impl Stall {
    fn parse(text: &mut Text<'_>) -> Self {
        let mut out = Self::default();
        loop {
            text.take_all(|text| {
                text.take("avg10=", &mut out.avg10);
                text.take("avg60=", &mut out.avg60);
                text.take("avg300=", &mut out.avg300);
                text.take("total=", &mut out.total);
            });
            if text.pair().is_none() {
                return out;
            }
        }
    }
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
        assert_eq!(some.avg10.to_string(), "1.05");
        assert_eq!((some.avg60.hundredths(), some.avg300.percent()), (1234, 100.0));
        assert_eq!(some.total, Duration::from_millis(1500));
        assert_eq!(got.full.unwrap().avg60.hundredths(), 10);
        let irq = Pressure::parse(b"full avg10=0.00 avg60=0.00 avg300=0.00 total=3\n");
        assert_eq!((irq.some, irq.full.unwrap().total), (None, Duration::from_micros(3)));
        let bad =
            Pressure::parse(b"some avg10=99999999999.99 avg60=1. avg300=1.234 total=x new=5\nodd\n").some;
        assert_eq!(bad, Some(Stall::default()));
    }
}
