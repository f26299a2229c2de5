//! Messages from and to the host.

use core::mem::MaybeUninit;

use super::abi::{self, Header, Record};
use super::syscall::{self, nr, sys1, sys3, sys6};
use super::{Interp, SLOTS, above_streams};

const MSG_NOSIGNAL: usize = 0x4000;
const MSG_CMSG_CLOEXEC: usize = 0x4000_0000;
const SOL_SOCKET: u32 = 1;
const SCM_RIGHTS: u32 = 1;
/// `struct cmsghdr`.
const CMSG_HEADER: usize = 16;
const MAX_FDS: usize = 120;

#[repr(C)]
struct IoVec {
    base: *mut u8,
    len: usize,
}

#[repr(C)]
struct MsgHdr {
    name: usize,
    name_len: usize,
    iov: *const IoVec,
    iov_len: usize,
    control: *mut u64,
    control_len: usize,
    flags: usize,
}

/// Sends a record, with a descriptor unless `fd` is negative. A failure has nobody to be told to.
pub(super) fn send_record(sock: i32, record: &Record, fd: i32) {
    let iov = IoVec { base: (&raw const *record).cast_mut().cast(), len: size_of::<Record>() };
    let mut control =
        [CMSG_HEADER as u64 + 4, u64::from(SOL_SOCKET) | u64::from(SCM_RIGHTS) << 32, fd as u32 as u64];
    let msg = MsgHdr {
        name: 0,
        name_len: 0,
        iov: &raw const iov,
        iov_len: 1,
        control: if fd < 0 { core::ptr::null_mut() } else { control.as_mut_ptr() },
        control_len: if fd < 0 { 0 } else { CMSG_HEADER + 4 },
        flags: 0,
    };
    // SAFETY: a message header over live buffers.
    while unsafe { sys3(nr::SENDMSG, sock as usize, &raw const msg as usize, MSG_NOSIGNAL) }
        == -syscall::EINTR
    {}
}

/// Sends two blocks as one message, with a descriptor unless `fd` is negative.
///
/// # Safety
/// Both blocks are live for their lengths.
pub(super) unsafe fn send_two(
    sock: i32,
    first: *const u8,
    first_len: usize,
    second: *const u8,
    second_len: usize,
    fd: i32,
) -> isize {
    let iov = [
        IoVec { base: first.cast_mut(), len: first_len },
        IoVec { base: second.cast_mut(), len: second_len },
    ];
    let mut control =
        [CMSG_HEADER as u64 + 4, u64::from(SOL_SOCKET) | u64::from(SCM_RIGHTS) << 32, fd as u32 as u64];
    let msg = MsgHdr {
        name: 0,
        name_len: 0,
        iov: iov.as_ptr(),
        iov_len: 2,
        control: if fd < 0 { core::ptr::null_mut() } else { control.as_mut_ptr() },
        control_len: if fd < 0 { 0 } else { CMSG_HEADER + 4 },
        flags: 0,
    };
    loop {
        // SAFETY: a message header over live buffers.
        let sent = unsafe { sys3(nr::SENDMSG, sock as usize, &raw const msg as usize, MSG_NOSIGNAL) };
        if sent != -syscall::EINTR {
            return sent;
        }
    }
}

impl Interp {
    pub(super) fn send_record(&self, record: &Record, fd: i32) {
        send_record(self.sock, record, fd);
    }

    /// Receives one message; its descriptors go to the slots from `slot` on. Returns its length, 0 at the end.
    pub(super) unsafe fn receive(&mut self, buf: *mut u8, len: usize, slot: usize) -> isize {
        let iov = IoVec { base: buf, len };
        let mut control = [MaybeUninit::<u64>::uninit(); 2 + MAX_FDS / 2];
        let mut msg = MsgHdr {
            name: 0,
            name_len: 0,
            iov: &raw const iov,
            iov_len: 1,
            control: control.as_mut_ptr().cast(),
            control_len: size_of_val(&control),
            flags: 0,
        };
        // SAFETY: a message header over live buffers; only what the kernel wrote of `control` is read.
        unsafe {
            let got = loop {
                let got = sys3(nr::RECVMSG, self.sock as usize, &raw mut msg as usize, MSG_CMSG_CLOEXEC);
                if got != -syscall::EINTR && got != -syscall::ECONNRESET {
                    break got;
                }
            };
            if got > 0 && msg.control_len > CMSG_HEADER {
                let count = (msg.control_len.min(control[0].assume_init() as usize) - CMSG_HEADER) / 4;
                let fds = control.as_ptr().add(2).cast::<i32>();
                let mut i = 0;
                while i < count && slot + i < SLOTS {
                    self.slots[slot + i] = above_streams(*fds.add(i));
                    i += 1;
                }
                self.received = i;
            }
            got
        }
    }

    /// Receives the plan and checks that it is whole. 0, or a negative errno, or [`syscall::EPIPE_CLOSED`].
    pub(super) unsafe fn receive_plan(&mut self, arena: *mut u8, len: usize) -> isize {
        const PROT_READ_WRITE: usize = 3;
        const MAP_PRIVATE: usize = 2;
        // SAFETY: the caller's arena is valid for `len` bytes and aligned; the memfd is mapped privately.
        unsafe {
            let mut got = self.receive(arena, len, 0);
            if got <= 0 {
                return if got == 0 { syscall::EPIPE_CLOSED } else { got };
            }
            self.base = arena;
            if got == 16 && *arena.cast::<u32>() == abi::PLAN_IN_MEMFD {
                let size = *arena.cast::<u64>().add(1) as usize;
                // It came last, so that the plan counts its own descriptors from slot 0.
                let memfd = self.slots[(self.received.max(1) - 1) & (SLOTS - 1)];
                let map = sys6(nr::MMAP, 0, size, PROT_READ_WRITE, MAP_PRIVATE, memfd as usize, 0);
                if map < 0 {
                    return map;
                }
                sys1(nr::CLOSE, memfd as usize);
                self.base = map as *mut u8;
                got = size as isize;
            }
            let size = got as usize;
            if size <= size_of::<Header>() {
                return -syscall::EBADMSG;
            }
            let header = self.base.cast::<Header>().read();
            if !header.is_whole(size, *self.base.add(size - 1)) {
                return -syscall::EBADMSG;
            }
            self.len = size;
            0
        }
    }

    /// Waits for the host's word to go on.
    pub(super) unsafe fn barrier(&mut self, slot: usize) -> isize {
        let mut word = 0_u64;
        // SAFETY: eight live bytes.
        let got = unsafe { self.receive((&raw mut word).cast(), 8, slot) };
        match got {
            // The host closed its end: it has given up, and nobody is left to report to.
            0 => syscall::exit(abi::EXIT_NO_PLAN),
            8 if word as u32 == abi::GO => 0,
            _ if got < 0 => got,
            _ => -syscall::EBADMSG,
        }
    }
}
