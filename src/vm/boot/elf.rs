//! An uncompressed kernel: an ELF file with the addresses that its parts go to (elf(5)).

use super::{Image, Kernel, Problem, Segment, little};

const EM_386: u64 = 3;
const EM_X86_64: u64 = 62;
const PT_LOAD: u64 = 1;
const PT_NOTE: u64 = 4;
const CLASS_64: u8 = 2;
/// More than any kernel has.
const MAX_HEADERS: u64 = 128;
/// More than any kernel's notes.
const MAX_NOTES: u64 = 64 << 10;
/// Xen's `XEN_ELFNOTE_PHYS32_ENTRY`.
const PHYS32_ENTRY: u64 = 18;

/// The fields of a program header, which are in another order in 32-bit files.
struct Header {
    kind: u64,
    offset: u64,
    address: u64,
    file_len: u64,
    memory_len: u64,
}

pub(super) fn parse(image: &impl Image) -> Result<Kernel, Problem> {
    const OTHER: &str = "give a kernel for x86-64";
    let head = image.bytes(0, 64)?;
    let wide = head[4] == CLASS_64;
    if head[5] != 1 {
        return Err(Problem::new("is a big-endian ELF file", OTHER));
    }
    let machine = little(&head, 18, 2);
    if !matches!((wide, machine), (true, EM_X86_64) | (false, EM_386)) {
        return Err(Problem::new(format!("is an ELF file for another machine (number {machine})"), OTHER));
    }
    if !matches!(little(&head, 16, 2), 2 | 3) {
        return Err(Problem::new(
            "is an ELF file that cannot be executed, such as a module or an object file",
            "give the linked kernel, vmlinux",
        ));
    }
    let (entry, table, size, count) = if wide {
        (little(&head, 24, 8), little(&head, 32, 8), little(&head, 54, 2), little(&head, 56, 2))
    } else {
        (little(&head, 24, 4), little(&head, 28, 4), little(&head, 42, 2), little(&head, 44, 2))
    };
    let expected = if wide { 56 } else { 32 };
    if size != expected || count == 0 || count > MAX_HEADERS {
        return Err(Problem::new(
            format!("is an ELF file with {count} program headers of {size} bytes, which no kernel has"),
            "give the linked kernel, vmlinux",
        ));
    }
    let headers = image.bytes(table, (size * count) as usize)?;
    let headers: Vec<Header> = headers.chunks_exact(size as usize).map(|h| header(h, wide)).collect();

    let mut segments = Vec::new();
    for h in headers.iter().filter(|h| h.kind == PT_LOAD && h.memory_len > 0) {
        let end = h.offset.saturating_add(h.file_len);
        if end > image.size() {
            return Err(Problem::cut_short(end, image.size()));
        }
        if h.file_len > h.memory_len {
            return Err(Problem::new(
                "has a segment that is longer in the file than in memory",
                "fetch it again",
            ));
        }
        segments.push(Segment {
            offset: h.offset,
            file_len: h.file_len,
            start: h.address,
            memory_len: h.memory_len,
        });
    }
    if segments.is_empty() {
        return Err(Problem::new("is an ELF file with nothing to load", "give the linked kernel, vmlinux"));
    }
    let mut pvh = None;
    for h in headers.iter().filter(|h| h.kind == PT_NOTE) {
        let notes = image.bytes(h.offset, h.file_len.min(MAX_NOTES) as usize)?;
        pvh = pvh.or_else(|| pvh_entry(&notes));
    }
    let inside = |at: u64| segments.iter().any(|s| at >= s.start && at - s.start < s.memory_len);
    if wide && !inside(entry) {
        return Err(Problem::new(
            format!("has its entry {entry:#x} outside of what is loaded"),
            "give the linked kernel, vmlinux, as it was built",
        ));
    }
    let linux64 = wide.then_some(entry);
    Ok(Kernel {
        linux64,
        pvh: pvh.filter(|at| inside(*at)),
        segments,
        setup_header: None,
        initramfs_end: u64::MAX,
    })
}

fn header(h: &[u8], wide: bool) -> Header {
    let (offset, address, file_len, memory_len, len) =
        if wide { (8, 24, 32, 40, 8) } else { (4, 12, 16, 20, 4) };
    Header {
        kind: little(h, 0, 4),
        offset: little(h, offset, len),
        address: little(h, address, len),
        file_len: little(h, file_len, len),
        memory_len: little(h, memory_len, len),
    }
}

/// The entry that a note of Xen's names.
fn pvh_entry(mut notes: &[u8]) -> Option<u64> {
    while notes.len() >= 12 {
        let (name_len, len, kind) = (little(notes, 0, 4), little(notes, 4, 4), little(notes, 8, 4));
        let padded = |n: u64| usize::try_from(n.checked_add(3)? & !3).ok();
        let name_end = padded(name_len)?.checked_add(12)?;
        let end = name_end.checked_add(padded(len)?)?;
        let name = notes.get(12..12 + usize::try_from(name_len).ok()?)?;
        let value = notes.get(name_end..name_end + usize::try_from(len).ok()?)?;
        if name == b"Xen\0" && kind == PHYS32_ENTRY && matches!(len, 4 | 8) {
            return Some(little(value, 0, value.len()));
        }
        notes = notes.get(end..)?;
    }
    None
}
