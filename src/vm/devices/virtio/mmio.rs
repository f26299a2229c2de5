//! The transport of a virtio device: registers in memory (virtio 1.2, section 4.2), rings, interrupt.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::event::epoll::EventFlags;
use virtio_queue::{Queue, QueueT};

use super::{BUDGET, Interrupt, VirtioDevice, Work};
use crate::error::{Error, Result};
use crate::sys::vm::event::Event;
use crate::vm::assembly::Assembly;
use crate::vm::devices::BusDevice;
use crate::vm::event_loop::{EventHandler, Watcher};
use crate::vm::memory::Memory;

const MAGIC: u32 = u32::from_le_bytes(*b"virt");
const VERSION: u32 = 2;
/// Nobody's number.
const VENDOR: u32 = 0;
/// `VIRTIO_F_VERSION_1`.
const VERSION_1: u64 = 1 << 32;

/// Registers, by offset.
mod reg {
    pub(super) const MAGIC: u64 = 0x00;
    pub(super) const VERSION: u64 = 0x04;
    pub(super) const DEVICE: u64 = 0x08;
    pub(super) const VENDOR: u64 = 0x0c;
    pub(super) const DEVICE_FEATURES: u64 = 0x10;
    pub(super) const DEVICE_FEATURES_SEL: u64 = 0x14;
    pub(super) const DRIVER_FEATURES: u64 = 0x20;
    pub(super) const DRIVER_FEATURES_SEL: u64 = 0x24;
    pub(super) const QUEUE_SEL: u64 = 0x30;
    pub(super) const QUEUE_NUM_MAX: u64 = 0x34;
    pub(super) const QUEUE_NUM: u64 = 0x38;
    pub(super) const QUEUE_READY: u64 = 0x44;
    pub(super) const QUEUE_NOTIFY: u64 = 0x50;
    pub(super) const INTERRUPT_STATUS: u64 = 0x60;
    pub(super) const INTERRUPT_ACK: u64 = 0x64;
    pub(super) const STATUS: u64 = 0x70;
    pub(super) const DESC_LOW: u64 = 0x80;
    pub(super) const DESC_HIGH: u64 = 0x84;
    pub(super) const DRIVER_LOW: u64 = 0x90;
    pub(super) const DRIVER_HIGH: u64 = 0x94;
    pub(super) const DEVICE_LOW: u64 = 0xa0;
    pub(super) const DEVICE_HIGH: u64 = 0xa4;
    pub(super) const GENERATION: u64 = 0xfc;
    pub(super) const CONFIG: u64 = 0x100;
}

/// Bits of the status register.
mod status {
    pub(super) const DRIVER_OK: u32 = 4;
    pub(super) const FEATURES_OK: u32 = 8;
    pub(super) const NEEDS_RESET: u32 = 0x40;
    /// Those that a driver sets.
    pub(super) const DRIVERS: u32 = 0x8f;
}

/// Puts a device into the machine.
pub(in crate::vm) fn add(assembly: &mut Assembly, device: Box<dyn VirtioDevice>) -> Result<()> {
    let slot = assembly.slot()?;
    let own = device.own_thread();
    let interrupt = Interrupt { event: assembly.interrupt(slot.gsi)?, status: AtomicU32::new(0) };
    let mut queues = Vec::new();
    let mut doorbells = Vec::new();
    for (n, size) in (0..).zip(device.queues()) {
        let queue = Queue::new(*size);
        queues.push(queue.map_err(|e| Error::invalid("virtio queue", e.to_string()).object(device.name()))?);
        doorbells.push(assembly.doorbell(slot.base + reg::QUEUE_NOTIFY, n)?);
    }
    let transport = Arc::new(Transport {
        name: device.name(),
        state: Mutex::new(State::new(device, queues)),
        interrupt,
        memory: assembly.memory.clone(),
        doorbells,
    });
    assembly.attach(slot, Arc::clone(&transport) as _)?;
    let events = Box::new(Events { transport });
    match own {
        Some(name) => assembly.own.push((name, events)),
        None => assembly.handlers.push(events),
    }
    Ok(())
}

struct Transport {
    name: &'static str,
    state: Mutex<State>,
    interrupt: Interrupt,
    memory: Memory,
    doorbells: Vec<Event>,
}

struct State {
    device: Box<dyn VirtioDevice>,
    queues: Vec<Queue>,
    status: u32,
    device_features_sel: u32,
    driver_features_sel: u32,
    driver_features: u64,
    queue_sel: u32,
}

impl State {
    fn new(device: Box<dyn VirtioDevice>, queues: Vec<Queue>) -> Self {
        Self {
            device,
            queues,
            status: 0,
            device_features_sel: 0,
            driver_features_sel: 0,
            driver_features: 0,
            queue_sel: 0,
        }
    }

    fn offered(&self) -> u64 {
        self.device.features() | VERSION_1
    }

    fn selected(&mut self) -> Option<&mut Queue> {
        self.queues.get_mut(self.queue_sel as usize)
    }

    /// The queue, where the driver may set it up now.
    fn settable(&mut self) -> Option<&mut Queue> {
        let open = self.status & (status::FEATURES_OK | status::DRIVER_OK) == status::FEATURES_OK;
        if open { self.selected().filter(|q| !q.ready()) } else { None }
    }

    fn runs(&self) -> bool {
        self.status & (status::DRIVER_OK | status::NEEDS_RESET) == status::DRIVER_OK
    }

    fn reset(&mut self) {
        self.device.reset();
        self.queues.iter_mut().for_each(QueueT::reset);
        self.status = 0;
        (self.device_features_sel, self.driver_features_sel, self.queue_sel) = (0, 0, 0);
        self.driver_features = 0;
    }
}

impl Transport {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn read_register(&self, register: u64) -> u32 {
        if register == reg::INTERRUPT_STATUS {
            return self.interrupt.status.load(Ordering::SeqCst);
        }
        let mut state = self.state();
        match register {
            reg::MAGIC => MAGIC,
            reg::VERSION => VERSION,
            reg::DEVICE => state.device.number(),
            reg::VENDOR => VENDOR,
            reg::DEVICE_FEATURES => half(state.offered(), state.device_features_sel),
            reg::QUEUE_NUM_MAX => state.selected().map_or(0, |q| u32::from(q.max_size())),
            reg::QUEUE_READY => state.selected().map_or(0, |q| u32::from(q.ready())),
            reg::STATUS => state.status,
            reg::GENERATION => 0,
            _ => 0,
        }
    }

    fn write_register(&self, register: u64, value: u32) {
        if register == reg::INTERRUPT_ACK {
            self.interrupt.status.fetch_and(!value, Ordering::SeqCst);
            return;
        }
        let mut state = self.state();
        match register {
            reg::DEVICE_FEATURES_SEL => state.device_features_sel = value,
            reg::DRIVER_FEATURES_SEL => state.driver_features_sel = value,
            reg::DRIVER_FEATURES if state.status & status::FEATURES_OK == 0 => {
                let shift = match state.driver_features_sel {
                    0 => 0,
                    1 => 32,
                    _ => return,
                };
                let kept = state.driver_features & !(u64::from(u32::MAX) << shift);
                state.driver_features = kept | u64::from(value) << shift;
            }
            reg::QUEUE_SEL => state.queue_sel = value,
            reg::QUEUE_NUM => {
                if let (Some(queue), Ok(size)) = (state.settable(), u16::try_from(value)) {
                    queue.set_size(size);
                }
            }
            reg::QUEUE_READY => self.set_ready(&mut state, value),
            reg::DESC_LOW => with(&mut state, |q| q.set_desc_table_address(Some(value), None)),
            reg::DESC_HIGH => with(&mut state, |q| q.set_desc_table_address(None, Some(value))),
            reg::DRIVER_LOW => with(&mut state, |q| q.set_avail_ring_address(Some(value), None)),
            reg::DRIVER_HIGH => with(&mut state, |q| q.set_avail_ring_address(None, Some(value))),
            reg::DEVICE_LOW => with(&mut state, |q| q.set_used_ring_address(Some(value), None)),
            reg::DEVICE_HIGH => with(&mut state, |q| q.set_used_ring_address(None, Some(value))),
            reg::STATUS => self.set_status(&mut state, value),
            // The ring for a queue that there is comes by its doorbell.
            _ => {}
        }
    }

    /// A queue is taken into use only if its rings are in memory.
    fn set_ready(&self, state: &mut State, value: u32) {
        if value & 1 == 0 {
            if let Some(queue) = state.selected() {
                queue.set_ready(false);
            }
        } else if let Some(queue) = state.settable() {
            queue.set_ready(true);
            let valid = queue.is_valid(&self.memory);
            queue.set_ready(valid);
        }
    }

    fn set_status(&self, state: &mut State, value: u32) {
        if value == 0 {
            state.reset();
            self.interrupt.status.store(0, Ordering::SeqCst);
            return;
        }
        let mut new = value & status::DRIVERS;
        // Features that were not offered are not accepted: the driver looks whether its bit has stayed.
        let wrong = state.driver_features & !state.offered() != 0 || state.driver_features & VERSION_1 == 0;
        if new & status::FEATURES_OK != 0 && wrong {
            new &= !status::FEATURES_OK;
        }
        let started = new & status::DRIVER_OK != 0 && state.status & status::DRIVER_OK == 0;
        if started && new & status::FEATURES_OK == 0 {
            new &= !status::DRIVER_OK;
        }
        state.status = new | state.status & status::NEEDS_RESET;
        if started && state.runs() {
            let features = state.driver_features;
            state.device.activate(features);
            // Linux's balloon rings before it says that it is ready: that was for nothing.
            self.doorbells.iter().for_each(Event::signal);
        }
    }

    /// Lets the device work on a queue; says which one is to be looked at once more.
    fn process(&self, queue: usize, watcher: Watcher<'_>) -> Option<usize> {
        let mut state = self.state();
        if !state.queues.get(queue).is_some_and(QueueT::ready) {
            return None;
        }
        self.work(&mut state, watcher, |device, work| device.process(queue, work))
    }

    /// Lets the device work while it is in use.
    fn work(
        &self,
        state: &mut State,
        watcher: Watcher<'_>,
        what: impl FnOnce(&mut dyn VirtioDevice, &mut Work<'_>) -> Result<(), virtio_queue::Error>,
    ) -> Option<usize> {
        if !state.runs() {
            return None;
        }
        let State { device, queues, .. } = &mut *state;
        let mut work = Work {
            queues,
            memory: &self.memory,
            interrupt: &self.interrupt,
            watcher,
            budget: BUDGET,
            cut_short: None,
        };
        if what(&mut **device, &mut work).is_ok() {
            return work.cut_short;
        }
        // The guest alone can have damaged it.
        state.status |= status::NEEDS_RESET;
        self.interrupt.raise(Interrupt::CONFIG);
        None
    }
}

fn with(state: &mut State, set: impl FnOnce(&mut Queue)) {
    if let Some(queue) = state.settable() {
        set(queue);
    }
}

/// One of the two halves of a set of features.
fn half(features: u64, which: u32) -> u32 {
    match which {
        0 => features as u32,
        1 => (features >> 32) as u32,
        _ => 0,
    }
}

impl BusDevice for Transport {
    fn name(&self) -> &'static str {
        self.name
    }

    fn read(&self, offset: u64, data: &mut [u8]) {
        if offset >= reg::CONFIG {
            data.fill(0);
            self.state().device.read_config(offset - reg::CONFIG, data);
        } else if data.len() == 4 && offset.is_multiple_of(4) {
            data.copy_from_slice(&self.read_register(offset).to_le_bytes());
        }
    }

    fn write(&self, offset: u64, data: &[u8]) {
        if offset >= reg::CONFIG {
            self.state().device.write_config(offset - reg::CONFIG, data);
        } else if let (Ok(bytes), true) = (<[u8; 4]>::try_from(data), offset.is_multiple_of(4)) {
            self.write_register(offset, u32::from_le_bytes(bytes));
        }
    }
}

/// The rings of the guest for each queue, and what else the device waits for.
struct Events {
    transport: Arc<Transport>,
}

/// The device's own tokens begin here, behind those of its doorbells.
const OWN: u32 = 1 << 8;

impl EventHandler for Events {
    fn begin(&mut self, watcher: &Watcher<'_>) -> Result<()> {
        for (n, doorbell) in (0..).zip(&self.transport.doorbells) {
            watcher.add(doorbell, n, EventFlags::IN)?;
        }
        self.transport.state().device.begin(&watcher.with_base(OWN))
    }

    fn ready(&mut self, token: u32, flags: EventFlags, watcher: &Watcher<'_>) {
        let own = watcher.with_base(OWN);
        let again = if let Some(token) = token.checked_sub(OWN) {
            let mut state = self.transport.state();
            self.transport.work(&mut state, own, |device, work| device.ready(token, flags, work))
        // Before the work: what is put there meanwhile rings again.
        } else if self.transport.doorbells.get(token as usize).is_some_and(Event::take) {
            self.transport.process(token as usize, own)
        } else {
            None
        };
        if let Some(doorbell) = again.and_then(|queue| self.transport.doorbells.get(queue)) {
            doorbell.signal();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vm::devices::virtio::Rng;
    use crate::vm::memory::{MemoryBacking, allocate};

    #[test]
    fn what_was_rung_for_before_the_driver_was_ready_is_looked_at_then() {
        let event = || Event::new().unwrap();
        let transport = Transport {
            name: "rng",
            state: Mutex::new(State::new(Box::new(Rng), vec![Queue::new(8).unwrap()])),
            interrupt: Interrupt { event: event(), status: AtomicU32::new(0) },
            memory: allocate(4 << 20, MemoryBacking::Private).unwrap(),
            doorbells: vec![event()],
        };
        let rung = || transport.doorbells[0].take();
        let status = |bits: u32| transport.write_register(reg::STATUS, bits);
        let ready = status::FEATURES_OK | status::DRIVER_OK;
        // Without the features it is not ready, whatever it says.
        status(ready);
        assert!(!rung());
        status(0);
        transport.write_register(reg::DRIVER_FEATURES_SEL, 1);
        transport.write_register(reg::DRIVER_FEATURES, half(VERSION_1, 1));
        status(status::FEATURES_OK);
        assert!(!rung());
        status(ready);
        assert!(rung());
        status(ready);
        assert!(!rung());
    }
}
