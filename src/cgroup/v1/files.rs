//! The files of a cgroup, those of its v1 groups among them.
//!
//! cgroups-rs writes them; an empty value and the files that it does not know are written here. It opens files so that
//! one that is not there looks like one that may not be written, and its readers of more than one number turn every error
//! into zero: so whether a file is there is asked first, and files are read here.

use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use cgroups_rs::fs::MaxValue;
use cgroups_rs::fs::blkio::BlkIoController;
use cgroups_rs::fs::cpu::CpuController;
use cgroups_rs::fs::cpuset::CpuSetController;
use cgroups_rs::fs::error::{Error as V1Error, Result as V1Result};
use cgroups_rs::fs::memory::MemController;
use cgroups_rs::fs::pid::PidController;
use rustix::fs::{Access, AtFlags, CWD};
use rustix::io::Errno;

use super::{Groups, name_of, settings};
use crate::cgroup::apply::{Enforce, Skipped};
use crate::cgroup::setting::{Files, Setting};
use crate::cgroup::{Cgroup, Controller, DELEGATION};
use crate::error::{Error, ErrorKind, Result};
use crate::sys::fd::{read_at, write_at};
use crate::sys::raw::retry;

/// More than any of the files holds.
const LIMIT: usize = 1 << 20;

/// A cgroup with its v1 groups.
#[derive(Debug)]
pub(in crate::cgroup) struct Both<'a> {
    v2: &'a Cgroup,
    groups: Groups,
}

impl<'a> Both<'a> {
    pub(in crate::cgroup) fn open(v2: &'a Cgroup) -> Result<Self> {
        Ok(Self { v2, groups: v2.v1_groups()? })
    }

    /// The settings as they are to be written: those of controllers that v1 holds in its terms, with the groups made that
    /// they need; and those for which none could be made.
    pub(in crate::cgroup) fn place(
        &mut self,
        wanted: Vec<Setting>,
        enforce: Enforce,
    ) -> Result<(Vec<Setting>, Vec<Skipped>)> {
        let mut skipped = Vec::new();
        if wanted.is_empty() || self.v2.v1.tree.is_none() {
            return Ok((wanted, skipped));
        }
        let own = self.v2.controllers()?;
        let (mut here, there): (Vec<_>, Vec<_>) = wanted
            .into_iter()
            .partition(|s| own.contains(&s.controller) || self.v2.v1.place_of(s.controller).is_none());
        if there.is_empty() {
            return Ok((here, skipped));
        }
        let (mut known, unknown): (Vec<_>, Vec<_>) = there.into_iter().partition(settings::is_known);
        match self.v2.v1_make(&mut self.groups, &known) {
            Ok(()) => {}
            Err(e) if enforce.allows(&e) => {
                // Each by itself, so that each has its reason.
                let mut left = Vec::new();
                for setting in known {
                    match self.v2.v1_make(&mut self.groups, std::slice::from_ref(&setting)) {
                        Ok(()) => left.push(setting),
                        Err(reason) if enforce.allows(&reason) => {
                            skipped.push(Skipped { file: setting.file.into_owned(), reason });
                        }
                        Err(e) => return Err(e),
                    }
                }
                known = left;
            }
            Err(e) => return Err(e),
        }
        here.extend(unknown);
        here.extend(settings::translate(known, self)?);
        Ok((here, skipped))
    }

    /// The v1 file of this name.
    pub(super) fn v1_file(&self, name: &str) -> Option<PathBuf> {
        if let Some(rest) = name.strip_prefix("../") {
            // What the one above can give, in the words of v1.
            let (controller, file) = match rest {
                "cpuset.cpus.effective" => ("cpuset", "cpuset.effective_cpus"),
                "cpuset.mems.effective" => ("cpuset", "cpuset.effective_mems"),
                _ => return None,
            };
            return Some(self.groups.of(controller)?.parent()?.join(file));
        }
        let (controller, _) = name.split_once('.')?;
        Some(self.groups.of(controller)?.join(name))
    }

    /// Reads a v1 file; `None` where there is no such.
    pub(super) fn v1_get(&self, name: &str) -> Result<Option<String>> {
        match self.v1_file(name).map(|path| (read_at(CWD, &path, LIMIT), path)) {
            None | Some((Err(Errno::NOENT), _)) => Ok(None),
            Some((Ok(bytes), _)) => Ok(Some(String::from_utf8_lossy(&bytes).into_owned())),
            Some((Err(errno), path)) => Err(failed(format!("read {name}"), &path, errno)),
        }
    }
}

impl Files for Both<'_> {
    fn get(&self, name: &str) -> Result<String> {
        let Some(path) = self.v1_file(name) else { return self.v2.get(name) };
        let bytes = read_at(CWD, &path, LIMIT).map_err(|e| failed(format!("read {name}"), &path, e))?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    fn put(&self, name: &str, value: &str) -> Result<()> {
        let Some(path) = self.v1_file(name) else { return self.v2.put(name, value) };
        let written = write(&path, name, value);
        written.map_err(|e| failed(format!("write `{}` to {name}", value.trim()), &path, e))
    }

    fn names(&self) -> Result<Vec<String>> {
        self.v2.names()
    }

    fn lacks(&self, controller: Controller, name: &str) -> Error {
        let held = self.v2.v1.place_of(controller).zip(name_of(controller));
        match held.filter(|_| self.v2.controllers().is_ok_and(|own| !own.contains(&controller))) {
            Some(((_, dir), v1_name)) => Error::new(ErrorKind::Unsupported, "set limit")
                .path(dir)
                .detail(format!("cgroup v1 holds {v1_name} on this host and has no such limit as {name}"))
                .hint(settings::instead_of(name)),
            None => self.v2.lacks(controller, name),
        }
    }
}

fn failed(step: String, path: &Path, errno: Errno) -> Error {
    let e = Error::sys(step, errno).path(path);
    match errno {
        Errno::ACCESS | Errno::PERM => e.hint(DELEGATION),
        Errno::NODEV => e.with_kind(ErrorKind::NotFound).detail("the v1 group was removed"),
        _ => e,
    }
}

/// Writes one v1 file.
fn write(path: &Path, name: &str, value: &str) -> Result<(), Errno> {
    retry(|| rustix::fs::accessat(CWD, path, Access::EXISTS, AtFlags::empty()))?;
    let Some(dir) = path.parent().map(Path::to_owned) else { return Err(Errno::INVAL) };
    match write_by_crate(dir, name, value.trim()) {
        Some(done) => done.map_err(|e| errno(&e)),
        None => write_at(CWD.as_fd(), path, value.as_bytes()),
    }
}

/// `None` for what cgroups-rs has no method for.
fn write_by_crate(dir: PathBuf, name: &str, value: &str) -> Option<V1Result<()>> {
    let cpu = |dir: PathBuf| CpuController::new(dir.clone(), dir, false);
    let memory = |dir: PathBuf| MemController::new(dir.clone(), dir, false);
    let cpuset = |dir: PathBuf| CpuSetController::new(dir.clone(), dir, false);
    let rate = |set: fn(&BlkIoController, u64, u64, u64) -> V1Result<()>| {
        let (device, rate) = value.split_once(' ')?;
        let (major, minor) = device.split_once(':')?;
        let io = BlkIoController::new(dir.clone(), dir.clone(), false);
        Some(set(&io, major.parse().ok()?, minor.parse().ok()?, rate.parse().ok()?))
    };
    match name {
        "blkio.throttle.read_bps_device" => rate(BlkIoController::throttle_read_bps_for_device),
        "blkio.throttle.write_bps_device" => rate(BlkIoController::throttle_write_bps_for_device),
        "blkio.throttle.read_iops_device" => rate(BlkIoController::throttle_read_iops_for_device),
        "blkio.throttle.write_iops_device" => rate(BlkIoController::throttle_write_iops_for_device),
        "pids.max" => {
            let max = match value {
                "max" => MaxValue::Max,
                number => MaxValue::Value(number.parse().ok()?),
            };
            Some(PidController::new(dir.clone(), dir, false).set_pid_max(max))
        }
        "cpu.shares" => Some(cpu(dir).set_shares(value.parse().ok()?)),
        "cpu.cfs_period_us" => Some(cpu(dir).set_cfs_period(value.parse().ok()?)),
        "cpu.cfs_quota_us" => Some(cpu(dir).set_cfs_quota(value.parse().ok()?)),
        "memory.limit_in_bytes" => Some(memory(dir).set_limit(value.parse().ok()?)),
        "memory.memsw.limit_in_bytes" => Some(memory(dir).set_memswap_limit(value.parse().ok()?)),
        "memory.soft_limit_in_bytes" => Some(memory(dir).set_soft_limit(value.parse().ok()?)),
        // It writes nothing at all of an empty value.
        "cpuset.cpus" if !value.is_empty() => Some(cpuset(dir).set_cpus(value)),
        "cpuset.mems" if !value.is_empty() => Some(cpuset(dir).set_mems(value)),
        _ => None,
    }
}

/// What the kernel said.
pub(super) fn errno(e: &V1Error) -> Errno {
    let cause = std::error::Error::source(e).and_then(|e| e.downcast_ref::<std::io::Error>());
    cause.and_then(std::io::Error::raw_os_error).map_or(Errno::IO, Errno::from_raw_os_error)
}
