//! Being told when waiting for a resource takes too much of the time (`Documentation/accounting/psi.rst` of the kernel).

use std::fmt;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use rustix::event::PollFlags;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::group::Cgroup;
use super::poll::{over, poll};
use crate::error::{Error, ErrorKind, Result};
use crate::sys::raw::retry;

/// The kernel's bounds of a window: the lower one is that of kernels before 6.4.
const WINDOW: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(10));
/// What windows must be multiples of without privilege, in microseconds.
const UNPRIVILEGED: u128 = 2_000_000;

const NO_PSI: &str = "boot with psi=1 on a kernel with CONFIG_PSI, and write 1 to cgroup.pressure of the cgroup; \
                      irq needs CONFIG_IRQ_TIME_ACCOUNTING too";
const PRIVILEGE: &str = "write access to the file, and CAP_SYS_RESOURCE or, since Linux 6.4, a window that is a \
                         multiple of 2 s";

/// What is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum PressureResource {
    /// A CPU.
    Cpu,
    /// Memory.
    Memory,
    /// Block devices.
    Io,
    /// Interrupt handlers (Linux 6.1): [`PressureKind::Full`] alone.
    Irq,
}

impl PressureResource {
    fn file(self) -> &'static str {
        match self {
            Self::Cpu => "cpu.pressure",
            Self::Memory => "memory.pressure",
            Self::Io => "io.pressure",
            Self::Irq => "irq.pressure",
        }
    }
}

/// Who waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PressureKind {
    /// At least one task.
    Some,
    /// Every task that is not idle: nothing gets done.
    Full,
}

impl fmt::Display for PressureKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Some => "some",
            Self::Full => "full",
        })
    }
}

/// When to be told: once waiting adds up to `threshold` inside a `window`.
///
/// ```
/// use std::time::Duration;
/// use stockade::cgroup::{PressureKind, PressureResource, PressureTrigger};
///
/// let (threshold, window) = (Duration::from_millis(150), Duration::from_secs(1));
/// PressureTrigger::new(PressureResource::Memory, PressureKind::Some, threshold, window)?;
/// assert!(PressureTrigger::new(PressureResource::Memory, PressureKind::Some, window, threshold).is_err());
/// # Ok::<(), stockade::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PressureTrigger {
    resource: PressureResource,
    kind: PressureKind,
    threshold: Duration,
    window: Duration,
}

impl PressureTrigger {
    /// `window`: 500 ms to 10 s. `threshold`: from 1 us to the whole window. Both are cut to microseconds.
    ///
    /// # Errors
    /// [`InvalidConfig`](ErrorKind::InvalidConfig): one of them is out of its bounds, or `some` was asked for of
    /// interrupts.
    pub fn new(
        resource: PressureResource,
        kind: PressureKind,
        threshold: Duration,
        window: Duration,
    ) -> Result<Self> {
        let invalid = |why: String| Err(Error::invalid("pressure trigger", why).object(resource.file()));
        if window < WINDOW.0 || window > WINDOW.1 {
            return invalid(format!("the window {window:?} is not 500 ms to 10 s"));
        }
        if threshold.as_micros() == 0 || threshold.as_micros() > window.as_micros() {
            return invalid(format!("the threshold {threshold:?} is not 1 us to the window, {window:?}"));
        }
        if resource == PressureResource::Irq && kind == PressureKind::Some {
            return invalid("the kernel counts only `full` of interrupts".to_owned());
        }
        Ok(Self { resource, kind, threshold, window })
    }
}

impl fmt::Display for PressureTrigger {
    /// As the kernel takes it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.kind, self.threshold.as_micros(), self.window.as_micros())
    }
}

/// A trigger that is set: it lasts until this is dropped.
///
/// The descriptor ([`AsFd`]) reports `POLLPRI` (`poll(2)`; `EPOLLPRI`, `Interest::PRIORITY`) when the trigger fires, at
/// most once in each window, and `POLLERR` for good when the cgroup is removed. The call that reports it takes the report
/// away: there is nothing to read.
#[derive(Debug)]
pub struct PressureWatch {
    fd: OwnedFd,
    file: PathBuf,
}

impl Cgroup {
    /// Sets a trigger. Any number may be set; each costs the kernel a look at the cgroup ten times in a window while there
    /// is pressure. Needs `CAP_SYS_RESOURCE`, or since Linux 6.4 a window that is a multiple of 2 s; and write access to
    /// the file.
    ///
    /// # Errors
    /// [`Unsupported`](ErrorKind::Unsupported): the kernel does not count pressure here.
    /// [`PermissionDenied`](ErrorKind::PermissionDenied): the privilege is lacking. [`NotFound`](ErrorKind::NotFound): the
    /// cgroup was removed.
    pub fn watch_pressure(&self, trigger: PressureTrigger) -> Result<PressureWatch> {
        let name = trigger.resource.file();
        let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC;
        // The write as a whole is one trigger; the kernel wants its text with an end.
        let text = format!("{trigger}\0");
        let set = retry(|| rustix::fs::openat(self, name, flags, Mode::empty()))
            .and_then(|fd| retry(|| rustix::io::write(&fd, text.as_bytes())).map(|_| fd));
        match set {
            Ok(fd) => Ok(PressureWatch { fd, file: self.path().join(name) }),
            Err(e) => Err(self.pressure_error(trigger, name, e)),
        }
    }

    fn pressure_error(&self, trigger: PressureTrigger, name: &str, errno: Errno) -> Error {
        let e = Error::sys("set a pressure trigger", errno).path(self.path().join(name));
        let odd = !trigger.window.as_micros().is_multiple_of(UNPRIVILEGED);
        match errno {
            Errno::NOENT if self.controllers().is_ok() => e
                .with_kind(ErrorKind::Unsupported)
                .detail("the kernel does not count pressure here")
                .hint(NO_PSI),
            Errno::NOENT | Errno::NODEV => gone(e),
            Errno::OPNOTSUPP => e.detail("pressure is not counted on this machine").hint(NO_PSI),
            Errno::PERM | Errno::ACCESS => e.hint(PRIVILEGE),
            Errno::INVAL if odd => e.with_kind(ErrorKind::PermissionDenied).hint(PRIVILEGE),
            Errno::INVAL => e.with_kind(ErrorKind::InvalidConfig),
            _ => e,
        }
    }
}

impl PressureWatch {
    /// Waits until the trigger fires. `None` waits for ever.
    ///
    /// # Errors
    /// [`Timeout`](ErrorKind::Timeout): it did not before the deadline. [`NotFound`](ErrorKind::NotFound): the cgroup was
    /// removed.
    pub fn wait(&self, deadline: Option<Instant>) -> Result<()> {
        const STEP: &str = "wait for pressure";
        loop {
            let got = poll(&self.fd, PollFlags::PRI, deadline, None)
                .map_err(|e| Error::sys(STEP, e).path(&self.file))?;
            if got.contains(PollFlags::ERR) {
                return Err(gone(Error::new(ErrorKind::NotFound, STEP).path(&self.file)));
            }
            if got.contains(PollFlags::PRI) {
                return Ok(());
            }
            if over(deadline) {
                return Err(Error::new(ErrorKind::Timeout, STEP).path(&self.file));
            }
        }
    }
}

impl AsFd for PressureWatch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

fn gone(e: Error) -> Error {
    e.with_kind(ErrorKind::NotFound).detail("the cgroup was removed")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn triggers_are_checked_and_written_in_microseconds() {
        let ms = Duration::from_millis;
        let new = |t, w| PressureTrigger::new(PressureResource::Cpu, PressureKind::Some, t, w);
        assert_eq!(new(ms(150), ms(1000)).unwrap().to_string(), "some 150000 1000000");
        for (t, w) in [(Duration::from_micros(1), ms(500)), (ms(500), ms(500)), (ms(10_000), ms(10_000))] {
            new(t, w).unwrap();
        }
        for (t, w) in [
            (ms(1), ms(499)),
            (ms(1), ms(10_001)),
            (ms(501), ms(500)),
            (Duration::ZERO, ms(500)),
            (Duration::from_nanos(999), ms(500)),
            (Duration::MAX, Duration::MAX),
        ] {
            assert_eq!(new(t, w).unwrap_err().kind(), ErrorKind::InvalidConfig, "{t:?} {w:?}");
        }
        let irq = |kind| PressureTrigger::new(PressureResource::Irq, kind, ms(1), ms(500));
        assert_eq!(irq(PressureKind::Some).unwrap_err().kind(), ErrorKind::InvalidConfig);
        assert_eq!(irq(PressureKind::Full).unwrap().to_string(), "full 1000 500000");
    }
}
