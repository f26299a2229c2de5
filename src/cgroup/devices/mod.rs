//! Which devices the processes of a cgroup may use: a program of type `BPF_PROG_TYPE_CGROUP_DEVICE`, which the kernel
//! asks at each `open(2)` and `mknod(2)` of a device node. In cgroup v2 there are no files for it.
//!
//! Programs of the cgroups above count as well: all must allow. So what is attached here only takes away, and so does
//! what a container attaches in cgroups below.

mod program;
mod rule;
#[cfg(test)]
mod tests;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::io::Errno;

use super::Cgroup;
use crate::error::{Error, ErrorKind, Result};
use crate::sys::bpf::{self, NAME_LEN};

pub use rule::{DeviceAccess, DeviceKind, DevicePolicy, DeviceRule, DeviceVerdict};

/// What tells the programs of this crate from others. A run has one; it outlives the process that attached it.
const NAME: [u8; NAME_LEN] = *b"stockade\0\0\0\0\0\0\0\0";
/// How many loaded programs are kept, one descriptor each.
const CACHED: usize = 16;

const LOAD: &str = "load the device program";
const ATTACH: &str = "attach the device program";
const FIND: &str = "find the device program";
const DETACH: &str = "detach the device program";

const PRIVILEGE: &str = "run as root of the first user namespace (CAP_BPF and CAP_NET_ADMIN, or CAP_SYS_ADMIN); or \
                         choose Enforce::BestEffort to start without it";

/// A policy as the kernel has it. Cloning is cheap.
#[derive(Clone, Debug)]
pub(crate) struct DeviceProgram(Arc<OwnedFd>);

impl DeviceProgram {
    pub(crate) fn load(policy: &DevicePolicy) -> Result<Self> {
        let code = program::compile(policy)?;
        let loaded = bpf::load_device_program(&code, NAME);
        loaded.map(|fd| Self(Arc::new(fd))).map_err(|errno| {
            let e = refused(LOAD, errno);
            // Never what is wrong with the program, which holds no more than the rules.
            if errno == Errno::INVAL { e.with_kind(ErrorKind::Unsupported).hint(NOT_BUILT) } else { e }
        })
    }
}

impl AsFd for DeviceProgram {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

const NOT_BUILT: &str =
    "the kernel needs CONFIG_CGROUP_BPF; or choose Enforce::BestEffort to start without it";

/// Loaded programs, the last used ones: many containers have the same policy.
#[derive(Debug, Default)]
pub(crate) struct DevicePrograms(Mutex<Vec<(DevicePolicy, DeviceProgram)>>);

impl DevicePrograms {
    /// The program of `policy`, loaded at its first use.
    pub(crate) fn get(&self, policy: &DevicePolicy) -> Result<DeviceProgram> {
        if let Some(found) = find(&mut self.entries(), policy) {
            return Ok(found);
        }
        // Two threads that miss at once both load.
        let program = DeviceProgram::load(policy)?;
        let mut entries = self.entries();
        if entries.len() == CACHED {
            entries.remove(0);
        }
        entries.push((policy.clone(), program.clone()));
        Ok(program)
    }

    fn entries(&self) -> MutexGuard<'_, Vec<(DevicePolicy, DeviceProgram)>> {
        // Nothing that can panic changes the list half-way.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn find(entries: &mut [(DevicePolicy, DeviceProgram)], policy: &DevicePolicy) -> Option<DeviceProgram> {
    let at = entries.iter().rposition(|(known, _)| known == policy)?;
    entries[at..].rotate_left(1);
    entries.last().map(|(_, program)| program.clone())
}

impl Cgroup {
    /// Attaches a program to a cgroup that has none of this crate yet: one system call.
    pub(crate) fn attach_devices(&self, program: &DeviceProgram) -> Result<()> {
        self.attach_program(program, None)
    }

    /// Attaches a program in place of the one that this crate has attached before, if it has. The kernel changes from
    /// the one to the other in one step: there is no moment without either.
    pub(crate) fn replace_devices(&self, program: &DeviceProgram) -> Result<()> {
        let old = self.own_program()?;
        self.attach_program(program, old.as_ref().map(AsFd::as_fd))
    }

    /// Takes away the program that this crate has attached, if it has.
    pub(crate) fn detach_devices(&self) -> Result<()> {
        match self.own_program()? {
            Some(old) => bpf::detach_device_program(self.fd(), old.as_fd())
                .map_err(|errno| refused(DETACH, errno).path(self.path())),
            None => Ok(()),
        }
    }

    fn attach_program(&self, program: &DeviceProgram, replace: Option<BorrowedFd<'_>>) -> Result<()> {
        bpf::attach_device_program(self.fd(), program.as_fd(), replace).map_err(|errno| {
            let e = refused(ATTACH, errno).path(self.path());
            match errno {
                Errno::PERM => e.also(
                    "a program of a cgroup above that was attached without BPF_F_ALLOW_MULTI keeps others out too",
                ),
                Errno::INVAL => e.with_kind(ErrorKind::Unsupported).hint(NOT_BUILT),
                Errno::BADF => e.with_kind(ErrorKind::Unsupported).detail("is no cgroup v2 directory"),
                _ => e,
            }
        })
    }

    /// The program that this crate has attached here, whichever process it was.
    fn own_program(&self) -> Result<Option<OwnedFd>> {
        let failed = |errno| refused(FIND, errno).path(self.path());
        for id in bpf::device_programs(self.fd()).map_err(failed)? {
            let program = match bpf::open_program(id) {
                // Somebody else's, gone meanwhile.
                Err(Errno::NOENT) => continue,
                opened => opened.map_err(failed)?,
            };
            if bpf::program_name(program.as_fd()).map_err(failed)? == NAME {
                return Ok(Some(program));
            }
        }
        Ok(None)
    }
}

fn refused(step: &'static str, errno: Errno) -> Error {
    let e = Error::sys(step, errno);
    match errno {
        Errno::PERM | Errno::ACCESS => e.hint(PRIVILEGE),
        Errno::NOSYS => e.hint(NOT_BUILT),
        _ => e,
    }
}
