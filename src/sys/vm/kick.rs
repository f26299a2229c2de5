//! The signal that brings a virtual processor back from the kernel.

use rustix::io::Errno;

use crate::sys::raw::{check, last_errno};

/// What a process does about a signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Disposition {
    Default,
    Ignored,
    /// A function handles it.
    Handled,
}

/// What this process does about the signal now (`sigaction(2)`).
pub(crate) fn disposition(signal: i32) -> Result<Disposition, Errno> {
    // SAFETY: all zero is a valid value of the structure.
    let mut old: libc::sigaction = unsafe { std::mem::zeroed() };
    // SAFETY: `old` is live and of the right type; nothing is changed.
    check(unsafe { libc::sigaction(signal, std::ptr::null(), &raw mut old) }.into())?;
    Ok(match old.sa_sigaction {
        libc::SIG_DFL => Disposition::Default,
        libc::SIG_IGN => Disposition::Ignored,
        _ => Disposition::Handled,
    })
}

/// Makes the signal one that does nothing but interrupt the kernel.
pub(crate) fn install(signal: i32) -> Result<(), Errno> {
    extern "C" fn nothing(_: libc::c_int) {}
    // SAFETY: all zero is a valid value of the structure: no flags, no signals blocked meanwhile.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = nothing as extern "C" fn(libc::c_int) as usize;
    // Elsewhere in the host it interrupts nothing. KVM_RUN comes back all the same.
    action.sa_flags = libc::SA_RESTART;
    // SAFETY: the handler touches nothing, so that it is safe at any point of any thread.
    check(unsafe { libc::sigaction(signal, &raw const action, std::ptr::null_mut()) }.into())?;
    Ok(())
}

/// The calling thread's number in the kernel.
pub(crate) fn thread_id() -> i32 {
    // SAFETY: takes nothing and cannot fail.
    unsafe { libc::gettid() }
}

/// Sends the signal to one thread of this process (`tgkill(2)`).
pub(crate) fn send(thread: i32, signal: i32) -> Result<(), Errno> {
    // SAFETY: three plain numbers.
    check(unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), thread, signal) })?;
    Ok(())
}

/// Blocks every signal of the calling thread but this one, and but those that the C library keeps for itself: it waits
/// for every thread when the host changes its user.
pub(crate) fn block_all_but(signal: Option<i32>) -> Result<SignalMask, Errno> {
    // SAFETY: both sets are live; the first is filled before it is used.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        let mut old: libc::sigset_t = std::mem::zeroed();
        libc::sigfillset(&raw mut set);
        if let Some(signal) = signal {
            libc::sigdelset(&raw mut set, signal);
        }
        match libc::pthread_sigmask(libc::SIG_SETMASK, &raw const set, &raw mut old) {
            0 => Ok(SignalMask(old)),
            errno if errno > 0 => Err(Errno::from_raw_os_error(errno)),
            _ => Err(last_errno()),
        }
    }
}

/// The signals that a thread had blocked.
pub(crate) struct SignalMask(libc::sigset_t);

impl SignalMask {
    /// Blocks these again, and only these.
    pub(crate) fn restore(self) {
        // SAFETY: the set is live and was filled by the same call. It cannot fail with these arguments.
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &raw const self.0, std::ptr::null_mut()) };
    }
}
