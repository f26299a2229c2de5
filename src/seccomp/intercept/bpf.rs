//! `bpf(2)`: device programs, as systemd and container runtimes put on their cgroups.
//!
//! A program comes from the container, and the kernel trusts what loads it. So it is loaded by a helper that has
//! `CAP_BPF` and `CAP_NET_ADMIN` and no other capability, which keeps the verifier's checks against leaks of kernel memory,
//! and it may call nothing and refer to nothing: of all that such a program could do, reading its context and returning a
//! verdict is left.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;

use super::acting::WITHIN;
use super::{Interceptor, Subject};
use crate::caps::{CapSet, Capability};
use crate::idmap::{HostGid, HostUid};
use crate::seccomp::hands::{Arg, Batch};
use crate::seccomp::notify::{Call, Caller, Response};
use crate::sys::bpf::{attach_device_program_with, detach_device_program};
use crate::sys::pidfd;

pub(super) const PROG_LOAD: u32 = 5;
pub(super) const PROG_ATTACH: u32 = 8;
pub(super) const PROG_DETACH: u32 = 9;

const PROG_TYPE_CGROUP_DEVICE: u32 = 15;
const ATTACH_CGROUP_DEVICE: u32 = 6;
/// What may be said about an attachment: override, multi, replace.
const ATTACH_FLAGS: u32 = 7;

/// What the kernel lets a program without privilege have (`BPF_MAXINSNS`).
const INSTRUCTIONS_MAX: u32 = 4096;
const LICENSE_MAX: usize = 127;
/// As much of `union bpf_attr` as counts here.
const ATTR: usize = 72;

/// The beginning of `union bpf_attr`, as far as the caller gives it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Attr([u8; ATTR]);

impl Attr {
    /// Whatever lies behind it must be zero, which means "nothing special" to every kernel.
    pub(super) fn parse(bytes: &[u8]) -> Option<Self> {
        let mut attr = [0; ATTR];
        let (known, rest) = bytes.split_at(bytes.len().min(ATTR));
        attr[..known.len()].copy_from_slice(known);
        rest.iter().all(|b| *b == 0).then_some(Self(attr))
    }

    fn word(&self, at: usize) -> u32 {
        self.0[at..at + 4].try_into().map(u32::from_ne_bytes).unwrap_or_default()
    }

    fn long(&self, at: usize) -> u64 {
        self.0[at..at + 8].try_into().map(u64::from_ne_bytes).unwrap_or_default()
    }

    /// Whether it loads a device program without anything special, of a length that can be.
    pub(super) fn loads_device_program(&self) -> bool {
        let (flags, interface, attach) = (self.word(44), self.word(64), self.word(68));
        self.word(0) == PROG_TYPE_CGROUP_DEVICE
            && (1..=INSTRUCTIONS_MAX).contains(&self.word(4))
            && (flags, interface) == (0, 0)
            && matches!(attach, 0 | ATTACH_CGROUP_DEVICE)
    }
}

/// Whether a program does nothing but compute: it calls nothing, and has no word that stands for something else.
pub(super) fn is_plain(program: &[u8]) -> bool {
    const LOAD_WIDE: u8 = 0x18;
    const CALL: u8 = 0x85;
    const CALL_REGISTER: u8 = 0x8d;
    let mut instructions = program.chunks_exact(8);
    while let Some(i) = instructions.next() {
        match i[0] {
            // The source register says what the number is: 0 for a number.
            LOAD_WIDE if i[1] & 0xf0 != 0 => return false,
            LOAD_WIDE => {
                instructions.next();
            }
            CALL | CALL_REGISTER => return false,
            _ => {}
        }
    }
    true
}

pub(super) fn answer(of: &Interceptor, call: &mut Call<'_>) -> Result<Response, Errno> {
    let [command, attr, size, ..] = call.args();
    let size = usize::try_from(size as u32).unwrap_or(usize::MAX);
    if !(16..=512).contains(&size) {
        return Ok(Response::Continue);
    }
    let mut bytes = vec![0; size];
    call.peek_exact(attr, &mut bytes)?;
    let Some(attr) = Attr::parse(&bytes) else { return Ok(Response::Continue) };
    let caller = call.who()?;
    // What the kernel asks of who has this program type.
    let may = caller.has(Capability::SysAdmin) || caller.has(Capability::NetAdmin);
    if !of.subject.has(&caller) || !may {
        return Ok(Response::Continue);
    }
    match command as u32 {
        PROG_LOAD if attr.loads_device_program() => load(call, &attr),
        PROG_ATTACH | PROG_DETACH if attr.word(8) == ATTACH_CGROUP_DEVICE => {
            change(of, call, &caller, &attr, command as u32)
        }
        _ => Ok(Response::Continue),
    }
}

fn load(call: &mut Call<'_>, attr: &Attr) -> Result<Response, Errno> {
    let mut program = vec![0; attr.word(4) as usize * 8];
    call.peek_exact(attr.long(8), &mut program)?;
    let license = call.text(attr.long(16), LICENSE_MAX)?;
    if !is_plain(&program) {
        return Ok(Response::Continue);
    }
    let loaded = call.hands().with(|hands| {
        let all = hands.permitted();
        let few = CapSet::of(&[Capability::Bpf, Capability::NetAdmin]).bits() & all;
        let mut batch = Batch::new(0);
        let (program, license) = (batch.bytes(&program), batch.text(&license));
        let mut own = [0; ATTR];
        own[..8].copy_from_slice(&attr.0[..8]);
        // The name that it has in listings.
        own[48..64].copy_from_slice(&attr.0[48..64]);
        own[68..].copy_from_slice(&ATTACH_CGROUP_DEVICE.to_ne_bytes());
        let own = batch.bytes(&own);
        let Arg::Data(at) = own else { return Err(Errno::IO) };
        batch.point(Arg::Data(at + 8), program);
        batch.point(Arg::Data(at + 16), license);
        super::acting::capset(&mut batch, all, few);
        let args = [PROG_LOAD.into(), own, Arg::Number(ATTR as u64)];
        let (step, program) = batch.open(libc::SYS_bpf, &args);
        super::acting::capset_back(&mut batch, all);
        batch.send_back(program);
        let done = hands.run(&batch, &[], WITHIN)?;
        done.up_to(step)?;
        done.fd.ok_or(Errno::IO)
    });
    match loaded {
        Ok(program) => call.answer_with_fd(program.as_fd()).map_err(|_| Errno::SRCH),
        Err(errno @ (Errno::INVAL | Errno::ACCESS | Errno::TOOBIG)) => Ok(Response::errno(errno)),
        Err(errno) => Err(errno),
    }
}

fn change(
    of: &Interceptor,
    call: &Call<'_>,
    caller: &Caller,
    attr: &Attr,
    command: u32,
) -> Result<Response, Errno> {
    let (flags, replaced) = (attr.word(12), attr.word(16));
    if flags & !ATTACH_FLAGS != 0 {
        return Ok(Response::Continue);
    }
    let take = |fd: u32| take(call, caller, fd);
    let cgroup = take(attr.word(0))?;
    if !belongs(&of.subject, cgroup.as_fd())? {
        return Ok(Response::Continue);
    }
    let program = take(attr.word(4))?;
    let done = if command == PROG_ATTACH {
        let replaced = if flags & 4 != 0 { Some(take(replaced)?) } else { None };
        let replaced = replaced.as_ref().map(AsFd::as_fd);
        attach_device_program_with(cgroup.as_fd(), program.as_fd(), replaced, flags)
    } else {
        detach_device_program(cgroup.as_fd(), program.as_fd())
    };
    Ok(done.map_or_else(Response::errno, |()| Response::Value(0)))
}

/// A copy of the caller's descriptor.
fn take(call: &Call<'_>, caller: &Caller, fd: u32) -> Result<OwnedFd, Errno> {
    let process = pidfd::open_thread(caller.thread, caller.process)?;
    let taken = pidfd::take_fd(process.as_fd(), fd)?;
    if call.is_waiting() { Ok(taken) } else { Err(Errno::SRCH) }
}

/// Whether it is a cgroup of which somebody in the container is the owner. The one that holds the container's own policy
/// belongs to the host.
fn belongs(subject: &Subject, cgroup: BorrowedFd<'_>) -> Result<bool, Errno> {
    const CGROUP2_MAGIC: i64 = 0x6367_7270;
    if rustix::fs::fstatfs(cgroup)?.f_type != CGROUP2_MAGIC {
        return Ok(false);
    }
    let stat = rustix::fs::fstat(cgroup)?;
    let map = &subject.id_map;
    let (uid, gid) = (HostUid::new(stat.st_uid), HostGid::new(stat.st_gid));
    Ok(map.uid_to_inner(uid).is_some() && map.gid_to_inner(gid).is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn instruction(code: u8, registers: u8) -> [u8; 8] {
        [code, registers, 0, 0, 0, 0, 0, 0]
    }

    #[test]
    fn plain_programs_call_nothing_and_refer_to_nothing() {
        let exit = instruction(0x95, 0);
        let program = |parts: &[[u8; 8]]| [parts, &[exit]].concat().concat();
        assert!(is_plain(&program(&[instruction(0xb7, 0)])));
        // A wide number, whose second half may look like anything.
        assert!(is_plain(&program(&[instruction(0x18, 0x01), instruction(0x85, 0)])));
        for registers in [0x10, 0x21, 0x60] {
            assert!(!is_plain(&program(&[instruction(0x18, registers), instruction(0, 0)])));
        }
        for registers in [0, 0x10, 0x20] {
            assert!(!is_plain(&program(&[instruction(0x85, registers)])), "a call");
        }
        assert!(!is_plain(&program(&[instruction(0x8d, 0)])));
    }

    #[test]
    fn only_device_programs_without_more_are_loaded() {
        let mut bytes = vec![0_u8; 144];
        bytes[0] = 15;
        bytes[4] = 3;
        let loads = |bytes: &[u8]| Attr::parse(bytes).is_some_and(|a| a.loads_device_program());
        assert!(loads(&bytes) && loads(&bytes[..72]) && loads(&bytes[..48]));
        for (at, value) in [(0, 8), (4, 0), (5, 0x20), (44, 1), (64, 1), (68, 7), (100, 1)] {
            let mut other = bytes.clone();
            other[at] = value;
            assert!(!loads(&other), "{at}");
        }
        bytes[68] = 6;
        assert!(loads(&bytes));
    }
}
