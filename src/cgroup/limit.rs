//! A limit that a number sets or `max` lifts.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A limit that a number sets or `max` lifts. In serde and JSON a number or the string `"max"`.
///
/// ```
/// use stockade::cgroup::Limit;
///
/// assert_eq!(Limit::Max.to_string(), "max");
/// assert_eq!(Limit::Value(512).to_string(), "512");
/// assert!(Limit::Value(512) < Limit::Max);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(from = "LimitText", into = "LimitText")]
pub enum Limit {
    /// At most this much, in the unit of the field.
    Value(u64),
    /// No limit.
    Max,
}

impl Limit {
    /// What the kernel writes.
    pub(super) fn parse(text: &str) -> Option<Self> {
        match text.trim() {
            "max" => Some(Self::Max),
            number => number.parse().ok().map(Self::Value),
        }
    }
}

impl From<u64> for Limit {
    fn from(n: u64) -> Self {
        Self::Value(n)
    }
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
