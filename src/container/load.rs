//! Finding a container again: from its records, and among the processes of the machine.

use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustix::process::Pid;

use super::handle::{Container, ContainerRecord, Run};
use super::live::Live;
use crate::cgroup::Cgroup;
use crate::error::{Error, ErrorKind, Result};
use crate::exit::ExitStatus;
use crate::idmap::{IdKind, IdMap};
use crate::name::InstanceId;
use crate::op::{Action, Deadline};
use crate::runtime::Runtime;
use crate::spawn::Child;
use crate::store::{RunRecord, Stored, boot_id};
use crate::sys::pidfd;
use crate::sys::process::{PF_FORKNOEXEC, process_flags};

/// How long a start may go on whose host has died: all that it waits for is the kernel.
const START: Duration = Duration::from_secs(10);

/// What belongs to a container.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) uuid: String,
    /// Of its run.
    pub(crate) cgroup: Option<PathBuf>,
    /// A change of its limits was cut short.
    pub(crate) updating: bool,
}

impl Container {
    /// The handle of a container that has a record.
    pub(crate) fn load(runtime: Runtime, id: &InstanceId) -> Result<Self> {
        let container = Self::load_as_is(runtime, id)?;
        // Tried again by the next one.
        let _ = container.finish_update();
        Ok(container)
    }

    fn load_as_is(runtime: Runtime, id: &InstanceId) -> Result<Self> {
        let inner = runtime.inner();
        let stored: Stored<ContainerRecord> = inner.store.load(id).map_err(|e| e.with_instance(id))?;
        let run_record = inner.store.load_run(id).map_err(|e| e.with_instance(id))?;
        // The directory has the last word on the name.
        let mut record = stored.record;
        if record.config.durability() != stored.durability {
            return Err(Error::new(ErrorKind::Corrupt, "read the record of an instance")
                .detail("it lies in the directory of the other kind, durable or ephemeral")
                .with_instance(id));
        }
        record.config = record.config.with_id(id.clone());
        let container = Self::new(runtime, id.clone(), record, Run::Never);
        let run = match run_record {
            Some(run) => container.find_run(run)?.unwrap_or(Run::Never),
            None => Run::Never,
        };
        *container.run() = run;
        Ok(container)
    }

    /// What a container has, for who looks for what nobody has. Ends what is left of a run that has ended.
    pub(crate) fn peek(runtime: &Runtime, id: &InstanceId) -> Result<Found> {
        let container = Self::load_to_look(runtime, id)?;
        let (cgroup, updating) = match &*container.run() {
            Run::Live(live) => (live.record.cgroup_path.clone().map(PathBuf::from), live.record.updating),
            _ => (None, false),
        };
        Ok(Found { uuid: container.uuid.clone(), cgroup, updating })
    }

    /// A handle that changes nothing, not even when it is dropped.
    pub(super) fn load_to_look(runtime: &Runtime, id: &InstanceId) -> Result<Self> {
        let container = Self::load_as_is(runtime.clone(), id)?;
        let mut config = (*container.config()).clone();
        config.kill_on_drop = false;
        *container.config.write().unwrap_or_else(|e| e.into_inner()) = Arc::new(config);
        Ok(container)
    }

    /// What a run record stands for now; `None` where its start has not come to an end yet.
    pub(super) fn find_run(&self, record: RunRecord) -> Result<Option<Run>> {
        if record.boot_id != boot_id()? {
            return Ok(Some(Run::Never));
        }
        let started_at = record.started_at;
        if let Some(exit) = record.exit {
            return Ok(Some(Run::Ended { exit, started_at }));
        }
        let Some(child) = find_process(&record) else { return self.bury(&record) };
        if !self.wait_for_start(&child)? {
            return Ok(None);
        }
        let cgroup = self.cgroup_of(&record);
        let id_map = self.id_map_of(&child)?;
        let (child, guests) = (Arc::new(child), Arc::default());
        let skipped = Mutex::default();
        Ok(Some(Run::Live(Arc::new(Live { child, guests, cgroup, id_map, started_at, record, skipped }))))
    }

    /// Removes what is left of a run that ended while nobody looked.
    fn bury(&self, record: &RunRecord) -> Result<Option<Run>> {
        let _guard = self.begin_settling()?;
        let store = &self.runtime.inner().store;
        // Others may have come first.
        let record = match store.load_run(&self.id())? {
            Some(now) if now.is_same_run(record) => now,
            // One that begins or has begun since: the next look finds it.
            _ => return Ok(None),
        };
        let started_at = record.started_at;
        if let Some(exit) = record.exit {
            return Ok(Some(Run::Ended { exit, started_at }));
        }
        if let Some(cgroup) = self.cgroup_of(&record) {
            super::live::remove_cgroup(&cgroup)?;
        }
        super::nics::remove(&record.host_links, &self.uuid, Deadline::after(START))?;
        let exit = ExitStatus::Unknown;
        self.write_end(RunRecord { exit: Some(exit), ..record })?;
        if self.config().allots_cpus() {
            self.runtime.settle_cpus();
        }
        Ok(Some(Run::Ended { exit, started_at }))
    }

    /// The record of a run is there before its program runs. Nobody may take the process for the container until it
    /// is inside: says `false` while somebody starts it. Where nobody does, he has died: with all that it needs the
    /// child comes to its end alone, one way or the other.
    fn wait_for_start(&self, child: &Child) -> Result<bool> {
        let end = Instant::now() + START;
        let starts = |action| matches!(action, Some(Action::Start | Action::Restart));
        while is_starting(child.id()) {
            if starts(self.other_action()?) || starts(self.lock.current()) {
                return Ok(false);
            }
            if Instant::now() >= end {
                child.kill_and_reap();
                return Ok(false);
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(true)
    }

    /// The map that the running container has. What the files delegate to an ordinary user may be different by now.
    fn id_map_of(&self, child: &Child) -> Result<Option<IdMap>> {
        let now = self.id_map()?;
        if now.is_none() || self.runtime.inner().host.writes_maps() {
            return Ok(now);
        }
        let read =
            |kind: IdKind| std::fs::read_to_string(format!("/proc/{}/{}", child.id(), kind.map_file()));
        match (read(IdKind::Uid), read(IdKind::Gid)) {
            (Ok(uids), Ok(gids)) => Ok(IdMap::parse_kernel(&uids, &gids).ok().or(now)),
            _ => Ok(now),
        }
    }

    /// The cgroup of the run, if it is still the same one.
    fn cgroup_of(&self, record: &RunRecord) -> Option<Cgroup> {
        let path = record.cgroup_path.as_ref()?;
        let cgroup = self.runtime.inner().host.open_cgroup(path).ok()?;
        let same = record.cgroup_id.is_none_or(|id| cgroup.id().is_ok_and(|found| found.get() == id));
        same.then_some(cgroup)
    }
}

/// The process of a run record, if it is still the same one.
fn find_process(record: &RunRecord) -> Option<Child> {
    let pid = Pid::from_raw(i32::try_from(record.pid).ok()?)?;
    let fd = pidfd::open(pid).ok()?;
    let child = Child::new(pid, fd);
    let found = identity(&child).ok()?;
    let same = match (record.pidfd_inode, found.inode) {
        (Some(was), Some(is)) => was == is,
        _ => record.start_time_ticks.is_some() && record.start_time_ticks == found.start_time_ticks,
    };
    same.then_some(child)
}

/// Whether the process has not executed its program yet: it is stage-2, or a copy of its maker that has executed
/// nothing (`PF_FORKNOEXEC`, `proc_pid_stat(5)`). One that cannot be looked at is none: it ends.
fn is_starting(pid: u32) -> bool {
    let exe = std::fs::read_link(format!("/proc/{pid}/exe")).unwrap_or_default();
    if exe.to_string_lossy().starts_with("/memfd:stockade-stage2") {
        return true;
    }
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    process_flags(&stat).is_some_and(|flags| flags & PF_FORKNOEXEC != 0)
}

/// What tells a process from all others of this boot.
#[derive(Clone, Copy, Debug)]
pub(super) struct Identity {
    /// Linux 6.9: the pidfd's inode.
    pub(super) inode: Option<u64>,
    /// Before that: its start time.
    pub(super) start_time_ticks: Option<u64>,
}

/// Reads it. One system call where inodes of pidfds are unique.
pub(super) fn identity(child: &Child) -> Result<Identity> {
    if pidfd::has_unique_inodes() {
        let inode = pidfd::identity(child.as_fd()).map_err(|e| Error::sys("identify the process", e))?;
        return Ok(Identity { inode: Some(inode), start_time_ticks: None });
    }
    let stat = procfs::process::Process::new(child.pid().as_raw_nonzero().get())
        .and_then(|p| p.stat())
        .map_err(|e| Error::new(ErrorKind::Died, "identify the process").with_source(e))?;
    Ok(Identity { inode: None, start_time_ticks: Some(stat.starttime) })
}
