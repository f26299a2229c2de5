//! `clone3(2)`.

use std::mem::ManuallyDrop;
use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd};

use rustix::io::Errno;
use rustix::process::Pid;

use super::signal::BlockAll;
use super::stack::Stack;

pub(crate) const CLONE_PIDFD: u64 = 0x1000;
pub(crate) const CLONE_VM: u64 = 0x100;
pub(crate) const CLONE_VFORK: u64 = 0x4000;
pub(crate) const CLONE_CLEAR_SIGHAND: u64 = 0x1_0000_0000;
pub(crate) const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// A new child.
#[derive(Debug)]
pub(crate) struct Cloned {
    pub(crate) pid: Pid,
    pub(crate) pidfd: OwnedFd,
}

/// What a child is made with.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CloneArgs<'a> {
    /// `CLONE_NEW*` flags.
    pub(crate) namespaces: u64,
    /// The cgroup (v2) that it is born in.
    pub(crate) cgroup: Option<BorrowedFd<'a>>,
}

impl CloneArgs<'_> {
    fn raw(&self, pidfd: &mut i32, flags: u64) -> libc::clone_args {
        // SAFETY: `clone_args` is a plain C structure for which all zeros mean "not used".
        let mut a: libc::clone_args = unsafe { std::mem::zeroed() };
        a.flags = flags | self.namespaces | CLONE_PIDFD | CLONE_CLEAR_SIGHAND;
        a.pidfd = std::ptr::from_mut(pidfd) as u64;
        a.exit_signal = libc::SIGCHLD as u64;
        if let Some(cg) = self.cgroup {
            a.flags |= CLONE_INTO_CGROUP;
            a.cgroup = std::os::fd::AsRawFd::as_raw_fd(&cg) as u64;
        }
        a
    }
}

/// What a child runs first. It never returns, makes raw system calls only (no allocation, no locks, no
/// thread-local state, no panic) and, sharing memory, changes no credentials but inheritable and ambient sets.
pub(crate) type Entry<T> = unsafe extern "C" fn(*const T) -> !;

/// Whether the caller of [`share_memory`] waits until the child executes another program or ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hold {
    UntilExec,
    No,
}

/// What a child that shares our memory still runs on. Dropping it leaks the memory; [`take_back`](Self::take_back)
/// frees it.
#[derive(Debug)]
#[must_use]
pub(crate) struct Lent<T> {
    stack: ManuallyDrop<Stack>,
    arg: ManuallyDrop<Box<T>>,
}

impl<T> Lent<T> {
    /// To be called once the child has executed another program, or has been reaped.
    pub(crate) fn take_back(self) {
        ManuallyDrop::into_inner(self.stack).give_back();
        drop(ManuallyDrop::into_inner(self.arg));
    }
}

/// Makes a child that shares our memory and runs `entry(arg)` on `stack`. All signals are blocked in the child.
///
/// No such child may enter a cgroup, pid or user namespace that others are in: an OOM kill of the cgroup would
/// take this process with it, and its members could read this process's memory through the child.
pub(crate) fn share_memory<T>(
    args: CloneArgs<'_>,
    stack: Stack,
    entry: Entry<T>,
    arg: Box<T>,
    hold: Hold,
) -> Result<(Cloned, Lent<T>), Errno> {
    let mut pidfd = -1;
    let vfork = if hold == Hold::UntilExec { CLONE_VFORK } else { 0 };
    let mut raw = args.raw(&mut pidfd, CLONE_VM | vfork);
    (raw.stack, raw.stack_size) = stack.area();
    // From here on the two belong to the child, until `take_back`.
    let lent = Lent { stack: ManuallyDrop::new(stack), arg: ManuallyDrop::new(arg) };
    let address = std::ptr::from_ref(&**lent.arg) as usize;
    let blocked = BlockAll::new();
    // SAFETY: `raw` describes a stack that is the child's alone, `lent` keeps it and `arg` where they are, and
    // `entry` is as its type says.
    let ret = unsafe { arch::clone3_call(&raw, entry as *const () as usize, address) };
    drop(blocked);
    // SAFETY: the kernel filled `pidfd` if and only if a child was made.
    match unsafe { finish(ret, pidfd) } {
        Ok(cloned) => Ok((cloned, lent)),
        Err(e) => {
            lent.take_back();
            Err(e)
        }
    }
}

/// Makes a child with a copy of our memory, which runs `entry(arg)` on a copy of this thread's stack.
pub(crate) fn copy_memory<T>(args: CloneArgs<'_>, entry: Entry<T>, arg: &T) -> Result<Cloned, Errno> {
    let mut pidfd = -1;
    let raw = args.raw(&mut pidfd, 0);
    let blocked = BlockAll::new();
    // SAFETY: `raw` is complete; without a stack the child goes on with its copy of ours.
    let ret =
        unsafe { libc::syscall(libc::SYS_clone3, std::ptr::from_ref(&raw), size_of::<libc::clone_args>()) };
    if ret == 0 {
        // SAFETY: in the child; `entry` is as its type says and never returns.
        unsafe { entry(std::ptr::from_ref(arg)) }
    }
    let ret = if ret < 0 { -i64::from(super::raw::last_errno().raw_os_error()) } else { ret };
    drop(blocked);
    // SAFETY: the kernel filled `pidfd` if and only if a child was made.
    unsafe { finish(ret, pidfd) }
}

/// # Safety
/// `pidfd` is the descriptor that the kernel made for the child `ret`, where `ret` is positive.
unsafe fn finish(ret: i64, pidfd: i32) -> Result<Cloned, Errno> {
    // `Pid::from_raw` asserts that its argument is not negative.
    match i32::try_from(ret).ok().filter(|pid| *pid > 0).and_then(Pid::from_raw) {
        // SAFETY: a new descriptor, owned here and nowhere else.
        Some(pid) => Ok(Cloned { pid, pidfd: unsafe { OwnedFd::from_raw_fd(pidfd) } }),
        None => Err(Errno::from_raw_os_error(i32::try_from(-ret).unwrap_or(libc::EINVAL))),
    }
}

#[cfg(target_arch = "x86_64")]
mod arch {
    /// Calls `clone3`; the child calls `entry(arg)` on its new stack, the parent gets the result.
    ///
    /// # Safety
    /// `args` names a stack and lives through the call; `entry` is a [`super::Entry`] for `arg`.
    pub(super) unsafe fn clone3_call(args: &libc::clone_args, entry: usize, arg: usize) -> i64 {
        let ret: i64;
        // SAFETY: the child leaves this block only through `entry`, which never returns, and it runs on its own
        // stack, so that the parent's frame stays as it was.
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
                inlateout("rax") libc::SYS_clone3 => ret,
                in("rdi") std::ptr::from_ref(args),
                in("rsi") size_of::<libc::clone_args>(),
                in("r12") arg,
                in("r13") entry,
                lateout("rcx") _,
                lateout("r11") _,
            );
        }
        ret
    }
}

#[cfg(target_arch = "aarch64")]
mod arch {
    /// Calls `clone3`; the child calls `entry(arg)` on its new stack, the parent gets the result.
    ///
    /// # Safety
    /// `args` names a stack and lives through the call; `entry` is a [`super::Entry`] for `arg`.
    pub(super) unsafe fn clone3_call(args: &libc::clone_args, entry: usize, arg: usize) -> i64 {
        let ret: i64;
        // SAFETY: the child leaves this block only through `entry`, which never returns, and it runs on its own
        // stack, so that the parent's frame stays as it was.
        unsafe {
            core::arch::asm!(
                "svc 0",
                "cbnz x0, 2f",
                "mov x29, xzr",
                "mov x0, {arg}",
                "blr {entry}",
                "brk 1",
                "2:",
                in("x8") libc::SYS_clone3,
                inlateout("x0") std::ptr::from_ref(args) => ret,
                in("x1") size_of::<libc::clone_args>(),
                arg = in(reg) arg,
                entry = in(reg) entry,
            );
        }
        ret
    }
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
compile_error!("stockade runs on x86_64 and aarch64 Linux");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_clone_is_an_error_and_no_panic() {
        for errno in [Errno::PERM, Errno::NOSPC] {
            // SAFETY: no child, so no descriptor.
            let refused = unsafe { finish(-i64::from(errno.raw_os_error()), -1) };
            assert_eq!(refused.unwrap_err(), errno);
        }
    }
}
