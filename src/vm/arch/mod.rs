//! What differs between the processors' architectures: the memory map, the processor's state at the entry, the tables
//! that tell the guest what it has.
//!
//! The rest of the backend takes an architecture for a module with these names: `layout`, `BootState`, `configure_vm`,
//! `configure_vcpu`, `describe`. Another architecture is another directory here.

#[cfg(target_arch = "x86_64")]
mod x86_64;
#[cfg(target_arch = "x86_64")]
pub(crate) use x86_64::*;

#[cfg(not(target_arch = "x86_64"))]
compile_error!("the feature `vm` is for x86-64 so far");
