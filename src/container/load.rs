//! Finding a container again: from its records, and among the processes of the machine.

use rustix::process::Pid;
use std::os::fd::AsFd;
use std::sync::Arc;

use super::handle::{Container, ContainerRecord, Run};
use super::live::Live;
use crate::cgroup::Cgroup;
use crate::error::{Error, ErrorKind, Result};
use crate::exit::ExitStatus;
use crate::idmap::{IdKind, IdMap};
use crate::name::InstanceId;
use crate::runtime::Runtime;
use crate::spawn::Child;
use crate::store::{RunRecord, Stored, boot_id};
use crate::sys::pidfd;

impl Container {
    /// The handle of a container that has a record.
    pub(crate) fn load(runtime: Runtime, id: &InstanceId) -> Result<Self> {
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
            Some(run) => container.find_run(run)?,
            None => Run::Never,
        };
        *container.run() = run;
        Ok(container)
    }

    /// What a run record stands for now.
    pub(super) fn find_run(&self, record: RunRecord) -> Result<Run> {
        if record.boot_id != boot_id()? {
            return Ok(Run::Never);
        }
        let started_at = record.started_at;
        if let Some(exit) = record.exit {
            return Ok(Run::Ended { exit, started_at });
        }
        let cgroup = self.cgroup_of(&record);
        match find_process(&record) {
            Some(child) => {
                let id_map = self.id_map_of(&child)?;
                let (child, guests) = (Arc::new(child), Arc::default());
                Ok(Run::Live(Arc::new(Live { child, guests, cgroup, id_map, started_at, record })))
            }
            None => {
                // It ended while nobody looked. What is left of it goes now.
                if let Some(cgroup) = &cgroup {
                    super::live::remove_cgroup(cgroup)?;
                }
                let exit = ExitStatus::Unknown;
                let record = RunRecord { exit: Some(exit), ..record };
                let id = self.id();
                self.runtime.inner().store.save_run(&id, self.config().durability(), &record)?;
                Ok(Run::Ended { exit, started_at })
            }
        }
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
