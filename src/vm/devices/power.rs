//! The ports with which a guest ends itself.

use std::sync::Arc;

use super::BusDevice;
use crate::vm::arch::{RESET_VALUE, SLEEP_OFF, ports};
use crate::vm::control::Control;
use crate::vm::exit::ExitReason;

/// ACPI's sleep control, reset and sleep status registers, and a port for an exit code.
pub(in crate::vm) struct PowerPorts(pub(in crate::vm) Arc<Control>);

impl PowerPorts {
    pub(in crate::vm) const BASE: u64 = ports::SLEEP as u64;
    pub(in crate::vm) const LEN: u64 = 4;
    const RESET: u64 = (ports::RESET - ports::SLEEP) as u64;
    const EXIT_CODE: u64 = (ports::EXIT_CODE - ports::SLEEP) as u64;
    const STATUS: u64 = (ports::SLEEP_STATUS - ports::SLEEP) as u64;
    const ENABLE: u8 = 0x20;
}

impl BusDevice for PowerPorts {
    fn name(&self) -> &'static str {
        "power control"
    }

    fn read(&self, offset: u64, data: &mut [u8]) {
        // Nothing sleeps, so nothing has woken up.
        if matches!(offset, 0 | Self::RESET | Self::STATUS) {
            data.fill(0);
        }
    }

    fn write(&self, offset: u64, data: &[u8]) {
        match (offset, data) {
            (0, [value, ..]) if value & Self::ENABLE != 0 && value >> 2 & 7 == SLEEP_OFF => {
                self.0.end(ExitReason::Poweroff(0));
            }
            (Self::RESET, [value, ..]) if *value == RESET_VALUE => self.0.end(ExitReason::Reboot(0)),
            (Self::EXIT_CODE, [code]) => self.0.set_exit_code(*code),
            _ => {}
        }
    }
}

/// Where the guest's kernel tells of a panic: the interface of QEMU's pvpanic, for which Linux has a driver.
pub(in crate::vm) struct PanicPort(pub(in crate::vm) Arc<Control>);

impl PanicPort {
    pub(in crate::vm) const BASE: u64 = ports::PANIC as u64;
    pub(in crate::vm) const LEN: u64 = 1;
    const PANICKED: u8 = 1;
    /// Another kernel takes over to write a dump: the machine goes on.
    const CRASH_LOADED: u8 = 2;
}

impl BusDevice for PanicPort {
    fn name(&self) -> &'static str {
        "panic port"
    }

    /// The events that are understood.
    fn read(&self, _: u64, data: &mut [u8]) {
        data.fill(Self::PANICKED | Self::CRASH_LOADED);
    }

    fn write(&self, _: u64, data: &[u8]) {
        if data.first().is_some_and(|events| events & Self::PANICKED != 0) {
            self.0.end(ExitReason::Panic);
        }
    }
}
