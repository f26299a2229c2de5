//! One turn of one container: some of its calls, answered by one thread.

use std::os::fd::AsFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use super::call::{Call, Response, encode};
use super::hands::Lazy;
use super::unfinished::Later;
use super::{Listener, Shared};
use crate::sys::seccomp as sys;

/// How many calls of a container are answered before it is another's turn.
const CALLS: usize = 16;

/// What a look at a listener found.
enum Look {
    Call,
    Nothing,
    /// The last process under the filter has ended.
    Gone,
}

impl Shared {
    /// Answers what waits at a listener. Does nothing where a call of the same container is in work: who does that looks
    /// at this listener afterwards.
    pub(super) fn turn(&self, token: u64, hands: &mut Lazy) {
        if self.look_after(token) {
            return;
        }
        let mut state = self.state();
        let Some(listener) = state.listeners.get(&token).cloned() else { return };
        if let Some(waiting) = state.busy.get_mut(&listener.owner) {
            waiting.insert(token);
            return;
        }
        state.busy.insert(Arc::clone(&listener.owner), [token].into());
        let unfinished = state.unfinished_of(&listener.owner);
        drop(state);

        let Answered { calls, gone, later } = listener.answer(hands, unfinished);

        let mut state = self.state();
        state.answered += calls;
        if let Some((id, later)) = later {
            self.keep(&mut state, &listener, id, later);
        }
        if gone {
            self.forget(&mut state, token);
        }
        let owner = Arc::clone(&listener.owner);
        // The descriptor may be closed by this, and with it the calls that wait.
        drop(listener);
        for ready in state.busy.remove(&owner).unwrap_or_default() {
            self.rearm(&state, ready);
        }
        drop(state);
        self.turn_ended.notify_all();
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
    fn answer(&self, hands: &mut Lazy, unfinished: usize) -> Answered {
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
            let listener = self.fd.as_fd();
            let mut call = Call { listener, call, hands, answered: false, unfinished, later: None };
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
