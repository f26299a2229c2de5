//! Messages with a deadline, whatever the other side does.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use super::wire::{self, Wire};
use crate::error::{Error, ErrorKind, Result};
use crate::op::{Cancel, Deadline};

/// How long a cancel goes unnoticed at most.
const SLICE: Duration = Duration::from_millis(50);

/// A stream that gives up at its deadline.
pub(super) struct Timed<'a> {
    stream: &'a UnixStream,
    deadline: Deadline,
    cancel: Option<&'a Cancel>,
}

impl<'a> Timed<'a> {
    pub(super) fn new(stream: &'a UnixStream, deadline: Deadline, cancel: Option<&'a Cancel>) -> Self {
        Self { stream, deadline, cancel }
    }

    /// The length of the next try. A timeout of zero would be none.
    fn slice(&self) -> Duration {
        let left = self.deadline.remaining().unwrap_or(SLICE);
        left.clamp(Duration::from_millis(1), SLICE)
    }

    fn repeat(&self, mut attempt: impl FnMut(Duration) -> io::Result<usize>) -> io::Result<usize> {
        loop {
            match attempt(self.slice()) {
                Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {}
                done => return done,
            }
            if self.cancel.is_some_and(Cancel::is_cancelled) {
                // Not `Interrupted`, after which `read_exact` would try again.
                return Err(io::ErrorKind::ConnectionAborted.into());
            }
            if self.deadline.expired() {
                return Err(io::ErrorKind::TimedOut.into());
            }
        }
    }
}

impl Read for &Timed<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        self.repeat(|slice| {
            self.stream.set_read_timeout(Some(slice))?;
            (&mut &*self.stream).read(out)
        })
    }
}

impl Write for &Timed<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.repeat(|slice| {
            self.stream.set_write_timeout(Some(slice))?;
            (&mut &*self.stream).write(bytes)
        })
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn explain(e: io::Error, step: &'static str) -> Error {
    let told = |kind, why: &'static str| Error::new(kind, step).detail(why);
    match e.kind() {
        io::ErrorKind::TimedOut => told(ErrorKind::Timeout, "the guest's agent does not answer"),
        io::ErrorKind::ConnectionAborted => {
            told(ErrorKind::Cancelled, "given up while the agent had not answered")
        }
        io::ErrorKind::InvalidData => super::lies(step),
        io::ErrorKind::UnexpectedEof | io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => {
            told(ErrorKind::Died, "the guest's agent has closed the connection")
        }
        _ => Error::io(step, e),
    }
}

pub(super) fn send(to: &Timed<'_>, message: &impl Wire, step: &'static str) -> Result<()> {
    wire::send(to, message).map_err(|e| explain(e, step))
}

pub(super) fn receive<T: Wire>(from: &Timed<'_>, step: &'static str) -> Result<T> {
    wire::receive(from).map_err(|e| explain(e, step))
}

/// Whether the other side has closed it.
pub(super) fn is_at_end(stream: &UnixStream) -> bool {
    use std::os::fd::AsFd as _;
    let mut byte = [0];
    let flags = rustix::net::RecvFlags::PEEK | rustix::net::RecvFlags::DONTWAIT;
    match rustix::net::recv(stream.as_fd(), &mut byte, flags) {
        Ok((len, _)) => len == 0,
        Err(e) => e != rustix::io::Errno::AGAIN && e != rustix::io::Errno::INTR,
    }
}
