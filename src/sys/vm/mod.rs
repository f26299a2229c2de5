//! What virtual machines need of the kernel: guest memory, KVM's calls that take addresses, the kick signal.

pub(crate) mod event;
pub(crate) mod io;
pub(crate) mod kick;
pub(crate) mod kvm;
pub(crate) mod mapping;
