//! A guest's driver for tests and fuzzing: rings in memory, written by hand, for a device without a machine.

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::event::epoll::{self, EventFlags};
use virtio_queue::{Error as QueueError, Queue, QueueT};
use vm_memory::{Bytes, GuestAddress};

use super::{BUDGET, Interrupt, VirtioDevice, Work};
use crate::sys::vm::event::Event;
use crate::vm::event_loop::Watcher;
use crate::vm::memory::{Memory, MemoryBacking, allocate};

/// Bytes of the guest's memory.
pub(crate) const MEMORY: u64 = 8 << 20;
/// Each queue's rings are here, one queue behind the other; what is behind them all is free.
const RINGS: u64 = 0x1000;
const RING_BYTES: u64 = 0x4000;
/// Free memory begins here.
pub(crate) const FREE: u64 = 0x10_0000;

/// A descriptor: address, length, flags, the next one.
pub(crate) type Descriptor = (u64, u32, u16, u16);

pub(crate) struct Rig {
    pub(crate) device: Box<dyn VirtioDevice>,
    pub(crate) memory: Memory,
    queues: Vec<Queue>,
    interrupt: Interrupt,
    epoll: OwnedFd,
    /// Of each queue: what was offered, what was seen to be used.
    offered: Vec<u16>,
    seen: Vec<u16>,
}

impl Rig {
    /// A device that is in use, with these features.
    pub(crate) fn new(mut device: Box<dyn VirtioDevice>, features: u64) -> Self {
        let memory = allocate(MEMORY, MemoryBacking::Private).expect("little memory");
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).expect("a descriptor");
        let mut queues = Vec::new();
        for (n, size) in (0_u64..).zip(device.queues()) {
            let mut queue = <Queue as QueueT>::new(*size).expect("a power of two");
            let at = RINGS + n * RING_BYTES;
            queue.set_desc_table_address(Some(at as u32), Some(0));
            queue.set_avail_ring_address(Some(at as u32 + 0x2000), Some(0));
            queue.set_used_ring_address(Some(at as u32 + 0x3000), Some(0));
            queue.set_ready(true);
            assert!(queue.is_valid(&memory), "rings are in memory");
            queues.push(queue);
        }
        device.begin(&Watcher::new(&epoll)).expect("descriptors can be watched");
        device.activate(features);
        let interrupt = Interrupt { event: Event::new().expect("an event"), status: AtomicU32::new(0) };
        let none = vec![0; queues.len()];
        Self { device, memory, queues, interrupt, epoll, offered: none.clone(), seen: none }
    }

    pub(crate) fn put(&self, at: u64, bytes: &[u8]) {
        self.memory.write_slice(bytes, GuestAddress(at)).expect("inside of memory");
    }

    pub(crate) fn get(&self, at: u64, len: usize) -> Vec<u8> {
        let mut out = vec![0; len];
        self.memory.read_slice(&mut out, GuestAddress(at)).expect("inside of memory");
        out
    }

    fn ring(&self, queue: usize) -> u64 {
        RINGS + queue as u64 * RING_BYTES
    }

    /// Writes a descriptor of the queue's table.
    pub(crate) fn describe(&self, queue: usize, n: u16, descriptor: Descriptor) {
        self.put(self.ring(queue) + u64::from(n) * 16, &bytes(descriptor));
    }

    /// Offers the chain that begins with the descriptor `head`, without a ring.
    pub(crate) fn offer(&mut self, queue: usize, head: u16) {
        let size = self.queues[queue].size();
        let avail = self.ring(queue) + 0x2000;
        let slot = u64::from(self.offered[queue] % size);
        self.put(avail + 4 + slot * 2, &head.to_le_bytes());
        self.offered[queue] = self.offered[queue].wrapping_add(1);
        self.put(avail + 2, &self.offered[queue].to_le_bytes());
    }

    /// Says that so many chains were offered, whatever there is.
    pub(crate) fn claim(&self, queue: usize, index: u16) {
        self.put(self.ring(queue) + 0x2000 + 2, &index.to_le_bytes());
    }

    fn with(
        &mut self,
        what: impl FnOnce(&mut dyn VirtioDevice, &mut Work<'_>) -> Result<(), QueueError>,
    ) -> Result<Option<usize>, QueueError> {
        let mut work = Work {
            queues: &mut self.queues,
            memory: &self.memory,
            interrupt: &self.interrupt,
            watcher: Watcher::new(&self.epoll),
            budget: BUDGET,
            cut_short: None,
            used: 0,
        };
        what(&mut *self.device, &mut work)?;
        Ok(work.cut_short)
    }

    /// Rings for a queue; says which one is to be looked at once more.
    pub(crate) fn ring_for(&mut self, queue: usize) -> Result<Option<usize>, QueueError> {
        self.with(|device, work| device.process(queue, work))
    }

    /// Lets the device deal with its descriptors that are ready now; says how many were.
    pub(crate) fn poll(&mut self) -> Result<usize, QueueError> {
        let mut ready = Vec::with_capacity(64);
        let now = rustix::time::Timespec { tv_sec: 0, tv_nsec: 0 };
        let _ = epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut ready), Some(&now));
        for event in &ready {
            let (token, flags): (u32, EventFlags) = (event.data.u64() as u32, event.flags);
            self.with(|device, work| device.ready(token, flags, work))?;
        }
        Ok(ready.len())
    }

    /// What came back since the last call: heads and lengths.
    pub(crate) fn used(&mut self, queue: usize) -> Vec<(u32, u32)> {
        let used = self.ring(queue) + 0x3000;
        let word = |at: u64| {
            let b = self.get(at, 4);
            u32::from_le_bytes([b[0], b[1], b[2], b[3]])
        };
        let index = (word(used) >> 16) as u16;
        let size = self.queues[queue].size();
        let mut found = Vec::new();
        let mut at = self.seen[queue];
        while at != index {
            let slot = u64::from(at % size);
            found.push((word(used + 4 + slot * 8), word(used + 8 + slot * 8)));
            at = at.wrapping_add(1);
        }
        self.seen[queue] = index;
        found
    }

    /// Whether an interrupt came since the last call.
    pub(crate) fn interrupted(&self) -> bool {
        self.interrupt.status.store(0, Ordering::SeqCst);
        self.interrupt.event.take()
    }
}

pub(crate) fn bytes((addr, len, flags, next): Descriptor) -> [u8; 16] {
    let mut out = [0; 16];
    out[..8].copy_from_slice(&addr.to_le_bytes());
    out[8..12].copy_from_slice(&len.to_le_bytes());
    out[12..14].copy_from_slice(&flags.to_le_bytes());
    out[14..].copy_from_slice(&next.to_le_bytes());
    out
}

/// Flags of a descriptor.
#[cfg(test)]
pub(crate) mod flag {
    pub(crate) const NEXT: u16 = 1;
    pub(crate) const WRITE: u16 = 2;
    pub(crate) const INDIRECT: u16 = 4;
}
