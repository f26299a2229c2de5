//! The programs, run by an interpreter of their few instructions beside a plain reading of the rules, and loaded.

#![expect(clippy::print_stderr, reason = "how long the loads took")]

use proptest::prelude::*;

use super::program::{
    self, AND, EXIT, JUMP, JUMP_IF_ANY, JUMP_UNLESS_EQUAL, LOAD_WORD, MOVE, SET, SHIFT_RIGHT,
};
use super::{
    CACHED, DeviceAccess, DeviceKind, DevicePolicy, DeviceProgram, DevicePrograms, DeviceRule, DeviceVerdict,
    NAME,
};
use crate::sys::bpf::{self, Instruction};

/// Runs a program on a context. Only forward jumps, or it would not end.
fn run(code: &[Instruction], context: [u32; 3]) -> u32 {
    let mut r = [0_u32; 11];
    let mut at = 0;
    loop {
        let Instruction { code: op, registers, offset, immediate } = code[at];
        let (to, from) = (usize::from(registers & 15), usize::from(registers >> 4));
        at += 1;
        let mut jump = |taken: bool| {
            assert!(offset >= 0, "jumps back at {at}");
            at += if taken { offset as usize } else { 0 };
        };
        match op {
            LOAD_WORD => r[to] = context[offset as usize / 4],
            MOVE => r[to] = r[from],
            SET => r[to] = immediate as u32,
            AND => r[to] &= immediate as u32,
            SHIFT_RIGHT => r[to] >>= immediate,
            JUMP => jump(true),
            JUMP_UNLESS_EQUAL => jump(r[to] != immediate as u32),
            JUMP_IF_ANY => jump(r[to] & immediate as u32 != 0),
            EXIT => return r[0],
            other => panic!("instruction {other:#x}"),
        }
    }
}

/// Asks as the kernel does (`devcgroup_check_permission`).
fn ask(code: &[Instruction], kind: DeviceKind, major: u32, minor: u32, access: u8) -> bool {
    let kind = match kind {
        DeviceKind::Block => 1,
        DeviceKind::Char => 2,
        DeviceKind::All => panic!("no device is both"),
    };
    run(code, [u32::from(access) << 16 | kind, major, minor]) == 1
}

/// The rules read as they are written: for each access by itself the last one that names it.
fn by_the_rules(policy: &DevicePolicy, kind: DeviceKind, major: u32, minor: u32, access: u8) -> bool {
    [DeviceAccess::MKNOD, DeviceAccess::READ, DeviceAccess::WRITE].into_iter().all(|one| {
        if access & one.bits() == 0 {
            return true;
        }
        let mut verdict = policy.default_verdict();
        for (v, rule) in policy.rules() {
            let of_kind = rule.kind() == DeviceKind::All || rule.kind() == kind;
            let of_major = rule.major().is_none() || rule.major() == Some(major);
            let of_minor = rule.minor().is_none() || rule.minor() == Some(minor);
            if of_kind && of_major && of_minor && rule.access().contains(one) {
                verdict = v;
            }
        }
        verdict == DeviceVerdict::Allow
    })
}

fn number(max: u32) -> impl Strategy<Value = Option<u32>> {
    // Few numbers, so that rules meet; and the ends.
    prop_oneof![3 => Just(None), 6 => (0..4_u32).prop_map(Some), 1 => Just(Some(max))]
}

fn policy() -> impl Strategy<Value = DevicePolicy> {
    let kind = prop_oneof![Just(DeviceKind::All), Just(DeviceKind::Block), Just(DeviceKind::Char)];
    let access = (1..8_u8).prop_map(|bits| {
        let all = [DeviceAccess::MKNOD, DeviceAccess::READ, DeviceAccess::WRITE];
        all.into_iter().filter(|a| a.bits() & bits != 0).reduce(DeviceAccess::union).unwrap()
    });
    let rule = (kind, number(4095), number(1_048_575), access)
        .prop_map(|(kind, major, minor, access)| DeviceRule::new(kind, major, minor, access).unwrap());
    let verdict = prop_oneof![Just(DeviceVerdict::Allow), Just(DeviceVerdict::Deny)];
    let first = prop_oneof![Just(DevicePolicy::allow_all()), Just(DevicePolicy::deny_all())];
    (first, prop::collection::vec((verdict, rule), 0..24))
        .prop_map(|(first, rules)| rules.into_iter().fold(first, |p, (v, r)| p.rule(v, r)))
}

/// Every question that can have another answer.
fn questions() -> impl Iterator<Item = (DeviceKind, u32, u32, u8)> {
    [DeviceKind::Block, DeviceKind::Char].into_iter().flat_map(|kind| {
        [0, 1, 2, 3, 4, 77, 4095].into_iter().flat_map(move |major| {
            [0, 1, 2, 3, 4, 99_999, 1_048_575]
                .into_iter()
                .flat_map(move |minor| (0..8).map(move |access| (kind, major, minor, access)))
        })
    })
}

/// Whether programs can be loaded here; says loudly where not.
fn can_load() -> bool {
    match DeviceProgram::load(&DevicePolicy::deny_all()) {
        Ok(_) => true,
        Err(e) if support::privilege().is_err() => {
            support::skip(e);
            false
        }
        Err(e) => panic!("{e}"),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]
    #[test]
    fn a_program_answers_as_its_rules_do(policy in policy()) {
        let code = program::compile(&policy).unwrap();
        for (kind, major, minor, access) in questions() {
            let expected = by_the_rules(&policy, kind, major, minor, access);
            prop_assert_eq!(
                ask(&code, kind, major, minor, access), expected,
                "{:?} {}:{} access {}", kind, major, minor, access
            );
            let allowed = program::allowed(&policy, kind, major, minor);
            prop_assert_eq!(allowed & access == access, expected);
        }
        // No device is of another kind than these.
        prop_assert_eq!(run(&code, [1 << 16 | 3, 0, 0]), 0);
    }
}

#[test]
fn rules_without_effect_leave_no_instruction() {
    let rule = |text: &str| text.parse::<DeviceRule>().unwrap();
    let length = |p: &DevicePolicy| program::compile(p).unwrap().len();
    let plain = length(&DevicePolicy::deny_all());
    let policy =
        DevicePolicy::deny_all().deny(rule("c 1:3 rwm")).allow(rule("b 8:0 r")).deny(rule("b 8:* rwm"));
    assert_eq!(length(&policy), plain);
    // Three hundred minor numbers of one driver, and then all of it.
    let many = (0..300).fold(DevicePolicy::deny_all(), |p, n| p.allow(rule(&format!("c 136:{n} rwm"))));
    let all = many.clone().allow(rule("c 136:* rwm"));
    assert!(length(&many) > 600);
    assert_eq!(length(&all), length(&DevicePolicy::deny_all().allow(rule("c 136:* rwm"))));
}

#[test]
fn the_kernel_takes_the_programs_of_long_lists() {
    let _serial = support::serial();
    if !can_load() {
        return;
    }
    let rule = |text: String| text.parse::<DeviceRule>().unwrap();
    let accesses = ["r", "w", "m", "rw", "rm", "wm", "rwm"];
    let majors = (0..1024_usize)
        .fold(DevicePolicy::deny_all(), |p, n| p.allow(rule(format!("c {n}:{} {}", n % 9, accesses[n % 7]))));
    let minors = (0..1024_usize)
        .fold(DevicePolicy::allow_all(), |p, n| p.deny(rule(format!("b 8:{} {}", n * 3, accesses[n % 7]))));
    // 120 x 120 pairs with an answer of their own: the longest that is taken.
    let cross = (0..120).fold(DevicePolicy::deny_all(), |p, n| {
        p.allow(rule(format!("c {n}:* r"))).allow(rule(format!("c *:{n} w")))
    });
    for (name, policy) in [
        ("standard", DevicePolicy::standard()),
        ("all", DevicePolicy::allow_all()),
        ("1,024 major numbers", majors),
        ("1,024 minor numbers", minors),
        ("120 x 120", cross),
    ] {
        policy.validate().unwrap();
        let begin = std::time::Instant::now();
        let code = program::compile(&policy).unwrap();
        let compiled = begin.elapsed();
        let loaded = bpf::load_device_program(&code, NAME);
        loaded.unwrap_or_else(|e| panic!("{name}, {} instructions: {e}", code.len()));
        let took = begin.elapsed() - compiled;
        eprintln!("{name}: {} instructions, compiled in {compiled:?}, loaded in {took:?}", code.len());
    }
}

#[test]
fn the_verifier_takes_every_program() {
    let _serial = support::serial();
    if !can_load() {
        return;
    }
    let config = ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(64) };
    let mut runner = proptest::test_runner::TestRunner::new(config);
    let loads = |policy: DevicePolicy| {
        DeviceProgram::load(&policy).map(drop).map_err(|e| TestCaseError::fail(e.to_string()))
    };
    runner.run(&policy(), loads).unwrap();
}

#[test]
fn programs_are_loaded_once_and_the_least_used_goes() {
    let _serial = support::serial();
    if !can_load() {
        return;
    }
    let policy =
        |n: usize| DevicePolicy::deny_all().allow(format!("c {n}:1 r").parse::<DeviceRule>().unwrap());
    let programs = DevicePrograms::default();
    let first = programs.get(&policy(0)).unwrap();
    for n in 1..=CACHED {
        assert!(std::sync::Arc::ptr_eq(&programs.get(&policy(0)).unwrap().0, &first.0));
        programs.get(&policy(n)).unwrap();
    }
    let kept = |n| programs.entries().iter().any(|(known, _)| *known == policy(n));
    assert_eq!(programs.entries().len(), CACHED);
    assert!(kept(0) && kept(CACHED) && !kept(1));
}
