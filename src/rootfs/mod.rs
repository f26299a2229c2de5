//! Root file systems and the mounts inside them.

pub(crate) mod standard;
pub(crate) mod tree;
