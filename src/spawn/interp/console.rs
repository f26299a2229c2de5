//! Terminals of a container: making them, and keeping what is written to its console.

use core::mem::MaybeUninit;

use super::abi::{self, Record, ring};
use super::mounts::{O_PATH_CLOEXEC, statfs};
use super::syscall::{self, AT_FDCWD, nr, sys1, sys3, sys5, sys6};
use super::{Interp, verify};

const O_RDWR_NOCTTY_NONBLOCK_CLOEXEC: usize = 2 | 0o400 | 0o4000 | 0o2000000;
const O_WRONLY_NOCTTY_NONBLOCK_CLOEXEC: u64 = 1 | 0o400 | 0o4000 | 0o2000000;
const S_IFREG_600: usize = 0o100600;
const MS_BIND: usize = 1 << 12;

const TIOCSPTLCK: usize = 0x4004_5431;
const TIOCGPTN: usize = 0x8004_5430;
const TIOCGPTPEER: usize = 0x5441;

const RESOLVE_NO_XDEV: u64 = 1;
const RESOLVE_NO_MAGICLINKS: u64 = 2;
const RESOLVE_NO_SYMLINKS: u64 = 4;
const RESOLVE_IN_ROOT: u64 = 0x10;

const DEVPTS_SUPER_MAGIC: u64 = 0x1cd1;

const POLLIN: i16 = 1;

/// As `PIDFD_GET_INFO` in `sys::pidfd`.
const PIDFD_GET_INFO: usize = 0xC048_FF0B;
const PIDFD_INFO_EXIT: u64 = 1 << 3;

/// The terminals that one process keeps: the console and some more.
const MAX_TERMINALS: usize = 64;
/// How much is read at a time.
const CHUNK: usize = 4096;

#[repr(C)]
#[derive(Clone, Copy)]
struct PollFd {
    fd: i32,
    events: i16,
    revents: i16,
}

impl Interp {
    /// Makes a terminal in the container's own devpts, binds it to `target`, and sends its master to the host.
    pub(super) unsafe fn terminal(&mut self, target: u64, check: bool) -> isize {
        // SAFETY: strings of the plan and constants, and a descriptor that is opened here.
        unsafe {
            let ptmx = c"/dev/pts/ptmx".as_ptr() as usize;
            let fd = sys6(nr::OPENAT, AT_FDCWD, ptmx, O_RDWR_NOCTTY_NONBLOCK_CLOEXEC, 0, 0, 0);
            if fd < 0 {
                return fd;
            }
            let ret = self.bind_terminal(fd as usize, target, check);
            if ret >= 0 {
                self.send_record(&Record::new(abi::TERMINAL, self.pc, 0, 0), fd as i32);
            }
            sys1(nr::CLOSE, fd as usize);
            ret
        }
    }

    unsafe fn bind_terminal(&self, master: usize, target: u64, check: bool) -> isize {
        let (locked, mut number) = (0_i32, 0_u32);
        let target = self.at(target) as usize;
        // SAFETY: live integers, strings of the plan, and a path that is made here.
        unsafe {
            let ret = sys3(nr::IOCTL, master, TIOCSPTLCK, &raw const locked as usize);
            if ret < 0 {
                return ret;
            }
            let ret = sys3(nr::IOCTL, master, TIOCGPTN, &raw mut number as usize);
            if ret < 0 {
                return ret;
            }
            let mut path = *b"/dev/pts/\0\0\0\0\0\0\0\0\0\0\0";
            decimal(number, path.as_mut_ptr().add(9));
            let ret = sys6(nr::MKNODAT, AT_FDCWD, target, S_IFREG_600, 0, 0, 0);
            if ret < 0 {
                return ret;
            }
            let ret = sys5(nr::MOUNT, path.as_ptr() as usize, target, 0, MS_BIND, 0);
            if ret < 0 || !check {
                return ret;
            }
            // Whoever can mount something there could have had anything bound in its place.
            match statfs_of(target as *const u8) {
                Ok(DEVPTS_SUPER_MAGIC) => verify::check_device(target as *const u8, terminal_device(number)),
                Ok(_) => -syscall::EXDEV,
                Err(ret) => ret,
            }
        }
    }

    /// Puts `data` into a file of the root file system, if there is such a file and it can be written.
    pub(super) unsafe fn write_over(&self, path: u64, data: u64, len: usize) -> isize {
        let resolve = RESOLVE_IN_ROOT | RESOLVE_NO_XDEV | RESOLVE_NO_MAGICLINKS | RESOLVE_NO_SYMLINKS;
        let how = [O_WRONLY_NOCTTY_NONBLOCK_CLOEXEC, 0, resolve];
        // SAFETY: a string and `len` bytes of the plan, and a live `struct open_how`.
        unsafe {
            let fd = sys6(nr::OPENAT2, AT_FDCWD, self.at(path) as usize, how.as_ptr() as usize, 24, 0, 0);
            if fd < 0 {
                return 0;
            }
            // Refused for everything but plain files.
            let ret = match sys3(nr::FTRUNCATE, fd as usize, 0, 0) {
                0 => sys3(nr::WRITE, fd as usize, self.at(data) as usize, len),
                _ => 0,
            };
            sys1(nr::CLOSE, fd as usize);
            ret.min(0)
        }
    }

    /// Keeps the terminals whose masters lie in `count` slots from `first` on until the process of `pidfd` has ended:
    /// what the first one writes goes to `file`, what the others write is dropped. Ends with the process.
    pub(super) unsafe fn keep(&mut self, first: usize, count: usize, file: i32, size: u64, pidfd: i32) -> ! {
        // What is no descriptor of the plan would be waited for without an end.
        if pidfd < 3 || file < 3 {
            self.fail(-syscall::EBADMSG);
        }
        let count = if count < MAX_TERMINALS { count } else { MAX_TERMINALS };
        let mut fds = [PollFd { fd: -1, events: POLLIN, revents: 0 }; MAX_TERMINALS + 1];
        let mut peers = [-1_i32; MAX_TERMINALS];
        let mut keeper = Keeper { file, size, total: 0 };
        let all = !0_u64;
        let mut i = 0;
        // SAFETY: live memory of this process and its own descriptors.
        unsafe {
            // A signal that is meant for the container's processes is not for this one.
            sys6(nr::RT_SIGPROCMASK, 2, &raw const all as usize, 0, 8, 0, 0);
            while i < count {
                fds[i].fd = self.slots[(first + i) & (super::SLOTS - 1)];
                i += 1;
            }
            fds[count].fd = pidfd;
            let got = sys6(
                nr::PREAD64,
                file as usize,
                &raw mut keeper.total as usize,
                8,
                ring::TOTAL as usize,
                0,
                0,
            );
            if got != 8 || size == 0 {
                keeper.size = 0;
            }
            // The host waits for this.
            self.send_record(&Record::new(abi::MARKER, self.pc, 0, 0), -1);
            sys1(nr::CLOSE, self.sock as usize);
            while fds[count].revents == 0 {
                let ready = sys6(nr::PPOLL, fds.as_mut_ptr() as usize, count + 1, 0, 0, 0, 0);
                if ready < 0 && ready != -syscall::EINTR {
                    syscall::exit(abi::EXIT_FAILED);
                }
                i = 0;
                while i < count {
                    if fds[i].revents != 0 {
                        let got = keeper.read(fds[i].fd, i == 0);
                        if got <= 0 && got != -syscall::EAGAIN && got != -syscall::EINTR {
                            fds[i].fd = open_again(fds[i].fd, &mut peers[i]);
                        }
                    }
                    i += 1;
                }
            }
            while fds[0].fd >= 0 && keeper.read(fds[0].fd, true) > 0 {}
            keeper.note_end(pidfd);
        }
        syscall::exit(0)
    }
}

/// The number of the device that a terminal of devpts is (`pts(4)`).
fn terminal_device(number: u32) -> u64 {
    const FIRST_MAJOR: u64 = 136;
    let (major, minor) = (FIRST_MAJOR + u64::from(number >> 8), u64::from(number & 0xff));
    major << 8 | minor
}

/// The kind of file system that a file is on.
unsafe fn statfs_of(path: *const u8) -> Result<u64, isize> {
    // SAFETY: a C string, and a descriptor that is opened here.
    unsafe {
        let fd = sys6(nr::OPENAT, AT_FDCWD, path as usize, O_PATH_CLOEXEC, 0, 0, 0);
        if fd < 0 {
            return Err(fd);
        }
        let found = statfs(fd as i32);
        sys1(nr::CLOSE, fd as usize);
        found.map(|fs| fs[0])
    }
}

/// Where the console's output goes.
struct Keeper {
    file: i32,
    /// Of the ring; 0 where nothing is kept.
    size: u64,
    /// Bytes that were ever written to it.
    total: u64,
}

impl Keeper {
    /// Takes what can be read from a master at once. What the kernel says: a length, or an errno.
    unsafe fn read(&mut self, master: i32, kept: bool) -> isize {
        let mut buf = [MaybeUninit::<u8>::uninit(); CHUNK];
        // SAFETY: as many bytes are written to the file as were read into the live buffer.
        unsafe {
            let got = sys3(nr::READ, master as usize, buf.as_mut_ptr() as usize, CHUNK);
            if got > 0 && kept && self.size > 0 {
                self.store(buf.as_ptr().cast(), got as u64);
            }
            got
        }
    }

    unsafe fn store(&mut self, mut from: *const u8, mut len: u64) {
        // SAFETY: `len` bytes from `from` on are live.
        unsafe {
            while len > 0 {
                let at = self.total % self.size;
                let room = self.size - at;
                let part = if len < room { len } else { room };
                let place = ring::DATA + at;
                sys6(nr::PWRITE64, self.file as usize, from as usize, part as usize, place as usize, 0, 0);
                from = from.add(part as usize);
                len -= part;
                self.total += part;
            }
            let total = &raw const self.total as usize;
            sys6(nr::PWRITE64, self.file as usize, total, 8, ring::TOTAL as usize, 0, 0);
        }
    }

    /// Writes down how the process has ended, once its parent knows: Linux 6.15 tells then. The parent may be gone.
    unsafe fn note_end(&self, pidfd: i32) {
        // SAFETY: a live `struct pidfd_info` of 72 bytes and its own descriptors.
        unsafe {
            loop {
                let mut info = [0_u64; 9];
                info[0] = PIDFD_INFO_EXIT;
                if sys3(nr::IOCTL, pidfd as usize, PIDFD_GET_INFO, info.as_mut_ptr() as usize) < 0 {
                    return;
                }
                if info[0] & PIDFD_INFO_EXIT != 0 {
                    let code = ((&raw const info[7]).cast::<u32>()).add(1).read();
                    let word = ring::ENDED | u64::from(code);
                    let word = &raw const word as usize;
                    sys6(nr::PWRITE64, self.file as usize, word, 8, ring::END as usize, 0, 0);
                    return;
                }
                // It hangs up when the process is reaped.
                let mut fd = PollFd { fd: pidfd, events: 0, revents: 0 };
                let second = [1_u64, 0];
                sys6(nr::PPOLL, &raw mut fd as usize, 1, second.as_ptr() as usize, 0, 0, 0);
            }
        }
    }
}

/// After everybody has closed a terminal, its master hangs up until somebody opens it again. So that this is not seen
/// over and over, this process opens it itself, and keeps it as `peer`. The master, or -1 where that cannot be.
unsafe fn open_again(master: i32, peer: &mut i32) -> i32 {
    // SAFETY: descriptors of this process. A peer that it had was hung up by `vhangup(2)`.
    unsafe {
        let made = sys3(nr::IOCTL, master as usize, TIOCGPTPEER, O_RDWR_NOCTTY_NONBLOCK_CLOEXEC);
        if *peer >= 0 {
            sys1(nr::CLOSE, *peer as usize);
        }
        *peer = made as i32;
        if made < 0 { -1 } else { master }
    }
}

/// Writes `n` in decimal.
unsafe fn decimal(mut n: u32, to: *mut u8) {
    let mut digits = 1;
    let mut rest = n / 10;
    while rest > 0 {
        digits += 1;
        rest /= 10;
    }
    while digits > 0 {
        digits -= 1;
        // SAFETY: the caller has room for ten digits.
        unsafe { to.add(digits).write(b'0' + (n % 10) as u8) };
        n /= 10;
    }
}
