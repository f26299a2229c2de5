//! Calls that are made in a container's stead: see [`Interception`] for which, and [`acting`] for how.
//!
//! Every answer that is no success of ours is "let the kernel run it": its own check is still there, and refuses what it
//! refuses without us. So a mistake here, a caller that changes its memory, or one that dies, gains nothing.

mod acting;
pub(crate) mod bpf;
mod config;
mod fuse;
#[cfg(feature = "fuzzing")]
pub(crate) mod fuzzing;
mod mknod;
mod mount;
mod rules;
mod sched;
mod sysinfo;
mod xattr;

use std::sync::Arc;

use rustix::io::Errno;

pub use config::{Interception, MountInterception, Nodes};
pub(crate) use fuse::{Programs, Wanted};

use super::notify::{Call, Caller, Responder, Response};
use crate::cgroup::{DevicePolicy, Share};
use crate::idmap::IdMap;

/// The container whose calls these are.
#[derive(Debug)]
pub(crate) struct Subject {
    /// Of its user namespace.
    pub(crate) id_map: IdMap,
    /// Device and inode of that.
    pub(crate) user_namespace: (u64, u64),
    pub(crate) devices: Option<DevicePolicy>,
    /// Its part of the machine.
    pub(crate) share: Option<Share>,
    /// How many seccomp filters a process of it is under that has put no further ones on itself.
    pub(crate) filters: u32,
    /// When it was started, on `CLOCK_BOOTTIME`, in seconds.
    pub(crate) started: u64,
}

impl Subject {
    /// Whether the caller is in the container's own user namespace. Inside a further one its capabilities are over that
    /// alone, and no reason to do anything for it.
    fn has(&self, caller: &Caller) -> bool {
        caller.user_namespace == self.user_namespace
    }
}

/// Answers the calls of one container.
#[derive(Debug)]
pub(crate) struct Interceptor {
    pub(crate) what: Interception,
    pub(crate) subject: Subject,
    /// Who starts FUSE programs in it.
    pub(crate) programs: Option<Box<dyn Programs>>,
    /// Who answers all other calls.
    pub(crate) others: Option<Arc<dyn Responder>>,
}

impl Responder for Interceptor {
    fn respond(&self, call: &mut Call<'_>) -> Response {
        let what = &self.what;
        let nodes = what.mknod != Nodes::Refused;
        let done = match call.name() {
            Some("mknod") if nodes => mknod::answer(self, call, mknod::Form::Mknod),
            Some("mknodat") if nodes => mknod::answer(self, call, mknod::Form::Mknodat),
            Some("setxattr") if what.setxattr => xattr::answer(self, call, xattr::Form::Follow),
            Some("lsetxattr") if what.setxattr => xattr::answer(self, call, xattr::Form::NoFollow),
            Some("mount") if what.mount.is_some() => mount::answer(self, call),
            Some("bpf") if what.bpf_devices => bpf::answer(self, call),
            Some("sched_setscheduler") if what.sched_setscheduler => sched::answer(self, call),
            Some("sysinfo") if what.sysinfo => sysinfo::answer(self, call),
            _ => return self.others.as_ref().map_or(ENOSYS, |others| others.respond(call)),
        };
        match done {
            Ok(response) => response,
            Err(errno) => {
                if matches!(errno, Errno::TIMEDOUT | Errno::PIPE | Errno::BADMSG | Errno::IO) {
                    call.hands().discard();
                }
                Response::Continue
            }
        }
    }
}

const ENOSYS: Response = Response::Errno(libc::ENOSYS as u16);
