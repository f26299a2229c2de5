//! Making sure that a place or a file is what its path says, where somebody else could have changed it meanwhile.

use super::mounts::{O_PATH_CLOEXEC, statfs};
use super::syscall::{self, AT_FDCWD, nr, sys1, sys5, sys6};

const O_DIRECTORY_NOFOLLOW: usize = libc_flags::O_DIRECTORY | libc_flags::O_NOFOLLOW;
const AT_EMPTY_PATH: usize = 0x1000;
const AT_SYMLINK_NOFOLLOW: usize = 0x100;
const STATX_TYPE_AND_INO: usize = 0x101;
const S_IFMT: u16 = 0o170_000;
const S_IFCHR: u16 = 0o020_000;
const S_IFDIR: u16 = 0o040_000;
/// The number of the top directory of procfs and of sysfs.
const TOP: u64 = 1;

#[cfg(target_arch = "x86_64")]
mod libc_flags {
    pub(super) const O_DIRECTORY: usize = 0o200_000;
    pub(super) const O_NOFOLLOW: usize = 0o400_000;
}
#[cfg(target_arch = "aarch64")]
mod libc_flags {
    pub(super) const O_DIRECTORY: usize = 0o40_000;
    pub(super) const O_NOFOLLOW: usize = 0o100_000;
}

/// What is looked at of a `struct statx`.
#[derive(Clone, Copy)]
pub(super) struct Status {
    ino: u64,
    kind: u16,
    device: (u32, u32),
}

impl Status {
    pub(super) fn is_dir(&self) -> bool {
        self.kind == S_IFDIR
    }

    pub(super) fn is_device(&self, device: u64) -> bool {
        self.kind == S_IFCHR && self.device == split(device)
    }
}

/// Major and minor of a number as `makedev(3)` makes it.
fn split(device: u64) -> (u32, u32) {
    let major = (device >> 32) as u32 & 0xffff_f000 | (device >> 8) as u32 & 0xfff;
    let minor = (device >> 12) as u32 & 0xffff_ff00 | device as u32 & 0xff;
    (major, minor)
}

/// # Safety
/// `path` is a C string.
pub(super) unsafe fn status(dir: usize, path: *const u8, flags: usize) -> Result<Status, isize> {
    let mut stx = [0_u64; 32];
    // SAFETY: a `struct statx` has 256 bytes.
    let ret = unsafe {
        let stx = stx.as_mut_ptr() as usize;
        sys5(nr::STATX, dir, path as usize, flags, STATX_TYPE_AND_INO, stx)
    };
    if ret < 0 {
        return Err(ret);
    }
    // Fields by their place in the structure: the type at byte 28, inode at 32, device at 128.
    let mode = (stx[3] >> 32) as u16;
    let (major, minor) = (stx[16] as u32, (stx[16] >> 32) as u32);
    Ok(Status { ino: stx[4], kind: mode & S_IFMT, device: (major, minor) })
}

/// Goes to the top directory of a file system of the kernel's at `path`. What is looked up from there cannot be led astray
/// by links of an image, nor by a change of the directory that it is mounted on.
pub(super) unsafe fn enter_kernel(path: *const u8, magic: u64) -> isize {
    // SAFETY: a C string, and a descriptor that is opened here.
    unsafe {
        let flags = O_PATH_CLOEXEC | O_DIRECTORY_NOFOLLOW;
        let fd = sys6(nr::OPENAT, AT_FDCWD, path as usize, flags, 0, 0, 0);
        if fd < 0 {
            return fd;
        }
        let top = status(fd as usize, c"".as_ptr().cast(), AT_EMPTY_PATH);
        let ret = match (statfs(fd as i32), top) {
            (Ok(fs), Ok(top)) if fs[0] == magic && top.ino == TOP => sys1(nr::FCHDIR, fd as usize),
            (Ok(_), Ok(_)) => -syscall::EXDEV,
            (Err(ret), _) | (_, Err(ret)) => ret,
        };
        sys1(nr::CLOSE, fd as usize);
        ret
    }
}

/// Makes sure that a character device is at `path`, and no link.
pub(super) unsafe fn check_device(path: *const u8, device: u64) -> isize {
    // SAFETY: a C string.
    match unsafe { status(AT_FDCWD, path, AT_SYMLINK_NOFOLLOW) } {
        Ok(found) if found.is_device(device) => 0,
        Ok(_) => -syscall::EXDEV,
        Err(ret) => ret,
    }
}

/// Gives the process a session keyring without a name, which nobody else has.
pub(super) unsafe fn new_keyring() -> isize {
    const KEYCTL_JOIN_SESSION_KEYRING: usize = 1;
    // SAFETY: no name is given. What comes back is the number of a key.
    let ret = unsafe { sys5(nr::KEYCTL, KEYCTL_JOIN_SESSION_KEYRING, 0, 0, 0, 0) };
    ret.min(0)
}
