//! The plan interpreter: what a child does between its birth and its program.
//!
//! This folder is compiled twice: into the library, where a forked child runs it (strategy `Fork`), and into
//! stage-2, the static executable that a child executes first (strategy `Exec`). It uses `core` alone: stage-2 is
//! `no_std` without `alloc`, so the compiler proves that nothing here allocates, locks or formats.
//!
//! ```text
//! host                                child (stage-2)
//!  | -- plan (SEQPACKET, fds) ------->  |   queued before clone3, or sent once the id maps are written
//!  |                                    |   runs op 0, 1, 2 ...
//!  |  <-- SIBLING pid, pidfd ---------  |   only where the plan clones again (exec, shared pid or user ns)
//!  |  <-- MARKER ---------------------  |   everything is set up but credentials, seccomp and exec
//!  |  <-- FAILED op, errno -----------  |   instead, at any op
//!  |  <-- end of file ----------------  |   the socket closed on exec: the program runs
//! ```
//! End of file without MARKER means that the child died.
#![allow(unsafe_code)]

pub(crate) mod abi;
mod act;
mod console;
mod files;
#[cfg(feature = "fuzzing")]
mod fuzzing;
mod landlock;
mod mounts;
mod ops;
mod socket;
pub(crate) mod syscall;
mod verify;
pub(crate) mod window;

#[cfg(feature = "fuzzing")]
pub(crate) use fuzzing::lists;
pub(crate) use ops::raise_ambient;

use abi::{Header, Op, Record, code, on_error};
use syscall::{exit, nr, sys0, sys1, sys3, sys5};

/// How many descriptors a plan may hold by slot.
pub(crate) const SLOTS: usize = 256;

/// The state of one interpreter.
pub(crate) struct Interp {
    /// The plan. Written to at exec, when string offsets become pointers.
    base: *mut u8,
    len: usize,
    /// The socket to the host.
    sock: i32,
    /// Descriptors that ops made or that came with a message.
    slots: [i32; SLOTS],
    /// Where plans are received.
    arena: *mut u8,
    arena_len: usize,
    /// How many descriptors came with the last message.
    received: usize,
    /// Offset of the first directory that was masked: later ones are bound from it.
    masked_dir: u64,
    /// The op that runs, for the failure record.
    pc: u32,
}

impl Interp {
    /// An interpreter without a plan yet.
    pub(crate) const fn new(sock: i32) -> Self {
        Self {
            base: core::ptr::null_mut(),
            len: 0,
            sock,
            slots: [-1; SLOTS],
            arena: core::ptr::null_mut(),
            arena_len: 0,
            received: 0,
            masked_dir: 0,
            pc: 0,
        }
    }

    /// Waits for the plan, then runs it. Does not return: the child executes its program or ends with a record.
    ///
    /// # Safety
    /// `arena` is valid for reads and writes of `len` bytes, 8-byte aligned, and used by nobody else; the calling
    /// process is a child made to run a plan.
    pub(crate) unsafe fn receive_and_run(&mut self, arena: *mut u8, len: usize) -> ! {
        self.arena = arena;
        self.arena_len = len;
        // SAFETY: passed on from the caller.
        unsafe { self.receive_plan_and_run() }
    }

    /// # Safety
    /// The arena is set.
    unsafe fn receive_plan_and_run(&mut self) -> ! {
        // SAFETY: the arena is as `receive_and_run` was given it.
        unsafe {
            match self.receive_plan(self.arena, self.arena_len) {
                0 => {}
                // Nobody is left to report to.
                e if e == syscall::EPIPE_CLOSED => exit(abi::EXIT_NO_PLAN),
                e => self.fail(e),
            }
            self.run(0)
        }
    }

    /// # Safety
    /// As [`run`](Self::run).
    unsafe fn next_plan(&mut self) -> ! {
        self.send_record(&Record::new(abi::PARKED, self.pc, 0, 0), -1);
        self.slots = [-1; SLOTS];
        self.masked_dir = 0;
        self.pc = 0;
        // SAFETY: the old plan is not needed any more.
        unsafe { self.receive_plan_and_run() }
    }

    /// Runs the plan from op `pc` on.
    ///
    /// # Safety
    /// A plan was received.
    pub(crate) unsafe fn run(&mut self, pc: u32) -> ! {
        // SAFETY: `receive_plan` checked the header and that all ops lie inside the arena.
        unsafe {
            let Header { ops, ops_at, .. } = self.base.cast::<Header>().read();
            self.pc = pc;
            while self.pc < ops {
                let op = self.base.add(ops_at as usize).cast::<Op>().add(self.pc as usize).read();
                let ret = self.step(&op);
                if ret < 0 {
                    if !tolerated(op.on_error, ret) {
                        self.fail(ret);
                    }
                } else if op.out != abi::NO_SLOT {
                    self.slots[op.out as usize] = above_streams(ret as i32);
                }
                self.pc += 1;
            }
            // A plan ends in an exec, which does not come back.
            self.fail(-syscall::ENODATA)
        }
    }

    /// Reports the op that failed, and ends.
    pub(crate) fn fail(&mut self, ret: isize) -> ! {
        report_failure(self.sock, self.pc, ret);
        exit(abi::EXIT_FAILED)
    }

    /// # Safety
    /// `op` belongs to the received plan.
    unsafe fn step(&mut self, op: &Op) -> isize {
        let [a, b, c, d, e] = op.args;
        // SAFETY: arguments are offsets into the received plan (checked by `at`), descriptors, or plain numbers;
        // each op hands the kernel what its row in `abi::code` says.
        unsafe {
            match op.code {
                code::SET_IDS => ops::set_ids(a as u32, b as u32),
                code::SET_GROUPS => sys3(nr::SETGROUPS, b as usize, self.at(a) as usize, 0),
                code::CLEAR_AMBIENT => sys5(nr::PRCTL, ops::PR_CAP_AMBIENT, ops::AMBIENT_CLEAR_ALL, 0, 0, 0),
                code::PRCTL => sys5(nr::PRCTL, a as usize, b as usize, c as usize, d as usize, e as usize),
                code::UMASK => sys1(nr::UMASK, a as usize),
                code::SET_HOSTNAME => sys3(nr::SETHOSTNAME, self.at(a) as usize, b as usize, 0),
                code::SET_DOMAINNAME => sys3(nr::SETDOMAINNAME, self.at(a) as usize, b as usize, 0),
                code::LOOPBACK_UP => ops::loopback_up(),
                code::SETNS => sys3(nr::SETNS, self.fd(a) as usize, b as usize, 0),
                code::UNSHARE => sys1(nr::UNSHARE, a as usize),
                code::SETSID => sys0(nr::SETSID),
                code::RESET_SIGNALS => ops::reset_signals(a),
                code::RLIMIT => ops::rlimit(a as u32, b, c),
                code::PERSONALITY => sys1(nr::PERSONALITY, a as usize),
                code::BOUNDING_SET => ops::bounding_set(a, b),
                code::CAPS => ops::caps(a, b, c, d),
                code::SECCOMP => self.seccomp(a, b, c),
                code::CLONE_SIBLING => self.clone_sibling(a, b, c),
                code::BARRIER => self.barrier(a as usize),
                code::MARKER => {
                    self.send_record(&Record::new(abi::MARKER, self.pc, 0, 0), -1);
                    0
                }
                code::NEXT_PLAN => self.next_plan(),
                code::LANDLOCK => self.landlock(a, b, c),
                code::KEYRING => verify::new_keyring(),
                code::NETWORK_SOCKET => self.network_socket(),
                code::KEEP_TERMINALS => self.keep(a as usize, b as usize, self.fd(c), d, self.fd(e)),
                code::ACT => self.act(self.fd(a), b as usize),
                code::EXEC => self.exec(a, b, c),
                code::FAULT if a != 0 => -(a as isize),
                code::FAULT => ops::die(),
                0x40..=0x5f => self.mount_op(op.code, op.args),
                0x60..=0x7f => self.file_op(op.code, op.args),
                _ => -syscall::ENOSYS,
            }
        }
    }

    /// The address of offset `off` of the plan; offset 0 is "none".
    fn at(&self, off: u64) -> *mut u8 {
        if off == 0 || off as usize >= self.len {
            return core::ptr::null_mut();
        }
        // SAFETY: inside the arena, checked above.
        unsafe { self.base.add(off as usize) }
    }

    /// The descriptor that argument `arg` stands for: a number of ours or a slot.
    fn fd(&self, arg: u64) -> i32 {
        if arg & abi::SLOT != 0 { self.slots[(arg as usize) & (SLOTS - 1)] } else { arg as u32 as i32 }
    }
}

/// `fd`, moved out of the range of the program's standard streams. Where the host has closed one of its own, a new
/// descriptor gets that number: it would be overwritten by a stream, or stay open as one, as a way out of the root.
pub(crate) fn above_streams(fd: i32) -> i32 {
    const F_DUPFD_CLOEXEC: usize = 1030;
    if !(0..3).contains(&fd) {
        return fd;
    }
    // SAFETY: descriptor numbers of this process.
    unsafe {
        let moved = sys3(nr::FCNTL, fd as usize, F_DUPFD_CLOEXEC, 3);
        sys1(nr::CLOSE, fd as usize);
        moved as i32
    }
}

/// Tells the host that op number `op` failed.
pub(crate) fn report_failure(sock: i32, op: u32, ret: isize) {
    socket::send_record(sock, &Record::new(abi::FAILED, op, (-ret) as i32, 0), -1);
}

fn tolerated(rule: u8, ret: isize) -> bool {
    match rule {
        on_error::IGNORE_MISSING => ret == -syscall::ENOENT,
        on_error::IGNORE_EXISTING => ret == -syscall::EEXIST,
        _ => false,
    }
}
