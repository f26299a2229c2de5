//! The thread in which devices work: it waits for descriptors (`epoll(7)`) and calls who asked for them.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::io::Errno;

use super::control::{Control, Next};
use super::exit::ExitReason;
use super::kick::Kicker;
use crate::error::{Error, Result};
use crate::sys::raw::retry;
use crate::sys::vm::event::Event;

/// Somebody who waits for descriptors. Called in the machine's event thread alone.
pub(super) trait EventHandler: Send {
    /// Asks for its descriptors, before anything runs.
    fn begin(&mut self, watcher: &Watcher<'_>) -> Result<()>;

    /// A descriptor that it asked for under `token` is ready.
    fn ready(&mut self, token: u32, flags: EventFlags, watcher: &Watcher<'_>);
}

/// How a handler asks for descriptors.
pub(super) struct Watcher<'a> {
    epoll: &'a OwnedFd,
    handler: u32,
    /// What is added to each token.
    base: u32,
}

impl<'a> Watcher<'a> {
    #[cfg(any(test, feature = "fuzzing"))]
    pub(super) fn new(epoll: &'a OwnedFd) -> Self {
        Self { epoll, handler: 0, base: 0 }
    }

    fn data(&self, token: u32) -> EventData {
        EventData::new_u64(u64::from(self.handler) << 32 | u64::from(self.base + token))
    }

    /// The same, for somebody inside of the handler: it is asked for tokens from `base` on.
    pub(super) fn with_base(&self, base: u32) -> Watcher<'_> {
        Watcher { epoll: self.epoll, handler: self.handler, base: self.base + base }
    }

    /// Calls the handler with `token` whenever the descriptor is ready, until its last copy is closed.
    pub(super) fn add(&self, fd: impl AsFd, token: u32, flags: EventFlags) -> Result<()> {
        epoll::add(self.epoll, fd, self.data(token), flags).map_err(|e| Error::sys("watch a descriptor", e))
    }
}

/// The handlers of a machine, before their thread runs.
pub(super) struct EventLoop {
    epoll: OwnedFd,
    wake: Arc<Event>,
    handlers: Vec<Box<dyn EventHandler>>,
}

/// No handler's number.
const WAKE: u64 = u64::MAX;

impl EventLoop {
    pub(super) fn new(mut handlers: Vec<Box<dyn EventHandler>>) -> Result<Self> {
        let failed = |e| Error::sys("make the machine's event loop", e);
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).map_err(failed)?;
        let wake = Arc::new(Event::new().map_err(failed)?);
        epoll::add(&epoll, &*wake, EventData::new_u64(WAKE), EventFlags::IN).map_err(failed)?;
        for (n, handler) in (0..).zip(&mut handlers) {
            handler.begin(&Watcher { epoll: &epoll, handler: n, base: 0 })?;
        }
        Ok(Self { epoll, wake, handlers })
    }

    pub(super) fn kicker(&self) -> Kicker {
        Kicker::Event(Arc::clone(&self.wake))
    }

    /// Runs until the machine ends.
    pub(super) fn run(mut self, control: &Control) {
        let mut ready = Vec::with_capacity(64);
        while control.gate() != Next::End {
            ready.clear();
            let waited = retry(|| {
                epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut ready), None).or_else(|e| {
                    // A signal of the host's is no reason to go round; a kick comes by the descriptor.
                    if e == Errno::INTR { Ok(0) } else { Err(e) }
                })
            });
            if let Err(e) = waited {
                control.end(ExitReason::Failed(format!("the event loop failed: {e}")));
                return;
            }
            for event in &ready {
                let data = event.data.u64();
                if data == WAKE {
                    self.wake.take();
                    continue;
                }
                let (handler, token) = ((data >> 32) as u32, data as u32);
                let watcher = Watcher { epoll: &self.epoll, handler, base: 0 };
                if let Some(found) = self.handlers.get_mut(handler as usize) {
                    found.ready(token, event.flags, &watcher);
                }
            }
        }
    }
}
