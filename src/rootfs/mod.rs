//! Root file systems and the mounts inside them.
