//! Blocking every signal of the calling thread for a moment.

use std::marker::PhantomData;

/// While it lives, the calling thread takes no signal; dropping it restores the mask.
///
/// This is a raw `rt_sigprocmask(2)`: the libc wrapper leaves out the two signals that libc uses itself, and one
/// of those arriving in a child that shares our memory would run libc's handler there.
pub(crate) struct BlockAll {
    old: u64,
    not_send: PhantomData<*const ()>,
}

impl BlockAll {
    pub(crate) fn new() -> Self {
        let mut old = 0_u64;
        set_mask(u64::MAX, &mut old);
        Self { old, not_send: PhantomData }
    }
}

impl Drop for BlockAll {
    fn drop(&mut self) {
        set_mask(self.old, &mut 0);
    }
}

fn set_mask(new: u64, old: &mut u64) {
    // SAFETY: both masks are live 8-byte values, the size that the kernel asks for. With these arguments the
    // call cannot fail.
    unsafe {
        libc::syscall(
            libc::SYS_rt_sigprocmask,
            libc::SIG_SETMASK,
            std::ptr::from_ref(&new),
            std::ptr::from_mut(old),
            size_of::<u64>(),
        );
    }
}
