//! Sockets between the host and a guest, as a user of the library has them.

use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::agent::wire::PORT as AGENT_PORT;
use super::handle::Vm;
use crate::error::{Error, ErrorKind, Result};
use crate::instance::{DEFAULT_DEADLINE, WaitOptions};
use crate::op::{Cancel, Deadline};
use crate::os_text;

/// Sockets between host and guest (`vsock(7)`), without a network and without the host's vhost driver. The guest needs
/// Linux's `virtio_mmio` and `vmw_vsock_virtio_transport`.
///
/// With a Unix socket other processes of the host can use them, too. Who connects to it, writes `CONNECT PORT` and a
/// newline, and reads `OK NUMBER` and a newline, has a connection to that port of the guest. A connection that the guest
/// makes to a port of the host (address 2) goes to the Unix socket whose path has `_PORT` behind it. This is Firecracker's
/// protocol.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Vsock {
    cid: u32,
    #[serde(default, with = "os_text::option", skip_serializing_if = "Option::is_none")]
    socket: Option<PathBuf>,
}

impl Default for Vsock {
    /// Address 3, no Unix socket.
    fn default() -> Self {
        Self { cid: 3, socket: None }
    }
}

impl Vsock {
    /// Sets the guest's address: 3 or more. No other machine sees it, so all can have the same.
    #[must_use]
    pub fn with_cid(mut self, cid: u32) -> Self {
        self.cid = cid;
        self
    }

    /// Makes a Unix socket at this path while the machine runs, for its user alone.
    #[must_use]
    pub fn socket(mut self, path: impl Into<PathBuf>) -> Self {
        self.socket = Some(path.into());
        self
    }

    /// The guest's address.
    pub fn cid(&self) -> u32 {
        self.cid
    }

    /// The Unix socket.
    pub fn socket_path(&self) -> Option<&Path> {
        self.socket.as_deref()
    }

    pub(super) fn problem(&self) -> Option<String> {
        let good = (3..u32::MAX).contains(&self.cid);
        (!good).then(|| format!("vsock: the address {} is no guest's: 3 or more", self.cid))
    }
}

/// Takes the connections of a guest to one port; made by [`Vm::vsock_listen`]. Dropping it ends that.
#[derive(Debug)]
pub struct VsockListener {
    port: u32,
    receiver: Receiver<UnixStream>,
}

impl VsockListener {
    /// The next connection. It waits as long as the options say.
    ///
    /// # Errors
    /// [`Timeout`](crate::ErrorKind::Timeout), [`Cancelled`](crate::ErrorKind::Cancelled);
    /// [`InvalidState`](crate::ErrorKind::InvalidState) where the machine has ended, or the port has another listener.
    pub fn accept(&self, options: WaitOptions) -> Result<UnixStream> {
        let deadline = Deadline::from(options.deadline);
        accept(&self.receiver, deadline, options.cancel.as_ref())
            .map_err(|e| e.object(format!("vsock port {}", self.port)))
    }
}

/// As [`VsockListener::accept`].
pub(super) fn accept(
    receiver: &Receiver<UnixStream>,
    deadline: Deadline,
    cancel: Option<&Cancel>,
) -> Result<UnixStream> {
    const STEP: &str = "wait for a connection of the guest";
    const SLICE: Duration = Duration::from_millis(20);
    loop {
        let slice = deadline.remaining().map_or(SLICE, |left| left.min(SLICE));
        match receiver.recv_timeout(slice) {
            Ok(stream) => return Ok(stream),
            Err(RecvTimeoutError::Disconnected) => {
                return Err(Error::new(ErrorKind::InvalidState, STEP).detail("nobody can come any more"));
            }
            Err(RecvTimeoutError::Timeout) if cancel.is_some_and(Cancel::is_cancelled) => {
                return Err(Error::new(ErrorKind::Cancelled, STEP));
            }
            Err(RecvTimeoutError::Timeout) if deadline.expired() => {
                return Err(Error::new(ErrorKind::Timeout, STEP));
            }
            Err(RecvTimeoutError::Timeout) => {}
        }
    }
}

impl Vm {
    /// Connects to a port of the guest, on which a program listens there. Options without a deadline mean 30 s.
    ///
    /// # Errors
    /// [`InvalidState`](crate::ErrorKind::InvalidState) where it does not run in this runtime;
    /// [`Unsupported`](crate::ErrorKind::Unsupported) where its configuration has no [`Vsock`];
    /// [`NotFound`](crate::ErrorKind::NotFound) where nobody listens there;
    /// [`Timeout`](crate::ErrorKind::Timeout) where the guest does not answer, as one does without a driver.
    pub fn vsock_connect(&self, port: u32, options: WaitOptions) -> Result<UnixStream> {
        let deadline = Deadline::from(options.deadline.or(Some(DEFAULT_DEADLINE)));
        let connected = self.live().and_then(|live| {
            let host = live.machine.vsock().ok_or_else(no_vsock)?;
            host.connect(port, deadline, options.cancel.as_ref())
        });
        connected.map_err(|e| e.with_op("vsock_connect").with_instance(self.id()))
    }

    /// Takes the connections that the guest makes to this port of the host in this run. The last listener of a port has
    /// them.
    ///
    /// # Errors
    /// [`InvalidState`](crate::ErrorKind::InvalidState) where it does not run in this runtime;
    /// [`Unsupported`](crate::ErrorKind::Unsupported) where its configuration has no [`Vsock`];
    /// [`AlreadyExists`](crate::ErrorKind::AlreadyExists) for port 1000 where the guest has the agent.
    pub fn vsock_listen(&self, port: u32) -> Result<VsockListener> {
        let listener = self.live().and_then(|live| {
            let host = live.machine.vsock().ok_or_else(no_vsock)?;
            if live.agent.is_some() && port == AGENT_PORT {
                return Err(Error::new(ErrorKind::AlreadyExists, "listen for the guest")
                    .object(format!("vsock port {port}"))
                    .detail("the guest's agent reports there"));
            }
            Ok(VsockListener { port, receiver: host.listen(port) })
        });
        listener.map_err(|e| e.with_op("vsock_listen").with_instance(self.id()))
    }
}

fn no_vsock() -> Error {
    Error::new(ErrorKind::Unsupported, "reach the sockets of the virtual machine")
        .detail("its configuration has none")
        .hint("give it VmBuilder::vsock")
}
