//! Micro-VMs through KVM.

mod arch;
mod assembly;
mod boot;
mod config;
mod control;
mod devices;
mod event_loop;
mod exit;
mod handle;
mod host;
mod kick;
mod life;
mod machine;
mod memory;
mod state;
mod vcpu;
mod verbs;

pub use boot::BootProtocol;
pub use config::{VmBuilder, VmConfig};
pub use devices::ConsoleOutput;
pub use exit::ExitReason;
pub(crate) use handle::Live;
pub use handle::Vm;
pub use host::{Support, probe};
pub use kick::{kick_signal, use_kick_signal};
pub use memory::MemoryBacking;
pub use vcpu::ExitCounts;
