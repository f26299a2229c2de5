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

/// The signals that this process ignores, bit N-1 for signal N; all of them where that cannot be told.
pub(crate) fn ignored() -> u64 {
    // The file fits into one read, and this is on the way of every start.
    let mut status = [0_u8; 4096];
    let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::CLOEXEC;
    let read = rustix::fs::open("/proc/self/status", flags, rustix::fs::Mode::empty())
        .and_then(|fd| rustix::io::read(&fd, &mut status));
    let text = String::from_utf8_lossy(&status[..read.unwrap_or(0)]);
    let mask = text.lines().find_map(|l| l.strip_prefix("SigIgn:"));
    mask.and_then(|m| u64::from_str_radix(m.trim(), 16).ok()).unwrap_or(u64::MAX)
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
