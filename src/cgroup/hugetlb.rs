//! The hugetlb controller.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::Controller;
use super::limit::Limit;
use super::limits::{Limits, patch_fields};
use super::setting::{Files, Problems, Settings, read_limit};
use crate::error::Result;

/// A size of huge pages, in bytes. As text what the kernel calls it: `2MB`, `1GB`, `64KB`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct HugePageSize(u64);

impl HugePageSize {
    /// 2 MiB, on x86_64 and on aarch64 with pages of 4 KiB.
    pub const MB2: Self = Self(2 << 20);
    /// 1 GiB, on the same.
    pub const GB1: Self = Self(1 << 30);

    /// Pages of this many bytes: a power of two, 4 KiB or more.
    ///
    /// # Errors
    /// [`InvalidConfig`](crate::ErrorKind::InvalidConfig) for any other number.
    pub fn from_bytes(bytes: u64) -> Result<Self> {
        if !bytes.is_power_of_two() || bytes < 4096 {
            let why = "is no power of two from 4096 on";
            return Err(crate::Error::invalid("size of huge pages", why).object(bytes.to_string()));
        }
        Ok(Self(bytes))
    }

    /// In bytes.
    pub fn bytes(self) -> u64 {
        self.0
    }

    fn parse(text: &str) -> Option<Self> {
        let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let shift = match text.get(digits..)? {
            "KB" => 10,
            "MB" => 20,
            "GB" => 30,
            _ => return None,
        };
        let n = text.get(..digits)?.parse::<u64>().ok()?;
        Self::from_bytes(n.checked_mul(1 << shift)?).ok()
    }
}

impl fmt::Display for HugePageSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            n if n >= 1 << 30 => write!(f, "{}GB", n >> 30),
            n if n >= 1 << 20 => write!(f, "{}MB", n >> 20),
            n => write!(f, "{}KB", n >> 10),
        }
    }
}

impl std::str::FromStr for HugePageSize {
    type Err = crate::Error;

    fn from_str(text: &str) -> Result<Self> {
        Self::parse(text).ok_or_else(|| {
            let shown: String = text.chars().take(40).collect();
            crate::Error::invalid("size of huge pages", "is none such as 64KB, 2MB or 1GB").object(shown)
        })
    }
}

impl TryFrom<String> for HugePageSize {
    type Error = crate::Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<HugePageSize> for String {
    fn from(size: HugePageSize) -> Self {
        size.to_string()
    }
}

/// Limits of the huge pages of one size.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct HugetlbLimits {
    /// Bytes in use (`hugetlb.SIZE.max`): above it a page fault ends in SIGBUS. The kernel takes no limit below
    /// the present use.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max: Option<Limit>,
    /// Bytes reserved by `mmap(2)` (`hugetlb.SIZE.rsvd.max`): above it the call fails.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rsvd_max: Option<Limit>,
}

patch_fields!(HugetlbLimits { max, rsvd_max });

impl HugetlbLimits {
    /// None.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the bytes in use.
    #[must_use]
    pub fn max(mut self, max: impl Into<Limit>) -> Self {
        self.max = Some(max.into());
        self
    }

    /// Sets the bytes reserved.
    #[must_use]
    pub fn rsvd_max(mut self, max: impl Into<Limit>) -> Self {
        self.rsvd_max = Some(max.into());
        self
    }
}

pub(super) fn problems(limits: &Limits, out: &mut Problems) {
    for (size, l) in &limits.hugetlb {
        out.bytes(format_args!("hugetlb[{size}].max"), l.max);
        out.bytes(format_args!("hugetlb[{size}].rsvd_max"), l.rsvd_max);
    }
}

pub(super) fn settings(limits: &Limits, out: &mut Settings) {
    for (size, l) in &limits.hugetlb {
        out.add(Controller::Hugetlb, format!("hugetlb.{size}.max"), l.max);
        out.add(Controller::Hugetlb, format!("hugetlb.{size}.rsvd.max"), l.rsvd_max);
    }
}

pub(super) fn read(files: &dyn Files, limits: &mut Limits) -> Result<()> {
    for name in files.names()? {
        let size = name.strip_prefix("hugetlb.").and_then(|n| n.strip_suffix(".max"));
        let Some(size) = size.and_then(HugePageSize::parse) else { continue };
        let max = read_limit(files, &name)?;
        let rsvd_max = read_limit(files, &format!("hugetlb.{size}.rsvd.max"))?;
        limits.hugetlb.insert(size, HugetlbLimits { max, rsvd_max });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_called_as_the_kernel_calls_them() {
        for (bytes, text) in [(64 << 10, "64KB"), (2 << 20, "2MB"), (1 << 30, "1GB"), (16 << 30, "16GB")] {
            let size = HugePageSize::from_bytes(bytes).unwrap();
            assert_eq!(size.to_string(), text);
            assert_eq!(text.parse::<HugePageSize>().unwrap(), size);
        }
        for bad in ["", "MB", "2", "2mb", "3MB", "2MB.rsvd", "-2MB", "1KB", "99999999999999999GB"] {
            assert!(bad.parse::<HugePageSize>().is_err(), "{bad}");
        }
        HugePageSize::from_bytes(0).unwrap_err();
    }
}
