//! The balloon (virtio 1.2, section 5.5): pages that the guest does without, whose memory the host has back.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use rustix::event::epoll::EventFlags;
use virtio_queue::Error as QueueError;

use super::{VirtioDevice, Work, buffers};
use crate::error::{Error, Result};
use crate::sys::vm::event::Event;
use crate::vm::event_loop::Watcher;
use crate::vm::memory::{self, Memory};

const INFLATE: usize = 0;
const STATS: usize = 2;
const QUEUE: u16 = 128;
/// The queue of reports has one buffer at most.
const STATS_QUEUE: u16 = 16;
/// Bytes of a page, whatever the guest's own are.
const PAGE: u64 = 4096;
/// The guest reports how it uses its memory.
const STATS_VQ: u64 = 1 << 1;
/// The guest takes pages back before it runs out of memory.
const DEFLATE_ON_OOM: u64 = 1 << 2;
/// The most page numbers of one request: Linux sends 256.
const MOST: usize = 4096;
/// The most numbers of one report: Linux sends 16.
const MOST_NUMBERS: usize = 64;

/// Which descriptor is ready.
const CHANGED: u32 = 0;
const REFRESH: u32 = 1;

/// What the guest says of its memory: numbers by their tag.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::vm) struct Report {
    pub(in crate::vm) numbers: BTreeMap<u16, u64>,
}

/// What the device and its user share.
#[derive(Debug)]
pub(in crate::vm) struct Balloon {
    /// Pages that the guest is asked to do without, and those that it says that it does without.
    wanted: AtomicU32,
    actual: AtomicU32,
    changed: Event,
    refresh: Event,
    report: Mutex<Option<(Report, Instant)>>,
}

impl Balloon {
    pub(in crate::vm) fn new() -> Result<Self> {
        let event = || Event::new().map_err(|e| Error::sys("make the event of a balloon", e));
        Ok(Self {
            wanted: AtomicU32::new(0),
            actual: AtomicU32::new(0),
            changed: event()?,
            refresh: event()?,
            report: Mutex::default(),
        })
    }

    /// What the guest has said last of its memory, and when. It is asked for news, too.
    pub(in crate::vm) fn report(&self) -> Option<(Report, Instant)> {
        self.refresh.signal();
        self.said().clone()
    }

    fn said(&self) -> MutexGuard<'_, Option<(Report, Instant)>> {
        self.report.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks the guest to do without so many bytes.
    pub(in crate::vm) fn ask(&self, bytes: u64) {
        let pages = u32::try_from(bytes / PAGE).unwrap_or(u32::MAX);
        self.wanted.store(pages, Ordering::SeqCst);
        self.changed.signal();
    }

    /// Bytes that it is asked to do without.
    pub(in crate::vm) fn target(&self) -> u64 {
        u64::from(self.wanted.load(Ordering::SeqCst)) * PAGE
    }

    /// Bytes that the guest says that it does without.
    pub(in crate::vm) fn bytes(&self) -> u64 {
        u64::from(self.actual.load(Ordering::SeqCst)) * PAGE
    }
}

/// The device.
#[derive(Debug)]
pub(in crate::vm) struct BalloonDevice {
    shared: Arc<Balloon>,
    /// The buffer of the last report: giving it back asks for the next one.
    held: Option<u16>,
}

impl BalloonDevice {
    pub(in crate::vm) fn new(shared: Arc<Balloon>) -> Self {
        Self { shared, held: None }
    }

    /// Takes the guest's reports. All but the last one's buffer go back at once.
    fn take_reports(&mut self, work: &mut Work<'_>) -> Result<(), QueueError> {
        let memory = work.memory;
        while let Some(chain) = work.pop(STATS)? {
            let head = chain.head_index();
            if let Some(mut request) = buffers::request(chain, memory, usize::from(STATS_QUEUE)) {
                let mut report = Report::default();
                while report.numbers.len() < MOST_NUMBERS
                    && let Some(bytes) = request.given.take::<10>()
                {
                    let [a, b, number @ ..] = bytes;
                    report.numbers.insert(u16::from_le_bytes([a, b]), u64::from_le_bytes(number));
                }
                *self.shared.said() = Some((report, Instant::now()));
            }
            if let Some(old) = self.held.replace(head) {
                work.push(STATS, old, 0)?;
            }
        }
        Ok(())
    }
}

impl VirtioDevice for BalloonDevice {
    fn name(&self) -> &'static str {
        "balloon"
    }

    fn number(&self) -> u32 {
        5
    }

    fn queues(&self) -> &'static [u16] {
        &[QUEUE, QUEUE, STATS_QUEUE]
    }

    fn features(&self) -> u64 {
        DEFLATE_ON_OOM | STATS_VQ
    }

    fn begin(&mut self, watcher: &Watcher<'_>) -> Result<()> {
        // By edge: a guest without a driver reads what is wanted once it has one.
        watcher.add(&self.shared.changed, CHANGED, EventFlags::IN | EventFlags::ET)?;
        watcher.add(&self.shared.refresh, REFRESH, EventFlags::IN | EventFlags::ET)
    }

    fn ready(&mut self, token: u32, _: EventFlags, work: &mut Work<'_>) -> Result<(), QueueError> {
        if token == CHANGED && self.shared.changed.take() {
            work.config_changed();
        }
        if token == REFRESH
            && self.shared.refresh.take()
            && let Some(head) = self.held.take()
        {
            work.push(STATS, head, 0)?;
            work.notify(STATS)?;
        }
        Ok(())
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        let mut config = [0; 8];
        config[..4].copy_from_slice(&self.shared.wanted.load(Ordering::SeqCst).to_le_bytes());
        config[4..].copy_from_slice(&self.shared.actual.load(Ordering::SeqCst).to_le_bytes());
        let from = usize::try_from(offset).ok().and_then(|at| config.get(at..)).unwrap_or_default();
        for (to, byte) in data.iter_mut().zip(from) {
            *to = *byte;
        }
    }

    fn write_config(&mut self, offset: u64, data: &[u8]) {
        if let (4, Ok(bytes)) = (offset, <[u8; 4]>::try_from(data)) {
            self.shared.actual.store(u32::from_le_bytes(bytes), Ordering::SeqCst);
        }
    }

    fn process(&mut self, queue: usize, work: &mut Work<'_>) -> Result<(), QueueError> {
        if queue == STATS {
            self.take_reports(work)?;
            return work.notify(queue);
        }
        let memory = work.memory;
        while let Some(chain) = work.pop(queue)? {
            let head = chain.head_index();
            // A page that is taken back needs nothing: it is there, as zeroes, once it is touched.
            if queue == INFLATE
                && let Some(mut request) = buffers::request(chain, memory, usize::from(QUEUE))
            {
                let mut pages = Vec::new();
                while pages.len() < MOST
                    && let Some(number) = request.given.take::<4>()
                {
                    pages.push(u32::from_le_bytes(number));
                }
                give_back(memory, pages);
            }
            work.push(queue, head, 0)?;
        }
        work.notify(queue)
    }

    fn reset(&mut self) {
        self.shared.actual.store(0, Ordering::SeqCst);
        *self.shared.said() = None;
        self.held = None;
    }
}

/// Gives the memory of these pages back to the host, those that lie side by side at once.
fn give_back(memory: &Memory, mut pages: Vec<u32>) {
    pages.sort_unstable();
    pages.dedup();
    for run in pages.chunk_by(|a, b| a.checked_add(1) == Some(*b)) {
        if let Some(first) = run.first() {
            memory::give_back(memory, u64::from(*first) * PAGE, run.len() as u64 * PAGE);
        }
    }
}

#[cfg(test)]
mod tests {
    use vm_memory::GuestAddress;

    use super::*;
    use crate::vm::devices::virtio::rig::flag::WRITE;
    use crate::vm::devices::virtio::rig::{FREE, MEMORY, Rig};

    #[test]
    fn pages_come_back_as_zeroes_and_nonsense_is_ignored() {
        let shared = Arc::new(Balloon::new().unwrap());
        let mut rig = Rig::new(Box::new(BalloonDevice::new(Arc::clone(&shared))), DEFLATE_ON_OOM);
        let at = FREE + 0x10_0000;
        rig.put(at, &[7; 4 * 4096]);
        let page = (at / PAGE) as u32;
        // Two side by side, one twice, the last of the memory, and some outside of it.
        let last = (MEMORY / PAGE) as u32 - 1;
        let pages = [page + 1, page, page, last, last + 1, u32::MAX, 0x000f_ffff];
        let bytes: Vec<u8> = pages.iter().flat_map(|p| p.to_le_bytes()).collect();
        rig.put(FREE, &bytes);
        rig.describe(INFLATE, 0, (FREE, bytes.len() as u32, 0, 0));
        rig.offer(INFLATE, 0);
        // What is to be written by the device, and half a number.
        rig.describe(INFLATE, 1, (FREE, 4, WRITE, 0));
        rig.offer(INFLATE, 1);
        rig.describe(INFLATE, 2, (FREE, 3, 0, 0));
        rig.offer(INFLATE, 2);
        rig.ring_for(INFLATE).unwrap();
        assert_eq!(rig.used(INFLATE), [(0, 0), (1, 0), (2, 0)]);
        assert_eq!(rig.get(at, 2 * 4096), [0; 2 * 4096]);
        assert_eq!(rig.get(at + 2 * PAGE, 2 * 4096), [7; 2 * 4096]);
        assert!(vm_memory::Bytes::read_obj::<u8>(&rig.memory, GuestAddress(MEMORY)).is_err());

        shared.ask(3 << 20);
        rig.interrupted();
        assert_eq!(rig.poll().unwrap(), 1);
        assert!(rig.interrupted());
        let mut config = [0; 4];
        rig.device.read_config(0, &mut config);
        assert_eq!(u32::from_le_bytes(config), 768);
        rig.device.write_config(4, &5_u32.to_le_bytes());
        rig.device.write_config(0, &9_u32.to_le_bytes());
        assert_eq!(shared.bytes(), 5 * PAGE);
        rig.device.reset();
        assert_eq!(shared.bytes(), 0);
    }

    #[test]
    fn reports_are_taken_and_asked_for_again_and_nonsense_is_bounded() {
        let shared = Arc::new(Balloon::new().unwrap());
        let mut rig = Rig::new(Box::new(BalloonDevice::new(Arc::clone(&shared))), STATS_VQ);
        // Nobody has said anything, and there is nothing to give back.
        assert!(shared.report().is_none());
        rig.poll().unwrap();
        assert!(rig.used(STATS).is_empty());
        let number = |tag: u16, value: u64| [&tag.to_le_bytes()[..], &value.to_le_bytes()[..]].concat();
        let report = [number(4, 1 << 20), number(5, 3 << 20), number(4, 2 << 20), vec![1, 2, 3]].concat();
        rig.put(FREE, &report);
        rig.describe(STATS, 0, (FREE, report.len() as u32, 0, 0));
        rig.offer(STATS, 0);
        rig.ring_for(STATS).unwrap();
        // It keeps the buffer until it wants to know more.
        assert!(rig.used(STATS).is_empty());
        let (said, _) = shared.report().unwrap();
        assert_eq!(said.numbers, [(4, 2 << 20), (5, 3 << 20)].into());
        rig.poll().unwrap();
        assert_eq!((rig.used(STATS), rig.interrupted()), (vec![(0, 0)], true));
        // More than one buffer, more numbers than there are, one that is for the device to write, and none at all.
        let many: Vec<u8> = (0..200).flat_map(|tag| number(tag, 1)).collect();
        rig.put(FREE, &many);
        for (head, len, flags) in [(1, 10, 0), (2, many.len() as u32, 0), (3, 100, WRITE), (4, 0, 0)] {
            rig.describe(STATS, head, (FREE, len, flags, 0));
            rig.offer(STATS, head);
            rig.ring_for(STATS).unwrap();
            if head == 2 {
                assert_eq!(shared.report().unwrap().0.numbers.len(), MOST_NUMBERS);
            }
        }
        rig.poll().unwrap();
        let heads: Vec<u32> = rig.used(STATS).iter().map(|(head, _)| *head).collect();
        assert_eq!(heads, [1, 2, 3, 4]);
        rig.device.reset();
        assert!(shared.report().is_none());
    }
}
