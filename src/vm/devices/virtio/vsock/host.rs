//! The host's side: who wants a connection, and who takes one.

use std::collections::{HashMap, VecDeque};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::error::{Error, ErrorKind, Result};
use crate::op::{Cancel, Deadline};
use crate::sys::vm::event::Event;

/// Connections that one listener has not yet taken.
const WAITING: usize = 64;
/// Connections that wait for a guest that has no driver yet.
const MOST_WANTED: usize = 1024;
/// How long a cancel goes unnoticed at most.
const SLICE: Duration = Duration::from_millis(20);

/// How a connection that was asked for came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    Open,
    /// Nobody listens there.
    Refused,
    /// The machine has as many as it can have.
    Full,
}

/// A connection that somebody of the host wants.
#[derive(Debug)]
pub(super) struct Wanted {
    pub(super) port: u32,
    /// The device's end of the stream.
    pub(super) stream: UnixStream,
    pub(super) answer: SyncSender<Answer>,
}

/// What the device and its users share. It outlives neither.
#[derive(Debug)]
pub(in crate::vm) struct VsockHost {
    wanted: Mutex<VecDeque<Wanted>>,
    listeners: Mutex<HashMap<u32, SyncSender<UnixStream>>>,
    gone: AtomicBool,
    pub(super) event: Event,
    /// Bytes of streams that the guest was given, and that it has sent.
    pub(in crate::vm) to_guest: AtomicU64,
    pub(in crate::vm) from_guest: AtomicU64,
}

impl VsockHost {
    pub(in crate::vm) fn new() -> Result<Self> {
        let event = Event::new().map_err(|e| Error::sys("make the event of a vsock device", e))?;
        Ok(Self {
            wanted: Mutex::default(),
            listeners: Mutex::default(),
            gone: AtomicBool::new(false),
            event,
            to_guest: AtomicU64::new(0),
            from_guest: AtomicU64::new(0),
        })
    }

    fn wanted(&self) -> MutexGuard<'_, VecDeque<Wanted>> {
        self.wanted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Connects to a port of the guest.
    pub(in crate::vm) fn connect(
        &self,
        port: u32,
        deadline: Deadline,
        cancel: Option<&Cancel>,
    ) -> Result<UnixStream> {
        const STEP: &str = "connect to a port of the guest";
        let failed =
            |kind, why: &'static str| Error::new(kind, STEP).object(format!("vsock port {port}")).detail(why);
        let pair = UnixStream::pair().map_err(|e| Error::io(STEP, e))?;
        let (ours, stream) = pair;
        let (answer, answered) = sync_channel(1);
        {
            let mut wanted = self.wanted();
            if self.gone.load(Ordering::SeqCst) {
                return Err(failed(ErrorKind::InvalidState, "the machine has ended"));
            }
            if wanted.len() >= MOST_WANTED {
                // Its caller is told, if it still waits: the guest has no driver.
                wanted.pop_front();
            }
            wanted.push_back(Wanted { port, stream, answer });
        }
        self.event.signal();
        loop {
            let slice = deadline.remaining().map_or(SLICE, |left| left.min(SLICE));
            match answered.recv_timeout(slice) {
                Ok(Answer::Open) => return Ok(ours),
                Ok(Answer::Refused) => {
                    let e = Error::sys(STEP, rustix::io::Errno::CONNREFUSED).with_kind(ErrorKind::NotFound);
                    return Err(e.object(format!("vsock port {port}")).detail("nobody listens there"));
                }
                Ok(Answer::Full) => {
                    return Err(failed(
                        ErrorKind::Exhausted,
                        "the machine has as many connections as it can have",
                    ));
                }
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(failed(
                        ErrorKind::InvalidState,
                        "the machine has ended, or its driver was reset",
                    ));
                }
                Err(RecvTimeoutError::Timeout) if cancel.is_some_and(Cancel::is_cancelled) => {
                    return Err(failed(ErrorKind::Cancelled, "given up while the guest had not answered"));
                }
                Err(RecvTimeoutError::Timeout) if deadline.expired() => {
                    return Err(failed(ErrorKind::Timeout, "the guest has not answered")
                        .hint("the guest needs a vsock driver (vmw_vsock_virtio_transport), and must run"));
                }
                Err(RecvTimeoutError::Timeout) => {}
            }
        }
    }

    /// Takes the connections that the guest makes to this port of the host; the last caller has it.
    pub(in crate::vm) fn listen(&self, port: u32) -> Receiver<UnixStream> {
        let (sender, receiver) = sync_channel(WAITING);
        self.listeners.lock().unwrap_or_else(PoisonError::into_inner).insert(port, sender);
        receiver
    }

    /// Gives a connection of the guest's to who listens at the port; says whether somebody did.
    pub(in crate::vm) fn take(&self, port: u32) -> Option<UnixStream> {
        let mut listeners = self.listeners.lock().unwrap_or_else(PoisonError::into_inner);
        let sender = listeners.get(&port)?;
        let (ours, stream) = UnixStream::pair().ok()?;
        match sender.try_send(stream) {
            Ok(()) => Some(ours),
            Err(std::sync::mpsc::TrySendError::Full(_)) => None,
            Err(std::sync::mpsc::TrySendError::Disconnected(_)) => {
                listeners.remove(&port);
                None
            }
        }
    }

    /// Whether the machine has ended.
    pub(in crate::vm) fn is_gone(&self) -> bool {
        self.gone.load(Ordering::SeqCst)
    }

    pub(super) fn next_wanted(&self) -> Option<Wanted> {
        self.wanted().pop_front()
    }

    /// Nobody will answer any more.
    pub(in crate::vm) fn close(&self) {
        let mut wanted = self.wanted();
        self.gone.store(true, Ordering::SeqCst);
        wanted.clear();
    }
}
