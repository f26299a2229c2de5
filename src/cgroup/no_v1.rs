//! What stands in for [`v1`](super) where the feature `cgroup1` is off: no cgroup has v1 groups.

use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Instant;

use super::apply::{Enforce, Skipped};
use super::events::Event;
use super::hierarchy::no_mount;
use super::limit::Limit;
use super::limits::Limits;
use super::setting::{Files, Setting};
use super::share::MemoryShare;
use super::stats::{IoStats, MemoryEvents, Stats};
use super::{Cgroup, Controller, CpuMax, DevicePolicy};
use crate::error::{Error, Result};

#[derive(Clone, Debug)]
pub(in crate::cgroup) struct Side;

impl Side {
    pub(in crate::cgroup) fn none() -> Self {
        Self
    }

    pub(in crate::cgroup) fn anchor(&self) -> Self {
        Self
    }

    pub(in crate::cgroup) fn elsewhere(&self) -> Self {
        Self
    }

    pub(in crate::cgroup) fn child(&self, _: impl AsRef<OsStr>) -> Self {
        Self
    }

    pub(in crate::cgroup) fn parent(&self) -> Self {
        Self
    }

    pub(in crate::cgroup) fn controllers(&self) -> Vec<Controller> {
        Vec::new()
    }
}

pub(super) struct Tree;

impl Tree {
    pub(super) fn find(_: &[u8], _: &[u8]) -> Side {
        Side
    }
}

pub(super) fn unmounted_v2() -> Result<OwnedFd> {
    Err(no_mount("no cgroup2 file system is mounted")
        .also("with the feature `cgroup1` hosts that have only v1 mounted are served"))
}

impl Cgroup {
    pub(crate) fn v1_take_in(&self, _: u32) -> Result<()> {
        Ok(())
    }

    pub(in crate::cgroup) fn v1_take_in_thread(&self, _: u32) -> Result<()> {
        Ok(())
    }

    pub(crate) fn needs_v1_groups(&self, _: &Limits) -> Result<bool> {
        Ok(false)
    }

    pub(crate) fn v1_confines(&self) -> bool {
        false
    }

    pub(crate) fn confine_by_v1(&self, _: &DevicePolicy) -> Result<()> {
        Ok(())
    }

    pub(crate) fn has_v1_named(&self) -> bool {
        false
    }

    pub(crate) fn v1_delegate_named(&self, _: u32, _: u32) -> Result<()> {
        Ok(())
    }

    pub(in crate::cgroup) fn v1_effective_cpus(&self) -> Option<String> {
        None
    }

    pub(crate) fn has_v1_groups(&self) -> Result<bool> {
        Ok(false)
    }

    pub(in crate::cgroup) fn v1_remove(&self, _: Option<Instant>) -> Result<Option<OwnedFd>> {
        Ok(None)
    }

    pub(in crate::cgroup) fn v1_remove_below(&self, _: Option<Instant>) -> Result<()> {
        Ok(())
    }

    pub(in crate::cgroup) fn stats_v1(&self) -> Result<StatsV1> {
        Ok(StatsV1)
    }
}

#[derive(Debug)]
pub(super) struct StatsV1;

impl StatsV1 {
    pub(super) fn unread(_: &Cgroup) -> Self {
        Self
    }

    pub(super) fn refresh(&mut self, _: &OwnedFd, _: &Path) -> Result<()> {
        Ok(())
    }

    pub(super) fn read(&self, _: &mut Stats) -> Result<()> {
        Ok(())
    }

    pub(super) fn memory_events(&self) -> Result<Option<MemoryEvents>> {
        Ok(None)
    }

    pub(super) fn memory_share(&self) -> Option<MemoryShare> {
        None
    }

    pub(super) fn effective_cpus(&self) -> Option<String> {
        None
    }

    pub(super) fn cpu_quota(&self) -> Option<CpuMax> {
        None
    }

    pub(super) fn tasks(&self) -> Option<u64> {
        None
    }

    pub(super) fn block_devices(&self) -> Option<Vec<IoStats>> {
        None
    }
}

#[derive(Debug)]
pub(super) struct EventsV1;

impl EventsV1 {
    pub(super) fn of(_: &Cgroup, _: &OwnedFd) -> Result<Self> {
        Ok(Self)
    }

    pub(super) fn forget(&mut self) {}

    pub(super) fn must_look(&self) -> bool {
        false
    }

    pub(super) fn look(&mut self, _: impl FnMut(Event)) -> Result<()> {
        Ok(())
    }
}

#[derive(Debug)]
pub(super) struct Both<'a>(&'a Cgroup);

impl<'a> Both<'a> {
    pub(super) fn open(v2: &'a Cgroup) -> Result<Self> {
        Ok(Self(v2))
    }

    pub(super) fn place(&mut self, wanted: Vec<Setting>, _: Enforce) -> Result<(Vec<Setting>, Vec<Skipped>)> {
        Ok((wanted, Vec::new()))
    }

    pub(super) fn read_v1(&self, _: &mut Limits) -> Result<()> {
        Ok(())
    }
}

impl Files for Both<'_> {
    fn get(&self, name: &str) -> Result<String> {
        self.0.get(name)
    }

    fn put(&self, name: &str, value: &str) -> Result<()> {
        self.0.put(name, value)
    }

    fn names(&self) -> Result<Vec<String>> {
        self.0.names()
    }

    fn lacks(&self, controller: Controller, name: &str) -> Error {
        self.0.lacks(controller, name)
    }
}

pub(super) fn amount(_: &str, text: &str) -> Option<Limit> {
    Limit::parse(text)
}

pub(super) fn is_below_use(_: &str) -> bool {
    false
}

pub(super) fn usage_file(_: &str) -> Option<String> {
    None
}
