//! Configuration as string keys, the way LXD and Incus write it: `limits.memory = 512MiB`.
//!
//! Inside, everything is typed; keys are read and written at the edge alone. What there is: `limits.*` of containers
//! ([`LimitKeys`]), and `security.syscalls.intercept.*` ([`InterceptKeys`]). Each group of keys is a table with a row for each key: its name, what it is for, how it is read and
//! written, and whether it changes while the instance runs.

mod intercept;
mod limits;
mod size;

pub use intercept::InterceptKeys;
pub use limits::{KeyChanges, LimitKeys};
pub use size::ByteSize;

/// A key, for who shows or documents them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Key {
    /// Its name; a last part in capitals stands for many: `limits.kernel.NAME`.
    pub name: &'static str,
    /// What instances can have it.
    pub scope: KeyScope,
    /// When a change takes effect.
    pub change: KeyChange,
    /// What it can be. Empty, which every key can be, means that it is not set.
    pub value: &'static str,
    /// What holds where it is not set.
    pub default: &'static str,
}

/// What instances can have a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum KeyScope {
    /// Containers.
    Container,
    /// Virtual machines.
    Vm,
    /// Both.
    Both,
}

/// When a change of a key takes effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum KeyChange {
    /// At once, where the instance runs.
    Live,
    /// With the next start.
    Restart,
}

/// Of a value for a message: short and on one line.
fn shown(value: &str) -> String {
    value.chars().take(40).map(|c| if c.is_control() { '?' } else { c }).collect()
}
