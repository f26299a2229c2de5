//! Root file systems and the mounts inside them.

mod source;

pub use source::{DirRootfs, FileIds, OverlayRootfs, Rootfs};
