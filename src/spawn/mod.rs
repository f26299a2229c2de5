//! Starting processes: a plan built by the parent, executed by stage-2 or, where memory files cannot be executed, by a
//! forked child. The conversation between the two is drawn in [`interp`].

mod builder;
mod checked;
mod child;
#[cfg(any(test, feature = "fuzzing"))]
mod dump;
mod fault;
#[cfg(feature = "fuzzing")]
pub(crate) mod fuzzing;
mod guests;
mod helper;
mod interp;
mod launch;
mod place;
mod plan;
mod report;
pub(crate) mod restrictions;
mod spawner;
#[cfg(feature = "attacks")]
mod weaken;

pub(crate) use builder::{CapMasks, FsConfig, MaskFrom, Mount, Tolerate};
pub(crate) use checked::KernelFs;
pub(crate) use child::{Child, Readiness, wait_for};
pub use fault::Fault;
pub(crate) use fault::Hooks;
pub(crate) use guests::Guests;
pub(crate) use helper::Helper;
pub(crate) use interp::abi::ring;
pub(crate) use launch::{Running, Spec, Stage2, Started, Strategy, launch};
pub(crate) use plan::{Fd, Plan};
pub(crate) use spawner::Spawner;
#[cfg(feature = "attacks")]
pub use weaken::{Hold, Weaken};

#[cfg(test)]
mod tests;
