//! What a container uses, and what happens to it: that of its cgroup.

use super::handle::Container;
use crate::cgroup::{Cgroup, Events, PressureTrigger, PressureWatch, Stats, StatsReader};
use crate::error::{Error, ErrorKind, Result};
use crate::instance::Metrics;

impl Container {
    /// All its statistics, read once; see [`Metrics`].
    ///
    /// # Errors
    /// As there.
    pub fn stats(&self) -> Result<Stats> {
        self.of_cgroup("stats", Cgroup::stats)
    }

    /// Its statistics to be read again and again; see [`Metrics::stats_reader`].
    ///
    /// # Errors
    /// As there.
    pub fn stats_reader(&self) -> Result<StatsReader> {
        self.of_cgroup("stats", Cgroup::stats_reader)
    }

    /// What happens to it from now on; see [`Metrics::resource_events`].
    ///
    /// # Errors
    /// As there.
    pub fn resource_events(&self) -> Result<Events> {
        self.of_cgroup("events", Cgroup::events)
    }

    /// A report when waiting for a resource takes too much of its time; see [`Metrics::watch_pressure`].
    ///
    /// # Errors
    /// As there.
    pub fn watch_pressure(&self, trigger: PressureTrigger) -> Result<PressureWatch> {
        self.of_cgroup("watch of pressure", |cgroup| cgroup.watch_pressure(trigger))
    }

    fn of_cgroup<T>(&self, op: &'static str, get: impl FnOnce(&Cgroup) -> Result<T>) -> Result<T> {
        let got = self.live().and_then(|live| match &live.cgroup {
            Some(cgroup) => get(cgroup),
            None => Err(Error::new(ErrorKind::Unsupported, "find the cgroup")
                .detail("the container has none of its own")
                .hint("make it with CgroupConfig::Auto")),
        });
        got.map_err(|e| e.with_op(op).with_instance(self.id()))
    }
}

impl Metrics for Container {
    fn stats(&self) -> Result<Stats> {
        Self::stats(self)
    }

    fn stats_reader(&self) -> Result<StatsReader> {
        Self::stats_reader(self)
    }

    fn resource_events(&self) -> Result<Events> {
        Self::resource_events(self)
    }

    fn watch_pressure(&self, trigger: PressureTrigger) -> Result<PressureWatch> {
        Self::watch_pressure(self, trigger)
    }
}
