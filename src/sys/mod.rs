//! L0: the kernel's calls as plain functions over owned and borrowed file descriptors.
//!
//! What rustix has is used straight from rustix. Here stands what neither rustix nor nix offers: `clone3`,
//! `mount_setattr`, seccomp, `PIDFD_GET_INFO`, whole-mask signal blocking, descriptor passing. Every function
//! names its man page. Nearly all `unsafe` of the crate is in this module and in the plan interpreter.
#![allow(unsafe_code)]

pub(crate) mod bpf;
pub(crate) mod clone;
pub(crate) mod fd;
pub(crate) mod lock;
pub(crate) mod memfd;
pub(crate) mod mount;
pub(crate) mod netlink;
pub(crate) mod nsfs;
pub(crate) mod pidfd;
pub(crate) mod process;
pub(crate) mod raw;
pub(crate) mod seccomp;
pub(crate) mod signal;
pub(crate) mod socket;
pub(crate) mod stack;
#[cfg(feature = "vm")]
pub(crate) mod vm;
