//! Block devices, by number or by path.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use rustix::fs::{FileType, makedev};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::error::{Error, ErrorKind, Result};

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
    #[non_exhaustive]
    Number {
        /// Which driver.
        major: u32,
        /// Which of its devices.
        minor: u32,
    },
    /// By its node, or by a file on it.
    Path(PathBuf),
}

impl BlockDevice {
    /// The device of this number.
    pub fn number(major: u32, minor: u32) -> Self {
        Self::Number { major, minor }
    }

    /// The device of this node, or of the file system that this file is on.
    pub fn path(path: impl Into<PathBuf>) -> Self {
        Self::Path(path.into())
    }

    fn parse(text: &str) -> Option<Self> {
        if text.starts_with('/') && !text.contains('\0') {
            return Some(Self::path(text));
        }
        let (major, minor) = parse_number(text)?;
        Some(Self::number(major, minor))
    }

    /// The number of the whole disk.
    pub(super) fn resolve(&self) -> Result<(u32, u32)> {
        let (major, minor) = match self {
            Self::Number { major, minor } => (*major, *minor),
            Self::Path(path) => number_of(path)?,
        };
        let dir = PathBuf::from(format!("/sys/dev/block/{major}:{minor}"));
        let unknown = || Error::new(ErrorKind::NotFound, "look up block device").object(self.to_string());
        if !dir.exists() {
            return Err(unknown()
                .detail(format!("the kernel has no block device {major}:{minor}"))
                .hint("look for its number with lsblk(8), or name a file on it"));
        }
        if !dir.join("partition").exists() {
            return Ok((major, minor));
        }
        // The link ends in the directory of the partition, which is below its disk's.
        let disk = std::fs::read_to_string(dir.join("../dev")).ok();
        disk.and_then(|t| parse_number(t.trim()))
            .ok_or_else(|| unknown().detail(format!("the disk of partition {major}:{minor} is not known")))
    }
}

fn parse_number(text: &str) -> Option<(u32, u32)> {
    let digits = |s: &str| !s.is_empty() && s.bytes().all(|b| b.is_ascii_digit());
    let (major, minor) = text.split_once(':')?;
    if !digits(major) || !digits(minor) {
        return None;
    }
    let (major, minor) = (major.parse().ok()?, minor.parse().ok()?);
    // What fits into the kernel's own numbers: 12 and 20 bits.
    (major < 1 << 12 && minor < 1 << 20).then_some((major, minor))
}

fn number_of(path: &Path) -> Result<(u32, u32)> {
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
    Ok((major, minor))
}

impl fmt::Display for BlockDevice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number { major, minor } => write!(f, "{major}:{minor}"),
            Self::Path(path) => path.display().fmt(f),
        }
    }
}

impl FromStr for BlockDevice {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Self::parse(text).ok_or_else(|| {
            let shown: String = text.chars().take(80).collect();
            Error::invalid("block device", "is neither MAJOR:MINOR nor an absolute path").object(shown)
        })
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
        for entry in std::fs::read_dir("/sys/dev/block").into_iter().flatten().flatten() {
            let device: BlockDevice = entry.file_name().to_str().unwrap().parse().unwrap();
            let (major, minor) = device.resolve().unwrap();
            let disk = format!("/sys/dev/block/{major}:{minor}");
            assert!(!Path::new(&disk).join("partition").exists(), "{device} -> {disk}");
        }
    }
}
