//! Changing the limits of a cgroup in use: all of them, or none.

use std::cmp::Ordering;
use std::os::fd::BorrowedFd;
use std::time::Instant;

use rustix::event::{PollFd, PollFlags, Timespec};

use super::apply::{Enforce, Skipped, explain, put};
use super::group::Cgroup;
use super::limit::Limit;
use super::limits::Limits;
use super::memory::{Reclaimed, reclaim};
use super::setting::{Files, Setting};
use super::v1::{self, Both};
use crate::error::{Error, ErrorKind, Result};

/// What v1 says of the weight of an idle group, which takes none.
const IDLE_SHARES: &str = "3";
/// The kernel refuses it, whatever was asked for.
const V1_BUSY: &str = "stop what uses it: cgroup v1 sets no limit of memory below what is in use";

/// How much is reclaimed between two looks at the deadline.
const SLICE: u64 = 64 << 20;

/// What to do about `memory.max` below what is in use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum BelowUse {
    /// Have the kernel reclaim what is above it first; where too much stays in use, refuse with
    /// [`Busy`](ErrorKind::Busy). Processes that take more between that look and the change can still meet the OOM
    /// killer.
    #[default]
    Refuse,
    /// Set it: what cannot be reclaimed is met by the OOM killer.
    Allow,
}

/// How [`Cgroup::update_with`] changes limits.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct ChangeOptions {
    /// What to do about a limit that cannot be set here.
    pub enforce: Enforce,
    /// What to do about a limit of memory below what is in use.
    pub below_use: BelowUse,
    /// Until when the kernel may reclaim before a limit is refused; for as long as it takes unless told otherwise.
    pub deadline: Option<Instant>,
    /// A fault on purpose, for tests.
    #[doc(hidden)]
    pub fault: Option<WriteFault>,
}

impl ChangeOptions {
    /// The same as `default()`.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets what to do about a limit that cannot be set here.
    #[must_use]
    pub fn enforce(mut self, enforce: Enforce) -> Self {
        self.enforce = enforce;
        self
    }

    /// Sets what to do about a limit of memory below what is in use.
    #[must_use]
    pub fn below_use(mut self, policy: BelowUse) -> Self {
        self.below_use = policy;
        self
    }

    /// Sets until when the kernel may reclaim.
    #[must_use]
    pub fn deadline(mut self, deadline: Instant) -> Self {
        self.deadline = Some(deadline);
        self
    }

    /// Sets a fault on purpose, for tests.
    #[doc(hidden)]
    #[must_use]
    pub fn fault(mut self, fault: WriteFault) -> Self {
        self.fault = Some(fault);
        self
    }
}

/// Makes a write of an update fail. For tests of what is left behind, and no part of the stable interface.
#[doc(hidden)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WriteFault {
    /// Which write, counted from 0; one that is not there does nothing.
    pub write: usize,
    /// The errno that it fails with.
    pub errno: i32,
}

impl Cgroup {
    /// Changes limits of a cgroup in use, with default options; see [`update_with`](Self::update_with).
    ///
    /// # Errors
    /// As there.
    pub fn update(&self, limits: &Limits, enforce: Enforce) -> Result<Vec<Skipped>> {
        self.update_with(limits, ChangeOptions::new().enforce(enforce))
    }

    /// Changes limits of a cgroup in use: after an error it has all the limits that it had before. What `limits` does
    /// not name stays.
    ///
    /// The old values are read first. What gives more is written before what gives less, so that no moment is tighter
    /// than both ends; what can kill is written last. Values that are there already are not written.
    ///
    /// # Errors
    /// As [`apply`](Self::apply), and [`Busy`](ErrorKind::Busy): more than the new limit of memory or of huge pages is
    /// in use; the error says how much. Where an old value could not be put back, the error says so too.
    /// [`Timeout`](ErrorKind::Timeout): while memory was reclaimed.
    pub fn update_with(&self, limits: &Limits, options: ChangeOptions) -> Result<Vec<Skipped>> {
        self.update_unless(limits, &options, None)
    }

    /// As [`update_with`](Self::update_with), but given up once `stop` is readable while memory is reclaimed.
    pub(crate) fn update_unless(
        &self,
        limits: &Limits,
        options: &ChangeOptions,
        stop: Option<BorrowedFd<'_>>,
    ) -> Result<Vec<Skipped>> {
        let mut files = Both::open(self)?;
        let (settings, mut skipped) = files.place(limits.settings()?, options.enforce)?;
        skipped.extend(update(&files, settings, options, stop)?);
        Ok(skipped)
    }
}

/// A setting, and what it takes the place of.
struct Change {
    setting: Setting,
    old: String,
}

pub(super) fn update(
    files: &dyn Files,
    settings: Vec<Setting>,
    options: &ChangeOptions,
    stop: Option<BorrowedFd<'_>>,
) -> Result<Vec<Skipped>> {
    let mut skipped = Vec::new();
    let mut changes = Vec::new();
    for setting in settings {
        let read = files.get(&setting.file);
        match read.map_err(|e| explain(files, &setting, e)) {
            Ok(whole) => changes.push(Change { old: setting.old_value(&whole), setting }),
            Err(reason) if options.enforce.allows(&reason) => {
                skipped.push(Skipped { file: setting.file.into_owned(), reason });
            }
            Err(reason) => return Err(reason),
        }
    }
    let mut undo = Vec::new();
    keep_weight(files, &mut changes, &mut undo)?;
    changes.retain(|c| !c.is_there() || c.is_weight());
    changes.sort_by_key(Change::rank);
    make_room(files, &changes, options, stop)?;
    for (n, change) in changes.into_iter().enumerate() {
        let fault = options.fault.filter(|fault| fault.write == n);
        let done = match fault {
            Some(fault) => Err(fault.error(&change.setting)),
            None => put(files, &change.setting),
        };
        match done {
            Ok(()) => undo.extend(change.undo()),
            Err(reason) if options.enforce.allows(&reason) => {
                skipped.push(Skipped { file: change.setting.file.into_owned(), reason });
            }
            Err(reason) => return Err(roll_back(files, undo, name_use(files, &change.setting, reason))),
        }
    }
    Ok(skipped)
}

/// Writes the old values, the last one first.
fn roll_back(files: &dyn Files, undo: Vec<Setting>, mut error: Error) -> Error {
    for old in undo.into_iter().rev() {
        if let Err(left) = put(files, &old) {
            error =
                error.also(format!("{} could not be put back to `{}`: {left}", old.file, old.text().trim()));
        }
    }
    error
}

/// An idle cgroup has no weight: none can be set, and it is lost on the way in and back.
fn keep_weight(files: &dyn Files, changes: &mut Vec<Change>, undo: &mut Vec<Setting>) -> Result<()> {
    let weighted = changes.iter().any(Change::is_weight);
    let idle = changes.iter().find(|c| c.is("cpu.idle"));
    let (was, will) = match idle {
        Some(idle) => (idle.old == "1", idle.setting.value == "1"),
        None if weighted => {
            let idle = files.get_optional("cpu.idle")?.is_some_and(|t| t.trim() == "1");
            (idle, idle)
        }
        None => return Ok(()),
    };
    if was && will {
        changes.retain(|c| !c.is_weight());
    } else if let Some(idle) = idle.filter(|_| !weighted && !was && will) {
        // v1 calls it otherwise.
        let file = if files.get_optional("cpu.shares")?.is_some() { "cpu.shares" } else { "cpu.weight" };
        let weight = Setting { file: file.into(), ..idle.setting.clone() };
        let old = files.get(file).map_err(|e| explain(files, &weight, e))?;
        undo.push(weight.with_value(old.trim().to_owned()));
    }
    Ok(())
}

/// Where `memory.max` is to go below what is in use, has the kernel reclaim that, or refuses.
fn make_room(
    files: &dyn Files,
    changes: &[Change],
    options: &ChangeOptions,
    stop: Option<BorrowedFd<'_>>,
) -> Result<()> {
    let lowered = changes.iter().find(|c| c.is("memory.max") && c.direction() == Ordering::Less);
    let Some(change) = lowered.filter(|_| options.below_use == BelowUse::Refuse) else { return Ok(()) };
    let Some(Limit::Value(max)) = Limit::parse(&change.setting.value) else { return Ok(()) };
    loop {
        let current = current(files, "memory.current");
        let Some(above) = current.and_then(|now| now.checked_sub(max)).filter(|above| *above > 0) else {
            return Ok(());
        };
        let stopped = |kind| {
            Err(Error::new(kind, "reclaim memory").detail(format!("{above} bytes are above the limit")))
        };
        if options.deadline.is_some_and(|end| end <= Instant::now()) {
            return stopped(ErrorKind::Timeout);
        }
        if stop.is_some_and(is_readable) {
            return stopped(ErrorKind::Cancelled);
        }
        let reclaimed = reclaim(files, above.min(SLICE))?;
        let now = self::current(files, "memory.current");
        if reclaimed == Reclaimed::Less && now.is_some_and(|now| now > max) {
            let busy = Error::new(ErrorKind::Busy, format!("write `{max}` to memory.max"));
            return Err(name_use(files, &change.setting, busy).hint(
                "stop what uses it, or have it set all the same with BelowUse::Allow: the OOM killer ends processes",
            ));
        }
    }
}

fn is_readable(fd: BorrowedFd<'_>) -> bool {
    let mut fds = [PollFd::from_borrowed_fd(fd, PollFlags::IN)];
    rustix::event::poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).is_ok_and(|n| n > 0)
}

/// Adds to a refusal how much is in use.
fn name_use(files: &dyn Files, setting: &Setting, e: Error) -> Error {
    if e.kind() != ErrorKind::Busy {
        return e;
    }
    let v2 = setting.file.strip_suffix(".max").map(|stem| format!("{stem}.current"));
    let Some(file) = v2.or_else(|| v1::usage_file(&setting.file)) else { return e };
    let e = if v1::is_below_use(&setting.file) { e.hint(V1_BUSY) } else { e };
    match current(files, &file) {
        Some(now) => e.detail(format!("{now} bytes are in use")),
        None => e,
    }
}

fn current(files: &dyn Files, name: &str) -> Option<u64> {
    files.get(name).ok()?.trim().parse().ok()
}

impl Change {
    fn is(&self, file: &str) -> bool {
        self.setting.file == file
    }

    fn is_weight(&self) -> bool {
        self.is("cpu.weight") || self.is("cpu.shares")
    }

    /// Whether the new value is there already, in whatever words.
    fn is_there(&self) -> bool {
        let (new, old) = self.amounts();
        self.old == self.setting.value || (new.is_some() && new == old)
    }

    fn amounts(&self) -> (Option<Limit>, Option<Limit>) {
        let amount = |text| v1::amount(&self.setting.file, text);
        (amount(&self.setting.value), amount(&self.old))
    }

    /// Whether the new value is more than the old one, for files with one number.
    fn direction(&self) -> Ordering {
        match self.amounts() {
            (Some(new), Some(old)) => new.cmp(&old),
            _ => Ordering::Equal,
        }
    }

    /// When it is written: by this number, then as [`Limits::settings`] has it. See the module's rule on what comes
    /// first; the rest is what the kernel asks for: a burst is never above the quota, an idle cgroup has no weight.
    fn rank(&self) -> (u8, u8) {
        // Swap before the memory that may go there; the soft limit before the hard one where both go down.
        const UP: [&str; 10] = [
            "memory.swap.max",
            "memory.memsw.limit_in_bytes",
            "memory.max",
            "memory.limit_in_bytes",
            "memory.swap.high",
            "memory.high",
            "memory.zswap.max",
            "memory.low",
            "memory.soft_limit_in_bytes",
            "memory.min",
        ];
        const DOWN: [&str; 10] = [
            "memory.min",
            "memory.low",
            "memory.soft_limit_in_bytes",
            "memory.high",
            "memory.max",
            "memory.limit_in_bytes",
            "memory.swap.high",
            "memory.zswap.max",
            "memory.swap.max",
            "memory.memsw.limit_in_bytes",
        ];
        let place = |order: &[&str]| order.iter().position(|file| self.is(file)).map(|n| n as u8);
        match (&*self.setting.file, self.direction()) {
            ("cpu.idle" | "cpu.max.burst" | "cpu.cfs_burst_us", Ordering::Less) => (0, 0),
            // With the quota in between, at no moment less than before and after.
            ("cpu.cfs_period_us", Ordering::Less) => (1, 0),
            ("cpu.cfs_quota_us", _) => (2, 0),
            ("cpu.cfs_period_us", _) => (2, 1),
            ("cpu.cfs_burst_us", _) => (2, 2),
            ("cpuset.cpus.partition", _) if self.setting.value == "member" => (0, 0),
            ("cpu.idle", _) => (3, 0),
            (_, Ordering::Less) => place(&DOWN).map_or((2, 0), |n| (4, n)),
            (_, _) => place(&UP).map_or((2, 0), |n| (1, n)),
        }
    }

    /// What puts the old value back; the weight of a cgroup that was idle was none.
    fn undo(self) -> Option<Setting> {
        if (self.is("cpu.weight") && self.old == "0") || (self.is("cpu.shares") && self.old == IDLE_SHARES) {
            return None;
        }
        Some(self.setting.with_value(self.old))
    }
}

impl WriteFault {
    fn error(self, setting: &Setting) -> Error {
        let errno = rustix::io::Errno::from_raw_os_error(self.errno);
        Error::sys(format!("write `{}` to {}", setting.text().trim(), setting.file), errno)
            .detail("a fault on purpose")
    }
}
