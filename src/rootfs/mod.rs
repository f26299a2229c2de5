//! Root file systems and the mounts inside them.

mod source;
pub(crate) mod standard;
pub(crate) mod tree;
#[cfg(feature = "image")]
mod unpack;

pub use source::{DirRootfs, FileIds, OverlayRootfs, Rootfs};
#[cfg(feature = "image")]
pub use unpack::{
    Compression, DeviceKind, OnFailure, Progress, Skipped, SkippedPart, Unpack, UnpackDevices, UnpackIds,
    UnpackLimits, UnpackWhiteouts, Unpacked,
};
