//! The thread that answers, for all containers of a runtime.

use std::collections::BTreeMap;
use std::fmt;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::event::{EventfdFlags, eventfd};
use rustix::io::Errno;

use super::Subject;
use super::content::render;
use super::files::{Files, Outcome};
use crate::error::{Error, ErrorKind, Result};

/// Longer than any request without content; the kernel refuses what is longer by itself.
const REQUEST_MAX: usize = 64 << 10;
/// How many containers are looked at in one turn.
const BATCH: usize = 64;
/// What the descriptor that ends the thread is known by.
const CLOSING: u64 = u64::MAX;

/// Answers the reads of any number of containers, in one thread named `stockade-views` that begins with the first.
///
/// Of each container one request is answered in a turn, and an answer waits for nothing but the kernel's own files: so
/// none can keep the thread from the others. When this is closed, or the thread or the process ends, the kernel lets all
/// reads fail with `ENOTCONN`: nobody hangs.
pub(crate) struct Server(Arc<Shared>);

struct Shared {
    epoll: OwnedFd,
    closing: OwnedFd,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    connections: BTreeMap<u64, Connection>,
    next: u64,
    thread: Option<JoinHandle<()>>,
    closed: bool,
}

struct Connection {
    owner: Arc<str>,
    /// `None` once it is to end: with the descriptor the kernel's side goes.
    served: Arc<Mutex<Option<Served>>>,
}

/// The file system of a container.
struct Served {
    device: OwnedFd,
    subject: Subject,
    files: Files,
}

impl Server {
    /// One without a thread yet.
    pub(crate) fn new() -> Result<Self> {
        let failed = |e| Error::sys("make the server of resource views", e);
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).map_err(failed)?;
        let closing = eventfd(0, EventfdFlags::CLOEXEC).map_err(failed)?;
        epoll::add(&epoll, &closing, EventData::new_u64(CLOSING), EventFlags::IN).map_err(failed)?;
        Ok(Self(Arc::new(Shared { epoll, closing, state: Mutex::default() })))
    }

    /// Answers the requests of `device`, a connected `/dev/fuse`, from now on.
    pub(super) fn add(&self, owner: &str, device: OwnedFd, subject: Subject) -> Result<()> {
        let shared = &self.0;
        let mut state = shared.state();
        if state.closed {
            return Err(
                Error::new(ErrorKind::InvalidState, "serve resource views").detail("the runtime is closed")
            );
        }
        if state.thread.as_ref().is_none_or(JoinHandle::is_finished) {
            state.thread = Some(Shared::start(shared)?);
        }
        let token = state.next;
        state.next += 1;
        epoll::add(&shared.epoll, &device, EventData::new_u64(token), EventFlags::IN)
            .map_err(|e| Error::sys("serve resource views", e))?;
        let served = Some(Served { device, subject, files: Files::default() });
        let connection = Connection { owner: owner.into(), served: Arc::new(Mutex::new(served)) };
        state.connections.insert(token, connection);
        Ok(())
    }

    /// Ends what is served for `owner`; its descriptors are closed on return.
    pub(crate) fn remove(&self, owner: &str) {
        let shared = &self.0;
        let mut state = shared.state();
        let tokens: Vec<u64> =
            state.connections.iter().filter(|(_, c)| &*c.owner == owner).map(|(token, _)| *token).collect();
        let taken: Vec<Connection> =
            tokens.iter().filter_map(|token| state.connections.remove(token)).collect();
        drop(state);
        taken.iter().for_each(|connection| shared.end(connection));
    }

    /// Ends the thread and all that it serves.
    pub(crate) fn close(&self) {
        let shared = &self.0;
        let mut state = shared.state();
        state.closed = true;
        let connections = std::mem::take(&mut state.connections);
        let thread = state.thread.take();
        drop(state);
        connections.values().for_each(|connection| shared.end(connection));
        let _ = rustix::io::write(&shared.closing, &1_u64.to_ne_bytes());
        // It never waits for anything but this and requests.
        if let Some(thread) = thread {
            let _ = thread.join();
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.close();
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server")
            .field("connections", &self.0.state().connections.len())
            .finish_non_exhaustive()
    }
}

/// Ends what is served when the thread ends, whatever the reason: otherwise readers would wait for ever.
struct EndAll(Arc<Shared>);

impl Drop for EndAll {
    fn drop(&mut self) {
        let connections = std::mem::take(&mut self.0.state().connections);
        connections.values().for_each(|connection| self.0.end(connection));
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn start(shared: &Arc<Self>) -> Result<JoinHandle<()>> {
        let shared = Arc::clone(shared);
        std::thread::Builder::new()
            .name("stockade-views".to_owned())
            .stack_size(256 * 1024)
            // Not before the thread is there: its maker holds the lock that the end takes.
            .spawn(move || EndAll(shared).0.run())
            .map_err(|e| Error::io("start the thread that serves resource views", e))
    }

    fn run(&self) {
        let (mut request, mut reply) = (vec![0; REQUEST_MAX], Vec::new());
        let mut events = [const { std::mem::MaybeUninit::uninit() }; BATCH];
        loop {
            let ready = match epoll::wait(&self.epoll, &mut events, None) {
                Ok((ready, _)) => ready,
                Err(Errno::INTR) => continue,
                Err(_) => return,
            };
            for event in ready {
                let token = event.data.u64();
                if token == CLOSING {
                    return;
                }
                let served = self.state().connections.get(&token).map(|c| Arc::clone(&c.served));
                let Some(served) = served else { continue };
                let goes_on = lock(&served).as_mut().is_some_and(|s| s.answer_one(&mut request, &mut reply));
                if !goes_on && let Some(connection) = self.state().connections.remove(&token) {
                    self.end(&connection);
                }
            }
        }
    }

    /// Closes its descriptors, once the thread is done with them.
    fn end(&self, connection: &Connection) {
        if let Some(served) = lock(&connection.served).take() {
            let _ = epoll::delete(&self.epoll, &served.device);
        }
    }
}

fn lock(served: &Mutex<Option<Served>>) -> MutexGuard<'_, Option<Served>> {
    served.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Served {
    /// Answers one request, where there is one. Says whether there can be more: not when the superblock is gone.
    fn answer_one(&mut self, request: &mut [u8], reply: &mut Vec<u8>) -> bool {
        let length = match rustix::io::read(&self.device, &mut *request) {
            Ok(length) => length,
            // Withdrawn by its reader meanwhile, or longer than is answered.
            Err(Errno::AGAIN | Errno::INTR | Errno::NOENT) => return true,
            Err(_) => return false,
        };
        let request = request.get(..length).unwrap_or_default();
        match self.files.answer(request, reply, |view| render(view, &self.subject)) {
            Outcome::Answer => {}
            Outcome::Silence => return true,
            Outcome::Garbage => return false,
        }
        match rustix::io::write(&self.device, reply) {
            // Its reader has been killed.
            Ok(_) | Err(Errno::NOENT) => true,
            // Whoever waits for an answer that the kernel does not take gets an error with the end.
            Err(_) => false,
        }
    }
}
