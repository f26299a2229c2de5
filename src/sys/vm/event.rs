//! Counters that wake somebody (`eventfd(2)`), between devices, threads and KVM.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use rustix::io::Errno;
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

/// An eventfd that never blocks.
#[derive(Debug)]
pub(crate) struct Event(EventFd);

impl Event {
    pub(crate) fn new() -> Result<Self, Errno> {
        let event = EventFd::new(EFD_CLOEXEC | EFD_NONBLOCK);
        event.map(Self).map_err(|e| Errno::from_io_error(&e).unwrap_or(Errno::IO))
    }

    /// Wakes who waits for it.
    pub(crate) fn signal(&self) {
        // A full counter wakes as well.
        let _ = self.0.write(1);
    }

    /// Takes what was signalled; says whether anything was.
    pub(crate) fn take(&self) -> bool {
        self.0.read().is_ok()
    }

    /// As KVM's calls want it.
    pub(crate) fn as_kvm(&self) -> &EventFd {
        &self.0
    }
}

impl AsFd for Event {
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the descriptor is open as long as `self` lives.
        unsafe { BorrowedFd::borrow_raw(self.0.as_raw_fd()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_taken_once() {
        let event = Event::new().unwrap();
        assert!(!event.take());
        event.signal();
        event.signal();
        assert!(event.take() && !event.take());
    }
}
