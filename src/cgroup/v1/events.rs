//! What happens in v1 groups. v1 reports running out of memory, to an eventfd, and nothing else: counts are looked at.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use rustix::event::{EventfdFlags, epoll, eventfd};
use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;

use super::StatsV1;
use crate::cgroup::Cgroup;
use crate::cgroup::events::{Event, memory};
use crate::cgroup::stats::{MemoryEvents, PidsEvents};
use crate::error::{Error, Result};
use crate::sys::fd::write_at;
use crate::sys::raw::retry;

/// The events of a cgroup's v1 groups.
#[derive(Debug, Default)]
pub(in crate::cgroup) struct EventsV1 {
    stats: StatsV1,
    memory: Option<MemoryEvents>,
    pids: Option<PidsEvents>,
    /// Readable once the kernel has run out of memory for the group.
    oom: Option<OwnedFd>,
}

impl EventsV1 {
    /// From now on. What has a report goes into the epoll set.
    pub(in crate::cgroup) fn of(cgroup: &Cgroup, set: &OwnedFd) -> Result<Self> {
        let stats = cgroup.stats_v1()?;
        let (memory, pids) = (stats.memory_events()?, stats.pids_events()?);
        let failed = |e| Error::sys("watch the v1 groups of cgroup", e).path(cgroup.path());
        let oom = memory.as_ref().map(|_| watch_oom(&stats, set)).transpose().map_err(failed)?.flatten();
        Ok(Self { stats, memory, pids, oom })
    }

    /// Closes what it has open: the groups are gone.
    pub(in crate::cgroup) fn forget(&mut self) {
        *self = Self::default();
    }

    /// Whether there are counts of which the kernel reports nothing.
    pub(in crate::cgroup) fn must_look(&self) -> bool {
        self.memory.is_some() || self.pids.is_some()
    }

    /// Gives what is new.
    pub(in crate::cgroup) fn look(&mut self, mut push: impl FnMut(Event)) -> Result<()> {
        if let Some(oom) = &self.oom {
            let mut count = [0_u8; 8];
            // That it has happened the counts say.
            let _ = retry(|| rustix::io::read(oom, &mut count));
        }
        if let Some(old) = &mut self.memory {
            match self.stats.memory_events()? {
                Some(now) => memory(&std::mem::replace(old, now.clone()), &now, &mut push),
                None => self.memory = None,
            }
        }
        if let Some(old) = &mut self.pids {
            match self.stats.pids_events()? {
                Some(now) => {
                    let times = now.max.saturating_sub(std::mem::replace(old, now).max);
                    if times > 0 {
                        push(Event::PidsMax { times });
                    }
                }
                None => self.pids = None,
            }
        }
        Ok(())
    }
}

/// Has the kernel report to an eventfd (`cgroup.event_control`) that the group has run out of memory. `None` where the
/// kernel has no such reports.
fn watch_oom(stats: &StatsV1, set: &OwnedFd) -> std::result::Result<Option<OwnedFd>, Errno> {
    let Some(file) = stats.path("memory.oom_control") else { return Ok(None) };
    let opened = retry(|| rustix::fs::openat(CWD, &file, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()));
    let (control, report) = (opened?, eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
    let ask = format!("{} {}", report.as_raw_fd(), control.as_raw_fd());
    match write_at(CWD.as_fd(), &file.with_file_name("cgroup.event_control"), ask.as_bytes()) {
        Err(Errno::NOENT | Errno::INVAL | Errno::OPNOTSUPP) => return Ok(None),
        asked => asked?,
    }
    epoll::add(set, &report, epoll::EventData::new_u64(0), epoll::EventFlags::IN)?;
    Ok(Some(report))
}
