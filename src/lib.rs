//! System containers, OCI containers and micro-VMs inside your own daemon.
#![deny(unsafe_code)]
#![cfg(target_os = "linux")]

mod error;
mod exit;
mod name;
mod os_text;
mod signal;
mod sys;

pub mod caps;
pub mod cgroup;
pub mod idmap;
pub mod namespaces;
pub mod process;
pub mod rootfs;
pub mod seccomp;

mod op;
mod spawn;
mod store;

pub mod container;
pub mod instance;
mod runtime;
#[cfg(feature = "vm")]
pub mod vm;

pub use container::{Container, ContainerConfig};
pub use error::{Error, ErrorKind, Result};
pub use exit::ExitStatus;
pub use instance::Instance;
pub use name::{InstanceId, InstanceName};
pub use op::Cancel;
pub use rootfs::Rootfs;
pub use runtime::{Runtime, RuntimeBuilder, SpawnStrategy};
pub use signal::Signal;
#[doc(hidden)]
pub use spawn::Fault;
