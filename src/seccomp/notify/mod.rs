//! Answering calls that a filter hands to this process (`seccomp_unotify(2)`): see [`Supervisor`].

mod call;
mod caller;
pub(crate) mod hands;
mod turn;
pub(crate) mod unfinished;
mod work;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::event::{EventfdFlags, Timespec, eventfd};
use rustix::io::Errno;

pub use call::{Call, Responder, Response};
pub use caller::Caller;
#[cfg(feature = "fuzzing")]
pub(crate) use caller::is_status;
use hands::HandsMaker;

use crate::error::{Error, Result};

/// How long a call may take before another thread sees to those of other containers.
const STUCK: Duration = Duration::from_millis(100);
/// How many helpers wait for the next thread, where the host has the loop.
const SPARE: usize = 2;
/// How long a thread that answers a call may take to end once the supervisor is closed.
const PATIENCE: Duration = Duration::from_secs(5);
/// What the descriptor that ends the threads is known by.
const CLOSING: u64 = u64::MAX;

/// Who waits for calls.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum NotifyLoop {
    /// A thread of the supervisor's, which begins with the first listener.
    #[default]
    Thread,
    /// The host: it polls the supervisor's descriptor and calls [`Supervisor::dispatch`].
    Host,
}

/// Answers the calls that filters hand to this process, of any number of containers.
///
/// **Threads.** With [`NotifyLoop::Thread`] one thread, named `stockade-notify`, answers all of them, and a second one looks
/// after it: when a call takes longer than a tenth of a second, as one whose path lies on a dead network file system, the
/// second takes the place of the first, which ends with that call. So a call that hangs holds up its own container alone.
/// With [`NotifyLoop::Host`] there is no thread but for the time of answers.
///
/// **Fairness.** Of one container one call is in work at a time, and after sixteen it is another's turn.
///
/// **Ends.** A listener goes when the last process under its filter has ended. When the supervisor is closed or dropped, and
/// when this process dies, the kernel lets all calls that wait, and all later ones, fail with `ENOSYS`: nobody hangs.
/// [`release`](Self::release) gives the listeners out, for another process to go on with.
///
/// Clones are the same supervisor.
///
/// ```
/// use stockade::seccomp::{NotifyLoop, Supervisor};
///
/// let supervisor = Supervisor::new(NotifyLoop::Host)?;
/// assert_eq!(supervisor.dispatch()?, 0);
/// # Ok::<(), stockade::Error>(())
/// ```
#[derive(Clone)]
pub struct Supervisor {
    shared: Arc<Shared>,
    _last: Arc<CloseOnDrop>,
}

/// What a thread answers calls with.
struct Means {
    hands: hands::Lazy,
    last: caller::Last,
}

/// Closes the supervisor with its last handle: its threads hold only what they work with.
struct CloseOnDrop(Arc<Shared>);

struct Shared {
    epoll: OwnedFd,
    closing: OwnedFd,
    drive: NotifyLoop,
    maker: Option<HandsMaker>,
    state: Mutex<State>,
    turn_ended: Condvar,
    turn_begun: Condvar,
}

#[derive(Default)]
struct State {
    listeners: BTreeMap<u64, Listener>,
    next: u64,
    /// The owners of a call in work, each with the listeners that became ready meanwhile.
    busy: BTreeMap<Arc<str>, BTreeSet<u64>>,
    /// Calls that something works at, by the tokens of that.
    unfinished: BTreeMap<u64, unfinished::Kept>,
    threads: Vec<JoinHandle<()>>,
    work: Work,
    closed: bool,
    answered: u64,
}

/// Who works at what.
#[derive(Default)]
struct Work {
    /// The number of the thread that waits for calls; who has another one ends.
    leader: u64,
    /// Since when the leader answers.
    turn: Option<Instant>,
    /// Whether there is a thread that looks after the leader, and whether it sleeps until a turn begins.
    standby: bool,
    asleep: bool,
    /// Where the host has the loop: listeners that are ready, the threads that answer with the begin of their turns, and
    /// helpers for the next ones.
    queue: VecDeque<u64>,
    workers: BTreeMap<u64, Instant>,
    means: Vec<Means>,
}

#[derive(Clone)]
struct Listener {
    fd: Arc<OwnedFd>,
    owner: Arc<str>,
    responder: Arc<dyn Responder>,
}

impl Supervisor {
    /// One without listeners yet.
    ///
    /// # Errors
    /// [`Exhausted`](crate::ErrorKind::Exhausted) where no descriptors are left.
    pub fn new(drive: NotifyLoop) -> Result<Self> {
        Self::with_hands(drive, None)
    }

    pub(crate) fn with_hands(drive: NotifyLoop, maker: Option<HandsMaker>) -> Result<Self> {
        let failed = |e| Error::sys("make the notify supervisor", e);
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).map_err(failed)?;
        let closing = eventfd(0, EventfdFlags::CLOEXEC).map_err(failed)?;
        epoll::add(&epoll, &closing, EventData::new_u64(CLOSING), EventFlags::IN).map_err(failed)?;
        let shared = Shared {
            epoll,
            closing,
            drive,
            maker,
            state: Mutex::default(),
            turn_ended: Condvar::new(),
            turn_begun: Condvar::new(),
        };
        let shared = Arc::new(shared);
        Ok(Self { _last: Arc::new(CloseOnDrop(Arc::clone(&shared))), shared })
    }

    /// Answers the calls of `listener` with `responder` from now on. `owner` stands for the container: of one owner one call
    /// is in work at a time.
    ///
    /// # Errors
    /// [`InvalidState`](crate::ErrorKind::InvalidState) where the supervisor is closed;
    /// [`Exhausted`](crate::ErrorKind::Exhausted) where there can be no thread. The listener is closed then, and its calls
    /// fail with `ENOSYS`.
    pub fn watch(&self, owner: &str, listener: OwnedFd, responder: Arc<dyn Responder>) -> Result<()> {
        let shared = &self.shared;
        crate::sys::seccomp::take_turns(listener.as_fd());
        let mut state = shared.state();
        if state.closed {
            return Err(Error::new(crate::ErrorKind::InvalidState, "watch a seccomp listener")
                .detail("the supervisor is closed"));
        }
        if shared.drive == NotifyLoop::Thread && state.work.leader == 0 {
            Shared::start(shared, &mut state)?;
        }
        let listener = Listener { fd: Arc::new(listener), owner: owner.into(), responder };
        shared.listen(&mut state, listener).map_err(|e| Error::sys("watch a seccomp listener", e))
    }

    /// Gives the listeners of `owner` out; their calls wait for whoever holds them. Waits up to 5 s for a call in work.
    ///
    /// This is how a process that outlives this one can go on answering: it gets the descriptors over a socket.
    pub fn release(&self, owner: &str) -> Vec<OwnedFd> {
        let shared = &self.shared;
        let mut state = shared.state();
        let tokens: Vec<u64> =
            state.listeners.iter().filter(|(_, l)| &*l.owner == owner).map(|(token, _)| *token).collect();
        let taken: Vec<Listener> =
            tokens.iter().filter_map(|token| shared.forget(&mut state, *token)).collect();
        let busy = |state: &mut State| state.busy.contains_key(owner);
        drop(shared.turn_ended.wait_timeout_while(state, PATIENCE, busy));
        taken
            .into_iter()
            .filter_map(|listener| match Arc::try_unwrap(listener.fd) {
                Ok(fd) => Some(fd),
                Err(shared) => shared.try_clone().ok(),
            })
            .collect()
    }

    /// Begins to answer the calls that wait, and says for how many containers. For [`NotifyLoop::Host`], when the descriptor
    /// is readable, and now and then beside that; does not block. The answers are given by a thread or two that live as long
    /// as there is something to answer, since they need what is not to be done to a thread of the host.
    ///
    /// # Errors
    /// [`Exhausted`](crate::ErrorKind::Exhausted) where there can be no thread: the calls go on waiting.
    pub fn dispatch(&self) -> Result<usize> {
        let shared = &self.shared;
        let mut ready = Vec::new();
        // As many as a host may have containers; the rest makes the descriptor readable again.
        while ready.len() < 1024 {
            let none = Timespec { tv_sec: 0, tv_nsec: 0 };
            match shared.wait(Some(&none)).map_err(|e| Error::sys("look for calls", e))? {
                None | Some(CLOSING) => break,
                Some(token) => ready.push(token),
            }
        }
        let begun = ready.len();
        let mut state = shared.state();
        state.work.queue.extend(ready);
        Shared::see_to_queue(shared, &mut state)?;
        Ok(begun)
    }

    /// How many listeners it has.
    pub fn listeners(&self) -> usize {
        self.shared.state().listeners.len()
    }

    /// How many calls it has answered.
    pub fn answered(&self) -> u64 {
        self.shared.state().answered
    }

    /// Ends it: closes all listeners and joins its threads. Of a thread whose call hangs it waits for 5 s; it ends with
    /// that call.
    pub fn close(&self) {
        self.shared.close();
    }
}

impl Drop for CloseOnDrop {
    fn drop(&mut self) {
        self.0.close();
    }
}

fn thread() -> std::thread::Builder {
    std::thread::Builder::new().name("stockade-notify".to_owned()).stack_size(256 * 1024)
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn listen(&self, state: &mut State, listener: Listener) -> Result<(), Errno> {
        let token = state.next;
        state.next += 1;
        let flags = EventFlags::IN | EventFlags::ONESHOT;
        epoll::add(&self.epoll, &*listener.fd, EventData::new_u64(token), flags)?;
        state.listeners.insert(token, listener);
        Ok(())
    }

    /// The next listener that is ready; `None` when the time is over.
    fn wait(&self, timeout: Option<&Timespec>) -> Result<Option<u64>, Errno> {
        let mut events = [const { std::mem::MaybeUninit::uninit() }; 1];
        match epoll::wait(&self.epoll, &mut events, timeout) {
            Ok((ready, _)) => Ok(ready.first().map(|event| event.data.u64())),
            Err(Errno::INTR) => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Has the listener tell of its next call.
    fn rearm(&self, state: &State, token: u64) {
        if let Some(listener) = state.listeners.get(&token) {
            let flags = EventFlags::IN | EventFlags::ONESHOT;
            // It is in there: it was added under the same lock, and is removed together with the entry.
            let _ = epoll::modify(&self.epoll, &*listener.fd, EventData::new_u64(token), flags);
        }
    }

    fn forget(&self, state: &mut State, token: u64) -> Option<Listener> {
        let listener = state.listeners.remove(&token)?;
        let _ = epoll::delete(&self.epoll, &*listener.fd);
        Some(listener)
    }

    fn close(&self) {
        let mut state = self.state();
        state.closed = true;
        let listeners = std::mem::take(&mut state.listeners);
        for listener in listeners.values() {
            let _ = epoll::delete(&self.epoll, &*listener.fd);
        }
        let threads = std::mem::take(&mut state.threads);
        let unfinished = std::mem::take(&mut state.unfinished);
        drop(state);
        // The calls that wait end here, but for those in work, which end with their turn.
        drop(listeners);
        let _ = rustix::io::write(&self.closing, &1_u64.to_ne_bytes());
        self.turn_begun.notify_all();
        let end = Instant::now() + PATIENCE;
        let own = std::thread::current().id();
        for thread in threads {
            // A responder may hold, and drop, the last handle.
            if thread.thread().id() == own {
                continue;
            }
            while !thread.is_finished() && Instant::now() < end {
                std::thread::sleep(Duration::from_millis(1));
            }
            if thread.is_finished() {
                let _ = thread.join();
            }
        }
        let means = std::mem::take(&mut self.state().work.means);
        drop(means);
        unfinished::give_up(unfinished.into_values(), end);
    }
}

impl AsFd for Supervisor {
    /// Readable when calls wait, with [`NotifyLoop::Host`].
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.shared.epoll.as_fd()
    }
}

impl fmt::Debug for Supervisor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.shared.state();
        f.debug_struct("Supervisor")
            .field("drive", &self.shared.drive)
            .field("listeners", &state.listeners.len())
            .field("threads", &state.threads.len())
            .finish_non_exhaustive()
    }
}
