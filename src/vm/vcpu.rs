//! A virtual processor's thread.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};

use super::control::{Control, Next};
use super::devices::Bus;
use super::exit::ExitReason;
use super::kick::Kicker;
use crate::sys::vm::kvm::{Accesses, Exit, Vcpu};

/// `KVM_SYSTEM_EVENT_*`.
const SHUTDOWN: u32 = 1;
const RESET: u32 = 2;
const CRASH: u32 = 3;

/// How often a machine's processors came out of the kernel. Each costs as much as some thousand of the guest's
/// instructions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ExitCounts {
    /// For an access to a port.
    pub pio: u64,
    /// For an access to a device's registers in memory.
    pub mmio: u64,
    /// For a kick, or anything else.
    pub other: u64,
}

impl ExitCounts {
    /// All of them.
    pub fn total(&self) -> u64 {
        self.pio + self.mmio + self.other
    }
}

/// The devices as the guest reaches them.
#[derive(Debug)]
pub(super) struct Buses {
    pub(super) pio: Bus,
    pub(super) mmio: Bus,
}

/// What one processor counts.
#[derive(Debug, Default)]
pub(super) struct Counters {
    pio: AtomicU64,
    mmio: AtomicU64,
    other: AtomicU64,
}

impl Counters {
    pub(super) fn add_to(&self, sum: &mut ExitCounts) {
        sum.pio += self.pio.load(Ordering::Relaxed);
        sum.mmio += self.mmio.load(Ordering::Relaxed);
        sum.other += self.other.load(Ordering::Relaxed);
    }
}

struct Handler<'a> {
    buses: &'a Buses,
    counters: &'a Counters,
}

impl Accesses for Handler<'_> {
    fn pio_read(&self, port: u16, data: &mut [u8]) {
        self.counters.pio.fetch_add(1, Ordering::Relaxed);
        self.buses.pio.read(u64::from(port), data);
    }

    fn pio_write(&self, port: u16, data: &[u8]) {
        self.counters.pio.fetch_add(1, Ordering::Relaxed);
        self.buses.pio.write(u64::from(port), data);
    }

    fn mmio_read(&self, addr: u64, data: &mut [u8]) {
        self.counters.mmio.fetch_add(1, Ordering::Relaxed);
        self.buses.mmio.read(addr, data);
    }

    fn mmio_write(&self, addr: u64, data: &[u8]) {
        self.counters.mmio.fetch_add(1, Ordering::Relaxed);
        self.buses.mmio.write(addr, data);
    }
}

/// All that the thread needs.
pub(super) struct VcpuThread {
    pub(super) vcpu: Vcpu,
    pub(super) buses: Arc<Buses>,
    pub(super) counters: Arc<Counters>,
    pub(super) kicker: Arc<Kicker>,
}

impl VcpuThread {
    /// Runs until the machine ends.
    pub(super) fn run(mut self, control: &Control) {
        let Kicker::Vcpu(kicker) = &*self.kicker else { return };
        let _entered = kicker.enter();
        let handler = Handler { buses: &self.buses, counters: &self.counters };
        loop {
            match control.gate() {
                Next::Run => {}
                // Not every guest has the clock that this is about.
                Next::Rested => drop(self.vcpu.fd.kvmclock_ctrl()),
                Next::End => return,
            }
            match self.vcpu.run(&handler) {
                Exit::Handled => continue,
                Exit::Interrupted => kicker.clear(),
                Exit::Shutdown => control.end(ExitReason::TripleFault),
                Exit::SystemEvent(SHUTDOWN) => control.end(ExitReason::Poweroff(0)),
                Exit::SystemEvent(RESET) => control.end(ExitReason::Reboot(0)),
                Exit::SystemEvent(CRASH) => control.end(ExitReason::Panic),
                Exit::SystemEvent(other) => {
                    control
                        .end(ExitReason::Failed(format!("a system event that is not known here: {other}")));
                }
                Exit::Failed(why) => control.end(ExitReason::Failed(why)),
            }
            self.counters.other.fetch_add(1, Ordering::Relaxed);
        }
    }
}
