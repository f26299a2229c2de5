//! Work that no thread of this process may do, because it would change the process: with another root, as the owner of
//! new files, in another mount namespace. A helper process does it; here is what it is told.

use std::fmt;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use rustix::io::Errno;

use crate::error::Result;

/// A descriptor of the helper's root directory, which is empty and its own.
pub(crate) const HOME: Arg = Arg::Slot(0);
/// The first slot of the descriptors that come with a batch.
pub(crate) const FIRST: u8 = 1;

/// In place of a system call: see [`Batch::point`].
const POINT: libc::c_long = u32::MAX as libc::c_long;

/// An argument of a system call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Arg {
    Number(u64),
    /// The address of what lies at this place of the batch's data.
    Data(usize),
    /// A descriptor that came with the batch, or that a step made.
    Slot(u8),
}

impl From<u32> for Arg {
    fn from(n: u32) -> Self {
        Self::Number(n.into())
    }
}

impl From<i32> for Arg {
    fn from(n: i32) -> Self {
        // With its sign, as the kernel takes an int.
        Self::Number(i64::from(n).cast_unsigned())
    }
}

impl From<u64> for Arg {
    fn from(n: u64) -> Self {
        Self::Number(n)
    }
}

/// One system call.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Step {
    pub(crate) nr: u32,
    pub(crate) args: [Arg; 6],
    pub(crate) rule: Rule,
    /// The slot for its result.
    pub(crate) out: Option<u8>,
}

/// When a step is done, and what its failure means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rule {
    /// Unless one before it failed; its failure ends the batch.
    Next,
    /// As `Next`, but the batch goes on.
    MayFail,
    /// Whatever happened before: it puts something back.
    Always,
}

/// System calls to be done one after the other.
#[derive(Debug)]
pub(crate) struct Batch {
    steps: Vec<Step>,
    data: Vec<u8>,
    /// Where in the data the part lies that comes back.
    out: (usize, usize),
    send: Option<u8>,
    slots: u8,
}

impl Batch {
    /// An empty one, with which `fds` descriptors come.
    pub(crate) fn new(fds: u8) -> Self {
        Self {
            steps: Vec::with_capacity(24),
            data: Vec::with_capacity(512),
            out: (0, 0),
            send: None,
            slots: FIRST + fds,
        }
    }

    pub(crate) fn steps(&self) -> &[Step] {
        &self.steps
    }

    pub(crate) fn data(&self) -> &[u8] {
        &self.data
    }

    /// Offset and length of what comes back.
    pub(crate) fn out_area(&self) -> (usize, usize) {
        self.out
    }

    pub(crate) fn sends(&self) -> Option<u8> {
        self.send
    }

    /// Puts bytes into the data, aligned.
    pub(crate) fn bytes(&mut self, bytes: &[u8]) -> Arg {
        self.data.resize(self.data.len().next_multiple_of(8), 0);
        let at = self.data.len();
        self.data.extend_from_slice(bytes);
        Arg::Data(at)
    }

    /// Puts a string into the data, with its final NUL.
    pub(crate) fn text(&mut self, text: &[u8]) -> Arg {
        let at = self.bytes(text);
        self.data.push(0);
        at
    }

    /// Room for what a call writes, which comes back with the answer. Once for a batch.
    pub(crate) fn room(&mut self, len: usize) -> Arg {
        let at = self.bytes(&vec![0; len]);
        self.out = (self.data.len() - len, len);
        at
    }

    /// Adds a call. Its number.
    pub(crate) fn call(&mut self, nr: libc::c_long, args: &[Arg]) -> usize {
        self.step(nr, args, Rule::Next)
    }

    /// Adds a call that may fail.
    pub(crate) fn attempt(&mut self, nr: libc::c_long, args: &[Arg]) -> usize {
        self.step(nr, args, Rule::MayFail)
    }

    /// Adds a call that puts something back.
    pub(crate) fn undo(&mut self, nr: libc::c_long, args: &[Arg]) -> usize {
        self.step(nr, args, Rule::Always)
    }

    /// Has the word at `at` of the data be the address of `to`.
    pub(crate) fn point(&mut self, at: Arg, to: Arg) {
        self.step(POINT, &[at, to], Rule::Next);
    }

    /// Adds a call whose result is a descriptor.
    pub(crate) fn open(&mut self, nr: libc::c_long, args: &[Arg]) -> (usize, Arg) {
        let at = self.step(nr, args, Rule::Next);
        let slot = self.slots;
        self.slots = self.slots.saturating_add(1);
        self.steps[at].out = Some(slot);
        (at, Arg::Slot(slot))
    }

    /// Has this descriptor come back with the answer.
    pub(crate) fn send_back(&mut self, fd: Arg) {
        if let Arg::Slot(slot) = fd {
            self.send = Some(slot);
        }
    }

    fn step(&mut self, nr: libc::c_long, args: &[Arg], rule: Rule) -> usize {
        let mut all = [Arg::Number(0); 6];
        for (to, from) in all.iter_mut().zip(args) {
            *to = *from;
        }
        // System call numbers are small and positive.
        self.steps.push(Step { nr: nr as u32, args: all, rule, out: None });
        self.steps.len() - 1
    }
}

/// What came of a batch.
#[derive(Debug)]
pub(crate) struct Done {
    /// For each step; `None` where it was not done.
    pub(crate) results: Vec<Option<Result<u64, Errno>>>,
    pub(crate) out: Vec<u8>,
    pub(crate) fd: Option<OwnedFd>,
}

impl Done {
    /// The first failure up to step `last`, or its result.
    pub(crate) fn up_to(&self, last: usize) -> Result<u64, Errno> {
        let steps = self.results.iter().take(last + 1);
        let mut result = Err(Errno::IO);
        for step in steps {
            match step {
                Some(Err(errno)) => return Err(*errno),
                Some(Ok(n)) => result = Ok(*n),
                None => return Err(Errno::IO),
            }
        }
        result
    }

    /// The result of a step that may fail.
    pub(crate) fn step(&self, n: usize) -> Option<Result<u64, Errno>> {
        self.results.get(n).copied().flatten()
    }
}

/// A helper process.
pub(crate) trait Hands: Send + fmt::Debug {
    /// Has it do a batch, within this time. After a failure it is of no more use.
    fn run(&mut self, batch: &Batch, fds: &[BorrowedFd<'_>], within: Duration) -> Result<Done, Errno>;

    /// Its mount namespace.
    fn mounts(&self) -> BorrowedFd<'_>;

    /// The capabilities that it has.
    fn permitted(&self) -> u64;
}

/// Makes helpers.
pub(crate) type HandsMaker = Arc<dyn Fn() -> Result<Box<dyn Hands>> + Send + Sync>;

/// A thread's helper, made when it is first needed and anew when it has failed.
pub(crate) struct Lazy {
    maker: Option<HandsMaker>,
    made: Option<Box<dyn Hands>>,
}

impl fmt::Debug for Lazy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lazy").field("made", &self.made).finish_non_exhaustive()
    }
}

impl Lazy {
    pub(crate) fn new(maker: Option<HandsMaker>) -> Self {
        Self { maker, made: None }
    }

    /// Runs `f` with the helper.
    pub(crate) fn with<T>(&mut self, f: impl FnOnce(&mut dyn Hands) -> Result<T, Errno>) -> Result<T, Errno> {
        if self.made.is_none() {
            let maker = self.maker.as_ref().ok_or(Errno::NOSYS)?;
            self.made = Some(maker().map_err(|e| Errno::from_raw_os_error(e.errno().unwrap_or(libc::EIO)))?);
        }
        let Some(hands) = self.made.as_deref_mut() else { return Err(Errno::IO) };
        f(hands)
    }

    /// Gives the helper up.
    pub(crate) fn discard(&mut self) {
        self.made = None;
    }
}
