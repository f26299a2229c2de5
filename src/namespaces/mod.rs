//! Namespaces (`namespaces(7)`): their kinds, handles on them, and which ones a container gets.
//!
//! * [`NamespaceKind`] names one of the eight kinds.
//! * [`NamespaceSet`] says for each kind whether a container gets a new one, shares the host's, or joins one.
//! * [`Namespace`] is an open handle on an existing one.
//! * [`TimeOffsets`] moves the clocks of a new time namespace.

mod handle;
mod kind;
mod set;
mod time;

pub use handle::{Namespace, NamespaceId};
pub use kind::NamespaceKind;
pub use set::{NamespaceSet, NamespaceSource, Privilege, Target};
pub use time::{TimeOffset, TimeOffsets};
