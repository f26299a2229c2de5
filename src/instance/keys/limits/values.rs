//! The values of single keys, from text and back.

use std::fmt;

use crate::instance::keys::{ByteSize, shown};
use crate::process::OomScoreAdj;

/// The most that the kernel takes for `pids.max`.
const MAX_PROCESSES: u64 = 4_194_304;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Allowance {
    Percent(u32),
    Time(u32, u32),
}

impl fmt::Display for Allowance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Percent(n) => write!(f, "{n}%"),
            Self::Time(quota, period) => write!(f, "{quota}ms/{period}ms"),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Amount {
    Bytes(ByteSize),
    Percent(u32),
}

impl fmt::Display for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bytes(size) => size.fmt(f),
            Self::Percent(n) => write!(f, "{n}%"),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum MemoryEnforce {
    Hard,
    Soft,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Swap {
    Yes,
    No,
    Bytes(ByteSize),
}

impl fmt::Display for Swap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Yes => f.write_str("true"),
            Self::No => f.write_str("false"),
            // A bare 0 or 1 would be a boolean.
            Self::Bytes(size) if size.bytes() < 2 => write!(f, "{size}B"),
            Self::Bytes(size) => size.fmt(f),
        }
    }
}

fn number(text: &str, low: u64, high: u64) -> Option<u64> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    digits.then(|| text.parse().ok()).flatten().filter(|n| (low..=high).contains(n))
}

pub(super) fn priority(v: &str) -> Result<u8, String> {
    let n = number(v, 0, 10).and_then(|n| u8::try_from(n).ok());
    n.ok_or_else(|| format!("`{}` is no priority: 0 to 10", shown(v)))
}

pub(super) fn allowance(v: &str) -> Result<Allowance, String> {
    let millis =
        |text: &str, high| number(text.strip_suffix("ms")?, 1, high).and_then(|n| u32::try_from(n).ok());
    let read = match (v.strip_suffix('%'), v.split_once('/')) {
        (Some(n), _) => number(n, 1, 10_000).and_then(|n| u32::try_from(n).ok()).map(Allowance::Percent),
        (None, Some((quota, period))) => {
            // The kernel's bounds of both together are far above.
            millis(quota, 1_000_000).zip(millis(period, 1000)).map(|(q, p)| Allowance::Time(q, p))
        }
        _ => None,
    };
    read.ok_or_else(|| {
        format!(
            "`{}` is no allowance: 1% to 10000% for a share beside others, or a quota such as 25ms/100ms, in each period \
             of at most 1000ms",
            shown(v)
        )
    })
}

pub(super) fn amount(v: &str) -> Result<Amount, String> {
    let read = match v.strip_suffix('%') {
        Some(n) => number(n, 1, 100).and_then(|n| u32::try_from(n).ok()).map(Amount::Percent),
        None => match ByteSize::read(v)? {
            size if size.bytes() == 0 => None,
            size => Some(Amount::Bytes(size)),
        },
    };
    read.ok_or_else(|| {
        format!("`{}` is no limit of memory: a size above 0, or 1% to 100% of the host's", shown(v))
    })
}

pub(super) fn enforce(v: &str) -> Result<MemoryEnforce, String> {
    match v {
        "hard" => Ok(MemoryEnforce::Hard),
        "soft" => Ok(MemoryEnforce::Soft),
        _ => Err(format!("`{}` is neither hard nor soft", shown(v))),
    }
}

fn boolean(v: &str) -> Option<bool> {
    let is = |words: [&str; 4]| words.iter().any(|word| v.eq_ignore_ascii_case(word));
    if is(["true", "yes", "1", "on"]) {
        return Some(true);
    }
    is(["false", "no", "0", "off"]).then_some(false)
}

pub(super) fn swap(v: &str) -> Result<Swap, String> {
    match boolean(v) {
        Some(true) => Ok(Swap::Yes),
        Some(false) => Ok(Swap::No),
        None => ByteSize::read(v).map(Swap::Bytes).map_err(|why| format!("{why}; or true or false")),
    }
}

pub(super) fn oom_priority(v: &str) -> Result<OomScoreAdj, String> {
    let digits = number(v.strip_prefix('-').unwrap_or(v), 0, 1000).is_some();
    let n = digits.then(|| v.parse::<i32>().ok()).flatten();
    n.and_then(|n| OomScoreAdj::new(n).ok())
        .ok_or_else(|| format!("`{}` is no priority of the OOM killer: -1000 to 1000", shown(v)))
}

pub(super) fn processes(v: &str) -> Result<u64, String> {
    number(v, 0, MAX_PROCESSES).ok_or_else(|| {
        format!("`{}` is no number of processes: 0 to {MAX_PROCESSES}, or nothing for no limit", shown(v))
    })
}
