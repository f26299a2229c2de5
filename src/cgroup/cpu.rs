//! The cpu controller, and CPU time.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Controller;
use super::limits::Limits;
use super::setting::{Files, Problems, Settings};
use crate::error::{Error, Result};

/// The kernel's bounds of a period, and the least quota (`cpu.max`).
const PERIOD: (Duration, Duration) = (Duration::from_millis(1), Duration::from_secs(1));
/// The most that quota and burst may be together, in microseconds (`MAX_BW`).
const MAX_BANDWIDTH: u128 = (1 << 44) - 1;

/// CPU time that a cgroup may use in each period (`cpu.max`).
///
/// ```
/// use std::time::Duration;
/// use stockade::cgroup::CpuMax;
///
/// let one_and_a_half = CpuMax::quota(Duration::from_millis(150), Duration::from_millis(100));
/// assert_eq!(one_and_a_half.to_string(), "150000 100000");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CpuMax {
    /// As much as there is.
    Max,
    /// This much.
    Quota {
        /// Time of all CPUs together in each period: 1 ms or more.
        quota: Duration,
        /// The period: 1 ms to 1 s.
        period: Duration,
    },
}

impl CpuMax {
    /// `quota` of CPU time in each `period`: half a CPU is 50 ms in 100 ms, and two are 200 ms.
    pub fn quota(quota: Duration, period: Duration) -> Self {
        Self::Quota { quota, period }
    }

    fn parse(text: &str) -> Option<Self> {
        let mut words = text.split_whitespace();
        let quota = words.next()?;
        if quota == "max" {
            return Some(Self::Max);
        }
        let micros = |s: &str| s.parse().ok().map(Duration::from_micros);
        Some(Self::Quota { quota: micros(quota)?, period: micros(words.next()?)? })
    }
}

impl fmt::Display for CpuMax {
    /// As the kernel takes it: microseconds.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Max => f.write_str("max"),
            Self::Quota { quota, period } => write!(f, "{} {}", quota.as_micros(), period.as_micros()),
        }
    }
}

/// Whether a cgroup gets CPU time only when nobody else wants it (`cpu.idle`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum CpuIdle {
    /// It has its share, by its weight.
    #[default]
    Normal,
    /// Only what is left over, as with `SCHED_IDLE` (`sched(7)`).
    Idle,
}

/// A part of a whole in hundredths of a percent. As text, and in JSON, `12.50`.
///
/// ```
/// use stockade::cgroup::Percent;
///
/// assert_eq!(Percent::from_hundredths(1250)?.to_string(), "12.50");
/// assert_eq!("100".parse::<Percent>()?, Percent::WHOLE);
/// assert!("100.01".parse::<Percent>().is_err());
/// # Ok::<(), stockade::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Percent(u16);

impl Percent {
    /// Nothing.
    pub const ZERO: Self = Self(0);
    /// All.
    pub const WHOLE: Self = Self(10_000);

    /// `n` hundredths of a percent.
    ///
    /// # Errors
    /// [`InvalidConfig`](crate::ErrorKind::InvalidConfig) above 10,000.
    pub fn from_hundredths(n: u16) -> Result<Self> {
        if n > Self::WHOLE.0 {
            return Err(Error::invalid("percentage", format!("{n} hundredths are more than 100 %")));
        }
        Ok(Self(n))
    }

    /// In hundredths of a percent: 0 to 10,000.
    pub fn hundredths(self) -> u16 {
        self.0
    }
}

impl fmt::Display for Percent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:02}", self.0 / 100, self.0 % 100)
    }
}

impl std::str::FromStr for Percent {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let digits = |s: &str| s.bytes().all(|b| b.is_ascii_digit());
        let (whole, part) = text.trim().split_once('.').unwrap_or((text.trim(), "0"));
        let hundredths = || {
            if whole.is_empty() || whole.len() > 3 || !digits(whole) || !(1..=2).contains(&part.len()) {
                return None;
            }
            let part = format!("{part:0<2}");
            if !digits(&part) {
                return None;
            }
            let n = whole.parse::<u16>().ok()?.checked_mul(100)?.checked_add(part.parse().ok()?)?;
            (n <= Self::WHOLE.0).then_some(Self(n))
        };
        hundredths().ok_or_else(|| {
            let shown: String = text.chars().take(40).collect();
            Error::invalid("percentage", "is no number from 0 to 100 with at most two decimals").object(shown)
        })
    }
}

impl TryFrom<String> for Percent {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<Percent> for String {
    fn from(p: Percent) -> Self {
        p.to_string()
    }
}

pub(super) fn problems(limits: &Limits, out: &mut Problems) {
    out.weight("cpu_weight", limits.cpu_weight);
    let mut quota_left = None;
    if let Some(CpuMax::Quota { quota, period }) = limits.cpu_max {
        if quota < PERIOD.0 {
            out.add("cpu_max", format!("the quota {quota:?} is below 1 ms"));
        }
        if quota.as_micros() > MAX_BANDWIDTH {
            out.add("cpu_max", format!("the quota {quota:?} is above {MAX_BANDWIDTH} us"));
        }
        if period < PERIOD.0 || period > PERIOD.1 {
            out.add("cpu_max", format!("the period {period:?} is not 1 ms to 1 s"));
        }
        quota_left = Some(quota);
    }
    if let Some(burst) = limits.cpu_max_burst {
        if let Some(quota) = quota_left
            && burst > quota
        {
            out.add("cpu_max_burst", format!("{burst:?} is above the quota of cpu_max, which is {quota:?}"));
        } else if burst.as_micros() + quota_left.unwrap_or_default().as_micros() > MAX_BANDWIDTH {
            out.add("cpu_max_burst", format!("{burst:?} with the quota is above {MAX_BANDWIDTH} us"));
        }
    }
    if let (Some(min), Some(max)) = (limits.cpu_uclamp_min, limits.cpu_uclamp_max)
        && min > max
    {
        out.add("cpu_uclamp_min", format!("{min} % is above cpu_uclamp_max, which is {max} %"));
    }
}

pub(super) fn settings(limits: &Limits, out: &mut Settings) {
    let c = Controller::Cpu;
    out.add(c, "cpu.weight", limits.cpu_weight);
    out.add(c, "cpu.max", limits.cpu_max);
    out.add(c, "cpu.max.burst", limits.cpu_max_burst.map(|b| b.as_micros()));
    out.add(c, "cpu.uclamp.min", limits.cpu_uclamp_min);
    out.add(c, "cpu.uclamp.max", limits.cpu_uclamp_max);
    // After the weight, which the kernel takes of nobody idle.
    out.add(c, "cpu.idle", limits.cpu_idle.map(|idle| u8::from(idle == CpuIdle::Idle)));
}

pub(super) fn read(files: &dyn Files, limits: &mut Limits) -> Result<()> {
    let text = |name| files.get_optional(name);
    let idle = text("cpu.idle")?.map(|t| if t.trim() == "1" { CpuIdle::Idle } else { CpuIdle::Normal });
    limits.cpu_idle = idle;
    if idle != Some(CpuIdle::Idle) {
        limits.cpu_weight = text("cpu.weight")?.and_then(|t| t.trim().parse().ok());
    }
    limits.cpu_max = text("cpu.max")?.and_then(|t| CpuMax::parse(&t));
    limits.cpu_max_burst =
        text("cpu.max.burst")?.and_then(|t| t.trim().parse().ok()).map(Duration::from_micros);
    let percent = |t: String| if t.trim() == "max" { Some(Percent::WHOLE) } else { t.parse().ok() };
    limits.cpu_uclamp_min = text("cpu.uclamp.min")?.and_then(percent);
    limits.cpu_uclamp_max = text("cpu.uclamp.max")?.and_then(percent);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentages_are_exact_and_bounded() {
        for (text, n) in [("0", 0), ("0.5", 50), ("12.34", 1234), ("100.00", 10_000), ("7.05\n", 705)] {
            assert_eq!(text.parse::<Percent>().unwrap().hundredths(), n, "{text}");
        }
        for bad in ["", ".", ".5", "5.", "100.01", "101", "-1", "1.234", "1e1", "65536", "0.-1", "max", "+1"]
        {
            assert!(bad.parse::<Percent>().is_err(), "{bad}");
        }
        assert_eq!(serde_json::to_string(&Percent(1)).unwrap(), "\"0.01\"");
        assert_eq!(serde_json::from_str::<Percent>("\"33.30\"").unwrap(), Percent(3330));
    }

    #[test]
    fn bandwidth_is_read_as_it_is_written() {
        let half = CpuMax::quota(Duration::from_millis(50), Duration::from_millis(100));
        assert_eq!(CpuMax::parse(&half.to_string()), Some(half));
        assert_eq!(CpuMax::parse("max 100000\n"), Some(CpuMax::Max));
        assert_eq!(CpuMax::parse(""), None);
    }
}
