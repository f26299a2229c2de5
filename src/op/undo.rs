//! Takes back the steps of an action that failed half-way.

use std::borrow::Cow;
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::error::{Error, Result};

type Step<'a> = Box<dyn FnOnce() -> Result<()> + Send + 'a>;

/// A stack of steps back. Each step of an action pushes how to take it back; when the action fails they run,
/// last one first; [`commit`](Self::commit) forgets them.
///
/// One that is dropped without `commit` runs its steps too, so that `?` is safe everywhere; there the failures
/// of the steps are lost. [`fail`](Self::fail) keeps them.
#[derive(Default)]
#[must_use = "dropping it takes the steps back at once"]
pub(crate) struct Undo<'a> {
    steps: Vec<(Cow<'static, str>, Step<'a>)>,
}

impl<'a> Undo<'a> {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// Adds a step back. `what` names it in an error, such as `remove cgroup x`.
    pub(crate) fn push(
        &mut self,
        what: impl Into<Cow<'static, str>>,
        step: impl FnOnce() -> Result<()> + Send + 'a,
    ) {
        self.steps.push((what.into(), Box::new(step)));
    }

    /// The action has succeeded: nothing is taken back.
    pub(crate) fn commit(mut self) {
        self.steps.clear();
    }

    /// The action has failed with `err`: takes everything back, and adds to `err` what could not be.
    pub(crate) fn fail(mut self, err: Error) -> Error {
        self.run().into_iter().fold(err, Error::also)
    }

    /// Runs all steps, last one first; a step that fails does not keep the others from running.
    fn run(&mut self) -> Vec<String> {
        let mut failures = Vec::new();
        while let Some((what, step)) = self.steps.pop() {
            match catch_unwind(AssertUnwindSafe(step)) {
                Ok(Ok(())) => {}
                Ok(Err(e)) => failures.push(format!("undo step `{what}` failed too: {e}")),
                Err(_) => failures.push(format!("undo step `{what}` panicked")),
            }
        }
        failures
    }
}

impl Drop for Undo<'_> {
    fn drop(&mut self) {
        self.run();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;
    use crate::error::ErrorKind;

    fn record<'a>(log: &'a Mutex<Vec<u32>>, n: u32) -> impl FnOnce() -> Result<()> + Send + 'a {
        move || {
            log.lock().unwrap().push(n);
            Ok(())
        }
    }

    #[test]
    fn drop_runs_in_reverse_order_and_commit_runs_nothing() {
        let log = Mutex::new(Vec::new());
        let mut undo = Undo::new();
        undo.push("one", record(&log, 1));
        undo.push("two", record(&log, 2));
        drop(undo);
        assert_eq!(*log.lock().unwrap(), [2, 1]);

        let mut undo = Undo::new();
        undo.push("three", record(&log, 3));
        undo.commit();
        assert_eq!(*log.lock().unwrap(), [2, 1]);
    }

    #[test]
    fn fail_keeps_the_error_and_names_the_steps_that_failed() {
        let log = Mutex::new(Vec::new());
        let mut undo = Undo::new();
        undo.push("remove cgroup x", record(&log, 1));
        undo.push("unmount y", || Err(Error::new(ErrorKind::Kernel, "unmount").object("y")));
        undo.push("buggy", || panic!("a bug"));
        let err = undo.fail(Error::new(ErrorKind::Exhausted, "start"));
        assert_eq!(err.kind(), ErrorKind::Exhausted);
        let text = err.to_string();
        assert!(text.starts_with("start: resource exhausted"), "{text}");
        assert!(text.contains("`unmount y` failed too: unmount `y`"), "{text}");
        assert!(text.contains("`buggy` panicked"), "{text}");
        assert!(!text.contains("remove cgroup x"), "{text}");
        assert_eq!(*log.lock().unwrap(), [1]);
    }

    #[test]
    fn a_panicking_step_does_not_leave_drop() {
        let log = Mutex::new(Vec::new());
        let mut undo = Undo::new();
        undo.push("one", record(&log, 1));
        undo.push("buggy", || panic!("a bug"));
        drop(undo);
        assert_eq!(*log.lock().unwrap(), [1]);
    }
}
