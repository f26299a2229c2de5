//! Whether this host can run virtual machines.

use kvm_ioctls::{Cap, Kvm};
use rustix::io::Errno;

use super::arch;
use crate::error::{Error, ErrorKind, Result};

/// The device node of KVM.
const KVM: &str = "/dev/kvm";

/// The only version of the interface that there is (`KVM_GET_API_VERSION`).
const API_VERSION: i32 = 12;

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
/// [`Unsupported`](ErrorKind::Unsupported) where there is no KVM, this user may not open it (the errno is `EACCES` or `EPERM`
/// then), or it lacks something, which the error names.
pub fn probe() -> Result<Support> {
    let kvm = open()?;
    Ok(Support { recommended_vcpus: kvm.get_nr_vcpus(), max_vcpus: kvm.get_max_vcpus() })
}

/// Opens it, if it has what is needed.
pub(crate) fn open() -> Result<Kvm> {
    open_at(KVM)
}

fn open_at(path: &str) -> Result<Kvm> {
    let name = std::ffi::CString::new(path).map_err(|_| Error::invalid("path", "has a zero byte"))?;
    let kvm = Kvm::new_with_path(name).map_err(|e| {
        let errno = Errno::from_raw_os_error(e.errno());
        let e = Error::sys("open KVM", errno).object(path);
        match errno {
            Errno::NOENT | Errno::NODEV | Errno::NXIO => e
                .with_kind(ErrorKind::Unsupported)
                .hint("the machine has no hardware virtualization, it is switched off, or the kvm module is not loaded"),
            Errno::ACCESS | Errno::PERM => e
                .with_kind(ErrorKind::Unsupported)
                .hint("this user may not open it, and must be in the group that owns it, often `kvm`"),
            _ => e,
        }
    })?;
    check(path, kvm.get_api_version(), |cap| kvm.check_extension(cap))?;
    Ok(kvm)
}

/// Fails where a KVM of this version that has these capabilities does not do.
fn check(path: &str, version: i32, has: impl Fn(Cap) -> bool) -> Result<()> {
    if version != API_VERSION {
        return Err(unsupported(
            path,
            format!("speaks version {version} of its interface, not {API_VERSION}"),
        ));
    }
    let missing: Vec<&str> = arch::needed().filter(|(cap, _)| !has(*cap)).map(|(_, name)| name).collect();
    if !missing.is_empty() {
        return Err(unsupported(path, format!("lacks {}", missing.join(", "))));
    }
    Ok(())
}

fn unsupported(path: &str, why: String) -> Error {
    Error::new(ErrorKind::Unsupported, "check KVM").object(path).detail(why)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_what_there_is_or_what_is_missing() {
        match probe() {
            Ok(s) => assert!(s.recommended_vcpus >= 1 && s.max_vcpus >= s.recommended_vcpus, "{s:?}"),
            Err(e) => {
                assert_eq!((e.kind(), e.what()), (ErrorKind::Unsupported, Some(KVM)), "{e}");
            }
        }
    }

    #[test]
    fn a_host_without_kvm_is_told_so() {
        let none = open_at("/dev/no-kvm-here").err().unwrap();
        assert_eq!(none.kind(), ErrorKind::Unsupported);
        assert!(none.to_string().contains("hardware virtualization"), "{none}");
        // Answers no ioctl as KVM does.
        let other = open_at("/dev/null").err().unwrap();
        assert_eq!((other.kind(), other.what()), (ErrorKind::Unsupported, Some("/dev/null")));
    }

    #[test]
    fn what_kvm_lacks_is_named() {
        check(KVM, API_VERSION, |_| true).unwrap();
        let mut named = 0;
        for (lacks, name) in arch::needed() {
            let e = check(KVM, API_VERSION, |cap| cap as u32 != lacks as u32).unwrap_err();
            assert_eq!(e.kind(), ErrorKind::Unsupported);
            assert!(e.to_string().contains(&format!("lacks {name}")) && !e.to_string().contains(','), "{e}");
            named += 1;
        }
        assert!(named >= 8);
        let old = check(KVM, 11, |_| true).unwrap_err();
        assert!(old.kind() == ErrorKind::Unsupported && old.to_string().contains("version 11"), "{old}");
    }

    #[test]
    fn who_may_not_open_it_is_told_what_is_missing() {
        use caps::{CapSet, Capability};
        use std::os::unix::fs::PermissionsExt;
        let node = tempfile::NamedTempFile::new().unwrap();
        node.as_file().set_permissions(PermissionsExt::from_mode(0o000)).unwrap();
        let path = node.path().to_str().unwrap().to_owned();
        // The capabilities of this thread alone.
        let denied = std::thread::spawn(move || {
            for cap in [Capability::CAP_DAC_OVERRIDE, Capability::CAP_DAC_READ_SEARCH] {
                caps::drop(None, CapSet::Effective, cap).unwrap();
            }
            open_at(&path).err().unwrap()
        });
        let e = denied.join().unwrap();
        assert_eq!((e.kind(), e.errno()), (ErrorKind::Unsupported, Some(libc::EACCES)), "{e}");
        assert!(e.to_string().contains("group that owns it"), "{e}");
    }
}
