//! The agent in the guest, from the host's side. What both say is in [`wire`].
//!
//! The guest is nobody's friend: each answer has a deadline and a bound, and what cannot be is an error.

mod archive;
mod boot;
mod exec;
mod io;
mod modules;
mod state;
#[cfg(test)]
mod tests;
pub(super) mod wire;

use std::os::unix::net::UnixStream;
use std::sync::mpsc::{Receiver, TryRecvError};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

pub(super) use boot::initramfs;
pub use exec::VmProcess;
pub use state::{GuestAddress, GuestState};

use self::io::Timed;
use self::wire::{Failure, Hello, Open, PORT, Reply, Request, VERSION};
use super::devices::virtio::VsockHost;
use crate::error::{Error, ErrorKind, Result};
use crate::op::{Cancel, Deadline};

/// Bytes of a token.
const TOKEN: usize = 32;
/// How long a first message may take once its connection is there.
const HELLO: Duration = Duration::from_secs(10);
/// How long a look for the agent may go without looking at the rest.
const SLICE: Duration = Duration::from_millis(10);

/// One for each run of a machine whose guest has the agent.
#[derive(Debug)]
pub(super) struct Agent {
    token: [u8; TOKEN],
    host: Arc<VsockHost>,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    /// Connections to the port where it reports.
    reports: Receiver<UnixStream>,
    /// It has reported: as long as it lives this stream is open.
    report: Option<UnixStream>,
}

/// A secret that the guest gets in its initramfs.
pub(super) fn new_token() -> Result<[u8; TOKEN]> {
    let mut token = [0; TOKEN];
    let got = rustix::rand::getrandom(&mut token, rustix::rand::GetRandomFlags::empty());
    match got {
        Ok(TOKEN) => Ok(token),
        Ok(_) => Err(Error::new(ErrorKind::Kernel, "make a token for the guest's agent")),
        Err(e) => Err(Error::sys("make a token for the guest's agent", e)),
    }
}

impl Agent {
    /// Begins to listen for the agent.
    pub(super) fn new(token: [u8; TOKEN], host: Arc<VsockHost>) -> Self {
        let reports = host.listen(PORT);
        Self { token, host, inner: Mutex::new(Inner { reports, report: None }) }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether it has reported and not gone since.
    pub(super) fn is_there(&self) -> bool {
        let mut inner = self.inner();
        let gone = inner.report.as_ref().is_some_and(io::is_at_end);
        if gone {
            inner.report = None;
        }
        inner.report.is_some()
    }

    /// Waits until it is there.
    pub(super) fn wait(&self, deadline: Deadline, cancel: Option<&Cancel>) -> Result<()> {
        const STEP: &str = "wait for the guest's agent";
        loop {
            if self.is_there() {
                return Ok(());
            }
            let next = self.inner().reports.try_recv();
            match next {
                Ok(stream) => {
                    let hello = deadline.at_most(HELLO);
                    let hello = io::receive::<Hello>(&Timed::new(&stream, hello, cancel), STEP);
                    match hello {
                        Ok(hello) if hello.token == self.token && hello.version == VERSION => {
                            self.inner().report = Some(stream);
                            return Ok(());
                        }
                        Ok(hello) if hello.token == self.token => {
                            return Err(Error::new(ErrorKind::Unsupported, STEP).detail(format!(
                                "it speaks version {} of its protocol, not {VERSION}",
                                hello.version
                            )));
                        }
                        // Somebody else in the guest, or one who says nothing.
                        Ok(_) => {}
                        Err(e) if e.kind() == ErrorKind::Cancelled => return Err(e),
                        Err(_) => {}
                    }
                }
                Err(TryRecvError::Disconnected) => {
                    return Err(Error::new(ErrorKind::InvalidState, STEP).detail("the machine has ended"));
                }
                Err(TryRecvError::Empty) => {
                    if self.host.is_gone() {
                        return Err(Error::new(ErrorKind::InvalidState, STEP).detail("the machine has ended"));
                    }
                    if cancel.is_some_and(Cancel::is_cancelled) {
                        return Err(Error::new(ErrorKind::Cancelled, STEP));
                    }
                    if deadline.expired() {
                        return Err(Error::new(ErrorKind::Timeout, STEP)
                            .detail("it has not reported")
                            .hint("the console has what the guest said: Vm::console_log"));
                    }
                    std::thread::sleep(deadline.remaining().map_or(SLICE, |left| left.min(SLICE)));
                }
            }
        }
    }

    /// Asks for one thing; the connection, and the first answer.
    fn ask(
        &self,
        request: Request,
        step: &'static str,
        deadline: Deadline,
        cancel: Option<&Cancel>,
    ) -> Result<(UnixStream, Reply)> {
        self.wait(deadline, cancel)?;
        let stream = self.host.connect(PORT, deadline, cancel)?;
        let open = Open { version: VERSION, token: self.token.to_vec(), request };
        io::send(&Timed::new(&stream, deadline, cancel), &open, step)?;
        let reply = io::receive::<Reply>(&Timed::new(&stream, deadline, cancel), step)?;
        match reply {
            Reply::Failed(failure) => Err(failed(failure)),
            reply => Ok((stream, reply)),
        }
    }

    /// As `ask`, for what is simply done.
    pub(super) fn request(
        &self,
        request: Request,
        step: &'static str,
        deadline: Deadline,
        cancel: Option<&Cancel>,
    ) -> Result<()> {
        match self.ask(request, step, deadline, cancel)? {
            (_, Reply::Done) => Ok(()),
            _ => Err(lies(step)),
        }
    }
}

/// An answer that cannot be.
fn lies(step: &'static str) -> Error {
    Error::new(ErrorKind::Corrupt, step)
        .detail("the guest's agent has answered with something that is no answer")
        .hint("the guest cannot be trusted any more: stop it")
}

/// What a guest has written, fit for a message.
fn text(bytes: &[u8]) -> String {
    const MOST: usize = 256;
    let text = String::from_utf8_lossy(&bytes[..bytes.len().min(MOST)]);
    text.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

/// A failure in the guest, as an error.
fn failed(failure: Failure) -> Error {
    let step = text(&failure.step);
    let errno = rustix::io::Errno::from_raw_os_error(failure.errno.clamp(1, 4095));
    let executes = step == "execute";
    let e = Error::sys(format!("{step} in the guest"), errno).object(text(&failure.object));
    match failure.errno {
        libc::ENOENT | libc::ENOTDIR if executes => e
            .with_kind(ErrorKind::PayloadNotFound)
            .hint("the program, its interpreter (#!) or its dynamic loader is not in the guest's root"),
        _ if executes => e.with_kind(ErrorKind::PayloadNotExecutable),
        _ => e,
    }
}
