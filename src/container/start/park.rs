//! Starts in two halves: a sandbox that is ready but for its name and program, and the program later.

use std::os::fd::AsFd;

use super::descriptors::Descriptors;
use super::{Request, Up, borrow, plan};
use crate::cgroup::Skipped;
use crate::container::streams::Sources;
use crate::error::Result;
use crate::spawn::{Plan, Spec, Started};

/// A child that waits for its program.
#[derive(Debug)]
pub(in crate::container) struct Parked {
    child: Started,
    /// The device policy, where it could not be attached.
    skipped: Option<Skipped>,
}

impl Parked {
    pub(in crate::container) fn is_alive(&self) -> bool {
        self.child.is_alive()
    }
}

impl Request<'_> {
    /// Makes a sandbox of this configuration. It waits for a program, for as long as it takes, and ends with the
    /// returned handle or with this process.
    pub(in crate::container) fn park(&self) -> Result<Parked> {
        let mut fds = Descriptors::from_slot(0);
        let mut plan = self.plan_sandbox(&mut fds)?;
        let spec = Spec {
            strategy: self.strategy,
            namespaces: self.clone_flags(),
            cgroup: self.cgroup.map(AsFd::as_fd),
            ambient: self.ambient(),
            own_memory_first: false,
        };
        let mut started = self.launch(&spec, &plan)?;
        let mapped = self.map_users(&started, &fds);
        let userns = started.or_its_own(&plan, mapped)?;
        let confined = self.confine();
        let skipped = started.or_its_own(&plan, confined)?;
        let made = fds.make(userns.as_ref().map(AsFd::as_fd))?;
        let sent = started.send(&mut plan, &borrow(&made));
        started.or_its_own(&plan, sent)?;
        started.wait_parked(&plan, self.deadline, self.cancel.as_ref())?;
        Ok(Parked { child: started, skipped })
    }

    /// The plan of a sandbox, which ends with the wait for the next one.
    pub(super) fn plan_sandbox(&self, fds: &mut Descriptors) -> Result<Plan> {
        let parts = self.parts(fds, Sources::null())?;
        let mut plan = Plan::new(fds.len());
        plan::build_sandbox(&mut plan, self.config, &parts);
        Ok(plan)
    }

    /// Runs the program of this configuration in a sandbox that [`park`](Self::park) made of one like it.
    pub(in crate::container) fn unpark(&self, parked: Parked, streams: Sources) -> Result<Up> {
        let Parked { child: mut started, skipped: unconfined } = parked;
        let mut fds = Descriptors::from_slot(0);
        let streams = streams.without_inheritance()?.hand_over(|fd| fds.ready(fd))?;
        let mut tail = self.tail(self.users_inside())?;
        tail.bounded = true;
        let mut plan = Plan::new(fds.len());
        plan::build_program(&mut plan, self.config, &streams, &tail);
        self.hooks.apply(&mut plan);
        let limited = self.limit(&started);
        let mut skipped = started.or_its_own(&plan, limited)?;
        skipped.extend(unconfined);
        self.note(&started, &skipped)?;
        let made = fds.make(None)?;
        let sent = started.send(&mut plan, &borrow(&made));
        started.or_its_own(&plan, sent)?;
        self.connect(&mut started, &plan)?;
        self.finish(started, &plan)
    }
}
