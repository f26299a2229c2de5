//! What a machine's threads have in common: whether they run, rest or end, and why they ended.

use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};

use super::exit::ExitReason;
use super::kick::Kicker;
use crate::error::{Error, ErrorKind, Result};
use crate::op::{Cancel, Deadline};
use crate::sys::pidfd::poll_in;
use crate::sys::vm::event::Event;

const RUN: u8 = 0;
const PAUSE: u8 = 1;
const END: u8 = 2;

/// One for each run of a machine.
#[derive(Debug)]
pub(super) struct Control {
    /// Read by every thread between two steps; changed under the lock.
    want: AtomicU8,
    inner: Mutex<Inner>,
    changed: Condvar,
    /// Readable once the machine has ended, for ever.
    ended: Event,
    kickers: OnceLock<Vec<Arc<Kicker>>>,
}

#[derive(Debug, Default)]
struct Inner {
    /// Threads that go through [`Control::gate`].
    threads: usize,
    resting: usize,
    exit_code: u8,
    reason: Option<ExitReason>,
}

/// What a thread does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    Run,
    /// Run, after a rest.
    Rested,
    End,
}

impl Control {
    pub(super) fn new() -> Result<Self> {
        let ended = Event::new().map_err(|e| Error::sys("make the event of a machine's end", e))?;
        Ok(Self {
            // Until the first `resume` nobody runs.
            want: AtomicU8::new(PAUSE),
            inner: Mutex::default(),
            changed: Condvar::new(),
            ended,
            kickers: OnceLock::new(),
        })
    }

    /// Whom to kick, once all are known. Nobody runs before; the threads then rest until [`resume`](Self::resume).
    pub(super) fn set_kickers(&self, kickers: Vec<Arc<Kicker>>) {
        self.inner().threads = kickers.len();
        let _ = self.kickers.set(kickers);
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn kick_all(&self) {
        for kicker in self.kickers.get().into_iter().flatten() {
            kicker.kick();
        }
    }

    /// Where each thread asks between two steps whether to go on; it rests here.
    pub(super) fn gate(&self) -> Next {
        if self.want.load(Ordering::SeqCst) == RUN {
            return Next::Run;
        }
        let mut inner = self.inner();
        inner.resting += 1;
        self.changed.notify_all();
        while self.want.load(Ordering::SeqCst) == PAUSE {
            inner = self.changed.wait(inner).unwrap_or_else(PoisonError::into_inner);
        }
        inner.resting -= 1;
        if self.want.load(Ordering::SeqCst) == END { Next::End } else { Next::Rested }
    }

    /// What the guest's exit code will be if it ends by itself.
    pub(super) fn set_exit_code(&self, code: u8) {
        self.inner().exit_code = code;
    }

    /// Ends the machine; the first reason counts. Its threads end soon.
    pub(super) fn end(&self, reason: ExitReason) {
        {
            let mut inner = self.inner();
            let code = inner.exit_code;
            inner.reason.get_or_insert(match reason {
                ExitReason::Poweroff(_) => ExitReason::Poweroff(code),
                ExitReason::Reboot(_) => ExitReason::Reboot(code),
                other => other,
            });
            self.want.store(END, Ordering::SeqCst);
        }
        self.changed.notify_all();
        self.ended.signal();
        self.kick_all();
    }

    /// Why it has ended; `None` while it has not.
    pub(super) fn reason(&self) -> Option<ExitReason> {
        self.inner().reason.clone()
    }

    /// Whether it is paused, or about to be.
    pub(super) fn is_paused(&self) -> bool {
        self.want.load(Ordering::SeqCst) == PAUSE
    }

    /// Lets every thread rest, and comes back once they do: at the beginning, when all of them are there.
    ///
    /// # Errors
    /// `Timeout` or `Cancelled`: it then runs on. `InvalidState` where it has ended.
    pub(super) fn pause(&self, deadline: Deadline, cancel: Option<&Cancel>) -> Result<()> {
        let mut inner = self.inner();
        if inner.reason.is_some() {
            return Err(ended());
        }
        self.want.store(PAUSE, Ordering::SeqCst);
        drop(inner);
        self.kick_all();
        inner = self.inner();
        loop {
            if inner.reason.is_some() {
                return Err(ended());
            }
            if inner.resting == inner.threads {
                return Ok(());
            }
            let cancelled = cancel.is_some_and(Cancel::is_cancelled);
            if cancelled || deadline.expired() {
                self.want.store(RUN, Ordering::SeqCst);
                self.changed.notify_all();
                let kind = if cancelled { ErrorKind::Cancelled } else { ErrorKind::Timeout };
                return Err(Error::new(kind, "pause the virtual processors"));
            }
            // A cancel cannot be waited for together with the threads.
            let slice = std::time::Duration::from_millis(20);
            let slice = deadline.remaining().map_or(slice, |left| left.min(slice));
            inner = self.changed.wait_timeout(inner, slice).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Lets it run again.
    pub(super) fn resume(&self) -> Result<()> {
        let inner = self.inner();
        if inner.reason.is_some() {
            return Err(ended());
        }
        self.want.store(RUN, Ordering::SeqCst);
        drop(inner);
        self.changed.notify_all();
        Ok(())
    }

    /// Waits until it has ended.
    pub(super) fn wait(&self, deadline: Deadline, cancel: Option<&Cancel>) -> Result<ExitReason> {
        use std::os::fd::AsFd as _;
        let mut fds = vec![self.ended.as_fd()];
        fds.extend(cancel.map(|c| c.as_fd()));
        let ready = poll_in(&fds, deadline.instant()).map_err(|e| Error::sys("wait for the machine", e))?;
        match self.reason() {
            Some(reason) => Ok(reason),
            None if ready.get(1) == Some(&true) => {
                Err(Error::new(ErrorKind::Cancelled, "wait for the virtual machine"))
            }
            None => Err(Error::new(ErrorKind::Timeout, "wait for the virtual machine")
                .detail("the deadline passed and it still runs")),
        }
    }

    /// Readable once it has ended.
    pub(super) fn ended_event(&self) -> &Event {
        &self.ended
    }
}

fn ended() -> Error {
    Error::new(ErrorKind::InvalidState, "find the virtual machine").detail("it has ended")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_first_reason_counts_and_has_the_guests_code() {
        let control = Control::new().unwrap();
        assert!(control.is_paused());
        control.resume().unwrap();
        control.set_exit_code(3);
        assert_eq!(control.reason(), None);
        assert_eq!(
            control.wait(Deadline::after(Duration::ZERO), None).unwrap_err().kind(),
            ErrorKind::Timeout
        );
        control.end(ExitReason::Poweroff(0));
        control.end(ExitReason::Stopped);
        assert_eq!(control.wait(Deadline::none(), None).unwrap(), ExitReason::Poweroff(3));
        assert_eq!(control.gate(), Next::End);
        assert!(control.pause(Deadline::none(), None).is_err() && control.resume().is_err());
    }

    #[test]
    fn a_pause_waits_for_every_thread_and_is_taken_back() {
        let control = Arc::new(Control::new().unwrap());
        control.resume().unwrap();
        let event = Arc::new(Event::new().unwrap());
        control.set_kickers(vec![Arc::new(Kicker::Event(Arc::clone(&event)))]);
        let early = control.pause(Deadline::after(Duration::from_millis(1)), None);
        assert_eq!(early.unwrap_err().kind(), ErrorKind::Timeout);
        assert!(event.take() && !control.is_paused());
        let thread = {
            let (control, event) = (Arc::clone(&control), Arc::clone(&event));
            std::thread::spawn(move || {
                loop {
                    let next = control.gate();
                    if next != Next::Run {
                        return next;
                    }
                    poll_in(&[std::os::fd::AsFd::as_fd(&*event)], None).unwrap();
                }
            })
        };
        control.pause(Deadline::none(), None).unwrap();
        assert!(control.is_paused());
        control.resume().unwrap();
        assert_eq!(thread.join().unwrap(), Next::Rested);
    }
}
