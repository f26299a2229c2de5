//! Root file systems and the mounts inside them.

mod source;
pub(crate) mod standard;
pub(crate) mod tree;

pub use source::{DirRootfs, FileIds, OverlayRootfs, Rootfs};
