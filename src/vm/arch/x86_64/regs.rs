//! The first processor's registers at the kernel's entry.

use kvm_bindings::{kvm_fpu, kvm_regs, kvm_segment, kvm_sregs};
use kvm_ioctls::VcpuFd;
use rustix::io::Errno;

use super::layout;
use crate::sys::vm::kvm::errno;
use crate::vm::boot::Entry;

const CR0_PE: u64 = 1;
const CR0_ET: u64 = 1 << 4;
const CR0_PG: u64 = 1 << 31;
const CR4_PAE: u64 = 1 << 5;
const EFER_LME: u64 = 1 << 8;
const EFER_LMA: u64 = 1 << 10;

/// A segment over all memory, with the descriptor's type and mode bits.
fn flat(selector: u16, kind: u8, long: u8, db: u8) -> kvm_segment {
    kvm_segment {
        base: 0,
        limit: 0xffff_ffff,
        selector,
        type_: kind,
        present: 1,
        dpl: 0,
        db,
        s: 1,
        l: long,
        g: 1,
        avl: 0,
        unusable: 0,
        padding: 0,
    }
}

/// The descriptors of those segments: at 0x10 code, at 0x18 data, at 0x20 a task segment, as Linux names them.
pub(super) fn gdt(entry: Entry) -> Vec<u8> {
    let code: u64 = match entry {
        Entry::Linux64(_) => 0x00af_9b00_0000_ffff,
        Entry::Pvh(_) => 0x00cf_9b00_0000_ffff,
    };
    [0, 0, code, 0x00cf_9300_0000_ffff, 0x0000_8b00_0000_0067]
        .into_iter()
        .flat_map(u64::to_le_bytes)
        .collect()
}

/// What stands at the reset vector, in 16-bit code: the write to the reset port. Linux on a machine with hardware-reduced
/// ACPI takes its restarts for EFI's business, and without EFI it jumps there.
pub(super) fn reset_code() -> Vec<u8> {
    let [lo, hi] = super::ports::RESET.to_le_bytes();
    // mov dx, PORT; mov al, VALUE; out dx, al; hlt; jump to the hlt
    vec![0xba, lo, hi, 0xb0, super::RESET_VALUE, 0xee, 0xf4, 0xeb, 0xfd]
}

/// Page tables that map the first 4 GiB to themselves, in pages of 2 MiB.
pub(super) fn page_tables() -> Vec<u8> {
    const PRESENT_WRITABLE: u64 = 3;
    const LARGE: u64 = 1 << 7;
    let table = |n: u64| layout::PAGE_TABLES + n * 4096;
    let mut out = vec![0_u64; 6 * 512];
    out[0] = table(1) | PRESENT_WRITABLE;
    for n in 0..4 {
        out[512 + n as usize] = table(2 + n) | PRESENT_WRITABLE;
    }
    for (n, entry) in out[1024..].iter_mut().enumerate() {
        *entry = (n as u64) << 21 | PRESENT_WRITABLE | LARGE;
    }
    out.into_iter().flat_map(u64::to_le_bytes).collect()
}

/// Sets the registers that the entry asks for.
pub(super) fn set(vcpu: &VcpuFd, entry: Entry) -> Result<(), Errno> {
    let mut sregs: kvm_sregs = vcpu.get_sregs().map_err(errno)?;
    let mut regs = kvm_regs { rflags: 2, rsp: layout::STACK, rbp: layout::STACK, ..kvm_regs::default() };
    sregs.gdt.base = layout::GDT;
    sregs.gdt.limit = 39;
    sregs.idt.base = 0;
    sregs.idt.limit = 0;
    let data = flat(0x18, 3, 0, 1);
    for segment in [&mut sregs.ds, &mut sregs.es, &mut sregs.fs, &mut sregs.gs, &mut sregs.ss] {
        *segment = data;
    }
    sregs.tr = kvm_segment { limit: 0x67, s: 0, g: 0, ..flat(0x20, 11, 0, 0) };
    match entry {
        Entry::Linux64(at) => {
            sregs.cs = flat(0x10, 11, 1, 0);
            sregs.cr3 = layout::PAGE_TABLES;
            sregs.cr4 = CR4_PAE;
            sregs.cr0 = CR0_PE | CR0_ET | CR0_PG;
            sregs.efer = EFER_LME | EFER_LMA;
            regs.rip = at;
            regs.rsi = layout::BOOT_PARAMS;
        }
        Entry::Pvh(at) => {
            sregs.cs = flat(0x10, 11, 0, 1);
            sregs.cr0 = CR0_PE | CR0_ET;
            sregs.cr4 = 0;
            sregs.efer = 0;
            regs.rip = at;
            regs.rbx = layout::START_INFO;
        }
    }
    vcpu.set_sregs(&sregs).map_err(errno)?;
    vcpu.set_regs(&regs).map_err(errno)?;
    vcpu.set_fpu(&kvm_fpu { fcw: 0x37f, mxcsr: 0x1f80, ..kvm_fpu::default() }).map_err(errno)
}
