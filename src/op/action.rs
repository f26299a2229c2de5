//! The lock that lets one mutating action at a time run on an instance.

use std::fmt;
use std::ops::Range;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::between::{Between, Other};
use super::{Cancel, Deadline};
use crate::error::{Error, ErrorKind, Result};

/// How long a cancel may go unseen while [`ActionLock::begin`] waits: a condition variable cannot be polled
/// together with the token's descriptor, so the wait looks at the token this often.
const CANCEL_CHECK: Duration = Duration::from_millis(50);

/// How long others may take to write down the end of a run, which no action is refused for.
const SETTLING: Duration = Duration::from_secs(10);

/// The longest pause between two looks at a lock that another runtime has: the kernel tells nobody when it is free.
const PAUSE_MAX: Duration = Duration::from_millis(20);

/// What is being done to an instance. Written in the words that Incus uses.
///
/// `exec` is none of these: any number of programs may run at once, beside any action.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Action {
    Start,
    Stop,
    Shutdown,
    Restart,
    Freeze,
    Unfreeze,
    Rename,
    Delete,
    /// Removing what belonged to a run that has ended, by whoever sees the end.
    Settle,
    /// Changing the configuration, live where it runs.
    Update,
}

impl Action {
    /// All of them, in the order in which they are numbered between processes: new ones go to the end.
    pub(super) const ALL: [Self; 10] = [
        Self::Start,
        Self::Stop,
        Self::Shutdown,
        Self::Restart,
        Self::Freeze,
        Self::Unfreeze,
        Self::Rename,
        Self::Delete,
        Self::Settle,
        Self::Update,
    ];

    /// The action as a verb: what an error says first.
    pub(crate) fn verb(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Stop => "stop",
            Self::Shutdown => "shutdown",
            Self::Restart => "restart",
            Self::Freeze => "freeze",
            Self::Unfreeze => "unfreeze",
            Self::Rename => "rename",
            Self::Delete => "delete",
            Self::Settle => "settle",
            Self::Update => "update",
        }
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.verb())
    }
}

/// One per instance of a runtime; clones are the same lock. An action takes [`Between`]'s lock on the instance's name
/// too, which other processes and other runtimes of this one see.
#[derive(Clone, Debug, Default)]
pub(crate) struct ActionLock(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    running: Mutex<Option<Running>>,
    ended: Condvar,
}

#[derive(Debug)]
struct Running {
    action: Action,
    since: Instant,
    /// The actions that it is made of and that run now, outermost first.
    nested: Vec<Action>,
}

impl Inner {
    fn running(&self) -> MutexGuard<'_, Option<Running>> {
        // A panic of the holder cannot leave the value half-changed: every change is one assignment.
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ActionLock {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// The outermost action that runs now.
    pub(crate) fn current(&self) -> Option<Action> {
        self.0.running().as_ref().map(|r| r.action)
    }

    /// Begins `action` on the instance unless another one runs. `name` is asked once no other action of this runtime can
    /// change it. The end of a run that is just being
    /// written down is waited for.
    ///
    /// # Errors
    /// [`Busy`](ErrorKind::Busy), naming the running action, and for how long it has been running or which process
    /// runs it.
    pub(crate) fn try_begin(
        &self,
        action: Action,
        between: &Arc<Between>,
        name: &dyn Fn() -> String,
    ) -> Result<ActionGuard> {
        let end = Instant::now() + SETTLING;
        let mut running = self.0.running();
        while running.as_ref().is_some_and(|r| r.action == Action::Settle && Instant::now() < end) {
            let woken = self.0.ended.wait_timeout(running, CANCEL_CHECK);
            running = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
        if let Some(other) = &*running {
            return Err(blocked(ErrorKind::Busy, action, other));
        }
        let guard = self.take(&mut running, action);
        drop(running);
        guard.among(action, between, &name(), Patience::Settling)
    }

    /// Begins `action` once no other one runs. Who comes next among several waiters is not defined.
    ///
    /// # Errors
    /// [`Timeout`](ErrorKind::Timeout) or [`Cancelled`](ErrorKind::Cancelled), naming the running action. A
    /// cancel is seen within 50 ms. An expired deadline still takes a free lock; a cancelled token does not.
    pub(crate) fn begin(
        &self,
        action: Action,
        between: &Arc<Between>,
        name: &dyn Fn() -> String,
        deadline: Deadline,
        cancel: Option<&Cancel>,
    ) -> Result<ActionGuard> {
        let guard = self.begin_here(action, deadline, cancel)?;
        guard.among(action, between, &name(), Patience::Until(deadline, cancel))
    }

    /// Begins to write down the end of a run. `None` where an action of this runtime runs, whose lock serves: the
    /// caller goes on in either case.
    ///
    /// # Errors
    /// [`Timeout`](ErrorKind::Timeout) where another runtime acts on the instance for longer than this can wait.
    pub(crate) fn settle(
        &self,
        between: &Arc<Between>,
        name: &dyn Fn() -> String,
    ) -> Result<Option<ActionGuard>> {
        let mut running = self.0.running();
        if running.is_some() {
            return Ok(None);
        }
        let guard = self.take(&mut running, Action::Settle);
        drop(running);
        let patience = Patience::Until(Deadline::after(SETTLING), None);
        guard.among(Action::Settle, between, &name(), patience).map(Some)
    }

    /// [`begin`](Self::begin) among the threads of this runtime.
    fn begin_here(&self, action: Action, deadline: Deadline, cancel: Option<&Cancel>) -> Result<ActionGuard> {
        let mut running = self.0.running();
        loop {
            if cancel.is_some_and(Cancel::is_cancelled) {
                return Err(match &*running {
                    Some(other) => blocked(ErrorKind::Cancelled, action, other),
                    None => Error::new(ErrorKind::Cancelled, format!("begin {action}")),
                });
            }
            let Some(other) = &*running else {
                return Ok(self.take(&mut running, action));
            };
            if deadline.expired() {
                return Err(blocked(ErrorKind::Timeout, action, other));
            }
            let slice = match (deadline.remaining(), cancel) {
                (left, Some(_)) => Some(left.map_or(CANCEL_CHECK, |l| l.min(CANCEL_CHECK))),
                (left, None) => left,
            };
            running = match slice {
                Some(slice) => {
                    let woken = self.0.ended.wait_timeout(running, slice);
                    woken.unwrap_or_else(PoisonError::into_inner).0
                }
                None => self.0.ended.wait(running).unwrap_or_else(PoisonError::into_inner),
            };
        }
    }

    fn take(&self, running: &mut Option<Running>, action: Action) -> ActionGuard {
        *running = Some(Running { action, since: Instant::now(), nested: Vec::new() });
        ActionGuard { lock: self.clone(), held: None }
    }
}

/// How long to wait for another runtime.
#[derive(Clone, Copy, Debug)]
enum Patience<'a> {
    /// Only while it writes down the end of a run.
    Settling,
    Until(Deadline, Option<&'a Cancel>),
}

fn waited(kind: ErrorKind) -> &'static str {
    match kind {
        ErrorKind::Timeout => "the deadline passed while waiting: ",
        ErrorKind::Cancelled => "cancelled while waiting: ",
        _ => "",
    }
}

fn blocked_by_other(kind: ErrorKind, wanted: Action, other: Other) -> Error {
    let what = other.action.map_or_else(|| "an action".to_owned(), |a| format!("`{a}`"));
    let who = if other.pid == std::process::id() {
        "another runtime of this process".to_owned()
    } else {
        format!("process {}", other.pid)
    };
    Error::new(kind, format!("begin {wanted}"))
        .detail(format!("{}{who} runs {what} on the instance", waited(kind)))
}

fn blocked(kind: ErrorKind, wanted: Action, running: &Running) -> Error {
    let inner = running.nested.last().map(|n| format!(" (now in its {n})")).unwrap_or_default();
    let detail = waited(kind);
    let (action, since) = (running.action, running.since.elapsed().as_secs_f64());
    Error::new(kind, format!("begin {wanted}"))
        .detail(format!("{detail}`{action}`{inner} has been running on the instance for {since:.1} s"))
}

/// A running action; dropping it ends the action and wakes who waits.
#[derive(Debug)]
#[must_use = "the action ends when this is dropped"]
pub(crate) struct ActionGuard {
    lock: ActionLock,
    /// What is locked against other runtimes.
    held: Option<(Arc<Between>, Range<u64>)>,
}

impl ActionGuard {
    /// Takes the lock that other runtimes see.
    fn among(
        mut self,
        action: Action,
        between: &Arc<Between>,
        name: &str,
        patience: Patience<'_>,
    ) -> Result<Self> {
        let settling = Deadline::after(SETTLING);
        let mut pause = Duration::from_micros(200);
        loop {
            let other = match between.try_name(name, action)? {
                Ok(range) => {
                    self.held = Some((Arc::clone(between), range));
                    return Ok(self);
                }
                Err(other) => other,
            };
            let (kind, late) = match patience {
                Patience::Settling => {
                    let passes = matches!(other.action, None | Some(Action::Settle));
                    (ErrorKind::Busy, !passes || settling.expired())
                }
                Patience::Until(_, Some(cancel)) if cancel.is_cancelled() => (ErrorKind::Cancelled, true),
                Patience::Until(deadline, _) => (ErrorKind::Timeout, deadline.expired()),
            };
            if late {
                return Err(blocked_by_other(kind, action, other));
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    /// Marks a part of the action that has a name of its own, as restart's stop and start: it runs under this
    /// guard and takes no lock. The mark shows in the `Busy` error of others and ends when it is dropped.
    pub(crate) fn nested(&self, part: Action) -> NestedAction<'_> {
        if let Some(running) = &mut *self.lock.0.running() {
            running.nested.push(part);
        }
        NestedAction { outer: self }
    }
}

impl Drop for ActionGuard {
    fn drop(&mut self) {
        // Before the next action of this runtime begins: its lock would be the same one.
        if let Some((between, range)) = self.held.take() {
            between.release(&range);
        }
        *self.lock.0.running() = None;
        self.lock.0.ended.notify_all();
    }
}

/// A named part of a running action.
#[derive(Debug)]
#[must_use = "the part ends when this is dropped"]
pub(crate) struct NestedAction<'a> {
    outer: &'a ActionGuard,
}

impl Drop for NestedAction<'_> {
    fn drop(&mut self) {
        if let Some(running) = &mut *self.outer.lock.0.running() {
            running.nested.pop();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::thread;

    use super::*;

    /// A lock with the runtime that it belongs to.
    #[derive(Clone)]
    struct Instance {
        lock: ActionLock,
        between: Arc<Between>,
        _dir: Arc<tempfile::TempDir>,
    }

    impl Instance {
        fn new() -> Self {
            let dir = Arc::new(tempfile::tempdir().unwrap());
            Self { lock: ActionLock::new(), between: between(&dir), _dir: dir }
        }

        /// The same instance in another runtime.
        fn elsewhere(&self) -> Self {
            Self { lock: ActionLock::new(), between: between(&self._dir), _dir: Arc::clone(&self._dir) }
        }

        fn current(&self) -> Option<Action> {
            self.lock.current()
        }

        fn try_begin(&self, action: Action) -> Result<ActionGuard> {
            self.lock.try_begin(action, &self.between, &web)
        }

        fn begin(&self, action: Action, deadline: Deadline, cancel: Option<&Cancel>) -> Result<ActionGuard> {
            self.lock.begin(action, &self.between, &web, deadline, cancel)
        }
    }

    fn web() -> String {
        "default/web".to_owned()
    }

    fn between(dir: &tempfile::TempDir) -> Arc<Between> {
        use std::os::fd::AsFd;
        let fd = std::fs::File::open(dir.path()).unwrap();
        Arc::new(Between::join(fd.as_fd(), dir.path()).unwrap())
    }

    #[test]
    fn another_runtime_sees_the_action() {
        let here = Instance::new();
        let there = here.elsewhere();
        let guard = here.try_begin(Action::Start).unwrap();
        let err = there.try_begin(Action::Delete).unwrap_err();
        assert_eq!(err.kind(), ErrorKind::Busy);
        let text = err.to_string();
        assert!(text.contains("another runtime of this process runs `start` on the instance"), "{text}");
        assert_eq!(there.current(), None);
        let late = there.begin(Action::Stop, Deadline::after(Duration::from_millis(20)), None).unwrap_err();
        assert_eq!(late.kind(), ErrorKind::Timeout);
        let waiter = {
            let there = there.clone();
            thread::spawn(move || there.begin(Action::Stop, Deadline::none(), None).map(drop))
        };
        drop(guard);
        waiter.join().unwrap().unwrap();
        drop(there.try_begin(Action::Delete).unwrap());
    }

    #[test]
    fn an_end_that_is_being_written_down_is_no_reason_to_refuse() {
        let here = Instance::new();
        for other in [here.clone(), here.elsewhere()] {
            let settling = here.lock.settle(&here.between, &web).unwrap().unwrap();
            let waiter = thread::spawn(move || other.try_begin(Action::Start).map(drop));
            thread::sleep(Duration::from_millis(5));
            drop(settling);
            waiter.join().unwrap().unwrap();
        }
        let _action = here.try_begin(Action::Stop).unwrap();
        assert!(here.lock.settle(&here.between, &web).unwrap().is_none());
    }

    #[test]
    fn busy_names_the_running_action_and_ends_with_the_guard() {
        let lock = Instance::new();
        let guard = lock.try_begin(Action::Start).unwrap();
        assert_eq!(lock.current(), Some(Action::Start));
        let err = lock.try_begin(Action::Delete).unwrap_err();
        assert_eq!(err.kind(), ErrorKind::Busy);
        let text = err.to_string();
        assert!(text.starts_with("begin delete: `start` has been running on the instance for 0."), "{text}");
        drop(guard);
        assert_eq!(lock.current(), None);
        drop(lock.try_begin(Action::Delete).unwrap());
    }

    #[test]
    fn nested_parts_show_in_the_error_and_leave_the_outer_action_running() {
        let lock = Instance::new();
        let restart = lock.try_begin(Action::Restart).unwrap();
        {
            let _stop = restart.nested(Action::Stop);
            let text = lock.try_begin(Action::Freeze).unwrap_err().to_string();
            assert!(text.contains("`restart` (now in its stop)"), "{text}");
        }
        let text = lock.try_begin(Action::Freeze).unwrap_err().to_string();
        assert!(text.contains("`restart` has been running"), "{text}");
    }

    #[test]
    fn begin_times_out_and_is_cancelled() {
        let lock = Instance::new();
        let _running = lock.try_begin(Action::Stop).unwrap();
        let err = lock.begin(Action::Start, Deadline::after(Duration::from_millis(20)), None).unwrap_err();
        assert_eq!(err.kind(), ErrorKind::Timeout);
        assert!(err.to_string().contains("`stop`"), "{err}");

        let cancel = Cancel::new().unwrap();
        let waiter = {
            let (lock, cancel) = (lock.clone(), cancel.clone());
            thread::spawn(move || lock.begin(Action::Start, Deadline::none(), Some(&cancel)).unwrap_err())
        };
        cancel.cancel();
        assert_eq!(waiter.join().unwrap().kind(), ErrorKind::Cancelled);
    }

    #[test]
    fn a_cancelled_token_does_not_take_a_free_lock_but_an_expired_deadline_does() {
        let lock = Instance::new();
        let cancel = Cancel::new().unwrap();
        drop(lock.begin(Action::Start, Deadline::after(Duration::ZERO), Some(&cancel)).unwrap());
        cancel.cancel();
        let err = lock.begin(Action::Start, Deadline::none(), Some(&cancel)).unwrap_err();
        assert_eq!(err.kind(), ErrorKind::Cancelled);
        assert_eq!(lock.current(), None);
    }

    #[test]
    fn waiters_run_one_at_a_time() {
        let lock = Instance::new();
        let inside = AtomicU32::new(0);
        let done = AtomicU32::new(0);
        thread::scope(|s| {
            for _ in 0..8 {
                s.spawn(|| {
                    let _g =
                        lock.begin(Action::Rename, Deadline::after(Duration::from_secs(20)), None).unwrap();
                    assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0);
                    thread::yield_now();
                    inside.fetch_sub(1, Ordering::SeqCst);
                    done.fetch_add(1, Ordering::SeqCst);
                });
            }
        });
        assert_eq!(done.load(Ordering::SeqCst), 8);
    }

    #[test]
    fn a_panic_under_the_guard_frees_the_lock() {
        let lock = Instance::new();
        let inner = lock.clone();
        let _ = thread::spawn(move || {
            let _g = inner.try_begin(Action::Start).unwrap();
            panic!("a bug in the action");
        })
        .join();
        drop(lock.try_begin(Action::Stop).unwrap());
    }
}
