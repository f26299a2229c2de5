//! Calls whose answer comes later: something works at them that tells of its end by a descriptor.

use std::fmt;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Instant;

use rustix::event::epoll::{self, EventData, EventFlags};

use super::call::{Response, encode};
use super::{Listener, Shared, State};
use crate::sys::seccomp as sys;

/// What works at a call. Neither its caller nor anybody else waits for it but by its descriptor.
pub(crate) trait Unfinished: Send + fmt::Debug {
    /// Readable when there is something to look at.
    fn as_fd(&self) -> BorrowedFd<'_>;

    /// Looks how far it is. Does not block.
    fn look(&mut self) -> Progress;

    /// Ends the work, and waits for its end until then.
    fn give_up(&mut self, until: Instant);
}

/// How far something is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Progress {
    /// The answer, once there is one.
    pub(crate) response: Option<Response>,
    /// Whether nothing is left of the work.
    pub(crate) is_over: bool,
}

/// A call that is answered later.
#[derive(Debug)]
pub(crate) struct Later {
    pub(crate) work: Box<dyn Unfinished>,
    /// A listener that came with the work: its calls are answered as those of the one that this call came from.
    pub(crate) listener: Option<OwnedFd>,
}

/// One of them, as the supervisor keeps it.
pub(super) struct Kept {
    work: Box<dyn Unfinished>,
    owner: Arc<str>,
    /// Where the answer goes; `None` once it was given.
    ask: Option<(Arc<OwnedFd>, u64)>,
}

impl Kept {
    /// Answers; how many calls that were.
    fn answer(&mut self, response: Response) -> u64 {
        let Some((listener, id)) = self.ask.take() else { return 0 };
        // A caller that was killed gets no answer.
        let _ = sys::answer(listener.as_fd(), encode(id, response));
        1
    }
}

impl State {
    /// How many calls of a container are to be answered later.
    pub(super) fn unfinished_of(&self, owner: &str) -> usize {
        self.unfinished.values().filter(|kept| &*kept.owner == owner).count()
    }
}

impl Shared {
    /// Keeps a call of `from` that is answered later.
    pub(super) fn keep(&self, state: &mut State, from: &Listener, id: u64, later: Later) {
        let Later { work, listener } = later;
        if let Some(fd) = listener {
            let fd = Arc::new(fd);
            // Without it the calls fail with ENOSYS, as the descriptor is closed then.
            let _ = self.listen(state, Listener { fd, ..from.clone() });
        }
        let ask = Some((Arc::clone(&from.fd), id));
        let mut kept = Kept { work, owner: Arc::clone(&from.owner), ask };
        let token = state.next;
        state.next += 1;
        let flags = EventFlags::IN | EventFlags::ONESHOT;
        let added = epoll::add(&self.epoll, kept.work.as_fd(), EventData::new_u64(token), flags);
        if added.is_err() || state.closed {
            kept.work.give_up(Instant::now());
            state.answered += kept.answer(Response::Continue);
            return;
        }
        state.unfinished.insert(token, kept);
    }

    /// Looks after what is known by this token. Whether there is such a thing.
    pub(super) fn look_after(&self, token: u64) -> bool {
        let Some(mut kept) = self.state().unfinished.remove(&token) else { return false };
        let Progress { response, is_over } = kept.work.look();
        let answered = response.map_or(0, |response| kept.answer(response));
        let mut state = self.state();
        state.answered += answered;
        if is_over {
            let _ = epoll::delete(&self.epoll, kept.work.as_fd());
            drop(state);
        } else if state.closed {
            drop(state);
            kept.work.give_up(Instant::now());
        } else {
            let flags = EventFlags::IN | EventFlags::ONESHOT;
            // It is in there since `keep`.
            let _ = epoll::modify(&self.epoll, kept.work.as_fd(), EventData::new_u64(token), flags);
            state.unfinished.insert(token, kept);
        }
        true
    }
}

/// Ends them all: at once, and waits for them until then.
pub(super) fn give_up(all: impl IntoIterator<Item = Kept>, until: Instant) {
    let mut all: Vec<Kept> = all.into_iter().collect();
    for kept in &mut all {
        kept.work.give_up(Instant::now());
    }
    for kept in &mut all {
        kept.work.give_up(until);
    }
}
