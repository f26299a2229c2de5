//! `sched_setscheduler(2)`: by root of the container, for threads of the container.

use std::os::fd::{AsFd, OwnedFd};

use rustix::io::Errno;

use super::Interceptor;
use crate::caps::Capability;
use crate::idmap::{HostGid, HostUid, InnerGid, InnerUid};
use crate::seccomp::notify::{Call, Caller, Response};
use crate::sys::nsfs;
use crate::sys::process::set_scheduler;

pub(super) fn answer(of: &Interceptor, call: &mut Call<'_>) -> Result<Response, Errno> {
    let [pid, policy, param, ..] = call.args();
    let (pid, policy) = (pid as i32, policy as i32);
    let mut priority = [0; 4];
    call.peek_exact(param, &mut priority)?;
    let caller = call.who()?;
    let map = &of.subject.id_map;
    let is_root = map.uid_to_inner(HostUid::new(caller.fsuid)) == Some(InnerUid::ROOT)
        && map.gid_to_inner(HostGid::new(caller.fsgid)) == Some(InnerGid::ROOT);
    if pid < 0 || !is_root || !of.subject.has(&caller) || !caller.has(Capability::SysNice) {
        return Ok(Response::Continue);
    }
    let target = target(&caller, pid.cast_unsigned())?;
    if !call.is_waiting() {
        return Err(Errno::SRCH);
    }
    // Of the container, and not only in sight of it: its pid namespace may be the host's.
    let who = Caller::read(target)?;
    if !of.subject.has(&who) {
        return Ok(Response::Continue);
    }
    match set_scheduler(target.cast_signed(), policy, i32::from_ne_bytes(priority)) {
        Ok(()) => Ok(Response::Value(0)),
        Err(errno) => Ok(Response::errno(errno)),
    }
}

/// The thread that the caller knows by this number, as this process numbers it.
fn target(caller: &Caller, pid: u32) -> Result<u32, Errno> {
    if pid == 0 || pid == caller.inner_thread {
        return Ok(caller.thread);
    }
    let namespace: OwnedFd = caller.open_readable("ns/pid")?;
    match nsfs::thread_from(namespace.as_fd(), pid) {
        // Before Linux 6.11 there is no such question.
        Err(Errno::NOTTY | Errno::INVAL) => by_namespace(caller, pid),
        found => found,
    }
}

/// The same by looking at every process, and at every thread of the caller's.
fn by_namespace(caller: &Caller, pid: u32) -> Result<u32, Errno> {
    let numbers = |dir: String| {
        let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
        entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok())
    };
    let namespace = |tid: u32| std::fs::read_link(format!("/proc/{tid}/ns/pid")).ok();
    let wanted = namespace(caller.thread).ok_or(Errno::SRCH)?;
    let is_it = |tid: &u32| {
        namespace(*tid).is_some_and(|ns| ns == wanted)
            && Caller::read(*tid).is_ok_and(|who| who.inner_thread == pid)
    };
    let own = numbers(format!("/proc/{}/task", caller.process));
    own.chain(numbers("/proc".to_owned())).find(is_it).ok_or(Errno::SRCH)
}
