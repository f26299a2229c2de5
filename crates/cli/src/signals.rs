//! Passing signals on.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::sys::signal::{SigSet, Signal as Number};
use stockade::Signal;

use crate::fail::Fail;

const PASSED: [Number; 6] =
    [Number::SIGINT, Number::SIGTERM, Number::SIGHUP, Number::SIGQUIT, Number::SIGUSR1, Number::SIGUSR2];

/// Signals that wait for somebody to pass them on.
#[derive(Debug)]
pub(crate) struct Held(SigSet);

impl Held {
    /// Keeps the signals back. Comes before the first thread: all later ones keep them back too.
    pub(crate) fn new() -> Result<Self, Fail> {
        let set: SigSet = PASSED.into_iter().collect();
        set.thread_block().map_err(|e| Fail::Other(format!("block signals: {e}")))?;
        Ok(Self(set))
    }

    /// Whether a signal waits that asks for an end.
    pub(crate) fn end_asked(&self) -> bool {
        const ENDS: [Number; 4] = [Number::SIGINT, Number::SIGTERM, Number::SIGHUP, Number::SIGQUIT];
        let status = std::fs::read_to_string("/proc/thread-self/status").unwrap_or_default();
        let waiting = |field: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(field));
            line.and_then(|bits| u64::from_str_radix(bits.trim(), 16).ok()).unwrap_or(0)
        };
        let waiting = waiting("SigPnd:") | waiting("ShdPnd:");
        ENDS.iter().any(|&number| waiting >> (number as u32 - 1) & 1 == 1)
    }

    /// Gives each signal to `pass` from a thread, and calls `kill` at the second request to end.
    pub(crate) fn pass_on<P, K>(self, pass: P, kill: K) -> Result<Passing, Fail>
    where
        P: Fn(Signal) + Send + 'static,
        K: Fn() + Send + 'static,
    {
        let over = Arc::new(AtomicBool::new(false));
        let done = Arc::clone(&over);
        let work = move || {
            let mut asked = false;
            while let Ok(number) = self.0.wait() {
                if done.load(Ordering::Acquire) {
                    return;
                }
                let ends = matches!(number, Number::SIGINT | Number::SIGTERM);
                if ends && asked {
                    kill();
                } else if let Ok(signal) = Signal::new(number as i32) {
                    pass(signal);
                }
                asked |= ends;
            }
        };
        let thread = std::thread::Builder::new().name("signals".to_owned()).spawn(work);
        thread.map_err(|e| Fail::Other(format!("start a thread: {e}")))?;
        Ok(Passing(over))
    }
}

/// Signals are passed on until this is dropped; what comes later is ignored. The process ends soon after.
#[derive(Debug)]
pub(crate) struct Passing(Arc<AtomicBool>);

impl Drop for Passing {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}
