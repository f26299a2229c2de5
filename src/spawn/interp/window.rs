//! The code between clone and program: raw system calls only. Under strategy `Exec` it runs in memory that is the
//! host's, and only until it executes stage-2.

use super::syscall::{self, nr, sys3, sys5};
use super::{Interp, abi, raise_ambient, report_failure};

const F_SETFD: usize = 2;
const AT_EMPTY_PATH: usize = 0x1000;

/// What the child needs between clone and exec, prepared here.
#[repr(C)]
pub(crate) struct Window {
    pub(crate) stage2: i32,
    pub(crate) sock: i32,
    pub(crate) ambient: u64,
    pub(crate) argv: [*const u8; 3],
    pub(crate) envp: [*const u8; 1],
}

/// What a forked child needs.
#[repr(C)]
pub(crate) struct Copied {
    pub(crate) sock: i32,
    pub(crate) arena: *mut u8,
}

/// Runs in a child that shares the host's memory.
pub(crate) unsafe extern "C" fn execute_stage2(window: *const Window) -> ! {
    // SAFETY: the host waits in clone3 and keeps what `window` points to. Nothing is written but this stack.
    unsafe {
        let w = &*window;
        let mut ret = if w.ambient != 0 { raise(w.ambient) } else { 0 };
        if ret >= 0 {
            ret = sys3(nr::FCNTL, w.sock as usize, F_SETFD, 0);
        }
        if ret >= 0 {
            let (argv, envp) = (w.argv.as_ptr() as usize, w.envp.as_ptr() as usize);
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
        interp.receive_and_run(c.arena, abi::MAX_INLINE)
    }
}
