//! Files, directories and descriptors.

use super::abi::code;
use super::syscall::{self, AT_FDCWD, nr, sys1, sys3, sys6};
use super::{Interp, SLOTS, verify};

const O_CLOEXEC: usize = 0o2000000;
const O_WRONLY: usize = 1;
const O_CREAT_EXCL: usize = 0o100 | 0o200;
const F_SETFD: usize = 2;
const FD_CLOEXEC: usize = 1;

impl Interp {
    pub(super) unsafe fn file_op(&mut self, op: u16, args: [u64; 5]) -> isize {
        let [a, b, c, d, _] = args;
        // SAFETY: as `Interp::step`.
        unsafe {
            match op {
                code::CHDIR => sys1(nr::CHDIR, self.at(a) as usize),
                code::FCHDIR => sys1(nr::FCHDIR, self.fd(a) as usize),
                code::CHROOT => match sys1(nr::FCHDIR, self.fd(a) as usize) {
                    0 => sys1(nr::CHROOT, c".".as_ptr() as usize),
                    e => e,
                },
                code::MKNOD => sys6(nr::MKNODAT, AT_FDCWD, self.at(a) as usize, b as usize, c as usize, 0, 0),
                code::SYMLINK => sys3(nr::SYMLINKAT, self.at(a) as usize, AT_FDCWD, self.at(b) as usize),
                code::MKDIR => sys3(nr::MKDIRAT, AT_FDCWD, self.at(a) as usize, b as usize),
                code::OPEN => {
                    sys6(nr::OPENAT, AT_FDCWD, self.at(a) as usize, b as usize | O_CLOEXEC, c as usize, 0, 0)
                }
                code::DUP_TO => self.dup_to(self.fd(a), b as i32),
                code::WRITE_FILE => self.write_over_one(self.at(a), self.at(b), c as usize, d),
                code::CREATE_FILE => {
                    self.write(self.at(a), O_WRONLY | O_CREAT_EXCL, d as usize, self.at(b), c as usize)
                }
                code::CLOSE_OTHERS => self.close_others(),
                code::CLOSE_INHERITED => self.close_inherited(),
                code::TERMINAL => self.terminal(a, b != 0),
                code::ENTER_KERNEL => {
                    self.masked_dir = 0;
                    verify::enter_kernel(self.at(a), b)
                }
                code::CHECK_DEVICE => verify::check_device(self.at(a), b),
                code::WRITE_OVER => self.write_over(a, b, c as usize),
                code::WORKING_DIR => working_dir(self.at(a)),
                _ => -syscall::ENOSYS,
            }
        }
    }

    /// Like `dup2`: the copy stays open on exec, also where both numbers are the same.
    unsafe fn dup_to(&self, from: i32, to: i32) -> isize {
        // SAFETY: descriptor numbers.
        unsafe {
            if from == to {
                sys3(nr::FCNTL, from as usize, F_SETFD, 0)
            } else {
                sys3(nr::DUP3, from as usize, to as usize, 0)
            }
        }
    }

    unsafe fn write(&self, path: *const u8, flags: usize, mode: usize, data: *const u8, len: usize) -> isize {
        // SAFETY: a string and `len` bytes of the plan.
        unsafe {
            let fd = sys6(nr::OPENAT, AT_FDCWD, path as usize, flags | O_CLOEXEC, mode, 0, 0);
            write_and_close(fd, data, len)
        }
    }

    /// Writes to a file that is there, looked up by the rules of `openat2(2)`.
    unsafe fn write_over_one(&self, path: *const u8, data: *const u8, len: usize, resolve: u64) -> isize {
        let how = [(O_WRONLY | O_CLOEXEC) as u64, 0, resolve];
        // SAFETY: a string and `len` bytes of the plan, and a live `struct open_how`.
        unsafe {
            let fd = sys6(nr::OPENAT2, AT_FDCWD, path as usize, how.as_ptr() as usize, 24, 0, 0);
            write_and_close(fd, data, len)
        }
    }

    pub(super) unsafe fn close_others(&self) -> isize {
        let sock = self.sock as usize;
        // SAFETY: nothing above the standard descriptors is used after this but the socket.
        unsafe {
            let ret = sys3(nr::FCNTL, sock, F_SETFD, FD_CLOEXEC);
            if ret < 0 {
                return ret;
            }
            if sock > 3 {
                let ret = sys3(nr::CLOSE_RANGE, 3, sock - 1, 0);
                if ret < 0 {
                    return ret;
                }
            }
            sys3(nr::CLOSE_RANGE, sock + 1, u32::MAX as usize, 0)
        }
    }

    /// Closes the gaps between the descriptors to keep.
    unsafe fn close_inherited(&self) -> isize {
        let mut from = 0_i32;
        loop {
            // The next one to keep, from `from` on.
            let mut keep = if self.sock >= from { self.sock } else { i32::MAX };
            let mut i = 0;
            while i < SLOTS {
                let fd = self.slots[i];
                if fd >= from && fd < keep {
                    keep = fd;
                }
                i += 1;
            }
            let to = if keep == i32::MAX { u32::MAX as usize } else { keep as usize };
            if to == u32::MAX as usize || keep > from {
                let last = if keep == i32::MAX { to } else { to - 1 };
                // SAFETY: none of these is used any more.
                let ret = unsafe { sys3(nr::CLOSE_RANGE, from as usize, last, 0) };
                if ret < 0 || keep == i32::MAX {
                    return ret;
                }
            }
            from = keep + 1;
        }
    }
}

/// Writes all of it in one call to a file that was just opened, or not.
unsafe fn write_and_close(fd: isize, data: *const u8, len: usize) -> isize {
    if fd < 0 {
        return fd;
    }
    // SAFETY: `len` bytes of the plan; the descriptor is ours.
    unsafe {
        let ret = if len == 0 { 0 } else { sys3(nr::WRITE, fd as usize, data as usize, len) };
        sys1(nr::CLOSE, fd as usize);
        if ret < 0 || ret as usize == len { ret.min(0) } else { -syscall::E2BIG }
    }
}

/// Changes directory and makes sure that the kernel can name the place from the root: a directory outside of it
/// reads as `(unreachable)`.
unsafe fn working_dir(path: *const u8) -> isize {
    let mut cwd = [core::mem::MaybeUninit::<u8>::uninit(); 4096];
    // SAFETY: a string of the plan; one byte of what getcwd wrote is read, after it succeeded.
    unsafe {
        let ret = sys1(nr::CHDIR, path as usize);
        if ret < 0 {
            return ret;
        }
        let len = sys3(nr::GETCWD, cwd.as_mut_ptr() as usize, cwd.len(), 0);
        match len {
            _ if len < 0 => len,
            _ if cwd[0].assume_init() == b'/' => 0,
            _ => -syscall::EXDEV,
        }
    }
}
