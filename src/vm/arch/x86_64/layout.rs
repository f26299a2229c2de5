//! Where things are in the guest's physical memory.

/// Memory goes up to here; what is more goes on at [`HOLE_END`].
pub(crate) const HOLE_START: u64 = 0xc000_0000;
/// Where memory goes on, behind the devices' registers.
pub(crate) const HOLE_END: u64 = 1 << 32;

/// The descriptors that the processor begins with.
pub(super) const GDT: u64 = 0x500;
/// `struct hvm_start_info`, its modules and its memory map.
pub(super) const START_INFO: u64 = 0x6000;
/// `struct boot_params`.
pub(super) const BOOT_PARAMS: u64 = 0x7000;
/// A stack, for who pushes before he has his own.
pub(super) const STACK: u64 = 0x8ff0;
/// Six pages of page tables that map the first 4 GiB.
pub(super) const PAGE_TABLES: u64 = 0x9000;
/// The command line.
pub(super) const COMMAND_LINE: u64 = 0x20000;
/// Bytes of the command line with its final zero (the kernel's `COMMAND_LINE_SIZE`).
pub(crate) const COMMAND_LINE_MAX: usize = 2048;
/// The end of the first piece of memory, where a PC has its BIOS data.
pub(super) const LOW_END: u64 = 0x9fc00;
/// The ACPI tables.
pub(super) const ACPI: u64 = 0xe_0000;
/// Where they must end.
pub(super) const ACPI_END: u64 = RESET_VECTOR;
/// Where a processor begins after a reset in real mode, and where a kernel jumps that wants one.
pub(super) const RESET_VECTOR: u64 = 0xf_fff0;
/// The end of what is no memory to the guest.
pub(super) const LEGACY_END: u64 = 0x10_0000;
/// Where a kernel can be.
pub(crate) const KERNEL_MIN: u64 = 0x10_0000;

/// Registers of virtio devices, a page for each.
pub(crate) const MMIO_BASE: u64 = 0xd000_0000;
/// Bytes of each.
pub(crate) const MMIO_SIZE: u64 = 0x1000;
/// The interrupt of the power button and of other events.
pub(crate) const EVENT_GSI: u32 = 5;
/// The first interrupt of a virtio device.
pub(crate) const FIRST_GSI: u32 = 6;
/// One more than the last: the IOAPIC has this many inputs.
pub(crate) const GSI_END: u32 = 24;

pub(super) const LAPIC: u32 = 0xfee0_0000;
pub(super) const IOAPIC: u32 = 0xfec0_0000;
/// A page and three pages that KVM uses on Intel's processors.
pub(super) const IDENTITY_MAP: u64 = 0xfffb_c000;
pub(super) const TSS: usize = 0xfffb_d000;

/// The pieces of that much memory: start and length, ascending.
pub(crate) fn memory_pieces(size: u64) -> Vec<(u64, u64)> {
    let low = size.min(HOLE_START);
    let mut pieces = vec![(0, low)];
    if size > low {
        pieces.push((HOLE_END, size - low));
    }
    pieces
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hole_takes_no_memory_away() {
        assert_eq!(memory_pieces(64 << 20), [(0, 64 << 20)]);
        assert_eq!(memory_pieces(3 << 30), [(0, 3 << 30)]);
        assert_eq!(memory_pieces(5 << 30), [(0, 3 << 30), (4 << 30, 2 << 30)]);
    }
}
