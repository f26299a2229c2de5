//! What the guest is told of its processor.
//!
//! All that KVM can give of the host's, but for what is not given on: nested virtualization, performance counters,
//! enclaves, processor tracing, waiting in the processor. The topology is the machine's own: one package with a core for
//! each processor.

use kvm_bindings::{CpuId, KVM_CPUID_FLAG_SIGNIFCANT_INDEX, KVM_MAX_CPUID_ENTRIES, kvm_cpuid_entry2};
use kvm_ioctls::Kvm;

use crate::error::{Error, Result};
use crate::sys::vm::kvm::errno;

/// KVM's own leaves begin here, and this one names the hypervisor.
const KVM_SIGNATURE: u32 = 0x4000_0000;
/// The frequencies of the TSC and of the local timer, in kHz: VMware's leaf, which others have taken over.
const KVM_TIMING: u32 = 0x4000_0010;
/// Of KVM's local timer: one tick is a nanosecond.
const TIMER_HZ: u32 = 1_000_000_000;

/// What KVM can give on this host.
pub(super) fn supported(kvm: &Kvm) -> Result<Vec<kvm_cpuid_entry2>> {
    let cpuid = kvm
        .get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)
        .map_err(|e| Error::sys("ask KVM what processor it offers (KVM_GET_SUPPORTED_CPUID)", errno(e)))?;
    Ok(cpuid.as_slice().to_vec())
}

/// What the processor `id` of `count` is like. `tsc_khz` is 0 where it is not known.
pub(super) fn for_vcpu(
    supported: &[kvm_cpuid_entry2],
    id: u8,
    count: u8,
    tsc_khz: u32,
    deadline_timer: DeadlineTimer,
) -> Result<CpuId> {
    let mut entries: Vec<kvm_cpuid_entry2> = supported.to_vec();
    let intel = entries.iter().any(|e| e.function == 0 && e.ebx == u32::from_le_bytes(*b"Genu"));
    // Topology comes anew.
    entries.retain(|e| !matches!(e.function, 0xb | 0x1f));
    for e in &mut entries {
        filter(e, id, count, deadline_timer);
    }
    let bits = core_bits(count);
    for function in [0xb, 0x1f] {
        if entries.iter().any(|e| e.function == 0 && e.eax >= function) {
            entries.extend(levels(function, id, count, bits));
        }
    }
    if tsc_khz != 0 {
        tell_frequencies(&mut entries, tsc_khz, intel);
    }
    let cpuid = CpuId::from_entries(&entries);
    cpuid.map_err(|e| Error::invalid("processor", format!("has too many properties for KVM: {e:?}")))
}

/// Whether KVM's local timer can be set to a time of the TSC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum DeadlineTimer {
    Yes,
    No,
}

/// Bits of the number of a processor that tell cores apart.
fn core_bits(count: u8) -> u32 {
    u32::from(count).next_power_of_two().trailing_zeros()
}

fn filter(e: &mut kvm_cpuid_entry2, id: u8, count: u8, deadline: DeadlineTimer) {
    let set = |reg: &mut u32, bit: u32, on: bool| *reg = *reg & !(1 << bit) | u32::from(on) << bit;
    let several = count > 1;
    match (e.function, e.index) {
        (1, _) => {
            e.ebx = e.ebx & 0xffff | u32::from(count) << 16 | u32::from(id) << 24;
            set(&mut e.ecx, 3, false); // MONITOR
            set(&mut e.ecx, 5, false); // VMX
            set(&mut e.ecx, 15, false); // PDCM: the performance counters' capabilities
            set(&mut e.ecx, 24, deadline == DeadlineTimer::Yes);
            set(&mut e.ecx, 31, true); // hypervisor
            set(&mut e.edx, 28, several); // HTT: more than one in the package
        }
        // Caches: a core has its own, up to the last level; all share that.
        (4, _) => {
            let shared = if e.eax >> 5 & 7 >= 3 { u32::from(count) - 1 } else { 0 };
            e.eax = e.eax & 0x3fff | shared << 14 | (u32::from(count) - 1) << 26;
        }
        // MONITOR/MWAIT, performance counters, enclaves, tracing.
        (5 | 0xa | 0x12 | 0x14, _) => (e.eax, e.ebx, e.ecx, e.edx) = (0, 0, 0, 0),
        (7, 0) => {
            set(&mut e.ebx, 2, false); // SGX
            set(&mut e.ebx, 25, false); // processor trace
            set(&mut e.ecx, 30, false); // SGX launch control
        }
        (0x8000_0001, _) => {
            set(&mut e.ecx, 2, false); // SVM
            set(&mut e.ecx, 23, false); // performance counters of the core
            set(&mut e.ecx, 24, false); // and of the northbridge
            set(&mut e.ecx, 1, several); // CMP_LEGACY: cores and no threads
        }
        (0x8000_0008, _) => {
            e.ecx = e.ecx & !0xf0ff | core_bits(count) << 12 | (u32::from(count) - 1);
        }
        // SVM.
        (0x8000_000a | 0x8000_0022, _) => (e.eax, e.ebx, e.ecx, e.edx) = (0, 0, 0, 0),
        (0x8000_001d, _) => {
            let shared = if e.eax >> 5 & 7 >= 3 { u32::from(count) - 1 } else { 0 };
            e.eax = e.eax & 0x3fff | shared << 14;
        }
        (0x8000_001e, _) => (e.eax, e.ebx, e.ecx) = (u32::from(id), u32::from(id), 0),
        _ => {}
    }
}

/// The levels of the topology: one thread in a core, `count` cores in the package.
fn levels(function: u32, id: u8, count: u8, bits: u32) -> [kvm_cpuid_entry2; 3] {
    let level = |index: u32, eax: u32, ebx: u32, kind: u32| kvm_cpuid_entry2 {
        function,
        index,
        flags: KVM_CPUID_FLAG_SIGNIFCANT_INDEX,
        eax,
        ebx,
        ecx: index | kind << 8,
        edx: u32::from(id),
        ..kvm_cpuid_entry2::default()
    };
    [level(0, 0, 1, 1), level(1, bits, count.into(), 2), level(2, 0, 0, 0)]
}

/// Spares the guest the calibration of its clocks.
fn tell_frequencies(entries: &mut Vec<kvm_cpuid_entry2>, tsc_khz: u32, intel: bool) {
    let mut put = |function: u32, eax: u32, ebx: u32, ecx: u32| {
        entries.retain(|e| e.function != function);
        entries.push(kvm_cpuid_entry2 { function, eax, ebx, ecx, ..kvm_cpuid_entry2::default() });
    };
    put(KVM_TIMING, tsc_khz, TIMER_HZ / 1000, 0);
    if intel {
        // The ratio of the TSC to a crystal, which the local timer counts too.
        put(0x15, 1_000_000, tsc_khz, TIMER_HZ);
        put(0x16, tsc_khz / 1000, tsc_khz / 1000, TIMER_HZ / 10_000_000);
    }
    for e in entries.iter_mut() {
        match e.function {
            KVM_SIGNATURE => e.eax = e.eax.max(KVM_TIMING),
            0 if intel => e.eax = e.eax.max(0x16),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(function: u32, eax: u32, ebx: u32, ecx: u32, edx: u32) -> kvm_cpuid_entry2 {
        kvm_cpuid_entry2 { function, eax, ebx, ecx, edx, ..kvm_cpuid_entry2::default() }
    }

    fn host(vendor: &[u8; 4]) -> Vec<kvm_cpuid_entry2> {
        vec![
            entry(0, 0xd, u32::from_le_bytes(*vendor), 0, 0),
            entry(1, 0, u32::MAX, u32::MAX, u32::MAX),
            entry(4, 0b011_00001, 0, 0, 0),
            entry(0xa, 7, 7, 7, 7),
            entry(KVM_SIGNATURE, 0x4000_0001, 0, 0, 0),
            entry(0x8000_0001, 0, 0, u32::MAX, u32::MAX),
        ]
    }

    #[test]
    fn every_processor_has_its_own_number_and_no_nested_virtualization() {
        for count in 1..=32 {
            for id in 0..count {
                let cpuid = for_vcpu(&host(b"Auth"), id, count, 2_000_000, DeadlineTimer::Yes).unwrap();
                let find = |function, index| {
                    let mut all = cpuid.as_slice().iter();
                    *all.find(|e| e.function == function && e.index == index).unwrap()
                };
                let one = find(1, 0);
                assert_eq!((one.ebx >> 24, one.ebx >> 16 & 0xff), (id.into(), count.into()));
                assert_eq!((one.ecx >> 5 & 1, one.ecx >> 31, one.edx >> 28 & 1), (0, 1, (count > 1).into()));
                assert_eq!(find(0x8000_0001, 0).ecx & 1 << 2, 0, "SVM");
                assert_eq!(find(0xa, 0).eax, 0);
                let cores = find(0xb, 1);
                assert_eq!((cores.ebx, cores.edx, cores.ecx), (count.into(), id.into(), 0x201));
                assert!(1_u32 << cores.eax >= count.into());
            }
        }
    }

    #[test]
    fn frequencies_are_told_where_they_are_known() {
        let has = |cpuid: &CpuId, f| cpuid.as_slice().iter().find(|e| e.function == f).copied();
        let intel = for_vcpu(&host(b"Genu"), 0, 1, 2_400_000, DeadlineTimer::No).unwrap();
        let crystal = has(&intel, 0x15).unwrap();
        let hz = u64::from(crystal.ecx) * u64::from(crystal.ebx) / u64::from(crystal.eax);
        assert_eq!(hz, 2_400_000_000);
        assert_eq!(has(&intel, 0).unwrap().eax, 0x16);
        assert_eq!(has(&intel, KVM_SIGNATURE).unwrap().eax, KVM_TIMING);
        assert_eq!(has(&intel, 1).unwrap().ecx >> 24 & 1, 0);
        let amd = for_vcpu(&host(b"Auth"), 0, 1, 2_400_000, DeadlineTimer::No).unwrap();
        assert_eq!((has(&amd, 0x15), has(&amd, KVM_TIMING).unwrap().eax), (None, 2_400_000));
        let unknown = for_vcpu(&host(b"Genu"), 0, 1, 0, DeadlineTimer::No).unwrap();
        assert_eq!(has(&unknown, KVM_TIMING), None);
    }
}
