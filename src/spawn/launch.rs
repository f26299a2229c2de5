//! Making the child and talking to it until its program runs. See [`super::interp`] for the conversation.
//! Length: one conversation, read as a whole.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use rustix::io::Errno;
use rustix::process::Pid;

use super::child::{Child, Readiness, wait_for};
use super::guests::Guests;
use super::interp::abi;
use super::interp::window::{Copied, Window, execute_stage2, interpret};
use super::plan::Plan;
use super::{report, restrictions};
use crate::error::{Error, ErrorKind, Result};
use crate::op::{Cancel, Deadline};
use crate::sys::clone::{self, CloneArgs, Cloned, Hold, Lent};
use crate::sys::process::{PF_EXITING, PF_FORKNOEXEC, process_flags};
use crate::sys::signal::Ignored;
use crate::sys::stack::Stack;
use crate::sys::{memfd, pidfd, socket};

static STAGE2: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/stage2"));

/// How a child comes to have memory of its own.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Strategy<'a> {
    /// It shares the host's memory for a moment and executes stage-2: the cost does not grow with the host.
    Exec(&'a Stage2),
    /// It gets a copy of the host's memory. Slow from a large host, but needs no executable memfd.
    Fork,
}

/// How the child is made.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Spec<'a> {
    pub(crate) strategy: Strategy<'a>,
    /// `CLONE_NEW*` kinds.
    pub(crate) namespaces: u64,
    /// The cgroup to be born in. Fresh and empty, or not given: see [`clone::share_memory`].
    pub(crate) cgroup: Option<BorrowedFd<'a>>,
    /// Capabilities that stage-2 must have and that executing it would lose (a child in a new user namespace, or
    /// of an ordinary user).
    pub(crate) ambient: u64,
    /// Whether the call must not come back before the child has memory of its own, because something will be done to
    /// it that would reach the host through shared memory. Otherwise host and child go on at the same time.
    pub(crate) own_memory_first: bool,
}

/// Makes a child, which waits for its plan: what the host prepares meanwhile it prepares while the child comes to
/// have memory of its own.
pub(crate) fn launch(spec: &Spec<'_>) -> Result<Started> {
    let (ours, theirs) = socket::pair().map_err(|e| Error::sys("make the plan's socket", e))?;
    let theirs = above_stdio(theirs)?;
    let args = CloneArgs { namespaces: spec.namespaces, cgroup: spec.cgroup };
    let (cloned, lent) = match spec.strategy {
        Strategy::Exec(stage2) => {
            let (cloned, lent) = clone_and_exec(args, theirs.as_fd(), stage2, spec)?;
            (cloned, Some(lent))
        }
        Strategy::Fork => (clone_copy(args, theirs.as_fd())?, None),
    };
    // What is ignored now the child has inherited.
    let ignored = match spec.strategy {
        Strategy::Exec(stage2) => stage2.ignored.now(),
        Strategy::Fork => Ignored::once(),
    };
    Ok(Started {
        ignored,
        sock: ours,
        child: Some(Child::new(cloned.pid, cloned.pidfd)),
        joiner: None,
        makes_sibling: false,
        marker: false,
        parked: false,
        listener: None,
        network: None,
        terminals: Vec::new(),
        failure: None,
        heir: None,
        lent,
    })
}

fn clone_and_exec(
    args: CloneArgs<'_>,
    sock: BorrowedFd<'_>,
    stage2: &Stage2,
    spec: &Spec<'_>,
) -> Result<(Cloned, Lent<Window>)> {
    let window = Window::new(stage2.file.as_raw_fd(), sock.as_raw_fd(), spec.ambient);
    let stack = Stack::take().map_err(|e| Error::sys("map a stack for the child", e))?;
    let hold = if spec.own_memory_first { Hold::UntilExec } else { Hold::No };
    let made =
        clone::share_memory(args, stack, execute_stage2, window, hold).map_err(|e| clone_error(e, &args))?;
    if hold == Hold::UntilExec {
        wait_for_own_memory(made.0.pid);
    }
    Ok(made)
}

/// Waits until the child has left our memory. The kernel lets the maker go on (`CLONE_VFORK`) a moment before: on a
/// slow machine the host can write the child's `oom_score_adj` in between, and with it its own. The flag that it has
/// executed nothing is cleared after the change of memory.
fn wait_for_own_memory(child: Pid) {
    let path = format!("/proc/{}/stat", child.as_raw_nonzero());
    let flags = || process_flags(&std::fs::read_to_string(&path).ok()?);
    // One that ends, or that cannot be looked at, comes to nothing else.
    while flags().is_some_and(|flags| flags & PF_FORKNOEXEC != 0 && flags & PF_EXITING == 0) {
        std::thread::sleep(Duration::from_micros(50));
    }
}

fn clone_copy(args: CloneArgs<'_>, sock: BorrowedFd<'_>) -> Result<Cloned> {
    let mut arena = vec![0_u64; abi::MAX_INLINE / 8];
    let copied = Copied { sock: sock.as_raw_fd(), arena: arena.as_mut_ptr().cast() };
    clone::copy_memory(args, interpret, &copied).map_err(|e| clone_error(e, &args))
}

/// A child that is on its way. Dropping it kills and reaps the child.
#[derive(Debug)]
pub(crate) struct Started {
    sock: OwnedFd,
    /// The signals that the host ignored when it made the child.
    ignored: u64,
    child: Option<Child>,
    /// The process that cloned `child`, where that was not us.
    joiner: Option<Child>,
    /// The plan has the child clone another one.
    makes_sibling: bool,
    marker: bool,
    /// The child has done its plan and waits for the next one.
    parked: bool,
    listener: Option<OwnedFd>,
    /// The socket of the child's network namespace.
    network: Option<OwnedFd>,
    /// Masters of the terminals that the child made.
    terminals: Vec<OwnedFd>,
    /// What the child told of its failure.
    failure: Option<Error>,
    /// Who reaps what cannot be killed now.
    heir: Option<Arc<Guests>>,
    /// What the child ran on before it executed stage-2.
    lent: Option<Lent<Window>>,
}

impl Started {
    /// The child; after [`wait_sibling`](Self::wait_sibling) the sibling.
    pub(crate) fn child(&self) -> Result<&Child> {
        self.child.as_ref().ok_or_else(|| Error::new(ErrorKind::Died, "look up the child"))
    }

    /// Has `guests` reap the child where it cannot be killed when this is given up: inside a container it may wait for a file
    /// system of the container's own, and hold up the end of the pid namespace.
    pub(crate) fn leave_to(&mut self, guests: &Arc<Guests>) {
        self.heir = Some(Arc::clone(guests));
    }

    /// Sends the plan, with its descriptors, and with the signals that the program would inherit as ignored.
    pub(crate) fn send(&mut self, plan: &mut Plan, fds: &[BorrowedFd<'_>]) -> Result<()> {
        plan.set_ignored_signals(self.ignored);
        send_plan(self.sock.as_fd(), plan, fds)?;
        self.makes_sibling = plan.makes_sibling();
        Ok(())
    }

    /// Sends these bytes in place of a plan.
    #[cfg(test)]
    pub(super) fn send_bytes(&self, bytes: &[u8]) -> Result<()> {
        socket::send(self.sock.as_fd(), bytes, &[]).map_err(|e| Error::sys("send the plan", e))
    }

    /// Opens the plan's barrier; descriptors go to its slots.
    pub(crate) fn go(&self, fds: &[BorrowedFd<'_>]) -> Result<()> {
        let word = u64::from(abi::GO).to_ne_bytes();
        socket::send(self.sock.as_fd(), &word, fds).map_err(|e| Error::sys("let the child go on", e))
    }

    /// What the host met while it worked on the child, or, where the child has failed or ended meanwhile, that: it
    /// is the cause then.
    pub(crate) fn or_its_own<T>(&mut self, plan: &Plan, result: Result<T>) -> Result<T> {
        let Err(e) = result else { return result };
        loop {
            match self.next(plan)? {
                Next::Message => {}
                Next::Nothing => return Err(self.failure.take().unwrap_or(e)),
                Next::End => return Err(self.died()),
            }
        }
    }

    /// The user namespace that the child is in.
    pub(crate) fn user_namespace(&self) -> Result<OwnedFd> {
        let child = self.child()?;
        pidfd::user_namespace(child.as_fd(), child.pid())
            .map_err(|e| Error::sys("open the child's user namespace", e))
    }

    /// Waits until the first process has cloned the one that goes on with the plan, which is then the child.
    pub(crate) fn wait_sibling(
        &mut self,
        plan: &Plan,
        deadline: Deadline,
        cancel: Option<&Cancel>,
    ) -> Result<()> {
        while self.joiner.is_none() {
            match self.next(plan)? {
                Next::Message => {}
                Next::Nothing => wait_for(self.sock.as_fd(), Readiness::Readable, deadline, cancel, WAIT)?,
                Next::End => return Err(self.died()),
            }
        }
        // The sibling may have failed before its maker could tell of it.
        self.failure.take().map_or(Ok(()), Err)
    }

    /// Waits until the child has done its plan up to `park`. Another one may be sent then.
    pub(crate) fn wait_parked(
        &mut self,
        plan: &Plan,
        deadline: Deadline,
        cancel: Option<&Cancel>,
    ) -> Result<()> {
        while !self.parked && self.failure.is_none() {
            match self.next(plan)? {
                Next::Message => {}
                Next::Nothing => wait_for(self.sock.as_fd(), Readiness::Readable, deadline, cancel, WAIT)?,
                Next::End => return Err(self.died()),
            }
        }
        match self.failure.take() {
            Some(failure) => Err(failure),
            None => {
                // It has memory of its own by now.
                if let Some(lent) = self.lent.take() {
                    lent.take_back();
                }
                Ok(())
            }
        }
    }

    /// Waits until the child has come to the op that ends its plan and serves the host. The socket to it, and the child.
    pub(crate) fn wait_serving(mut self, plan: &Plan, deadline: Deadline) -> Result<(OwnedFd, Child)> {
        while !self.marker && self.failure.is_none() {
            match self.next(plan)? {
                Next::Message => {}
                Next::Nothing => wait_for(self.sock.as_fd(), Readiness::Readable, deadline, None, WAIT)?,
                Next::End => return Err(self.died()),
            }
        }
        if self.failure.is_some() {
            return Err(self.died());
        }
        if let Some(lent) = self.lent.take() {
            lent.take_back();
        }
        let sock = rustix::io::fcntl_dupfd_cloexec(&self.sock, 3);
        let sock = sock.map_err(|e| Error::sys("duplicate a descriptor", e))?;
        match self.child.take() {
            Some(child) => Ok((sock, child)),
            None => Err(Error::new(ErrorKind::Died, "look up the child")),
        }
    }

    /// Waits for the socket of the child's network namespace, of a plan that has it made.
    pub(crate) fn wait_network(
        &mut self,
        plan: &Plan,
        deadline: Deadline,
        cancel: Option<&Cancel>,
    ) -> Result<OwnedFd> {
        loop {
            if let Some(network) = self.network.take() {
                return Ok(network);
            }
            match self.next(plan)? {
                Next::Message => {}
                // The child ends after that.
                Next::Nothing if self.failure.is_some() => return Err(self.died()),
                Next::Nothing => wait_for(self.sock.as_fd(), Readiness::Readable, deadline, cancel, WAIT)?,
                Next::End => return Err(self.died()),
            }
        }
    }

    /// Whether the child is still there.
    pub(crate) fn is_alive(&self) -> bool {
        self.child.as_ref().is_some_and(|child| matches!(child.try_wait(), Ok(None)))
    }

    /// Waits until the program runs.
    pub(crate) fn wait_exec(
        mut self,
        plan: &Plan,
        deadline: Deadline,
        cancel: Option<&Cancel>,
    ) -> Result<Running> {
        // Only the end of the conversation wakes this thread: all that came before it is read then.
        let waited = wait_for(self.sock.as_fd(), Readiness::Closed, deadline, cancel, WAIT);
        loop {
            match self.next(plan)? {
                Next::Message => {}
                Next::End => break,
                // Not closed: the wait was in vain, but a sibling that was made meanwhile is known now, and ends
                // with `self`.
                Next::Nothing => return waited.and(Err(self.died())),
            }
        }
        if !self.marker || self.failure.is_some() {
            return Err(self.died());
        }
        if let Some(lent) = self.lent.take() {
            lent.take_back();
        }
        // Out of time here it is still ours, to be reaped with `self`.
        if let Some(joiner) = &self.joiner {
            joiner.wait(deadline, cancel)?;
        }
        match self.child.take() {
            Some(child) => Ok(Running {
                child,
                listener: self.listener.take(),
                terminals: std::mem::take(&mut self.terminals),
            }),
            None => Err(Error::new(ErrorKind::Died, "look up the child")),
        }
    }

    /// Handles one message, if there is one. A failure is kept, not returned: who made the failed process may not
    /// have told of it yet, and it has to be reaped.
    fn next(&mut self, plan: &Plan) -> Result<Next> {
        let mut buf = [0_u8; 64];
        let msg = match socket::receive(self.sock.as_fd(), &mut buf) {
            Ok(msg) if msg.len == 0 => return Ok(Next::End),
            Ok(msg) => msg,
            Err(Errno::AGAIN) => return Ok(Next::Nothing),
            Err(e) => return Err(Error::sys("read from the child", e)),
        };
        let mut fds = msg.fds.into_iter();
        let Some(record) = report::decode(&buf[..msg.len]) else {
            return Err(Error::new(ErrorKind::Died, "read from the child")
                .detail("it sent a message of unknown form"));
        };
        match (record.kind, fds.next()) {
            (abi::MARKER, _) => self.marker = true,
            (abi::PARKED, _) => self.parked = true,
            (abi::LISTENER, Some(fd)) => self.listener = Some(fd),
            (abi::NETWORK, Some(fd)) => self.network = Some(fd),
            (abi::TERMINAL, Some(fd)) => self.terminals.push(fd),
            (abi::SIBLING, Some(fd)) => {
                let pid = i32::try_from(record.value).ok().and_then(Pid::from_raw);
                let pid =
                    pid.ok_or_else(|| Error::new(ErrorKind::Died, "read the sibling's process number"))?;
                self.joiner = self.child.replace(Child::new(pid, fd));
            }
            _ => {
                self.failure.get_or_insert_with(|| report::error(plan, &record));
            }
        }
        Ok(Next::Message)
    }

    /// The child has gone: with the failure that it told of, or without a word.
    fn died(&mut self) -> Error {
        if let Some(failure) = self.failure.take() {
            return failure;
        }
        self.await_sibling();
        let how = self.child.as_ref().and_then(Child::kill_and_reap);
        let e = Error::new(ErrorKind::Died, WAIT);
        match how {
            Some(status) => e.detail(format!("the child {status} before its program ran")),
            None => e,
        }
        .hint("look for a memory limit that is too low, or for somebody who kills the instance's processes")
    }
}

impl Started {
    /// Lets the child tell of the one that it clones, before it is killed. Between the two it is the only one to know the
    /// other, which is this process's child: nobody would reap that, and its pid namespace could never end.
    fn await_sibling(&mut self) {
        let end = Deadline::after(SIBLING);
        while self.makes_sibling && self.joiner.is_none() {
            match self.next(&Plan::new(0)) {
                Ok(Next::Message) => {}
                Ok(Next::Nothing) => {
                    if wait_for(self.sock.as_fd(), Readiness::Readable, end, None, WAIT).is_err() {
                        return;
                    }
                }
                Ok(Next::End) | Err(_) => return,
            }
        }
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        self.await_sibling();
        let mut ended = true;
        loop {
            for child in self.child.iter().chain(&self.joiner) {
                ended &= child.kill_and_reap().is_some();
            }
            // A sibling that was made before its maker was killed is told of in what is still queued.
            let known = self.joiner.is_some();
            while let Ok(Next::Message) = self.next(&Plan::new(0)) {}
            if known || self.joiner.is_none() {
                break;
            }
        }
        if let (false, Some(heir)) = (ended, &self.heir) {
            for child in self.child.take().into_iter().chain(self.joiner.take()) {
                // Without a descriptor for the watch nobody is left to do it.
                let _ = heir.add(&Arc::new(child));
            }
        }
        // A child that would not die keeps its stack.
        if let (true, Some(lent)) = (ended, self.lent.take()) {
            lent.take_back();
        }
    }
}

/// How long a child may take to clone another one and tell of it: it waits for nobody in between.
const SIBLING: Duration = Duration::from_secs(10);

const WAIT: &str = "wait for the child to run its program";

/// What lay in the socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    Message,
    Nothing,
    /// Nobody holds the other end any more.
    End,
}

/// A child whose program runs.
#[derive(Debug)]
pub(crate) struct Running {
    pub(crate) child: Child,
    /// The seccomp notify descriptor, where the filter asked for one.
    pub(crate) listener: Option<OwnedFd>,
    /// Masters of the terminals that the plan made, in order.
    pub(crate) terminals: Vec<OwnedFd>,
}

fn send_plan(sock: BorrowedFd<'_>, plan: &Plan, fds: &[BorrowedFd<'_>]) -> Result<()> {
    if plan.is_overfull() {
        return Err(Error::invalid("mounts and layers", "are more than one start can hold open at a time"));
    }
    let bytes = plan.encode();
    let step = "send the plan";
    if bytes.len() <= abi::MAX_INLINE {
        return socket::send(sock, &bytes, fds).map_err(|e| Error::sys(step, e));
    }
    let data = memfd::sealed_data("stockade-plan", &bytes).map_err(|e| Error::sys(step, e))?;
    let mut head = [0_u8; 16];
    head[..4].copy_from_slice(&abi::PLAN_IN_MEMFD.to_ne_bytes());
    head[8..].copy_from_slice(&(bytes.len() as u64).to_ne_bytes());
    let fds: Vec<BorrowedFd<'_>> = fds.iter().copied().chain([data.as_fd()]).collect();
    socket::send(sock, &head, &fds).map_err(|e| Error::sys(step, e))
}

/// A copy of `fd` that is no standard descriptor: those are the payload's.
pub(crate) fn above_stdio(fd: OwnedFd) -> Result<OwnedFd> {
    if fd.as_raw_fd() > 2 {
        return Ok(fd);
    }
    rustix::io::fcntl_dupfd_cloexec(&fd, 3).map_err(|e| Error::sys("duplicate a descriptor", e))
}

/// Stage-2 as an executable: a sealed file in memory, one for each runtime.
#[derive(Debug)]
pub(crate) struct Stage2 {
    file: OwnedFd,
    ignored: Ignored,
}

impl Stage2 {
    pub(crate) fn new() -> Result<Self> {
        let ignored = Ignored::open().map_err(|e| Error::sys("open the status of this process", e))?;
        memfd::sealed_executable("stockade-stage2", STAGE2).map(|file| Self { file, ignored }).map_err(|e| {
            Error::sys("make the stage-2 executable", e)
                .with_kind(ErrorKind::Unsupported)
                .hint("vm.memfd_noexec=2 forbids executable memory files; the Fork strategy does without")
        })
    }
}

impl Strategy<'_> {
    pub(crate) fn is_fork(self) -> bool {
        matches!(self, Self::Fork)
    }
}

fn clone_error(errno: Errno, args: &CloneArgs<'_>) -> Error {
    const NEWUSER: u64 = libc::CLONE_NEWUSER as u64;
    let user = args.namespaces & NEWUSER != 0;
    let e = Error::sys("clone3", errno);
    if let (true, Errno::PERM | Errno::NOSPC | Errno::ACCESS, Some(why)) =
        (user, errno, restrictions::found())
    {
        return e.with_kind(ErrorKind::PermissionDenied).hint(why);
    }
    match errno {
        Errno::NOSPC | Errno::USERS if user => {
            e.hint("a limit in /proc/sys/user/max_*_namespaces is reached or user namespaces nest too deep")
        }
        Errno::PERM if user => e.hint(
            "user namespaces are forbidden here, by a seccomp filter or a security module around this process; \
             nor may a process in a chroot(2) make any",
        ),
        Errno::PERM => e.hint("new namespaces need CAP_SYS_ADMIN, or a new user namespace beside them"),
        Errno::ACCESS if args.cgroup.is_some() => {
            e.hint("this process must sit in the delegated cgroup subtree that the instance's cgroup is in")
        }
        Errno::BUSY if args.cgroup.is_some() => {
            e.hint("the instance's cgroup has controllers enabled for children of its own")
        }
        Errno::OPNOTSUPP if args.cgroup.is_some() => e
            .detail("the cgroup above the instance's is for threads, those of virtual machines perhaps (see its cgroup.type)")
            .hint("have containers elsewhere: Placement::OwnWithLeaf, or Placement::Below another cgroup"),
        Errno::AGAIN => e.hint("a pids limit or RLIMIT_NPROC is reached"),
        Errno::NOSYS => e.hint("a seccomp filter around this process hides clone3(2)"),
        _ => e,
    }
}
