//! What is read of policies, and of callers, who may be hostile.

use super::{Arch, Policy, SyscallData, intercept, notify};

/// Bytes as a policy in JSON. Whether they are one; its filter must say what it says.
pub(crate) fn policy(bytes: &[u8]) -> bool {
    let Ok(policy) = serde_json::from_slice::<Policy>(bytes) else { return false };
    let text = serde_json::to_vec(&policy).expect("what was read can be written");
    let again: Policy = serde_json::from_slice(&text).expect("and read again");
    assert_eq!(again, policy);
    let Ok(filter) = policy.compile() else { return true };
    assert!(filter.len() <= 4096);
    let seed = bytes.iter().fold(0_u64, |sum, b| sum.rotate_left(7) ^ u64::from(*b));
    for nr in (0..480).chain([0x4000_0000, 0x4000_0085, u32::MAX]) {
        for arch in Arch::ALL.into_iter().map(Arch::audit_arch).chain([7]) {
            let args = std::array::from_fn(|n| {
                let word = seed.rotate_left((n as u32 * 11).wrapping_add(nr));
                if word & 1 == 0 { word } else { word & 0xffff }
            });
            let call = SyscallData { nr, arch, instruction_pointer: 0, args };
            assert_eq!(filter.decide(&call), policy.decide(&call), "{call:x?}");
        }
    }
    true
}

/// Bytes as what is read of a caller and of its memory. The names of the forms that took them.
pub(crate) fn notify(bytes: &[u8]) -> Vec<&'static str> {
    let mut took = Vec::new();
    if notify::is_status(bytes) {
        took.push("status");
    }
    intercept::fuzzing::take(bytes, &mut took);
    took
}
