//! The guest's memory.

use std::fs::File;
use std::os::fd::AsFd;
use std::sync::Arc;

use rustix::fs::MemfdFlags;
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use vm_memory::bitmap::BS;
use vm_memory::{
    FileOffset, GuestAddress, GuestMemoryError, GuestMemoryRegion, GuestMemoryRegionBytes,
    GuestRegionCollection, MemoryRegionAddress, VolatileSlice,
};

use super::arch::memory_pieces;
use crate::error::{Error, Result};
use crate::sys::vm::kvm::KvmVm;
use crate::sys::vm::mapping::{Mapping, Source};

/// All of it: what devices read and write. Clones are the same memory.
pub(crate) type Memory = GuestRegionCollection<Region>;

/// What the guest's memory is made of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum MemoryBacking {
    /// [`Shared`](Self::Shared) where the host gives such memory huge pages, else [`Private`](Self::Private): small
    /// pages cost more than anything else that is set here.
    #[default]
    Auto,
    /// Anonymous memory of this process, in transparent huge pages where the host has them.
    Private,
    /// A memory file (`memfd_create(2)`), which can be shared with other processes. It has huge pages only where
    /// `/sys/kernel/mm/transparent_hugepage/shmem_enabled` allows them; most hosts have `never` there.
    Shared,
    /// A memory file of reserved pages of 2 MiB (`/proc/sys/vm/nr_hugepages`).
    Huge2MiB,
    /// A memory file of reserved pages of 1 GiB. The size must be a multiple of it.
    Huge1GiB,
}

impl MemoryBacking {
    /// Bytes of a page, of which the size must be a multiple.
    pub(crate) fn page(self) -> u64 {
        match self {
            Self::Huge2MiB => 2 << 20,
            Self::Huge1GiB => 1 << 30,
            _ => 4096,
        }
    }
}

const SHMEM_ENABLED: &str = "/sys/kernel/mm/transparent_hugepage/shmem_enabled";
/// What x86-64 and aarch64 map with one entry.
const ALIGN: usize = 2 << 20;

/// A piece of memory at one address.
#[derive(Debug)]
pub(crate) struct Region {
    start: GuestAddress,
    mapping: Arc<Mapping>,
    file: Option<FileOffset>,
}

impl GuestMemoryRegion for Region {
    type B = ();

    fn len(&self) -> u64 {
        self.mapping.len() as u64
    }

    fn start_addr(&self) -> GuestAddress {
        self.start
    }

    fn bitmap(&self) -> BS<'_, ()> {}

    fn get_host_address(&self, addr: MemoryRegionAddress) -> Result<*mut u8, GuestMemoryError> {
        let addr = self.check_address(addr).ok_or(GuestMemoryError::InvalidBackendAddress)?;
        Ok(self.mapping.as_ptr().wrapping_add(addr.0 as usize))
    }

    fn file_offset(&self) -> Option<&FileOffset> {
        self.file.as_ref()
    }

    fn get_slice(
        &self,
        offset: MemoryRegionAddress,
        count: usize,
    ) -> Result<VolatileSlice<'_>, GuestMemoryError> {
        let offset = usize::try_from(offset.0).map_err(|_| GuestMemoryError::InvalidBackendAddress)?;
        self.mapping.slice(offset, count).ok_or(GuestMemoryError::InvalidBackendAddress)
    }
}

impl GuestMemoryRegionBytes for Region {}

/// Maps that many bytes of memory. None of it takes memory of the host before the guest uses it, but for reserved pages.
pub(crate) fn allocate(size: u64, backing: MemoryBacking) -> Result<Memory> {
    let failed = |step: &'static str, errno: Errno| {
        let e = Error::sys(step, errno).object(format!("{} MiB", size >> 20));
        match backing {
            MemoryBacking::Huge2MiB | MemoryBacking::Huge1GiB => e.hint(
                "reserve huge pages in /proc/sys/vm/nr_hugepages, or at boot; or use MemoryBacking::Auto",
            ),
            _ => e.hint("lower the memory of the virtual machine, or look at the host's limits (ulimit -v)"),
        }
    };
    let backing = match backing {
        MemoryBacking::Auto if shared_is_huge() => MemoryBacking::Shared,
        MemoryBacking::Auto => MemoryBacking::Private,
        other => other,
    };
    let flags = match backing {
        MemoryBacking::Shared => Some(MemfdFlags::empty()),
        MemoryBacking::Huge2MiB => Some(MemfdFlags::HUGETLB | MemfdFlags::HUGE_2MB),
        MemoryBacking::Huge1GiB => Some(MemfdFlags::HUGETLB | MemfdFlags::HUGE_1GB),
        _ => None,
    };
    let align = ALIGN.max(backing.page() as usize);
    let file = match flags {
        None => None,
        Some(flags) => {
            let name = "stockade-vm-memory";
            let fd = rustix::fs::memfd_create(name, flags | MemfdFlags::CLOEXEC)
                .map_err(|e| failed("make the memory file of the guest", e))?;
            rustix::fs::ftruncate(&fd, size).map_err(|e| failed("size the memory file of the guest", e))?;
            Some(Arc::new(File::from(fd)))
        }
    };
    let mut regions = Vec::new();
    let mut offset = 0;
    for (start, len) in memory_pieces(size) {
        let source = match &file {
            None => Source::Private,
            Some(file) if align > ALIGN || backing == MemoryBacking::Huge2MiB => {
                Source::HugeFile { fd: file.as_fd(), offset }
            }
            Some(file) => Source::File { fd: file.as_fd(), offset },
        };
        let bytes = usize::try_from(len).map_err(|_| failed("map the memory of the guest", Errno::NOMEM))?;
        let mapping =
            Mapping::new(bytes, align, source).map_err(|e| failed("map the memory of the guest", e))?;
        mapping.advise();
        let file = file.as_ref().map(|file| FileOffset::from_arc(Arc::clone(file), offset));
        regions.push(Region { start: GuestAddress(start), mapping: Arc::new(mapping), file });
        offset += len;
    }
    GuestRegionCollection::from_regions(regions)
        .map_err(|e| failed("lay out the memory of the guest", Errno::INVAL).with_source(e))
}

/// Gives the memory to the virtual machine.
pub(crate) fn register(memory: &Memory, vm: &KvmVm) -> Result<()> {
    use vm_memory::GuestMemoryBackend as _;
    for region in memory.iter() {
        vm.add_memory(region.start.0, Arc::clone(&region.mapping)).map_err(|e| {
            Error::sys("give KVM the memory of the guest", e).object(format!(
                "{} bytes at {:#x}",
                region.len(),
                region.start.0
            ))
        })?;
    }
    Ok(())
}

/// Bytes of it that are in the host's memory.
pub(crate) fn resident(memory: &Memory) -> Result<u64> {
    use vm_memory::GuestMemoryBackend as _;
    let pages = memory.iter().map(|region| region.mapping.resident());
    let sum = pages.sum::<std::result::Result<u64, Errno>>();
    sum.map_err(|e| Error::sys("look at the memory of the guest", e))
}

/// Gives the host's memory behind these addresses back, where they are the guest's. They read as zeroes then.
pub(crate) fn give_back(memory: &Memory, start: u64, len: u64) {
    use vm_memory::GuestMemoryBackend as _;
    for region in memory.iter() {
        let (first, end) = (region.start.0, region.start.0 + region.len());
        let (from, to) = (start.max(first), start.saturating_add(len).min(end));
        if from < to {
            region.mapping.discard((from - first) as usize, (to - from) as usize);
        }
    }
}

/// Whether memory files get huge pages where they are asked for.
fn shared_is_huge() -> bool {
    let text = std::fs::read_to_string(SHMEM_ENABLED).unwrap_or_default();
    let chosen = text.split('[').nth(1).and_then(|rest| rest.split(']').next());
    matches!(chosen, Some("always" | "within_size" | "advise" | "force"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use vm_memory::Bytes;

    #[test]
    fn memory_can_be_used_up_to_its_end_and_no_further() {
        for backing in [MemoryBacking::Auto, MemoryBacking::Private, MemoryBacking::Shared] {
            let memory = allocate(33 << 20, backing).unwrap();
            memory.write_obj(1_u8, GuestAddress((33 << 20) - 1)).unwrap();
            assert!(memory.write_obj(1_u16, GuestAddress((33 << 20) - 1)).is_err());
            assert!(memory.read_obj::<u8>(GuestAddress(33 << 20)).is_err());
            let one = resident(&memory).unwrap();
            assert!((1..=4 << 20).contains(&one), "{one}");
            give_back(&memory, 32 << 20, 1 << 20);
            assert!(resident(&memory).unwrap() < one);
        }
    }

    #[test]
    fn memory_above_the_hole_is_at_4_gib() {
        // Mapped, never touched.
        let memory = allocate(4 << 30, MemoryBacking::Private).unwrap();
        memory.write_obj(7_u64, GuestAddress(1 << 32)).unwrap();
        assert_eq!(memory.read_obj::<u64>(GuestAddress(1 << 32)).unwrap(), 7);
        assert!(memory.read_obj::<u8>(GuestAddress(0xc000_0000)).is_err());
    }
}
