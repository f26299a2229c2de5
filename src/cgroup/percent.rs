//! Parts of a whole, as the kernel writes them.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::stats::digits;
use crate::error::{Error, Result};

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
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
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

    /// In percent: 0 to 100.
    pub fn percent(self) -> f64 {
        f64::from(self.0) / 100.0
    }

    /// The number with at most two decimals that `text` begins with, and the rest.
    pub(super) fn read(text: &[u8]) -> Option<(Self, &[u8])> {
        let value = |digit: &u8| u16::from(digit - b'0');
        let (whole, rest) = digits(text)?;
        let (hundredths, rest) = match rest {
            [b'.', a @ b'0'..=b'9', b @ b'0'..=b'9', rest @ ..] => (value(a) * 10 + value(b), rest),
            [b'.', a @ b'0'..=b'9', rest @ ..] => (value(a) * 10, rest),
            [b'.', ..] => return None,
            rest => (0, rest),
        };
        let n = u16::try_from(whole).ok()?.checked_mul(100)?.checked_add(hundredths)?;
        (n <= Self::WHOLE.0).then_some((Self(n), rest))
    }
}

impl fmt::Display for Percent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:02}", self.0 / 100, self.0 % 100)
    }
}

impl FromStr for Percent {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match Self::read(text.trim().as_bytes()) {
            Some((percent, [])) => Ok(percent),
            _ => {
                let shown: String = text.chars().take(40).collect();
                let why = "is no number from 0 to 100 with at most two decimals";
                Err(Error::invalid("percentage", why).object(shown))
            }
        }
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
}
