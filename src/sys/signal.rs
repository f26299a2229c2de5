//! Blocking every signal of the calling thread for a moment.

use std::marker::PhantomData;
use std::os::fd::OwnedFd;

use rustix::io::Errno;

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

/// What tells which signals this process ignores: its status file, kept open, as this is on the way of every start.
#[derive(Debug)]
pub(crate) struct Ignored(OwnedFd);

impl Ignored {
    pub(crate) fn open() -> Result<Self, Errno> {
        let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::CLOEXEC;
        rustix::fs::open("/proc/self/status", flags, rustix::fs::Mode::empty()).map(Self)
    }

    /// The signals that are ignored now, bit N-1 for signal N; all of them where that cannot be told.
    pub(crate) fn now(&self) -> u64 {
        // The file fits into one read.
        let mut status = [0_u8; 4096];
        let read = super::raw::retry(|| rustix::io::pread(&self.0, &mut status, 0));
        let text = String::from_utf8_lossy(&status[..read.unwrap_or(0)]);
        let mask = text.lines().find_map(|l| l.strip_prefix("SigIgn:"));
        mask.and_then(|m| u64::from_str_radix(m.trim(), 16).ok()).unwrap_or(u64::MAX)
    }

    /// The same, once.
    pub(crate) fn once() -> u64 {
        Self::open().map_or(u64::MAX, |ignored| ignored.now())
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
