//! A token that ends waits from another thread.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::event::EventfdFlags;

use crate::error::{Error, Result};
use crate::sys::raw::retry;

/// Ends a call that waits, from another thread.
///
/// Clones share one state. Once cancelled, a token stays so: every wait that is given it ends with
/// [`Cancelled`](crate::ErrorKind::Cancelled), the present ones and the later ones. What the call had begun
/// is undone as after any other failure.
///
/// The token is an `eventfd(2)`: its descriptor becomes readable at [`cancel`](Self::cancel) and stays
/// readable, so an event loop can poll it too. Do not read from or write to the descriptor.
///
/// ```
/// use stockade::Cancel;
///
/// let cancel = Cancel::new()?;
/// let seen_by_the_call = cancel.clone();
/// std::thread::spawn(move || cancel.cancel()).join().unwrap();
/// assert!(seen_by_the_call.is_cancelled());
/// # Ok::<(), stockade::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Cancel(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    cancelled: AtomicBool,
    event: OwnedFd,
}

impl Cancel {
    /// A token that is not cancelled yet. It owns one close-on-exec descriptor, closed with the last clone.
    ///
    /// # Errors
    /// [`Exhausted`](crate::ErrorKind::Exhausted) when the process or the host has no descriptor left.
    pub fn new() -> Result<Self> {
        let event = rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            .map_err(|e| Error::sys("create the eventfd of a cancel token", e))?;
        Ok(Self(Arc::new(Inner { cancelled: AtomicBool::new(false), event })))
    }

    /// Cancels: every wait with this token or a clone of it ends. A second call does nothing.
    pub fn cancel(&self) {
        if !self.0.cancelled.swap(true, Ordering::AcqRel) {
            // One write of one to an eventfd that holds zero cannot be refused.
            let _ = retry(|| rustix::io::write(&self.0.event, &1_u64.to_ne_bytes()));
        }
    }

    /// Whether [`cancel`](Self::cancel) was called.
    pub fn is_cancelled(&self) -> bool {
        self.0.cancelled.load(Ordering::Acquire)
    }
}

impl AsFd for Cancel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.event.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;
    use crate::sys::pidfd::poll_in;

    #[test]
    fn wakes_a_poll_in_another_thread_and_stays_readable() {
        let cancel = Cancel::new().unwrap();
        let soon = || Some(Instant::now() + Duration::from_millis(1));
        assert_eq!(poll_in(&[cancel.as_fd()], soon()).unwrap(), [false]);

        let waiter = cancel.clone();
        let thread = std::thread::spawn(move || {
            poll_in(&[waiter.as_fd()], Some(Instant::now() + Duration::from_secs(20))).unwrap()
        });
        cancel.cancel();
        cancel.cancel();
        assert_eq!(thread.join().unwrap(), [true]);
        assert!(cancel.is_cancelled());
        assert_eq!(poll_in(&[cancel.as_fd()], soon()).unwrap(), [true]);
    }
}
