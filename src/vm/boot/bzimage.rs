//! A compressed kernel that unpacks itself (Documentation/arch/x86/boot.rst).

use super::{Image, Kernel, Problem, Segment, little};
use crate::vm::arch::KERNEL_MIN;

/// Where the setup header begins.
const HEADER: usize = 0x1f1;
/// The oldest version of the protocol with a 64-bit entry.
const VERSION: u64 = 0x020c;
/// In `xloadflags`: there is a 64-bit entry at 0x200.
const KERNEL_64: u64 = 1;
const ENTRY_64: u64 = 0x200;

pub(super) fn parse(image: &impl Image) -> Result<Kernel, Problem> {
    const OTHER: &str = "give a bzImage of an x86-64 kernel, 3.8 or newer";
    let head = image.bytes(0, 0x270)?;
    let version = little(&head, 0x206, 2);
    if little(&head, 0x1fe, 2) != 0xaa55 {
        return Err(Problem::new("is a damaged bzImage: its boot flag is missing", "fetch it again"));
    }
    if version < VERSION {
        return Err(Problem::new(
            format!("is a bzImage of an old boot protocol, {}.{:02}", version >> 8, version & 0xff),
            OTHER,
        ));
    }
    if little(&head, 0x236, 2) & KERNEL_64 == 0 {
        return Err(Problem::new("is a bzImage without a 64-bit entry", OTHER));
    }
    let sectors = match little(&head, HEADER, 1) {
        0 => 4,
        n => n,
    };
    let offset = (sectors + 1) * 512;
    let needs = offset + little(&head, 0x1f4, 4) * 16;
    // The last bytes may be padding that is not there.
    if image.size() + 15 < needs || image.size() <= offset {
        return Err(Problem::cut_short(needs, image.size()));
    }
    let file_len = image.size().min(needs) - offset;
    let (preferred, init_size) = (little(&head, 0x258, 8), little(&head, 0x260, 4));
    let start = preferred.max(KERNEL_MIN);
    let header_end = (0x202 + usize::from(head[0x201])).clamp(0x268, head.len());
    let highest = little(&head, 0x22c, 4);
    Ok(Kernel {
        segments: vec![Segment { offset, file_len, start, memory_len: init_size.max(file_len) }],
        linux64: Some(start.saturating_add(ENTRY_64)),
        pvh: None,
        setup_header: Some(head[HEADER..header_end].to_vec()),
        initramfs_end: (highest + 1).max(KERNEL_MIN),
    })
}
