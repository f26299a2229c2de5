//! From a failure record to an error that a person can act on.

use rustix::io::Errno;

use super::interp::abi::{self, Record, code};
use super::plan::Plan;
use crate::error::{Error, ErrorKind};
use crate::process::{SET_APPARMOR, SET_SELINUX};

/// Reads a record.
pub(super) fn decode(bytes: &[u8]) -> Option<Record> {
    let word = |at: usize| bytes.get(at..at + 4).and_then(|b| b.try_into().ok()).map(u32::from_ne_bytes);
    let long = |at: usize| bytes.get(at..at + 8).and_then(|b| b.try_into().ok()).map(u64::from_ne_bytes);
    let record = Record {
        magic: word(0)?,
        kind: word(4)?,
        op: word(8)?,
        errno: word(12)?.cast_signed(),
        value: long(16)?,
        reserved: long(24)?,
    };
    (bytes.len() == size_of::<Record>() && record.magic == abi::RECORD).then_some(record)
}

/// The error that a failure record stands for.
pub(super) fn error(plan: &Plan, record: &Record) -> Error {
    // Numbers that are none would panic; a child that is as it should be sends none.
    let known = (1..4096).contains(&record.errno);
    let errno = if known { Errno::from_raw_os_error(record.errno) } else { Errno::PROTO };
    if record.op == abi::NO_OP {
        return Error::sys("execute stage-2", errno)
            .hint("a filter around this process may forbid execveat(2); the Fork strategy does without");
    }
    let Some((what, object)) = plan.step(record.op) else {
        return Error::sys("run the plan", errno);
    };
    let mut e = Error::sys(what, errno);
    if let Some(object) = object {
        e = e.object(object);
    }
    match plan.ops().get(record.op as usize).map(|op| op.code) {
        Some(code::EXEC) => payload(e, errno),
        Some(code::WRITE_FILE) if what == SET_APPARMOR || what == SET_SELINUX => label(e, errno),
        Some(code) => hint(e, code, errno),
        None => e,
    }
}

fn payload(e: Error, errno: Errno) -> Error {
    match errno {
        Errno::NOENT => e
            .with_kind(ErrorKind::PayloadNotFound)
            .hint("the program, its interpreter (#!) or its dynamic loader is not in the root file system"),
        Errno::ACCESS => e.with_kind(ErrorKind::PayloadNotExecutable).hint(
            "the file needs execute permission for the user it runs as, and must not lie on a noexec mount",
        ),
        Errno::NOEXEC => e
            .with_kind(ErrorKind::PayloadNotExecutable)
            .hint("the file is no program of this machine's architecture, or a script without #!"),
        Errno::ISDIR | Errno::TXTBSY | Errno::LOOP | Errno::NOTDIR | Errno::LIBBAD => {
            e.with_kind(ErrorKind::PayloadNotExecutable)
        }
        Errno::TOOBIG => {
            e.with_kind(ErrorKind::InvalidConfig).hint("arguments and environment are too long together")
        }
        _ => e,
    }
}

fn label(e: Error, errno: Errno) -> Error {
    match errno {
        Errno::NOENT | Errno::INVAL => e
            .with_kind(ErrorKind::NotFound)
            .hint("load the profile, or the policy that has the context, on the host"),
        Errno::ACCESS | Errno::PERM => {
            e.hint("the label that this process runs under does not let it change to that one")
        }
        _ => hint(e, code::WRITE_FILE, errno),
    }
}

fn hint(e: Error, op: u16, errno: Errno) -> Error {
    match (op, errno) {
        (code::MOUNT_TOP | code::MOUNT, Errno::NOTDIR | Errno::LOOP) => e
            .with_kind(ErrorKind::InvalidConfig)
            .detail("is not a directory of the root file system, or is a link")
            .hint("make it a plain directory in the image"),
        (code::MOUNT_TOP | code::MOUNT, Errno::PERM) => e.hint(
            "in a user namespace proc wants an own pid namespace and an unmasked host /proc, \
             sysfs an own network namespace",
        ),
        (code::MOUNT_TOP | code::MOUNT, Errno::ROFS) => {
            e.hint("the directory is missing in a read-only root file system")
        }
        (code::ATTACH, Errno::XDEV) => e
            .with_kind(ErrorKind::InvalidConfig)
            .detail("leads into procfs or sysfs, or out of the root file system")
            .hint("choose a target outside of /proc and /sys"),
        (code::ATTACH, Errno::NOENT | Errno::LOOP) => e
            .with_kind(ErrorKind::InvalidConfig)
            .detail("is a link that leads nowhere, or leads through one")
            .hint("name the place itself, or take the link out of the image"),
        (code::ATTACH, Errno::NOTDIR) => {
            e.with_kind(ErrorKind::InvalidConfig).detail("a part of the path is not a directory")
        }
        (code::ATTACH, Errno::INVAL) => e
            .with_kind(ErrorKind::InvalidConfig)
            .detail("a file covers only a file, and a directory only a directory")
            .hint("name a target of the kind that the source has"),
        (code::WORKING_DIR, Errno::NOTDIR) => {
            e.with_kind(ErrorKind::InvalidConfig).detail("is not a directory")
        }
        (code::WORKING_DIR, Errno::XDEV | Errno::LOOP) => {
            e.with_kind(ErrorKind::InvalidConfig).detail("lies outside of the root file system")
        }
        (code::WORKING_DIR, Errno::NOENT) => e.hint("make the directory in the image, or name another"),
        (code::CHECK_WRITABLE, Errno::ROFS) => e
            .with_kind(ErrorKind::Unsupported)
            .detail("the overlay came up read-only")
            .hint("its upper directory must belong to an id of the container's map and lie on a file system that overlayfs can write"),
        (code::FSCONFIG, Errno::INVAL) => e.hint("the kernel's log (dmesg) says what overlayfs objects to"),
        (code::SET_IDS | code::SET_GROUPS, Errno::INVAL) => {
            e.with_kind(ErrorKind::InvalidConfig).hint("the ids must be in the container's id map")
        }
        (code::SET_GROUPS, Errno::PERM) => e.hint(
            "with a single-id map the kernel does not let supplementary groups be set: leave them out",
        ),
        (code::SETNS, Errno::PERM) => e.hint("joining needs CAP_SYS_ADMIN in the user namespace that owns the target"),
        (code::SETNS, Errno::INVAL) => e.hint("the process is already in that user namespace, or the kind is wrong"),
        (code::RLIMIT, Errno::PERM) => e.hint("raising a hard limit needs CAP_SYS_RESOURCE on the host"),
        (code::CAPS | code::BOUNDING_SET, Errno::PERM) => {
            e.hint("a capability was asked for that this host process does not hold itself")
        }
        (code::SECCOMP, Errno::ACCESS) => e.hint("a filter needs no_new_privs, or CAP_SYS_ADMIN when it is installed"),
        (code::CLONE_SIBLING, Errno::AGAIN) => e.hint("a pids limit is reached"),
        (code::CLONE_SIBLING, Errno::BUSY) => {
            e.hint("the cgroup has controllers enabled for children: processes need a leaf cgroup")
        }
        (code::CLONE_SIBLING, Errno::NODEV) => e.hint("the cgroup is gone"),
        (code::CLONE_SIBLING, Errno::NOENT) => e.hint(
            "the cgroup is gone, or not below the root of the cgroup namespace that was joined, which cgroup2 \
             mounted with nsdelegate wants",
        ),
        (code::WRITE_FILE, Errno::INVAL | Errno::RANGE) => {
            e.with_kind(ErrorKind::InvalidConfig).hint("the kernel does not take that value")
        }
        (code::WRITE_FILE | code::ENTER_KERNEL, Errno::XDEV | Errno::LOOP | Errno::NOTDIR) => e
            .with_kind(ErrorKind::InvalidConfig)
            .detail("is not what the kernel has there")
            .hint("something was mounted over it, or put in its place, while the container was being set up"),
        (code::MASK | code::CHECK_DEVICE | code::TERMINAL, Errno::XDEV) => {
            e.detail("something else was put in the place of a device while the container was being set up")
        }
        (code::LANDLOCK, Errno::NOENT | Errno::LOOP | Errno::NOTDIR) => {
            e.with_kind(ErrorKind::InvalidConfig).hint("every path of a rule must be there in the root file system")
        }
        (code::KEYRING, Errno::DQUOT) => e.hint(
            "the user has as many keys as kernel.keys.maxkeys lets him; raise it, or let the container keep the host's \
             keyring (SessionKeyring::Host)",
        ),
        (code::WRITE_FILE, Errno::NOENT) => e.hint("this kernel, or the container's namespaces, lack that file"),
        _ => e,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_that_is_no_errno_makes_an_error_too() {
        for errno in [0, -1, i32::MIN, i32::MAX, 4096, 70_000] {
            for op in [0, abi::NO_OP] {
                let e = error(&Plan::new(0), &Record::new(abi::FAILED, op, errno, 0));
                assert_eq!(e.errno(), Some(libc::EPROTO), "{errno}: {e}");
            }
        }
        let e = error(&Plan::new(0), &Record::new(abi::FAILED, 0, libc::ENOENT, 0));
        assert_eq!(e.errno(), Some(libc::ENOENT));
    }
}
