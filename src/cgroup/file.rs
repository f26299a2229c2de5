//! Reading and writing a cgroup's interface files.

use std::os::fd::AsFd;

use rustix::fs::{Dir, Mode, OFlags};
use rustix::io::Errno;

use super::group::Cgroup;
use super::setting::Files;
use super::{Controller, DELEGATION};
use crate::error::{Error, ErrorKind, Result};
use crate::sys::fd::{read_at, write_at};
use crate::sys::raw::retry;

/// More than any interface file holds, `cgroup.procs` of a full pid space included.
const LIMIT: usize = 64 << 20;

impl Cgroup {
    /// Reads the interface file `name`.
    pub(super) fn read(&self, name: &str) -> Result<String> {
        let bytes =
            read_at(self.fd(), name, LIMIT).map_err(|e| self.error(format!("read {name}"), name, e))?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// Reads `name`; `None` where this cgroup has no such file.
    pub(super) fn read_optional(&self, name: &str) -> Result<Option<String>> {
        match self.read(name) {
            Err(e) if e.errno() == Some(libc::ENOENT) => Ok(None),
            done => done.map(Some),
        }
    }

    /// Writes `value` to the interface file `name`.
    pub(super) fn write(&self, name: &str, value: &str) -> Result<()> {
        write_at(self.fd(), name, value.as_bytes())
            .map_err(|e| self.error(format!("write `{value}` to"), name, e))
    }

    /// The error of a failed access to the interface file `name`.
    pub(super) fn error(&self, step: String, name: &str, errno: Errno) -> Error {
        let e = Error::sys(step, errno).path(self.path().join(name));
        match errno {
            Errno::ACCESS | Errno::PERM => {
                let e = match self.owner_of(name) {
                    Some(owner) => e.detail(format!("it belongs to user {owner}")),
                    None => e,
                };
                e.hint(DELEGATION)
            }
            Errno::ROFS => e.with_kind(ErrorKind::PermissionDenied).hint(READ_ONLY),
            Errno::NODEV => e.with_kind(ErrorKind::NotFound).detail("the cgroup was removed"),
            _ => e,
        }
    }
}

impl Files for Cgroup {
    fn get(&self, name: &str) -> Result<String> {
        self.read(name)
    }

    fn put(&self, name: &str, value: &str) -> Result<()> {
        self.write(name, value)
    }

    fn names(&self) -> Result<Vec<String>> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let names = || -> Result<Vec<String>, Errno> {
            let dir = retry(|| rustix::fs::openat(self.as_fd(), ".", flags, Mode::empty()))?;
            let mut names = Vec::new();
            for entry in Dir::new(dir)? {
                names.extend(entry?.file_name().to_str().ok().map(str::to_owned));
            }
            Ok(names)
        };
        names().map_err(|e| self.error("list the files of cgroup".to_owned(), "", e))
    }

    fn lacks(&self, controller: Controller, name: &str) -> Error {
        self.missing(controller, name)
    }
}

/// What to do about a read-only cgroup mount.
pub(super) const READ_ONLY: &str =
    "the cgroup2 file system is mounted read-only here: have it mounted read-write in this container";

/// The value of `key` in a flat keyed file (`KEY VALUE` lines).
pub(super) fn flat_value(text: &str, key: &str) -> Option<u64> {
    text.lines().find_map(|l| l.strip_prefix(key)?.strip_prefix(' ')?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flat_keys_match_whole_words() {
        let text = "oom 1\noom_kill 7\noom_group_kill x\n";
        assert_eq!(flat_value(text, "oom"), Some(1));
        assert_eq!(flat_value(text, "oom_kill"), Some(7));
        assert_eq!(flat_value(text, "oom_group_kill"), None);
        assert_eq!(flat_value(text, "max"), None);
    }
}
