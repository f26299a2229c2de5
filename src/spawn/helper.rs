//! [`Helper`]: a child that does lists of system calls for a thread of this process, which must not do them itself.
//!
//! It has a mount namespace of its own with an empty root, holds no descriptor of the host's, and cannot be traced by
//! whoever is not root of the host. It ends when its socket is closed, so with this process at the latest.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::MountPropagationFlags;

use super::child::{Child, Readiness, wait_for};
use super::interp::abi::{self, act};
use super::launch::{Spec, Strategy, launch};
use super::place::Place;
use super::{FsConfig, Plan};
use crate::error::{Error, Result};
use crate::op::Deadline;
use crate::seccomp::hands::{Arg, Batch, Done, FIRST, Hands, Identity, Rule, Step};
use crate::sys::mount::{MOUNT_ATTR_NOEXEC, MOUNT_ATTR_NOSUID};
use crate::sys::socket;

/// How long it may take to come up.
const START: Duration = Duration::from_secs(10);

/// The process, and the way to it.
#[derive(Debug)]
pub(crate) struct Helper {
    sock: Option<OwnedFd>,
    child: Child,
    mounts: OwnedFd,
    permitted: u64,
    place: Place,
    /// What it is since the last list.
    identity: Identity,
}

impl Helper {
    /// Starts it. Needs `CAP_SYS_ADMIN`.
    pub(crate) fn start(strategy: Strategy<'_>) -> Result<Self> {
        let mut plan = plan();
        let spec = Spec {
            strategy,
            namespaces: libc::CLONE_NEWNS as u64,
            cgroup: None,
            ambient: 0,
            own_memory_first: false,
        };
        let mut started = launch(&spec)?;
        let sent = started.send(&mut plan, &[]);
        started.or_its_own(&plan, sent)?;
        let (sock, child) = started.wait_serving(&plan, Deadline::after(START))?;
        match look(child.id()) {
            Ok((mounts, permitted)) => {
                let (place, identity) = (Place::default(), Identity::own(permitted));
                Ok(Self { sock: Some(sock), child, mounts, permitted, place, identity })
            }
            Err(e) => {
                drop(sock);
                child.kill_and_reap();
                Err(e)
            }
        }
    }
}

#[cfg(test)]
impl Helper {
    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }
}

/// Its mount namespace, and the capabilities that executing stage-2 has left it.
fn look(pid: u32) -> Result<(OwnedFd, u64)> {
    let mounts =
        rustix::fs::open(format!("/proc/{pid}/ns/mnt"), OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
            .map_err(|e| Error::sys("open the helper's mount namespace", e))?;
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"));
    let status = status.map_err(|e| Error::io("read the helper's capabilities", e))?;
    let permitted = status.lines().find_map(|line| line.strip_prefix("CapPrm:"));
    let permitted = permitted.and_then(|set| u64::from_str_radix(set.trim(), 16).ok());
    permitted
        .map(|set| (mounts, set))
        .ok_or_else(|| Error::new(crate::ErrorKind::Kernel, "read the helper's capabilities"))
}

fn plan() -> Plan {
    let what = "make the helper's root";
    let mut plan = Plan::new(0);
    plan.close_inherited();
    plan.prctl("hide this process's memory", libc::PR_SET_DUMPABLE, 0);
    plan.setsid();
    plan.reset_signals();
    plan.set_groups(&[]);
    let private = (MountPropagationFlags::PRIVATE | MountPropagationFlags::REC).bits();
    plan.propagation("make the host's mounts private", "/", private);
    let fs = plan.fsopen(what, "tmpfs");
    plan.fsconfig(what, fs, FsConfig::Text("mode", "711"));
    plan.fsconfig(what, fs, FsConfig::Text("size", "1m"));
    plan.fsconfig(what, fs, FsConfig::Create);
    let root = plan.fsmount(what, fs, MOUNT_ATTR_NOSUID | MOUNT_ATTR_NOEXEC);
    plan.move_mount(what, root, "/");
    plan.pivot_root(root);
    plan.detach_top("detach the host's mounts");
    let home = plan.open("open the helper's root", "/", (OFlags::PATH | OFlags::DIRECTORY).bits());
    // So that no descriptor of a list gets the number of a stream.
    for stream in 0..3 {
        plan.dup_to("fill a standard stream", home, stream);
    }
    plan.umask(0);
    plan.act(home, FIRST);
    plan
}

impl Hands for Helper {
    fn run(&mut self, batch: &Batch, fds: &[BorrowedFd<'_>], within: Duration) -> Result<Done, Errno> {
        self.place.follow(self.child.id());
        let own = Identity::own(self.permitted);
        let identity = batch.identity().unwrap_or(&own);
        let change = self.identity.change_to(identity, self.permitted);
        let done = self.exchange(&change, batch, fds, within).and_then(|mut done| {
            let rest = done.results.split_off(change.steps().len());
            let changed = identity.was_reached(&std::mem::replace(&mut done.results, rest));
            // One that is not back in its own place is of no use. What a step before did not make cannot be removed.
            let steps = batch.steps().iter().zip(&done.results);
            let lost = |(step, result): (&Step, &Option<Result<u64, Errno>>)| {
                step.rule == Rule::Always && matches!(result, Some(Err(errno)) if *errno != Errno::NOENT)
            };
            if !changed || steps.into_iter().any(lost) { Err(Errno::IO) } else { Ok(done) }
        });
        if done.is_ok() {
            self.identity.clone_from(identity);
        } else {
            self.sock = None;
        }
        done
    }

    fn mounts(&self) -> BorrowedFd<'_> {
        self.mounts.as_fd()
    }

    fn permitted(&self) -> u64 {
        self.permitted
    }
}

impl Helper {
    /// Has it do `first` and then `batch`; the results are of both.
    fn exchange(
        &self,
        first: &Batch,
        batch: &Batch,
        fds: &[BorrowedFd<'_>],
        within: Duration,
    ) -> Result<Done, Errno> {
        let sock = self.sock.as_ref().ok_or(Errno::PIPE)?.as_fd();
        socket::send(sock, &encode(first, batch)?, fds)?;
        let deadline = Deadline::after(within);
        wait_for(sock, Readiness::Readable, deadline, None, "wait for the helper")
            .map_err(|_| Errno::TIMEDOUT)?;
        let mut buf = [0_u8; act::MAX_STEPS * 8 + 1024];
        let msg = socket::receive(sock, &mut buf)?;
        decode(first.steps().len() + batch.steps().len(), &buf[..msg.len], msg.fds)
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        drop(self.sock.take());
        self.child.kill_and_reap();
    }
}

fn encode(first: &Batch, batch: &Batch) -> Result<Vec<u8>, Errno> {
    let count = first.steps().len() + batch.steps().len();
    let data_at = size_of::<act::Head>() + count * size_of::<act::Step>();
    let first_at = (data_at + batch.data().len()).next_multiple_of(8);
    let len = first_at + first.data().len();
    let (out, out_len) = batch.out_area();
    if count > act::MAX_STEPS || out_len > 1024 || len > abi::MAX_INLINE {
        return Err(Errno::TOOBIG);
    }
    let mut bytes = Vec::with_capacity(len);
    let send = batch.sends().map_or(act::NO_SLOT, u32::from);
    let head = [act::MAGIC, count as u32, (data_at + out) as u32, out_len as u32, send, 0];
    head.iter().for_each(|word| bytes.extend_from_slice(&word.to_ne_bytes()));
    first.steps().iter().for_each(|step| encode_step(&mut bytes, step, first_at));
    batch.steps().iter().for_each(|step| encode_step(&mut bytes, step, data_at));
    bytes.extend_from_slice(batch.data());
    bytes.resize(first_at, 0);
    bytes.extend_from_slice(first.data());
    Ok(bytes)
}

fn encode_step(bytes: &mut Vec<u8>, step: &Step, data_at: usize) {
    let coded = step.args.map(|arg| match arg {
        Arg::Number(n) => (act::NUMBER, n),
        Arg::Data(at) => (act::DATA, (data_at + at) as u64),
        Arg::Slot(slot) => (act::SLOT, slot.into()),
    });
    let flags = match step.rule {
        Rule::Next => 0,
        Rule::MayFail => act::MAY_FAIL,
        Rule::Always => act::ALWAYS,
    };
    bytes.extend_from_slice(&step.nr.to_ne_bytes());
    bytes.extend(coded.map(|(kind, _)| kind));
    for half in [flags, step.out.map_or(act::NO_SLOT as u16, u16::from), 0] {
        bytes.extend_from_slice(&half.to_ne_bytes());
    }
    coded.iter().for_each(|(_, value)| bytes.extend_from_slice(&value.to_ne_bytes()));
}

fn decode(steps: usize, bytes: &[u8], fds: Vec<OwnedFd>) -> Result<Done, Errno> {
    let (results, out) = bytes.split_at_checked(steps * 8).ok_or(Errno::BADMSG)?;
    let results = results.chunks_exact(8).map(|word| {
        let value = i64::from_ne_bytes(word.try_into().unwrap_or_default());
        match value {
            act::SKIPPED => None,
            0.. => Some(Ok(value.cast_unsigned())),
            _ => Some(Err(Errno::from_raw_os_error(i32::try_from(-value).unwrap_or(libc::EIO)))),
        }
    });
    Ok(Done { results: results.collect(), out: out.to_vec(), fd: fds.into_iter().next() })
}
