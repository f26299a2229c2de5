//! What is left of a PC: things that kernels ask for although the tables say that they are not there.

use std::sync::Arc;

use super::BusDevice;
use crate::vm::control::Control;
use crate::vm::exit::ExitReason;

/// The keyboard controller's ports, 0x60 to 0x64, without a keyboard: all that it can do is restart the machine.
pub(in crate::vm) struct Keyboard(pub(in crate::vm) Arc<Control>);

impl Keyboard {
    pub(in crate::vm) const BASE: u64 = 0x60;
    pub(in crate::vm) const LEN: u64 = 5;
    const COMMAND: u64 = 4;
    const PULSE_RESET: u8 = 0xfe;
}

impl BusDevice for Keyboard {
    fn name(&self) -> &'static str {
        "keyboard controller"
    }

    /// Always ready, never with anything to read: a guest that waits for it does not wait long.
    fn read(&self, _: u64, data: &mut [u8]) {
        data.fill(0);
    }

    fn write(&self, offset: u64, data: &[u8]) {
        if offset == Self::COMMAND && data == [Self::PULSE_RESET] {
            self.0.end(ExitReason::Reboot(0));
        }
    }
}

/// The clock's ports, 0x70 and 0x71. All registers read zero: never in the middle of an update, for which kernels wait.
pub(in crate::vm) struct Rtc;

impl Rtc {
    pub(in crate::vm) const BASE: u64 = 0x70;
    pub(in crate::vm) const LEN: u64 = 2;
}

impl BusDevice for Rtc {
    fn name(&self) -> &'static str {
        "clock"
    }

    fn read(&self, _: u64, data: &mut [u8]) {
        data.fill(0);
    }

    fn write(&self, _: u64, _: &[u8]) {}
}
