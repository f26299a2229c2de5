//! What containers and virtual machines have in common.
