//! What the guest has said on its console: the last of it, in a ring.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// What a guest has written to its console.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ConsoleOutput {
    /// The bytes, as they came.
    pub bytes: Vec<u8>,
    /// How many bytes of this run were written before these.
    pub start: u64,
}

impl ConsoleOutput {
    /// Where the next bytes will begin.
    pub fn end(&self) -> u64 {
        self.start + self.bytes.len() as u64
    }

    /// As text; what is no UTF-8 is replaced.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes).into_owned()
    }
}

/// A buffer of fixed size: a guest that floods it loses what it wrote first.
#[derive(Debug)]
pub(in crate::vm) struct ConsoleRing {
    capacity: usize,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    bytes: VecDeque<u8>,
    /// Written and gone.
    lost: u64,
}

impl ConsoleRing {
    pub(in crate::vm) fn new(capacity: usize) -> Self {
        Self { capacity, inner: Mutex::default() }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(in crate::vm) fn write(&self, bytes: &[u8]) {
        let mut inner = self.inner();
        for byte in bytes {
            if inner.bytes.len() >= self.capacity {
                inner.lost += 1;
                if inner.bytes.pop_front().is_none() {
                    continue;
                }
            }
            inner.bytes.push_back(*byte);
        }
    }

    /// What was written from the byte number `from` on, as far as it is there.
    pub(in crate::vm) fn since(&self, from: u64) -> ConsoleOutput {
        let inner = self.inner();
        let skip =
            usize::try_from(from.saturating_sub(inner.lost)).unwrap_or(usize::MAX).min(inner.bytes.len());
        let bytes = inner.bytes.range(skip..).copied().collect();
        ConsoleOutput { bytes, start: inner.lost + skip as u64 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_bytes_stay_and_are_numbered() {
        let ring = ConsoleRing::new(4);
        ring.write(b"abcdef");
        let all = ring.since(0);
        assert_eq!((all.text(), all.start, all.end()), ("cdef".to_owned(), 2, 6));
        assert_eq!(ring.since(4).text(), "ef");
        assert_eq!(ring.since(100), ConsoleOutput { bytes: Vec::new(), start: 6 });
        let none = ConsoleRing::new(0);
        none.write(b"abc");
        assert_eq!(none.since(0), ConsoleOutput { bytes: Vec::new(), start: 3 });
    }
}
