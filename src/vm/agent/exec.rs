//! Commands in the guest.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags};

use super::io::{self, Timed};
use super::wire::{self, Ended, Exec, Reply, Request, Stream, Word};
use super::{Agent, lies, state};
use crate::container::Output;
use crate::error::{Error, ErrorKind, Result};
use crate::exit::ExitStatus;
use crate::instance::{self, ExecOptions, Pipes, Stdio};
use crate::op::{Cancel, Deadline};
use crate::process::User;
use crate::signal::Signal;
use crate::sys::pidfd::{poll, poll_in};
use crate::vm::handle::Vm;

/// How long the rest of a message may take once it has begun.
const REST: Duration = Duration::from_secs(10);
/// How long output may still come once the command has ended: a process that it left behind may hold its streams for ever.
/// Each stream comes by its own connection, so its last bytes may be under way.
const DRAIN: Duration = Duration::from_secs(2);
const WAIT: &str = "wait for the command in the guest";

impl Vm {
    /// Runs a command in the guest, as root in its root directory unless told otherwise; see
    /// [`Exec::exec`](crate::instance::Exec::exec). It waits until the guest has started. Any number may run, beside any
    /// action.
    ///
    /// A [`Stdio::Piped`] stream is a socket here. One of [`Stdio::Fd`] or [`Stdio::Inherit`] has a thread that copies, until
    /// the stream's end.
    ///
    /// ```no_run
    /// # let runtime = stockade::Runtime::open()?;
    /// # let vm = runtime.vm(&"guest".parse()?)?;
    /// use stockade::instance::{ExecOptions, Stdio};
    ///
    /// let out = vm.exec(ExecOptions::new(["uname", "-r"]).stdout(Stdio::Piped))?.output()?;
    /// assert!(out.status.success());
    /// # Ok::<(), stockade::Error>(())
    /// ```
    ///
    /// # Errors
    /// As there. [`Unsupported`](crate::ErrorKind::Unsupported) where the guest has no agent, and with capabilities;
    /// [`Died`](crate::ErrorKind::Died) and [`Corrupt`](crate::ErrorKind::Corrupt) for an agent that ends, or talks
    /// nonsense.
    pub fn exec(&self, options: ExecOptions) -> Result<VmProcess> {
        let started = (|| {
            crate::container::check_exec(&options)?;
            if options.capabilities.is_some() {
                return Err(Error::new(
                    ErrorKind::Unsupported,
                    "set the capabilities of a command in a guest",
                )
                .hint("leave them out: root has all of the guest's, and others have none"));
            }
            let live = self.live()?;
            let started = state::of(&live)?.exec(options);
            started.map_err(|e| match e.kind() {
                ErrorKind::Timeout if live.machine.control().is_paused() => {
                    e.hint("the machine is frozen: thaw it")
                }
                _ => e,
            })
        })();
        started.map_err(|e| e.with_op("exec").with_instance(self.id()))
    }
}

impl Agent {
    fn exec(&self, options: ExecOptions) -> Result<VmProcess> {
        let deadline = Deadline::from(options.deadline);
        let cancel = options.cancel.as_ref();
        self.wait(deadline, cancel)?;
        let mut id = [0; 8];
        let random = rustix::rand::getrandom(&mut id, rustix::rand::GetRandomFlags::empty());
        random.map_err(|e| Error::sys("number a command", e))?;
        let id = u64::from_le_bytes(id);
        let mut pipes = Pipes::default();
        let mut copies = Vec::new();
        let mut streams = 0;
        for (which, stdio) in (0..).zip([options.stdin, options.stdout, options.stderr]) {
            let fd = match stdio {
                Stdio::Null => continue,
                Stdio::Piped => None,
                Stdio::Fd(fd) => Some(fd),
                Stdio::Inherit => Some(own(which)?),
            };
            streams |= 1 << which;
            let stream = self.stream(id, which, deadline, cancel)?;
            match (fd, which) {
                (Some(fd), _) => copies.push((which, fd, stream)),
                (None, 0) => pipes.stdin = Some(stream.into()),
                (None, 1) => pipes.stdout = Some(stream.into()),
                (None, _) => pipes.stderr = Some(stream.into()),
            }
        }
        let user = options.user.unwrap_or_else(|| User::new(0, 0));
        let request = Exec {
            id,
            args: options.args.iter().map(|a| a.as_bytes().to_vec()).collect(),
            env: options.env.iter().map(|(n, v)| [n.as_bytes(), b"=", v.as_bytes()].concat()).collect(),
            cwd: options.cwd.map(|cwd| cwd.as_os_str().as_bytes().to_vec()).unwrap_or_default(),
            uid: user.uid.as_raw(),
            gid: user.gid.as_raw(),
            groups: user.groups.iter().map(|g| g.as_raw()).collect(),
            streams,
        };
        const STEP: &str = "start a command in the guest";
        let length: usize = request.args.iter().chain(&request.env).map(Vec::len).sum();
        if length > wire::MOST / 2 {
            return Err(Error::invalid("args", format!("and env have {length} bytes, which is too much")));
        }
        let (control, reply) = self.ask(Request::Exec(request), STEP, deadline, cancel)?;
        let Reply::Started(pid) = reply else { return Err(lies(STEP)) };
        for (which, fd, stream) in copies {
            copy(which, fd, stream)?;
        }
        Ok(VmProcess { control, guest_pid: pid, pipes, ended: Mutex::new(None) })
    }

    fn stream(&self, id: u64, which: u8, deadline: Deadline, cancel: Option<&Cancel>) -> Result<UnixStream> {
        const STEP: &str = "connect a stream to the guest";
        match self.ask(Request::Stream(Stream { id, which }), STEP, deadline, cancel)? {
            (stream, Reply::Done) => {
                let plain = stream.set_read_timeout(None).and_then(|()| stream.set_write_timeout(None));
                plain.map_err(|e| Error::io(STEP, e))?;
                Ok(stream)
            }
            _ => Err(lies(STEP)),
        }
    }
}

/// A copy of the host's own stream of that number.
fn own(which: u8) -> Result<OwnedFd> {
    let copied = match which {
        0 => std::io::stdin().as_fd().try_clone_to_owned(),
        1 => std::io::stdout().as_fd().try_clone_to_owned(),
        _ => std::io::stderr().as_fd().try_clone_to_owned(),
    };
    copied.map_err(|e| Error::io("take a stream of this process", e))
}

/// Copies between a descriptor of the caller's and a stream of the guest's, in a thread.
fn copy(which: u8, fd: OwnedFd, stream: UnixStream) -> Result<()> {
    let run = move || match which {
        0 => copy_in(&fd, &stream),
        _ => {
            // Its end is the end of the stream, or of who reads what is copied.
            let _ = std::io::copy(&mut &stream, &mut std::fs::File::from(fd));
        }
    };
    let mask = crate::sys::vm::kick::block_all_but(None).map_err(|e| Error::sys("block signals", e))?;
    let thread = std::thread::Builder::new().name("vm-stream".to_owned()).spawn(run);
    mask.restore();
    thread.map(drop).map_err(|e| Error::io("start a thread for a stream", e))
}

/// Ends with the descriptor, or with the command, which may never read.
fn copy_in(fd: &OwnedFd, stream: &UnixStream) {
    let mut bytes = [0; 16 << 10];
    loop {
        let mut fds = [PollFd::new(fd, PollFlags::IN), PollFd::new(stream, PollFlags::RDHUP)];
        if poll(&mut fds, None).is_err() || !fds[1].revents().is_empty() {
            return;
        }
        match rustix::io::read(fd, &mut bytes) {
            Ok(0) => return,
            Ok(len) if std::io::Write::write_all(&mut &*stream, &bytes[..len]).is_ok() => {}
            Err(rustix::io::Errno::INTR | rustix::io::Errno::AGAIN) => {}
            _ => return,
        }
    }
}

/// A command that runs, or has run, in a virtual machine.
///
/// Its descriptor becomes readable when it has ended. Dropping it neither ends the command nor waits for it.
#[derive(Debug)]
pub struct VmProcess {
    control: UnixStream,
    guest_pid: u32,
    pipes: Pipes,
    ended: Mutex<Option<ExitStatus>>,
}

impl VmProcess {
    /// Its process id in the guest. For show: the number may name another process later.
    pub fn guest_pid(&self) -> u32 {
        self.guest_pid
    }

    fn ended(&self) -> MutexGuard<'_, Option<ExitStatus>> {
        self.ended.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait_until(&self, deadline: Deadline) -> Result<Option<ExitStatus>> {
        if let Some(status) = *self.ended() {
            return Ok(Some(status));
        }
        let ready = poll_in(&[self.control.as_fd()], deadline.instant()).map_err(|e| Error::sys(WAIT, e))?;
        if !ready.contains(&true) {
            return Ok(None);
        }
        let mut ended = self.ended();
        if let Some(status) = *ended {
            return Ok(Some(status));
        }
        let rest = Timed::new(&self.control, Deadline::after(REST), None);
        let status = match io::receive::<Reply>(&rest, WAIT) {
            Ok(Reply::Ended(how)) => status(how).ok_or_else(|| lies(WAIT))?,
            Ok(_) => return Err(lies(WAIT)),
            // The machine or its agent has ended, and the command with it.
            Err(e) if e.kind() == ErrorKind::Died => ExitStatus::Unknown,
            Err(e) => return Err(e),
        };
        *ended = Some(status);
        Ok(Some(status))
    }

    /// Waits until it has ended: `Unknown` where the machine or its agent ended before.
    ///
    /// # Errors
    /// [`Corrupt`](crate::ErrorKind::Corrupt) and [`Timeout`](crate::ErrorKind::Timeout) for an agent that says what
    /// cannot be, or only half of it.
    pub fn wait(&self) -> Result<ExitStatus> {
        loop {
            if let Some(status) = self.wait_until(Deadline::none())? {
                return Ok(status);
            }
        }
    }

    /// Waits at most this long; `None` while it still runs then.
    ///
    /// # Errors
    /// As [`wait`](Self::wait).
    pub fn wait_timeout(&self, timeout: Duration) -> Result<Option<ExitStatus>> {
        self.wait_until(Deadline::after(timeout))
    }

    /// Says how it ended, without waiting; `None` while it runs.
    ///
    /// # Errors
    /// As [`wait`](Self::wait).
    pub fn try_wait(&self) -> Result<Option<ExitStatus>> {
        self.wait_timeout(Duration::ZERO)
    }

    /// Sends it a signal.
    ///
    /// # Errors
    /// [`InvalidState`](crate::ErrorKind::InvalidState) where it has ended;
    /// [`Timeout`](crate::ErrorKind::Timeout) where the guest takes no word.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        const STEP: &str = "send a signal to the command in the guest";
        if self.try_wait()?.is_some() {
            return Err(Error::new(ErrorKind::InvalidState, STEP).detail("it has ended"));
        }
        let word = Word::Signal(signal.as_raw());
        match io::send(&Timed::new(&self.control, Deadline::after(REST), None), &word, STEP) {
            Err(e) if e.kind() == ErrorKind::Died => Err(e.with_kind(ErrorKind::InvalidState)),
            done => done,
        }
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
        crate::container::read_output(streams, self.as_fd(), DRAIN, || self.try_wait())
    }
}

/// What can be.
fn status(ended: Ended) -> Option<ExitStatus> {
    match ended {
        Ended { signal: 0, code: code @ 0..=255, .. } => Some(ExitStatus::Exited(code)),
        Ended { signal: signal @ 1..=64, core, .. } => {
            Some(ExitStatus::Signaled { signal, core_dumped: core != 0 })
        }
        _ => None,
    }
}

impl AsFd for VmProcess {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.control.as_fd()
    }
}

impl instance::Process for VmProcess {
    fn pid(&self) -> Option<u32> {
        None
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

impl instance::Exec for Vm {
    fn exec(&self, options: ExecOptions) -> Result<Box<dyn instance::Process>> {
        Ok(Box::new(Self::exec(self, options)?))
    }
}
