//! What the guest finds beside its processors and memory, one file for each kind.
//!
//! A device is a [`BusDevice`] on a [`Bus`]. It trusts nothing that the guest writes: a wrong access reads ones, or does
//! nothing, and no access can make it panic, allocate without bound, or wait.

mod bus;
mod console;
mod legacy;
mod power;
mod serial;
pub(super) mod virtio;

pub(super) use bus::{Bus, BusDevice};
pub use console::ConsoleOutput;
pub(super) use console::ConsoleRing;
pub(super) use legacy::{Keyboard, Rtc};
pub(super) use power::{PanicPort, PowerPorts};
pub(super) use serial::Serial;
