//! FUSE programs that mount in a container's stead: see [`crate::seccomp::intercept::fuse`] for which.
//!
//! As with `exec`, stage-2 joins the namespaces outside and makes the program's process there; but as those of the caller,
//! with its root and working directory, and with no right that it lacks.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::io::Errno;
use rustix::time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec};

use super::config::ContainerConfig;
use super::payload;
use super::streams::Sources;
use super::tail::{Place, Settings, add_limits, tail};
use crate::caps::{CapSet, CapabilitySets};
use crate::cgroup::Cgroup;
use crate::error::{Error, Result};
use crate::namespaces::NamespaceKind;
use crate::op::Deadline;
use crate::process::{SessionKeyring, Umask};
use crate::runtime::{Host, Inner};
use crate::seccomp::Response;
use crate::seccomp::intercept::{Programs, Wanted};
use crate::seccomp::unfinished::{Later, Progress, Unfinished};
use crate::signal::Signal;
use crate::spawn::{Child, Fd, Guests, Plan, Running, Spec, launch};
use crate::sys::pidfd;

/// How long a program may take to be there. One whose file lies on a file system that hangs takes longer.
const START: Duration = Duration::from_secs(5);
/// How long it may take to mount and go to the background: a journal may have to be replayed.
const FOREGROUND: Duration = Duration::from_secs(30);

/// Starts programs in one run of a container.
#[derive(Debug)]
pub(super) struct Starter {
    pub(super) runtime: Weak<Inner>,
    pub(super) config: Arc<ContainerConfig>,
    pub(super) guests: Arc<Guests>,
    pub(super) cgroup: Option<Cgroup>,
}

impl Programs for Starter {
    fn start(&self, wanted: &Wanted<'_>) -> Result<Later, Errno> {
        self.start_inner(wanted).map_err(|e| Errno::from_raw_os_error(e.errno().unwrap_or(libc::EPERM)))
    }
}

impl Starter {
    fn start_inner(&self, wanted: &Wanted<'_>) -> Result<Later> {
        let runtime = self.runtime.upgrade();
        let runtime = runtime.ok_or_else(|| Error::sys("find the runtime", Errno::SRCH))?;
        let Running { child, listener, .. } = self.run(&runtime.host, wanted)?;
        let child = Arc::new(child);
        let made = Program::new(Arc::clone(&child)).and_then(|program| {
            self.guests.reap();
            // Who waits for the end of the container reaps it.
            self.guests.add(&child)?;
            Ok(program)
        });
        match made {
            Ok(program) => Ok(Later { work: Box::new(program), listener }),
            Err(e) => {
                child.kill_and_reap();
                Err(e)
            }
        }
    }

    fn run(&self, host: &Host, wanted: &Wanted<'_>) -> Result<Running> {
        let config = &*self.config;
        let mut settings = Settings::of(config);
        settings.args = wanted.args.iter().map(|arg| os_string(arg)).collect();
        settings.caps = caps_of(wanted, settings.caps.bounding);
        settings.user = wanted.user.clone();
        settings.umask = Umask::new(wanted.umask & 0o777)?;
        settings.no_new_privs |= wanted.no_new_privs;
        let mut settings = settings.tail(host, CapSet::ALL)?;
        settings.listens = true;

        let mut sources = Sources::null();
        if !config.may_open_null() {
            sources = sources.with_host_null()?;
        }
        let cgroup = self.cgroup_of(wanted)?;
        let v1 = self.cgroup.as_ref().map_or(Ok(false), Cgroup::has_v1_groups)?;

        let mut given: Vec<OwnedFd> = Vec::new();
        let mut fds: Vec<BorrowedFd<'_>> = vec![wanted.root, wanted.start];
        settings.place = Some(Place { root: Fd::Slot(0), start: Fd::Slot(1) });
        fds.extend(wanted.namespaces.iter().map(|(_, fd)| fd.as_fd()));
        let in_cgroup = cgroup.as_ref().map(|_| Fd::Slot(fds.len() as u8));
        fds.extend(cgroup.as_ref().map(AsFd::as_fd));
        let first = fds.len();
        let streams = sources.hand_over(|fd| {
            given.push(fd);
            Ok(Fd::Slot((first + given.len()) as u8 - 1))
        })?;
        fds.extend(given.iter().map(AsFd::as_fd));

        let mut plan = Plan::new(fds.len() as u8);
        add_limits(&mut plan, config);
        plan.prctl("hide this process's memory", libc::PR_SET_DUMPABLE, 0);
        let kinds = (2..).zip(wanted.namespaces).map(|(slot, (kind, _))| (*kind, Fd::Slot(slot)));
        // That of cgroups once it is in the cgroup: see `exec`.
        let (late, early): (Vec<_>, Vec<_>) = kinds.partition(|(kind, _)| *kind == NamespaceKind::Cgroup);
        for (kind, fd) in early {
            plan.setns("join the caller's namespaces", fd, kind.clone_flag());
        }
        plan.clone_sibling(0, in_cgroup, host.strategy().is_fork());
        if v1 {
            // It is born into the v2 cgroup alone.
            plan.barrier(0);
        }
        for (kind, fd) in late {
            plan.setns("join the caller's cgroup namespace", fd, kind.clone_flag());
        }
        if config.keyring == SessionKeyring::Own && host.has_keyrings() {
            plan.keyring();
        }
        plan.set_ids("become root of the user namespace", 0, 0);
        plan.set_groups(&[]);
        plan.setsid();
        tail(&mut plan, &streams, &settings);

        let deadline = Deadline::after(START);
        let strategy = host.strategy();
        let spec = Spec { strategy, namespaces: 0, cgroup: None, ambient: 0, own_memory_first: false };
        let mut started = launch(&spec)?;
        started.leave_to(&self.guests);
        let sent = started.send(&mut plan, &fds);
        started.or_its_own(&plan, sent)?;
        if let Some(leaf) = self.cgroup.as_ref().filter(|_| v1) {
            payload::take_in(leaf, &mut started, &plan, deadline, None)?;
        }
        started.wait_exec(&plan, deadline, None)
    }

    /// The caller's cgroup, where that is one of the container's; else that of commands.
    fn cgroup_of(&self, wanted: &Wanted<'_>) -> Result<Option<Cgroup>> {
        let Some(leaf) = &self.cgroup else { return Ok(None) };
        let name = leaf.name().and_then(|name| name.to_str());
        if let (Some(name), Some(path)) = (name, wanted.cgroup)
            && let Some(below) = below(path, name)
        {
            let mut cgroup = leaf.try_clone()?;
            for part in below {
                cgroup = cgroup.open_child(part)?;
            }
            return Ok(Some(cgroup));
        }
        match payload::for_exec(leaf, &self.config)? {
            Some(inner) => Ok(Some(inner)),
            None => leaf.try_clone().map(Some),
        }
    }
}

/// The parts of `path` that come after the first that is `name`.
fn below<'a>(path: &'a str, name: &str) -> Option<impl Iterator<Item = &'a str>> {
    let mut parts = path.split('/').filter(|part| !part.is_empty());
    parts.find(|part| *part == name)?;
    Some(parts)
}

fn os_string(bytes: &[u8]) -> std::ffi::OsString {
    use std::os::unix::ffi::OsStringExt;
    std::ffi::OsString::from_vec(bytes.to_vec())
}

/// What the caller uses and the container may have; also where executing a program takes all from who is not root.
fn caps_of(wanted: &Wanted<'_>, bounding: CapSet) -> CapabilitySets {
    let caps = wanted.caps.intersection(bounding);
    let kept = if wanted.user.is_root() { CapSet::EMPTY } else { caps };
    CapabilitySets { effective: caps, permitted: caps, bounding: caps, inheritable: kept, ambient: kept }
}

/// A program that has not gone to the background yet.
#[derive(Debug)]
struct Program {
    child: Arc<Child>,
    /// Readable when the program has ended or its time is over.
    ready: OwnedFd,
    /// Held for `ready`.
    _timer: OwnedFd,
    end: Instant,
    /// It was sent SIGKILL, and the answer given.
    was_killed: bool,
}

impl Program {
    fn new(child: Arc<Child>) -> Result<Self> {
        let failed = |e| Error::sys("watch the program", e);
        let end = Instant::now() + FOREGROUND;
        let timer = rustix::time::timerfd_create(
            TimerfdClockId::Monotonic,
            TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK,
        )
        .map_err(failed)?;
        let once = Itimerspec {
            it_interval: Timespec { tv_sec: 0, tv_nsec: 0 },
            it_value: Timespec { tv_sec: FOREGROUND.as_secs() as i64, tv_nsec: 0 },
        };
        rustix::time::timerfd_settime(&timer, TimerfdTimerFlags::empty(), &once).map_err(failed)?;
        let ready = epoll::create(epoll::CreateFlags::CLOEXEC).map_err(failed)?;
        epoll::add(&ready, &timer, EventData::new_u64(0), EventFlags::IN | EventFlags::ONESHOT)
            .map_err(failed)?;
        epoll::add(&ready, &*child, EventData::new_u64(1), EventFlags::IN).map_err(failed)?;
        Ok(Self { child, ready, _timer: timer, end, was_killed: false })
    }

    /// Kills it, and what it has started and that has not left its process group.
    fn kill(&mut self) {
        self.was_killed = true;
        // Before Linux 6.9 only itself.
        if pidfd::kill_group(self.child.as_fd()).is_err() {
            let _ = self.child.signal(Signal::KILL);
        }
    }
}

impl Unfinished for Program {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.ready.as_fd()
    }

    fn look(&mut self) -> Progress {
        let ended = self.child.try_wait().unwrap_or(Some(crate::ExitStatus::Unknown));
        if let Some(status) = ended {
            let response = if status.success() { Response::Value(0) } else { Response::Continue };
            let response = (!self.was_killed).then_some(response);
            return Progress { response, is_over: true };
        }
        if self.was_killed || Instant::now() < self.end {
            return Progress { response: None, is_over: false };
        }
        self.kill();
        // A timer that fires once is not readable again: what is left to wait for is the end.
        let mut events = [const { std::mem::MaybeUninit::uninit() }; 1];
        let _ =
            epoll::wait(&self.ready, &mut events, Some(&rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 }));
        Progress { response: Some(Response::Continue), is_over: false }
    }

    fn give_up(&mut self, until: Instant) {
        if !self.was_killed {
            self.kill();
        }
        let _ = self.child.wait(Deadline::after(until.saturating_duration_since(Instant::now())), None);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_below_a_cgroup() {
        let of = |path, name| below(path, name).map(Iterator::collect::<Vec<_>>);
        assert_eq!(of("/a/box/payload/x", "box"), Some(vec!["payload", "x"]));
        assert_eq!(of("/a/box", "box"), Some(vec![]));
        assert_eq!(of("/a/box/b/box/c", "box"), Some(vec!["b", "box", "c"]));
        assert_eq!(of("/", "box"), None);
        assert_eq!(of("/../other/box2", "box"), None);
    }
}
