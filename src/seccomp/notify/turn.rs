//! One turn of one container: some of its calls, answered by one thread.

use std::os::fd::AsFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use super::call::{Call, Response, encode};
use super::caller::Last;
use super::unfinished::Later;
use super::{Listener, Means, Shared};
use crate::sys::seccomp as sys;

/// How many calls of a container are answered before it is another's turn.
const CALLS: usize = 16;

/// How long a thread waits for the next call of a container: most make more than one.
const STAY: Timespec = Timespec { tv_sec: 0, tv_nsec: 5_000_000 };

/// What a look at a listener found.
enum Look {
    Call,
    Nothing,
    /// The last process under the filter has ended.
    Gone,
}

impl Shared {
    /// Answers what waits at a listener. Does nothing where a call of the same container is in work: who does that looks
    /// at this listener afterwards. With the number of a thread that leads it waits a moment for more.
    pub(super) fn turn(this: &Arc<Self>, token: u64, means: &mut Means, leader: Option<u64>) {
        if this.look_after(token) {
            return;
        }
        let mut state = this.state();
        let Some(listener) = state.listeners.get(&token).cloned() else { return };
        if let Some(waiting) = state.busy.get_mut(&listener.owner) {
            waiting.insert(token);
            return;
        }
        state.busy.insert(Arc::clone(&listener.owner), [token].into());
        let unfinished = state.unfinished_of(&listener.owner);
        drop(state);

        // The number stays what it is: a turn ends with a call that is answered later.
        let mut done = listener.answer(means, unfinished);
        while let Some(number) = leader
            && !done.gone
            && done.later.is_none()
            && Self::stay(this, number, token, &listener, std::mem::take(&mut done.calls))
        {
            done = listener.answer(means, unfinished);
        }
        // Another container's turn, or nobody's: what is open of the last caller is of no more use.
        means.last = Last::default();
        let Answered { calls, gone, later } = done;

        let mut state = this.state();
        state.answered += calls;
        if let Some((id, later)) = later {
            this.keep(&mut state, &listener, id, later);
        }
        if gone {
            this.forget(&mut state, token);
        }
        let owner = Arc::clone(&listener.owner);
        // The descriptor may be closed by this, and with it the calls that wait.
        drop(listener);
        for ready in state.busy.remove(&owner).unwrap_or_default() {
            this.rearm(&state, ready);
        }
        drop(state);
        this.turn_ended.notify_all();
    }

    /// Waits a moment at a listener, and at all others: whether its next call is there and nobody else's, and this thread
    /// still leads.
    ///
    /// The kernel wakes who waits at the listener itself on the processor of the caller (Linux 6.6), but not who waits by way
    /// of epoll.
    fn stay(this: &Arc<Self>, number: u64, token: u64, listener: &Listener, answered: u64) -> bool {
        let mut state = this.state();
        state.answered += answered;
        if state.work.leader != number {
            return false;
        }
        // Nothing is in work.
        state.work.turn = None;
        drop(state);
        let mut fds = [PollFd::new(&*listener.fd, PollFlags::IN), PollFd::new(&this.epoll, PollFlags::IN)];
        if !matches!(poll(&mut fds, Some(&STAY)), Ok(1..)) || !fds[1].revents().is_empty() {
            return false;
        }
        let mut state = this.state();
        // It may have been released, and the supervisor closed.
        let goes_on = !state.closed && state.work.leader == number && state.listeners.contains_key(&token);
        if goes_on {
            Self::begin(this, &mut state);
        }
        goes_on
    }
}

/// What came of a turn.
#[derive(Default)]
struct Answered {
    calls: u64,
    /// Whether the listener has no use any more.
    gone: bool,
    /// The last call, where it is answered later.
    later: Option<(u64, Later)>,
}

impl Listener {
    /// Answers up to [`CALLS`] calls, or up to one that is answered later.
    fn answer(&self, means: &mut Means, unfinished: usize) -> Answered {
        let mut done = Answered::default();
        for _ in 0..CALLS {
            match self.look() {
                Look::Call => {}
                Look::Nothing => return done,
                Look::Gone => return Answered { gone: true, ..done },
            }
            let call = match sys::receive(self.fd.as_fd()) {
                Ok(call) => call,
                // Killed in between.
                Err(Errno::NOENT | Errno::INTR) => continue,
                Err(_) => return Answered { gone: true, ..done },
            };
            let (listener, Means { hands, last }) = (self.fd.as_fd(), &mut *means);
            let mut call = Call { listener, call, hands, last, answered: false, unfinished, later: None };
            let response = catch_unwind(AssertUnwindSafe(|| self.responder.respond(&mut call)));
            // A caller that was killed gets no answer.
            if let Some(later) = call.later.take() {
                return Answered { later: Some((call.id(), later)), ..done };
            }
            if !call.answered {
                let response = response.unwrap_or(Response::Errno(libc::ENOSYS as u16));
                let _ = sys::answer(listener, encode(call.id(), response));
            }
            done.calls += 1;
        }
        done
    }

    fn look(&self) -> Look {
        let mut fds = [PollFd::new(&*self.fd, PollFlags::IN)];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        match poll(&mut fds, Some(&now)) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(_) => return Look::Gone,
        }
        let found = fds[0].revents();
        if found.contains(PollFlags::IN) {
            Look::Call
        } else if found.intersects(PollFlags::HUP | PollFlags::ERR) {
            Look::Gone
        } else {
            Look::Nothing
        }
    }
}
