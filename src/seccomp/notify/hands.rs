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
    identity: Option<Identity>,
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
            identity: None,
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

    /// Has the helper be this before the first step, and stay it. Otherwise it is itself.
    pub(crate) fn act_as(&mut self, identity: Identity) {
        self.identity = Some(identity);
    }

    pub(crate) fn identity(&self) -> Option<&Identity> {
        self.identity.as_ref()
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

    /// Adds the change of capabilities: what may be used, and what is.
    pub(crate) fn capset(&mut self, permitted: u64, effective: u64, rule: Rule) {
        let words = |all: &[u32]| all.iter().flat_map(|w| w.to_ne_bytes()).collect::<Vec<u8>>();
        // The structures of `capset(2)`, version 3.
        let header = self.bytes(&words(&[0x2008_0522, 0]));
        let data = [0, 32].map(|shift| [(effective >> shift) as u32, (permitted >> shift) as u32, 0]);
        let data = self.bytes(&words(data.as_flattened()));
        self.step(libc::SYS_capset, &[header, data], rule);
    }
}

/// What a helper is where it is not itself: what counts for files, and the capabilities that it uses. It may use all of its
/// own again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) fsuid: u32,
    pub(crate) fsgid: u32,
    pub(crate) groups: Vec<u32>,
    pub(crate) effective: u64,
}

impl Identity {
    /// A helper's own.
    pub(crate) fn own(permitted: u64) -> Self {
        Self { fsuid: 0, fsgid: 0, groups: Vec::new(), effective: permitted }
    }

    /// What makes a helper that is `self` into `to`.
    pub(crate) fn change_to(&self, to: &Self, permitted: u64) -> Batch {
        let mut batch = Batch::new(0);
        if self == to {
            return batch;
        }
        if self.effective != permitted {
            batch.capset(permitted, permitted, Rule::Next);
        }
        if self.groups != to.groups {
            let groups: Vec<u8> = to.groups.iter().flat_map(|g| g.to_ne_bytes()).collect();
            let at = batch.bytes(&groups);
            batch.call(libc::SYS_setgroups, &[Arg::Number(to.groups.len() as u64), at]);
        }
        if self.fsgid != to.fsgid {
            batch.call(libc::SYS_setfsgid, &[to.fsgid.into()]);
        }
        if self.fsuid != to.fsuid {
            batch.call(libc::SYS_setfsuid, &[to.fsuid.into()]);
        }
        // A change of the user takes capabilities away, or gives some.
        batch.capset(permitted, to.effective, Rule::Next);
        // These two do not say when they fail: the one that there is comes back.
        batch.call(libc::SYS_setfsgid, &[Arg::from(-1)]);
        batch.call(libc::SYS_setfsuid, &[Arg::from(-1)]);
        batch
    }

    /// Whether a helper that has done [`change_to`](Self::change_to) this is it.
    pub(crate) fn was_reached(&self, results: &[Option<Result<u64, Errno>>]) -> bool {
        let all = results.iter().all(|result| matches!(result, Some(Ok(_))));
        let ids = |at: usize| results.len().checked_sub(at).and_then(|n| results.get(n).copied().flatten());
        all && (results.is_empty()
            || ids(2) == Some(Ok(self.fsgid.into())) && ids(1) == Some(Ok(self.fsuid.into())))
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

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: u64 = 0x1ff_ffff_ffff;

    fn caller() -> Identity {
        Identity { fsuid: 1_000_007, fsgid: 1_000_008, groups: vec![1_000_004], effective: 1 << 27 }
    }

    fn calls(from: &Identity, to: &Identity) -> Vec<libc::c_long> {
        from.change_to(to, ALL).steps().iter().map(|step| step.nr.into()).collect()
    }

    #[test]
    fn only_what_differs_is_changed_and_the_capabilities_last() {
        use libc::{SYS_capset as caps, SYS_setfsgid as gid, SYS_setfsuid as uid, SYS_setgroups as groups};
        let (own, caller) = (Identity::own(ALL), caller());
        let other = Identity { fsuid: 1_000_000, ..caller.clone() };
        assert!(calls(&caller, &caller).is_empty());
        assert_eq!(calls(&own, &caller), [groups, gid, uid, caps, gid, uid]);
        assert_eq!(calls(&caller, &own), [caps, groups, gid, uid, caps, gid, uid]);
        assert_eq!(calls(&caller, &other), [caps, uid, caps, gid, uid]);
        let fewer = Identity { groups: Vec::new(), ..caller.clone() };
        assert_eq!(calls(&caller, &fewer), [caps, groups, caps, gid, uid]);
        let weaker = Identity { effective: 0, ..caller.clone() };
        assert_eq!(calls(&caller, &weaker), [caps, caps, gid, uid]);
        // Each step ends the list where it fails.
        assert!(own.change_to(&caller, ALL).steps().iter().all(|step| step.rule == Rule::Next));
    }

    #[test]
    fn a_change_counts_when_the_ids_come_back() {
        let caller = caller();
        let ok = |n| Some(Ok(n));
        assert!(caller.was_reached(&[]));
        assert!(caller.was_reached(&[ok(0), ok(0), ok(1_000_008), ok(1_000_007)]));
        // The user has stayed, a step has failed, one was left out, some are missing.
        assert!(!caller.was_reached(&[ok(0), ok(0), ok(1_000_008), ok(0)]));
        assert!(!caller.was_reached(&[Some(Err(Errno::PERM)), ok(0), ok(1_000_008), ok(1_000_007)]));
        assert!(!caller.was_reached(&[ok(0), None, ok(1_000_008), ok(1_000_007)]));
        assert!(!caller.was_reached(&[ok(1_000_007)]));
    }
}
