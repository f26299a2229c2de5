//! The Unix socket by which other processes of the host reach the guest.

use std::io::{ErrorKind as IoKind, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use crate::error::{Error, ErrorKind, Result};

/// It listens, and its file goes with it.
#[derive(Debug)]
pub(in crate::vm) struct OpenSocket {
    listener: UnixListener,
    path: PathBuf,
}

impl OpenSocket {
    /// Makes the socket, for this user alone. One that nobody listens on any more is replaced.
    pub(in crate::vm) fn open(path: &Path) -> Result<Self> {
        const STEP: &str = "make the Unix socket of a vsock device";
        let failed = |e| Error::io(STEP, e).path(path);
        let listener = match UnixListener::bind(path) {
            Err(e) if e.kind() == IoKind::AddrInUse && is_dead(path) => {
                std::fs::remove_file(path).map_err(failed)?;
                UnixListener::bind(path)
            }
            Err(e) if e.kind() == IoKind::InvalidInput => {
                return Err(Error::new(ErrorKind::InvalidConfig, STEP)
                    .path(path)
                    .detail("the path is too long for a socket: 107 bytes, with room for `_PORT`"));
            }
            done => done,
        };
        let socket = Self { listener: listener.map_err(failed)?, path: path.to_owned() };
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).map_err(failed)?;
        socket.listener.set_nonblocking(true).map_err(failed)?;
        Ok(socket)
    }

    /// The next one who comes.
    pub(super) fn accept(&self) -> Option<UnixStream> {
        let (stream, _) = self.listener.accept().ok()?;
        stream.set_nonblocking(true).ok()?;
        Some(stream)
    }

    /// Connects to who listens for a port of the host. It waits for nobody.
    pub(super) fn connect(&self, port: u32) -> Option<UnixStream> {
        let mut path = self.path.clone().into_os_string();
        path.push(format!("_{port}"));
        let address = SocketAddrUnix::new(PathBuf::from(path)).ok()?;
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None).ok()?;
        rustix::net::connect(&socket, &address).ok()?;
        Some(socket.into())
    }
}

/// Whether nobody listens there, and it is a socket.
fn is_dead(path: &Path) -> bool {
    UnixStream::connect(path).is_err_and(|e| e.kind() == IoKind::ConnectionRefused)
}

impl AsFd for OpenSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }
}

impl Drop for OpenSocket {
    fn drop(&mut self) {
        // Somebody else may have removed it.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// One who has come and has not yet said whom he wants.
#[derive(Debug)]
pub(super) struct Greeting {
    stream: UnixStream,
    line: Vec<u8>,
}

impl Greeting {
    /// `CONNECT 4294967295` and a newline.
    const LONGEST: usize = 19;

    pub(super) fn new(stream: UnixStream) -> Self {
        Self { stream, line: Vec::new() }
    }

    /// The port of the guest, once it is said; an error for anything else. What comes behind the line stays in the socket.
    pub(super) fn read(&mut self) -> Result<Option<u32>, ()> {
        loop {
            let mut byte = [0];
            match self.stream.read(&mut byte) {
                Ok(1) if byte[0] == b'\n' => {
                    let text = std::str::from_utf8(&self.line).map_err(|_| ())?;
                    let port = text.strip_prefix("CONNECT ").ok_or(())?;
                    return port.parse().map(Some).map_err(|_| ());
                }
                Ok(1) if self.line.len() < Self::LONGEST => self.line.push(byte[0]),
                Err(e) if e.kind() == IoKind::Interrupted => {}
                Err(e) if e.kind() == IoKind::WouldBlock => return Ok(None),
                _ => return Err(()),
            }
        }
    }

    pub(super) fn into_stream(self) -> UnixStream {
        self.stream
    }
}
