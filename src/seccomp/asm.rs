//! An assembler for classic BPF that writes the program from its end.
//!
//! Every jump of BPF goes forward, so a program written backwards always knows its targets. The conditional
//! jumps reach 255 instructions; a target further away gets a copy of its `return`, or a plain jump with a
//! 32-bit distance, put right behind the conditional one.

use crate::sys::seccomp::BpfInstruction;

/// `struct seccomp_data`, little-endian.
pub(super) const NR: u32 = 0;
pub(super) const ARCH: u32 = 4;

/// Where the lower half of argument `index` is.
pub(super) const fn arg_low(index: u8) -> u32 {
    16 + 8 * index as u32
}

/// Where the upper half of argument `index` is.
pub(super) const fn arg_high(index: u8) -> u32 {
    arg_low(index) + 4
}

pub(super) const LD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
pub(super) const AND: u16 = (libc::BPF_ALU | libc::BPF_AND | libc::BPF_K) as u16;
pub(super) const RET: u16 = (libc::BPF_RET | libc::BPF_K) as u16;
pub(super) const JA: u16 = (libc::BPF_JMP | libc::BPF_JA) as u16;
pub(super) const JEQ: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
pub(super) const JGT: u16 = (libc::BPF_JMP | libc::BPF_JGT | libc::BPF_K) as u16;
pub(super) const JGE: u16 = (libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K) as u16;
pub(super) const JSET: u16 = (libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K) as u16;

/// Short of 255 by what one conditional jump may put between itself and its targets.
const REACH: usize = 250;

/// Where a jump goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Target {
    /// Returns this value.
    Return(u32),
    /// The instruction that was written as this one, counted from the end.
    At(usize),
}

/// The program, last instruction first.
#[derive(Default)]
pub(super) struct Assembler {
    code: Vec<BpfInstruction>,
    /// The nearest `return` of each value. A policy has few values.
    returns: Vec<(u32, usize)>,
}

impl Assembler {
    /// A conditional jump; the place that it was written to.
    pub(super) fn branch(&mut self, op: u16, k: u32, yes: Target, no: Target) -> Target {
        if yes == no {
            return yes;
        }
        let yes = self.near(yes);
        let no = self.near(no);
        let here = self.code.len();
        // `near` leaves both within REACH plus the two instructions that it may have written.
        let distance = |at: usize| u8::try_from(here - at - 1).unwrap_or(u8::MAX);
        self.push(op, distance(yes), distance(no), k)
    }

    /// Loads the word at `offset`, then goes on at `then`.
    pub(super) fn load(&mut self, offset: u32, then: Target) -> Target {
        self.fall_into(then);
        self.push(LD, 0, 0, offset)
    }

    /// Keeps the bits of `mask`, then goes on at `then`.
    pub(super) fn and(&mut self, mask: u32, then: Target) -> Target {
        self.fall_into(then);
        self.push(AND, 0, 0, mask)
    }

    /// The finished program, which starts at `start`.
    pub(super) fn finish(mut self, start: Target) -> Vec<BpfInstruction> {
        self.fall_into(start);
        self.code.reverse();
        self.code
    }

    /// Makes `target` what comes next.
    fn fall_into(&mut self, target: Target) {
        match target {
            Target::Return(value) => {
                self.push(RET, 0, 0, value);
                self.remember(value);
            }
            Target::At(at) if at + 1 == self.code.len() => {}
            Target::At(at) => {
                self.jump(at);
            }
        }
    }

    /// An instruction within reach that does what `target` does.
    fn near(&mut self, target: Target) -> usize {
        let reach = |at: usize, len: usize| len - at <= REACH;
        match target {
            Target::At(at) if reach(at, self.code.len()) => at,
            Target::At(at) => self.jump(at),
            Target::Return(value) => {
                let known = self.returns.iter().find(|(v, _)| *v == value).map(|(_, at)| *at);
                match known.filter(|at| reach(*at, self.code.len())) {
                    Some(at) => at,
                    None => {
                        self.push(RET, 0, 0, value);
                        self.remember(value)
                    }
                }
            }
        }
    }

    fn jump(&mut self, at: usize) -> usize {
        let distance = self.code.len() - at - 1;
        // A program of more than 4096 instructions is refused, so the distance always fits.
        self.push(JA, 0, 0, u32::try_from(distance).unwrap_or(u32::MAX));
        self.code.len() - 1
    }

    /// The last instruction is the nearest `return` of `value` from now on.
    fn remember(&mut self, value: u32) -> usize {
        let at = self.code.len() - 1;
        match self.returns.iter_mut().find(|(v, _)| *v == value) {
            Some(known) => known.1 = at,
            None => self.returns.push((value, at)),
        }
        at
    }

    fn push(&mut self, code: u16, jt: u8, jf: u8, k: u32) -> Target {
        self.code.push(BpfInstruction { code, jt, jf, k });
        Target::At(self.code.len() - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_out_of_reach_get_a_jump_or_a_copy() {
        let mut asm = Assembler::default();
        let far = asm.branch(JEQ, 7, Target::Return(70), Target::Return(71));
        let mut chain = far;
        for k in 1000..1600 {
            chain = asm.branch(JEQ, k, Target::Return(k), chain);
        }
        let start = asm.branch(JEQ, 1, far, chain);
        let start = asm.branch(JEQ, 2, Target::Return(71), start);
        let start = asm.load(NR, start);
        let program = asm.finish(start);
        let run = |nr| {
            let call = crate::seccomp::SyscallData { nr, ..Default::default() };
            crate::seccomp::run::run(&program, &call).unwrap().0
        };
        assert_eq!(run(2), 71);
        assert_eq!(run(7), 70);
        assert_eq!(run(1), 71);
        for k in 1000..1600 {
            assert_eq!(run(k), k);
        }
    }
}
