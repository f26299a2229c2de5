//! From a policy to a program of the kernel's.
//!
//! The rules are first brought into a table that has one answer for every device: for each kind the major numbers that
//! differ from all others, in each the minor numbers that differ. Rules that overlap, repeat or take back one another
//! are gone by then. The program looks its device up in the table:
//!
//! ```text
//!       split the context into kind, access, major, minor
//!       unless kind is char: to BLOCK
//!         unless major is 1: over this part
//!           unless minor is 3: over the next
//!             to ALLOW rwm
//!           to ALLOW m
//!         to ALLOW m
//! BLOCK unless kind is block: to DENY
//!         ...
//! ALLOW m     if access has r or w: to DENY
//!             return 1
//! DENY        return 0
//! ```
//! A path ends soon after it leaves the row of comparisons, so the verifier's work grows with the length alone.

use std::collections::BTreeSet;

use super::rule::{DeviceAccess, DeviceKind, DevicePolicy, DeviceVerdict, Line};
use crate::error::{Error, Result};
use crate::sys::bpf::Instruction;

/// Jumps reach 32,767 instructions far.
const LENGTH_MAX: usize = 30_000;

// Parts of `code`, linux/bpf.h.
pub(super) const LOAD_WORD: u8 = 0x61;
pub(super) const MOVE: u8 = 0xbc;
pub(super) const SET: u8 = 0xb4;
pub(super) const AND: u8 = 0x54;
pub(super) const SHIFT_RIGHT: u8 = 0x74;
pub(super) const JUMP: u8 = 0x05;
pub(super) const JUMP_UNLESS_EQUAL: u8 = 0x55;
pub(super) const JUMP_IF_ANY: u8 = 0x45;
pub(super) const EXIT: u8 = 0x95;

const RESULT: u8 = 0;
const CONTEXT: u8 = 1;
const KIND: u8 = 2;
const MAJOR: u8 = 3;
const MINOR: u8 = 4;
const ACCESS: u8 = 5;

/// `BPF_DEVCG_DEV_*`.
const BLOCK: i32 = 1;
const CHAR: i32 = 2;

/// What is allowed on one device, as bits of [`DeviceAccess`].
pub(super) fn allowed(policy: &DevicePolicy, kind: DeviceKind, major: u32, minor: u32) -> u8 {
    let of_major = of_kind(policy, kind);
    let of_major = of_major.filter(|l| l.rule.major().is_none_or(|n| n == major));
    answer(policy, of_major, Some(minor))
}

fn of_kind(policy: &DevicePolicy, kind: DeviceKind) -> impl Iterator<Item = &Line> + Clone {
    policy.lines().iter().filter(move |line| line.rule.kind().covers(kind))
}

/// The answer of `lines` for a minor number; for one that none of them names with `None`.
fn answer<'a>(policy: &DevicePolicy, lines: impl Iterator<Item = &'a Line>, minor: Option<u32>) -> u8 {
    let first = match policy.default_verdict() {
        DeviceVerdict::Allow => DeviceAccess::ALL.bits(),
        DeviceVerdict::Deny => 0,
    };
    let matching = lines.filter(|l| l.rule.minor().is_none() || l.rule.minor() == minor);
    matching.fold(first, |bits, line| match line.verdict {
        DeviceVerdict::Allow => bits | line.rule.access().bits(),
        DeviceVerdict::Deny => bits & !line.rule.access().bits(),
    })
}

/// The answers for one major number, or for all that have none of their own.
#[derive(Debug, PartialEq, Eq)]
struct Minors {
    different: Vec<(u32, u8)>,
    other: u8,
}

impl Minors {
    /// With `None` for a major number that no rule names.
    fn of(policy: &DevicePolicy, kind: DeviceKind, major: Option<u32>) -> Self {
        let lines: Vec<&Line> = of_kind(policy, kind)
            .filter(|line| line.rule.major().is_none() || line.rule.major() == major)
            .collect();
        let other = answer(policy, lines.iter().copied(), None);
        let named: BTreeSet<u32> = lines.iter().filter_map(|line| line.rule.minor()).collect();
        let answers = named.into_iter().map(|n| (n, answer(policy, lines.iter().copied(), Some(n))));
        Self { different: answers.filter(|(_, bits)| *bits != other).collect(), other }
    }

    fn length(&self) -> usize {
        2 * self.different.len() + 1
    }
}

/// Makes the program.
///
/// # Errors
/// [`InvalidConfig`](crate::ErrorKind::InvalidConfig): it would be too long.
pub(super) fn compile(policy: &DevicePolicy) -> Result<Vec<Instruction>> {
    let mut program = Program::default();
    program.add(LOAD_WORD, KIND, CONTEXT, 0, 0);
    program.add(MOVE, ACCESS, KIND, 0, 0);
    program.add(SHIFT_RIGHT, ACCESS, 0, 0, 16);
    program.add(AND, KIND, 0, 0, 0xffff);
    program.add(LOAD_WORD, MAJOR, CONTEXT, 4, 0);
    program.add(LOAD_WORD, MINOR, CONTEXT, 8, 0);
    let to_block = program.add(JUMP_UNLESS_EQUAL, KIND, 0, 0, CHAR);
    program.kind(policy, DeviceKind::Char)?;
    program.land(to_block);
    let to_deny = program.add(JUMP_UNLESS_EQUAL, KIND, 0, 0, BLOCK);
    program.kind(policy, DeviceKind::Block)?;
    program.answers(to_deny);
    Ok(program.code)
}

#[derive(Default)]
struct Program {
    code: Vec<Instruction>,
    /// Jumps that lead to an answer, with its bits.
    to_answers: Vec<(usize, u8)>,
}

impl Program {
    /// Adds an instruction; gives its place.
    fn add(&mut self, code: u8, to: u8, from: u8, offset: i16, immediate: i32) -> usize {
        let registers = if cfg!(target_endian = "little") { to | from << 4 } else { to << 4 | from };
        self.code.push(Instruction { code, registers, offset, immediate });
        self.code.len() - 1
    }

    /// Lets the jump at `from` lead to what comes next.
    fn land(&mut self, from: usize) {
        // Below LENGTH_MAX, see `kind`.
        self.code[from].offset = (self.code.len() - from - 1) as i16;
    }

    fn kind(&mut self, policy: &DevicePolicy, kind: DeviceKind) -> Result<()> {
        let named: BTreeSet<u32> = of_kind(policy, kind).filter_map(|line| line.rule.major()).collect();
        let other = Minors::of(policy, kind, None);
        for major in named {
            let minors = Minors::of(policy, kind, Some(major));
            if minors == other {
                continue;
            }
            self.has_room(minors.length())?;
            let over = self.add(JUMP_UNLESS_EQUAL, MAJOR, 0, 0, major as i32);
            self.minors(&minors);
            self.land(over);
        }
        self.has_room(other.length())?;
        self.minors(&other);
        Ok(())
    }

    fn has_room(&self, more: usize) -> Result<()> {
        // Eight answers at the end are three instructions each at most.
        if self.code.len() + more + 40 <= LENGTH_MAX {
            return Ok(());
        }
        let why = format!("its program would be longer than {LENGTH_MAX} instructions");
        Err(Error::invalid("device policy", why))
    }

    fn minors(&mut self, minors: &Minors) {
        for (minor, bits) in &minors.different {
            self.add(JUMP_UNLESS_EQUAL, MINOR, 0, 1, *minor as i32);
            self.jump_to_answer(*bits);
        }
        self.jump_to_answer(minors.other);
    }

    fn jump_to_answer(&mut self, bits: u8) {
        let at = self.add(JUMP, 0, 0, 0, 0);
        self.to_answers.push((at, bits));
    }

    /// The ends of the program. Only those that are led to: the verifier takes no other.
    fn answers(&mut self, to_deny: usize) {
        let mut denials = vec![to_deny];
        let all = std::mem::take(&mut self.to_answers);
        for bits in 0..=DeviceAccess::ALL.bits() {
            let mut jumps = all.iter().filter(|(_, to)| *to == bits).map(|(at, _)| *at).peekable();
            if jumps.peek().is_none() {
                continue;
            }
            jumps.for_each(|at| self.land(at));
            let denied = DeviceAccess::ALL.bits() & !bits;
            if denied != 0 {
                denials.push(self.add(JUMP_IF_ANY, ACCESS, 0, 0, i32::from(denied)));
            }
            self.add(SET, RESULT, 0, 0, 1);
            self.add(EXIT, 0, 0, 0, 0);
        }
        for at in denials {
            self.land(at);
        }
        self.add(SET, RESULT, 0, 0, 0);
        self.add(EXIT, 0, 0, 0, 0);
    }
}
