//! x86-64.

mod acpi;
mod aml;
mod cpuid;
mod layout;
mod params;
mod regs;

use kvm_bindings::{Msrs, kvm_cpuid_entry2, kvm_msr_entry};
use kvm_ioctls::{Cap, Kvm, VcpuFd};
use rustix::io::Errno;
use vm_memory::{Bytes, GuestAddress};

pub(crate) use self::acpi::{MmioNode, RESET_VALUE, SERIAL_GSI, SLEEP_OFF, ports};
use self::cpuid::DeadlineTimer;
pub(crate) use self::layout::{
    COMMAND_LINE_MAX, EVENT_GSI, FIRST_GSI, GSI_END, HOLE_START, KERNEL_MIN, MMIO_BASE, MMIO_SIZE,
    memory_pieces,
};
use super::super::boot::{Entry, Loaded};
use super::super::memory::Memory;
use crate::error::{Error, ErrorKind, Result};
use crate::sys::vm::kvm::{KvmVm, errno};

/// The most processors of a machine.
pub(crate) const MAX_VCPUS: u8 = 32;

/// What KVM must be able to do, by the kernel's names.
const NEEDED: [(Cap, &str); 8] = [
    (Cap::UserMemory, "KVM_CAP_USER_MEMORY"),
    (Cap::SetTssAddr, "KVM_CAP_SET_TSS_ADDR"),
    (Cap::Irqchip, "KVM_CAP_IRQCHIP"),
    (Cap::Irqfd, "KVM_CAP_IRQFD"),
    (Cap::Ioeventfd, "KVM_CAP_IOEVENTFD"),
    (Cap::ImmediateExit, "KVM_CAP_IMMEDIATE_EXIT"),
    (Cap::ExtCpuid, "KVM_CAP_EXT_CPUID"),
    (Cap::MpState, "KVM_CAP_MP_STATE"),
];

/// What a virtual machine needs of the host's KVM.
pub(crate) fn needed() -> impl Iterator<Item = (Cap, &'static str)> {
    NEEDED.into_iter()
}

/// What is set on the virtual machine before it has processors: the interrupt controllers, in the kernel.
pub(crate) fn configure_vm(vm: &KvmVm) -> Result<()> {
    let failed = |step: &'static str, e| Error::sys(step, errno(e));
    vm.fd().set_tss_address(layout::TSS).map_err(|e| failed("place KVM's task segment", e))?;
    // Not every KVM has it, and those that have not need it not.
    let _ = vm.fd().set_identity_map_address(layout::IDENTITY_MAP);
    vm.fd().create_irq_chip().map_err(|e| failed("make the interrupt controllers", e))
}

/// The processors of a machine, as the guest sees them.
#[derive(Debug)]
pub(crate) struct Processors {
    supported: Vec<kvm_cpuid_entry2>,
    deadline_timer: DeadlineTimer,
    count: u8,
}

impl Processors {
    pub(crate) fn new(kvm: &Kvm, count: u8) -> Result<Self> {
        let deadline_timer = match kvm.check_extension(Cap::TscDeadlineTimer) {
            true => DeadlineTimer::Yes,
            false => DeadlineTimer::No,
        };
        Ok(Self { supported: cpuid::supported(kvm)?, deadline_timer, count })
    }

    /// Sets up the processor `id`. The first one begins at `entry`, the others wait for it.
    pub(crate) fn configure(&self, vcpu: &VcpuFd, id: u8, entry: Entry) -> Result<()> {
        let failed = |step: &'static str, errno: Errno| Error::sys(step, errno).object(format!("vCPU {id}"));
        let tsc_khz = vcpu.get_tsc_khz().unwrap_or(0);
        let cpuid = cpuid::for_vcpu(&self.supported, id, self.count, tsc_khz, self.deadline_timer)?;
        vcpu.set_cpuid2(&cpuid).map_err(|e| failed("describe the processor (KVM_SET_CPUID2)", errno(e)))?;
        set_msrs(vcpu).map_err(|e| failed("set the processor's model-specific registers", e))?;
        if id == 0 {
            regs::set(vcpu, entry).map_err(|e| failed("set the processor's registers", e))?;
        }
        set_local_interrupts(vcpu).map_err(|e| failed("set the processor's local interrupts", e))
    }
}

fn set_msrs(vcpu: &VcpuFd) -> Result<(), Errno> {
    const IA32_MISC_ENABLE: u32 = 0x1a0;
    const IA32_MTRR_DEF_TYPE: u32 = 0x2ff;
    // Fast string instructions; and memory that is written back, as firmware would say.
    for (index, data) in [(IA32_MISC_ENABLE, 1), (IA32_MTRR_DEF_TYPE, 1 << 11 | 6)] {
        let msrs = Msrs::from_entries(&[kvm_msr_entry { index, data, ..kvm_msr_entry::default() }]);
        let msrs = msrs.map_err(|_| Errno::INVAL)?;
        let set = vcpu.set_msrs(&msrs).map_err(errno)?;
        // KVM's without the second are there; a guest can do without.
        if set == 0 && index == IA32_MISC_ENABLE {
            return Err(Errno::INVAL);
        }
    }
    Ok(())
}

/// LINT0 takes the interrupts of the old controller, LINT1 is the NMI, as after a PC's firmware.
fn set_local_interrupts(vcpu: &VcpuFd) -> Result<(), Errno> {
    const LVT0: usize = 0x350;
    const LVT1: usize = 0x360;
    let mut lapic = vcpu.get_lapic().map_err(errno)?;
    for (at, value) in [(LVT0, 0x700_u32), (LVT1, 0x400)] {
        for (reg, byte) in lapic.regs[at..at + 4].iter_mut().zip(value.to_le_bytes()) {
            *reg = byte as _;
        }
    }
    vcpu.set_lapic(&lapic).map_err(errno)
}

/// Writes what the kernel is handed, and the tables that describe the machine.
pub(crate) fn describe(
    memory: &Memory,
    size: u64,
    loaded: &Loaded,
    command_line: &str,
    vcpus: u8,
    nodes: &[MmioNode],
) -> Result<()> {
    let tables = acpi::tables(vcpus, nodes)
        .ok_or_else(|| Error::invalid("devices", "are more than the ACPI tables have room for"))?;
    let mut text = command_line.as_bytes().to_vec();
    text.push(0);
    let header = loaded.setup_header.as_deref();
    let pieces = [
        (layout::ACPI, tables),
        (layout::COMMAND_LINE, text),
        (layout::BOOT_PARAMS, params::boot_params(size, header, loaded.initramfs, command_line.len())),
        (layout::START_INFO, params::start_info(size, loaded.initramfs)),
        (layout::GDT, regs::gdt(loaded.entry)),
        (layout::PAGE_TABLES, regs::page_tables()),
        (layout::RESET_VECTOR, regs::reset_code()),
    ];
    for (at, bytes) in pieces {
        memory.write_slice(&bytes, GuestAddress(at)).map_err(|e| {
            Error::new(ErrorKind::InvalidConfig, "describe the machine to the guest").with_source(e)
        })?;
    }
    Ok(())
}
