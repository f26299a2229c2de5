//! Freezing, thawing, and waiting for a cgroup to become empty.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::file::flat_value;
use super::group::Cgroup;
use crate::error::{Error, ErrorKind, Result};
use crate::sys::raw::retry;

/// After how long a wait looks at the state again without a report from the kernel, the first time; twice as
/// long each time after that.
const FIRST_LOOK: Duration = Duration::from_micros(50);
/// From here on the kernel's report alone is waited for.
const LAST_LOOK: Duration = Duration::from_millis(20);

/// What `cgroup.events` says of a cgroup and its descendants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct State {
    /// There is a process in it.
    pub populated: bool,
    /// Every process in it is frozen.
    pub frozen: bool,
}

/// The state of a cgroup to poll for changes: its open `cgroup.events`.
///
/// The descriptor ([`AsFd`]) reports `POLLPRI` (`poll(2)`; `EPOLLPRI`, `Interest::PRIORITY`) when the state has
/// changed since the last [`read`](Self::read). The kernel may hold a report back for 10 ms after the one before.
#[derive(Debug)]
pub struct Watch {
    events: OwnedFd,
}

impl Watch {
    /// The state now. Once the cgroup is removed it is empty and not frozen.
    ///
    /// # Errors
    /// What the kernel says is passed on.
    pub fn read(&self) -> Result<State> {
        self.state().map_err(|e| Error::sys("read cgroup.events", e))
    }

    fn state(&self) -> Result<State, Errno> {
        let mut buf = [0_u8; 256];
        let n = match retry(|| rustix::io::pread(&self.events, &mut buf, 0)) {
            Err(Errno::NODEV) => 0,
            done => done?,
        };
        let text = String::from_utf8_lossy(&buf[..n]);
        let on = |key| flat_value(&text, key) == Some(1);
        Ok(State { populated: on("populated"), frozen: on("frozen") })
    }

    /// Waits until `wanted` holds of the state; says whether it does, or the deadline came first, or `stop` became
    /// readable.
    ///
    /// A change that comes within 10 ms of the one before is reported late (16 ms, measured, for a freeze just
    /// after the start), so the first few waits are cut short and the state is read again.
    fn wait(
        &self,
        wanted: impl Fn(State) -> bool,
        deadline: Option<Instant>,
        stop: Option<BorrowedFd<'_>>,
    ) -> Result<Waited, Errno> {
        let mut slice = FIRST_LOOK;
        loop {
            if wanted(self.state()?) {
                return Ok(Waited::Holds);
            }
            let left = deadline.map(|d| d.saturating_duration_since(Instant::now()));
            if left.is_some_and(|l| l.is_zero()) {
                return Ok(Waited::Late);
            }
            let wait = match slice < LAST_LOOK {
                true => Some(left.map_or(slice, |l| l.min(slice))),
                false => left,
            };
            slice = slice.saturating_mul(2);
            let wait = wait.map(|l| Timespec {
                tv_sec: i64::try_from(l.as_secs()).unwrap_or(i64::MAX),
                tv_nsec: i64::from(l.subsec_nanos()),
            });
            let events = PollFd::new(&self.events, PollFlags::PRI);
            let mut fds = match stop {
                Some(stop) => vec![events, PollFd::from_borrowed_fd(stop, PollFlags::IN)],
                None => vec![events],
            };
            match rustix::event::poll(&mut fds, wait.as_ref()) {
                Ok(_) if fds.get(1).is_some_and(|stop| !stop.revents().is_empty()) => {
                    return Ok(Waited::Stopped);
                }
                Ok(_) | Err(Errno::INTR) => {}
                Err(e) => return Err(e),
            }
        }
    }
}

/// How a wait for a state ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Waited {
    Holds,
    Late,
    Stopped,
}

impl From<Watch> for OwnedFd {
    fn from(watch: Watch) -> Self {
        watch.events
    }
}

impl AsFd for Watch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.events.as_fd()
    }
}

impl Cgroup {
    /// Opens the state for polling. One descriptor, closed on drop.
    ///
    /// # Errors
    /// [`NotFound`](ErrorKind::NotFound): the cgroup was removed. [`Unsupported`](ErrorKind::Unsupported): it is
    /// the host's root cgroup, which has no state.
    pub fn watch(&self) -> Result<Watch> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        match retry(|| rustix::fs::openat(self, "cgroup.events", flags, Mode::empty())) {
            Ok(events) => Ok(Watch { events }),
            Err(Errno::NOENT) if self.name().is_none() => Err(Error::sys("open cgroup.events", Errno::NOENT)
                .path(self.path())
                .with_kind(ErrorKind::Unsupported)
                .detail("the root cgroup has no state")),
            Err(e) => Err(self.error("open".to_owned(), "cgroup.events", e)),
        }
    }

    /// The state now.
    ///
    /// # Errors
    /// As [`watch`](Self::watch).
    pub fn state(&self) -> Result<State> {
        self.watch()?.read()
    }

    /// Whether a process is in the cgroup or a descendant.
    ///
    /// # Errors
    /// As [`watch`](Self::watch).
    pub fn populated(&self) -> Result<bool> {
        Ok(self.state()?.populated)
    }

    /// Stops every process in the cgroup and its descendants, and those that join later, and waits until all of
    /// them are stopped (`cgroup.freeze`). A frozen process can still be killed. `None` waits for ever.
    ///
    /// # Errors
    /// [`Timeout`](ErrorKind::Timeout): not all were stopped before the deadline, as with a process that is stuck
    /// in the kernel; they are all let go again. [`PermissionDenied`](ErrorKind::PermissionDenied): the file is
    /// not the caller's to write.
    pub fn freeze(&self, deadline: Option<Instant>) -> Result<()> {
        self.freeze_unless(deadline, None)
    }

    /// As [`freeze`](Self::freeze), but given up, with everything let go again, once `stop` is readable.
    pub(crate) fn freeze_unless(
        &self,
        deadline: Option<Instant>,
        stop: Option<BorrowedFd<'_>>,
    ) -> Result<()> {
        let watch = self.watch()?;
        self.write("cgroup.freeze", "1")?;
        let undo = |e: Error| match self.write("cgroup.freeze", "0") {
            Ok(()) => e,
            Err(left) => e.also(format!("the cgroup could not be thawed again: {left}")),
        };
        match watch.wait(|s| s.frozen, deadline, stop) {
            Ok(Waited::Holds) => Ok(()),
            Ok(Waited::Stopped) => Err(undo(self.cancelled("freeze"))),
            Ok(Waited::Late) => {
                Err(undo(self.timeout("freeze").detail("not all processes stopped in time").hint(
                    "look for one in state D: it waits in the kernel, for a disk or a network file system",
                )))
            }
            Err(e) => Err(undo(Error::sys("wait for the freeze of cgroup", e).path(self.path()))),
        }
    }

    /// Lets the processes go on that [`freeze`](Self::freeze) stopped, and waits until they do. `None` waits for
    /// ever.
    ///
    /// # Errors
    /// [`Timeout`](ErrorKind::Timeout): the cgroup is still frozen at the deadline, because an ancestor is; it
    /// goes on when that one is thawed. [`PermissionDenied`](ErrorKind::PermissionDenied): the file is not the
    /// caller's to write.
    pub fn thaw(&self, deadline: Option<Instant>) -> Result<()> {
        self.thaw_unless(deadline, None)
    }

    /// As [`thaw`](Self::thaw), but without waiting further once `stop` is readable.
    pub(crate) fn thaw_unless(&self, deadline: Option<Instant>, stop: Option<BorrowedFd<'_>>) -> Result<()> {
        let watch = self.watch()?;
        self.write("cgroup.freeze", "0")?;
        match watch.wait(|s| !s.frozen, deadline, stop) {
            Ok(Waited::Holds) => Ok(()),
            Ok(Waited::Stopped) => Err(self.cancelled("thaw")),
            Ok(Waited::Late) => Err(self
                .timeout("thaw")
                .detail("the cgroup is still frozen")
                .hint("an ancestor is frozen: write 0 to its cgroup.freeze")),
            Err(e) => Err(Error::sys("wait for the thaw of cgroup", e).path(self.path())),
        }
    }

    /// Waits until no process is left in the cgroup and its descendants. A process that has ended but is not
    /// waited for yet does not count. `None` waits for ever. A removed cgroup is empty.
    ///
    /// # Errors
    /// [`Timeout`](ErrorKind::Timeout): there is still one at the deadline.
    pub fn wait_empty(&self, deadline: Option<Instant>) -> Result<()> {
        let watch = match self.watch() {
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(()),
            watch => watch?,
        };
        match watch.wait(|s| !s.populated, deadline, None) {
            Ok(Waited::Holds) => Ok(()),
            Ok(Waited::Late | Waited::Stopped) => {
                Err(self.timeout("wait for the end of").detail(self.who_is_in()))
            }
            Err(e) => Err(Error::sys("wait for the end of cgroup", e).path(self.path())),
        }
    }

    pub(super) fn timeout(&self, what: &str) -> Error {
        Error::new(ErrorKind::Timeout, format!("{what} cgroup")).path(self.path())
    }

    fn cancelled(&self, what: &str) -> Error {
        Error::new(ErrorKind::Cancelled, format!("{what} cgroup")).path(self.path())
    }

    /// The processes that keep the cgroup busy, in words.
    /// Some of the processes in it, for a message: number and name.
    pub(crate) fn some_procs(&self) -> String {
        let pids = self.procs().unwrap_or_default();
        let name = |pid: &u32| {
            let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
            format!("{pid} {}", name.trim()).trim_end().to_owned()
        };
        let some: Vec<String> = pids.iter().take(5).map(name).collect();
        let more = if pids.len() > 5 { format!(" and {} more", pids.len() - 5) } else { String::new() };
        if some.is_empty() { "none now".to_owned() } else { format!("{}{more}", some.join(", ")) }
    }

    pub(super) fn who_is_in(&self) -> String {
        match self.procs().unwrap_or_default().as_slice() {
            [] => "the deadline passed; processes are still in its child cgroups".to_owned(),
            pids => {
                let some: Vec<String> = pids.iter().take(5).map(u32::to_string).collect();
                format!("the deadline passed; {} still in it, such as pid {}", pids.len(), some.join(", "))
            }
        }
    }
}
