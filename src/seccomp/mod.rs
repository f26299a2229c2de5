//! Seccomp: typed policies, compiled to BPF (`seccomp(2)`).
//!
//! A [`Policy`] says what to do with which calls, by name, on which ABIs. [`Filter`] is its compiled form, ready
//! to be put into a start plan. [`Filter::cached`] keeps the last ones, since a system compiles the same few
//! policies again and again.
//!
//! The program is made for how the kernel uses it. Since Linux 5.11 the kernel runs every filter once for each
//! call number when it is installed, to remember which calls are always allowed; so the price of a filter is
//! paid at the start of a container, and what counts is the number of steps over all numbers. Runs of
//! neighbouring numbers with one outcome become intervals, and a search tree balanced by their width finds the
//! interval: about ten steps for a list of 300 calls, where a list of comparisons takes 200. Conditions on
//! arguments are leaves of the tree.

mod arch;
mod asm;
mod compile;
mod filter;
#[cfg(feature = "fuzzing")]
pub(crate) mod fuzzing;
pub(crate) mod intercept;
mod notify;
pub mod oci;
mod oci_default;
#[cfg(all(test, target_arch = "x86_64"))]
mod peer_test;
mod policy;
mod run;
mod syscall;
mod system;
mod tables;

pub use arch::Arch;
pub use filter::Filter;
pub use intercept::{Interception, MountInterception, Nodes};
pub use notify::{Call, Caller, NotifyLoop, Responder, Response, Supervisor};
pub(crate) use notify::{hands, unfinished};
pub use policy::{Action, ArgCompare, Compare, Policy, Rule, SyscallData};
pub use syscall::Syscall;
