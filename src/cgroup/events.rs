//! What happens to a cgroup, as one descriptor to poll and typed events.
//!
//! The kernel reports a change of `cgroup.events`, `memory.events` and `pids.events` to whoever polls the open file
//! (`POLLPRI`) or watches it by inotify. Polling is taken: it costs no watch, of which a user has few, it says that the
//! file has changed since it was last *read*, so nothing is lost between reading and waiting, and no queue can overflow.
//! The files stand in one epoll set, whose descriptor is simply readable.

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use rustix::event::{PollFlags, epoll};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::group::Cgroup;
use super::poll::{over, poll};
use super::stats::{CgroupEvents, MemoryEvents, PidsEvents};
use super::v1::EventsV1;
use crate::error::{Error, ErrorKind, Result};
use crate::sys::raw::retry;

/// How often a wait looks whether an empty cgroup was removed, which the kernel does not report.
const LOOK: Duration = Duration::from_millis(100);

/// Something that happened in a cgroup or a descendant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Event {
    /// The first process came into it.
    Populated,
    /// The last process left it.
    Empty,
    /// All its processes are frozen now.
    Frozen,
    /// They are no more.
    Thawed,
    /// A memory limit acted (`memory.events`).
    #[non_exhaustive]
    Memory {
        /// What it did.
        event: MemoryEvent,
        /// How many times since the last report.
        times: u64,
    },
    /// Forks failed at a limit of processes (`pids.events`).
    #[non_exhaustive]
    PidsMax {
        /// How many since the last report.
        times: u64,
    },
    /// The cgroup was removed. Nothing comes after it.
    Removed,
}

/// What a memory limit did: the keys of [`MemoryEvents`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum MemoryEvent {
    /// Memory was reclaimed though usage was below `memory.low`.
    Low,
    /// Processes were slowed because usage was above `memory.high`.
    High,
    /// Usage was about to exceed `memory.max`.
    Max,
    /// An allocation was about to fail at the limit.
    Oom,
    /// An OOM killer ended a process.
    OomKill,
    /// An OOM killer ended a whole cgroup.
    OomGroupKill,
    /// Network sockets were throttled (Linux 6.18).
    SockThrottled,
}

/// The events of a cgroup and its descendants, from the time that this was opened.
///
/// The descriptor ([`AsFd`]) is an epoll set that is **readable** (`POLLIN`) once there may be something:
/// [`try_next`](Self::try_next) says what, and is to be called until it gives `None`. It holds five descriptors at most,
/// all close-on-exec. There is no thread.
///
/// Counts are never lost: what happens often comes as one event with how many times. A state that comes and goes between
/// two looks is not seen. The kernel reports changes of one file at most every 10 ms, so an event may be late by that. It
/// does not report the removal of a cgroup: who polls the descriptor ends at [`Event::Empty`]; [`next`](Self::next)
/// looks for itself. Of what v1 counts (feature `cgroup1`) it reports nothing but that memory has run out: the rest is
/// seen by the next [`try_next`](Self::try_next), and [`next`](Self::next) looks ten times a second.
///
/// ```no_run
/// use stockade::cgroup::{Event, Hierarchy, MemoryEvent};
///
/// let web = Hierarchy::detect()?.own().open_child("web")?;
/// let mut events = web.events()?;
/// loop {
///     match events.next(None)? {
///         Event::Memory { event: MemoryEvent::OomKill, times, .. } => println!("{times} killed"),
///         Event::Empty | Event::Removed => break,
///         other => println!("{other:?}"),
///     }
/// }
/// # Ok::<(), stockade::Error>(())
/// ```
#[derive(Debug)]
pub struct Events {
    set: OwnedFd,
    path: PathBuf,
    /// `None` once the cgroup is removed.
    state: Option<File<CgroupEvents>>,
    memory: Option<File<MemoryEvents>>,
    pids: Option<File<PidsEvents>>,
    v1: EventsV1,
    queue: VecDeque<Event>,
}

#[derive(Debug)]
struct File<T> {
    fd: OwnedFd,
    last: T,
}

impl<T: Default> File<T> {
    /// What it says now; `None` where the kernel has removed it.
    fn read(&self, parse: fn(&mut T, &[u8])) -> Result<Option<T>, Errno> {
        let mut buffer = [0_u8; 1024];
        match retry(|| rustix::io::pread(&self.fd, &mut buffer, 0)) {
            Ok(n) => {
                let mut now = T::default();
                parse(&mut now, &buffer[..n]);
                Ok(Some(now))
            }
            Err(Errno::NODEV) => Ok(None),
            Err(e) => Err(e),
        }
    }
}

impl Cgroup {
    /// Watches the cgroup for events. Those of memory and processes need their controllers and are left out without.
    ///
    /// # Errors
    /// [`NotFound`](ErrorKind::NotFound): the cgroup was removed. [`Unsupported`](ErrorKind::Unsupported): it is the
    /// host's root cgroup, which has none.
    pub fn events(&self) -> Result<Events> {
        let failed = |e| Error::sys("watch the events of cgroup", e).path(self.path());
        let set = epoll::create(epoll::CreateFlags::CLOEXEC).map_err(failed)?;
        let state = self.watch()?.into();
        let mut events = Events {
            state: Some(File { fd: add(&set, state).map_err(failed)?, last: CgroupEvents::default() }),
            memory: self.file(&set, "memory.events")?,
            pids: self.file(&set, "pids.events")?,
            v1: EventsV1::of(self, &set)?,
            set,
            path: self.path().to_owned(),
            queue: VecDeque::new(),
        };
        // What happened before is no event.
        events.look()?;
        events.queue.retain(|e| *e == Event::Removed);
        Ok(events)
    }

    fn file<T: Default>(&self, set: &OwnedFd, name: &str) -> Result<Option<File<T>>> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let opened = retry(|| rustix::fs::openat(self, name, flags, Mode::empty()));
        match opened.and_then(|fd| add(set, fd)) {
            Ok(fd) => Ok(Some(File { fd, last: T::default() })),
            Err(Errno::NOENT) => Ok(None),
            Err(e) => Err(self.error("open".to_owned(), name, e)),
        }
    }
}

fn add(set: &OwnedFd, fd: OwnedFd) -> Result<OwnedFd, Errno> {
    epoll::add(set, &fd, epoll::EventData::new_u64(0), epoll::EventFlags::PRI)?;
    Ok(fd)
}

impl Events {
    /// The next event, if there is one already. It looks at the files themselves, so it may know before the descriptor
    /// does.
    ///
    /// # Errors
    /// [`NotFound`](ErrorKind::NotFound) after [`Event::Removed`].
    pub fn try_next(&mut self) -> Result<Option<Event>> {
        if self.queue.is_empty() {
            if self.state.is_none() {
                return Err(Error::new(ErrorKind::NotFound, "watch the events of cgroup")
                    .path(&self.path)
                    .detail("the cgroup was removed"));
            }
            self.look()?;
        }
        Ok(self.queue.pop_front())
    }

    /// The next event, waiting for it. `None` waits for ever.
    ///
    /// # Errors
    /// [`Timeout`](ErrorKind::Timeout): none came before the deadline. [`NotFound`](ErrorKind::NotFound) after
    /// [`Event::Removed`].
    pub fn next(&mut self, deadline: Option<Instant>) -> Result<Event> {
        loop {
            if let Some(event) = self.try_next()? {
                return Ok(event);
            }
            if over(deadline) {
                return Err(Error::new(ErrorKind::Timeout, "wait for an event of cgroup").path(&self.path));
            }
            let populated = self.state.as_ref().is_some_and(|s| s.last.populated);
            let slice = (!populated || self.v1.must_look()).then_some(LOOK);
            poll(&self.set, PollFlags::IN, deadline, slice)
                .map_err(|e| Error::sys("wait for an event of cgroup", e).path(&self.path))?;
        }
    }

    /// Reads the files, and queues what is new.
    fn look(&mut self) -> Result<()> {
        let failed = |e| Error::sys("read the events of cgroup", e).path(&self.path);
        let Some(state) = &mut self.state else { return Ok(()) };
        let now = state.read(CgroupEvents::parse).map_err(failed)?;
        let old = std::mem::replace(&mut state.last, now.clone().unwrap_or_default());
        let is = state.last.clone();
        let mut push = |happened: bool, event| {
            if happened {
                self.queue.push_back(event);
            }
        };
        push(!old.populated && is.populated, Event::Populated);
        if let Some(file) = &mut self.memory {
            match file.read(MemoryEvents::parse).map_err(failed)? {
                Some(now) => {
                    let old = std::mem::replace(&mut file.last, now);
                    memory(&old, &file.last, |event| push(true, event));
                }
                None => self.memory = None,
            }
        }
        if let Some(file) = &mut self.pids {
            match file.read(PidsEvents::parse).map_err(failed)? {
                Some(now) => {
                    let times = now.max.saturating_sub(file.last.max);
                    file.last = now;
                    push(times > 0, Event::PidsMax { times });
                }
                None => self.pids = None,
            }
        }
        self.v1.look(|event| push(true, event))?;
        push(!old.frozen && is.frozen, Event::Frozen);
        push(old.frozen && !is.frozen, Event::Thawed);
        push(old.populated && !is.populated, Event::Empty);
        if now.is_none() {
            push(true, Event::Removed);
            // Closed, they leave the set: it would be readable for ever.
            (self.state, self.memory, self.pids) = (None, None, None);
            self.v1.forget();
        }
        Ok(())
    }
}

/// The differences of two readings, in the order of the file.
pub(super) fn memory(old: &MemoryEvents, new: &MemoryEvents, mut push: impl FnMut(Event)) {
    let sock = |e: &MemoryEvents| e.sock_throttled.unwrap_or(0);
    for (event, old, new) in [
        (MemoryEvent::Low, old.low, new.low),
        (MemoryEvent::High, old.high, new.high),
        (MemoryEvent::Max, old.max, new.max),
        (MemoryEvent::Oom, old.oom, new.oom),
        (MemoryEvent::OomKill, old.oom_kill, new.oom_kill),
        (MemoryEvent::OomGroupKill, old.oom_group_kill, new.oom_group_kill),
        (MemoryEvent::SockThrottled, sock(old), sock(new)),
    ] {
        let times = new.saturating_sub(old);
        if times > 0 {
            push(Event::Memory { event, times });
        }
    }
}

impl AsFd for Events {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.set.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_are_counted_and_a_count_that_fell_is_none() {
        let parse = |text: &str| {
            let mut e = MemoryEvents::default();
            e.parse(text.as_bytes());
            e
        };
        let old = parse("low 1\nhigh 2\nmax 3\noom 4\noom_kill 5\noom_group_kill 6\n");
        let new = parse("low 0\nhigh 2\nmax 13\noom 5\noom_kill 7\noom_group_kill 7\nsock_throttled 2\n");
        let mut got = Vec::new();
        memory(&old, &new, |e| got.push(e));
        let event = |event, times| Event::Memory { event, times };
        assert_eq!(
            got,
            [
                event(MemoryEvent::Max, 10),
                event(MemoryEvent::Oom, 1),
                event(MemoryEvent::OomKill, 2),
                event(MemoryEvent::OomGroupKill, 1),
                event(MemoryEvent::SockThrottled, 2),
            ]
        );
    }
}
