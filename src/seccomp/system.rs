//! The default policy of system containers: everything but a few calls.

use super::policy::{Action, ArgCompare, Policy, Rule};
use super::{Arch, Syscall};

const ENOSYS: Action = Action::Errno(libc::ENOSYS as u16);

/// Calls that load code into the host's kernel, replace it, or open files around the mount tree. The kernel asks
/// for host capabilities for all of them; this is the second lock.
const DENIED: [&str; 6] =
    ["delete_module", "finit_module", "init_module", "kexec_file_load", "kexec_load", "open_by_handle_at"];

impl Policy {
    /// The deny list of system containers: all calls are allowed but these, on every ABI of the machine.
    ///
    /// | call | outcome |
    /// |---|---|
    /// | `init_module`, `finit_module`, `delete_module`, `kexec_load`, `kexec_file_load`, `open_by_handle_at` | ENOSYS |
    /// | `umount2` with `MNT_FORCE` | EACCES |
    ///
    /// The errnos are Incus's: ENOSYS makes programs take another way (liblxc's own list says EPERM). A forced
    /// unmount of a network file system would hurt all who share it.
    ///
    /// ```
    /// use stockade::seccomp::Policy;
    ///
    /// assert!(Policy::system_default().compile()?.len() < 64);
    /// # Ok::<(), stockade::Error>(())
    /// ```
    pub fn system_default() -> Self {
        let force = ArgCompare::has_bits(1, libc::MNT_FORCE as u64);
        Self::new(Action::Allow)
            .rule(known(Action::Errno(libc::EACCES as u16), &["umount2"]).when(force))
            .rule(known(ENOSYS, &DENIED))
    }

    /// The same for the native ABI alone: calls through the others (i386 and x32 on x86_64, 32-bit ARM on
    /// aarch64) get ENOSYS. This is `security.syscalls.deny_compat`.
    #[must_use]
    pub fn deny_compat(mut self) -> Self {
        self.arches = Arch::native_family().iter().take(1).copied().collect();
        self.foreign_arch = ENOSYS;
        self
    }
}

/// A rule over names of this crate's own lists. A test sees to it that all of them are known.
pub(super) fn known(action: Action, names: &[&str]) -> Rule {
    let syscalls = names.iter().filter_map(|name| Syscall::new(name).ok()).collect();
    Rule { syscalls, action, args: Vec::new() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seccomp::SyscallData;

    fn decide(policy: &Policy, arch: Arch, name: &str, args: [u64; 6]) -> Action {
        let nr = Syscall::new(name).unwrap().number(arch).unwrap();
        let call = SyscallData { nr, arch: arch.audit_arch(), args, ..Default::default() };
        let action = policy.compile().unwrap().decide(&call);
        assert_eq!(action, policy.decide(&call));
        action
    }

    #[test]
    fn every_name_of_the_list_is_known() {
        for name in DENIED {
            assert!(Syscall::new(name).is_ok(), "{name}");
        }
    }

    #[test]
    fn denies_the_list_on_every_abi_and_nothing_else() {
        let policy = Policy::system_default();
        for arch in Arch::native_family() {
            for call in Syscall::all(*arch) {
                let name = call.name().unwrap();
                let expected = if DENIED.contains(&name) { ENOSYS } else { Action::Allow };
                assert_eq!(decide(&policy, *arch, name, [0; 6]), expected, "{arch} {name}");
            }
            for (flags, expected) in [
                (0, Action::Allow),
                (libc::MNT_DETACH, Action::Allow),
                (libc::MNT_FORCE, Action::Errno(13)),
                (libc::MNT_FORCE | libc::MNT_DETACH, Action::Errno(13)),
            ] {
                let args = [0, flags as u64 | 0xdead_0000_0000, 0, 0, 0, 0];
                assert_eq!(decide(&policy, *arch, "umount2", args), expected, "{arch} {flags}");
            }
        }
    }

    #[test]
    fn deny_compat_leaves_the_native_abi_alone() {
        let policy = Policy::system_default().deny_compat();
        let (native, compat) = Arch::native_family().split_first().unwrap();
        assert_eq!(decide(&policy, *native, "read", [0; 6]), Action::Allow);
        for arch in compat {
            assert_eq!(decide(&policy, *arch, "read", [0; 6]), ENOSYS, "{arch}");
        }
    }
}
