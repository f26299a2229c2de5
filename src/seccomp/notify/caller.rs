//! Who makes a call that waits for an answer.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use crate::caps::{CapSet, Capability};

/// The longest status file that is read: a few hundred supplementary groups.
const STATUS_MAX: usize = 16 * 1024;

/// The thread that makes a call: its ids as the host numbers them, read while it waits.
#[derive(Debug)]
#[non_exhaustive]
pub struct Caller {
    /// Its number. Not the process's, where it is another thread than the first.
    pub thread: u32,
    /// The number of its process.
    pub process: u32,
    /// The user that counts for files (`setfsuid(2)`), as the host numbers it.
    pub fsuid: u32,
    /// The group that counts for files.
    pub fsgid: u32,
    /// Its supplementary groups.
    pub groups: Vec<u32>,
    /// The capabilities that it uses, over its own user namespace.
    pub effective: CapSet,
    /// Its file mode creation mask.
    pub umask: u32,
    /// Whether it has given up to gain rights by executing a program (`PR_SET_NO_NEW_PRIVS`).
    pub no_new_privs: bool,
    /// How many seccomp filters it is under.
    pub filters: u32,
    /// Its number in the innermost pid namespace that it is in.
    pub inner_thread: u32,
    /// Its user namespace: device and inode.
    pub(crate) user_namespace: (u64, u64),
    /// Its directory in proc.
    dir: OwnedFd,
}

impl Caller {
    /// Reads what proc says of the thread `tid`; the number may have passed to another by now, which is for the caller to
    /// ask afterwards.
    pub(crate) fn read(tid: u32) -> Result<Self, Errno> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let dir = rustix::fs::open(format!("/proc/{tid}"), flags, Mode::empty())?;
        let status = crate::sys::fd::read_at(dir.as_fd(), "status", STATUS_MAX)?;
        let user = rustix::fs::statat(&dir, "ns/user", rustix::fs::AtFlags::empty())?;
        let status = Status::parse(&status).ok_or(Errno::IO)?;
        Ok(Self {
            thread: tid,
            process: status.tgid,
            fsuid: status.fsuid,
            fsgid: status.fsgid,
            groups: status.groups,
            effective: CapSet::from_bits_truncate(status.effective),
            umask: status.umask,
            no_new_privs: status.no_new_privs,
            filters: status.filters,
            inner_thread: status.inner,
            user_namespace: (user.st_dev, user.st_ino),
            dir,
        })
    }

    /// Whether it uses this capability.
    pub fn has(&self, capability: Capability) -> bool {
        self.effective.contains(capability)
    }

    /// A descriptor of what its `root`, `cwd` or `fd/N` stands for. It does nothing but name it.
    pub(crate) fn open(&self, name: &str) -> Result<OwnedFd, Errno> {
        rustix::fs::openat(&self.dir, name, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
    }

    /// A file of its directory in proc, for reading.
    pub(crate) fn open_readable(&self, name: &str) -> Result<OwnedFd, Errno> {
        rustix::fs::openat(&self.dir, name, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
    }
}

impl AsFd for Caller {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.dir.as_fd()
    }
}

/// The lines of `proc_pid_status(5)` that count here.
#[derive(Debug, Default, PartialEq, Eq)]
struct Status {
    tgid: u32,
    fsuid: u32,
    fsgid: u32,
    groups: Vec<u32>,
    effective: u64,
    umask: u32,
    no_new_privs: bool,
    filters: u32,
    inner: u32,
}

impl Status {
    fn parse(text: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(text).ok().or_else(|| {
            // A name that is no UTF-8 is in the first line.
            let rest = text.iter().position(|b| *b == b'\n')?;
            std::str::from_utf8(&text[rest + 1..]).ok()
        })?;
        let mut found = Self::default();
        let mut lines = 0;
        for (key, value) in text.lines().filter_map(|line| line.split_once(':')) {
            let mut words = value.split_ascii_whitespace();
            match key {
                "Umask" => found.umask = u32::from_str_radix(words.next()?, 8).ok()?,
                "Tgid" => found.tgid = words.next()?.parse().ok()?,
                "Uid" => found.fsuid = words.nth(3)?.parse().ok()?,
                "Gid" => found.fsgid = words.nth(3)?.parse().ok()?,
                "Groups" => found.groups = words.map(|w| w.parse().ok()).collect::<Option<_>>()?,
                "NoNewPrivs" => found.no_new_privs = words.next()? != "0",
                "Seccomp_filters" => found.filters = words.next()?.parse().ok()?,
                "NSpid" => found.inner = words.next_back()?.parse().ok()?,
                "CapEff" => found.effective = u64::from_str_radix(words.next()?, 16).ok()?,
                _ => continue,
            }
            lines += 1;
        }
        (lines >= 9).then_some(found)
    }
}

/// Whether these bytes are read as the status of a thread.
#[cfg(feature = "fuzzing")]
pub(crate) fn is_status(bytes: &[u8]) -> bool {
    Status::parse(bytes).is_some_and(|status| status == Status::parse(bytes).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    const STATUS: &str = "Name:\ta:b\\n\nUmask:\t0022\nState:\tR (running)\nTgid:\t12\nNgid:\t0\nPid:\t13\nPPid:\t1\n\
        TracerPid:\t0\nUid:\t1000000\t1000000\t1000000\t1000007\nGid:\t1000000\t1000000\t1000000\t1000008\n\
        FDSize:\t64\nGroups:\t1000004 1000024 \nNStgid:\t12\t3\nNSpid:\t13\t4\nCapEff:\t000001fffffdffff\nNoNewPrivs:\t1\nSeccomp:\t2\n\
        Seccomp_filters:\t3\n";

    #[test]
    fn reads_the_lines_that_count() {
        let status = Status::parse(STATUS.as_bytes()).unwrap();
        assert_eq!((status.tgid, status.inner, status.umask), (12, 4, 0o22));
        assert_eq!((status.fsuid, status.fsgid), (1_000_007, 1_000_008));
        assert_eq!(status.groups, [1_000_004, 1_000_024]);
        assert_eq!(status.effective, 0x01ff_fffd_ffff);
        assert_eq!((status.no_new_privs, status.filters), (true, 3));
    }

    #[test]
    fn a_name_of_any_bytes_does_not_matter_and_a_missing_line_does() {
        let mut bytes = STATUS.as_bytes().to_vec();
        bytes[6] = 0xff;
        assert_eq!(Status::parse(&bytes), Status::parse(STATUS.as_bytes()));
        assert_eq!(Status::parse(STATUS.replace("CapEff", "CapXff").as_bytes()), None);
        assert_eq!(Status::parse(b""), None);
    }

    #[test]
    fn reads_this_thread() {
        let tid = rustix::thread::gettid().as_raw_nonzero().get().cast_unsigned();
        let caller = Caller::read(tid).unwrap();
        assert_eq!(caller.process, std::process::id());
        assert_ne!(caller.thread, caller.process, "a test has a thread of its own");
        assert_eq!(caller.fsuid, rustix::process::geteuid().as_raw());
        assert!(caller.open("cwd").is_ok() && caller.open("fd/999999").is_err());
    }
}
