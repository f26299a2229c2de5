//! Virtio devices (OASIS Virtual I/O Device, version 1.2), over registers in memory.
//!
//! A device is a [`VirtioDevice`]: its number, its queues, and what it does when the guest rings for one of them. All the
//! rest is the [transport](mmio). Devices work in the machine's event thread or one of their own, never in a processor's.

mod balloon;
mod block;
mod buffers;
mod console;
mod mmio;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod rig;
mod rng;
mod vsock;

use std::sync::atomic::{AtomicU32, Ordering};

pub(in crate::vm) use balloon::{Balloon, BalloonDevice, Report};
pub(in crate::vm) use block::{Block, DiskCounters, OpenDisk};
pub(in crate::vm) use console::{Console, Keys};
pub(in crate::vm) use mmio::add;
pub(in crate::vm) use rng::Rng;
use rustix::event::epoll::EventFlags;
use virtio_queue::{DescriptorChain, Error as QueueError, Queue, QueueOwnedT, QueueT};
pub(in crate::vm) use vsock::{OpenSocket, Vsock, VsockHost};

use crate::error::Result;
use crate::sys::vm::event::Event;
use crate::vm::event_loop::Watcher;
use crate::vm::memory::Memory;

/// How many buffers one call may take. A guest that never stops putting some there must not keep a device from its
/// thread's other work.
const BUDGET: u32 = 1024;

/// What is particular to one kind of device.
pub(in crate::vm) trait VirtioDevice: Send + 'static {
    /// Its name, for messages.
    fn name(&self) -> &'static str;

    /// Its number in the standard.
    fn number(&self) -> u32;

    /// The most entries of each of its queues, powers of two.
    fn queues(&self) -> &'static [u16];

    /// The name of a thread of its own, for a device that may have to wait.
    fn own_thread(&self) -> Option<String> {
        None
    }

    /// Asks for descriptors, before anything runs.
    fn begin(&mut self, watcher: &Watcher<'_>) -> Result<()> {
        let _ = watcher;
        Ok(())
    }

    /// A descriptor that it asked for under `token` is ready.
    ///
    /// # Errors
    /// As [`process`](Self::process).
    fn ready(&mut self, token: u32, flags: EventFlags, work: &mut Work<'_>) -> Result<(), QueueError> {
        let _ = (token, flags, work);
        Ok(())
    }

    /// What it offers besides version 1.
    fn features(&self) -> u64 {
        0
    }

    /// The guest reads its configuration. `data` is zero: what is not changed reads so.
    fn read_config(&self, offset: u64, data: &mut [u8]) {
        let _ = (offset, data);
    }

    /// The guest writes its configuration.
    fn write_config(&mut self, offset: u64, data: &[u8]) {
        let _ = (offset, data);
    }

    /// The guest has accepted these features and begins to use the device.
    fn activate(&mut self, features: u64) {
        let _ = features;
    }

    /// The guest has put something into the queue. All that [`Work::pop`] gives is to be dealt with: no second ring comes
    /// for it.
    ///
    /// # Errors
    /// Where the guest's ring is damaged: the device then does nothing more until it is reset.
    fn process(&mut self, queue: usize, work: &mut Work<'_>) -> Result<(), QueueError>;

    /// The guest wants it as it was at first.
    fn reset(&mut self) {}
}

/// What a device works with.
pub(in crate::vm) struct Work<'a> {
    pub(in crate::vm) queues: &'a mut [Queue],
    pub(in crate::vm) memory: &'a Memory,
    interrupt: &'a Interrupt,
    /// For descriptors that come later.
    pub(in crate::vm) watcher: Watcher<'a>,
    budget: u32,
    /// There may be more in a queue than the budget allowed.
    cut_short: Option<usize>,
}

impl<'a> Work<'a> {
    /// The next buffers that the guest has put into the queue; `None` also where this call has taken enough: another one
    /// comes then.
    ///
    /// # Errors
    /// Where the ring is damaged.
    pub(in crate::vm) fn pop(
        &mut self,
        queue: usize,
    ) -> Result<Option<DescriptorChain<&'a Memory>>, QueueError> {
        let Some(left) = self.budget.checked_sub(1) else {
            self.cut_short = Some(queue);
            return Ok(None);
        };
        self.budget = left;
        match self.queues.get_mut(queue) {
            Some(queue) if queue.ready() => Ok(queue.iter(self.memory)?.next()),
            _ => Ok(None),
        }
    }

    /// The buffers that came last were not needed: they come again.
    pub(in crate::vm) fn unpop(&mut self, queue: usize) {
        if let Some(queue) = self.queues.get_mut(queue) {
            queue.set_next_avail(queue.next_avail().wrapping_sub(1));
        }
    }

    /// Gives buffers back, with the number of bytes that were written to them.
    pub(in crate::vm) fn push(&mut self, queue: usize, head: u16, written: u32) -> Result<(), QueueError> {
        match self.queues.get_mut(queue) {
            Some(queue) => queue.add_used(self.memory, head, written),
            None => Ok(()),
        }
    }

    /// Tells the guest to read the device's configuration again.
    pub(in crate::vm) fn config_changed(&self) {
        self.interrupt.raise(Interrupt::CONFIG);
    }

    /// Tells the guest that buffers of the queue were used, unless it does not want to know.
    pub(in crate::vm) fn notify(&mut self, queue: usize) -> Result<(), QueueError> {
        if let Some(queue) = self.queues.get_mut(queue)
            && queue.needs_notification(self.memory)?
        {
            self.interrupt.raise(Interrupt::USED);
        }
        Ok(())
    }
}

/// The interrupt of a device, with what it was for.
#[derive(Debug)]
struct Interrupt {
    event: Event,
    status: AtomicU32,
}

impl Interrupt {
    const USED: u32 = 1;
    const CONFIG: u32 = 2;

    fn raise(&self, why: u32) {
        self.status.fetch_or(why, Ordering::SeqCst);
        self.event.signal();
    }
}
