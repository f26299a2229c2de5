//! One request: what it asks, whether that can be, and the answer.

use super::disk::{OpenDisk, Space, add};
use super::{RANGE_SECTORS, RANGES, SECTOR};
use crate::vm::devices::virtio::buffers::{Buffers, Request};

const OK: u8 = 0;
const IO_ERROR: u8 = 1;
const UNSUPPORTED: u8 = 2;

/// Kinds of requests.
mod kind {
    pub(super) const READ: u32 = 0;
    pub(super) const WRITE: u32 = 1;
    pub(super) const FLUSH: u32 = 4;
    pub(super) const ID: u32 = 8;
    pub(super) const DISCARD: u32 = 11;
    pub(super) const WRITE_ZEROES: u32 = 13;
}

/// Does what is asked, and writes the answer; says how many bytes were written to the guest's memory: 0 where there is not
/// even a place for an answer.
pub(super) fn serve(disk: &OpenDisk, mut request: Request<'_>, flushes: bool) -> u32 {
    let Some(answer) = request.wanted.take_back(1) else { return 0 };
    let (status, written) = match request.given.take::<16>() {
        Some(header) => {
            let kind = u32::from_le_bytes([header[0], header[1], header[2], header[3]]);
            let mut sector = [0; 8];
            sector.copy_from_slice(&header[8..]);
            act(disk, kind, u64::from_le_bytes(sector), request, flushes)
        }
        None => (IO_ERROR, 0),
    };
    if status == IO_ERROR {
        add(&disk.counters().errors, 1);
    }
    answer.copy_from(&[status]);
    // All buffers together have less than 4 GiB.
    written as u32 + 1
}

/// The answer, and how many bytes before it were written.
fn act(disk: &OpenDisk, kind: u32, sector: u64, request: Request<'_>, flushes: bool) -> (u8, usize) {
    let Request { given, wanted } = request;
    let done = |done: bool| if done { OK } else { IO_ERROR };
    match kind {
        kind::READ => {
            let len = wanted.len();
            let place = disk.place(sector, len as u64).filter(|_| given.len() == 0);
            match place.is_some_and(|at| disk.read(wanted.pieces(), at).is_ok()) {
                true => {
                    add(&disk.counters().reads, 1);
                    add(&disk.counters().read_bytes, len as u64);
                    (OK, len)
                }
                // Some of it may have come.
                false => (IO_ERROR, 0),
            }
        }
        kind::ID => (OK, wanted.copy_from(disk.id())),
        kind::WRITE | kind::DISCARD | kind::WRITE_ZEROES if disk.is_read_only() => (IO_ERROR, 0),
        kind::WRITE => {
            let place = disk.place(sector, given.len() as u64).filter(|_| wanted.len() == 0);
            let written = place.is_some_and(|at| disk.write(given.pieces(), at).is_ok());
            if written {
                add(&disk.counters().writes, 1);
                add(&disk.counters().written_bytes, given.len() as u64);
            }
            // A driver that cannot ask for it has it on the disk when it is told so.
            (done(written && (flushes || disk.flush().is_ok())), 0)
        }
        kind::FLUSH => {
            add(&disk.counters().flushes, 1);
            (done(disk.is_read_only() || disk.flush().is_ok()), 0)
        }
        kind::DISCARD | kind::WRITE_ZEROES => (ranges(disk, kind, given, flushes), 0),
        _ => (UNSUPPORTED, 0),
    }
}

/// Ranges to be freed or to be made zero. All are looked at before the first is touched.
fn ranges(disk: &OpenDisk, kind: u32, mut given: Buffers<'_>, flushes: bool) -> u8 {
    const RANGE: usize = 16;
    const UNMAP: u32 = 1;
    let count = given.len() / RANGE;
    if count == 0 || count > RANGES as usize || !given.len().is_multiple_of(RANGE) {
        return IO_ERROR;
    }
    let mut all = Vec::with_capacity(count);
    while let Some(bytes) = given.take::<RANGE>() {
        let mut sector = [0; 8];
        sector.copy_from_slice(&bytes[..8]);
        let word = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        let (sectors, flags) = (word(8), word(12));
        let allowed = if kind == kind::WRITE_ZEROES { UNMAP } else { 0 };
        if flags & !allowed != 0 {
            return UNSUPPORTED;
        }
        let len = u64::from(sectors) * SECTOR;
        match disk.place(u64::from_le_bytes(sector), len) {
            Some(at) if sectors <= RANGE_SECTORS => all.push((at, len, flags)),
            _ => return IO_ERROR,
        }
    }
    for (at, len, flags) in all.into_iter().filter(|(_, len, _)| *len > 0) {
        let done = match kind {
            kind::DISCARD => disk.discard(at, len),
            _ if flags & UNMAP != 0 => disk.zero(at, len, Space::Free),
            _ => disk.zero(at, len, Space::Keep),
        };
        if done.is_err() {
            return IO_ERROR;
        }
        add(&disk.counters().discards, 1);
        add(&disk.counters().discarded_bytes, len);
    }
    if flushes || disk.flush().is_ok() { OK } else { IO_ERROR }
}
