//! One privileged test at a time in a test program.

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

static ONE: Mutex<()> = Mutex::new(());
static TEST_THREADS: Mutex<BTreeSet<u32>> = Mutex::new(BTreeSet::new());

/// The turn of one test; the next begins when it is dropped.
#[derive(Debug)]
#[must_use = "the turn ends when this is dropped"]
pub struct Serial {
    _turn: MutexGuard<'static, ()>,
}

/// Waits for the turn of this test. Tests of one program run on threads of one process, and what one does would
/// show in another's [`HostSnapshot`](crate::HostSnapshot).
///
/// A test that failed in its turn does not spoil the others'.
pub fn serial() -> Serial {
    let tid = rustix::thread::gettid().as_raw_nonzero().get().unsigned_abs();
    // Before the wait: a test that waits here is a thread that the running test did not start.
    TEST_THREADS.lock().unwrap_or_else(PoisonError::into_inner).insert(tid);
    Serial { _turn: ONE.lock().unwrap_or_else(PoisonError::into_inner) }
}

/// Whether the thread belongs to the test harness and called [`serial`].
pub(crate) fn is_test_thread(tid: u32) -> bool {
    TEST_THREADS.lock().unwrap_or_else(PoisonError::into_inner).contains(&tid)
}
