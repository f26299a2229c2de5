//! The code between clone and program: raw system calls only. Under strategy `Exec` it runs in memory that is the
//! host's, and only until it executes stage-2.

use super::syscall::{self, nr, sys3, sys5};
use super::{Interp, abi, raise_ambient, report_failure};

const AT_EMPTY_PATH: usize = 0x1000;

/// What the child needs between clone and exec, prepared by the host.
#[derive(Debug)]
pub(crate) struct Window {
    stage2: i32,
    sock: i32,
    ambient: u64,
    /// What the socket's number is in stage-2.
    number: i32,
}

#[cfg(not(stage2))]
impl Window {
    pub(crate) fn new(stage2: i32, sock: i32, ambient: u64) -> Box<Self> {
        // Not one that dup3 refuses because it is the same, nor one that is needed a moment longer.
        let number = (3..6).find(|n| *n != stage2 && *n != sock).unwrap_or(3);
        Box::new(Self { stage2, sock, ambient, number })
    }
}

/// What a forked child needs.
#[repr(C)]
pub(crate) struct Copied {
    pub(crate) sock: i32,
    pub(crate) arena: *mut u8,
}

/// Runs in a child that shares the host's memory.
pub(crate) unsafe extern "C" fn execute_stage2(window: *const Window) -> ! {
    // SAFETY: the host keeps what `window` points to until this process has executed stage-2. Nothing is written but this stack.
    unsafe {
        let w = &*window;
        let mut ret = if w.ambient != 0 { raise(w.ambient) } else { 0 };
        if ret >= 0 {
            // A copy that stays open on exec, under a low number, so that closing all others is one call.
            ret = sys3(nr::DUP3, w.sock as usize, w.number as usize, 0);
        }
        if ret >= 0 {
            let number = [b'0' + w.number as u8, 0];
            let argv = [c"stockade-stage2".as_ptr().cast(), number.as_ptr(), core::ptr::null()];
            let envp = [core::ptr::null::<u8>()];
            let (argv, envp) = (argv.as_ptr() as usize, envp.as_ptr() as usize);
            ret = sys5(nr::EXECVEAT, w.stage2 as usize, c"".as_ptr() as usize, argv, envp, AT_EMPTY_PATH);
        }
        report_failure(w.sock, abi::NO_OP, ret);
        syscall::exit(abi::EXIT_FAILED)
    }
}

/// Makes capabilities inheritable and ambient, so that executing stage-2 keeps them.
unsafe fn raise(set: u64) -> isize {
    let header = [0x2008_0522_u32, 0];
    let mut data = [0_u32; 6];
    // SAFETY: version 3 of the capability interface.
    unsafe {
        let ret = sys3(nr::CAPGET, header.as_ptr() as usize, data.as_mut_ptr() as usize, 0);
        if ret < 0 {
            return ret;
        }
        data[2] |= data[1] & set as u32;
        data[5] |= data[4] & (set >> 32) as u32;
        let ret = sys3(nr::CAPSET, header.as_ptr() as usize, data.as_ptr() as usize, 0);
        if ret < 0 {
            return ret;
        }
    }
    raise_ambient(set)
}

/// Runs in a child that has a copy of the host's memory.
pub(crate) unsafe extern "C" fn interpret(copied: *const Copied) -> ! {
    // SAFETY: the copy of what the host prepared; the arena is this process's own now.
    unsafe {
        let c = &*copied;
        let mut interp = Interp::new(c.sock);
        // The copies of the host's descriptors: with one of its own end of the socket this process would never see that
        // the host is gone, and it would keep the host's locks.
        interp.close_others();
        interp.receive_and_run(c.arena, abi::MAX_INLINE)
    }
}
