//! How many CPUs an instance has, or which.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::cgroup::{CpuSet, NodeSet};
use crate::error::{Error, Result};

fn clip(text: &str) -> String {
    text.chars().take(40).collect()
}

macro_rules! as_text {
    ($($t:ty),*) => {$(
        impl TryFrom<String> for $t {
            type Error = Error;

            fn try_from(text: String) -> Result<Self> {
                text.parse()
            }
        }

        impl From<$t> for String {
            fn from(value: $t) -> Self {
                value.to_string()
            }
        }
    )*};
}
as_text!(Cpus, CpuNodes);

/// The CPUs of an instance: all, some number of them, or those and no others. As text, and in JSON, as `limits.cpu` of
/// Incus: a plain number is a *count*, a set has a range or a comma in it, and one pinned CPU is `1-1`.
///
/// Instances with a count share the CPUs of the host evenly: see [`Runtime::rebalance_cpus`](crate::Runtime::rebalance_cpus).
///
/// ```
/// use stockade::cgroup::CpuSet;
/// use stockade::instance::Cpus;
///
/// assert_eq!("2".parse::<Cpus>()?, Cpus::Count(2));
/// assert_eq!("0-1,3".parse::<Cpus>()?, Cpus::Set(CpuSet::new([0, 1, 3])?));
/// let second = Cpus::Set(CpuSet::new([1])?);
/// assert_eq!(second.to_string(), "1-1");
/// assert_eq!("".parse::<Cpus>()?, Cpus::All);
/// for bad in ["0", "-1", "1,1", "2-1", "two", "+2", "99999999999"] {
///     assert!(bad.parse::<Cpus>().is_err(), "{bad}");
/// }
/// # Ok::<(), stockade::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
#[non_exhaustive]
pub enum Cpus {
    /// All that the host gives.
    #[default]
    All,
    /// Any so many: 1 or more. Where the host has fewer for it at some time, all of those.
    Count(u32),
    /// These.
    Set(CpuSet),
}

impl From<u32> for Cpus {
    fn from(count: u32) -> Self {
        Self::Count(count)
    }
}

impl From<CpuSet> for Cpus {
    fn from(set: CpuSet) -> Self {
        Self::Set(set)
    }
}

impl Cpus {
    /// What is wrong with it.
    pub(crate) fn problem(&self) -> Option<String> {
        match self {
            Self::Count(0) => Some("0 is no count: 1 or more CPUs, or none of this for all".to_owned()),
            Self::Count(n) if *n > CpuSet::HIGHEST + 1 => {
                Some(format!("{n} is above {}, the most that a kernel has", CpuSet::HIGHEST + 1))
            }
            Self::Set(set) if set.is_empty() => Some("the set is empty".to_owned()),
            _ => None,
        }
    }
}

impl fmt::Display for Cpus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => Ok(()),
            Self::Count(n) => n.fmt(f),
            Self::Set(set) if set.len() == 1 => write!(f, "{set}-{set}"),
            Self::Set(set) => set.fmt(f),
        }
    }
}

impl FromStr for Cpus {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let text = text.trim();
        if text.is_empty() {
            return Ok(Self::All);
        }
        let cpus =
            if text.bytes().all(|b| b.is_ascii_digit()) {
                Self::Count(text.parse().unwrap_or(u32::MAX))
            } else {
                Self::Set(text.parse().map_err(|e: Error| {
                    e.hint("a count such as 2, a set such as 0-1,3, or 1-1 for one CPU")
                })?)
            };
        match cpus.problem() {
            None => Ok(cpus),
            Some(why) => Err(Error::invalid("CPUs", why).object(clip(text))),
        }
    }
}

/// The memory nodes (NUMA) whose CPUs an instance may get. As text, and in JSON, as `limits.cpu.nodes` of Incus: a set,
/// or `balanced`.
///
/// ```
/// use stockade::instance::CpuNodes;
///
/// assert_eq!("balanced".parse::<CpuNodes>()?, CpuNodes::Balanced);
/// assert_eq!("0".parse::<CpuNodes>()?, CpuNodes::Set("0".parse()?));
/// # Ok::<(), stockade::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
#[non_exhaustive]
pub enum CpuNodes {
    /// All nodes.
    #[default]
    Any,
    /// These.
    Set(NodeSet),
    /// As few as have the CPUs that it wants; the least used at its start, and the same ones while it runs.
    Balanced,
}

impl From<NodeSet> for CpuNodes {
    fn from(set: NodeSet) -> Self {
        Self::Set(set)
    }
}

impl fmt::Display for CpuNodes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => Ok(()),
            Self::Set(set) => set.fmt(f),
            Self::Balanced => f.write_str("balanced"),
        }
    }
}

impl FromStr for CpuNodes {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text.trim() {
            "" => Ok(Self::Any),
            "balanced" => Ok(Self::Balanced),
            set => {
                let set = set.parse().map_err(|e: Error| e.hint("a set such as 0-1, or `balanced`"))?;
                Ok(Self::Set(set))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_a_count_and_all_else_a_set() {
        for (text, shown) in
            [("", ""), ("2", "2"), ("1-1", "1-1"), ("1,0", "0-1"), ("0-1,3", "0-1,3"), (" 4\n", "4")]
        {
            let cpus: Cpus = text.parse().unwrap();
            assert_eq!(cpus.to_string(), shown, "{text:?}");
            let json = serde_json::to_string(&cpus).unwrap();
            assert_eq!(serde_json::from_str::<Cpus>(&json).unwrap(), cpus);
        }
        for (text, why) in [
            ("0", "no count"),
            ("00", "no count"),
            ("8193", "most"),
            ("99999999999", "most"),
            ("1,1", "twice"),
        ] {
            let e = text.parse::<Cpus>().unwrap_err();
            assert!(e.to_string().contains(why), "{text}: {e}");
        }
        assert!("x".parse::<Cpus>().unwrap_err().way_out().unwrap().contains("1-1"));
        assert!(Cpus::Set(CpuSet::default()).problem().is_some());
        for bad in ["Balanced", "x", "0,0", "5000"] {
            assert!(bad.parse::<CpuNodes>().is_err(), "{bad}");
        }
        assert_eq!("0-1".parse::<CpuNodes>().unwrap().to_string(), "0-1");
    }
}
