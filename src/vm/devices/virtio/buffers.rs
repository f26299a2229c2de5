//! The memory that a chain of descriptors names.

use virtio_queue::DescriptorChain;
use vm_memory::{GuestMemory as _, Permissions, VolatileSlice};

use crate::vm::memory::Memory;

/// Pieces of the guest's memory, one behind the other. It changes under our hands: whatever is looked at twice is copied
/// first.
#[derive(Debug, Default)]
pub(super) struct Buffers<'a>(Vec<VolatileSlice<'a>>);

/// What the guest has written, and what the device is to write.
pub(super) struct Request<'a> {
    pub(super) given: Buffers<'a>,
    pub(super) wanted: Buffers<'a>,
}

/// What the chain names; `None` where it is damaged: buffers outside of memory, more than `most` of them, one to be read
/// behind one to be written. Rings and tables in a circle are cut by their length, before that.
pub(super) fn request<'a>(
    chain: DescriptorChain<&'a Memory>,
    memory: &'a Memory,
    most: usize,
) -> Option<Request<'a>> {
    let mut request = Request { given: Buffers::default(), wanted: Buffers::default() };
    for (n, descriptor) in chain.enumerate() {
        if n >= most {
            return None;
        }
        let (buffers, access) = match descriptor.is_write_only() {
            true => (&mut request.wanted, Permissions::Write),
            false if request.wanted.0.is_empty() => (&mut request.given, Permissions::Read),
            false => return None,
        };
        let pieces = memory.get_slices(descriptor.addr(), descriptor.len() as usize, access).ok()?;
        for piece in pieces {
            buffers.0.push(piece.ok()?);
        }
    }
    Some(request)
}

impl<'a> Buffers<'a> {
    /// Bytes.
    pub(super) fn len(&self) -> usize {
        // A chain has less than 4 GiB.
        self.0.iter().map(VolatileSlice::len).sum()
    }

    pub(super) fn pieces(&self) -> &[VolatileSlice<'a>] {
        &self.0
    }

    /// Takes the first `count` bytes away; `None`, and nothing changed, where there are less.
    pub(super) fn take_front(&mut self, count: usize) -> Option<Buffers<'a>> {
        if count > self.len() {
            return None;
        }
        let mut front = Vec::new();
        let mut left = count;
        let mut rest = self.0.drain(..).collect::<std::collections::VecDeque<_>>();
        while left > 0 {
            let piece = rest.pop_front()?;
            let part = left.min(piece.len());
            front.push(piece.subslice(0, part).ok()?);
            if part < piece.len() {
                rest.push_front(piece.offset(part).ok()?);
            }
            left -= part;
        }
        self.0 = rest.into();
        Some(Buffers(front))
    }

    /// Takes the last `count` bytes away.
    pub(super) fn take_back(&mut self, count: usize) -> Option<Buffers<'a>> {
        let front = self.take_front(self.len().checked_sub(count)?)?;
        Some(std::mem::replace(self, front))
    }

    /// Copies as much as both have out of the guest's memory; says how much.
    pub(super) fn copy_to(&self, out: &mut [u8]) -> usize {
        let mut done = 0;
        for piece in &self.0 {
            let Some(left) = out.get_mut(done..).filter(|left| !left.is_empty()) else { break };
            done += piece.copy_to(left);
        }
        done
    }

    /// Copies as much as both have into the guest's memory; says how much.
    pub(super) fn copy_from(&self, bytes: &[u8]) -> usize {
        let mut done = 0;
        for piece in &self.0 {
            let Some(left) = bytes.get(done..).filter(|left| !left.is_empty()) else { break };
            let part = left.len().min(piece.len());
            piece.copy_from(&left[..part]);
            done += part;
        }
        done
    }

    /// The first `N` bytes, taken away.
    pub(super) fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let mut out = [0; N];
        self.take_front(N)?.copy_to(&mut out);
        Some(out)
    }
}

#[cfg(test)]
mod tests {
    use vm_memory::{Bytes, GuestAddress};

    use super::*;
    use crate::vm::memory::{MemoryBacking, allocate};

    fn buffers<'a>(memory: &'a Memory, lengths: &[usize]) -> Buffers<'a> {
        let at = |n: usize| GuestAddress(0x1000 * n as u64);
        let slice = |(n, len): (usize, &usize)| {
            memory.get_slices(at(n), *len, Permissions::ReadWrite).unwrap().next().unwrap().unwrap()
        };
        Buffers(lengths.iter().enumerate().map(slice).collect())
    }

    #[test]
    fn bytes_are_taken_from_both_ends() {
        let memory = allocate(32 << 20, MemoryBacking::Private).unwrap();
        for n in 0..3_u64 {
            let bytes: Vec<u8> = (0..16).map(|i| i + 16 * n as u8).collect();
            memory.write_slice(&bytes, GuestAddress(n * 0x1000)).unwrap();
        }
        let mut all = buffers(&memory, &[3, 1, 4]);
        assert_eq!(all.len(), 8);
        assert!(all.take_front(9).is_none() && all.take_back(9).is_none());
        assert_eq!(all.len(), 8);
        let mut back = [0; 2];
        assert_eq!(all.take_back(2).unwrap().copy_to(&mut back), 2);
        assert_eq!(back, [34, 35]);
        assert_eq!(all.take::<4>(), Some([0, 1, 2, 16]));
        assert_eq!(all.take::<3>(), None);
        assert_eq!(all.copy_from(&[9, 8, 7]), 2);
        let mut rest = [0; 3];
        assert_eq!((all.copy_to(&mut rest), rest), (2, [9, 8, 0]));
        assert_eq!(all.take_front(0).unwrap().len(), 0);
    }
}
