//! Virtual machines through KVM, in threads of this process.
//!
//! ```no_run
//! use stockade::{Runtime, VmConfig};
//!
//! let runtime = Runtime::open()?;
//! let config = VmConfig::builder("guest")
//!     .kernel("/srv/vmlinux")
//!     .initramfs("/srv/initramfs.cpio")
//!     .vcpus(2)
//!     .memory(256 << 20)
//!     .build()?;
//! let vm = runtime.create(config)?;
//! vm.start()?;
//! println!("{}", vm.wait()?);
//! println!("{}", vm.console_log().text());
//! # Ok::<(), stockade::Error>(())
//! ```
//!
//! A [`Vm`] is an [`Instance`](crate::Instance), as a container is. It needs `/dev/kvm` ([`probe`]) and nothing else: no
//! firmware, no other program, no privilege beyond that of opening it.
//!
//! | the guest | and what comes of it |
//! |---|---|
//! | writes to `ttyS0` | [`Vm::console_log`]; [`Vm::console_input`] types there |
//! | switches itself off, restarts, panics (with Linux's `pvpanic` driver) | it ends, and [`Vm::exit_reason`] says how |
//! | writes a byte to port 0x603 before that | the code of its exit status |
//! | has something that listens to the power button | it ends by itself on [`shutdown`](Vm::shutdown) |
//!
//! A restart that the guest asks for ends the run: whoever waits for it decides whether to start it again. While it is
//! frozen, the guest's clocks go on.

mod agent;
mod arch;
mod assembly;
mod boot;
mod config;
mod control;
mod devices;
mod disk;
mod event_loop;
mod exit;
#[cfg(feature = "fuzzing")]
pub(crate) mod fuzzing;
mod group;
mod guest;
mod handle;
mod host;
mod image;
mod kick;
mod life;
mod limits;
mod machine;
mod memory;
mod state;
mod stats;
mod threads;
mod update;
mod vcpu;
mod verbs;
mod vsock;

pub use agent::{GuestAddress, GuestState, VmProcess};
pub use boot::BootProtocol;
pub use config::{VmBuilder, VmConfig};
pub use devices::ConsoleOutput;
pub use disk::{Access, Disk};
pub use exit::ExitReason;
pub(crate) use group::Above;
pub use group::ThreadPlacement;
pub use guest::{Guest, GuestInit, RootMode};
pub(crate) use handle::Live;
pub use handle::Vm;
pub use host::{Support, probe};
pub use image::{CopyMethod, PackImage, copy_image};
pub use kick::{kick_signal, use_kick_signal};
pub use memory::MemoryBacking;
pub use stats::{BalloonStats, DiskStats, GuestMemory, VmStats, VsockStats};
pub use vcpu::ExitCounts;
pub use vsock::{Vsock, VsockListener};
