//! A console (virtio 1.2, section 5.3) with one port: `hvc0` in Linux. It writes whole lines at once, where the serial port
//! takes an exit for each byte.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use rustix::event::epoll::EventFlags;
use virtio_queue::Error as QueueError;

use super::{VirtioDevice, Work, buffers};
use crate::error::{Error, Result};
use crate::sys::vm::event::Event;
use crate::vm::devices::ConsoleRing;
use crate::vm::event_loop::Watcher;

const INPUT: usize = 0;
const OUTPUT: usize = 1;
const QUEUE: u16 = 64;
/// Bytes typed that a guest has not read.
const ROOM: usize = 64 << 10;
/// The most bytes that one request writes to the ring.
const MOST: usize = 64 << 10;

/// What is typed.
#[derive(Debug)]
pub(in crate::vm) struct Keys {
    typed: Mutex<VecDeque<u8>>,
    event: Event,
}

impl Keys {
    pub(in crate::vm) fn new() -> Result<Self> {
        let event = Event::new().map_err(|e| Error::sys("make the event of a console", e))?;
        Ok(Self { typed: Mutex::default(), event })
    }

    /// Types; says how many bytes there was room for.
    pub(in crate::vm) fn write(&self, bytes: &[u8]) -> usize {
        let mut typed = self.typed.lock().unwrap_or_else(PoisonError::into_inner);
        let len = bytes.len().min(ROOM - typed.len().min(ROOM));
        typed.extend(&bytes[..len]);
        drop(typed);
        self.event.signal();
        len
    }
}

/// The device.
#[derive(Debug)]
pub(in crate::vm) struct Console {
    keys: Arc<Keys>,
    ring: Arc<ConsoleRing>,
}

impl Console {
    pub(in crate::vm) fn new(keys: Arc<Keys>, ring: Arc<ConsoleRing>) -> Self {
        Self { keys, ring }
    }

    /// Gives the guest what was typed, as far as it has buffers.
    fn feed(&self, work: &mut Work<'_>) -> Result<(), QueueError> {
        let memory = work.memory;
        let mut typed = self.keys.typed.lock().unwrap_or_else(PoisonError::into_inner);
        let mut used = false;
        while !typed.is_empty() {
            let Some(chain) = work.pop(INPUT)? else { break };
            let head = chain.head_index();
            let wanted = buffers::request(chain, memory, usize::from(QUEUE)).map(|r| r.wanted);
            let len = wanted.map_or(0, |wanted| wanted.copy_from(typed.make_contiguous()));
            typed.drain(..len);
            work.push(INPUT, head, len as u32)?;
            used = true;
        }
        if used { work.notify(INPUT) } else { Ok(()) }
    }
}

impl VirtioDevice for Console {
    fn name(&self) -> &'static str {
        "console"
    }

    fn number(&self) -> u32 {
        3
    }

    fn queues(&self) -> &'static [u16] {
        &[QUEUE, QUEUE]
    }

    fn begin(&mut self, watcher: &Watcher<'_>) -> Result<()> {
        // By edge: a guest without a driver gets it once it has given buffers.
        watcher.add(&self.keys.event, 0, EventFlags::IN | EventFlags::ET)
    }

    fn ready(&mut self, _: u32, _: EventFlags, work: &mut Work<'_>) -> Result<(), QueueError> {
        self.keys.event.take();
        self.feed(work)
    }

    fn process(&mut self, queue: usize, work: &mut Work<'_>) -> Result<(), QueueError> {
        if queue == INPUT {
            return self.feed(work);
        }
        let memory = work.memory;
        while let Some(chain) = work.pop(OUTPUT)? {
            let head = chain.head_index();
            if let Some(request) = buffers::request(chain, memory, usize::from(QUEUE)) {
                let mut bytes = vec![0; request.given.len().min(MOST)];
                let len = request.given.copy_to(&mut bytes);
                self.ring.write(&bytes[..len]);
            }
            work.push(OUTPUT, head, 0)?;
        }
        work.notify(OUTPUT)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vm::devices::virtio::rig::flag::{NEXT, WRITE};
    use crate::vm::devices::virtio::rig::{FREE, Rig};

    #[test]
    fn lines_go_out_and_keys_come_in() {
        let (keys, ring) = (Arc::new(Keys::new().unwrap()), Arc::new(ConsoleRing::new(100)));
        let mut rig = Rig::new(Box::new(Console::new(Arc::clone(&keys), Arc::clone(&ring))), 0);
        rig.put(FREE, b"hello, world");
        rig.describe(OUTPUT, 0, (FREE, 5, NEXT, 1));
        rig.describe(OUTPUT, 1, (FREE + 5, 7, 0, 0));
        rig.offer(OUTPUT, 0);
        // Outside of memory: given back, and nothing is said.
        rig.describe(OUTPUT, 2, (u64::MAX - 4, 5, 0, 0));
        rig.offer(OUTPUT, 2);
        rig.ring_for(OUTPUT).unwrap();
        assert_eq!(
            (rig.used(OUTPUT), ring.since(0).text()),
            (vec![(0, 0), (2, 0)], "hello, world".to_owned())
        );

        assert_eq!(keys.write(b"abcdef"), 6);
        rig.describe(INPUT, 0, (FREE, 4, WRITE, 0));
        rig.describe(INPUT, 1, (FREE + 16, 4, WRITE, 0));
        rig.offer(INPUT, 0);
        rig.poll().unwrap();
        assert_eq!((rig.used(INPUT), rig.get(FREE, 4)), (vec![(0, 4)], b"abcd".to_vec()));
        rig.offer(INPUT, 1);
        rig.ring_for(INPUT).unwrap();
        assert_eq!((rig.used(INPUT), rig.get(FREE + 16, 2)), (vec![(1, 2)], b"ef".to_vec()));
        assert_eq!(keys.write(&vec![0; 1 << 20]), ROOM);
        assert_eq!(keys.write(b"x"), 0);
        // A buffer that cannot be written to comes back; no key is lost.
        rig.describe(INPUT, 2, (FREE, 4, 0, 0));
        rig.offer(INPUT, 2);
        rig.ring_for(INPUT).unwrap();
        assert_eq!(rig.used(INPUT), [(2, 0)]);
    }
}
