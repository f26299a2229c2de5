//! Deleting.

use super::config::CgroupConfig;
use super::handle::{Container, Run};
use super::live::remove_cgroup;
use crate::error::{Error, ErrorKind, Result};
use crate::instance::{DEFAULT_DEADLINE, DeleteMode, DeleteOptions};
use crate::op::{Action, Deadline};

impl Container {
    /// Deletes it with default options.
    ///
    /// # Errors
    /// As [`delete_with`](Self::delete_with).
    pub fn delete(&self) -> Result<()> {
        self.delete_with(DeleteOptions::default())
    }

    /// Removes its records and files; see [`Instance::delete_with`](crate::instance::Instance::delete_with).
    ///
    /// # Errors
    /// As there.
    pub fn delete_with(&self, options: DeleteOptions) -> Result<()> {
        let deadline = Deadline::from(options.deadline);
        let done = self.begin(Action::Delete).and_then(|guard| {
            self.settle_if_ended()?;
            if matches!(*self.run(), Run::Live(_)) {
                if options.mode != DeleteMode::Stop {
                    return Err(Error::new(ErrorKind::InvalidState, "delete")
                        .detail("the container is running")
                        .hint("stop it first, or delete it with DeleteMode::Stop"));
                }
                let _part = guard.nested(Action::Stop);
                self.stop_locked(deadline, options.cancel.as_ref())?;
            }
            self.delete_stopped(deadline)
        });
        self.named(Action::Delete, done)
    }

    /// An ephemeral container goes with its end. It is fine if another process, which waited for that end, was
    /// first to remove it.
    pub(super) fn delete_if_ephemeral(&self) -> Result<()> {
        if !self.config().ephemeral {
            return Ok(());
        }
        match self.delete_stopped(Deadline::after(DEFAULT_DEADLINE)) {
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(()),
            other => other,
        }
    }

    fn delete_stopped(&self, deadline: Deadline) -> Result<()> {
        let mut run = self.run();
        if matches!(*run, Run::Deleted) {
            return Err(self.gone());
        }
        // Another runtime may have deleted it, and made another one of that name.
        if let Err(e) = self.refresh() {
            if e.kind() == ErrorKind::NotFound {
                *run = Run::Deleted;
            }
            return Err(e);
        }
        self.remove_left_cgroup()?;
        self.erase_changes(deadline)?;
        drop(self.sandbox().take());
        let id = self.id();
        let inner = self.runtime.inner();
        match inner.store.remove(&id, self.config().durability()) {
            Ok(()) => {}
            Err(e) if e.kind() == ErrorKind::NotFound => {
                *run = Run::Deleted;
                return Err(self.gone());
            }
            Err(e) => return Err(e),
        }
        // Last, so that nobody gets ids that files of this container still have.
        if self.has_own_range()? {
            let released = inner.ranges().and_then(|ranges| ranges.release(&self.uuid));
            if let Err(e) = released {
                // The container is gone all the same.
                inner.store.between().leave_untidy();
                *run = Run::Deleted;
                drop(run);
                self.runtime.forget(&id);
                return Err(e);
            }
        }
        *run = Run::Deleted;
        drop(run);
        self.runtime.forget(&id);
        Ok(())
    }

    /// A host process that died between a start and its record leaves a cgroup with processes in it, which nobody
    /// else will end.
    fn remove_left_cgroup(&self) -> Result<()> {
        let host = &self.runtime.inner().host;
        if self.config().cgroup == CgroupConfig::None || !host.has_cgroup2() {
            return Ok(());
        }
        match host.cgroup()?.open_child(&self.cgroup_name()) {
            Ok(left) => remove_cgroup(&left),
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(()),
            Err(e) => Err(e),
        }
    }
}
