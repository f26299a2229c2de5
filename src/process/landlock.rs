//! [`Landlock`]: what the programs of a container may do to files, whoever they are there.

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::{Error, ErrorKind, Result};
use crate::named_bits::named_bits;
use crate::os_text;
use crate::sys;

/// The lowest version of the kernel's interface that is used: it restricts truncating, too.
const MIN_ABI: u32 = 3;
/// A plan must carry them.
const MAX_RULES: usize = 256;

named_bits! {
    /// Rights over files, by the names of the kernel (`landlock(7)`). In JSON a list of names.
    FileAccess(u64), "right over files":
    /// Execute a file.
    EXECUTE = 0, "execute";
    /// Open a file to write to it.
    WRITE_FILE = 1, "write_file";
    /// Open a file to read it.
    READ_FILE = 2, "read_file";
    /// Open or list a directory.
    READ_DIR = 3, "read_dir";
    /// Remove or rename an empty directory.
    REMOVE_DIR = 4, "remove_dir";
    /// Remove or rename a file.
    REMOVE_FILE = 5, "remove_file";
    /// Make a character device.
    MAKE_CHAR = 6, "make_char";
    /// Make a directory.
    MAKE_DIR = 7, "make_dir";
    /// Make a file.
    MAKE_REG = 8, "make_reg";
    /// Make a socket.
    MAKE_SOCK = 9, "make_sock";
    /// Make a FIFO.
    MAKE_FIFO = 10, "make_fifo";
    /// Make a block device.
    MAKE_BLOCK = 11, "make_block";
    /// Make a symbolic link.
    MAKE_SYM = 12, "make_sym";
    /// Link or rename a file from one directory to another.
    REFER = 13, "refer";
    /// Cut a file.
    TRUNCATE = 14, "truncate";
    /// Call `ioctl(2)` on a device. Not restricted before Linux 6.10.
    IOCTL_DEV = 15, "ioctl_dev";
}

impl FileAccess {
    /// Reading files and directories.
    pub const READ: Self = Self::READ_FILE.union(Self::READ_DIR);
    /// Reading, and executing.
    pub const RUN: Self = Self::READ.union(Self::EXECUTE);
    /// Everything.
    pub const ALL: Self = Self(0xffff);
}

/// Rules of Landlock: what the programs of a container may do to files, root among them, and all that they execute. What
/// no rule allows is denied (`EACCES`). Mounting is denied altogether, so it is nothing for an init.
///
/// The rules hold below directories and for files as they are found when the container starts, or a command of an exec:
/// a link in a path leads inside the container's root. Needs Linux 6.2.
///
/// ```
/// use stockade::process::{FileAccess, Landlock};
///
/// let rules = Landlock::new()
///     .allow("/", FileAccess::RUN)
///     .allow("/dev/null", FileAccess::ALL)
///     .allow("/var/cache/app", FileAccess::ALL);
/// rules.validate()?;
/// # Ok::<(), stockade::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Landlock {
    rules: Vec<Rule>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Rule {
    #[serde(with = "os_text")]
    path: PathBuf,
    access: FileAccess,
}

impl Landlock {
    /// Without a rule, that is: nothing is allowed.
    pub fn new() -> Self {
        Self::default()
    }

    /// Allows this below the directory, or to the file, at an absolute path inside. What is for directories alone is left
    /// out for a file. It must be there at the start.
    #[must_use]
    pub fn allow(mut self, path: impl Into<PathBuf>, access: FileAccess) -> Self {
        self.rules.push(Rule { path: path.into(), access });
        self
    }

    /// Checks the rules.
    ///
    /// # Errors
    /// [`InvalidConfig`](ErrorKind::InvalidConfig) where there is none or are more than 256, a path is not absolute or has
    /// a NUL byte, or a rule allows nothing.
    pub fn validate(&self) -> Result<()> {
        let bad = |why: &str| Error::invalid("landlock", why);
        if self.rules.is_empty() {
            return Err(bad("has no rule, so that not even the program could be executed"));
        }
        if self.rules.len() > MAX_RULES {
            return Err(bad("has more than 256 rules"));
        }
        for rule in &self.rules {
            if !rule.path.is_absolute() || rule.path.as_os_str().as_bytes().contains(&0) {
                return Err(bad("has a path that is not absolute, or has a NUL byte").path(&rule.path));
            }
            if rule.access.is_empty() {
                return Err(bad("has a rule that allows nothing").path(&rule.path));
            }
        }
        Ok(())
    }

    /// The rights that the kernel restricts, and the rules in its numbers.
    pub(crate) fn for_kernel(&self) -> Result<(u64, Vec<(&Path, u64)>)> {
        let abi = sys::process::landlock_abi().ok().filter(|abi| *abi >= MIN_ABI);
        let Some(abi) = abi else {
            return Err(Error::new(ErrorKind::Unsupported, "set the Landlock rules")
                .detail("Landlock is not active in this kernel, or older than its third version")
                .hint("Linux 6.2 has it, started with `lsm=` that names landlock"));
        };
        let handled = if abi >= 5 { FileAccess::ALL.0 } else { FileAccess::ALL.0 & !FileAccess::IOCTL_DEV.0 };
        Ok((handled, self.rules.iter().map(|rule| (&*rule.path, rule.access.0 & handled)).collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_are_checked_and_stored() {
        let good = Landlock::new().allow("/", FileAccess::RUN).allow("/tmp", FileAccess::ALL);
        good.validate().unwrap();
        let json = serde_json::to_string(&good).unwrap();
        assert!(json.contains("execute") && json.contains("ioctl_dev"), "{json}");
        assert_eq!(serde_json::from_str::<Landlock>(&json).unwrap(), good);
        assert!(serde_json::from_str::<FileAccess>(r#"["x"]"#).is_err());
        let many = (0..257).fold(Landlock::new(), |all, _| all.allow("/", FileAccess::READ));
        for bad in [
            Landlock::new(),
            Landlock::new().allow("tmp", FileAccess::ALL),
            Landlock::new().allow("/a\0b", FileAccess::ALL),
            Landlock::new().allow("/", FileAccess::EMPTY),
            many,
        ] {
            assert!(bad.validate().is_err(), "{bad:?}");
        }
        assert!(FileAccess::ALL.contains(FileAccess::RUN) && !FileAccess::READ.contains(FileAccess::EXECUTE));
        assert_eq!(FileAccess::NAMES.iter().fold(0, |all, (_, right)| all | right.0), FileAccess::ALL.bits());
    }
}
