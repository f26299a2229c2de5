//! The threads that answer: one that waits, and one that takes its place when a call hangs.

use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::Instant;

use super::hands::Lazy;
use super::{CLOSING, Means, SPARE, STUCK, Shared, State, caller, thread};
use crate::error::{Error, Result};

/// How many threads answer at a time where the host has the loop and no call hangs.
const WORKERS: usize = 2;

impl Shared {
    /// Starts the first thread that waits for calls.
    pub(super) fn start(this: &Arc<Self>, state: &mut State) -> Result<()> {
        let worker = Arc::clone(this);
        Self::spawn(state, move || worker.lead(1))?;
        state.work.leader = 1;
        Ok(())
    }

    fn spawn(state: &mut State, f: impl FnOnce() + Send + 'static) -> Result<()> {
        state.threads.retain(|t| !t.is_finished());
        let handle = thread().spawn(f).map_err(|e| Error::io("start a thread that answers calls", e))?;
        state.threads.push(handle);
        Ok(())
    }

    fn means(&self) -> Means {
        Means { hands: Lazy::new(self.maker.clone()), last: caller::Last::default() }
    }

    /// Waits for calls and answers them, until another thread has taken this one's place.
    fn lead(self: Arc<Self>, number: u64) {
        let mut means = self.means();
        loop {
            let ready = self.wait(None);
            let mut state = self.state();
            if state.closed || state.work.leader != number {
                return;
            }
            let token = match ready {
                Ok(Some(CLOSING)) | Err(_) => return,
                Ok(None) => continue,
                Ok(Some(token)) => token,
            };
            Self::begin(&self, &mut state);
            drop(state);
            Self::turn(&self, token, &mut means, Some(number));
            let mut state = self.state();
            if state.work.leader != number {
                return;
            }
            state.work.turn = None;
        }
    }

    /// From now on the leader answers, and somebody looks after it.
    pub(super) fn begin(this: &Arc<Self>, state: &mut State) {
        state.work.turn = Some(Instant::now());
        if !state.work.standby {
            let worker = Arc::clone(this);
            // Without it this thread answers alone, which is as well as long as no call hangs.
            state.work.standby = Self::spawn(state, move || worker.stand_by()).is_ok();
        } else if state.work.asleep {
            state.work.asleep = false;
            this.turn_begun.notify_all();
        }
    }

    /// Looks after the leader, and takes its place when one turn of it takes too long.
    fn stand_by(self: Arc<Self>) {
        let mut state = self.state();
        loop {
            if state.closed {
                return;
            }
            let Some(begun) = state.work.turn else {
                state.work.asleep = true;
                state = self.woken(state);
                continue;
            };
            let left = STUCK.saturating_sub(begun.elapsed());
            if left.is_zero() {
                state.work.leader += 1;
                state.work.turn = None;
                state.work.standby = false;
                let number = state.work.leader;
                drop(state);
                return self.lead(number);
            }
            let waited = self.turn_begun.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn woken<'a>(&self, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        self.turn_begun.wait(state).unwrap_or_else(PoisonError::into_inner)
    }

    /// Sees to it that somebody answers what is in the queue of a host's loop.
    pub(super) fn see_to_queue(this: &Arc<Self>, state: &mut State) -> Result<()> {
        let workers = &state.work.workers;
        let free = workers.values().filter(|begun| begun.elapsed() < STUCK).count();
        if state.closed || state.work.queue.is_empty() || free >= WORKERS {
            return Ok(());
        }
        let number = state.work.leader + 1;
        let worker = Arc::clone(this);
        Self::spawn(state, move || worker.drain(number))?;
        state.work.leader = number;
        state.work.workers.insert(number, Instant::now());
        Ok(())
    }

    /// Answers what is in the queue, and ends.
    fn drain(self: Arc<Self>, number: u64) {
        let mut state = self.state();
        let mut means = state.work.means.pop().unwrap_or_else(|| self.means());
        while let Some(token) = state.work.queue.pop_front().filter(|_| !state.closed) {
            state.work.workers.insert(number, Instant::now());
            drop(state);
            Self::turn(&self, token, &mut means, None);
            state = self.state();
        }
        state.work.workers.remove(&number);
        if !state.closed && state.work.means.len() < SPARE {
            state.work.means.push(means);
        } else {
            drop(state);
        }
    }
}
