//! One action at a time per instance, with cancel, deadline and undo.

mod action;
mod between;
mod cancel;
mod deadline;
mod undo;

pub(crate) use action::{Action, ActionGuard, ActionLock};
pub(crate) use between::{Between, Crashed};
pub use cancel::Cancel;
pub(crate) use deadline::Deadline;
pub(crate) use undo::Undo;
