//! Starts in two halves: a sandbox that is ready but for its name and program, and the program later.

use std::os::fd::AsFd;

use super::descriptors::Descriptors;
use super::{Request, Up, borrow, plan};
use crate::container::streams::Sources;
use crate::error::Result;
use crate::spawn::{Plan, Spec, Started};

impl Request<'_> {
    /// Makes a sandbox of this configuration. It waits for a program, for as long as it takes, and ends with the
    /// returned handle or with this process.
    pub(in crate::container) fn park(&self) -> Result<Started> {
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
        let made = fds.make(userns.as_ref().map(AsFd::as_fd))?;
        let sent = started.send(&mut plan, &borrow(&made));
        started.or_its_own(&plan, sent)?;
        started.wait_parked(&plan, self.deadline, self.cancel.as_ref())?;
        Ok(started)
    }

    /// The plan of a sandbox, which ends with the wait for the next one.
    pub(super) fn plan_sandbox(&self, fds: &mut Descriptors) -> Result<Plan> {
        let parts = self.parts(fds, Sources::null())?;
        let mut plan = Plan::new(fds.len());
        plan::build_sandbox(&mut plan, self.config, &parts);
        Ok(plan)
    }

    /// Runs the program of this configuration in a sandbox that [`park`](Self::park) made of one like it.
    pub(in crate::container) fn unpark(&self, mut started: Started, streams: Sources) -> Result<Up> {
        let mut fds = Descriptors::from_slot(0);
        let streams = streams.without_inheritance()?.hand_over(|fd| fds.ready(fd))?;
        let mut tail = self.tail(self.users_inside())?;
        tail.bounded = true;
        let mut plan = Plan::new(fds.len());
        plan::build_program(&mut plan, self.config, &streams, &tail);
        self.hooks.apply(&mut plan);
        let limited = self.limit(&started);
        let skipped = started.or_its_own(&plan, limited)?;
        self.note(&started, &skipped)?;
        let made = fds.make(None)?;
        let sent = started.send(&mut plan, &borrow(&made));
        started.or_its_own(&plan, sent)?;
        self.connect(&mut started, &plan)?;
        self.finish(started, &plan)
    }
}
