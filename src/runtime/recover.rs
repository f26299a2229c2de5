//! What a runtime that crashed left half-done, found by the next one that opens.
//!
//! But for a change of limits, no step writes an intent of its own. What is made has a name that tells whose it is, and an instance comes and goes
//! with one `rename(2)`; so what a crash leaves is what no record accounts for:
//!
//! | left by a crash in | what is there | what becomes of it |
//! |---|---|---|
//! | create, delete | a temporary name | removed when the store opens |
//! | create, delete, a pool | ids that no instance has | given back |
//! | rename | a directory of runs without its instance | removed |
//! | start, before the run is noted | a cgroup; a child that waits for its plan and ends with its host | the cgroup is removed, what is in it killed |
//! | start, later | a run on record, whose process is found by its number and identity | as any run |
//! | start, when network interfaces are made | their names on record; they go with the child's network namespace, or are removed by name and mark |
//! | update | a run on record that says so | the limits and the device policy on record are set |
//! | stop, or nothing in particular | a run on record whose process is gone | its cgroup is removed, its end noted |
//! | anything, of a virtual machine | a run on record whose host is gone | the cgroup of its threads is removed |
//!
//! Without a cgroup nothing is lost either: a process of a container has a record before it has a program.
//!
//! All this is looked through only where a runtime has crashed, or after a restart of the machine: a host that closes
//! its runtimes opens them at the cost of one small file.

use std::collections::HashSet;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::Runtime;
use crate::container::{Container, remove_cgroup};
use crate::error::{ErrorKind, Result};
use crate::instance::InstanceKind;
use crate::name::InstanceId;
use crate::op::Action;
use crate::sys::lock::Lock;

/// How long to wait for renames that go on.
const NAMES: Duration = Duration::from_secs(1);

impl Runtime {
    /// Deals with what crashed runtimes left. Nothing here keeps a runtime from opening: what fails is tried again by
    /// the next one.
    pub(super) fn recover(&self) {
        let between = self.inner.store.between();
        if between.crashed().is_empty() && !between.is_first() {
            return;
        }
        if matches!(self.recover_all(), Ok(true)) {
            let _ = between.forget_crashed();
        }
    }

    /// Says whether all is dealt with.
    fn recover_all(&self) -> Result<bool> {
        let store = &self.inner.store;
        let between = store.between();
        let end = Instant::now() + NAMES;
        while !between.try_names(Lock::Alone)? {
            if Instant::now() >= end {
                return Ok(false);
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        let seen = self.look_around();
        between.release_names();
        let seen = seen?;
        let mut complete = seen.complete;
        for id in store.list_dead_runs()? {
            complete &= self.with_name(&id, || store.remove_dead_run(&id))?;
        }
        for id in &seen.updating {
            complete &= Container::finish_update_of(self, id).is_ok();
        }
        #[cfg(feature = "vm")]
        for id in &seen.machines {
            // Looking at it removes what a run has left whose process is gone.
            complete &= self.with_name(id, || {
                // One that cannot be read has its own error for who asks for it.
                drop(self.vm(id));
                Ok(())
            })?;
        }
        for name in &seen.cgroups {
            complete &= self.remove_stray(name, &seen)?;
        }
        // Last: nobody may get ids that a process still has.
        if complete {
            for owner in &seen.owners {
                self.inner.ranges()?.release(owner)?;
            }
        }
        Ok(complete && !seen.in_doubt)
    }

    /// What there is, and what accounts for it.
    fn look_around(&self) -> Result<Seen> {
        let mut seen = Seen { complete: true, ..Seen::default() };
        // Before the records: who is closed now makes no new ones.
        let mut open = Vec::new();
        if self.has_ranges() {
            for owner in self.inner.ranges()?.list()?.into_iter().map(|a| a.owner) {
                match token_of_uuid(&owner) {
                    Some(token) if self.inner.store.between().is_open(token) => open.push(owner),
                    Some(_) => seen.owners.push(owner),
                    // Somebody else uses the allocator too.
                    None => {}
                }
            }
        }
        let prefix = self.inner.cgroup_prefix();
        if let Ok(parent) = self.inner.host.cgroup() {
            let names = parent.child_names()?;
            seen.cgroups = names.into_iter().filter(|n| n.starts_with(&prefix)).collect();
        }
        seen.cgroups.retain(|name| match token_of_pool(&name[prefix.len()..]) {
            Some(token) => !self.inner.store.between().is_open(token),
            None => true,
        });
        let mut uuids = HashSet::new();
        for id in self.inner.store.list()? {
            match Container::peek(self, &id) {
                Ok(found) => {
                    uuids.insert(found.uuid);
                    if found.updating {
                        seen.updating.push(id);
                    }
                    seen.running.extend(found.cgroup);
                }
                Err(e) if e.kind() == ErrorKind::NotFound => {}
                Err(_) => match self.kind_of(&id) {
                    // It has nothing but its records, and the cgroup that was to have its threads: what else it had ended
                    // with its process.
                    Ok(found) if found.kind == InstanceKind::Vm => {
                        uuids.insert(found.uuid);
                        seen.machines.push(id);
                    }
                    // Nobody can tell what is this one's.
                    _ => seen.complete = false,
                },
            }
        }
        seen.owners.retain(|owner| !uuids.contains(owner));
        // An instance that is being made; or one that a runtime made which is open still, and a crashed one deleted.
        seen.in_doubt = open.iter().any(|owner| !uuids.contains(owner));
        Ok(seen)
    }

    /// Whether ids were ever handed out here.
    fn has_ranges(&self) -> bool {
        self.inner.state_dir.join("idmap.json").exists() || self.inner.run_dir.join("idmap").exists()
    }

    /// Removes a cgroup that no run on record is in, with what is in it.
    fn remove_stray(&self, name: &str, seen: &Seen) -> Result<bool> {
        let parent = self.inner.host.cgroup()?;
        let cgroup = match parent.open_child(name) {
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(true),
            opened => opened?,
        };
        if seen.running.contains(cgroup.path()) {
            return Ok(true);
        }
        let of = name.strip_prefix(&self.inner.cgroup_prefix()).unwrap_or(name);
        let Ok(id) = of.replacen(':', "/", 1).parse::<InstanceId>() else {
            return remove_cgroup(&cgroup).map(|()| true);
        };
        self.with_name(&id, || {
            // It may have been started since.
            match Container::peek(self, &id) {
                Ok(found) if found.cgroup.as_deref() == Some(cgroup.path()) => Ok(()),
                Err(e) if e.kind() != ErrorKind::NotFound => Err(e),
                _ => remove_cgroup(&cgroup),
            }
        })
    }

    /// Does something while no runtime acts on an instance; says whether that could be.
    fn with_name(&self, id: &InstanceId, act: impl FnOnce() -> Result<()>) -> Result<bool> {
        let between = self.inner.store.between();
        let Ok(range) = between.try_name(&id.to_string(), Action::Settle)? else { return Ok(false) };
        let done = act();
        between.release(&range);
        done.map(|()| true)
    }
}

#[derive(Debug, Default)]
struct Seen {
    /// Every record could be read.
    complete: bool,
    /// There are ids of which cannot be told whether an instance is about to have them.
    in_doubt: bool,
    /// Who has ids and is no instance: their runtimes are closed.
    owners: Vec<String>,
    /// Cgroups that may be stray.
    cgroups: Vec<String>,
    /// Instances whose limits a crash left between two states.
    updating: Vec<InstanceId>,
    /// Virtual machines.
    machines: Vec<InstanceId>,
    /// Cgroups of running instances.
    running: HashSet<PathBuf>,
}

/// The token of the runtime that made an instance.
fn token_of_uuid(uuid: &str) -> Option<u64> {
    let hex = uuid.len() == 32 && uuid.bytes().all(|b| b.is_ascii_hexdigit());
    if hex { u64::from_str_radix(&uuid[..16], 16).ok() } else { None }
}

/// The token of the runtime that has a pool, from what follows the prefix in the name of one of its cgroups.
fn token_of_pool(name: &str) -> Option<u64> {
    u64::from_str_radix(name.strip_prefix("pool-")?.split_once('-')?.0, 16).ok()
}
