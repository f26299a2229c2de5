//! A machine while it is put together: buses, interrupts, doorbells, and what the guest is told of them.
//!
//! A device with registers in memory takes a [`MmioSlot`], asks for what it needs, and is [attached](Assembly::attach).
//! One that works in the event thread adds an [`EventHandler`]. Nothing runs before all are there.

use std::sync::Arc;

use kvm_ioctls::IoEventAddress;

use super::arch::{FIRST_GSI, GSI_END, MMIO_BASE, MMIO_SIZE, MmioNode};
use super::control::Control;
use super::devices::BusDevice;
use super::event_loop::EventHandler;
use super::memory::Memory;
use super::vcpu::Buses;
use crate::error::{Error, Result};
use crate::sys::vm::event::Event;
use crate::sys::vm::kvm::{KvmVm, errno};

pub(super) struct Assembly {
    pub(super) vm: KvmVm,
    pub(super) memory: Memory,
    pub(super) buses: Buses,
    pub(super) control: Arc<Control>,
    pub(super) nodes: Vec<MmioNode>,
    /// Those that share the machine's event thread.
    pub(super) handlers: Vec<Box<dyn EventHandler>>,
    /// Those with a thread each, and its name: they may wait for the host's disks.
    pub(super) own: Vec<(String, Box<dyn EventHandler>)>,
}

/// A page of registers and an interrupt, in which the guest looks for a virtio device.
#[derive(Clone, Copy, Debug)]
pub(super) struct MmioSlot {
    pub(super) base: u64,
    pub(super) gsi: u32,
}

impl Assembly {
    /// An event that raises an interrupt for a moment (an edge) whenever it is signalled, by KVM itself (irqfd).
    pub(super) fn interrupt(&self, gsi: u32) -> Result<Event> {
        let event = self.event()?;
        self.vm.fd().register_irqfd(event.as_kvm(), gsi).map_err(|e| {
            Error::sys("connect an interrupt (KVM_IRQFD)", errno(e)).object(format!("interrupt {gsi}"))
        })?;
        Ok(event)
    }

    /// An event that KVM signals when the guest writes the 32-bit `value` there, without an exit (ioeventfd).
    pub(super) fn doorbell(&self, addr: u64, value: u32) -> Result<Event> {
        let event = self.event()?;
        let addr = IoEventAddress::Mmio(addr);
        self.vm
            .fd()
            .register_ioevent(event.as_kvm(), &addr, value)
            .map_err(|e| Error::sys("connect a doorbell (KVM_IOEVENTFD)", errno(e)))?;
        Ok(event)
    }

    fn event(&self) -> Result<Event> {
        Event::new().map_err(|e| Error::sys("make an event for a device", e))
    }

    /// The next free slot.
    pub(super) fn slot(&self) -> Result<MmioSlot> {
        let n = self.nodes.len() as u32;
        let gsi = FIRST_GSI + n;
        if gsi >= GSI_END {
            let most = GSI_END - FIRST_GSI;
            return Err(Error::invalid(
                "devices",
                format!("are more than a machine can have, which is {most}"),
            ));
        }
        Ok(MmioSlot { base: MMIO_BASE + u64::from(n) * MMIO_SIZE, gsi })
    }

    /// Puts a virtio device into the slot; the guest finds it in its tables.
    pub(super) fn attach(&mut self, slot: MmioSlot, device: Arc<dyn BusDevice>) -> Result<()> {
        self.buses.mmio.add(slot.base, MMIO_SIZE, device)?;
        self.nodes.push(MmioNode { base: slot.base as u32, len: MMIO_SIZE as u32, gsi: slot.gsi });
        Ok(())
    }
}
