//! One turn of one container: some of its calls, answered by one thread.

use std::os::fd::{AsFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use super::call::{Call, Response};
use super::{Listener, Means, Shared};
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
    /// at this listener afterwards. The listener, where more may come of it.
    pub(super) fn turn(&self, token: u64, means: &mut Means) -> Option<Arc<OwnedFd>> {
        let mut state = self.state();
        let listener = state.listeners.get(&token).cloned()?;
        if let Some(waiting) = state.busy.get_mut(&listener.owner) {
            waiting.insert(token);
            return None;
        }
        state.busy.insert(Arc::clone(&listener.owner), [token].into());
        drop(state);

        let (answered, gone) = listener.answer(means);

        let mut state = self.state();
        state.answered += answered;
        if gone {
            self.forget(&mut state, token);
        }
        let owner = Arc::clone(&listener.owner);
        let near = state.listeners.contains_key(&token).then(|| Arc::clone(&listener.fd));
        // The descriptor may be closed by this, and with it the calls that wait.
        drop(listener);
        for ready in state.busy.remove(&owner).unwrap_or_default() {
            self.rearm(&state, ready);
        }
        drop(state);
        self.turn_ended.notify_all();
        near
    }
}

impl Listener {
    /// Answers up to [`CALLS`] calls: how many it were, and whether the listener has no use any more.
    fn answer(&self, means: &mut Means) -> (u64, bool) {
        let mut answered = 0;
        for _ in 0..CALLS {
            match self.look() {
                Look::Call => {}
                Look::Nothing => return (answered, false),
                Look::Gone => return (answered, true),
            }
            let call = match sys::receive(self.fd.as_fd()) {
                Ok(call) => call,
                // Killed in between.
                Err(Errno::NOENT | Errno::INTR) => continue,
                Err(_) => return (answered, true),
            };
            let Means { hands, last } = means;
            let mut call = Call { listener: self.fd.as_fd(), call, hands, last, answered: false };
            let response = catch_unwind(AssertUnwindSafe(|| self.responder.respond(&mut call)));
            // A caller that was killed gets no answer.
            if !call.answered {
                let response = response.unwrap_or(Response::Errno(libc::ENOSYS as u16));
                let _ = sys::answer(self.fd.as_fd(), call.answer(response));
            }
            answered += 1;
        }
        (answered, false)
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
