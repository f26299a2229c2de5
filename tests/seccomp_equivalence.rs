//! The compiled filter does what the policy says, for all numbers, architectures and arguments tried.

use proptest::prelude::*;
use stockade::seccomp::{Action, Arch, ArgCompare, Compare, Policy, Rule, Syscall, SyscallData};

const X32_BIT: u32 = 0x4000_0000;
/// AUDIT_ARCH_RISCV64, AUDIT_ARCH_S390X, big-endian ARM, and nonsense.
const OTHER_ARCHES: [u32; 4] = [0xC000_00F3, 0x8000_0016, 0x28, 0xffff_ffff];

fn action() -> impl Strategy<Value = Action> {
    prop_oneof![
        3 => Just(Action::Allow),
        3 => (0..4096_u16).prop_map(Action::Errno),
        1 => Just(Action::KillProcess),
        1 => Just(Action::KillThread),
        1 => Just(Action::Log),
        1 => Just(Action::Trap),
        1 => any::<u16>().prop_map(Action::Trace),
        1 => Just(Action::Notify),
    ]
}

/// Few values, near the edges of the halves, so that comparisons come out both ways.
fn value() -> impl Strategy<Value = u64> {
    prop_oneof![
        0..4_u64,
        Just(0xffff_ffff_u64),
        Just(0x1_0000_0000_u64),
        Just(0x1_0000_0001_u64),
        Just(0x8000_0000_u64),
        Just(u64::MAX),
        any::<u64>(),
        any::<u32>().prop_map(u64::from),
    ]
}

fn compare() -> impl Strategy<Value = Compare> {
    prop_oneof![
        Just(Compare::Eq),
        Just(Compare::Ne),
        Just(Compare::Lt),
        Just(Compare::Le),
        Just(Compare::Gt),
        Just(Compare::Ge),
        value().prop_map(Compare::MaskedEq),
        (0..64_u32).prop_map(|bit| Compare::MaskedEq(1 << bit)),
        Just(Compare::MaskedEq(0xffff_ffff)),
    ]
}

fn syscall() -> impl Strategy<Value = Syscall> {
    let all: Vec<Syscall> = Arch::ALL.into_iter().flat_map(Syscall::all).collect();
    prop_oneof![
        9 => prop::sample::select(all),
        1 => prop_oneof![0..1024_u32, Just(X32_BIT - 1)].prop_map(|n| Syscall::from_number(n).unwrap()),
    ]
}

fn rule() -> impl Strategy<Value = Rule> {
    let arg = (0..6_u8, compare(), value()).prop_map(|(i, c, v)| ArgCompare::new(i, c, v));
    let args = prop_oneof![Just(Vec::new()).boxed(), prop::collection::vec(arg, 1..4).boxed()];
    (prop::collection::vec(syscall(), 0..60), action(), args).prop_map(|(syscalls, action, args)| Rule {
        syscalls,
        action,
        args,
    })
}

fn policy() -> impl Strategy<Value = Policy> {
    (
        action(),
        prop::sample::subsequence(Arch::ALL.to_vec(), 1..=5).prop_shuffle(),
        action(),
        prop::option::of(action()),
        prop::collection::vec(rule(), 0..8),
    )
        .prop_map(|(default, arches, foreign, unknown, rules)| {
            let mut p = Policy::new(default).arches(arches).foreign_arch(foreign);
            p.unknown = unknown;
            p.rules = rules;
            p
        })
}

/// All numbers that a kernel may have, and those at the edges of what a filter tells apart.
fn numbers() -> impl Iterator<Item = u32> {
    (0..1024).chain(X32_BIT - 2..X32_BIT + 1024).chain(0x000f_0000..0x000f_0008).chain([
        0x7fff_ffff,
        0x8000_0000,
        u32::MAX - 1,
        u32::MAX,
        X32_BIT | 0x8000_0000,
    ])
}

/// The policy's own constants and their neighbours, so that conditions hold and just fail to hold.
fn near(policy: &Policy, extra: &[u64]) -> Vec<u64> {
    let mut out = extra.to_vec();
    for arg in policy.rules.iter().flat_map(|r| &r.args) {
        let v = arg.value;
        out.extend([v, v.wrapping_add(1), v.wrapping_sub(1), v ^ (1 << 32), v & 0xffff_ffff]);
        if let Compare::MaskedEq(mask) = arg.compare {
            out.extend([v & mask, v | !mask, mask, !mask]);
        }
    }
    out
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn filter_does_what_the_policy_says(
        policy in policy(),
        extra in prop::collection::vec(value(), 4..32),
        seed in any::<u64>(),
    ) {
        let pool = near(&policy, &extra);
        let mut state = seed | 1;
        let mut next = || {
            // xorshift64: which values meet which numbers need not be any better than this.
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            pool[(state % pool.len() as u64) as usize]
        };
        let filter = policy.compile().unwrap();
        for arch in Arch::ALL.into_iter().map(Arch::audit_arch).chain(OTHER_ARCHES) {
            for nr in numbers() {
                let args = std::array::from_fn(|_| next());
                let call = SyscallData { nr, arch, instruction_pointer: 0x7fff_0000_1234, args };
                prop_assert_eq!(filter.decide(&call), policy.decide(&call), "{:x?}\n{}", call, filter);
            }
        }
    }

    #[test]
    fn one_condition_by_all_comparisons(c in compare(), v in value(), other in value(), index in 0..6_u8) {
        let rule = Rule::new(Action::Allow, ["read"]).unwrap().when(ArgCompare::new(index, c, v));
        let policy = Policy::new(Action::Errno(1)).arches([Arch::X86_64]).rule(rule);
        let filter = policy.compile().unwrap();
        for arg in near(&policy, &[other, 0, u64::MAX]) {
            let mut call = SyscallData { arch: Arch::X86_64.audit_arch(), ..SyscallData::default() };
            call.args = [!arg; 6];
            call.args[usize::from(index)] = arg;
            let expected = match c {
                Compare::Eq => arg == v,
                Compare::Ne => arg != v,
                Compare::Lt => arg < v,
                Compare::Le => arg <= v,
                Compare::Gt => arg > v,
                Compare::Ge => arg >= v,
                Compare::MaskedEq(mask) => (arg ^ v) & mask == 0,
                _ => unreachable!("the strategy makes no other"),
            };
            let expected = if expected { Action::Allow } else { Action::Errno(1) };
            prop_assert_eq!(filter.decide(&call), expected, "{:?} {:#x} {:#x}", c, v, arg);
        }
    }
}

#[test]
fn thousands_of_conditions_compile_or_are_refused() {
    let with = |count: u64| {
        let mut policy = Policy::new(Action::Allow).arches([Arch::X86_64]);
        for value in 0..count {
            let arg = ArgCompare::new(1, Compare::Eq, value << 20);
            policy.rules.push(Rule::new(Action::Errno(1), ["ioctl"]).unwrap().when(arg));
        }
        policy
    };
    let big = with(900);
    let filter = big.compile().unwrap();
    assert!(filter.len() > 3500 && filter.len() <= 4096, "{}", filter.len());
    for request in [0, 450 << 20, 899 << 20, 900 << 20, 1] {
        let args = [0, request, 0, 0, 0, 0];
        let call = SyscallData { nr: 16, arch: Arch::X86_64.audit_arch(), args, ..Default::default() };
        assert_eq!(filter.decide(&call), big.decide(&call), "{request:#x}");
    }
    let err = with(1100).compile().unwrap_err();
    assert_eq!(err.kind(), stockade::ErrorKind::InvalidConfig);
    assert!(err.to_string().contains("4096"), "{err}");
}

#[test]
fn the_x32_bit_passes_no_rule() {
    let deny = Rule::new(Action::Errno(1), ["getpid", "kexec_load"]).unwrap();
    let call = |nr| SyscallData { nr, arch: Arch::X86_64.audit_arch(), ..SyscallData::default() };

    let without = Policy::new(Action::Allow).arches([Arch::X86_64]).foreign_arch(Action::Allow);
    let filter = without.rule(deny.clone()).compile().unwrap();
    for nr in [39, 246, 528, 0, !X32_BIT] {
        assert_eq!(filter.decide(&call(nr | X32_BIT)), Action::Errno(38), "{nr}");
    }

    let with = Policy::new(Action::Allow).arches([Arch::X86_64, Arch::X32]).rule(deny);
    let filter = with.compile().unwrap();
    assert_eq!(filter.decide(&call(39 | X32_BIT)), Action::Errno(1));
    assert_eq!(filter.decide(&call(528 | X32_BIT)), Action::Errno(1));
    assert_eq!(filter.decide(&call(X32_BIT)), Action::Allow);
}

#[test]
fn first_matching_rule_decides() {
    let when = |v| ArgCompare::new(0, Compare::Eq, v);
    let policy = Policy::new(Action::KillProcess)
        .arches([Arch::Aarch64])
        .rule(Rule::new(Action::Errno(10), ["prctl"]).unwrap().when(when(1)))
        .rule(Rule::new(Action::Errno(11), ["prctl"]).unwrap().when(when(1)))
        .rule(Rule::new(Action::Errno(12), ["prctl"]).unwrap().when(when(2)))
        .rule(Rule::new(Action::Allow, ["prctl"]).unwrap())
        .rule(Rule::new(Action::Errno(13), ["prctl"]).unwrap().when(when(3)));
    let filter = policy.compile().unwrap();
    let expected = [(1, Action::Errno(10)), (2, Action::Errno(12)), (3, Action::Allow), (4, Action::Allow)];
    for (arg, expected) in expected {
        let args = [arg, 0, 0, 0, 0, 0];
        let call = SyscallData { nr: 167, arch: Arch::Aarch64.audit_arch(), args, ..Default::default() };
        assert_eq!(filter.decide(&call), expected, "{arg}");
    }
}
