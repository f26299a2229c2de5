//! Bringing threads back from where they wait: the one thing about virtual machines that is the whole process's.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::error::{Error, ErrorKind, Result};
use crate::signal::Signal;
use crate::sys::vm::event::Event;
use crate::sys::vm::kick::{self, Disposition};
use crate::sys::vm::kvm::RunPage;

/// The signal, once it is chosen or its handler installed.
static SIGNAL: Mutex<Option<Kick>> = Mutex::new(None);

#[derive(Clone, Copy, Debug)]
struct Kick {
    signal: Signal,
    installed: bool,
}

/// Chooses the signal that interrupts the threads of virtual processors, for this process. Without this call it is the
/// highest real-time signal that nobody handles.
///
/// A handler that does nothing is installed for it when the first virtual machine starts, and stays. It is sent to
/// threads of this library alone.
///
/// ```
/// use stockade::Signal;
///
/// stockade::vm::use_kick_signal(Signal::realtime(7)?)?;
/// # Ok::<(), stockade::Error>(())
/// ```
///
/// # Errors
/// [`InvalidConfig`](crate::ErrorKind::InvalidConfig) for one that is no real-time signal;
/// [`AlreadyExists`](crate::ErrorKind::AlreadyExists) where the process handles it already;
/// [`InvalidState`](crate::ErrorKind::InvalidState) where another one is in use.
pub fn use_kick_signal(signal: Signal) -> Result<()> {
    if signal.as_raw() < libc::SIGRTMIN() {
        return Err(Error::invalid("kick signal", "must be a real-time signal").object(signal.to_string()));
    }
    let mut chosen = SIGNAL.lock().unwrap_or_else(PoisonError::into_inner);
    match *chosen {
        Some(kick) if kick.signal == signal => return Ok(()),
        Some(Kick { signal: other, installed: true }) => {
            return Err(Error::new(ErrorKind::InvalidState, "choose the kick signal")
                .object(signal.to_string())
                .detail(format!("virtual machines use {other} already"))
                .hint("choose it before the first virtual machine starts"));
        }
        _ => {}
    }
    if is_free(signal)? {
        *chosen = Some(Kick { signal, installed: false });
        return Ok(());
    }
    Err(Error::new(ErrorKind::AlreadyExists, "choose the kick signal")
        .object(signal.to_string())
        .detail("the process has a handler for it, or ignores it"))
}

/// The signal in use, or chosen; `None` before.
pub fn kick_signal() -> Option<Signal> {
    SIGNAL.lock().unwrap_or_else(PoisonError::into_inner).map(|kick| kick.signal)
}

fn is_free(signal: Signal) -> Result<bool> {
    let found = kick::disposition(signal.as_raw());
    let found =
        found.map_err(|e| Error::sys("look at the handler of a signal", e).object(signal.to_string()))?;
    Ok(found == Disposition::Default)
}

/// The signal, with its handler installed.
pub(super) fn installed() -> Result<i32> {
    let mut chosen = SIGNAL.lock().unwrap_or_else(PoisonError::into_inner);
    let signal = match *chosen {
        Some(Kick { signal, installed: true }) => return Ok(signal.as_raw()),
        Some(Kick { signal, .. }) => signal,
        None => highest_free()?,
    };
    kick::install(signal.as_raw())
        .map_err(|e| Error::sys("install the kick signal's handler", e).object(signal.to_string()))?;
    *chosen = Some(Kick { signal, installed: true });
    Ok(signal.as_raw())
}

fn highest_free() -> Result<Signal> {
    for number in (libc::SIGRTMIN()..=libc::SIGRTMAX()).rev() {
        let signal = Signal::new(number)?;
        if is_free(signal)? {
            return Ok(signal);
        }
    }
    Err(Error::new(ErrorKind::Exhausted, "find a kick signal")
        .detail("the process handles or ignores every real-time signal")
        .hint("leave one of them to virtual machines"))
}

/// Brings one thread back.
#[derive(Debug)]
pub(super) enum Kicker {
    /// A virtual processor's.
    Vcpu(VcpuKicker),
    /// One that polls this descriptor.
    Event(Arc<Event>),
}

impl Kicker {
    pub(super) fn kick(&self) {
        match self {
            Self::Vcpu(vcpu) => vcpu.kick(),
            Self::Event(event) => event.signal(),
        }
    }
}

#[derive(Debug)]
pub(super) struct VcpuKicker {
    inner: Mutex<Kicked>,
    signal: i32,
}

#[derive(Debug)]
struct Kicked {
    /// Until its thread ends: the kernel keeps the whole virtual machine, its own threads for it included, as long as this is
    /// mapped.
    run: Option<Arc<RunPage>>,
    /// While it runs. A number is used again once its thread has ended.
    thread: Option<i32>,
}

impl VcpuKicker {
    pub(super) fn new(run: Arc<RunPage>, signal: i32) -> Self {
        Self { inner: Mutex::new(Kicked { run: Some(run), thread: None }), signal }
    }

    fn inner(&self) -> MutexGuard<'_, Kicked> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// To be called in the thread itself: kicks reach it as long as what this gives lives.
    pub(super) fn enter(&self) -> Entered<'_> {
        self.inner().thread = Some(kick::thread_id());
        Entered(self)
    }

    /// The flag is for a thread that is about to enter the kernel, the signal for one that is there.
    fn kick(&self) {
        let inner = self.inner();
        if let Some(run) = &inner.run {
            run.set_immediate_exit(true);
        }
        if let Some(thread) = inner.thread {
            // It runs, so that the only error is a queue of signals that is full: then one is pending already.
            let _ = kick::send(thread, self.signal);
        }
    }

    /// The kick has been seen. To be called before looking at what it was for.
    pub(super) fn clear(&self) {
        if let Some(run) = &self.inner().run {
            run.set_immediate_exit(false);
        }
    }
}

pub(super) struct Entered<'a>(&'a VcpuKicker);

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        *self.0.inner() = Kicked { run: None, thread: None };
    }
}
