//! Open handles on namespaces.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::NamespaceKind;
use crate::error::{Error, ErrorKind, Result};
use crate::sys;

/// Which namespace: the numbers that `stat(2)` gives for its file. They may name another one after it has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct NamespaceId {
    /// The device of the file.
    pub dev: u64,
    /// The inode of the file, the number in `/proc/PID/ns` links.
    pub ino: u64,
}

impl NamespaceId {
    /// The namespace of this kind that the calling thread is in. Threads of one process may differ.
    ///
    /// # Errors
    /// [`Unsupported`](ErrorKind::Unsupported) where the kernel has no such kind.
    pub fn own(kind: NamespaceKind) -> Result<Self> {
        let path = own_path(kind);
        let st = rustix::fs::stat(path.as_str()).map_err(|e| open_error(kind, e).object(path))?;
        Ok(Self { dev: st.st_dev, ino: st.st_ino })
    }
}

/// An open handle on a namespace. It keeps the namespace alive, even without any process in it.
///
/// Every constructor asks the kernel which kind it is (`ioctl_nsfs(2)`), so a handle never is the wrong one.
/// Clones share one descriptor.
///
/// ```
/// use stockade::namespaces::{Namespace, NamespaceKind};
///
/// let net = Namespace::open_path(NamespaceKind::Net, "/proc/self/ns/net")?;
/// assert!(net.is_own()?);
/// assert!(Namespace::open_path(NamespaceKind::Net, "/proc/self/ns/uts").is_err());
/// # Ok::<(), stockade::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Namespace {
    kind: NamespaceKind,
    fd: Arc<OwnedFd>,
}

impl Namespace {
    /// Takes over a descriptor that somebody opened on a namespace.
    ///
    /// # Errors
    /// [`InvalidConfig`](ErrorKind::InvalidConfig) where it is not a namespace of this kind.
    pub fn from_fd(kind: NamespaceKind, fd: impl Into<Arc<OwnedFd>>) -> Result<Self> {
        let fd = fd.into();
        let name = format!("descriptor {}", fd.as_raw_fd());
        Self::checked(kind, fd, &name)
    }

    /// Opens a file in `/proc/PID/ns`, or one that a namespace is bound on, such as `/run/netns/NAME`.
    ///
    /// # Errors
    /// Whatever `open(2)` gives; [`InvalidConfig`](ErrorKind::InvalidConfig) where the file is not a namespace of
    /// this kind.
    pub fn open_path(kind: NamespaceKind, path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        // No FIFO may hold this call up, and no terminal become ours.
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
        let fd = sys::raw::retry(|| rustix::fs::open(path, flags, Mode::empty()))
            .map_err(|e| open_error(kind, e).path(path))?;
        Self::checked(kind, Arc::new(fd), &path.display().to_string())
    }

    /// Opens the namespace of a process by its number. The number must still be that of the process meant;
    /// [`of_pidfd`](Self::of_pidfd) has no such doubt.
    ///
    /// # Errors
    /// As [`open_path`](Self::open_path). `EACCES` and `EPERM` where the process may not be traced by this one.
    pub fn of_pid(kind: NamespaceKind, pid: u32) -> Result<Self> {
        Self::open_path(kind, format!("/proc/{pid}/ns/{}", kind.proc_name()))
    }

    /// Opens the namespace of the process behind a pidfd (Linux 6.11; through `/proc` before).
    ///
    /// # Errors
    /// [`NotFound`](ErrorKind::NotFound) where the process has ended;
    /// [`PermissionDenied`](ErrorKind::PermissionDenied) where it may not be traced by this one.
    pub fn of_pidfd(kind: NamespaceKind, pidfd: BorrowedFd<'_>) -> Result<Self> {
        match sys::nsfs::of_pidfd(pidfd, kind.pidfd_request()) {
            Ok(fd) => Self::checked(kind, Arc::new(fd), "pidfd"),
            Err(Errno::NOTTY | Errno::INVAL) => {
                let ns = Self::of_pid(kind, pid_of(pidfd)?)?;
                // The number was still that process's when it was opened, if the process is there now.
                sys::pidfd::send_signal(pidfd, 0).map_err(|e| open_error(kind, e))?;
                Ok(ns)
            }
            Err(e) => Err(open_error(kind, e)),
        }
    }

    /// Opens the namespace that the calling thread is in.
    ///
    /// # Errors
    /// As [`NamespaceId::own`].
    pub fn own(kind: NamespaceKind) -> Result<Self> {
        Self::open_path(kind, own_path(kind))
    }

    fn checked(kind: NamespaceKind, fd: Arc<OwnedFd>, name: &str) -> Result<Self> {
        let found = match sys::nsfs::kind_flag(fd.as_fd()) {
            Ok(flag) => NamespaceKind::from_clone_flag(flag),
            Err(Errno::NOTTY | Errno::BADF | Errno::INVAL | Errno::OPNOTSUPP) => None,
            Err(e) => return Err(Error::sys("ask for the kind of namespace", e).object(name)),
        };
        let why = match found {
            Some(found) if found == kind => return Ok(Self { kind, fd }),
            Some(found) => format!("is a {found} namespace, not a {kind} namespace"),
            None => format!("is not a {kind} namespace"),
        };
        Err(Error::invalid("namespace", why).object(name))
    }

    /// Its kind.
    pub fn kind(&self) -> NamespaceKind {
        self.kind
    }

    /// Which one it is.
    ///
    /// # Errors
    /// Whatever `fstat(2)` gives.
    pub fn id(&self) -> Result<NamespaceId> {
        let st = rustix::fs::fstat(&*self.fd).map_err(|e| Error::sys("identify namespace", e))?;
        Ok(NamespaceId { dev: st.st_dev, ino: st.st_ino })
    }

    /// Whether the calling thread is in it. The kernel refuses to join the own user namespace (`EINVAL`).
    ///
    /// # Errors
    /// As [`id`](Self::id) and [`NamespaceId::own`].
    pub fn is_own(&self) -> Result<bool> {
        Ok(self.id()? == NamespaceId::own(self.kind)?)
    }
}

impl AsFd for Namespace {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl From<Namespace> for Arc<OwnedFd> {
    fn from(ns: Namespace) -> Self {
        ns.fd
    }
}

fn own_path(kind: NamespaceKind) -> String {
    format!("/proc/thread-self/ns/{}", kind.proc_name())
}

fn open_error(kind: NamespaceKind, errno: Errno) -> Error {
    let e = Error::sys(format!("open {kind} namespace"), errno);
    match errno {
        Errno::SRCH => e.with_kind(ErrorKind::NotFound).detail("the process has ended"),
        Errno::NOENT => e.hint("the process has ended, the path is wrong, or the kernel lacks this kind"),
        Errno::ACCESS | Errno::PERM => {
            e.hint("the caller needs CAP_SYS_PTRACE over that process, or must be its user")
        }
        _ => e,
    }
}

/// The number of the process behind a pidfd, from `/proc/self/fdinfo`.
fn pid_of(pidfd: BorrowedFd<'_>) -> Result<u32> {
    let path = format!("/proc/thread-self/fdinfo/{}", pidfd.as_raw_fd());
    let info = std::fs::read_to_string(&path).map_err(|e| Error::io("read pidfd", e).object(&*path))?;
    let pid = info.lines().find_map(|l| l.strip_prefix("Pid:")).map(str::trim);
    match pid.map(str::parse) {
        Some(Ok(pid)) if pid > 0 => Ok(pid),
        Some(_) => Err(Error::new(ErrorKind::NotFound, "read pidfd").detail("the process has ended")),
        None => Err(Error::invalid("pidfd", "is not a descriptor of a process").object(path)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own_pidfd() -> OwnedFd {
        sys::pidfd::open(rustix::process::getpid()).unwrap()
    }

    #[test]
    fn opens_every_kind_in_every_way() {
        let pidfd = own_pidfd();
        for kind in NamespaceKind::ALL {
            let by_pid = Namespace::of_pid(kind, std::process::id()).unwrap();
            let by_pidfd = Namespace::of_pidfd(kind, pidfd.as_fd()).unwrap();
            assert_eq!(by_pid.id().unwrap(), by_pidfd.id().unwrap(), "{kind}");
            assert_eq!(by_pid.id().unwrap(), NamespaceId::own(kind).unwrap(), "{kind}");
            assert!(Namespace::own(kind).unwrap().is_own().unwrap());
            let fd: Arc<OwnedFd> = by_pid.into();
            assert_eq!(Namespace::from_fd(kind, fd).unwrap().kind(), kind);
        }
        assert_eq!(pid_of(pidfd.as_fd()).unwrap(), std::process::id());
    }

    #[test]
    fn a_wrong_file_is_named() {
        let e = Namespace::open_path(NamespaceKind::Net, "/proc/self/ns/mnt").unwrap_err();
        assert_eq!(e.kind(), ErrorKind::InvalidConfig);
        assert!(e.to_string().contains("`/proc/self/ns/mnt`: is a mount namespace"), "{e}");
        let e = Namespace::open_path(NamespaceKind::Net, "/dev/null").unwrap_err();
        assert!(e.to_string().contains("`/dev/null`: is not a network namespace"), "{e}");
        let e = Namespace::open_path(NamespaceKind::Net, "/nonexistent").unwrap_err();
        assert_eq!((e.kind(), e.errno()), (ErrorKind::NotFound, Some(libc::ENOENT)));
        let null = std::fs::File::open("/dev/null").unwrap();
        assert!(Namespace::of_pidfd(NamespaceKind::Net, null.as_fd()).is_err());
    }

    #[test]
    fn a_dead_process_is_not_found() {
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let pid = rustix::process::Pid::from_child(&child);
        let pidfd = sys::pidfd::open(pid).unwrap();
        child.wait().unwrap();
        let e = Namespace::of_pidfd(NamespaceKind::Net, pidfd.as_fd()).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::NotFound, "{e}");
        assert!(pid_of(pidfd.as_fd()).is_err());
    }
}
