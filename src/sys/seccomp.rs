//! `seccomp(2)` and `seccomp_unotify(2)`.

use std::os::fd::{AsRawFd, BorrowedFd};
#[cfg(test)]
use std::os::fd::{FromRawFd, OwnedFd};

use rustix::io::Errno;

use super::raw::{check, last_errno};

/// One classic BPF instruction, `struct sock_filter`.
pub(crate) use libc::sock_filter as BpfInstruction;

const NOTIF_RECV: libc::c_ulong = 0xC050_2100;
const NOTIF_SEND: libc::c_ulong = 0xC018_2101;
const NOTIF_ID_VALID: libc::c_ulong = 0x4008_2102;
const NOTIF_ADDFD: libc::c_ulong = 0x4018_2103;
const NOTIF_SET_FLAGS: libc::c_ulong = 0x4008_2104;

/// `SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP`.
const SYNC_WAKE_UP: u64 = 1;
/// `SECCOMP_USER_NOTIF_FLAG_CONTINUE`, Linux 5.5.
pub(crate) const CONTINUE: u32 = 1;
/// `SECCOMP_ADDFD_FLAG_SEND`, Linux 5.14: adds the descriptor and answers with its number, in one step.
pub(crate) const ADDFD_SEND: u32 = 2;

/// `struct seccomp_notif`, with its `struct seccomp_data`.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub(crate) struct Notification {
    pub(crate) id: u64,
    /// Of the thread, in the reader's pid namespace; 0 where it is not in there.
    pub(crate) pid: u32,
    flags: u32,
    pub(crate) nr: u32,
    pub(crate) arch: u32,
    instruction_pointer: u64,
    pub(crate) args: [u64; 6],
}

/// `struct seccomp_notif_resp`.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub(crate) struct Answer {
    pub(crate) id: u64,
    pub(crate) value: i64,
    /// 0, or an errno with a minus.
    pub(crate) error: i32,
    pub(crate) flags: u32,
}

/// `struct seccomp_notif_addfd`.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
struct AddFd {
    id: u64,
    flags: u32,
    srcfd: u32,
    newfd: u32,
    newfd_flags: u32,
}

fn request<T>(listener: BorrowedFd<'_>, number: libc::c_ulong, arg: &mut T) -> Result<i32, Errno> {
    // SAFETY: each number below carries the size of its structure, which is that of `T`: plain integers, alive here.
    let ret = unsafe { libc::ioctl(listener.as_raw_fd(), number, std::ptr::from_mut(arg)) };
    if ret < 0 { Err(last_errno()) } else { Ok(ret) }
}

/// Takes a call that waits. Blocks where there is none: poll first.
///
/// # Errors
/// `ENOENT` where the caller was killed meanwhile.
pub(crate) fn receive(listener: BorrowedFd<'_>) -> Result<Notification, Errno> {
    let mut call = Notification::default();
    request(listener, NOTIF_RECV, &mut call)?;
    Ok(call)
}

/// Answers a call.
///
/// # Errors
/// `ENOENT` where the caller has gone.
pub(crate) fn answer(listener: BorrowedFd<'_>, mut answer: Answer) -> Result<(), Errno> {
    request(listener, NOTIF_SEND, &mut answer).map(drop)
}

/// Whether the caller still waits in the call `id`: what was read of its number before belongs to it then.
pub(crate) fn is_waiting(listener: BorrowedFd<'_>, mut id: u64) -> bool {
    request(listener, NOTIF_ID_VALID, &mut id).is_ok()
}

/// Puts a copy of `fd` into the caller's table, close-on-exec or not; with [`ADDFD_SEND`] answers the call with its
/// number.
pub(crate) fn add_fd(
    listener: BorrowedFd<'_>,
    id: u64,
    fd: BorrowedFd<'_>,
    flags: u32,
    cloexec: bool,
) -> Result<i32, Errno> {
    let newfd_flags = if cloexec { libc::O_CLOEXEC.unsigned_abs() } else { 0 };
    let mut arg = AddFd { id, flags, srcfd: fd.as_raw_fd().unsigned_abs(), newfd: 0, newfd_flags };
    request(listener, NOTIF_ADDFD, &mut arg)
}

/// Has the kernel expect that caller and answerer take turns (Linux 6.6): a hint, so a refusal does not matter.
pub(crate) fn take_turns(listener: BorrowedFd<'_>) {
    // SAFETY: this request takes its flags by value.
    unsafe { libc::ioctl(listener.as_raw_fd(), NOTIF_SET_FLAGS, SYNC_WAKE_UP) };
}

/// Installs a filter on the calling thread alone, for ever. Needs no_new_privs or `CAP_SYS_ADMIN`.
/// With `SECCOMP_FILTER_FLAG_NEW_LISTENER` in `flags` the notify descriptor comes back.
#[cfg(test)]
pub(crate) fn install(filter: &[BpfInstruction], flags: u64) -> Result<Option<OwnedFd>, Errno> {
    let prog = libc::sock_fprog {
        len: u16::try_from(filter.len()).map_err(|_| Errno::INVAL)?,
        filter: filter.as_ptr().cast_mut(),
    };
    // SAFETY: the kernel only reads `prog` and the instructions that it points to, both live here.
    let ret = check(unsafe {
        libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, std::ptr::from_ref(&prog))
    })?;
    if flags & libc::SECCOMP_FILTER_FLAG_NEW_LISTENER == 0 {
        return Ok(None);
    }
    let fd = i32::try_from(ret).map_err(|_| Errno::IO)?;
    // SAFETY: with that flag the call returns a new descriptor, owned here and nowhere else.
    Ok(Some(unsafe { OwnedFd::from_raw_fd(fd) }))
}

/// The memory of other threads (`process_vm_readv(2)`).
pub(crate) mod memory {
    use rustix::io::Errno;

    use super::check;

    /// Reads at `address` of the thread `tid` into `into`; how much could be read.
    pub(crate) fn read(tid: i32, address: u64, into: &mut [u8]) -> Result<usize, Errno> {
        let local = libc::iovec { iov_base: into.as_mut_ptr().cast(), iov_len: into.len() };
        let remote = remote(address, into.len())?;
        // SAFETY: `local` is a live buffer of that length; the remote address is only used in the other process.
        let n =
            check(unsafe { libc::process_vm_readv(tid, &raw const local, 1, &raw const remote, 1, 0) as _ })?;
        usize::try_from(n).map_err(|_| Errno::IO)
    }

    fn remote(address: u64, length: usize) -> Result<libc::iovec, Errno> {
        let address = usize::try_from(address).map_err(|_| Errno::FAULT)?;
        Ok(libc::iovec { iov_base: std::ptr::without_provenance_mut(address), iov_len: length })
    }
}
