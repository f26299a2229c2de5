//! Running a command in a running container.
//!
//! Two hops. The host's child never enters the container: it only executes stage-2, in the host's own cgroup and
//! namespaces. Stage-2, whose memory is its own by then and hidden from others, joins the namespaces and clones
//! the command's process into the container's cgroup, as a child of the host. So no process that shares the host's
//! memory is ever where the container could read it, have it killed by its memory limit, or freeze it.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use super::handle::Container;
use super::intercept::Watched;
use super::live::Live;
use super::reboot::Patience;
use super::tail::{Settings, add_limits, tail};
use super::{payload, streams};
use crate::caps::{CapSet, CapabilitySets};
use crate::cgroup::Cgroup;
use crate::error::{Error, ErrorKind, Result};
use crate::exit::ExitStatus;
use crate::idmap::SetGroups;
use crate::instance::{self, ExecOptions, Pipes};
use crate::namespaces::{NamespaceKind, NamespaceSource};
use crate::op::Deadline;
use crate::process::{SessionKeyring, User};
use crate::signal::Signal;
use crate::spawn::{Child, Fd, Guests, Plan, Spec, launch};
use crate::sys::process::{PF_EXITING, process_flags};

impl Container {
    /// Runs a command beside the first process; see [`Exec::exec`](crate::instance::Exec::exec).
    ///
    /// Blocks until the program runs: well under a millisecond. Any number may run, beside any action.
    ///
    /// ```no_run
    /// # let runtime = stockade::Runtime::open()?;
    /// # let web = runtime.container(&"web".parse()?)?;
    /// use stockade::instance::{ExecOptions, Stdio};
    ///
    /// let out = web.exec(ExecOptions::new(["cat", "/etc/os-release"]).stdout(Stdio::Piped))?.output()?;
    /// assert!(out.status.success());
    /// # Ok::<(), stockade::Error>(())
    /// ```
    ///
    /// # Errors
    /// As there.
    pub fn exec(&self, options: ExecOptions) -> Result<Process> {
        let id = self.id();
        let program = options.args.first().cloned().unwrap_or_default();
        self.exec_inner(options).map_err(|e| {
            let e = e.with_op("exec").with_instance(&id);
            if e.what().is_none() && e.kind() != ErrorKind::InvalidState {
                e.object(program.to_string_lossy())
            } else {
                e
            }
        })
    }

    fn exec_inner(&self, options: ExecOptions) -> Result<Process> {
        check_exec(&options)?;
        self.settle_if_ended()?;
        self.follow_reboot(Patience::None)?;
        let live = self.live()?;
        self.exec_in(&live, options)
    }

    /// As `exec`, in this run.
    pub(super) fn exec_in(&self, live: &Live, options: ExecOptions) -> Result<Process> {
        let config = self.config();
        let host = &self.runtime.inner().host;
        let hooks = options.hooks();
        let deadline = Deadline::from(options.deadline);
        let cancel = options.cancel.clone();
        let (mut sources, pipes) = streams::open(options.stdin, options.stdout, options.stderr)?;
        if !config.may_open_null() {
            sources = sources.with_host_null()?;
        }
        let has_users = config.namespaces.user != NamespaceSource::Host;

        let mut settings = Settings::of(&config);
        settings.caps = exec_caps(&settings, options.user.as_ref(), options.capabilities);
        settings.user = options.user.unwrap_or_default();
        sources.belong_to(&settings.user, &config, live.id_map.as_ref())?;
        settings.args = options.args;
        if let Some(cwd) = options.cwd {
            settings.cwd = cwd;
        }
        for (name, value) in options.env {
            settings.env.retain(|(n, _)| *n != name);
            settings.env.push((name, value));
        }
        let groups = !has_users || host.set_groups() == SetGroups::Allow || may_set_groups(live.child.id());
        let held = if has_users { CapSet::ALL } else { host.permitted() };
        let mut settings = settings.tail(host, held)?;
        settings.listens = self.is_supervised(&config);

        let inner = live.cgroup.as_ref().map(|leaf| payload::for_exec(leaf, &config)).transpose()?.flatten();
        let cgroup = inner.as_ref().or(live.cgroup.as_ref());
        let mut given: Vec<OwnedFd> = Vec::new();
        let first = 1 + u8::from(cgroup.is_some());
        let streams = sources.hand_over(|fd| {
            given.push(fd);
            Ok(Fd::Slot(first + given.len() as u8 - 1))
        })?;
        let mut fds: Vec<BorrowedFd<'_>> = vec![live.child.as_fd()];
        fds.extend(cgroup.map(AsFd::as_fd));
        fds.extend(given.iter().map(AsFd::as_fd));

        let mut plan = Plan::new(fds.len() as u8);
        add_limits(&mut plan, &config);
        plan.prctl("hide this process's memory", libc::PR_SET_DUMPABLE, 0);
        // Where cgroup2 is mounted with `nsdelegate`, as systemd does, nobody inside a cgroup namespace can put a
        // process into it from outside: so the command joins that one itself, once it is in the cgroup.
        let cgroup_kind = NamespaceKind::Cgroup.clone_flag();
        let kinds = self.kinds_to_join();
        if kinds & !cgroup_kind != 0 {
            plan.setns("join the container's namespaces", Fd::Slot(0), kinds & !cgroup_kind);
        }
        let cgroup = cgroup.map(|_| Fd::Slot(1));
        plan.clone_sibling(0, cgroup, host.strategy().is_fork());
        let v1 = live.cgroup.as_ref().map_or(Ok(false), Cgroup::has_v1_groups)?;
        if v1 {
            // It is born into the v2 cgroup alone.
            plan.barrier(0);
        }
        if kinds & cgroup_kind != 0 {
            plan.setns("join the container's cgroup namespace", Fd::Slot(0), cgroup_kind);
        }
        if config.keyring == SessionKeyring::Own && host.has_keyrings() {
            plan.keyring();
        }
        if has_users {
            plan.set_ids("become root of the user namespace", 0, 0);
            if groups {
                plan.set_groups(&[]);
            }
        }
        plan.setsid();
        tail(&mut plan, &streams, &settings);
        hooks.apply(&mut plan);

        let spec = Spec {
            strategy: host.strategy(),
            namespaces: 0,
            cgroup: None,
            ambient: 0,
            own_memory_first: false,
        };
        let mut started = launch(&spec)?;
        started.leave_to(&live.guests);
        let sent = started.send(&mut plan, &fds);
        started.or_its_own(&plan, sent)?;
        if let Some(leaf) = live.cgroup.as_ref().filter(|_| v1) {
            let joined = payload::take_in(leaf, &mut started, &plan, deadline, cancel.as_ref());
            joined.map_err(|e| explain(e, live))?;
        }
        let running = started.wait_exec(&plan, deadline, cancel.as_ref());
        let running = running.map_err(|e| explain(e, live))?;
        let child = Arc::new(running.child);
        if let Some(listener) = running.listener {
            let watched = Watched {
                child: &child,
                id_map: live.id_map.as_ref(),
                cgroup: live.cgroup.as_ref(),
                guests: &live.guests,
                started_at: live.started_at,
            };
            if let Err(e) = self.watch(&config, listener, &watched) {
                // A command that was as quick as that has no calls left.
                if !matches!(child.try_wait(), Ok(Some(_))) {
                    child.kill_and_reap();
                    return Err(e);
                }
            }
        }
        live.guests.reap();
        if let Err(e) = live.guests.add(&child) {
            child.kill_and_reap();
            return Err(e);
        }
        Ok(Process { child, guests: Arc::clone(&live.guests), pipes })
    }

    /// The kinds of namespaces that are not the host's.
    fn kinds_to_join(&self) -> u64 {
        let config = self.config();
        NamespaceKind::ALL
            .into_iter()
            .filter(|kind| *config.namespaces.get(*kind) != NamespaceSource::Host)
            .fold(0, |all, kind| all | kind.clone_flag())
    }
}

/// What is wrong with a command, wherever it is to run.
pub(crate) fn check_exec(options: &ExecOptions) -> Result<()> {
    use std::os::unix::ffi::OsStrExt;
    let nul = |s: &OsString| s.as_bytes().contains(&0);
    if options.args.first().is_none_or(|p| p.is_empty()) {
        return Err(Error::invalid("args", "name no program"));
    }
    if options.args.iter().any(nul) {
        return Err(Error::invalid("args", "hold a NUL byte"));
    }
    for (name, value) in &options.env {
        if name.is_empty() || name.as_bytes().contains(&b'=') || nul(name) || nul(value) {
            return Err(Error::invalid("env", "has a name that is empty or holds `=`, or a NUL byte")
                .object(name.to_string_lossy()));
        }
    }
    if let Some(cwd) = &options.cwd
        && (!cwd.is_absolute() || cwd.as_os_str().as_bytes().contains(&0))
    {
        return Err(Error::invalid("cwd", "is not an absolute path").path(cwd));
    }
    options.user.as_ref().map_or(Ok(()), User::validate)?;
    options.capabilities.as_ref().map_or(Ok(()), CapabilitySets::validate)
}

/// Those that were asked for, within the container's bounding set; else the container's for root and none for
/// anybody else.
fn exec_caps(of: &Settings, user: Option<&User>, asked: Option<CapabilitySets>) -> CapabilitySets {
    let bounding = of.caps.bounding;
    match asked {
        Some(sets) => sets.limited_to(bounding),
        None if user.is_none_or(User::is_root) => of.caps,
        None => CapabilitySets { bounding, ..CapabilitySets::none() },
    }
}

/// Whether groups can be set in the user namespace of a process (`user_namespaces(7)`).
fn may_set_groups(pid: u32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/setgroups")).is_ok_and(|text| text.trim() == "allow")
}

/// A container that is frozen, or that ends just now, explains most failures.
fn explain(e: Error, live: &Live) -> Error {
    let frozen = live.cgroup.as_ref().is_some_and(|cg| cg.state().is_ok_and(|s| s.frozen));
    if e.kind() == ErrorKind::Timeout && frozen {
        return e.hint("the container is frozen: thaw it");
    }
    // Namespaces and cgroup go, and whoever is in them is killed, a moment before the first process has ended.
    let patience = if is_ending(live.child.id()) { ENDING } else { Duration::ZERO };
    let patience = Deadline::after(patience);
    match live.guests.wait_for(&live.child, patience, None) {
        Ok(_) => e.with_kind(ErrorKind::InvalidState).hint("the container ended meanwhile"),
        Err(_) => e,
    }
}

/// How long a first process may take from being killed to its end.
const ENDING: Duration = Duration::from_secs(1);

/// Whether a process is on its way out, or was sent SIGKILL (`proc_pid_stat(5)`, `proc_pid_status(5)`).
fn is_ending(pid: u32) -> bool {
    const SIGKILL: u64 = 1 << (libc::SIGKILL - 1);
    let read = |file| std::fs::read_to_string(format!("/proc/{pid}/{file}")).ok();
    let (Some(stat), Some(status)) = (read("stat"), read("status")) else { return true };
    let pending = status.lines().filter_map(|line| line.split_once("Pnd:\t"));
    let killed =
        pending.filter_map(|(_, set)| u64::from_str_radix(set, 16).ok()).any(|set| set & SIGKILL != 0);
    killed || process_flags(&stat).is_some_and(|flags| flags & PF_EXITING != 0)
}

/// A command that runs, or has run, in a container.
///
/// Its descriptor becomes readable when it has ended. Dropping it neither ends the command nor waits for it. A
/// command that ends later is reaped with the next call on the container that looks at its processes: exec, status,
/// wait, stop and their like.
#[derive(Debug)]
pub struct Process {
    child: Arc<Child>,
    /// Those of the container: it is one of them.
    guests: Arc<Guests>,
    pipes: Pipes,
}

/// What a command wrote, and how it ended.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Output {
    /// How it ended.
    pub status: ExitStatus,
    /// What came from its standard output, where that was piped.
    pub stdout: Vec<u8>,
    /// What came from its standard error, where that was piped.
    pub stderr: Vec<u8>,
}

/// How long output may still come once the command has ended: a process that it left behind may hold the pipes
/// for ever.
const DRAIN: Duration = Duration::from_millis(100);

impl Process {
    /// Its process id as the host numbers it. For show: the number may name another process later.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits until it has ended.
    ///
    /// # Errors
    /// Only where the kernel refuses the wait itself.
    pub fn wait(&self) -> Result<ExitStatus> {
        self.child.wait(Deadline::none(), None)
    }

    /// Waits at most this long; `None` while it still runs then.
    ///
    /// # Errors
    /// As [`wait`](Self::wait).
    pub fn wait_timeout(&self, timeout: Duration) -> Result<Option<ExitStatus>> {
        match self.child.wait(Deadline::after(timeout), None) {
            Ok(status) => Ok(Some(status)),
            Err(e) if e.kind() == ErrorKind::Timeout => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Says how it ended, without waiting; `None` while it runs.
    ///
    /// # Errors
    /// As [`wait`](Self::wait).
    pub fn try_wait(&self) -> Result<Option<ExitStatus>> {
        self.child.try_wait()
    }

    /// Sends it a signal, and never to another process that has got its number.
    ///
    /// # Errors
    /// [`InvalidState`](crate::ErrorKind::InvalidState) where it has ended.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        self.child.signal(signal)
    }

    /// Takes the host's end of its standard input, where that is piped.
    pub fn take_stdin(&mut self) -> Option<OwnedFd> {
        self.pipes.stdin.take()
    }

    /// Takes the host's end of its standard output, where that is piped.
    pub fn take_stdout(&mut self) -> Option<OwnedFd> {
        self.pipes.stdout.take()
    }

    /// Takes the host's end of its standard error, where that is piped.
    pub fn take_stderr(&mut self) -> Option<OwnedFd> {
        self.pipes.stderr.take()
    }

    /// Closes its standard input, reads what it writes until it has ended, and says how it ended. What a process
    /// that it left behind writes later is not waited for.
    ///
    /// # Errors
    /// Where reading or waiting fails.
    pub fn output(mut self) -> Result<Output> {
        drop(self.take_stdin());
        let streams = [self.take_stdout(), self.take_stderr()];
        read_output(streams, self.child.as_fd(), DRAIN, || self.child.try_wait())
    }
}

/// Reads output and errors until the command has ended, which `end` becomes readable for, and as long after as there comes
/// something within `drain`.
pub(crate) fn read_output(
    [stdout, stderr]: [Option<OwnedFd>; 2],
    end: BorrowedFd<'_>,
    drain: Duration,
    try_wait: impl Fn() -> Result<Option<ExitStatus>>,
) -> Result<Output> {
    let (mut stdout, mut stderr) = (Reader::new(stdout), Reader::new(stderr));
    loop {
        let ended = try_wait()?;
        let mut fds: Vec<BorrowedFd<'_>> = [&stdout, &stderr].into_iter().filter_map(|r| r.fd()).collect();
        let none_left = fds.is_empty();
        let deadline = match ended {
            Some(status) if none_left => {
                return Ok(Output { status, stdout: stdout.data, stderr: stderr.data });
            }
            Some(_) => Deadline::after(drain),
            None => {
                fds.push(end);
                Deadline::none()
            }
        };
        let ready =
            crate::sys::pidfd::poll_in(&fds, deadline.instant()).map_err(|e| Error::sys("read output", e))?;
        let mut ready: VecDeque<bool> = ready.into();
        if let (Some(status), false) = (ended, ready.contains(&true)) {
            return Ok(Output { status, stdout: stdout.data, stderr: stderr.data });
        }
        for reader in [&mut stdout, &mut stderr] {
            if reader.pipe.is_some() && ready.pop_front() == Some(true) {
                reader.read()?;
            }
        }
    }
}

/// One stream being read to its end.
#[derive(Debug)]
struct Reader {
    pipe: Option<std::fs::File>,
    data: Vec<u8>,
}

impl Reader {
    fn new(pipe: Option<OwnedFd>) -> Self {
        Self { pipe: pipe.map(Into::into), data: Vec::new() }
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.pipe.as_ref().map(AsFd::as_fd)
    }

    fn read(&mut self) -> Result<()> {
        let Some(pipe) = &mut self.pipe else { return Ok(()) };
        let mut chunk = [0_u8; 16 * 1024];
        match pipe.read(&mut chunk) {
            Ok(0) => self.pipe = None,
            Ok(n) => self.data.extend_from_slice(&chunk[..n]),
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
            Err(e) => return Err(Error::io("read output", e)),
        }
        Ok(())
    }
}

impl Drop for Process {
    /// Lets go of its descriptor where it has ended.
    fn drop(&mut self) {
        self.guests.reap();
    }
}

impl AsFd for Process {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.child.as_fd()
    }
}

impl instance::Process for Process {
    fn pid(&self) -> Option<u32> {
        Some(Self::pid(self))
    }

    fn wait(&mut self) -> Result<ExitStatus> {
        Self::wait(self)
    }

    fn wait_timeout(&mut self, timeout: Duration) -> Result<Option<ExitStatus>> {
        Self::wait_timeout(self, timeout)
    }

    fn try_wait(&mut self) -> Result<Option<ExitStatus>> {
        Self::try_wait(self)
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        Self::signal(self, signal)
    }

    fn take_stdin(&mut self) -> Option<OwnedFd> {
        Self::take_stdin(self)
    }

    fn take_stdout(&mut self) -> Option<OwnedFd> {
        Self::take_stdout(self)
    }

    fn take_stderr(&mut self) -> Option<OwnedFd> {
        Self::take_stderr(self)
    }
}
