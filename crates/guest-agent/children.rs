//! Processes of ours, and those that their parents have left behind.

use std::collections::HashMap;
use std::io;
use std::os::fd::RawFd;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use super::sys::{self, Ready};

/// Of each child that somebody waits for: its status, once it has one.
#[derive(Default)]
struct Known {
    statuses: HashMap<i32, Option<i32>>,
}

pub(crate) struct Children {
    known: Mutex<Known>,
    changed: Condvar,
    /// `NAME=VALUE`.
    pub(crate) env: Vec<Vec<u8>>,
}

impl Children {
    pub(crate) fn new(env: Vec<Vec<u8>>) -> Self {
        Self { known: Mutex::default(), changed: Condvar::new(), env }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes a child. Its end cannot be missed, since nobody is reaped before it is known.
    pub(crate) fn spawn(&self, ready: &Ready, streams: [RawFd; 3], report: RawFd) -> io::Result<i32> {
        let mut known = self.known();
        let pid = sys::spawn(ready, streams, report)?;
        known.statuses.insert(pid, None);
        drop(known);
        self.changed.notify_all();
        Ok(pid)
    }

    /// Sends a signal, unless it has ended: its number may be another's then.
    pub(crate) fn signal(&self, pid: i32, signal: i32) -> io::Result<()> {
        const ESRCH: i32 = 3;
        let known = self.known();
        match known.statuses.get(&pid) {
            Some(None) => sys::kill(pid, signal),
            _ => Err(io::Error::from_raw_os_error(ESRCH)),
        }
    }

    /// Waits until it has ended.
    pub(crate) fn wait(&self, pid: i32) -> i32 {
        let mut known = self.known();
        loop {
            match known.statuses.get(&pid) {
                Some(None) => known = self.changed.wait(known).unwrap_or_else(PoisonError::into_inner),
                Some(Some(status)) => {
                    let status = *status;
                    known.statuses.remove(&pid);
                    return status;
                }
                // Waited for twice: a fault of ours.
                None => return 0,
            }
        }
    }

    /// Reaps for ever; for a thread of its own.
    pub(crate) fn reap(&self) {
        loop {
            match sys::next_ended() {
                Ok(pid) => {
                    let mut known = self.known();
                    // Its number is its own until here.
                    let status = sys::reap(pid).unwrap_or(0);
                    // A zombie that nobody waits for is another's orphan.
                    if let Some(place) = known.statuses.get_mut(&pid) {
                        *place = Some(status);
                    }
                    drop(known);
                    self.changed.notify_all();
                }
                // No child at all: the next one wakes it up.
                Err(_) => {
                    let mut known = self.known();
                    while !known.statuses.values().any(Option::is_none) {
                        known = self.changed.wait(known).unwrap_or_else(PoisonError::into_inner);
                    }
                }
            }
        }
    }
}
