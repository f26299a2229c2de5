//! Mount operations.

use super::abi::code;
use super::syscall::{self, AT_FDCWD, nr, sys1, sys3, sys5, sys6};
use super::{Interp, verify};

const MS_RDONLY: usize = 1;
const MS_NOSUID: usize = 2;
const MS_NODEV: usize = 4;
const MS_NOEXEC: usize = 8;
const MS_BIND: usize = 1 << 12;
const MS_REC: usize = 1 << 14;

const AT_EMPTY_PATH: usize = 0x1000;
const AT_RECURSIVE: usize = 0x8000;
const MOVE_MOUNT_F_EMPTY_PATH: usize = 4;
const MOVE_MOUNT_T_EMPTY_PATH: usize = 0x40;
const FSOPEN_CLOEXEC: usize = 1;
const MNT_DETACH: usize = 2;
const ST_RDONLY: u64 = 1;

pub(super) const O_PATH_CLOEXEC: usize = 0o10000000 | 0o2000000;

const RESOLVE_NO_MAGICLINKS: u64 = 2;
const RESOLVE_IN_ROOT: u64 = 0x10;

const PROC_SUPER_MAGIC: u64 = 0x9fa0;
const SYSFS_MAGIC: u64 = 0x6265_6572;

const S_IFREG_644: usize = 0o100644;
const S_IFREG_444: usize = 0o100444;

const OPEN_TREE_CLONE_CLOEXEC: usize = 1 | 0o2000000;
const FSCONFIG_CMD_CREATE: usize = 6;
/// `nosuid`, `nodev`, `noexec`. Not read-only: the file is still to be made.
const MASK_ATTRS: usize = 2 | 4 | 8;

fn empty() -> usize {
    c"".as_ptr() as usize
}

/// `struct mount_attr` that only sets read-only.
static READ_ONLY: [u64; 4] = [1, 0, 0, 0];

impl Interp {
    pub(super) unsafe fn mount_op(&mut self, op: u16, args: [u64; 5]) -> isize {
        let [a, b, c, d, e] = args;
        // SAFETY: as `Interp::step`.
        unsafe {
            match op {
                code::PROPAGATION => sys5(nr::MOUNT, 0, self.at(a) as usize, 0, b as usize, 0),
                code::OPEN_TREE => sys3(nr::OPEN_TREE, self.fd(a) as usize, self.at(b) as usize, c as usize),
                code::MOUNT_SETATTR => {
                    self.setattr(self.fd(a), empty(), self.at(b) as usize, c as usize | AT_EMPTY_PATH)
                }
                code::MOUNT_SETATTR_PATH => {
                    self.setattr(AT_FDCWD as i32, self.at(a) as usize, self.at(b) as usize, c as usize)
                }
                code::MOVE_MOUNT => sys5(
                    nr::MOVE_MOUNT,
                    self.fd(a) as usize,
                    empty(),
                    AT_FDCWD,
                    self.at(b) as usize,
                    MOVE_MOUNT_F_EMPTY_PATH,
                ),
                code::PIVOT_ROOT => match sys1(nr::FCHDIR, self.fd(a) as usize) {
                    0 => sys3(nr::PIVOT_ROOT, c".".as_ptr() as usize, c".".as_ptr() as usize, 0),
                    ret => ret,
                },
                code::DETACH_TOP => detach_top(),
                code::MOUNT => self.mount(self.at(b) as usize, a, c, d, e),
                code::MOUNT_TOP => self.mount_top(b, a, c, d, e),
                code::READ_ONLY => self.read_only(self.at(a) as usize),
                code::MASK => self.mask(a, b, c),
                code::FSOPEN => sys3(nr::FSOPEN, self.at(a) as usize, FSOPEN_CLOEXEC, 0),
                code::FSCONFIG => sys5(
                    nr::FSCONFIG,
                    self.fd(a) as usize,
                    b as usize,
                    self.at(c) as usize,
                    self.at(d) as usize,
                    0,
                ),
                code::FSMOUNT => {
                    let ret = sys3(nr::FSMOUNT, self.fd(a) as usize, FSOPEN_CLOEXEC, b as usize);
                    sys1(nr::CLOSE, self.fd(a) as usize);
                    ret
                }
                code::CHECK_WRITABLE => self.check_writable(self.fd(a)),
                code::ATTACH => {
                    let ret = self.attach(self.fd(a), self.at(b), c != 0, d != 0);
                    sys1(nr::CLOSE, self.fd(a) as usize);
                    ret
                }
                _ => -syscall::ENOSYS,
            }
        }
    }

    unsafe fn mount(&self, target: usize, source: u64, fstype: u64, flags: u64, data: u64) -> isize {
        // SAFETY: strings of the plan, or null.
        unsafe {
            sys5(
                nr::MOUNT,
                self.at(source) as usize,
                target,
                self.at(fstype) as usize,
                flags as usize,
                self.at(data) as usize,
            )
        }
    }

    /// Mounts on a directory directly below the root, which is made if it is missing. The root's mount does not
    /// follow links at that time, so an image that has one in its place gets an error, not a mount elsewhere.
    unsafe fn mount_top(&self, target: u64, source: u64, fstype: u64, flags: u64, data: u64) -> isize {
        let path = self.at(target) as usize;
        // SAFETY: strings of the plan, or null.
        unsafe {
            let ret = self.mount(path, source, fstype, flags, data);
            if ret != -syscall::ENOENT {
                return ret;
            }
            match sys3(nr::MKDIRAT, AT_FDCWD, path, 0o755) {
                0 => self.mount(path, source, fstype, flags, data),
                ret => ret,
            }
        }
    }

    unsafe fn setattr(&self, dir: i32, path: usize, attr: usize, flags: usize) -> isize {
        // SAFETY: a `struct mount_attr` of 32 bytes in the plan.
        unsafe { sys5(nr::MOUNT_SETATTR, dir as usize, path, flags, attr, 32) }
    }

    unsafe fn read_only(&self, path: usize) -> isize {
        // SAFETY: a string of the plan and a live structure.
        unsafe {
            match sys5(nr::MOUNT, path, path, 0, MS_BIND | MS_REC, 0) {
                0 => self.setattr(AT_FDCWD as i32, path, READ_ONLY.as_ptr() as usize, AT_RECURSIVE),
                ret => ret,
            }
        }
    }

    unsafe fn mask(&mut self, path: u64, source: u64, device: u64) -> isize {
        let target = self.at(path) as usize;
        // SAFETY: strings of the plan and constants.
        unsafe {
            let ret = if source == 0 {
                cover_with_empty_file(target as *const u8)
            } else {
                sys5(nr::MOUNT, self.at(source) as usize, target, 0, MS_BIND, 0)
            };
            // Whoever can change the source could have anything bound in its place.
            if ret == 0 && source != 0 && device != 0 {
                return verify::check_device(target as *const u8, device);
            }
            // A directory: mount(2) and move_mount(2) say so in different words.
            if ret != -syscall::ENOTDIR && ret != -syscall::EINVAL {
                return ret;
            }
            // A directory. One empty file system serves all below a directory of the kernel's, unless a later mask has
            // covered its place. Elsewhere others may change what is at that place.
            if self.masked_dir != 0
                && *(target as *const u8) != b'/'
                && sys5(nr::MOUNT, self.at(self.masked_dir) as usize, target, 0, MS_BIND, 0) == 0
            {
                return 0;
            }
            let tmpfs = c"tmpfs".as_ptr() as usize;
            let ret = sys5(nr::MOUNT, tmpfs, target, tmpfs, MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC, 0);
            if ret == 0 {
                self.masked_dir = path;
            }
            ret
        }
    }

    unsafe fn check_writable(&self, mount: i32) -> isize {
        match statfs(mount) {
            Ok(fs) if fs[STATFS_FLAGS] & ST_RDONLY != 0 => -syscall::EROFS,
            Ok(_) => 0,
            Err(ret) => ret,
        }
    }

    /// Mounts `mount` on `target`, looked up inside the root and made if missing.
    unsafe fn attach(&self, mount: i32, target: *mut u8, directory: bool, kernel_files: bool) -> isize {
        // SAFETY: `target` is a string of the plan; the interpreter owns the plan and may cut it for a moment.
        unsafe {
            let mut fd = open_in_root(target);
            if fd == -syscall::ENOENT {
                let ret = make_target(target, directory);
                if ret < 0 {
                    return ret;
                }
                fd = open_in_root(target);
            }
            if fd < 0 {
                return fd;
            }
            if !kernel_files {
                match statfs(fd as i32) {
                    Ok(fs) if fs[0] == PROC_SUPER_MAGIC || fs[0] == SYSFS_MAGIC => return -syscall::EXDEV,
                    Ok(_) => {}
                    Err(ret) => return ret,
                }
            }
            let flags = MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH;
            let ret = sys5(nr::MOVE_MOUNT, mount as usize, empty(), fd as usize, empty(), flags);
            sys1(nr::CLOSE, fd as usize);
            ret
        }
    }
}

/// How often a look-up that others disturb is begun anew.
const OPEN_TRIES: u32 = 10_000;

/// Word of `struct statfs` that holds the mount flags.
const STATFS_FLAGS: usize = 10;

pub(super) fn statfs(fd: i32) -> Result<[u64; 15], isize> {
    let mut fs = [0_u64; 15];
    // SAFETY: `struct statfs` has 120 bytes on the architectures that we run on.
    let ret = unsafe { sys3(nr::FSTATFS, fd as usize, fs.as_mut_ptr() as usize, 0) };
    if ret < 0 { Err(ret) } else { Ok(fs) }
}

pub(super) unsafe fn open_in_root(path: *const u8) -> isize {
    let how = [O_PATH_CLOEXEC as u64, 0, RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS];
    let mut tries = 0;
    loop {
        // SAFETY: a C string and a live `struct open_how`. With RESOLVE_IN_ROOT and the working directory `/`, `/`
        // is the root that links and `..` cannot leave.
        let ret = unsafe { sys6(nr::OPENAT2, AT_FDCWD, path as usize, how.as_ptr() as usize, 24, 0, 0) };
        // The kernel cannot vouch for a `..` while anybody on the machine renames or mounts something.
        if ret != -syscall::EAGAIN || tries == OPEN_TRIES {
            return ret;
        }
        tries += 1;
    }
}

/// Makes the missing directories of `target`, and at its end a directory or an empty file.
unsafe fn make_target(target: *mut u8, directory: bool) -> isize {
    // SAFETY: a C string that this process owns; each cut is undone before the next. Every part is made below a
    // directory that was opened inside the root.
    unsafe {
        let mut i = 1;
        loop {
            let at = target.add(i);
            let end = *at == 0;
            if !end && *at != b'/' {
                i += 1;
                continue;
            }
            *at = 0;
            let ret = make_one(target, i, directory || !end);
            if !end {
                *at = b'/';
            }
            if end || ret < 0 {
                return ret;
            }
            i += 1;
        }
    }
}

/// Makes the last part of `path` (of `len` bytes) unless it exists, without following a link there.
unsafe fn make_one(path: *mut u8, len: usize, directory: bool) -> isize {
    // SAFETY: a C string that this process owns, cut at its last slash for a moment.
    unsafe {
        let mut slash = len - 1;
        while slash > 0 && *path.add(slash) != b'/' {
            slash -= 1;
        }
        let parent = if slash == 0 {
            open_in_root(c"/".as_ptr().cast())
        } else {
            *path.add(slash) = 0;
            let fd = open_in_root(path);
            *path.add(slash) = b'/';
            fd
        };
        if parent < 0 {
            return parent;
        }
        let name = path.add(slash + 1) as usize;
        let ret = if directory {
            sys3(nr::MKDIRAT, parent as usize, name, 0o755)
        } else {
            sys6(nr::MKNODAT, parent as usize, name, S_IFREG_644, 0, 0, 0)
        };
        sys1(nr::CLOSE, parent as usize);
        if ret == -syscall::EEXIST { 0 } else { ret }
    }
}

/// Covers the file at `path` with an empty one. A file can only be bound from a mount that is attached, so the new
/// file system lies over `/` for a moment, once the path has been looked up.
unsafe fn cover_with_empty_file(path: *const u8) -> isize {
    // SAFETY: a C string of the plan, constants, and descriptors that are opened here.
    unsafe {
        let target = open_in_root(path);
        if target < 0 {
            return target;
        }
        // What is taken away again is what is mounted last on the working directory: here that may be procfs.
        let flags = O_PATH_CLOEXEC;
        let here = sys6(nr::OPENAT, AT_FDCWD, c".".as_ptr() as usize, flags, 0, 0, 0);
        let moved = if here < 0 { here } else { sys1(nr::CHDIR, c"/".as_ptr() as usize) };
        let ret = if moved < 0 { moved } else { cover_from_root(target) };
        // Also where it failed: `path` may be a directory, and the caller then mounts something else on it.
        let back = if moved < 0 { 0 } else { sys1(nr::FCHDIR, here as usize) };
        sys1(nr::CLOSE, here as usize);
        sys1(nr::CLOSE, target as usize);
        if back < 0 { back } else { ret }
    }
}

/// Covers the file behind `target`, and closes nothing of the caller's. The working directory is the root.
unsafe fn cover_from_root(target: isize) -> isize {
    // SAFETY: constants, and descriptors that are opened here.
    unsafe {
        let fs = sys3(nr::FSOPEN, c"tmpfs".as_ptr() as usize, FSOPEN_CLOEXEC, 0);
        let made = sys5(nr::FSCONFIG, fs as usize, FSCONFIG_CMD_CREATE, 0, 0, 0);
        let top = sys3(nr::FSMOUNT, fs as usize, FSOPEN_CLOEXEC, MASK_ATTRS);
        sys1(nr::CLOSE, fs as usize);
        let root = c"/".as_ptr() as usize;
        let mut ret = if fs < 0 {
            fs
        } else if made < 0 {
            made
        } else {
            top
        };
        if ret >= 0 {
            ret = sys5(nr::MOVE_MOUNT, top as usize, empty(), AT_FDCWD, root, MOVE_MOUNT_F_EMPTY_PATH);
        }
        if ret >= 0 {
            let name = c"empty".as_ptr() as usize;
            sys6(nr::MKNODAT, top as usize, name, S_IFREG_444, 0, 0, 0);
            let file = sys3(nr::OPEN_TREE, top as usize, name, OPEN_TREE_CLONE_CLOEXEC);
            sys5(nr::MOUNT_SETATTR, file as usize, empty(), AT_EMPTY_PATH, READ_ONLY.as_ptr() as usize, 32);
            let detached = detach_top();
            let flags = MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH;
            ret = match () {
                () if file < 0 => file,
                () if detached < 0 => detached,
                () => sys5(nr::MOVE_MOUNT, file as usize, empty(), target as usize, empty(), flags),
            };
            sys1(nr::CLOSE, file as usize);
        }
        sys1(nr::CLOSE, top as usize);
        ret
    }
}

unsafe fn detach_top() -> isize {
    // SAFETY: constants. umount2 takes what is mounted last on the working directory, and cannot be told to follow a
    // path into something else.
    unsafe {
        let ret = sys3(nr::UMOUNT2, c".".as_ptr() as usize, MNT_DETACH, 0);
        if ret < 0 {
            return ret;
        }
        sys1(nr::CHDIR, c"/".as_ptr() as usize)
    }
}
