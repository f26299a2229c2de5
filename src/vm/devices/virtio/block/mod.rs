//! Disks (virtio 1.2, section 5.2): a file or a block device of the host's, as it is.

mod disk;
mod request;
#[cfg(test)]
mod tests;

pub(in crate::vm) use disk::{DiskCounters, OpenDisk};
use virtio_queue::Error as QueueError;

use super::{VirtioDevice, Work, buffers};

/// Bytes of a sector, in which the standard counts whatever a disk's own are.
const SECTOR: u64 = 512;
/// The most buffers of one request's data, and the most bytes of each.
const SEGMENTS: u32 = 126;
const SEGMENT_BYTES: u32 = 1 << 20;
/// The most ranges of one discard, and the most sectors of each.
const RANGES: u32 = 64;
const RANGE_SECTORS: u32 = 1 << 21;
const BLOCK_SIZE: u32 = 512;
const QUEUE: u16 = 256;

/// What is offered.
mod feature {
    pub(super) const SIZE_MAX: u64 = 1 << 1;
    pub(super) const SEG_MAX: u64 = 1 << 2;
    pub(super) const READ_ONLY: u64 = 1 << 5;
    pub(super) const BLOCK_SIZE: u64 = 1 << 6;
    pub(super) const FLUSH: u64 = 1 << 9;
    pub(super) const DISCARD: u64 = 1 << 13;
    pub(super) const WRITE_ZEROES: u64 = 1 << 14;
    /// Chains may be in a table of their own.
    pub(super) const INDIRECT: u64 = 1 << 28;
}

/// A disk in the machine. It works in a thread of its own, which may wait for the host's disk.
#[derive(Debug)]
pub(in crate::vm) struct Block {
    disk: OpenDisk,
    number: usize,
    config: [u8; 60],
    /// What the guest has accepted.
    features: u64,
}

impl Block {
    pub(in crate::vm) fn new(disk: OpenDisk, number: usize) -> Self {
        let mut config = [0; 60];
        let mut put = |at: usize, bytes: &[u8]| config[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, &disk.sectors().to_le_bytes());
        put(8, &SEGMENT_BYTES.to_le_bytes());
        put(12, &SEGMENTS.to_le_bytes());
        put(20, &BLOCK_SIZE.to_le_bytes());
        // Discards: sectors, ranges, alignment in sectors; then the same of zeroes, which may free the space.
        for (at, value) in [(36, RANGE_SECTORS), (40, RANGES), (44, 8), (48, RANGE_SECTORS), (52, RANGES)] {
            put(at, &value.to_le_bytes());
        }
        put(56, &[1]);
        Self { disk, number, config, features: 0 }
    }
}

impl VirtioDevice for Block {
    fn name(&self) -> &'static str {
        "disk"
    }

    fn number(&self) -> u32 {
        2
    }

    fn queues(&self) -> &'static [u16] {
        &[QUEUE]
    }

    fn own_thread(&self) -> Option<String> {
        Some(format!("vm-disk{}", self.number))
    }

    fn features(&self) -> u64 {
        let always = feature::SIZE_MAX | feature::SEG_MAX | feature::BLOCK_SIZE | feature::INDIRECT;
        always
            | match self.disk.is_read_only() {
                true => feature::READ_ONLY,
                false => feature::FLUSH | feature::DISCARD | feature::WRITE_ZEROES,
            }
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        let from = usize::try_from(offset).ok().and_then(|at| self.config.get(at..));
        for (to, byte) in data.iter_mut().zip(from.unwrap_or_default()) {
            *to = *byte;
        }
    }

    fn activate(&mut self, features: u64) {
        self.features = features;
    }

    fn process(&mut self, queue: usize, work: &mut Work<'_>) -> Result<(), QueueError> {
        let memory = work.memory;
        while let Some(chain) = work.pop(queue)? {
            let head = chain.head_index();
            // One for the header, one for the answer.
            let found = buffers::request(chain, memory, SEGMENTS as usize + 2);
            let flushes = self.features & feature::FLUSH != 0;
            let written = found.map_or(0, |request| request::serve(&self.disk, request, flushes));
            work.push(queue, head, written)?;
            work.notify(queue)?;
        }
        Ok(())
    }

    fn reset(&mut self) {
        self.features = 0;
    }
}
