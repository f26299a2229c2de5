//! [`Stock`]: things made before they are needed, and the thread that makes new ones for those that are taken.

use std::collections::VecDeque;
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::error::{Error, ErrorKind, Result};

/// How long after one was taken the thread begins to make another, unless none is left: at once it would get in the
/// way of the very start that took one.
const QUIET: Duration = Duration::from_millis(5);
/// How long the thread rests after a failure.
const REST: Duration = Duration::from_secs(1);

/// A stock of `T`. Dropping it ends the thread and drops what is left.
#[derive(Debug)]
pub(super) struct Stock<T> {
    shared: Arc<Shared<T>>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared<T> {
    state: Mutex<State<T>>,
    changed: Arc<Condvar>,
}

#[derive(Debug)]
struct State<T> {
    ready: VecDeque<T>,
    size: usize,
    taken: Option<Instant>,
    closing: bool,
}

impl<T> State<T> {
    /// How long until another one is to be made: `None` for not before something changes.
    fn due(&self) -> Option<Duration> {
        if self.ready.len() >= self.size {
            return None;
        }
        match self.taken {
            Some(taken) if !self.ready.is_empty() => Some(QUIET.saturating_sub(taken.elapsed())),
            _ => Some(Duration::ZERO),
        }
    }
}

impl<T> Shared<T> {
    fn state(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(|e| e.into_inner())
    }
}

/// Tells the thread, when it is dropped, that one was taken: at the end of the start that took it. To be woken earlier
/// the thread would take a processor away from that start.
#[derive(Debug)]
pub(super) struct Refill(Arc<Condvar>);

impl Drop for Refill {
    fn drop(&mut self) {
        self.0.notify_all();
    }
}

impl<T: Send + 'static> Stock<T> {
    /// Starts a thread of this name, and waits until it has made `size` of them. `make` gives nothing once there is
    /// nobody left to make them for.
    pub(super) fn open(
        name: &str,
        size: usize,
        make: impl FnMut() -> Option<Result<T>> + Send + 'static,
    ) -> Result<Self> {
        let state = State { ready: VecDeque::new(), size, taken: None, closing: false };
        let shared = Arc::new(Shared { state: Mutex::new(state), changed: Arc::default() });
        let (tell, told) = sync_channel(1);
        let theirs = Arc::clone(&shared);
        let thread = std::thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || {
                let mut make = make;
                let filled = fill(&theirs, size, &mut make);
                let failed = filled.is_err();
                let _ = tell.send(filled);
                if !failed {
                    refill(&theirs, &mut make);
                }
            })
            .map_err(|e| Error::io("start the pool's thread", e))?;
        let stock = Self { shared, thread: Some(thread) };
        told.recv().unwrap_or_else(|_| Err(ended()))?;
        Ok(stock)
    }
}

impl<T> Stock<T> {
    /// Takes the first one that is fit for use; the others before it are dropped.
    pub(super) fn take(&self, fit: impl Fn(&T) -> bool) -> Option<(T, Refill)> {
        let mut state = self.shared.state();
        let mut unfit = Vec::new();
        let taken = loop {
            match state.ready.pop_front() {
                Some(item) if fit(&item) => break Some(item),
                Some(item) => unfit.push(item),
                None => break None,
            }
        };
        state.taken = Some(Instant::now());
        let last = state.ready.is_empty();
        drop(state);
        if last {
            self.shared.changed.notify_all();
        }
        taken.map(|item| (item, Refill(Arc::clone(&self.shared.changed))))
    }

    /// How many are ready.
    pub(super) fn ready(&self) -> usize {
        self.shared.state().ready.len()
    }
}

impl<T> Drop for Stock<T> {
    fn drop(&mut self) {
        let ready = {
            let mut state = self.shared.state();
            state.closing = true;
            std::mem::take(&mut state.ready)
        };
        self.shared.changed.notify_all();
        drop(ready);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn fill<T>(stock: &Shared<T>, size: usize, make: &mut impl FnMut() -> Option<Result<T>>) -> Result<()> {
    for _ in 0..size {
        let item = make().unwrap_or_else(|| Err(ended()))?;
        stock.state().ready.push_back(item);
    }
    Ok(())
}

/// Makes what is missing until the stock is dropped.
fn refill<T>(stock: &Shared<T>, make: &mut impl FnMut() -> Option<Result<T>>) {
    let mut rest = None;
    loop {
        let mut state = stock.state();
        if let Some(rest) = rest.take() {
            let woken = stock.changed.wait_timeout(state, rest);
            state = woken.unwrap_or_else(|e| e.into_inner()).0;
        }
        while !state.closing {
            state = match state.due() {
                Some(Duration::ZERO) => break,
                Some(left) => stock.changed.wait_timeout(state, left).unwrap_or_else(|e| e.into_inner()).0,
                None => stock.changed.wait(state).unwrap_or_else(|e| e.into_inner()),
            };
        }
        if state.closing {
            return;
        }
        drop(state);
        match make() {
            Some(Ok(item)) => {
                let mut state = stock.state();
                if state.closing {
                    // Not under the lock.
                    drop(state);
                    return drop(item);
                }
                state.ready.push_back(item);
            }
            // A start without one meets the same failure, and tells of it.
            Some(Err(_)) => rest = Some(REST),
            None => return,
        }
    }
}

fn ended() -> Error {
    Error::new(ErrorKind::InvalidState, "fill a pool").detail("the runtime is at its end")
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    /// Things that count themselves: how many were made, how many are there.
    #[derive(Debug)]
    struct Thing(usize, Arc<AtomicUsize>);

    impl Drop for Thing {
        fn drop(&mut self) {
            self.1.fetch_sub(1, Ordering::SeqCst);
        }
    }

    fn stock(size: usize) -> (Stock<Thing>, Arc<AtomicUsize>) {
        let (mut made, there) = (0, Arc::new(AtomicUsize::new(0)));
        let counted = Arc::clone(&there);
        let make = move || {
            made += 1;
            counted.fetch_add(1, Ordering::SeqCst);
            Some(Ok(Thing(made, Arc::clone(&counted))))
        };
        (Stock::open("stock-test", size, make).unwrap(), there)
    }

    fn until(what: &str, holds: impl Fn() -> bool) {
        let end = Instant::now() + Duration::from_secs(20);
        while !holds() {
            assert!(Instant::now() < end, "{what}");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    #[test]
    fn a_stock_has_its_size_and_is_filled_again() {
        let (stock, there) = stock(3);
        assert_eq!((stock.ready(), there.load(Ordering::SeqCst)), (3, 3));
        let (first, refill) = stock.take(|_| true).unwrap();
        assert_eq!(first.0, 1);
        drop(refill);
        until("filled again", || stock.ready() == 3);
        // Those that are not fit go; with none left another one comes without being asked for.
        assert!(stock.take(|thing| thing.0 > 100).is_none());
        until("filled again", || stock.ready() == 3);
        drop(first);
        assert_eq!(there.load(Ordering::SeqCst), 3);
        drop(stock);
        assert_eq!(there.load(Ordering::SeqCst), 0);
    }

    #[test]
    fn a_failure_is_told_and_leaves_nothing() {
        let (mut made, there) = (0, Arc::new(AtomicUsize::new(0)));
        let counted = Arc::clone(&there);
        let make = move || {
            made += 1;
            if made == 3 {
                return Some(Err(Error::invalid("thing", "is the third")));
            }
            counted.fetch_add(1, Ordering::SeqCst);
            Some(Ok(Thing(made, Arc::clone(&counted))))
        };
        let e = Stock::open("stock-test", 4, make).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::InvalidConfig, "{e}");
        assert_eq!(there.load(Ordering::SeqCst), 0);
        assert!(Stock::<Thing>::open("stock-test", 1, || None).is_err());
    }
}
