//! The cpu controller, and CPU time.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Controller;
use super::limits::Limits;
use super::percent::Percent;
use super::setting::{Files, Problems, Settings};
use crate::error::Result;

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

    pub(super) fn parse(text: &str) -> Option<Self> {
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
    fn bandwidth_is_read_as_it_is_written() {
        let half = CpuMax::quota(Duration::from_millis(50), Duration::from_millis(100));
        assert_eq!(CpuMax::parse(&half.to_string()), Some(half));
        assert_eq!(CpuMax::parse("max 100000\n"), Some(CpuMax::Max));
        assert_eq!(CpuMax::parse(""), None);
    }
}
