//! Waiting for one descriptor.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;

/// Waits for `events` or an error of `fd`, at most until the deadline and for `slice`; empty when the time is over or
/// a signal came.
pub(super) fn poll(
    fd: impl AsFd,
    events: PollFlags,
    deadline: Option<Instant>,
    slice: Option<Duration>,
) -> Result<PollFlags, Errno> {
    let left = deadline.map(|d| d.saturating_duration_since(Instant::now()));
    let wait = left.into_iter().chain(slice).min().map(|wait| Timespec {
        tv_sec: i64::try_from(wait.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: i64::from(wait.subsec_nanos()),
    });
    let mut fds = [PollFd::new(&fd, events)];
    match rustix::event::poll(&mut fds, wait.as_ref()) {
        Ok(_) => Ok(fds[0].revents()),
        Err(Errno::INTR) => Ok(PollFlags::empty()),
        Err(e) => Err(e),
    }
}

/// Whether the deadline is over.
pub(super) fn over(deadline: Option<Instant>) -> bool {
    deadline.is_some_and(|d| d <= Instant::now())
}
