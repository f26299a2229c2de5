//! Micro-VMs through KVM. The backend is not there yet; what stands here says whether this host can run it.

use kvm_ioctls::{Cap, Kvm};
use rustix::io::Errno;

use crate::error::{Error, ErrorKind, Result};

/// The device node of KVM.
const KVM: &str = "/dev/kvm";

/// The only version of the interface that there is (`KVM_GET_API_VERSION`).
const API_VERSION: i32 = 12;

/// What a virtual machine needs of the host's KVM, by the kernel's names.
const NEEDED: [(Cap, &str); 7] = [
    (Cap::UserMemory, "KVM_CAP_USER_MEMORY"),
    (Cap::SetTssAddr, "KVM_CAP_SET_TSS_ADDR"),
    (Cap::Irqchip, "KVM_CAP_IRQCHIP"),
    (Cap::Irqfd, "KVM_CAP_IRQFD"),
    (Cap::Ioeventfd, "KVM_CAP_IOEVENTFD"),
    (Cap::ImmediateExit, "KVM_CAP_IMMEDIATE_EXIT"),
    (Cap::ExtCpuid, "KVM_CAP_EXT_CPUID"),
];

/// What this host's KVM offers.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Support {
    /// The most virtual CPUs that one machine should have.
    pub recommended_vcpus: usize,
    /// The most that it can have.
    pub max_vcpus: usize,
}

/// Finds out whether virtual machines can run here, by opening `/dev/kvm` and asking it. Nothing stays open.
///
/// ```
/// match stockade::vm::probe() {
///     Ok(kvm) => assert!(kvm.max_vcpus > 0),
///     Err(e) => println!("no virtual machines here: {e}"),
/// }
/// ```
///
/// # Errors
/// [`Unsupported`](ErrorKind::Unsupported) where there is no KVM or it lacks something, which the error names;
/// [`PermissionDenied`](ErrorKind::PermissionDenied) where this user may not open it.
pub fn probe() -> Result<Support> {
    let kvm = Kvm::new().map_err(|e| {
        let errno = Errno::from_raw_os_error(e.errno());
        let e = Error::sys("open KVM", errno).object(KVM);
        match errno {
            Errno::NOENT | Errno::NODEV | Errno::NXIO => e
                .with_kind(ErrorKind::Unsupported)
                .hint("the machine has no hardware virtualization, it is switched off, or the kvm module is not loaded"),
            Errno::ACCESS | Errno::PERM => e.hint("the user must be in the group that owns it, often `kvm`"),
            _ => e,
        }
    })?;
    let version = kvm.get_api_version();
    if version != API_VERSION {
        return Err(unsupported(format!("speaks version {version} of its interface, not {API_VERSION}")));
    }
    let missing: Vec<&str> =
        NEEDED.into_iter().filter(|(cap, _)| !kvm.check_extension(*cap)).map(|(_, name)| name).collect();
    if !missing.is_empty() {
        return Err(unsupported(format!("lacks {}", missing.join(", "))));
    }
    Ok(Support { recommended_vcpus: kvm.get_nr_vcpus(), max_vcpus: kvm.get_max_vcpus() })
}

fn unsupported(why: String) -> Error {
    Error::new(ErrorKind::Unsupported, "check KVM").object(KVM).detail(why)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_what_there_is_or_what_is_missing() {
        match probe() {
            Ok(s) => assert!(s.recommended_vcpus >= 1 && s.max_vcpus >= s.recommended_vcpus, "{s:?}"),
            Err(e) => {
                assert!(matches!(e.kind(), ErrorKind::Unsupported | ErrorKind::PermissionDenied), "{e}");
                assert_eq!(e.what(), Some(KVM));
            }
        }
    }
}
