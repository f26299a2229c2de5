//! The part of the interpreter that walks through a plan, without its system calls.

use super::abi::{Header, Op, code};
use super::{Interp, syscall};

/// Turns the lists of every EXEC in the plan `words` (its length in bytes is `len`) into pointers, as the child does,
/// and follows them as the kernel would. The number of strings; an errno where the child would refuse the plan.
///
/// # Panics
/// Where a pointer leads out of the plan.
pub(crate) fn lists(words: &mut [u64], len: usize) -> Result<usize, isize> {
    assert!(len <= size_of_val(words), "the plan lies in the words");
    if len <= size_of::<Header>() {
        return Err(syscall::EBADMSG);
    }
    let mut interp = Interp::new(-1);
    interp.base = words.as_mut_ptr().cast();
    interp.len = len;
    // SAFETY: the block is `len` bytes long, aligned and ours; the header says where in it the ops are.
    unsafe {
        let header = interp.base.cast::<Header>().read();
        if !header.is_whole(len, *interp.base.add(len - 1)) {
            return Err(syscall::EBADMSG);
        }
        let inside = |p: *const u8| (p.addr().wrapping_sub(interp.base.addr())) < len;
        let base = interp.base;
        let mut strings = 0;
        for n in 0..header.ops as usize {
            let op = base.add(header.ops_at as usize).cast::<Op>().add(n).read();
            if op.code != code::EXEC {
                continue;
            }
            let [paths, argv, envp, ..] = op.args;
            let mut other = Interp::new(-1);
            (other.base, other.len) = (base, len);
            for list in [argv, envp, paths] {
                let mut at = other.pointers(list);
                if at.is_null() {
                    return Err(syscall::EBADMSG);
                }
                loop {
                    assert!(
                        inside(at.cast()) && inside(at.cast::<u8>().add(7)),
                        "a list runs out of the plan"
                    );
                    let text = *at;
                    if text.is_null() {
                        break;
                    }
                    assert!(inside(text), "a string outside of the plan");
                    assert!(inside(text.add(core::ffi::CStr::from_ptr(text.cast()).count_bytes())));
                    strings += 1;
                    at = at.add(1);
                }
            }
        }
        Ok(strings)
    }
}
