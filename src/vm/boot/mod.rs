//! Putting a kernel into the guest's memory.
//!
//! What a file is, and where its parts go, is worked out by pure functions over its bytes ([`elf`], [`bzimage`]); then
//! the parts are read straight into the guest's memory.

mod bzimage;
mod elf;
#[cfg(test)]
mod tests;

use std::fs::File;
use std::io::{Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use vm_memory::{Bytes, GuestAddress};

use super::arch::{HOLE_START, KERNEL_MIN};
use super::memory::Memory;
use crate::error::{Error, ErrorKind, Result};

/// How a kernel is entered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum BootProtocol {
    /// Linux's 64-bit entry for a 64-bit kernel, else PVH.
    #[default]
    Auto,
    /// The 64-bit entry of Linux's boot protocol.
    Linux,
    /// The 32-bit entry that a note in the ELF file names (Xen's PVH): other systems than Linux have it too.
    Pvh,
}

/// Where the first processor begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Entry {
    /// In 64-bit mode, with `struct boot_params`.
    Linux64(u64),
    /// In 32-bit mode without paging, with `struct hvm_start_info`.
    Pvh(u64),
}

/// A part of a file, and where it goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Segment {
    offset: u64,
    file_len: u64,
    start: u64,
    /// At least `file_len`; what is beyond is zero.
    memory_len: u64,
}

/// What a kernel file is.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Kernel {
    segments: Vec<Segment>,
    linux64: Option<u64>,
    pvh: Option<u64>,
    /// Of a bzImage, from offset 0x1f1 on.
    setup_header: Option<Vec<u8>>,
    /// The initramfs must end at or below it.
    initramfs_end: u64,
}

impl Kernel {
    /// The first address behind it.
    fn end(&self) -> u64 {
        self.segments.iter().map(|s| s.start.saturating_add(s.memory_len)).max().unwrap_or(0)
    }

    fn entry(&self, protocol: BootProtocol) -> Result<Entry, Problem> {
        let linux = self.linux64.map(Entry::Linux64);
        let pvh = self.pvh.map(Entry::Pvh);
        let none = |what: &str| Problem::new(format!("has no {what}"), "leave the boot protocol to Auto");
        match protocol {
            BootProtocol::Auto => linux.or(pvh).ok_or_else(|| {
                Problem::new(
                    "is a 32-bit ELF file without a PVH note".to_owned(),
                    "use a 64-bit vmlinux or bzImage, or a kernel with CONFIG_PVH",
                )
            }),
            BootProtocol::Linux => linux.ok_or_else(|| none("64-bit entry")),
            BootProtocol::Pvh => pvh.ok_or_else(|| none("PVH note (CONFIG_PVH)")),
        }
    }
}

/// What is wrong with a file, and the way out.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Problem {
    what: String,
    hint: &'static str,
}

impl Problem {
    fn new(what: impl Into<String>, hint: &'static str) -> Self {
        Self { what: what.into(), hint }
    }

    fn cut_short(needs: u64, has: u64) -> Self {
        let what = format!("is cut short: it says that it has {needs} bytes, and there are {has}");
        Self::new(what, "fetch or copy the file again")
    }
}

/// A file whose parts can be read. A pure function over bytes takes a slice.
trait Image {
    fn size(&self) -> u64;
    /// Fills `out` from there, or says that the file ends before.
    fn read_at(&self, offset: u64, out: &mut [u8]) -> Result<(), Problem>;

    fn bytes(&self, offset: u64, len: usize) -> Result<Vec<u8>, Problem> {
        let end = offset.saturating_add(len as u64);
        if end > self.size() {
            return Err(Problem::cut_short(end, self.size()));
        }
        let mut out = vec![0; len];
        self.read_at(offset, &mut out)?;
        Ok(out)
    }
}

impl Image for &[u8] {
    fn size(&self) -> u64 {
        self.len() as u64
    }

    fn read_at(&self, offset: u64, out: &mut [u8]) -> Result<(), Problem> {
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        let part = start.checked_add(out.len()).and_then(|end| self.get(start..end));
        out.copy_from_slice(part.ok_or_else(|| Problem::cut_short(offset, self.size()))?);
        Ok(())
    }
}

struct OnDisk<'a> {
    file: &'a File,
    size: u64,
}

impl Image for OnDisk<'_> {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_at(&self, offset: u64, out: &mut [u8]) -> Result<(), Problem> {
        self.file.read_exact_at(out, offset).map_err(|e| {
            Problem::new(format!("cannot be read at byte {offset}: {e}"), "look at the file and its disk")
        })
    }
}

fn little(bytes: &[u8], at: usize, len: usize) -> u64 {
    bytes.get(at..at + len).unwrap_or_default().iter().rev().fold(0, |n, b| n << 8 | u64::from(*b))
}

/// Works out what a kernel file is and whether it can be used at all.
fn parse(image: &impl Image) -> Result<Kernel, Problem> {
    const KINDS: &str = "give a vmlinux ELF file or a bzImage (vmlinuz) for this machine's architecture";
    let head = image.bytes(0, image.size().min(1024) as usize)?;
    if head.is_empty() {
        return Err(Problem::new("is empty", KINDS));
    }
    if head.starts_with(b"\x7fELF") {
        return elf::parse(image);
    }
    if head.get(0x202..0x206) == Some(b"HdrS") {
        return bzimage::parse(image);
    }
    let packed: [(&[u8], &str); 4] =
        [(b"\x1f\x8b", "gzip"), (b"\xfd7zXZ\0", "xz"), (b"\x28\xb5\x2f\xfd", "zstd"), (b"BZh", "bzip2")];
    if let Some((_, name)) = packed.iter().find(|(magic, _)| head.starts_with(magic)) {
        return Err(Problem::new(format!("is compressed with {name}"), "unpack it first"));
    }
    if head.get(0x38..0x3c) == Some(b"ARM\x64") {
        return Err(Problem::new("is a kernel for aarch64", KINDS));
    }
    if head.starts_with(b"MZ") {
        return Err(Problem::new("is an EFI program that is no bzImage", KINDS));
    }
    if head.len() < 0x206 {
        return Err(Problem::new(format!("has {} bytes, which is no kernel", head.len()), KINDS));
    }
    Err(Problem::new("is no kernel: neither an ELF file nor a bzImage", KINDS))
}

/// Where the parts fit into that much memory.
fn check_fit(kernel: &Kernel, memory: u64) -> Result<(), Problem> {
    let low = memory.min(HOLE_START);
    for s in &kernel.segments {
        if s.start < KERNEL_MIN {
            return Err(Problem::new(
                format!(
                    "wants to be at {:#x}, below the first MiB's end: it is a program, or for another loader",
                    s.start
                ),
                "give a vmlinux or a bzImage",
            ));
        }
        let end = s.start.checked_add(s.memory_len);
        if end.is_none_or(|end| end > low) {
            let need = s.start.saturating_add(s.memory_len).div_ceil(1 << 20);
            return Err(Problem::new(
                format!("needs memory up to {need} MiB, and the virtual machine has {} MiB there", low >> 20),
                "give the virtual machine more memory",
            ));
        }
    }
    Ok(())
}

/// A file in the guest's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Placed {
    pub(crate) start: u64,
    pub(crate) len: u64,
}

/// Where an initramfs of that size goes: as high as it can.
fn place_initramfs(kernel: &Kernel, memory: u64, len: u64) -> Result<Placed, Problem> {
    const PAGE: u64 = 4096;
    let end = memory.min(HOLE_START).min(kernel.initramfs_end);
    let start = end.checked_sub(len).map(|start| start / PAGE * PAGE);
    match start {
        Some(start) if start >= kernel.end() => Ok(Placed { start, len }),
        _ => {
            let need = kernel.end().saturating_add(len).div_ceil(1 << 20) + 1;
            Err(Problem::new(
                format!(
                    "has {} MiB, which does not fit above the kernel in {} MiB: at least {need} MiB are needed",
                    len.div_ceil(1 << 20),
                    end >> 20
                ),
                "give the virtual machine more memory, or make the initramfs smaller",
            ))
        }
    }
}

/// A first root file system.
#[derive(Clone)]
pub(crate) enum Initramfs {
    File(PathBuf),
    /// One that was made for this start.
    Bytes(Arc<[u8]>),
}

impl std::fmt::Debug for Initramfs {
    /// The bytes are left out: they are many, and some are secret.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::File(path) => f.debug_tuple("File").field(path).finish(),
            Self::Bytes(bytes) => f.debug_tuple("Bytes").field(&bytes.len()).finish(),
        }
    }
}

/// What is in the guest's memory now.
#[derive(Clone, Debug)]
pub(crate) struct Loaded {
    pub(crate) entry: Entry,
    pub(crate) initramfs: Option<Placed>,
    pub(crate) setup_header: Option<Vec<u8>>,
}

/// Reads kernel and initramfs into the guest's memory.
pub(crate) fn load(
    memory: &Memory,
    size: u64,
    kernel: &Path,
    protocol: BootProtocol,
    initramfs: Option<&Initramfs>,
) -> Result<Loaded> {
    let wrong = |step: &'static str, path: &Path| {
        let path = path.to_owned();
        move |p: Problem| Error::new(ErrorKind::InvalidConfig, step).path(&path).detail(p.what).hint(p.hint)
    };
    const READ_KERNEL: &str = "read the kernel";
    const READ_INITRAMFS: &str = "read the initramfs";
    let (mut file, len) = open(READ_KERNEL, kernel)?;
    let image = OnDisk { file: &file, size: len };
    let parsed = parse(&image).map_err(wrong(READ_KERNEL, kernel))?;
    check_fit(&parsed, size).map_err(wrong(READ_KERNEL, kernel))?;
    let entry = parsed.entry(protocol).map_err(wrong(READ_KERNEL, kernel))?;
    for s in &parsed.segments {
        copy(memory, &mut file, *s).map_err(wrong(READ_KERNEL, kernel))?;
    }
    let initramfs = match initramfs {
        None => None,
        Some(Initramfs::Bytes(bytes)) => {
            let made = Path::new("initramfs of the agent");
            let wrong = wrong(READ_INITRAMFS, made);
            let placed = place_initramfs(&parsed, size, bytes.len() as u64).map_err(wrong)?;
            memory
                .write_slice(bytes, GuestAddress(placed.start))
                .map_err(|e| Error::new(ErrorKind::InvalidConfig, READ_INITRAMFS).with_source(e))?;
            Some(placed)
        }
        Some(Initramfs::File(path)) => {
            let (mut file, len) = open(READ_INITRAMFS, path)?;
            let placed = place_initramfs(&parsed, size, len).map_err(wrong(READ_INITRAMFS, path))?;
            let all = Segment { offset: 0, file_len: len, start: placed.start, memory_len: len };
            copy(memory, &mut file, all).map_err(wrong(READ_INITRAMFS, path))?;
            Some(placed)
        }
    };
    Ok(Loaded { entry, initramfs, setup_header: parsed.setup_header })
}

fn open(step: &'static str, path: &Path) -> Result<(File, u64)> {
    use std::os::unix::fs::OpenOptionsExt as _;
    // A fifo without a writer must not hang the caller.
    let file = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(path);
    let file = file.map_err(|e| Error::io(step, e).path(path))?;
    let meta = file.metadata().map_err(|e| Error::io(step, e).path(path))?;
    if !meta.is_file() {
        return Err(Error::new(ErrorKind::InvalidConfig, step).path(path).detail("is no regular file"));
    }
    Ok((file, meta.len()))
}

fn copy(memory: &Memory, file: &mut File, segment: Segment) -> Result<(), Problem> {
    let failed = |e: &dyn std::fmt::Display| {
        Problem::new(
            format!(
                "cannot be read into the guest's memory ({} bytes from {}): {e}",
                segment.file_len, segment.offset
            ),
            "the file may have changed meanwhile; look at it and at its disk",
        )
    };
    file.seek(SeekFrom::Start(segment.offset)).map_err(|e| failed(&e))?;
    let len = usize::try_from(segment.file_len).map_err(|e| failed(&e))?;
    memory.read_exact_volatile_from(GuestAddress(segment.start), file, len).map_err(|e| failed(&e))
}

/// Whatever is accepted of such a file stays inside of the file and of the memory. Says whether it was.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn usable(bytes: &[u8]) -> bool {
    const MEMORY: u64 = 64 << 20;
    let Ok(kernel) = parse(&bytes) else { return false };
    if check_fit(&kernel, MEMORY).is_err() {
        return false;
    }
    for s in &kernel.segments {
        assert!(s.offset + s.file_len <= bytes.len() as u64 && s.file_len <= s.memory_len);
        assert!(s.start >= KERNEL_MIN && s.start + s.memory_len <= MEMORY);
    }
    let entry = kernel.entry(BootProtocol::Auto).is_ok();
    if let Ok(placed) = place_initramfs(&kernel, MEMORY, 4097) {
        assert!(placed.start >= kernel.end() && placed.start + placed.len <= MEMORY);
    }
    entry
}
