//! What containers and virtual machines have in common.
//!
//! [`Instance`] is the lifecycle: start, stop, freeze, delete and so on, on `&self` and usable as
//! `Arc<dyn Instance>`. What only some instances can do, such as running a command, is a trait of its own that
//! an accessor hands out: [`Instance::exec`] gives `Some(&dyn Exec)` where commands can be run.
//!
//! ```no_run
//! use std::sync::Arc;
//! use std::time::Duration;
//! use stockade::instance::{ExecOptions, Instance, ShutdownOptions, Stdio};
//!
//! fn uptime(instance: Arc<dyn Instance>) -> stockade::Result<()> {
//!     instance.start()?;
//!     if let Some(exec) = instance.exec() {
//!         let mut uptime = exec.exec(ExecOptions::new(["uptime"]).stdout(Stdio::Inherit))?;
//!         println!("{}", uptime.wait()?);
//!     }
//!     instance.shutdown_with(ShutdownOptions::new().deadline(Duration::from_secs(10)))
//! }
//! ```

mod balance;
mod config;
mod cpus;
mod exec;
mod info;
pub mod keys;
mod metrics;
mod options;
mod status;
mod stdio;
mod traits;

pub(crate) use balance::{Machine, Task, Want, Where, balance};
pub use config::InstanceConfig;
pub(crate) use config::sealed;
pub use cpus::{CpuNodes, Cpus};
pub use exec::{Exec, ExecOptions, Process};
pub use info::InstanceInfo;
pub use metrics::Metrics;
pub use options::{
    DEFAULT_DEADLINE, DeleteMode, DeleteOptions, FreezeOptions, KillOptions, KillTarget, RestartMode,
    RestartOptions, ShutdownOptions, StartOptions, StopOptions, UpdateOptions, WaitOptions,
};
pub use status::{InstanceKind, Status};
pub use stdio::{Pipes, Stdio};
pub use traits::Instance;
