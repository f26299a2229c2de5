//! A socket for `rtnetlink(7)`: links, addresses and routes of one network namespace, that in which it was made.

mod message;
pub(crate) mod route;

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::time::Instant;

use rustix::io::Errno;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

pub(crate) use self::message::{Message, Refused};
use self::message::{NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLMSG_DONE, NLMSG_ERROR, next};
use super::raw::{last_errno, retry};

const SOL_NETLINK: libc::c_int = 270;
const NETLINK_CAP_ACK: libc::c_int = 10;
const NETLINK_EXT_ACK: libc::c_int = 11;
const NETLINK_GET_STRICT_CHK: libc::c_int = 12;
/// Linux 4.10.
const SIOCGSKNS: libc::c_ulong = 0x894C;
/// The kernel puts no more into one datagram of a dump, unless it is asked to.
const BUFFER: usize = 32 * 1024;
/// How often a dump is begun anew because what it lists has changed.
const DUMPS: usize = 16;

/// The socket.
#[derive(Debug)]
pub(crate) struct Netlink {
    fd: OwnedFd,
    seq: u32,
}

impl Netlink {
    /// One for the calling thread's network namespace. Needs no privilege; what is asked of it may.
    pub(crate) fn open() -> Result<Self, Errno> {
        // Protocol 0 is NETLINK_ROUTE.
        let fd =
            rustix::net::socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None)?;
        Self::adopt(fd)
    }

    /// One that was made elsewhere. It goes on to act on the namespace of its maker. The kernel asks for the rights of
    /// both: who made it, and who sends.
    pub(crate) fn adopt(fd: OwnedFd) -> Result<Self, Errno> {
        for option in [NETLINK_CAP_ACK, NETLINK_EXT_ACK, NETLINK_GET_STRICT_CHK] {
            let on: libc::c_int = 1;
            let len = size_of_val(&on) as libc::socklen_t;
            // SAFETY: a live integer of the length given.
            let ret =
                unsafe { libc::setsockopt(fd.as_raw_fd(), SOL_NETLINK, option, (&raw const on).cast(), len) };
            if ret < 0 {
                return Err(last_errno());
            }
        }
        Ok(Self { fd, seq: 0 })
    }

    /// The network namespace that it acts on. Needs `CAP_NET_ADMIN` there.
    pub(crate) fn namespace(&self) -> Result<OwnedFd, Errno> {
        // SAFETY: this request takes no argument and returns a new descriptor, owned here and nowhere else.
        let fd = unsafe { libc::ioctl(self.fd.as_raw_fd(), SIOCGSKNS, 0) };
        if fd < 0 {
            return Err(last_errno());
        }
        // SAFETY: see above.
        Ok(unsafe { OwnedFd::from_raw_fd(fd) })
    }

    /// Has the kernel do something.
    pub(crate) fn act(&mut self, message: Message, until: Option<Instant>) -> Result<(), Refused> {
        self.exchange(message, NLM_F_ACK, until, &mut |_| {})
    }

    /// Asks for one thing: what the answer holds.
    pub(crate) fn ask<T>(
        &mut self,
        message: Message,
        until: Option<Instant>,
        decode: impl Fn(&[u8]) -> Option<T>,
    ) -> Result<T, Refused> {
        let mut found = None;
        self.exchange(message, NLM_F_ACK, until, &mut |body| found = found.take().or_else(|| decode(body)))?;
        found.ok_or_else(|| Errno::BADMSG.into())
    }

    /// Asks for everything of a kind. What cannot be read is passed over.
    pub(crate) fn list<T>(
        &mut self,
        message: &Message,
        until: Option<Instant>,
        decode: impl Fn(&[u8]) -> Option<T>,
    ) -> Result<Vec<T>, Refused> {
        for _ in 0..DUMPS {
            let mut all = Vec::new();
            match self.exchange(message.clone(), NLM_F_DUMP, until, &mut |body| all.extend(decode(body))) {
                Ok(()) => return Ok(all),
                // Not whole: it changed meanwhile.
                Err(Refused { errno: Errno::INTR, .. }) => {}
                Err(refused) => return Err(refused),
            }
        }
        Err(Errno::BUSY.into())
    }

    fn exchange(
        &mut self,
        message: Message,
        flags: u16,
        until: Option<Instant>,
        each: &mut dyn FnMut(&[u8]),
    ) -> Result<(), Refused> {
        self.seq = self.seq.wrapping_add(1);
        let bytes = message.finish(flags, self.seq);
        let kernel = SocketAddrNetlink::new(0, 0);
        retry(|| rustix::net::sendto(&self.fd, &bytes, SendFlags::empty(), &kernel))?;
        let mut buf = vec![0_u8; BUFFER];
        let mut changed = false;
        loop {
            let len = self.receive(&mut buf, until)?;
            let mut rest = &buf[..len];
            while let Some(reply) = next(&mut rest)? {
                if reply.seq != self.seq {
                    // The rest of an exchange that was given up.
                    continue;
                }
                changed |= reply.flags & NLM_F_DUMP_INTR != 0;
                match reply.kind {
                    NLMSG_ERROR | NLMSG_DONE => {
                        reply.outcome()?;
                        return if changed { Err(Errno::INTR.into()) } else { Ok(()) };
                    }
                    _ => each(reply.body),
                }
            }
        }
    }

    /// Receives one datagram of the kernel's.
    fn receive(&self, buf: &mut [u8], until: Option<Instant>) -> Result<usize, Errno> {
        loop {
            let ready = super::pidfd::poll_in(&[self.fd.as_fd()], until)?;
            if !ready[0] {
                return Err(Errno::TIMEDOUT);
            }
            let flags = RecvFlags::DONTWAIT | RecvFlags::TRUNC;
            match rustix::net::recvfrom(&self.fd, &mut *buf, flags) {
                Ok((_, len, _)) if len > buf.len() => return Err(Errno::MSGSIZE),
                Ok((_, len, from)) => {
                    let sender = from.and_then(|from| SocketAddrNetlink::try_from(from).ok());
                    // Anyone with rights in the namespace could send to it.
                    if sender.is_some_and(|sender| sender.pid() == 0) {
                        return Ok(len);
                    }
                }
                Err(Errno::AGAIN | Errno::INTR) => {}
                Err(e) => return Err(e),
            }
        }
    }
}

impl AsFd for Netlink {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
