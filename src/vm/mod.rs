//! Micro-VMs through KVM.

mod arch;
mod assembly;
mod boot;
mod control;
mod devices;
mod event_loop;
mod exit;
mod host;
mod kick;
mod machine;
mod memory;
mod vcpu;

pub use boot::BootProtocol;
pub use devices::ConsoleOutput;
pub use exit::ExitReason;
pub use host::{Support, probe};
pub use kick::{kick_signal, use_kick_signal};
pub use memory::MemoryBacking;
pub use vcpu::ExitCounts;
