//! The C library's calls that the standard library does not have. They are declared here: the agent has no other crate.

use std::ffi::{CStr, CString, c_char, c_int, c_long, c_uint, c_ulong, c_void};
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

mod c {
    use super::*;

    #[repr(C)]
    pub(super) struct SockaddrVm {
        pub(super) family: u16,
        pub(super) reserved: u16,
        pub(super) port: u32,
        pub(super) cid: u32,
        pub(super) zero: [u8; 4],
    }

    #[repr(C)]
    pub(super) struct Ifaddrs {
        pub(super) next: *mut Ifaddrs,
        pub(super) name: *const c_char,
        pub(super) flags: c_uint,
        pub(super) address: *const u8,
        pub(super) mask: *const u8,
        pub(super) other: *const u8,
        pub(super) data: *const c_void,
    }

    unsafe extern "C" {
        pub(super) fn socket(domain: c_int, kind: c_int, protocol: c_int) -> c_int;
        pub(super) fn bind(fd: c_int, address: *const SockaddrVm, len: u32) -> c_int;
        pub(super) fn connect(fd: c_int, address: *const SockaddrVm, len: u32) -> c_int;
        pub(super) fn listen(fd: c_int, backlog: c_int) -> c_int;
        pub(super) fn accept4(fd: c_int, address: *mut SockaddrVm, len: *mut u32, flags: c_int) -> c_int;
        pub(super) fn mount(
            source: *const c_char,
            target: *const c_char,
            kind: *const c_char,
            flags: c_ulong,
            data: *const c_char,
        ) -> c_int;
        pub(super) fn umount2(target: *const c_char, flags: c_int) -> c_int;
        pub(super) fn chroot(path: *const c_char) -> c_int;
        pub(super) fn fork() -> c_int;
        pub(super) fn _exit(code: c_int) -> !;
        pub(super) fn execve(
            path: *const c_char,
            args: *const *const c_char,
            env: *const *const c_char,
        ) -> c_int;
        pub(super) fn dup2(from: c_int, to: c_int) -> c_int;
        pub(super) fn pipe2(fds: *mut c_int, flags: c_int) -> c_int;
        pub(super) fn setsid() -> c_int;
        pub(super) fn setgroups(count: usize, groups: *const u32) -> c_int;
        pub(super) fn setgid(gid: u32) -> c_int;
        pub(super) fn setuid(uid: u32) -> c_int;
        pub(super) fn chdir(path: *const c_char) -> c_int;
        pub(super) fn kill(pid: c_int, signal: c_int) -> c_int;
        pub(super) fn waitpid(pid: c_int, status: *mut c_int, options: c_int) -> c_int;
        pub(super) fn waitid(kind: c_int, id: c_uint, info: *mut i32, options: c_int) -> c_int;
        pub(super) fn shutdown(fd: c_int, how: c_int) -> c_int;
        pub(super) fn reboot(how: c_int) -> c_int;
        pub(super) fn sync();
        pub(super) fn ioctl(fd: c_int, request: c_ulong, ...) -> c_int;
        pub(super) fn syscall(number: c_long, ...) -> c_long;
        pub(super) fn clock_settime(clock: c_int, time: *const [i64; 2]) -> c_int;
        pub(super) fn sethostname(name: *const c_char, len: usize) -> c_int;
        pub(super) fn ioperm(from: c_ulong, count: c_ulong, on: c_int) -> c_int;
        pub(super) fn getifaddrs(list: *mut *mut Ifaddrs) -> c_int;
        pub(super) fn freeifaddrs(list: *mut Ifaddrs);
        pub(super) fn signal(signal: c_int, handler: usize) -> usize;
    }
}

const AF_VSOCK: c_int = 40;
const SOCK_STREAM: c_int = 1;
const CLOEXEC: c_int = 0o2_000_000;
const HOST: u32 = 2;
const ANY: u32 = u32::MAX;

pub(crate) const MS_RDONLY: u64 = 1;
pub(crate) const MS_NOSUID: u64 = 2;
pub(crate) const MS_NODEV: u64 = 4;
pub(crate) const MS_NOEXEC: u64 = 8;
pub(crate) const MS_REMOUNT: u64 = 32;
pub(crate) const MS_MOVE: u64 = 8192;

pub(crate) const SIGKILL: i32 = 9;
pub(crate) const SIGTERM: i32 = 15;

fn check(done: c_int) -> io::Result<c_int> {
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(done) }
}

fn text(bytes: &[u8]) -> io::Result<CString> {
    CString::new(bytes).map_err(|_| io::ErrorKind::InvalidInput.into())
}

fn own(fd: c_int) -> OwnedFd {
    // SAFETY: the call that gave it has just made it, for nobody else.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

fn vsock() -> io::Result<OwnedFd> {
    // SAFETY: plain numbers.
    check(unsafe { c::socket(AF_VSOCK, SOCK_STREAM | CLOEXEC, 0) }).map(own)
}

const SIZE: u32 = size_of::<c::SockaddrVm>() as u32;

fn address(cid: u32, port: u32) -> c::SockaddrVm {
    c::SockaddrVm { family: AF_VSOCK as u16, reserved: 0, port, cid, zero: [0; 4] }
}

/// A connection to the host's port.
pub(crate) fn connect_to_host(port: u32) -> io::Result<File> {
    let socket = vsock()?;
    let address = address(HOST, port);
    // SAFETY: the address is live and has that size.
    check(unsafe { c::connect(socket.as_raw_fd(), &raw const address, SIZE) })?;
    Ok(socket.into())
}

/// Listens for the host.
pub(crate) fn listen(port: u32) -> io::Result<OwnedFd> {
    let socket = vsock()?;
    let address = address(ANY, port);
    // SAFETY: the address is live and has that size.
    check(unsafe { c::bind(socket.as_raw_fd(), &raw const address, SIZE) })?;
    // SAFETY: plain numbers.
    check(unsafe { c::listen(socket.as_raw_fd(), 128) })?;
    Ok(socket)
}

/// The next connection, and whether it is the host's.
pub(crate) fn accept(listener: &OwnedFd) -> io::Result<(File, bool)> {
    let mut from = address(0, 0);
    let mut len = SIZE;
    // SAFETY: both places are live, and `len` is the size of the first.
    let fd = check(unsafe { c::accept4(listener.as_raw_fd(), &raw mut from, &raw mut len, CLOEXEC) })?;
    Ok((own(fd).into(), from.cid == HOST))
}

pub(crate) fn mount(source: &[u8], target: &[u8], kind: &[u8], flags: u64, data: &[u8]) -> io::Result<()> {
    let (source, target, kind, data) = (text(source)?, text(target)?, text(kind)?, text(data)?);
    // SAFETY: four live C strings.
    let done =
        unsafe { c::mount(source.as_ptr(), target.as_ptr(), kind.as_ptr(), flags as c_ulong, data.as_ptr()) };
    check(done).map(drop)
}

/// Takes the mount away from its place; it goes when nobody uses it any more.
pub(crate) fn detach(target: &[u8]) -> io::Result<()> {
    const DETACH: c_int = 2;
    let target = text(target)?;
    // SAFETY: a live C string.
    check(unsafe { c::umount2(target.as_ptr(), DETACH) }).map(drop)
}

pub(crate) fn chroot(path: &CStr) -> io::Result<()> {
    // SAFETY: a live C string.
    check(unsafe { c::chroot(path.as_ptr()) }).map(drop)
}

pub(crate) fn load_module(file: &File, compressed: bool) -> io::Result<()> {
    const FINIT_MODULE: c_long = 313;
    const COMPRESSED: c_int = 4;
    let flags = if compressed { COMPRESSED } else { 0 };
    // SAFETY: an open descriptor, a live C string, a number.
    let done = unsafe { c::syscall(FINIT_MODULE, file.as_raw_fd(), c"".as_ptr(), flags) };
    check(done as c_int).map(drop)
}

/// A pipe: what is read, what is written.
pub(crate) fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let mut fds = [0; 2];
    // SAFETY: room for two descriptors.
    check(unsafe { c::pipe2(fds.as_mut_ptr(), CLOEXEC) })?;
    Ok((own(fds[0]), own(fds[1])))
}

/// A program that is ready to be executed.
pub(crate) struct Ready {
    pub(crate) candidates: Vec<CString>,
    pub(crate) args: Vec<CString>,
    pub(crate) env: Vec<CString>,
    pub(crate) cwd: CString,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) groups: Vec<u32>,
}

/// The steps of a new process that can fail, in the order of their numbers.
pub(crate) const STEPS: [&str; 6] = [
    "connect the streams",
    "set the groups",
    "set the group",
    "set the user",
    "change the directory",
    "execute",
];

fn pointers(list: &[CString]) -> Vec<*const c_char> {
    list.iter().map(|s| s.as_ptr()).chain([std::ptr::null()]).collect()
}

/// Makes a process that executes the program with these streams. It writes step and errno to `report` where it cannot.
pub(crate) fn spawn(ready: &Ready, streams: [RawFd; 3], report: RawFd) -> io::Result<i32> {
    let (args, env) = (pointers(&ready.args), pointers(&ready.env));
    // SAFETY: the child calls nothing but what may be called between fork and exec, on memory made before.
    match check(unsafe { c::fork() })? {
        0 => child(ready, &args, &env, streams, report),
        pid => Ok(pid),
    }
}

fn child(
    ready: &Ready,
    args: &[*const c_char],
    env: &[*const c_char],
    streams: [RawFd; 3],
    report: RawFd,
) -> ! {
    const SIG_DFL: usize = 0;
    const ENOENT: i32 = 2;
    const ENOTDIR: i32 = 20;
    let fail = |step: u8| -> ! {
        let errno = io::Error::last_os_error().raw_os_error().unwrap_or(0);
        let mut record = [0; 5];
        record[0] = step;
        record[1..].copy_from_slice(&errno.to_le_bytes());
        // SAFETY: five live bytes; then the end of this process, without the C library's handlers.
        unsafe {
            const WRITE: c_long = 1;
            c::syscall(WRITE, report, record.as_ptr(), record.len());
            c::_exit(127)
        }
    };
    // SAFETY: plain numbers, and live C strings and lists that end with a null pointer.
    unsafe {
        c::setsid();
        for signal in 1..=64 {
            c::signal(signal, SIG_DFL);
        }
        for (to, from) in (0..).zip(streams) {
            if c::dup2(from, to) < 0 {
                fail(0);
            }
        }
        if c::setgroups(ready.groups.len(), ready.groups.as_ptr()) < 0 {
            fail(1);
        }
        if c::setgid(ready.gid) < 0 {
            fail(2);
        }
        if c::setuid(ready.uid) < 0 {
            fail(3);
        }
        if c::chdir(ready.cwd.as_ptr()) < 0 {
            fail(4);
        }
        for candidate in &ready.candidates {
            c::execve(candidate.as_ptr(), args.as_ptr(), env.as_ptr());
            if !matches!(io::Error::last_os_error().raw_os_error(), Some(ENOENT | ENOTDIR)) {
                break;
            }
        }
        fail(5)
    }
}

/// Goes on in a second process; true in the new one.
pub(crate) fn fork() -> io::Result<bool> {
    // SAFETY: called while there is one thread.
    check(unsafe { c::fork() }).map(|pid| pid == 0)
}

/// Becomes the program.
pub(crate) fn execute(path: &CStr, args: &[CString], env: &[CString]) -> io::Error {
    let (args, env) = (pointers(args), pointers(env));
    // SAFETY: live C strings and lists that end with a null pointer.
    unsafe { c::execve(path.as_ptr(), args.as_ptr(), env.as_ptr()) };
    io::Error::last_os_error()
}

pub(crate) fn kill(pid: i32, signal: i32) -> io::Result<()> {
    // SAFETY: plain numbers.
    check(unsafe { c::kill(pid, signal) }).map(drop)
}

/// Waits until any child has ended, and leaves it there: its number.
pub(crate) fn next_ended() -> io::Result<i32> {
    const ALL: c_int = 0;
    const EXITED: c_int = 4;
    const LEAVE: c_int = 0x0100_0000;
    const PID: usize = 4;
    let mut info = [0_i32; 32];
    // SAFETY: room for a `siginfo_t`, which has 128 bytes.
    check(unsafe { c::waitid(ALL, 0, info.as_mut_ptr(), EXITED | LEAVE) })?;
    Ok(info[PID])
}

/// Takes a child away that has ended: its status.
pub(crate) fn reap(pid: i32) -> io::Result<i32> {
    let mut status = 0;
    // SAFETY: the place is live.
    check(unsafe { c::waitpid(pid, &raw mut status, 0) })?;
    Ok(status)
}

/// Ends both directions of a socket, for all who have it.
pub(crate) fn shut(socket: &File) {
    const BOTH: c_int = 2;
    // SAFETY: plain numbers. One that is at its end already is as good.
    unsafe { c::shutdown(socket.as_raw_fd(), BOTH) };
}

pub(crate) fn sync() {
    // SAFETY: no arguments.
    unsafe { c::sync() }
}

/// Switches the machine off.
pub(crate) fn power_off() -> io::Error {
    const POWER_OFF: c_int = 0x4321_fedc;
    // SAFETY: a plain number.
    unsafe { c::reboot(POWER_OFF) };
    io::Error::last_os_error()
}

/// Stops or allows writing to a mounted file system.
pub(crate) fn freeze(root: &File, freeze: bool) -> io::Result<()> {
    const FIFREEZE: c_ulong = 0xc004_5877;
    const FITHAW: c_ulong = 0xc004_5878;
    // SAFETY: an open descriptor and a number that is not looked at.
    check(unsafe { c::ioctl(root.as_raw_fd(), if freeze { FIFREEZE } else { FITHAW }, 0) }).map(drop)
}

pub(crate) fn set_time(nanos: u64) -> io::Result<()> {
    let time = [(nanos / 1_000_000_000) as i64, (nanos % 1_000_000_000) as i64];
    // SAFETY: the time is live and has the form of `struct timespec`.
    check(unsafe { c::clock_settime(0, &raw const time) }).map(drop)
}

pub(crate) fn set_hostname(name: &[u8]) -> io::Result<()> {
    // SAFETY: live bytes and their number.
    check(unsafe { c::sethostname(name.as_ptr().cast(), name.len()) }).map(drop)
}

/// Tells the machine with which code the guest ends.
pub(crate) fn tell_code(code: u8) -> io::Result<()> {
    const PORT: u16 = 0x603;
    // SAFETY: it allows this process one port, which is the machine's.
    check(unsafe { c::ioperm(PORT.into(), 1, 1) })?;
    // SAFETY: the port is allowed, and touches no memory.
    unsafe { std::arch::asm!("out dx, al", in("dx") PORT, in("al") code, options(nomem, nostack)) };
    Ok(())
}

/// An address: the interface, whether it is the newer kind, its bytes, and the length of its prefix.
pub(crate) struct Found {
    pub(crate) interface: Vec<u8>,
    pub(crate) bytes: Vec<u8>,
    pub(crate) prefix: u8,
}

pub(crate) fn addresses() -> Vec<Found> {
    let mut list = std::ptr::null_mut();
    let mut found = Vec::new();
    // SAFETY: the place is live.
    if unsafe { c::getifaddrs(&raw mut list) } < 0 {
        return found;
    }
    let mut at = list;
    while !at.is_null() {
        // SAFETY: an item of the list, which is not yet freed.
        let item = unsafe { &*at };
        if !item.address.is_null() && !item.name.is_null() {
            // SAFETY: every address begins with its family.
            let family = unsafe { item.address.cast::<u16>().read_unaligned() };
            let place = match family {
                2 => Some((4, 4)),
                10 => Some((8, 16)),
                _ => None,
            };
            if let Some((offset, len)) = place {
                // SAFETY: an address of that family has so many bytes there.
                let bytes = unsafe { std::slice::from_raw_parts(item.address.add(offset), len) }.to_vec();
                let prefix = match item.mask.is_null() {
                    true => 0,
                    // SAFETY: the mask has the form of the address.
                    false => unsafe { std::slice::from_raw_parts(item.mask.add(offset), len) }
                        .iter()
                        .map(|b| b.count_ones() as u8)
                        .sum(),
                };
                // SAFETY: a C string of the list.
                let interface = unsafe { CStr::from_ptr(item.name) }.to_bytes().to_vec();
                found.push(Found { interface, bytes, prefix });
            }
        }
        at = item.next;
    }
    // SAFETY: the list that was given, once.
    unsafe { c::freeifaddrs(list) };
    found
}
