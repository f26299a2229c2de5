//! What the kernel is handed: Linux's `struct boot_params` (Documentation/arch/x86/boot.rst) or PVH's
//! `struct hvm_start_info` (Xen's public/arch-x86/hvm/start_info.h).

use super::layout;
use crate::vm::boot::Placed;

/// The kind of a piece of the memory map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Ram = 1,
    AcpiTables = 3,
}

/// The memory map: usable memory and the ACPI tables.
fn memory_map(size: u64) -> Vec<(u64, u64, Kind)> {
    let mut map = vec![
        (0, layout::LOW_END, Kind::Ram),
        (layout::ACPI, layout::LEGACY_END - layout::ACPI, Kind::AcpiTables),
    ];
    for (start, len) in layout::memory_pieces(size) {
        let (start, end) = (start.max(layout::KERNEL_MIN), start + len);
        if end > start {
            map.push((start, end - start, Kind::Ram));
        }
    }
    map
}

/// A page of `struct boot_params`. `header` is the setup header of a bzImage, from offset 0x1f1 on.
pub(super) fn boot_params(
    memory: u64,
    header: Option<&[u8]>,
    initramfs: Option<Placed>,
    command_line_len: usize,
) -> Vec<u8> {
    const HEADER: usize = 0x1f1;
    const MAP: usize = 0x2d0;
    let mut page = vec![0_u8; 4096];
    match header {
        Some(header) => {
            let len = header.len().min(MAP - HEADER);
            page[HEADER..HEADER + len].copy_from_slice(&header[..len]);
        }
        None => {
            // What a kernel that is entered directly looks at.
            page[0x1fe..0x200].copy_from_slice(&0xaa55_u16.to_le_bytes());
            page[0x202..0x206].copy_from_slice(b"HdrS");
            page[0x206..0x208].copy_from_slice(&0x020c_u16.to_le_bytes());
        }
    }
    let mut put = |at: usize, bytes: &[u8]| page[at..at + bytes.len()].copy_from_slice(bytes);
    put(0x070, &layout::ACPI.to_le_bytes());
    // No loader that has a number.
    put(0x210, &[0xff]);
    put(0x228, &(layout::COMMAND_LINE as u32).to_le_bytes());
    put(0x238, &(command_line_len as u32).to_le_bytes());
    if let Some(initramfs) = initramfs {
        put(0x218, &(initramfs.start as u32).to_le_bytes());
        put(0x21c, &(initramfs.len as u32).to_le_bytes());
    }
    let map = memory_map(memory);
    put(0x1e8, &[map.len() as u8]);
    for (n, (start, len, kind)) in map.into_iter().enumerate() {
        let at = MAP + n * 20;
        put(at, &start.to_le_bytes());
        put(at + 8, &len.to_le_bytes());
        put(at + 16, &(kind as u32).to_le_bytes());
    }
    page
}

/// The start info with its modules and memory map behind it, as it lies at [`layout::START_INFO`].
pub(super) fn start_info(memory: u64, initramfs: Option<Placed>) -> Vec<u8> {
    const INFO: u64 = 56;
    const MODULE: u64 = 32;
    let map = memory_map(memory);
    let modules = layout::START_INFO + INFO;
    let entries = modules + MODULE;
    let mut out = Vec::new();
    out.extend_from_slice(&0x336e_c578_u32.to_le_bytes());
    out.extend_from_slice(&1_u32.to_le_bytes());
    out.extend_from_slice(&0_u32.to_le_bytes());
    out.extend_from_slice(&u32::from(initramfs.is_some()).to_le_bytes());
    out.extend_from_slice(&modules.to_le_bytes());
    out.extend_from_slice(&layout::COMMAND_LINE.to_le_bytes());
    out.extend_from_slice(&layout::ACPI.to_le_bytes());
    out.extend_from_slice(&entries.to_le_bytes());
    out.extend_from_slice(&(map.len() as u32).to_le_bytes());
    out.extend_from_slice(&0_u32.to_le_bytes());
    let module = initramfs.unwrap_or(Placed { start: 0, len: 0 });
    for field in [module.start, module.len, 0, 0] {
        out.extend_from_slice(&field.to_le_bytes());
    }
    for (start, len, kind) in map {
        out.extend_from_slice(&start.to_le_bytes());
        out.extend_from_slice(&len.to_le_bytes());
        out.extend_from_slice(&(kind as u32).to_le_bytes());
        out.extend_from_slice(&0_u32.to_le_bytes());
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_map_has_all_memory_but_the_holes() {
        let total = |size| {
            let ram = memory_map(size).into_iter().filter(|(_, _, k)| *k == Kind::Ram);
            ram.map(|(_, len, _)| len).sum::<u64>()
        };
        let lost = layout::KERNEL_MIN - layout::LOW_END;
        assert_eq!(total(32 << 20), (32 << 20) - lost);
        assert_eq!(total(8 << 30), (8 << 30) - lost);
    }

    #[test]
    fn a_long_header_does_not_reach_the_map() {
        let page = boot_params(32 << 20, Some(&[0xff; 4096]), None, 5);
        assert_eq!(page[0x1e8], 3);
        assert_eq!(page[0x2d0..0x2d8], [0; 8]);
        let info = start_info(32 << 20, Some(Placed { start: 0x100_0000, len: 7 }));
        assert_eq!((info.len(), info[56..64].to_vec()), (56 + 32 + 3 * 24, vec![0, 0, 0, 1, 0, 0, 0, 0]));
    }
}
