//! What is known of a machine's runs: here, on record, and among the processes of the host.

use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Arc;

use rustix::process::Pid;

use super::group;
use super::handle::{Ended, Live, Run, Seen, Vm, VmRecord};
use crate::error::{Error, ErrorKind, Result};
use crate::exit::ExitStatus;
use crate::instance::{InstanceInfo, InstanceKind, Status};
use crate::name::InstanceId;
use crate::op::Action;
use crate::runtime::Runtime;
use crate::store::{RunRecord, Stored, boot_id};
use crate::sys::pidfd;

impl Vm {
    /// The handle of a machine that has a record.
    pub(crate) fn load(runtime: Runtime, id: &InstanceId) -> Result<Self> {
        let stored: Stored<VmRecord> = runtime.inner().store.load(id).map_err(|e| e.with_instance(id))?;
        let mut record = stored.record;
        if record.config.durability() != stored.durability {
            return Err(Error::new(ErrorKind::Corrupt, "read the record of an instance")
                .detail("it lies in the directory of the other kind, durable or ephemeral")
                .with_instance(id));
        }
        let problems = record.config.problems();
        if !problems.is_empty() {
            return Err(Error::new(ErrorKind::Corrupt, "read the record of an instance")
                .detail(problems.join("; "))
                .with_instance(id));
        }
        // The directory has the last word on the name.
        record.config.id = id.clone();
        let running = runtime.vms().running(&record.uuid);
        let vm = Self::new(runtime, id.clone(), record);
        match running {
            Some(live) => *vm.run() = Run::Live(live),
            None => vm.look_at_record()?,
        }
        Ok(vm)
    }

    /// What the record of a run says now, of a machine that does not run here.
    fn look_at_record(&self) -> Result<()> {
        let store = &self.runtime.inner().store;
        let record = match store.load_run(&self.id())? {
            Some(record) if record.boot_id == boot_id()? => record,
            _ => return Ok(()),
        };
        let mut run = self.run();
        match &*run {
            // This handle knows more of that run.
            Run::Ended(ended) if is_same_time(ended.started_at, record.started_at) => return Ok(()),
            Run::Live(_) | Run::Deleted(_) => return Ok(()),
            _ => {}
        }
        let started_at = record.started_at;
        if let Some(path) =
            record.cgroup_path.as_deref().filter(|_| record.exit.is_some() || !is_there(&record))
        {
            // Where it cannot be removed now the next start says so.
            let _ = group::remove_left(Path::new(path));
        }
        *run = match record.exit {
            None if is_there(&record) => Run::Elsewhere { pid: record.pid, started_at },
            // Its process has died, and the machine with it, but for its cgroup.
            exit => Run::Ended(Ended { exit: exit.unwrap_or(ExitStatus::Unknown), started_at, seen: None }),
        };
        Ok(())
    }

    /// Takes note of a run that has ended, wherever it was.
    pub(super) fn settle_if_ended(&self) -> Result<()> {
        let live = match &*self.run() {
            Run::Live(live) => Some(Arc::clone(live)),
            Run::Deleted(_) => return Ok(()),
            _ => None,
        };
        let Some(live) = live else { return self.look_at_record() };
        if live.machine.control().reason().is_none() {
            return Ok(());
        }
        live.machine.join();
        let _guard = self.lock.settle(self.between(), &|| self.id().to_string())?;
        self.note_end(&live)
    }

    /// Writes down the end of a run. Of several callers one does it.
    fn note_end(&self, live: &Arc<Live>) -> Result<()> {
        let mut run = self.run();
        match &*run {
            Run::Live(current) if Arc::ptr_eq(current, live) => {}
            _ => return Ok(()),
        }
        let Some(reason) = live.machine.control().reason() else { return Ok(()) };
        let exit = reason.status();
        self.runtime.vms().ended(&self.uuid);
        let seen = Seen { reason, console: Arc::clone(&live.console), counts: live.machine.exit_counts() };
        *run = Run::Ended(Ended { exit, started_at: live.record.started_at, seen: Some(seen) });
        drop(run);
        let record = live.record(Some(exit), self.runtime.vms().above());
        match self.runtime.inner().store.save_run(&self.id(), self.config().durability(), &record) {
            // Deleted behind our back; or a full disk, which must not keep it from ending.
            Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::Exhausted) => Ok(()),
            done => done,
        }
    }

    /// The run in this runtime; an error in any other state.
    pub(super) fn live(&self) -> Result<Arc<Live>> {
        self.settle_if_ended()?;
        match &*self.run() {
            Run::Live(live) => Ok(Arc::clone(live)),
            Run::Deleted(_) => Err(self.gone()),
            Run::Elsewhere { pid, .. } => Err(elsewhere(*pid)),
            Run::Never | Run::Ended(_) => {
                Err(Error::new(ErrorKind::InvalidState, "find the running virtual machine")
                    .detail("it is not running"))
            }
        }
    }

    /// Its state now; see [`Instance::status`](crate::instance::Instance::status).
    pub fn status(&self) -> Status {
        match self.lock.current() {
            Some(Action::Start) => return Status::Starting,
            Some(Action::Stop | Action::Shutdown) => return Status::Stopping,
            Some(Action::Freeze) => return Status::Freezing,
            _ => {}
        }
        if self.settle_if_ended().is_err() {
            return Status::Error;
        }
        match &*self.run() {
            Run::Live(live) if live.machine.control().is_paused() => Status::Frozen,
            Run::Live(_) | Run::Elsewhere { .. } => Status::Running,
            _ => Status::Stopped,
        }
    }

    /// All that is known about it; see [`Instance::info`](crate::instance::Instance::info).
    ///
    /// # Errors
    /// As there.
    pub fn info(&self) -> Result<InstanceInfo> {
        let config = self.config();
        let mut info =
            InstanceInfo::new((*self.id()).clone(), InstanceKind::Vm, self.status(), self.created_at);
        info.ephemeral = config.ephemeral;
        let root = config.guest.as_ref().and_then(|guest| guest.root_disk());
        info.rootfs = match (root, &config.initramfs) {
            (Some((disk, _)), _) => format!("disk {}", disk.display()),
            (None, Some(path)) => format!("initramfs {}", path.display()),
            (None, None) => "none".to_owned(),
        };
        match &*self.run() {
            Run::Live(live) => {
                let given = live.given();
                info.started_at = Some(live.record.started_at);
                info.cgroup = given.group.as_ref().map(|group| group.path().to_owned());
                info.skipped_limits = given.skipped.clone();
            }
            Run::Elsewhere { started_at, .. } => info.started_at = Some(*started_at),
            Run::Ended(ended) => {
                info.exit_status = Some(ended.exit);
                info.started_at = Some(ended.started_at);
            }
            Run::Never => {}
            Run::Deleted(_) => return Err(self.gone().with_instance(self.id())),
        }
        Ok(info)
    }
}

/// Records have whole milliseconds, and no two runs begin in one.
fn is_same_time(a: std::time::SystemTime, recorded: std::time::SystemTime) -> bool {
    a.duration_since(recorded).is_ok_and(|d| d < std::time::Duration::from_millis(1))
}

pub(super) fn elsewhere(pid: u32) -> Error {
    Error::new(ErrorKind::Unsupported, "reach the virtual machine")
        .detail(format!("it runs in another runtime, of process {pid}"))
        .hint("act on it in that runtime: a virtual machine is a part of the process that started it")
}

/// The record of a run that begins now in this process.
pub(super) fn record_of_now(cgroup: Option<&Path>) -> Result<RunRecord> {
    let failed = |e| Error::sys("identify this process", e);
    let pid = rustix::process::getpid();
    let fd = pidfd::open(pid).map_err(failed)?;
    let unique = pidfd::has_unique_inodes();
    Ok(RunRecord {
        pid: std::process::id(),
        start_time_ticks: if unique { None } else { start_time(pid) },
        pidfd_inode: if unique { Some(pidfd::identity(fd.as_fd()).map_err(failed)?) } else { None },
        boot_id: boot_id()?.to_owned(),
        cgroup_path: cgroup.map(|path| path.display().to_string()),
        cgroup_id: None,
        started_at: std::time::SystemTime::now(),
        exit: None,
        skipped: Vec::new(),
        host_links: Vec::new(),
        updating: false,
        reboots: Vec::new(),
        stays: false,
    })
}

fn start_time(pid: Pid) -> Option<u64> {
    let process = procfs::process::Process::new(pid.as_raw_nonzero().get()).ok()?;
    process.stat().ok().map(|stat| stat.starttime)
}

/// Whether the process of the record still runs.
fn is_there(record: &RunRecord) -> bool {
    let Some(pid) = i32::try_from(record.pid).ok().and_then(Pid::from_raw) else { return false };
    let Ok(fd) = pidfd::open(pid) else { return false };
    let ended = pidfd::wait_ended(fd.as_fd(), Some(std::time::Instant::now())).unwrap_or(false);
    let same = match record.pidfd_inode {
        Some(inode) if pidfd::has_unique_inodes() => pidfd::identity(fd.as_fd()).is_ok_and(|is| is == inode),
        _ => record.start_time_ticks.is_some() && record.start_time_ticks == start_time(pid),
    };
    same && !ended
}
