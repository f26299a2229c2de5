//! From a policy to BPF: intervals of numbers, a search tree over them, conditions as its leaves.

use std::collections::HashMap;

use super::arch::{Arch, X32_BIT};
use super::asm::{self, Assembler, JEQ, JGE, JGT, JSET, Target};
use super::policy::{Action, ArgCompare, Compare, Policy};
use super::tables;
use crate::error::{Error, Result};
use crate::sys::seccomp::BpfInstruction;

/// `BPF_MAXINSNS`.
pub(super) const MAX_INSTRUCTIONS: usize = 4096;

/// About how many numbers the kernel runs a filter for when it is installed (`NR_syscalls`).
const PREPARED: u32 = 480;

/// What happens to a number: conditions in order, each with the value to return, then a value.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Outcome {
    tests: Vec<(Vec<ArgCompare>, u32)>,
    otherwise: u32,
}

impl Outcome {
    fn always(value: u32) -> Self {
        Self { tests: Vec::new(), otherwise: value }
    }

    /// Leaves out what cannot change the result.
    fn simplify(&mut self) {
        while self.tests.last().is_some_and(|(_, value)| *value == self.otherwise) {
            self.tests.pop();
        }
    }
}

/// From `start` up to the next interval's start.
struct Interval {
    start: u32,
    outcome: Outcome,
    /// How much it counts when the tree is balanced.
    weight: u64,
}

pub(super) fn compile(policy: &Policy) -> Result<Vec<BpfInstruction>> {
    policy.validate()?;
    let mut asm = Assembler::default();
    let mut chains = HashMap::new();

    let mut blocks: Vec<(u32, Vec<Interval>)> = Vec::new();
    for arch in &policy.arches {
        let value = arch.audit_arch();
        if blocks.iter().all(|(v, _)| *v != value) {
            blocks.push((value, intervals(policy, value)));
        }
    }
    // Backwards, so that the first listed comes first in the program.
    let mut next = Target::Return(policy.foreign_arch.to_raw());
    let mut entries = Vec::new();
    for (value, intervals) in blocks.iter().rev() {
        let tree = search(&mut asm, &mut chains, intervals);
        let entry = match tree {
            Target::Return(_) => tree,
            Target::At(_) if intervals.len() == 1 => tree,
            Target::At(_) => asm.load(asm::NR, tree),
        };
        entries.push((*value, entry));
    }
    for (value, entry) in entries {
        next = asm.branch(JEQ, value, entry, next);
    }
    let start = asm.load(asm::ARCH, next);
    let program = asm.finish(start);

    if program.len() > MAX_INSTRUCTIONS {
        return Err(Error::invalid(
            "seccomp policy",
            format!("needs {} BPF instructions; the kernel takes at most {MAX_INSTRUCTIONS}", program.len()),
        )
        .hint("use fewer conditions on arguments, or fewer architectures"));
    }
    Ok(program)
}

/// The whole range of numbers of one architecture value, cut where the outcome changes.
fn intervals(policy: &Policy, audit_arch: u32) -> Vec<Interval> {
    let mut points: Vec<(u32, Outcome)> = Vec::new();
    let has_x32 = audit_arch == Arch::X32.audit_arch();
    let foreign = Outcome::always(policy.foreign_arch.to_raw());
    let listed = |arch| policy.arches.contains(&arch).then_some(arch);
    let native = policy.arches.iter().copied().find(|a| a.audit_arch() == audit_arch && *a != Arch::X32);

    let low_end = if has_x32 { X32_BIT - 1 } else { u32::MAX };
    abi_points(policy, native, (0, low_end), &foreign, &mut points);
    if has_x32 {
        let enosys = Outcome::always(Action::Errno(libc::ENOSYS as u16).to_raw());
        let fallback = if native.is_some() { enosys } else { foreign };
        abi_points(policy, listed(Arch::X32), (X32_BIT, u32::MAX), &fallback, &mut points);
    }

    let mut out: Vec<Interval> = Vec::new();
    for (start, outcome) in points {
        if out.last().is_none_or(|last| last.outcome != outcome) {
            out.push(Interval { start, outcome, weight: 0 });
        }
    }
    let mut end = u32::MAX;
    for interval in out.iter_mut().rev() {
        let prepared = end.min(PREPARED) - interval.start.min(PREPARED);
        // Numbers that are never prepared are x32's and rubbish; they cost at most a few steps more.
        interval.weight = u64::from(prepared) * 16 + 1;
        end = interval.start;
    }
    out
}

/// Appends `(number, outcome)` for `range`, ascending: each holds up to the next number.
fn abi_points(
    policy: &Policy,
    arch: Option<Arch>,
    range: (u32, u32),
    unlisted: &Outcome,
    points: &mut Vec<(u32, Outcome)>,
) {
    let Some(arch) = arch else {
        points.push((range.0, unlisted.clone()));
        return;
    };
    let default = policy.default_action.to_raw();
    let unknown = policy.unknown.map_or(default, Action::to_raw);

    let mut special: HashMap<u32, Outcome> = HashMap::new();
    if unknown != default {
        special.extend(tables::calls(arch).map(|(_, number)| (number, Outcome::always(default))));
    }
    // Backwards: a rule without conditions replaces what later rules say, one with conditions goes before it.
    for rule in policy.rules.iter().rev() {
        for number in rule.syscalls.iter().filter_map(|s| s.number(arch)) {
            let outcome = special.entry(number).or_insert_with(|| Outcome::always(unknown));
            if rule.args.is_empty() {
                *outcome = Outcome::always(rule.action.to_raw());
            } else {
                outcome.tests.insert(0, (rule.args.clone(), rule.action.to_raw()));
                outcome.simplify();
            }
        }
    }

    let mut special: Vec<_> = special.into_iter().collect();
    special.sort_unstable_by_key(|(number, _)| *number);
    let mut next = Some(range.0);
    for (number, outcome) in special {
        if let Some(gap) = next.filter(|n| *n < number) {
            points.push((gap, Outcome::always(unknown)));
        }
        points.push((number, outcome));
        next = number.checked_add(1).filter(|n| *n <= range.1);
    }
    if let Some(rest) = next {
        points.push((rest, Outcome::always(unknown)));
    }
}

type Chains = HashMap<Outcome, Target>;

/// Writes the tree for `part`, with the number loaded.
fn search(asm: &mut Assembler, chains: &mut Chains, part: &[Interval]) -> Target {
    match part {
        [] => Target::Return(libc::SECCOMP_RET_KILL_PROCESS),
        [one] => leaf(asm, chains, &one.outcome),
        [left, right] => {
            let no = leaf(asm, chains, &left.outcome);
            let yes = leaf(asm, chains, &right.outcome);
            asm.branch(JGE, right.start, yes, no)
        }
        // One number inside a run: a single test for equality instead of two for order.
        [left, one, right] if left.outcome == right.outcome && right.start - one.start == 1 => {
            let no = leaf(asm, chains, &left.outcome);
            let yes = leaf(asm, chains, &one.outcome);
            asm.branch(JEQ, one.start, yes, no)
        }
        _ => {
            let middle = balance(part);
            let (left, right) = part.split_at(middle);
            let yes = search(asm, chains, right);
            let no = search(asm, chains, left);
            asm.branch(JGE, right[0].start, yes, no)
        }
    }
}

/// Where to cut `part` so that both halves hold about as many numbers that the kernel will look up.
fn balance(part: &[Interval]) -> usize {
    let total: u64 = part.iter().map(|i| i.weight).sum();
    let (mut left, mut best, mut best_difference) = (0, 1, u64::MAX);
    for cut in 1..part.len() {
        left += part[cut - 1].weight;
        let difference = left.abs_diff(total - left);
        if difference < best_difference {
            (best, best_difference) = (cut, difference);
        }
    }
    best
}

fn leaf(asm: &mut Assembler, chains: &mut Chains, outcome: &Outcome) -> Target {
    if outcome.tests.is_empty() {
        return Target::Return(outcome.otherwise);
    }
    if let Some(known) = chains.get(outcome) {
        return *known;
    }
    let mut next = Target::Return(outcome.otherwise);
    for (args, value) in outcome.tests.iter().rev() {
        let mut matched = Target::Return(*value);
        for arg in args.iter().rev() {
            matched = compare(asm, *arg, matched, next);
        }
        next = matched;
    }
    chains.insert(outcome.clone(), next);
    next
}

/// Writes one 64-bit comparison as two of 32 bits, the upper halves first.
fn compare(asm: &mut Assembler, arg: ArgCompare, yes: Target, no: Target) -> Target {
    if yes == no {
        return yes;
    }
    match arg.compare {
        Compare::Eq => equal(asm, arg, yes, no),
        Compare::Ne => equal(asm, arg, no, yes),
        Compare::Gt => ordered(asm, JGT, arg, yes, no),
        Compare::Ge => ordered(asm, JGE, arg, yes, no),
        Compare::Lt => ordered(asm, JGE, arg, no, yes),
        Compare::Le => ordered(asm, JGT, arg, no, yes),
        Compare::MaskedEq(mask) => {
            let (low, high) = halves(arg.value & mask);
            let (mask_low, mask_high) = halves(mask);
            let then = masked(asm, asm::arg_low(arg.index), mask_low, low, yes, no);
            masked(asm, asm::arg_high(arg.index), mask_high, high, then, no)
        }
    }
}

fn equal(asm: &mut Assembler, arg: ArgCompare, yes: Target, no: Target) -> Target {
    let (low, high) = halves(arg.value);
    let test = asm.branch(JEQ, low, yes, no);
    let then = asm.load(asm::arg_low(arg.index), test);
    let test = asm.branch(JEQ, high, then, no);
    asm.load(asm::arg_high(arg.index), test)
}

/// `op` is the test of the lower halves: [`JGT`] or [`JGE`].
fn ordered(asm: &mut Assembler, op: u16, arg: ArgCompare, yes: Target, no: Target) -> Target {
    let (low, high) = halves(arg.value);
    let test = asm.branch(op, low, yes, no);
    let then = asm.load(asm::arg_low(arg.index), test);
    let test = asm.branch(JEQ, high, then, no);
    let test = asm.branch(JGT, high, yes, test);
    asm.load(asm::arg_high(arg.index), test)
}

/// Compares the bits of `mask` of the word at `offset`; `value` has no others.
fn masked(asm: &mut Assembler, offset: u32, mask: u32, value: u32, yes: Target, no: Target) -> Target {
    let test = match mask {
        0 => return yes,
        u32::MAX => asm.branch(JEQ, value, yes, no),
        _ if value == 0 => asm.branch(JSET, mask, no, yes),
        _ if mask.is_power_of_two() => asm.branch(JSET, mask, yes, no),
        _ => {
            let test = asm.branch(JEQ, value, yes, no);
            asm.and(mask, test)
        }
    };
    asm.load(offset, test)
}

fn halves(value: u64) -> (u32, u32) {
    ((value & 0xffff_ffff) as u32, (value >> 32) as u32)
}
