//! Raw system calls: no libc, no errno, no thread-local state. Results are as the kernel gives them: a negative
//! errno, or the value.

pub(crate) const ENOENT: isize = 2;
pub(crate) const EAGAIN: isize = 11;
pub(crate) const EINVAL: isize = 22;
pub(crate) const EINTR: isize = 4;
pub(crate) const EBADMSG: isize = 74;
pub(crate) const EACCES: isize = 13;
pub(crate) const EEXIST: isize = 17;
pub(crate) const ENOTDIR: isize = 20;
pub(crate) const EROFS: isize = 30;
pub(crate) const ENOSYS: isize = 38;
pub(crate) const ENODATA: isize = 61;
pub(crate) const EXDEV: isize = 18;
pub(crate) const E2BIG: isize = 7;
pub(crate) const ECONNRESET: isize = 104;
/// Not an errno: the peer closed the socket.
pub(crate) const EPIPE_CLOSED: isize = isize::MIN;

pub(crate) const AT_FDCWD: usize = -100_isize as usize;

/// Calls that came after the tables of all architectures were joined.
macro_rules! new_calls {
    () => {
        pub(crate) const OPEN_TREE: usize = 428;
        pub(crate) const MOVE_MOUNT: usize = 429;
        pub(crate) const FSOPEN: usize = 430;
        pub(crate) const FSCONFIG: usize = 431;
        pub(crate) const FSMOUNT: usize = 432;
        pub(crate) const CLOSE_RANGE: usize = 436;
        pub(crate) const OPENAT2: usize = 437;
        pub(crate) const MOUNT_SETATTR: usize = 442;
        pub(crate) const LANDLOCK_CREATE_RULESET: usize = 444;
        pub(crate) const LANDLOCK_ADD_RULE: usize = 445;
        pub(crate) const LANDLOCK_RESTRICT_SELF: usize = 446;
    };
}

#[cfg(target_arch = "x86_64")]
mod arch {
    /// # Safety
    /// The arguments are what system call `n` asks for.
    #[inline(always)]
    pub(crate) unsafe fn sys6(n: usize, a: usize, b: usize, c: usize, d: usize, e: usize, f: usize) -> isize {
        let ret: isize;
        // SAFETY: the kernel's calling convention of x86_64; the caller vouches for the arguments.
        unsafe {
            core::arch::asm!(
                "syscall",
                inlateout("rax") n => ret,
                in("rdi") a, in("rsi") b, in("rdx") c, in("r10") d, in("r8") e, in("r9") f,
                lateout("rcx") _, lateout("r11") _,
                options(nostack),
            );
        }
        ret
    }

    /// `clone3` for a child on a stack of its own, which calls `entry(arg)`.
    ///
    /// # Safety
    /// `args` points to `size` bytes of clone arguments that name a stack; `entry` does not return.
    pub(crate) unsafe fn clone3_call(args: *const u64, size: usize, entry: usize, arg: usize) -> isize {
        let ret: isize;
        // SAFETY: the child leaves this block only through `entry`, on its own stack.
        unsafe {
            core::arch::asm!(
                "syscall",
                "test rax, rax",
                "jnz 2f",
                "xor ebp, ebp",
                "mov rdi, r12",
                "call r13",
                "ud2",
                "2:",
                inlateout("rax") super::nr::CLONE3 => ret,
                in("rdi") args, in("rsi") size, in("r12") arg, in("r13") entry,
                lateout("rcx") _, lateout("r11") _,
            );
        }
        ret
    }

    pub(crate) mod nr {
        pub(crate) const READ: usize = 0;
        pub(crate) const WRITE: usize = 1;
        pub(crate) const CLOSE: usize = 3;
        pub(crate) const MMAP: usize = 9;
        pub(crate) const RT_SIGACTION: usize = 13;
        pub(crate) const RT_SIGPROCMASK: usize = 14;
        pub(crate) const IOCTL: usize = 16;
        pub(crate) const PREAD64: usize = 17;
        pub(crate) const PWRITE64: usize = 18;
        pub(crate) const SOCKET: usize = 41;
        pub(crate) const SENDMSG: usize = 46;
        pub(crate) const RECVMSG: usize = 47;
        pub(crate) const EXECVE: usize = 59;
        pub(crate) const FCNTL: usize = 72;
        pub(crate) const FTRUNCATE: usize = 77;
        pub(crate) const GETCWD: usize = 79;
        pub(crate) const CHDIR: usize = 80;
        pub(crate) const FCHDIR: usize = 81;
        pub(crate) const UMASK: usize = 95;
        pub(crate) const SETSID: usize = 112;
        pub(crate) const SETGROUPS: usize = 116;
        pub(crate) const SETRESUID: usize = 117;
        pub(crate) const SETRESGID: usize = 119;
        pub(crate) const CAPGET: usize = 125;
        pub(crate) const CAPSET: usize = 126;
        pub(crate) const PERSONALITY: usize = 135;
        pub(crate) const FSTATFS: usize = 138;
        pub(crate) const PIVOT_ROOT: usize = 155;
        pub(crate) const PRCTL: usize = 157;
        pub(crate) const CHROOT: usize = 161;
        pub(crate) const MOUNT: usize = 165;
        pub(crate) const UMOUNT2: usize = 166;
        pub(crate) const SETHOSTNAME: usize = 170;
        pub(crate) const SETDOMAINNAME: usize = 171;
        pub(crate) const EXIT_GROUP: usize = 231;
        pub(crate) const OPENAT: usize = 257;
        pub(crate) const MKDIRAT: usize = 258;
        pub(crate) const MKNODAT: usize = 259;
        pub(crate) const SYMLINKAT: usize = 266;
        pub(crate) const PPOLL: usize = 271;
        pub(crate) const UNSHARE: usize = 272;
        pub(crate) const DUP3: usize = 292;
        pub(crate) const PRLIMIT64: usize = 302;
        pub(crate) const SETNS: usize = 308;
        pub(crate) const KEYCTL: usize = 250;
        pub(crate) const SECCOMP: usize = 317;
        pub(crate) const EXECVEAT: usize = 322;
        pub(crate) const STATX: usize = 332;
        pub(crate) const CLONE3: usize = 435;
        new_calls!();
    }
}

#[cfg(target_arch = "aarch64")]
mod arch {
    /// # Safety
    /// The arguments are what system call `n` asks for.
    #[inline(always)]
    pub(crate) unsafe fn sys6(n: usize, a: usize, b: usize, c: usize, d: usize, e: usize, f: usize) -> isize {
        let ret: isize;
        // SAFETY: the kernel's calling convention of aarch64; the caller vouches for the arguments.
        unsafe {
            core::arch::asm!(
                "svc 0",
                in("x8") n,
                inlateout("x0") a => ret,
                in("x1") b, in("x2") c, in("x3") d, in("x4") e, in("x5") f,
                options(nostack),
            );
        }
        ret
    }

    /// `clone3` for a child on a stack of its own, which calls `entry(arg)`.
    ///
    /// # Safety
    /// `args` points to `size` bytes of clone arguments that name a stack; `entry` does not return.
    pub(crate) unsafe fn clone3_call(args: *const u64, size: usize, entry: usize, arg: usize) -> isize {
        let ret: isize;
        // SAFETY: the child leaves this block only through `entry`, on its own stack.
        unsafe {
            core::arch::asm!(
                "svc 0",
                "cbnz x0, 2f",
                "mov x29, xzr",
                "mov x0, {arg}",
                "blr {entry}",
                "brk 1",
                "2:",
                in("x8") super::nr::CLONE3,
                inlateout("x0") args => ret,
                in("x1") size,
                arg = in(reg) arg,
                entry = in(reg) entry,
            );
        }
        ret
    }

    pub(crate) mod nr {
        pub(crate) const GETCWD: usize = 17;
        pub(crate) const DUP3: usize = 24;
        pub(crate) const FCNTL: usize = 25;
        pub(crate) const IOCTL: usize = 29;
        pub(crate) const MKNODAT: usize = 33;
        pub(crate) const MKDIRAT: usize = 34;
        pub(crate) const SYMLINKAT: usize = 36;
        pub(crate) const UMOUNT2: usize = 39;
        pub(crate) const MOUNT: usize = 40;
        pub(crate) const PIVOT_ROOT: usize = 41;
        pub(crate) const FSTATFS: usize = 44;
        pub(crate) const FTRUNCATE: usize = 46;
        pub(crate) const CHDIR: usize = 49;
        pub(crate) const FCHDIR: usize = 50;
        pub(crate) const CHROOT: usize = 51;
        pub(crate) const OPENAT: usize = 56;
        pub(crate) const CLOSE: usize = 57;
        pub(crate) const READ: usize = 63;
        pub(crate) const WRITE: usize = 64;
        pub(crate) const PREAD64: usize = 67;
        pub(crate) const PWRITE64: usize = 68;
        pub(crate) const PPOLL: usize = 73;
        pub(crate) const CAPGET: usize = 90;
        pub(crate) const CAPSET: usize = 91;
        pub(crate) const PERSONALITY: usize = 92;
        pub(crate) const EXIT_GROUP: usize = 94;
        pub(crate) const UNSHARE: usize = 97;
        pub(crate) const RT_SIGACTION: usize = 134;
        pub(crate) const RT_SIGPROCMASK: usize = 135;
        pub(crate) const SETRESUID: usize = 147;
        pub(crate) const SETRESGID: usize = 149;
        pub(crate) const SETSID: usize = 157;
        pub(crate) const SETGROUPS: usize = 159;
        pub(crate) const SETHOSTNAME: usize = 161;
        pub(crate) const SETDOMAINNAME: usize = 162;
        pub(crate) const UMASK: usize = 166;
        pub(crate) const PRCTL: usize = 167;
        pub(crate) const SOCKET: usize = 198;
        pub(crate) const SENDMSG: usize = 211;
        pub(crate) const RECVMSG: usize = 212;
        pub(crate) const KEYCTL: usize = 219;
        pub(crate) const EXECVE: usize = 221;
        pub(crate) const MMAP: usize = 222;
        pub(crate) const PRLIMIT64: usize = 261;
        pub(crate) const SETNS: usize = 268;
        pub(crate) const SECCOMP: usize = 277;
        pub(crate) const EXECVEAT: usize = 281;
        pub(crate) const STATX: usize = 291;
        pub(crate) const CLONE3: usize = 435;
        new_calls!();
    }
}

pub(crate) use arch::{clone3_call, nr, sys6};

/// # Safety
/// As [`sys6`].
pub(crate) unsafe fn sys5(n: usize, a: usize, b: usize, c: usize, d: usize, e: usize) -> isize {
    // SAFETY: passed on.
    unsafe { sys6(n, a, b, c, d, e, 0) }
}

/// # Safety
/// As [`sys6`].
pub(crate) unsafe fn sys3(n: usize, a: usize, b: usize, c: usize) -> isize {
    // SAFETY: passed on.
    unsafe { sys6(n, a, b, c, 0, 0, 0) }
}

/// # Safety
/// As [`sys6`].
pub(crate) unsafe fn sys1(n: usize, a: usize) -> isize {
    // SAFETY: passed on.
    unsafe { sys6(n, a, 0, 0, 0, 0, 0) }
}

/// # Safety
/// As [`sys6`].
pub(crate) unsafe fn sys0(n: usize) -> isize {
    // SAFETY: passed on.
    unsafe { sys6(n, 0, 0, 0, 0, 0, 0) }
}

/// Ends the process.
pub(crate) fn exit(status: usize) -> ! {
    loop {
        // SAFETY: takes a number and does not come back.
        unsafe { sys1(nr::EXIT_GROUP, status) };
    }
}
