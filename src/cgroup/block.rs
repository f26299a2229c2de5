//! Block devices, by number or by path.

use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::{fmt, fs};

use rustix::fs::{FileType, makedev};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::stats::digits;
use crate::error::{Error, ErrorKind, Result};

/// The number of a block device (`makedev(3)`). As text, and in JSON, `8:16`.
///
/// ```
/// use stockade::cgroup::DeviceNumber;
///
/// assert_eq!("8:16".parse::<DeviceNumber>()?, DeviceNumber::new(8, 16));
/// # Ok::<(), stockade::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct DeviceNumber {
    /// Which driver: 12 bits.
    pub major: u32,
    /// Which of its devices: 20 bits.
    pub minor: u32,
}

impl DeviceNumber {
    /// The number of these two parts.
    pub fn new(major: u32, minor: u32) -> Self {
        Self { major, minor }
    }

    /// The number that `text` begins with, and the rest.
    pub(super) fn read(text: &[u8]) -> Option<(Self, &[u8])> {
        let (major, rest) = digits(text)?;
        let (minor, rest) = digits(rest.strip_prefix(b":")?)?;
        let (major, minor) = (u32::try_from(major).ok()?, u32::try_from(minor).ok()?);
        // What fits into the kernel's own numbers.
        (major < 1 << 12 && minor < 1 << 20).then_some((Self { major, minor }, rest))
    }

    fn parse(text: &str) -> Option<Self> {
        match Self::read(text.as_bytes()) {
            Some((number, [])) => Some(number),
            _ => None,
        }
    }
}

impl fmt::Display for DeviceNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.major, self.minor)
    }
}

impl FromStr for DeviceNumber {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Self::parse(text).ok_or_else(|| bad(text, "is no MAJOR:MINOR of a block device"))
    }
}

impl TryFrom<String> for DeviceNumber {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<DeviceNumber> for String {
    fn from(number: DeviceNumber) -> Self {
        number.to_string()
    }
}

fn bad(text: &str, why: &str) -> Error {
    Error::invalid("block device", why).object(text.chars().take(80).collect::<String>())
}

/// A block device. As text, and in JSON, `8:0` or an absolute path.
///
/// A path is looked up when limits are set: a device node is the device itself, and any other file or directory is
/// the device of the file system that it is on. The limits of a partition are those of its whole disk: the kernel
/// has none for partitions.
///
/// ```
/// use stockade::cgroup::BlockDevice;
///
/// assert_eq!("8:16".parse::<BlockDevice>()?, BlockDevice::number(8, 16));
/// assert_eq!("/dev/sdb".parse::<BlockDevice>()?, BlockDevice::path("/dev/sdb"));
/// assert!("sdb".parse::<BlockDevice>().is_err());
/// # Ok::<(), stockade::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
#[non_exhaustive]
pub enum BlockDevice {
    /// By its number.
    Number(DeviceNumber),
    /// By its node, or by a file on it.
    Path(PathBuf),
}

impl BlockDevice {
    /// The device of this number.
    pub fn number(major: u32, minor: u32) -> Self {
        Self::Number(DeviceNumber::new(major, minor))
    }

    /// The device of this node, or of the file system that this file is on.
    pub fn path(path: impl Into<PathBuf>) -> Self {
        Self::Path(path.into())
    }

    fn parse(text: &str) -> Option<Self> {
        if text.starts_with('/') && !text.contains('\0') {
            return Some(Self::path(text));
        }
        DeviceNumber::parse(text).map(Self::Number)
    }

    /// The number of the whole disk.
    pub(super) fn resolve(&self) -> Result<DeviceNumber> {
        let number = match self {
            Self::Number(number) => *number,
            Self::Path(path) => number_of(path)?,
        };
        let dir = PathBuf::from(format!("/sys/dev/block/{number}"));
        let unknown = || Error::new(ErrorKind::NotFound, "look up block device").object(self.to_string());
        let Ok(target) = fs::read_link(&dir) else {
            return Err(unknown()
                .detail(format!("the kernel has no block device {number}"))
                .hint("look for its number with lsblk(8), or name a file on it"));
        };
        // A disk whose directory is that of a class, as nearly all are, needs no other look.
        if target.parent().is_some_and(|p| p.ends_with("block")) || !dir.join("partition").exists() {
            return Ok(number);
        }
        // The link ends in the directory of the partition, which is below its disk's.
        let disk = fs::read_to_string(dir.join("../dev")).ok();
        disk.and_then(|t| DeviceNumber::parse(t.trim()))
            .ok_or_else(|| unknown().detail(format!("the disk of partition {number} is not known")))
    }
}

fn number_of(path: &Path) -> Result<DeviceNumber> {
    let error = |e: Errno| {
        let e = Error::sys("look up block device", e).path(path);
        if e.kind() == ErrorKind::NotFound { e.detail("there is no such file") } else { e }
    };
    let stat = rustix::fs::stat(path).map_err(error)?;
    let device = match FileType::from_raw_mode(stat.st_mode) {
        FileType::BlockDevice => stat.st_rdev,
        _ => stat.st_dev,
    };
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    debug_assert_eq!(makedev(major, minor), device);
    if major == 0 {
        return Err(Error::new(ErrorKind::InvalidConfig, "look up block device")
            .path(path)
            .detail("its file system is on no single block device, as tmpfs, overlay or btrfs")
            .hint("name the device itself"));
    }
    Ok(DeviceNumber { major, minor })
}

impl fmt::Display for BlockDevice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(number) => number.fmt(f),
            Self::Path(path) => path.display().fmt(f),
        }
    }
}

impl FromStr for BlockDevice {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Self::parse(text).ok_or_else(|| bad(text, "is neither MAJOR:MINOR nor an absolute path"))
    }
}

impl TryFrom<String> for BlockDevice {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<BlockDevice> for String {
    fn from(device: BlockDevice) -> Self {
        device.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_numbers_or_absolute_paths() {
        for good in ["8:0", "259:1", "4095:1048575", "/dev/sda", "/srv/x y"] {
            assert_eq!(good.parse::<BlockDevice>().unwrap().to_string(), good);
        }
        for bad in ["", "8", "8:", ":0", "8:-1", "+8:0", "4096:0", "8:1048576", "sda", "./x", "8:0:0", "/a\0"]
        {
            assert!(bad.parse::<BlockDevice>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn what_has_no_device_says_so() {
        let e = BlockDevice::number(4000, 7).resolve().unwrap_err();
        assert_eq!(e.kind(), ErrorKind::NotFound);
        assert!(e.to_string().contains("4000:7"), "{e}");
        let e = BlockDevice::path("/no/such/file").resolve().unwrap_err();
        assert_eq!(e.kind(), ErrorKind::NotFound);
        assert!(e.to_string().contains("/no/such/file"), "{e}");
        let e = BlockDevice::path("/proc/self").resolve().unwrap_err();
        assert_eq!(e.kind(), ErrorKind::InvalidConfig);
        assert!(e.way_out().is_some() && e.to_string().contains("/proc/self"), "{e}");
    }

    #[test]
    fn every_device_of_this_host_is_a_whole_disk_or_has_one() {
        for entry in fs::read_dir("/sys/dev/block").into_iter().flatten().flatten() {
            let device: BlockDevice = entry.file_name().to_str().unwrap().parse().unwrap();
            let disk = format!("/sys/dev/block/{}", device.resolve().unwrap());
            assert!(!Path::new(&disk).join("partition").exists(), "{device} -> {disk}");
        }
    }
}
