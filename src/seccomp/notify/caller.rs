//! Who makes a call that waits for an answer.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use rustix::fs::{AtFlags, Mode, OFlags};
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
    files: Arc<Files>,
}

/// What proc has of one thread. The kernel finds nothing in there once that thread has ended, whoever gets its number.
#[derive(Debug)]
struct Files {
    tid: u32,
    dir: OwnedFd,
    status: OwnedFd,
}

/// The files of the thread that made the last call: most make more than one. What they say is read anew for each.
#[derive(Debug, Default)]
pub(super) struct Last(Mutex<Option<Arc<Files>>>);

impl Caller {
    /// Reads what proc says of the thread `tid`; the number may have passed to another by now, which is for the caller to
    /// ask afterwards.
    pub(crate) fn read(tid: u32) -> Result<Self, Errno> {
        Self::of(Arc::new(Files::open(tid)?))
    }

    /// The same, with files that are open from the last call of this thread.
    pub(super) fn read_again(tid: u32, last: &Last) -> Result<Self, Errno> {
        let mut last = last.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(files) = last.take().filter(|files| files.tid == tid)
            && let Ok(caller) = Self::of(Arc::clone(&files))
        {
            *last = Some(files);
            return Ok(caller);
        }
        // Another thread, or another one of that number.
        let caller = Self::read(tid)?;
        *last = Some(Arc::clone(&caller.files));
        Ok(caller)
    }

    fn of(files: Arc<Files>) -> Result<Self, Errno> {
        let status = Status::parse(&files.status()?).ok_or(Errno::IO)?;
        Ok(Self {
            thread: files.tid,
            process: status.tgid,
            fsuid: status.fsuid,
            fsgid: status.fsgid,
            groups: status.groups,
            effective: CapSet::from_bits_truncate(status.effective),
            umask: status.umask,
            no_new_privs: status.no_new_privs,
            filters: status.filters,
            inner_thread: status.inner,
            user_namespace: files.user_namespace()?,
            files,
        })
    }

    /// Whether it uses this capability.
    pub fn has(&self, capability: Capability) -> bool {
        self.effective.contains(capability)
    }

    /// A descriptor of what its `root`, `cwd` or `fd/N` stands for. It does nothing but name it.
    pub(crate) fn open(&self, name: &str) -> Result<OwnedFd, Errno> {
        rustix::fs::openat(&self.files.dir, name, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
    }

    /// A file of its directory in proc, for reading.
    pub(crate) fn open_readable(&self, name: &str) -> Result<OwnedFd, Errno> {
        rustix::fs::openat(&self.files.dir, name, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
    }
}

impl AsFd for Caller {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.files.dir.as_fd()
    }
}

impl Files {
    fn open(tid: u32) -> Result<Self, Errno> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let dir = rustix::fs::open(format!("/proc/{tid}"), flags, Mode::empty())?;
        let status = rustix::fs::openat(&dir, "status", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
        Ok(Self { tid, dir, status })
    }

    fn status(&self) -> Result<Vec<u8>, Errno> {
        // Most have 1500 bytes. A read from the beginning makes the text anew.
        let mut text = vec![0; 4096];
        let mut len = 0;
        loop {
            match rustix::io::pread(&self.status, &mut text[len..], len as u64) {
                Ok(n) => len += n,
                Err(Errno::INTR) => continue,
                Err(errno) => return Err(errno),
            }
            if len < text.len() || len >= STATUS_MAX {
                text.truncate(len);
                return Ok(text);
            }
            text.resize(STATUS_MAX, 0);
        }
    }

    /// Device and inode.
    fn user_namespace(&self) -> Result<(u64, u64), Errno> {
        /// That of all namespaces.
        static DEVICE: OnceLock<u64> = OnceLock::new();
        let device = match DEVICE.get() {
            Some(device) => *device,
            None => {
                let own = rustix::fs::stat("/proc/self/ns/user")?;
                *DEVICE.get_or_init(|| own.st_dev)
            }
        };
        // The name of the link has the inode; to follow it takes twice as long.
        let mut name = [0_u8; 64];
        let len = rustix::fs::readlinkat_raw(&self.dir, "ns/user", &mut name[..])?;
        match name.get(..len).and_then(inode) {
            Some(inode) => Ok((device, inode)),
            None => rustix::fs::statat(&self.dir, "ns/user", AtFlags::empty()).map(|s| (s.st_dev, s.st_ino)),
        }
    }
}

/// The number in `user:[4026531837]`.
fn inode(link: &[u8]) -> Option<u64> {
    let number = link.strip_prefix(b"user:[")?.strip_suffix(b"]")?;
    std::str::from_utf8(number).ok()?.parse().ok()
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
            // The rest is half of it.
            if lines == 9 {
                break;
            }
        }
        (lines == 9).then_some(found)
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
    fn namespaces_are_known_by_the_names_of_their_links() {
        assert_eq!(inode(b"user:[4026531837]"), Some(4_026_531_837));
        for other in [&b"net:[1]"[..], b"user:[]", b"user:[1", b"user:[1x]", b""] {
            assert_eq!(inode(other), None);
        }
        let tid = rustix::thread::gettid().as_raw_nonzero().get().cast_unsigned();
        let namespace = rustix::fs::stat("/proc/self/ns/user").unwrap();
        let found = Files::open(tid).unwrap().user_namespace().unwrap();
        assert_eq!(found, (namespace.st_dev, namespace.st_ino));
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "the mask of a thread that shares none")]
    fn what_is_kept_open_says_what_is_so_now_and_of_no_other_thread() {
        if let Err(why) = support::privilege() {
            return support::skip(why);
        }
        let last = Last::default();
        let (ask, asked) = std::sync::mpsc::channel::<()>();
        let (tell, told) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || {
            // A mask of its own, since the one that there is belongs to all threads.
            crate::sys::process::unshare_mounts().unwrap();
            for mask in [0o27, 0o77] {
                rustix::process::umask(Mode::from_raw_mode(mask));
                tell.send(rustix::thread::gettid().as_raw_nonzero().get().cast_unsigned()).unwrap();
                asked.recv().unwrap();
            }
        });
        let tid = told.recv().unwrap();
        let first = Caller::read_again(tid, &last).unwrap();
        ask.send(()).unwrap();
        told.recv().unwrap();
        let second = Caller::read_again(tid, &last).unwrap();
        assert_eq!((first.umask, second.umask), (0o27, 0o77));
        assert!(Arc::ptr_eq(&first.files, &second.files), "they were opened once");
        let own = rustix::thread::gettid().as_raw_nonzero().get().cast_unsigned();
        assert_eq!(Caller::read_again(own, &last).unwrap().thread, own);
        let back = Caller::read_again(tid, &last).unwrap();
        assert!(!Arc::ptr_eq(&first.files, &back.files));
        ask.send(()).unwrap();
        thread.join().unwrap();
        // It is joined a moment before the kernel has done with it.
        let gone = || second.files.status().is_err();
        support::until(std::time::Duration::from_secs(10), "the thread is gone", gone);
        assert!(Caller::read_again(tid, &last).is_err() && last.0.lock().unwrap().is_none());
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
