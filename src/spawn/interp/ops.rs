//! Identity, signals, limits, capabilities, seccomp, clone and exec.

use core::mem::MaybeUninit;

use super::abi::{self, Record};
use super::syscall::{self, clone3_call, exit, nr, sys1, sys3, sys5, sys6};
use super::{Interp, syscall::EACCES};

pub(super) const PR_CAP_AMBIENT: usize = 47;
pub(super) const AMBIENT_CLEAR_ALL: usize = 4;
const AMBIENT_RAISE: usize = 2;
const PR_CAPBSET_DROP: usize = 24;

const CLONE_VM: u64 = 0x100;
const CLONE_PIDFD: u64 = 0x1000;
const CLONE_PARENT: u64 = 0x8000;
const CLONE_CLEAR_SIGHAND: u64 = 0x1_0000_0000;
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

const SIBLING_STACK: usize = 16 * 1024;

#[repr(C, align(16))]
struct SiblingStack([MaybeUninit<u8>; SIBLING_STACK]);

/// The stack of a sibling that shares memory with its maker. Used once: the maker ends right after.
static mut STACK: SiblingStack = SiblingStack([MaybeUninit::uninit(); SIBLING_STACK]);

pub(super) unsafe fn set_ids(uid: u32, gid: u32) -> isize {
    // SAFETY: plain numbers. These are the raw, per-thread calls: this process has one thread.
    unsafe {
        match sys3(nr::SETRESGID, gid as usize, gid as usize, gid as usize) {
            0 => sys3(nr::SETRESUID, uid as usize, uid as usize, uid as usize),
            e => e,
        }
    }
}

pub(super) unsafe fn loopback_up() -> isize {
    const SIOCSIFFLAGS: usize = 0x8914;
    const IFF_UP_RUNNING: u8 = 0x41;
    #[repr(C, align(8))]
    struct Ifreq([u8; 40]);
    let mut req = Ifreq([0; 40]);
    req.0[0] = b'l';
    req.0[1] = b'o';
    req.0[16] = IFF_UP_RUNNING;
    // SAFETY: an AF_INET datagram socket (close-on-exec) and a live `struct ifreq`.
    unsafe {
        let sock = sys3(nr::SOCKET, 2, 2 | 0x80000, 0);
        if sock < 0 {
            return sock;
        }
        let ret = sys3(nr::IOCTL, sock as usize, SIOCSIFFLAGS, &raw const req as usize);
        sys1(nr::CLOSE, sock as usize);
        ret
    }
}

/// Gives every signal its default disposition and empties the mask. Handlers went with `CLONE_CLEAR_SIGHAND` or
/// exec; what the host ignores stays ignored through both.
pub(super) unsafe fn reset_signals(ignored: u64) -> isize {
    let mask = 0_u64;
    let default_action = [0_u64; 4];
    // SAFETY: the structures are live and of the sizes given; SIGKILL and SIGSTOP are refused, harmlessly.
    unsafe {
        let mut signal = 1;
        while signal <= 64 {
            if ignored >> (signal - 1) & 1 != 0 {
                sys6(nr::RT_SIGACTION, signal, default_action.as_ptr() as usize, 0, 8, 0, 0);
            }
            signal += 1;
        }
        sys6(nr::RT_SIGPROCMASK, 2, &raw const mask as usize, 0, 8, 0, 0)
    }
}

pub(super) unsafe fn rlimit(resource: u32, soft: u64, hard: u64) -> isize {
    let limit = [soft, hard];
    // SAFETY: a live `struct rlimit64`.
    unsafe { sys6(nr::PRLIMIT64, 0, resource as usize, limit.as_ptr() as usize, 0, 0, 0) }
}

pub(super) unsafe fn bounding_set(keep: u64, last: u64) -> isize {
    let mut cap = 0;
    while cap <= last && cap < 64 {
        if keep >> cap & 1 == 0 {
            // SAFETY: plain numbers.
            let ret = unsafe { sys5(nr::PRCTL, PR_CAPBSET_DROP, cap as usize, 0, 0, 0) };
            if ret < 0 {
                return ret;
            }
        }
        cap += 1;
    }
    0
}

pub(super) unsafe fn caps(effective: u64, permitted: u64, inheritable: u64, ambient: u64) -> isize {
    let header = [0x2008_0522_u32, 0];
    let data = [
        effective as u32,
        permitted as u32,
        inheritable as u32,
        (effective >> 32) as u32,
        (permitted >> 32) as u32,
        (inheritable >> 32) as u32,
    ];
    // SAFETY: version 3 of the capability interface: a header of 8 bytes and data of 24.
    unsafe {
        let ret = sys3(nr::CAPSET, header.as_ptr() as usize, data.as_ptr() as usize, 0);
        if ret < 0 {
            return ret;
        }
    }
    raise_ambient(ambient)
}

/// Raises ambient capabilities that are permitted and inheritable.
pub(crate) fn raise_ambient(set: u64) -> isize {
    let mut cap = 0;
    while cap < 64 {
        if set >> cap & 1 != 0 {
            // SAFETY: plain numbers.
            let ret = unsafe { sys5(nr::PRCTL, PR_CAP_AMBIENT, AMBIENT_RAISE, cap, 0, 0) };
            if ret < 0 {
                return ret;
            }
        }
        cap += 1;
    }
    0
}

/// Ends without a word, as a child that the kernel killed would.
pub(super) fn die() -> isize {
    exit(137)
}

impl Interp {
    /// Makes a socket that acts on this process's network namespace wherever it is held, and hands it over.
    pub(super) unsafe fn network_socket(&mut self) -> isize {
        const AF_NETLINK: usize = 16;
        const SOCK_RAW_CLOEXEC: usize = 3 | 0x80000;
        // SAFETY: plain numbers; the descriptor that the first call made is closed.
        unsafe {
            let sock = sys3(nr::SOCKET, AF_NETLINK, SOCK_RAW_CLOEXEC, 0);
            if sock < 0 {
                return sock;
            }
            self.send_record(&Record::new(abi::NETWORK, self.pc, 0, 0), sock as i32);
            sys1(nr::CLOSE, sock as usize)
        }
    }

    pub(super) unsafe fn seccomp(&mut self, instructions: u64, count: u64, flags: u64) -> isize {
        const NEW_LISTENER: u64 = 1 << 3;
        #[repr(C)]
        struct Program {
            len: u16,
            filter: *const u8,
        }
        let program = Program { len: count as u16, filter: self.at(instructions) };
        // SAFETY: the kernel reads `count` instructions of the plan.
        let ret = unsafe { sys3(nr::SECCOMP, 1, flags as usize, &raw const program as usize) };
        if ret < 0 || flags & NEW_LISTENER == 0 {
            return ret;
        }
        self.send_record(&Record::new(abi::LISTENER, self.pc, 0, 0), ret as i32);
        // SAFETY: the descriptor that the call above made.
        unsafe { sys1(nr::CLOSE, ret as usize) }
    }

    /// Makes the process that goes on with the plan: a child of our own parent (`CLONE_PARENT`), born in
    /// `cgroup` and in new namespaces of the kinds in `flags`. This process sends its pidfd to the host and ends.
    pub(super) unsafe fn clone_sibling(&mut self, flags: u64, cgroup: u64, copy_memory: u64) -> isize {
        let mut pidfd = -1_i32;
        let mut args = [0_u64; 11];
        args[0] = flags | CLONE_PARENT | CLONE_PIDFD | CLONE_CLEAR_SIGHAND;
        args[1] = &raw mut pidfd as u64;
        if cgroup != u64::MAX {
            args[0] |= CLONE_INTO_CGROUP;
            args[10] = self.fd(cgroup) as u64;
        }
        // SAFETY: a complete `struct clone_args`. With shared memory the sibling runs on a stack of its own and
        // this process only sends and exits; it touches nothing that the sibling uses.
        unsafe {
            let sock = self.sock;
            let pc = self.pc;
            let pid = if copy_memory != 0 {
                sys6(nr::CLONE3, args.as_ptr() as usize, 88, 0, 0, 0, 0)
            } else {
                args[0] |= CLONE_VM;
                args[5] = &raw mut STACK as u64;
                args[6] = SIBLING_STACK as u64;
                clone3_call(args.as_ptr(), 88, sibling as *const () as usize, &raw mut *self as usize)
            };
            if pid > 0 {
                let record = Record::new(abi::SIBLING, pc, 0, pid as u64);
                super::socket::send_record(sock, &record, pidfd);
                exit(0)
            }
            pid
        }
    }

    pub(super) unsafe fn exec(&mut self, paths: u64, argv: u64, envp: u64) -> isize {
        // SAFETY: lists of offsets inside the plan, which become lists of pointers in place.
        unsafe {
            let argv = self.pointers(argv);
            let envp = self.pointers(envp);
            let paths = self.pointers(paths);
            if argv.is_null() || envp.is_null() || paths.is_null() {
                return -syscall::EBADMSG;
            }
            let mut worst = -syscall::ENOENT;
            let mut i = 0;
            while !(*paths.add(i)).is_null() {
                let ret = sys3(nr::EXECVE, *paths.add(i) as usize, argv as usize, envp as usize);
                match ret {
                    _ if ret == -syscall::ENOENT || ret == -syscall::ENOTDIR => {}
                    _ if ret == -EACCES => worst = ret,
                    _ => return ret,
                }
                i += 1;
            }
            worst
        }
    }

    /// Turns a list of offsets, ended by 0, into a list of pointers, ended by null; null where it is no list that
    /// ends inside the plan.
    pub(super) unsafe fn pointers(&mut self, list: u64) -> *const *const u8 {
        let mut off = list as usize;
        if off == 0 || off & 7 != 0 {
            return core::ptr::null();
        }
        loop {
            // A plan is longer than its header, and so than a word.
            if off > self.len.wrapping_sub(8) {
                return core::ptr::null();
            }
            // SAFETY: a whole, aligned word of the plan.
            unsafe {
                let word = self.base.add(off).cast::<u64>();
                if *word == 0 {
                    break;
                }
                *word = self.at(*word) as u64;
            }
            off += 8;
        }
        self.at(list).cast_const().cast()
    }
}

unsafe extern "C" fn sibling(interp: *mut Interp) -> ! {
    // SAFETY: the interpreter of the process that made this one, which does not use it any more.
    unsafe {
        let next = (*interp).pc + 1;
        (*interp).run(next)
    }
}
