//! Stacks for children that share our memory until they execute.

use std::sync::Mutex;

use rustix::io::Errno;
use rustix::mm::{MapFlags, MprotectFlags, ProtFlags};

const GUARD: usize = 4096;
const SIZE: usize = 32 * 1024;
/// How many unused stacks are kept for the next start.
const KEEP: usize = 8;

static UNUSED: Mutex<Vec<Stack>> = Mutex::new(Vec::new());

#[derive(Debug)]
/// A stack with an inaccessible page below it: an overflow ends the child, not the host's memory.
pub(crate) struct Stack {
    base: *mut std::ffi::c_void,
}

// SAFETY: a stack is a plain mapping that belongs to whoever holds the value.
unsafe impl Send for Stack {}

impl Stack {
    /// Takes a kept stack or maps a new one.
    pub(crate) fn take() -> Result<Self, Errno> {
        if let Some(kept) = UNUSED.lock().unwrap_or_else(|e| e.into_inner()).pop() {
            return Ok(kept);
        }
        let prot = ProtFlags::READ | ProtFlags::WRITE;
        let flags = MapFlags::PRIVATE | MapFlags::STACK | MapFlags::NORESERVE;
        // SAFETY: a new anonymous mapping at an address of the kernel's choice overlaps nothing.
        let base = unsafe { rustix::mm::mmap_anonymous(std::ptr::null_mut(), GUARD + SIZE, prot, flags)? };
        let stack = Self { base };
        // SAFETY: the first page of the mapping made above; nothing refers to it.
        unsafe { rustix::mm::mprotect(base, GUARD, MprotectFlags::empty())? };
        Ok(stack)
    }

    /// Gives the stack back for the next start. Only once the child that ran on it has its own memory.
    pub(crate) fn give_back(self) {
        let mut unused = UNUSED.lock().unwrap_or_else(|e| e.into_inner());
        if unused.len() < KEEP {
            unused.push(self);
        }
    }

    /// The lowest usable address and the size, as `clone3` wants them.
    pub(crate) fn area(&self) -> (u64, u64) {
        (self.base as u64 + GUARD as u64, SIZE as u64)
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        // SAFETY: the mapping was made by `take` and nothing else uses it; an error leaves it mapped, which is
        // harmless.
        let _ = unsafe { rustix::mm::munmap(self.base, GUARD + SIZE) };
    }
}
