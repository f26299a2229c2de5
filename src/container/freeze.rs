//! Freezing and thawing (`cgroup.freeze`).

use std::os::fd::AsFd;

use super::handle::Container;
use crate::cgroup::Cgroup;
use crate::error::{Error, ErrorKind, Result};
use crate::instance::FreezeOptions;
use crate::op::{Action, Deadline};

impl Container {
    /// Freezes it with default options.
    ///
    /// # Errors
    /// As [`freeze_with`](Self::freeze_with).
    pub fn freeze(&self) -> Result<()> {
        self.freeze_with(FreezeOptions::default())
    }

    /// Stops the clock of every process; see [`Instance::freeze_with`](crate::instance::Instance::freeze_with).
    ///
    /// # Errors
    /// As there.
    pub fn freeze_with(&self, options: FreezeOptions) -> Result<()> {
        let deadline = Deadline::from(options.deadline).instant();
        let stop = options.cancel.as_ref().map(AsFd::as_fd);
        self.with_cgroup(Action::Freeze, |cgroup| {
            if cgroup.state()?.frozen {
                return Err(
                    Error::new(ErrorKind::InvalidState, "freeze").detail("the container is frozen already")
                );
            }
            cgroup.freeze_unless(deadline, stop)
        })
    }

    /// Thaws it with default options.
    ///
    /// # Errors
    /// As [`unfreeze_with`](Self::unfreeze_with).
    pub fn unfreeze(&self) -> Result<()> {
        self.unfreeze_with(FreezeOptions::default())
    }

    /// Lets its processes run again; see [`Instance::unfreeze_with`](crate::instance::Instance::unfreeze_with).
    ///
    /// # Errors
    /// As there.
    pub fn unfreeze_with(&self, options: FreezeOptions) -> Result<()> {
        let deadline = Deadline::from(options.deadline).instant();
        let stop = options.cancel.as_ref().map(AsFd::as_fd);
        self.with_cgroup(Action::Unfreeze, |cgroup| {
            if !cgroup.state()?.frozen {
                return Err(
                    Error::new(ErrorKind::InvalidState, "unfreeze").detail("the container is not frozen")
                );
            }
            cgroup.thaw_unless(deadline, stop)
        })
    }

    fn with_cgroup(&self, action: Action, run: impl FnOnce(&Cgroup) -> Result<()>) -> Result<()> {
        let done = self.begin(action).and_then(|_guard| {
            let live = self.live()?;
            let cgroup = live.cgroup.as_ref().ok_or_else(|| {
                Error::new(ErrorKind::Unsupported, "find the cgroup")
                    .detail("the container has none of its own")
                    .hint("make it with CgroupConfig::Auto")
            })?;
            run(cgroup)
        });
        self.named(action, done)
    }
}
