//! Sizes in bytes as text.

use std::fmt;
use std::str::FromStr;

use super::shown;
use crate::error::{Error, Result};

/// The most that the kernel counts.
const MAX: u64 = i64::MAX as u64;
const UNITS: [(&str, u64); 12] = [
    ("kB", 1000),
    ("MB", 1000_u64.pow(2)),
    ("GB", 1000_u64.pow(3)),
    ("TB", 1000_u64.pow(4)),
    ("PB", 1000_u64.pow(5)),
    ("EB", 1000_u64.pow(6)),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
    ("PiB", 1 << 50),
    ("EiB", 1 << 60),
];

/// A size in bytes. As text a whole number, and a unit or none: `B` or ` bytes`; `kB` to `EB`, powers of 1,000; `KiB` to
/// `EiB`, powers of 1,024. Units are told by case. Nothing at all is 0. Up to 2^63 - 1 bytes, what the kernel counts.
///
/// ```
/// use stockade::instance::keys::ByteSize;
///
/// assert_eq!("512MiB".parse::<ByteSize>()?.bytes(), 512 << 20);
/// assert_eq!("2 bytes".parse::<ByteSize>()?.bytes(), 2);
/// assert_eq!(ByteSize::new(3_000_000)?.to_string(), "3MB");
/// for bad in ["1.5GB", "1 GB", "1gb", "-1", "8EiB", "MB"] {
///     assert!(bad.parse::<ByteSize>().is_err(), "{bad}");
/// }
/// # Ok::<(), stockade::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ByteSize(u64);

impl ByteSize {
    /// This many bytes.
    ///
    /// # Errors
    /// [`InvalidConfig`](crate::ErrorKind::InvalidConfig) above 2^63 - 1.
    pub fn new(bytes: u64) -> Result<Self> {
        if bytes > MAX {
            return Err(Error::invalid("size", too_large()).object(bytes.to_string()));
        }
        Ok(Self(bytes))
    }

    /// In bytes.
    pub fn bytes(self) -> u64 {
        self.0
    }

    pub(super) fn read(text: &str) -> Result<Self, String> {
        let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let (number, unit) = text.split_at(digits);
        let factor = match unit {
            "" | "B" | " bytes" => Some(1),
            _ => UNITS.iter().find(|(name, _)| *name == unit).map(|(_, factor)| *factor),
        };
        let Some(factor) = factor.filter(|_| digits > 0 || text.is_empty()) else {
            return Err(format!(
                "`{}` is no size: a whole number with B, kB, MB, GB, TB, PB, EB, KiB, MiB, GiB, TiB, PiB, EiB or no unit",
                shown(text)
            ));
        };
        if text.is_empty() {
            return Ok(Self(0));
        }
        // Digits alone: what fails is too large.
        let bytes = number.parse::<u64>().ok().and_then(|n| n.checked_mul(factor)).filter(|n| *n <= MAX);
        bytes.map(Self).ok_or_else(|| format!("`{}` {}", shown(text), too_large()))
    }
}

fn too_large() -> String {
    format!("is above {MAX} bytes, the most that the kernel counts")
}

impl fmt::Display for ByteSize {
    /// With the largest unit that leaves no fraction, a binary one where that gives the smaller number.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fits = UNITS.iter().filter(|(_, factor)| self.0 > 0 && self.0.is_multiple_of(*factor));
        match fits.max_by_key(|(_, factor)| *factor) {
            Some((unit, factor)) => write!(f, "{}{unit}", self.0 / factor),
            None => self.0.fmt(f),
        }
    }
}

impl FromStr for ByteSize {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Self::read(text).map_err(|why| Error::invalid("size", why))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn units_are_exact() {
        for (text, bytes) in [
            ("", 0),
            ("0", 0),
            ("7", 7),
            ("7B", 7),
            ("7 bytes", 7),
            ("007kB", 7000),
            ("1KiB", 1024),
            ("3MB", 3_000_000),
            ("3MiB", 3 << 20),
            ("2GB", 2_000_000_000),
            ("2GiB", 2 << 30),
            ("1TB", 1_000_000_000_000),
            ("1TiB", 1 << 40),
            ("1PB", 1_000_000_000_000_000),
            ("1PiB", 1 << 50),
            ("9EB", 9_000_000_000_000_000_000),
            ("7EiB", 7 << 60),
            ("9223372036854775807", MAX),
        ] {
            assert_eq!(text.parse::<ByteSize>().unwrap().bytes(), bytes, "{text}");
        }
        for (text, why) in [
            ("9223372036854775808", "above"),
            ("8EiB", "above"),
            ("10EB", "above"),
            ("99999999999999999999999", "above"),
            ("-1", "no size"),
            ("+1", "no size"),
            ("1.5GB", "no size"),
            ("1 GB", "no size"),
            ("1KB", "no size"),
            ("1kiB", "no size"),
            ("1gb", "no size"),
            ("MB", "no size"),
            ("1bytes", "no size"),
            (" 1", "no size"),
            ("1\n", "no size"),
            ("\u{661}", "no size"),
            ("1GBx", "no size"),
        ] {
            let e = text.parse::<ByteSize>().unwrap_err();
            assert!(e.to_string().contains(why), "{text:?}: {e}");
        }
        ByteSize::new(MAX + 1).unwrap_err();
        for (bytes, text) in [(0, "0"), (1023, "1023"), (1024, "1KiB"), (1000, "1kB"), (1_024_000, "1000KiB")]
        {
            assert_eq!(ByteSize::new(bytes).unwrap().to_string(), text);
        }
    }

    proptest! {
        #[test]
        fn sizes_round_trip(n in 0..=MAX, unit in 0..UNITS.len(), small in 0..5000_u64) {
            for bytes in [n, small, small.saturating_mul(UNITS[unit].1)] {
                let Ok(size) = ByteSize::new(bytes) else { continue };
                prop_assert_eq!(size.to_string().parse::<ByteSize>().unwrap(), size);
                prop_assert_eq!(bytes.to_string().parse::<ByteSize>().unwrap(), size);
            }
        }

        #[test]
        fn no_text_panics(text in "\\PC*", number in "[0-9]{0,25}", unit in "( |[kKMGTPE]?i?B?|bytes){0,2}") {
            let _ = text.parse::<ByteSize>();
            if let Ok(size) = format!("{number}{unit}").parse::<ByteSize>() {
                prop_assert_eq!(size.to_string().parse::<ByteSize>().unwrap(), size);
            }
        }
    }
}
