//! Runs a filter as the kernel would: for tests, and to ask a filter what it would do.

use super::asm::{AND, JA, JEQ, JGE, JGT, JSET, LD, RET};
use super::policy::SyscallData;
use crate::sys::seccomp::BpfInstruction;

/// The value that `program` returns for `call`, and how many instructions that took.
///
/// `None` where the program leaves its end, or has an instruction that the compiler never writes; the kernel's
/// check at installation refuses the first.
pub(super) fn run(program: &[BpfInstruction], call: &SyscallData) -> Option<(u32, usize)> {
    let (mut pc, mut a, mut steps) = (0_usize, 0_u32, 0_usize);
    loop {
        let i = program.get(pc)?;
        steps += 1;
        pc += 1;
        let mut jump = |yes: bool| pc += usize::from(if yes { i.jt } else { i.jf });
        match i.code {
            LD => a = word(call, i.k)?,
            AND => a &= i.k,
            RET => return Some((i.k, steps)),
            JEQ => jump(a == i.k),
            JGT => jump(a > i.k),
            JGE => jump(a >= i.k),
            JSET => jump(a & i.k != 0),
            JA => pc = pc.checked_add(usize::try_from(i.k).ok()?)?,
            _ => return None,
        }
    }
}

/// The 32-bit word at `offset` of `struct seccomp_data`, little-endian.
fn word(call: &SyscallData, offset: u32) -> Option<u32> {
    let half = |value: u64, upper: bool| (if upper { value >> 32 } else { value & 0xffff_ffff }) as u32;
    match offset {
        0 => Some(call.nr),
        4 => Some(call.arch),
        8 | 12 => Some(half(call.instruction_pointer, offset == 12)),
        16..64 if offset.is_multiple_of(4) => {
            let arg = call.args[(offset as usize - 16) / 8];
            Some(half(arg, !offset.is_multiple_of(8)))
        }
        _ => None,
    }
}
