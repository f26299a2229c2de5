//! One call that waits for an answer, and the answers.

use std::fmt;
use std::os::fd::BorrowedFd;
use std::os::unix::fs::FileExt;

use rustix::io::Errno;

use super::caller::{Caller, Last};
use super::hands::Lazy;
use super::unfinished::Later;
use crate::error::{Error, ErrorKind, Result};
use crate::seccomp::{Arch, Syscall, SyscallData};
use crate::sys::seccomp::{self as sys, Answer, Notification, memory};

/// A system call whose caller waits for an answer (`seccomp_unotify(2)`).
///
/// The caller may be killed at any moment, and its numbers be another's then; each method that reads something of it asks
/// the kernel afterwards whether the caller still waits, and fails with
/// [`Died`](crate::ErrorKind::Died) where it does not. Its memory is its own: other threads of it may change what a pointer
/// leads to at any time. So what was decided about has to be a copy, read once.
pub struct Call<'a> {
    pub(super) listener: BorrowedFd<'a>,
    pub(super) call: Notification,
    pub(super) hands: &'a mut Lazy,
    pub(super) last: &'a Last,
    pub(super) answered: bool,
    /// How many calls of its container are to be answered later.
    pub(super) unfinished: usize,
    pub(super) later: Option<Later>,
}

/// What becomes of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Response {
    /// The kernel runs it, as the caller. **No protection**: the caller may have changed what its pointers lead to since it
    /// was looked at. Only where the kernel's own checks are what keeps it from harm.
    Continue,
    /// It is not run, and returns this.
    Value(i64),
    /// It is not run, and fails with this errno: 1 to 4095, others become `EIO`.
    Errno(u16),
    /// It was answered already, by [`Call::answer_with_fd`].
    Answered,
}

impl Response {
    pub(crate) fn errno(errno: Errno) -> Self {
        Self::Errno(u16::try_from(errno.raw_os_error()).unwrap_or(libc::EIO as u16))
    }
}

/// Who answers calls. Called by threads of the [`Supervisor`](super::Supervisor); of one container one call at a time.
///
/// It should not take long: other calls of the same container wait. A panic is caught, and the call fails with `ENOSYS`.
///
/// ```
/// use stockade::seccomp::{Call, Responder, Response};
///
/// #[derive(Debug)]
/// struct NoKeys;
///
/// impl Responder for NoKeys {
///     fn respond(&self, call: &mut Call<'_>) -> Response {
///         match call.name() {
///             Some("keyctl" | "add_key" | "request_key") => Response::Errno(libc::EPERM as u16),
///             _ => Response::Continue,
///         }
///     }
/// }
/// # mod libc { pub const EPERM: i32 = 1; }
/// ```
pub trait Responder: Send + Sync + fmt::Debug {
    /// Decides about a call.
    fn respond(&self, call: &mut Call<'_>) -> Response;
}

impl<'a> Call<'a> {
    /// Names it among those of one listener.
    pub fn id(&self) -> u64 {
        self.call.id
    }

    /// The call as a filter sees it.
    pub fn data(&self) -> SyscallData {
        let Notification { nr, arch, args, .. } = self.call;
        SyscallData { nr, arch, instruction_pointer: 0, args }
    }

    /// The ABI that it came through; `None` for one without a table.
    pub fn arch(&self) -> Option<Arch> {
        Arch::of_call(self.call.arch, self.call.nr)
    }

    /// The name of the call; `None` where the tables do not know it.
    pub fn name(&self) -> Option<&'static str> {
        Syscall::name_of(self.call.nr, self.arch()?)
    }

    /// Its arguments: whole registers, of which many calls use the lower half alone.
    pub fn args(&self) -> [u64; 6] {
        self.call.args
    }

    /// The thread that makes it, as this process numbers it; `None` where it is in no pid namespace below this process's.
    pub fn thread(&self) -> Option<u32> {
        (self.call.pid != 0).then_some(self.call.pid)
    }

    /// Whether the caller still waits.
    pub fn is_waiting(&self) -> bool {
        sys::is_waiting(self.listener, self.call.id)
    }

    /// Reads of the caller's memory at `address`; how much could be read, at least 1 byte of a buffer that is not empty.
    ///
    /// # Errors
    /// [`Kernel`](crate::ErrorKind::Kernel) with `EFAULT` where nothing is there;
    /// [`Died`](crate::ErrorKind::Died).
    pub fn read(&self, address: u64, into: &mut [u8]) -> Result<usize> {
        self.peek(address, into).map_err(|e| self.error("read the caller's memory", e))
    }

    /// Reads a string of at most `limit` bytes; without its final NUL.
    ///
    /// # Errors
    /// As [`read`](Self::read); [`Kernel`](crate::ErrorKind::Kernel) with `ENAMETOOLONG` where it is longer.
    pub fn read_text(&self, address: u64, limit: usize) -> Result<Vec<u8>> {
        self.text(address, limit).map_err(|e| self.error("read a string of the caller's", e))
    }

    /// Writes into the caller's memory.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn write(&self, address: u64, bytes: &[u8]) -> Result<()> {
        self.poke(address, bytes).map_err(|e| self.error("write the caller's memory", e))
    }

    /// Who makes it.
    ///
    /// # Errors
    /// [`Died`](crate::ErrorKind::Died).
    pub fn caller(&self) -> Result<Caller> {
        self.who().map_err(|e| self.error("look at the caller", e))
    }

    /// Gives the caller a copy of `fd`, close-on-exec. Its number there.
    ///
    /// # Errors
    /// [`Died`](crate::ErrorKind::Died); [`Exhausted`](crate::ErrorKind::Exhausted) where the caller may have no more.
    pub fn add_fd(&self, fd: BorrowedFd<'_>) -> Result<i32> {
        sys::add_fd(self.listener, self.call.id, fd, 0, true)
            .map_err(|e| self.error("hand the caller a descriptor", e))
    }

    /// Gives the caller a copy of `fd`, close-on-exec, and answers with its number in the same step: a caller that is
    /// killed in between is not left with it.
    ///
    /// # Errors
    /// As [`add_fd`](Self::add_fd).
    pub fn answer_with_fd(&mut self, fd: BorrowedFd<'_>) -> Result<Response> {
        sys::add_fd(self.listener, self.call.id, fd, sys::ADDFD_SEND, true)
            .map_err(|e| self.error("hand the caller a descriptor", e))?;
        self.answered = true;
        Ok(Response::Answered)
    }

    fn error(&self, step: &'static str, errno: Errno) -> Error {
        let e = Error::sys(step, errno);
        if matches!(errno, Errno::NOENT | Errno::SRCH) {
            return e.with_kind(ErrorKind::Died).detail("the caller has gone");
        }
        e
    }

    /// Whether what was read before was the caller's.
    fn still<T>(&self, read: T) -> Result<T, Errno> {
        if self.is_waiting() { Ok(read) } else { Err(Errno::SRCH) }
    }

    fn tid(&self) -> Result<i32, Errno> {
        match i32::try_from(self.call.pid) {
            Ok(tid) if tid > 0 => Ok(tid),
            _ => Err(Errno::SRCH),
        }
    }

    pub(crate) fn peek(&self, address: u64, into: &mut [u8]) -> Result<usize, Errno> {
        let got = memory::read(self.tid()?, address, into);
        self.still(got)?
    }

    /// As many bytes as `into` has.
    pub(crate) fn peek_exact(&self, address: u64, into: &mut [u8]) -> Result<(), Errno> {
        if self.peek(address, into)? == into.len() { Ok(()) } else { Err(Errno::FAULT) }
    }

    pub(crate) fn text(&self, address: u64, limit: usize) -> Result<Vec<u8>, Errno> {
        /// No page is smaller: what is read at once is there as a whole, or not at all.
        const PAGE: u64 = 4096;
        let mut text = Vec::new();
        while text.len() <= limit {
            let at = address.checked_add(text.len() as u64).ok_or(Errno::FAULT)?;
            let room = PAGE - at % PAGE;
            let mut chunk = [0; PAGE as usize];
            // Most are short. The first read is, too.
            let want = if text.is_empty() { room.min(256) } else { room };
            let got = self.peek(at, &mut chunk[..want as usize])?;
            let chunk = &chunk[..got];
            if let Some(end) = chunk.iter().position(|b| *b == 0) {
                text.extend_from_slice(&chunk[..end]);
                return if text.len() <= limit { Ok(text) } else { Err(Errno::NAMETOOLONG) };
            }
            if chunk.is_empty() {
                return Err(Errno::FAULT);
            }
            text.extend_from_slice(chunk);
        }
        Err(Errno::NAMETOOLONG)
    }

    pub(crate) fn poke(&self, address: u64, bytes: &[u8]) -> Result<(), Errno> {
        // The file stays that of one process's memory, whoever gets its number: so it is asked in between.
        let memory = std::fs::File::options().write(true).open(format!("/proc/{}/mem", self.tid()?));
        let memory = memory.map_err(|e| Errno::from_io_error(&e).unwrap_or(Errno::IO));
        self.still(memory)??.write_all_at(bytes, address).map_err(|_| Errno::FAULT)
    }

    pub(crate) fn who(&self) -> Result<Caller, Errno> {
        let caller = Caller::read_again(self.tid()?.cast_unsigned(), self.last);
        self.still(caller)?
    }

    /// The listener, and what tells it that the call has succeeded: for a helper, so that the caller goes on before the helper
    /// has put itself back and this thread has heard of it.
    pub(crate) fn success(&self) -> (BorrowedFd<'a>, [u8; 24]) {
        (self.listener, Answer { id: self.call.id, ..Answer::default() }.bytes())
    }

    /// Says that a helper has given the answer.
    pub(crate) fn was_answered(&mut self) -> Response {
        self.answered = true;
        Response::Answered
    }

    pub(crate) fn hands(&mut self) -> &mut Lazy {
        self.hands
    }

    /// How many calls of its container are to be answered later.
    pub(crate) fn unfinished(&self) -> usize {
        self.unfinished
    }

    /// Has it answered when `later` says how. Other calls of the container go on meanwhile.
    pub(crate) fn answer_later(&mut self, later: Later) -> Response {
        self.answered = true;
        self.later = Some(later);
        Response::Answered
    }
}

/// What goes back to the kernel.
pub(super) fn encode(id: u64, response: Response) -> Answer {
    match response {
        Response::Continue => Answer { id, flags: sys::CONTINUE, ..Answer::default() },
        Response::Value(value) => Answer { id, value, ..Answer::default() },
        Response::Errno(errno @ 1..=4095) => Answer { id, error: -i32::from(errno), ..Answer::default() },
        Response::Errno(_) | Response::Answered => Answer { id, error: -libc::EIO, ..Answer::default() },
    }
}

impl fmt::Debug for Call<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Call")
            .field("name", &self.name())
            .field("thread", &self.call.pid)
            .field("args", &self.call.args)
            .finish_non_exhaustive()
    }
}
