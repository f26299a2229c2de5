//! CPUs that come and go, as an event loop sees them.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::netlink::{self, SocketAddrNetlink};
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType};

use crate::error::{Error, Result};
use crate::sys::raw::retry;

/// The kernel's own group; the one that udev sends to is 2.
const KERNEL: u32 = 1;
/// What a message never exceeds (`UEVENT_BUFFER_SIZE` and the header).
const LONGEST: usize = 8192;

/// Tells an event loop when a CPU goes online or offline: the kernel's device events (`NETLINK_KOBJECT_UEVENT`,
/// `netlink(7)`), without udev.
///
/// The descriptor ([`AsFd`]) is readable once there may be something; [`changed`](Self::changed) then says whether it was
/// a CPU. One socket, close-on-exec, no thread. Needs no privilege. The kernel sends these events only to network
/// namespaces that belong to the first user namespace, which is where a host program is as a rule: in any other none come.
///
/// ```no_run
/// use stockade::{CpuWatch, Runtime};
///
/// let runtime = Runtime::open()?;
/// let mut watch = CpuWatch::open()?;
/// loop {
///     // ... poll(2) `watch` for POLLIN, among all else that the program waits for ...
///     if watch.changed()? {
///         runtime.rebalance_cpus()?;
///     }
/// #   break;
/// }
/// # Ok::<(), stockade::Error>(())
/// ```
#[derive(Debug)]
pub struct CpuWatch {
    socket: OwnedFd,
}

impl CpuWatch {
    /// Watches from now on.
    ///
    /// # Errors
    /// [`Exhausted`](crate::ErrorKind::Exhausted) without a free descriptor; [`Unsupported`](crate::ErrorKind::Unsupported)
    /// on a kernel without netlink.
    pub fn open() -> Result<Self> {
        let failed = |e| Error::sys("watch the CPUs", e);
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let protocol = Some(netlink::KOBJECT_UEVENT);
        let socket = rustix::net::socket_with(AddressFamily::NETLINK, SocketType::DGRAM, flags, protocol)
            .map_err(failed)?;
        rustix::net::bind(&socket, &SocketAddrNetlink::new(0, KERNEL)).map_err(failed)?;
        Ok(Self { socket })
    }

    /// Reads what there is, and says whether a CPU has come or gone since the last call. Does not wait. Where events were
    /// lost because nobody read them, one may have.
    ///
    /// # Errors
    /// None that is known; what the kernel says is passed on.
    pub fn changed(&mut self) -> Result<bool> {
        let mut message = [0_u8; LONGEST];
        let mut changed = false;
        loop {
            let read = retry(|| rustix::net::recvfrom(&self.socket, &mut message, RecvFlags::DONTWAIT));
            match read {
                Ok((n, _, from)) => {
                    let sender = from.and_then(|from| SocketAddrNetlink::try_from(from).ok());
                    // Who may, can send to the group as well.
                    let by_kernel = sender.is_some_and(|sender| sender.pid() == 0);
                    changed |= by_kernel && is_cpu(&message[..n.min(LONGEST)]);
                }
                Err(Errno::AGAIN) => return Ok(changed),
                Err(Errno::NOBUFS) => changed = true,
                Err(e) => return Err(Error::sys("read the events of CPUs", e)),
            }
        }
    }
}

impl AsFd for CpuWatch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Whether a message (`ACTION@PATH`, then `KEY=VALUE`, each with a NUL byte at its end) is of a CPU that came or went.
fn is_cpu(message: &[u8]) -> bool {
    let fields = || message.split(|b| *b == 0).skip(1);
    let is = |wanted: &[u8]| fields().any(|field| field == wanted);
    let actions: [&[u8]; 4] = [b"ACTION=online", b"ACTION=offline", b"ACTION=add", b"ACTION=remove"];
    is(b"SUBSYSTEM=cpu") && actions.iter().any(|action| is(action))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_cpus_that_come_or_go_count() {
        let message = |action: &str, subsystem: &str| {
            format!(
                "{action}@/devices/x\0ACTION={action}\0DEVPATH=/devices/x\0SUBSYSTEM={subsystem}\0SEQNUM=7\0"
            )
        };
        for action in ["online", "offline", "add", "remove"] {
            assert!(is_cpu(message(action, "cpu").as_bytes()));
            assert!(!is_cpu(message(action, "block").as_bytes()));
        }
        assert!(!is_cpu(message("change", "cpu").as_bytes()));
        for other in [
            &b""[..],
            b"\0\0\0",
            b"SUBSYSTEM=cpu\0ACTION=online",
            b"libudev\0\xfe\xed\xca\xfe",
            b"x\0SUBSYSTEM=cpu",
        ] {
            assert!(!is_cpu(other), "{other:?}");
        }
    }

    #[test]
    fn nothing_happens_on_a_quiet_host() {
        let mut watch = CpuWatch::open().unwrap();
        assert!(!watch.changed().unwrap());
        let flags = rustix::io::fcntl_getfd(watch.as_fd()).unwrap();
        assert!(flags.contains(rustix::io::FdFlags::CLOEXEC));
    }
}
