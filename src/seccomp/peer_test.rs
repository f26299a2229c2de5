//! The same policies through `seccompiler`, an independent compiler: the programs must agree. And how long
//! compiling and installing take, printed and never judged.

use std::time::{Duration, Instant};

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    TargetArch,
};

use super::run::run;
use super::{Action, Arch, ArgCompare, Compare, Filter, Policy, Rule, Syscall, SyscallData};
use crate::caps::CapabilitySets;
use crate::sys::seccomp::{BpfInstruction, install};

/// `policy` as seccompiler has it: one action for all rules, one architecture, conditions joined by "and".
fn peer(policy: &Policy, action: SeccompAction, default: SeccompAction) -> Vec<BpfInstruction> {
    let mut rules = std::collections::BTreeMap::<i64, Vec<SeccompRule>>::new();
    for rule in &policy.rules {
        for call in &rule.syscalls {
            let Some(number) = call.number(Arch::X86_64) else { continue };
            let chain = rules.entry(number.into()).or_default();
            if !rule.args.is_empty() {
                chain.push(SeccompRule::new(rule.args.iter().map(condition).collect()).unwrap());
            }
        }
    }
    let filter = SeccompFilter::new(rules, default, action, TargetArch::x86_64).unwrap();
    let program: BpfProgram = filter.try_into().unwrap();
    program.iter().map(|i| BpfInstruction { code: i.code, jt: i.jt, jf: i.jf, k: i.k }).collect()
}

fn condition(arg: &ArgCompare) -> SeccompCondition {
    let op = match arg.compare {
        Compare::Eq => SeccompCmpOp::Eq,
        Compare::Ne => SeccompCmpOp::Ne,
        Compare::Lt => SeccompCmpOp::Lt,
        Compare::Le => SeccompCmpOp::Le,
        Compare::Gt => SeccompCmpOp::Gt,
        Compare::Ge => SeccompCmpOp::Ge,
        Compare::MaskedEq(mask) => SeccompCmpOp::MaskedEq(mask),
    };
    SeccompCondition::new(arg.index, SeccompCmpArgLen::Qword, op, arg.value).unwrap()
}

fn policies() -> Vec<Policy> {
    let rule = |names: &[&str]| Rule::new(Action::Errno(1), names.iter().copied()).unwrap();
    let base = Policy::new(Action::Allow).arches([Arch::X86_64]);
    let mut out = vec![
        base.clone().rule(rule(&["read"])),
        base.clone().rule(rule(&["kexec_load", "init_module", "delete_module", "mount", "umount2"])),
        base.clone().rule(rule(&["read", "write", "open", "close", "stat", "fstat", "mseal"])),
    ];
    for compare in [Compare::Eq, Compare::Ne, Compare::Lt, Compare::Le, Compare::Gt, Compare::Ge] {
        for value in [0, 7, 0xffff_ffff, 0x1_0000_0000, 0x1234_5678_9abc_def0, u64::MAX] {
            out.push(base.clone().rule(rule(&["ioctl", "socket"]).when(ArgCompare::new(1, compare, value))));
        }
    }
    for (mask, value) in
        [(1, 1), (0x7e02_0000, 0), (0xff00_0000_00ff, 0x1200_0000_0034), (0xf << 40, 5 << 40)]
    {
        let first = ArgCompare::new(0, Compare::MaskedEq(mask), value);
        let second = ArgCompare::new(5, Compare::Eq, 3);
        out.push(base.clone().rule(rule(&["clone"]).when(first)).rule(rule(&["clone"]).when(second)));
        out.push(base.clone().rule(rule(&["clone", "prctl"]).when(first).when(second)));
    }
    out
}

#[test]
fn agrees_with_seccompiler() {
    let values = [
        0,
        1,
        3,
        6,
        7,
        8,
        0x34,
        0xffff_ffff,
        0x1_0000_0000,
        0x1_0000_0001,
        0x1200_0000_0034,
        5 << 40,
        u64::MAX,
    ];
    let mut seen = std::collections::HashSet::new();
    for policy in policies() {
        let theirs = peer(&policy, SeccompAction::Errno(1), SeccompAction::Allow);
        let ours = policy.compile().unwrap();
        // It has no x32: numbers from bit 30 on are left out.
        for nr in (0..600).chain([0x3fff_ffff]) {
            for (i, first) in values.iter().enumerate() {
                let args =
                    [*first, values[(i * 7 + nr as usize) % values.len()], 0, 0, 0, 3 * (nr as u64 & 1)];
                for arch in [Arch::X86_64.audit_arch(), Arch::Aarch64.audit_arch()] {
                    let call = SyscallData { nr, arch, args, ..Default::default() };
                    let expected = Action::from_raw(run(&theirs, &call).unwrap().0);
                    assert_eq!(ours.decide(&call), expected, "{call:x?}\n{policy:?}\n{ours}");
                    seen.insert(expected);
                }
            }
        }
    }
    assert_eq!(seen.len(), 3, "{seen:?}");
}

/// What a thread needs to end in peace.
const NEEDED: &str = "brk clock_gettime close exit exit_group futex gettid madvise mmap mprotect munmap read \
    rseq rt_sigaction rt_sigprocmask rt_sigreturn sched_yield seccomp set_robust_list sigaltstack write";

/// 309 of the calls of x86_64, with holes at even distances.
fn allow_309() -> Policy {
    let mut calls: Vec<Syscall> = Syscall::all(Arch::X86_64).collect();
    calls.sort_unstable_by_key(|c| c.number(Arch::X86_64));
    let mut holes = calls.len() - 309;
    let step = calls.len() / holes - 1;
    let mut since = 0;
    calls.retain(|c| {
        since += 1;
        let needed = NEEDED.split_whitespace().any(|n| Some(n) == c.name());
        let hole = holes > 0 && since > step && !needed;
        if hole {
            (holes, since) = (holes - 1, 0);
        }
        !hole
    });
    calls.truncate(309);
    Policy::new(Action::Errno(1)).rule(Rule { syscalls: calls, action: Action::Allow, args: Vec::new() })
}

#[test]
fn the_search_is_balanced() {
    let filter = allow_309().compile().unwrap();
    for arch in [Arch::X86_64, Arch::X86] {
        let steps = |nr| filter.steps(&SyscallData { nr, arch: arch.audit_arch(), ..Default::default() });
        let (sum, most) = (0..470).map(steps).fold((0, 0), |(sum, most), n| (sum + n, n.max(most)));
        assert!(sum < 470 * 14 && most <= 18, "{arch}: {sum} steps for all, {most} for one");
    }
}

/// The least time of `n` runs.
fn least(n: usize, mut f: impl FnMut() -> Duration) -> Duration {
    (0..n).map(|_| f()).min().unwrap_or_default()
}

fn timed<T>(f: impl FnOnce() -> T) -> Duration {
    let start = Instant::now();
    std::hint::black_box(f());
    start.elapsed()
}

/// The least time to install `program`, each on a thread that ends with it.
fn install_time(program: &[BpfInstruction]) -> Duration {
    least(20, || {
        std::thread::scope(|s| {
            let one = s.spawn(|| {
                rustix::thread::set_no_new_privs(true).unwrap();
                timed(|| install(program, 0).unwrap())
            });
            one.join().unwrap()
        })
    })
}

/// Instructions that the kernel runs at installation, about: all numbers of the two ABIs that it prepares.
fn prepared_steps(program: &[BpfInstruction]) -> usize {
    let call = |arch: Arch, nr| SyscallData { nr, arch: arch.audit_arch(), ..Default::default() };
    let all = |arch| (0..470).map(|nr| run(program, &call(arch, nr)).map_or(0, |r| r.1)).sum::<usize>();
    all(Arch::X86_64) + all(Arch::X86)
}

#[test]
#[allow(clippy::print_stderr)]
fn print_timings() {
    let oci = Policy::oci_default(CapabilitySets::docker_default().bounding);
    let default = Policy::system_default();
    for (name, policy) in [
        ("309 allowed", allow_309()),
        ("309 allowed, x86_64 alone", allow_309().arches([Arch::X86_64])),
        ("oci default", oci.clone()),
        ("oci default, x86_64 alone", oci.arches([Arch::X86_64])),
        ("system default", default),
    ] {
        let filter = Filter::cached(&policy).unwrap();
        let compile = least(5, || timed(|| policy.compile().unwrap()));
        let lookup = least(50, || timed(|| Filter::cached(&policy).unwrap()));
        eprintln!(
            "{name}: {} instructions, {} steps over all numbers, compile {compile:?}, cached {lookup:?}, \
             install {:?}",
            filter.len(),
            prepared_steps(filter.instructions()),
            install_time(filter.instructions()),
        );
        assert!(filter.len() <= 4096);
    }
    let linear = peer(&allow_309(), SeccompAction::Allow, SeccompAction::Errno(1));
    eprintln!(
        "309 allowed, seccompiler: {} instructions, {} steps, install {:?}",
        linear.len(),
        prepared_steps(&linear),
        install_time(&linear)
    );
}
