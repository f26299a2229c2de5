//! Waiting for what comes by itself, with an end.

use std::time::{Duration, Instant};

/// Waits until it holds; panics with `what` where that takes longer than `within`.
#[track_caller]
pub fn until(within: Duration, what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + within;
    while !holds() {
        assert!(Instant::now() < end, "waited too long: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
