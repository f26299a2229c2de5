//! `bpf(2)`, as far as the device program of a cgroup needs it. The structures are parts of `union bpf_attr`
//! (`linux/bpf.h`): the kernel takes any length and reads zero for the rest.

use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use rustix::io::Errno;

use super::raw::{check, retry};

const PROG_LOAD: libc::c_int = 5;
const PROG_ATTACH: libc::c_int = 8;
const PROG_DETACH: libc::c_int = 9;
const PROG_GET_FD_BY_ID: libc::c_int = 13;
const OBJ_GET_INFO_BY_FD: libc::c_int = 15;
const PROG_QUERY: libc::c_int = 16;

const PROG_TYPE_CGROUP_DEVICE: u32 = 15;
const ATTACH_CGROUP_DEVICE: u32 = 6;
const ALLOW_MULTI: u32 = 1 << 1;
const REPLACE: u32 = 1 << 2;

/// How many programs of one kind a cgroup may have (`BPF_CGROUP_MAX_PROGS`).
const PROGRAMS_MAX: usize = 64;
/// How often a load is tried again that a signal interrupted: the verifier then gives `EAGAIN`.
const TRIES: u32 = 5;

/// The length of a program's name, with its final NUL (`BPF_OBJ_NAME_LEN`).
pub(crate) const NAME_LEN: usize = 16;

/// One instruction, `struct bpf_insn`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub(crate) struct Instruction {
    pub(crate) code: u8,
    /// Destination in the low four bits, source in the high ones, on a little-endian machine.
    pub(crate) registers: u8,
    pub(crate) offset: i16,
    pub(crate) immediate: i32,
}

#[derive(Default)]
#[repr(C)]
struct Load {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
    kern_version: u32,
    prog_flags: u32,
    prog_name: [u8; NAME_LEN],
    prog_ifindex: u32,
    expected_attach_type: u32,
}

#[derive(Default)]
#[repr(C)]
struct Attach {
    target_fd: u32,
    attach_bpf_fd: u32,
    attach_type: u32,
    attach_flags: u32,
    replace_bpf_fd: u32,
}

#[derive(Default)]
#[repr(C)]
struct Query {
    target_fd: u32,
    attach_type: u32,
    query_flags: u32,
    attach_flags: u32,
    prog_ids: u64,
    prog_cnt: u32,
    /// To the end of the union's member, which the kernel writes to.
    rest: [u32; 9],
}

#[derive(Default)]
#[repr(C)]
struct ById {
    id: u32,
    next_id: u32,
    open_flags: u32,
}

#[derive(Default)]
#[repr(C)]
struct InfoByFd {
    bpf_fd: u32,
    info_len: u32,
    info: u64,
}

/// The beginning of `struct bpf_prog_info`, up to the name.
#[derive(Default)]
#[repr(C)]
struct Info {
    before: [u64; 8],
    name: [u8; NAME_LEN],
}

/// # Safety
/// Every pointer in `attr` must be valid for what `command` does with it.
unsafe fn bpf<T>(command: libc::c_int, attr: &mut T) -> Result<libc::c_long, Errno> {
    // SAFETY: `attr` is a live structure of plain integers and of that size; its pointers are the caller's promise.
    check(unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attr), size_of::<T>()) })
}

fn number(fd: BorrowedFd<'_>) -> u32 {
    // A borrowed descriptor is never negative.
    fd.as_raw_fd().unsigned_abs()
}

fn owned(ret: libc::c_long) -> Result<OwnedFd, Errno> {
    let fd = i32::try_from(ret).map_err(|_| Errno::IO)?;
    // SAFETY: called with what the kernel has just returned as a new descriptor, owned by nobody else.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Checks and loads a device program. The descriptor is close-on-exec.
pub(crate) fn load_device_program(program: &[Instruction], name: [u8; NAME_LEN]) -> Result<OwnedFd, Errno> {
    const LICENSE: &std::ffi::CStr = c"Dual MIT/GPL";
    let mut tries = TRIES;
    loop {
        let mut attr = Load {
            prog_type: PROG_TYPE_CGROUP_DEVICE,
            insn_cnt: u32::try_from(program.len()).map_err(|_| Errno::TOOBIG)?,
            insns: program.as_ptr() as u64,
            license: LICENSE.as_ptr() as u64,
            prog_name: name,
            expected_attach_type: ATTACH_CGROUP_DEVICE,
            ..Load::default()
        };
        // SAFETY: the instructions and the licence are alive during the call, which only reads them.
        match unsafe { bpf(PROG_LOAD, &mut attr) } {
            Err(Errno::AGAIN | Errno::INTR) if tries > 0 => tries -= 1,
            done => return owned(done?),
        }
    }
}

/// Attaches a device program beside those that are there; with `replace` in place of that one, in one step.
pub(crate) fn attach_device_program(
    cgroup: BorrowedFd<'_>,
    program: BorrowedFd<'_>,
    replace: Option<BorrowedFd<'_>>,
) -> Result<(), Errno> {
    let flags = if replace.is_some() { ALLOW_MULTI | REPLACE } else { ALLOW_MULTI };
    attach_device_program_with(cgroup, program, replace, flags)
}

/// Attaches a device program with these `BPF_F_*` flags.
pub(crate) fn attach_device_program_with(
    cgroup: BorrowedFd<'_>,
    program: BorrowedFd<'_>,
    replace: Option<BorrowedFd<'_>>,
    flags: u32,
) -> Result<(), Errno> {
    let mut attr = Attach {
        target_fd: number(cgroup),
        attach_bpf_fd: number(program),
        attach_type: ATTACH_CGROUP_DEVICE,
        attach_flags: flags,
        replace_bpf_fd: replace.map_or(0, number),
    };
    // SAFETY: the structure holds no pointers.
    retry(|| unsafe { bpf(PROG_ATTACH, &mut attr) }).map(drop)
}

/// Takes a device program away.
pub(crate) fn detach_device_program(cgroup: BorrowedFd<'_>, program: BorrowedFd<'_>) -> Result<(), Errno> {
    let mut attr = Attach {
        target_fd: number(cgroup),
        attach_bpf_fd: number(program),
        attach_type: ATTACH_CGROUP_DEVICE,
        ..Attach::default()
    };
    // SAFETY: the structure holds no pointers.
    retry(|| unsafe { bpf(PROG_DETACH, &mut attr) }).map(drop)
}

/// The numbers of the device programs that are attached to this very cgroup, in the order in which they run.
pub(crate) fn device_programs(cgroup: BorrowedFd<'_>) -> Result<Vec<u32>, Errno> {
    let mut ids = [0_u32; PROGRAMS_MAX];
    let mut attr = Query {
        target_fd: number(cgroup),
        attach_type: ATTACH_CGROUP_DEVICE,
        prog_ids: ids.as_mut_ptr() as u64,
        prog_cnt: PROGRAMS_MAX as u32,
        ..Query::default()
    };
    // SAFETY: `ids` is alive during the call and has room for as many as `prog_cnt` says.
    retry(|| unsafe { bpf(PROG_QUERY, &mut attr) })?;
    Ok(ids.into_iter().take(attr.prog_cnt as usize).collect())
}

/// Opens a loaded program. Needs `CAP_SYS_ADMIN`. The descriptor is close-on-exec.
pub(crate) fn open_program(id: u32) -> Result<OwnedFd, Errno> {
    let mut attr = ById { id, ..ById::default() };
    // SAFETY: the structure holds no pointers.
    owned(retry(|| unsafe { bpf(PROG_GET_FD_BY_ID, &mut attr) })?)
}

/// The name that a program was loaded with.
pub(crate) fn program_name(program: BorrowedFd<'_>) -> Result<[u8; NAME_LEN], Errno> {
    let mut info = Info::default();
    let mut attr = InfoByFd {
        bpf_fd: number(program),
        info_len: size_of::<Info>() as u32,
        info: std::ptr::from_mut(&mut info) as u64,
    };
    // SAFETY: `info` is alive during the call, a structure of plain integers of the length that is given.
    retry(|| unsafe { bpf(OBJ_GET_INFO_BY_FD, &mut attr) })?;
    Ok(info.name)
}
