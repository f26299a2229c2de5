//! Virtio devices (OASIS Virtual I/O Device, version 1.2), over registers in memory.
//!
//! A device is a [`VirtioDevice`]: its number, its queues, and what it does when the guest rings for one of them. All the
//! rest is the [transport](mmio). Devices work in the machine's event thread, never in a processor's.

mod mmio;
mod rng;

use std::sync::atomic::{AtomicU32, Ordering};

pub(in crate::vm) use mmio::add;
pub(in crate::vm) use rng::Rng;
use virtio_queue::{DescriptorChain, Error as QueueError, Queue, QueueOwnedT, QueueT};

use crate::sys::vm::event::Event;
use crate::vm::memory::Memory;

/// What is particular to one kind of device.
pub(in crate::vm) trait VirtioDevice: Send + 'static {
    /// Its name, for messages.
    fn name(&self) -> &'static str;

    /// Its number in the standard.
    fn number(&self) -> u32;

    /// The most entries of each of its queues, powers of two.
    fn queues(&self) -> &'static [u16];

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

    /// The guest has put something into the queue. All that is there is to be dealt with: no second ring comes for it.
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
}

impl<'a> Work<'a> {
    /// The next buffers that the guest has put into the queue.
    ///
    /// # Errors
    /// Where the ring is damaged.
    pub(in crate::vm) fn pop(
        &mut self,
        queue: usize,
    ) -> Result<Option<DescriptorChain<&'a Memory>>, QueueError> {
        match self.queues.get_mut(queue) {
            Some(queue) => Ok(queue.iter(self.memory)?.next()),
            None => Ok(None),
        }
    }

    /// Gives buffers back, with the number of bytes that were written to them.
    pub(in crate::vm) fn push(&mut self, queue: usize, head: u16, written: u32) -> Result<(), QueueError> {
        match self.queues.get_mut(queue) {
            Some(queue) => queue.add_used(self.memory, head, written),
            None => Ok(()),
        }
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
