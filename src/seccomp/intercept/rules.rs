//! The filter's part: which calls come to the supervisor.

use super::config::{Interception, Nodes};
use crate::seccomp::policy::{Action, ArgCompare, Compare, Policy, Rule};
use crate::seccomp::system::known;

const EINVAL: Action = Action::Errno(libc::EINVAL as u16);
const ENOSYS: Action = Action::Errno(libc::ENOSYS as u16);

/// Flags of `mount(2)` by which it makes no new file system: remount, bind, move, and changes of propagation.
const NOT_NEW: u64 = libc::MS_REMOUNT
    | libc::MS_BIND
    | libc::MS_MOVE
    | libc::MS_UNBINDABLE
    | libc::MS_PRIVATE
    | libc::MS_SLAVE
    | libc::MS_SHARED;
/// What old programs set in the upper half, and the kernel takes away: some of those flags are in it.
const MAGIC: u64 = 0xc0ed_0000;
const MAGIC_MASK: u64 = 0xffff_0000;

/// Calls that make new file systems without `mount(2)`. Programs that do not find them fall back to it.
const NEW_MOUNT_CALLS: &str = "fsopen fsconfig fsmount fspick";

impl Interception {
    /// `policy`, with the calls of this handed to the supervisor where it would let the kernel run them.
    pub(crate) fn apply(&self, policy: &Policy) -> Policy {
        if self.is_empty() {
            return policy.clone();
        }
        let ours = self.notified();
        let runs = |action: Action| matches!(action, Action::Allow | Action::Log);
        let mut out = Policy { rules: self.denied(), ..policy.clone() };
        for rule in &policy.rules {
            if runs(rule.action) {
                // In place of this rule, on its conditions and ours. A call that comes so far no earlier rule decides.
                out.rules.extend(ours.iter().filter_map(|own| both(rule, own)));
            }
            out.rules.push(rule.clone());
        }
        if runs(policy.default_action) {
            out.rules.extend(ours);
        }
        out
    }

    /// What must not work beside it.
    fn denied(&self) -> Vec<Rule> {
        // A container that listened itself would be asked in our place.
        let listener = known(EINVAL, "seccomp")
            .when(ArgCompare::low32(0, libc::SECCOMP_SET_MODE_FILTER))
            .when(ArgCompare::has_bits(1, libc::SECCOMP_FILTER_FLAG_NEW_LISTENER));
        let mut rules = vec![listener];
        if self.mount.is_some() {
            rules.push(known(ENOSYS, NEW_MOUNT_CALLS));
        }
        rules
    }

    fn notified(&self) -> Vec<Rule> {
        let notify = |names: &str| known(Action::Notify, names);
        let masked = |index, mask, value| ArgCompare::new(index, Compare::MaskedEq(mask), value);
        let character = |index| masked(index, libc::S_IFMT.into(), libc::S_IFCHR.into());
        let mut rules = Vec::new();
        if self.mknod != Nodes::Refused {
            // The kernel makes whiteouts (0:0) for everybody, and of block devices none is harmless.
            let some = |index| ArgCompare::new(index, Compare::Ne, 0);
            rules.push(notify("mknod").when(character(1)).when(some(2)));
            rules.push(notify("mknodat").when(character(2)).when(some(3)));
        }
        if self.setxattr {
            rules.push(notify("setxattr lsetxattr").when(ArgCompare::new(3, Compare::Eq, 1)));
        }
        if self.mount.is_some() {
            rules.push(notify("mount").when(masked(3, NOT_NEW, 0)));
            rules.push(notify("mount").when(masked(3, MAGIC_MASK | NOT_NEW & 0xffff, MAGIC)));
        }
        if self.bpf_devices {
            for command in [super::bpf::PROG_LOAD, super::bpf::PROG_ATTACH, super::bpf::PROG_DETACH] {
                rules.push(notify("bpf").when(ArgCompare::low32(0, command)));
            }
        }
        if self.sched_setscheduler {
            rules.push(notify("sched_setscheduler"));
        }
        if self.sysinfo {
            rules.push(notify("sysinfo"));
        }
        rules
    }
}

/// Our rule for the calls that both name, on the conditions of both.
fn both(theirs: &Rule, own: &Rule) -> Option<Rule> {
    let syscalls: Vec<_> = own.syscalls.iter().copied().filter(|s| theirs.syscalls.contains(s)).collect();
    let args = theirs.args.iter().chain(&own.args).copied().collect();
    (!syscalls.is_empty()).then_some(Rule { syscalls, action: own.action, args })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seccomp::{Arch, MountInterception, Syscall, SyscallData};

    fn all() -> Interception {
        let mount = MountInterception::new().allow("ext4");
        let all = Interception::new().mknod(Nodes::Plain).setxattr().mount(mount).bpf_devices();
        all.sched_setscheduler().sysinfo()
    }

    fn decide(policy: &Policy, arch: Arch, name: &str, args: [u64; 6]) -> Option<Action> {
        let nr = Syscall::new(name).unwrap().number(arch)?;
        let call = SyscallData { nr, arch: arch.audit_arch(), args, ..Default::default() };
        let action = policy.compile().unwrap().decide(&call);
        assert_eq!(action, policy.decide(&call));
        Some(action)
    }

    #[test]
    fn only_what_could_be_helped_is_asked_about() {
        let policy = all().apply(&Policy::system_default());
        let (yes, no) = (Action::Notify, Action::Allow);
        let (chr, blk, fifo) = (0o020_666, 0o060_600, 0o010_600);
        let cases: &[(&str, [u64; 6], Action)] = &[
            ("mknod", [1, chr, 0x103, 0, 0, 0], yes),
            ("mknod", [1, chr, 0, 0, 0, 0], no),
            ("mknod", [1, blk, 0x800, 0, 0, 0], no),
            ("mknod", [1, fifo, 0x103, 0, 0, 0], no),
            ("mknodat", [1, 2, chr, 0x103, 0, 0], yes),
            ("mknodat", [1, chr, fifo, 0x103, 0, 0], no),
            ("setxattr", [1, 2, 3, 1, 0, 0], yes),
            ("lsetxattr", [1, 2, 3, 1, 0, 0], yes),
            ("setxattr", [1, 2, 3, 2, 0, 0], no),
            ("fsetxattr", [1, 2, 3, 1, 0, 0], no),
            ("mount", [1, 2, 3, 0, 0, 0], yes),
            ("mount", [1, 2, 3, libc::MS_NODEV | libc::MS_RDONLY, 0, 0], yes),
            ("mount", [1, 2, 3, 0xc0ed_0001, 0, 0], yes),
            ("mount", [1, 2, 3, 0xc0ed_0000 | libc::MS_BIND, 0, 0], no),
            ("mount", [1, 2, 3, libc::MS_BIND | libc::MS_REC, 0, 0], no),
            ("mount", [1, 2, 3, libc::MS_REMOUNT, 0, 0], no),
            ("mount", [1, 2, 3, libc::MS_PRIVATE, 0, 0], no),
            ("mount", [1, 2, 3, libc::MS_SLAVE | libc::MS_REC, 0, 0], no),
            ("mount", [1, 2, 3, libc::MS_SHARED, 0, 0], no),
            ("mount", [1, 2, 3, libc::MS_MOVE, 0, 0], no),
            ("bpf", [5, 0, 0, 0, 0, 0], yes),
            ("bpf", [8 | 7 << 32, 0, 0, 0, 0, 0], yes),
            ("bpf", [0, 0, 0, 0, 0, 0], no),
            ("bpf", [9, 0, 0, 0, 0, 0], yes),
            ("bpf", [13, 0, 0, 0, 0, 0], no),
            ("sched_setscheduler", [0; 6], yes),
            ("sched_setparam", [0; 6], no),
            ("sysinfo", [0; 6], yes),
            ("fsopen", [0; 6], ENOSYS),
            ("open_tree", [0; 6], no),
            ("seccomp", [1, 8, 0, 0, 0, 0], EINVAL),
            ("seccomp", [1 | 1 << 32, 8 | 1, 0, 0, 0, 0], EINVAL),
            ("seccomp", [1, 1, 0, 0, 0, 0], no),
            ("umount2", [0, 1, 0, 0, 0, 0], Action::Errno(13)),
            ("init_module", [0; 6], ENOSYS),
        ];
        for arch in Arch::native_family() {
            for (name, args, expected) in cases {
                if let Some(found) = decide(&policy, *arch, name, *args) {
                    assert_eq!(found, *expected, "{arch} {name} {args:x?}");
                }
            }
        }
    }

    #[test]
    fn nothing_that_a_policy_refuses_is_asked_about() {
        let chr = [1, 0o020_666, 0x103, 0, 0, 0];
        let rule = |action, name: &str| Rule::new(action, [name]).unwrap();
        let arch = Arch::X86_64;
        let eperm = Action::Errno(1);
        // A deny list that denies it, on a condition.
        let some = rule(eperm, "mknod").when(ArgCompare::new(0, Compare::Eq, 1));
        let deny = all().apply(&Policy::new(Action::Allow).arches([arch]).rule(some));
        assert_eq!(decide(&deny, arch, "mknod", chr), Some(eperm));
        assert_eq!(decide(&deny, arch, "mknod", [2, chr[1], chr[2], 0, 0, 0]), Some(Action::Notify));
        // An allow list without it, with it, and with it on a condition.
        let base = Policy::new(eperm).arches([arch]);
        assert_eq!(decide(&all().apply(&base), arch, "mknod", chr), Some(eperm));
        let with = all().apply(&base.clone().rule(rule(Action::Allow, "mknod")));
        assert_eq!(decide(&with, arch, "mknod", chr), Some(Action::Notify));
        assert_eq!(decide(&with, arch, "mknod", [1, 0o010_600, 0, 0, 0, 0]), Some(Action::Allow));
        assert_eq!(decide(&with, arch, "sysinfo", [0; 6]), Some(eperm));
        let when = rule(Action::Allow, "mknod").when(ArgCompare::new(0, Compare::Eq, 1));
        let on_condition = all().apply(&base.rule(when));
        assert_eq!(decide(&on_condition, arch, "mknod", chr), Some(Action::Notify));
        assert_eq!(decide(&on_condition, arch, "mknod", [2, chr[1], chr[2], 0, 0, 0]), Some(eperm));
    }

    #[test]
    fn without_interception_the_policy_stays_as_it_is() {
        let policy = Policy::system_default();
        assert_eq!(Interception::new().apply(&policy), policy);
    }
}

#[cfg(test)]
mod properties {
    use proptest::prelude::*;

    use super::*;
    use crate::seccomp::{Arch, MountInterception, Syscall, SyscallData};

    const NAMES: [&str; 12] = [
        "mknod",
        "mknodat",
        "setxattr",
        "lsetxattr",
        "mount",
        "bpf",
        "sched_setscheduler",
        "sysinfo",
        "seccomp",
        "fsopen",
        "fsmount",
        "read",
    ];

    fn action() -> impl Strategy<Value = Action> {
        prop_oneof![
            4 => Just(Action::Allow),
            1 => Just(Action::Log),
            2 => (0..4096_u16).prop_map(Action::Errno),
            1 => Just(Action::Trap),
            1 => Just(Action::Notify),
        ]
    }

    /// What conditions of this module tell apart, and their neighbours.
    fn value() -> impl Strategy<Value = u64> {
        let edges = [
            0,
            1,
            2,
            5,
            8,
            9,
            0x103,
            0o020_666,
            0o060_666,
            0o010_666,
            NOT_NEW,
            MAGIC,
            MAGIC | 0x1000,
            1 << 32,
        ];
        prop_oneof![
            8 => prop::sample::select(edges.to_vec()),
            2 => (0..64_u32).prop_map(|bit| 1 << bit),
            1 => any::<u64>(),
        ]
    }

    fn rule() -> impl Strategy<Value = Rule> {
        let names = prop::sample::subsequence(NAMES.to_vec(), 1..6);
        let compare = prop_oneof![
            Just(Compare::Eq),
            Just(Compare::Ne),
            Just(Compare::Gt),
            value().prop_map(Compare::MaskedEq)
        ];
        let arg = (0..6_u8, compare, value()).prop_map(|(i, c, v)| ArgCompare::new(i, c, v));
        (names, action(), prop::collection::vec(arg, 0..3)).prop_map(|(names, action, args)| Rule {
            syscalls: names.into_iter().map(|name| Syscall::new(name).unwrap()).collect(),
            action,
            args,
        })
    }

    fn policy() -> impl Strategy<Value = Policy> {
        let arches = prop::sample::subsequence(Arch::ALL.to_vec(), 1..=5).prop_shuffle();
        (action(), arches, action(), prop::option::of(action()), prop::collection::vec(rule(), 0..6))
            .prop_map(|(default, arches, foreign, unknown, rules)| {
                let mut policy = Policy::new(default).arches(arches).foreign_arch(foreign);
                policy.unknown = unknown;
                policy.rules = rules;
                policy
            })
    }

    fn interception() -> impl Strategy<Value = Interception> {
        any::<[bool; 6]>().prop_map(|[nodes, xattr, mount, bpf, sched, sysinfo]| Interception {
            mknod: if nodes { Nodes::Plain } else { Nodes::Refused },
            setxattr: xattr,
            mount: mount.then(|| MountInterception::new().allow("ext4")),
            bpf_devices: bpf,
            sched_setscheduler: sched,
            sysinfo,
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

        /// Over all numbers of all ABIs: what a policy refuses stays refused, what it lets run is asked about or runs, and
        /// the compiled filter says the same.
        #[test]
        fn interception_takes_nothing_from_a_policy(
            policy in policy(),
            what in interception(),
            pool in prop::collection::vec(value(), 8..24),
        ) {
            let with = what.apply(&policy);
            let filter = with.compile().unwrap();
            let runs = |action| matches!(action, Action::Allow | Action::Log);
            let mut n = 0;
            for arch in Arch::ALL.into_iter().map(Arch::audit_arch).chain([0xffff_ffff]) {
                for nr in (0..480).chain(0x4000_0000..0x4000_0230) {
                    n += 1;
                    let args = std::array::from_fn(|i| pool[(n * 7 + i * 5) % pool.len()]);
                    let call = SyscallData { nr, arch, instruction_pointer: 0, args };
                    let (before, after) = (policy.decide(&call), with.decide(&call));
                    prop_assert_eq!(filter.decide(&call), after);
                    let name = Arch::of_call(arch, nr).and_then(|arch| Syscall::name_of(nr, arch));
                    let denied = matches!(name, Some("seccomp" | "fsopen" | "fsconfig" | "fsmount" | "fspick"));
                    let fits = before == after
                        || runs(before) && after == Action::Notify
                        || denied && (after == EINVAL || after == ENOSYS);
                    prop_assert!(fits, "{:?} {:x?}: {:?}, then {:?}", name, call, before, after);
                }
            }
        }
    }
}
