//! Changing a container, while it runs or not: its limits here, its devices in their own file.
//!
//! ```text
//! run record: a change is on its way
//! record: the new configuration   a crash from here on: the next runtime writes what the record says
//! kernel: all of the change or nothing of it
//! on failure: the old record again
//! run record: nothing is on its way
//! ```

use std::os::fd::AsFd;
use std::sync::Arc;

use serde::Deserialize;

use super::config::{CgroupConfig, ContainerConfig};
use super::devices;
use super::handle::{Container, Run};
use super::live::Live;
use crate::cgroup::{Cgroup, ChangeOptions, CpuSet, DevicePolicy, Enforce, Limits, Skipped};
use crate::error::{ErrorKind, Result};
use crate::instance::{CpuNodes, Cpus, UpdateOptions};
use crate::name::InstanceId;
use crate::op::{Action, Deadline};
use crate::runtime::Runtime;
use crate::store::RunRecord;

/// What a record says that can change.
#[derive(Deserialize)]
struct Recorded {
    uuid: String,
    config: RecordedConfig,
}

#[derive(Deserialize)]
struct RecordedConfig {
    #[serde(default)]
    limits: Limits,
    #[serde(default)]
    cpus: Cpus,
    #[serde(default)]
    cpu_nodes: CpuNodes,
    #[serde(default)]
    enforce: Enforce,
    #[serde(default)]
    devices: Option<DevicePolicy>,
}

impl Container {
    /// Changes limits with default options: those that `limits` names, and no others.
    ///
    /// # Errors
    /// As [`update_with`](Self::update_with).
    pub fn update(&self, limits: Limits) -> Result<Vec<Skipped>> {
        self.update_with(UpdateOptions::new(limits))
    }

    /// Changes limits; see [`Instance::update_with`](crate::instance::Instance::update_with).
    ///
    /// # Errors
    /// As there.
    pub fn update_with(&self, options: UpdateOptions) -> Result<Vec<Skipped>> {
        let done = self.begin(Action::Update).and_then(|_guard| self.update_locked(&options));
        self.named(Action::Update, done)
    }

    fn update_locked(&self, options: &UpdateOptions) -> Result<Vec<Skipped>> {
        let (live, old) = self.to_change()?;
        let mut new = (*old).clone();
        new.limits = old.limits.patched(&options.limits);
        new.enforce = options.enforce.unwrap_or(old.enforce);
        new.cpus = options.cpus.clone().unwrap_or_else(|| old.cpus.clone());
        new.cpu_nodes = options.cpu_nodes.clone().unwrap_or_else(|| old.cpu_nodes.clone());
        new.check()?;
        let cgroup = live.as_ref().and_then(|live| live.cgroup.as_ref());
        let kernel = self.with_changed_cpus(&old, &new, cgroup)?;
        kernel.limits.check_host()?;
        let Some(live) = live else {
            self.save_config(new)?;
            return Ok(Vec::new());
        };
        let cgroup = live.cgroup.as_ref().filter(|_| !kernel.limits.is_empty());
        let Some(cgroup) = cgroup else {
            self.save_config(new)?;
            return Ok(Vec::new());
        };
        self.enable_controllers(&kernel)?;
        let change = ChangeOptions {
            enforce: new.enforce,
            below_use: options.below_use,
            deadline: Deadline::from(options.deadline).instant(),
            fault: options.fault,
            ..ChangeOptions::default()
        };
        let allots = old.allots_cpus() || new.allots_cpus();
        let stop = options.cancel.as_ref().map(AsFd::as_fd);
        let skipped = self.change(&live, &old, new, || {
            let skipped = cgroup.update_unless(&kernel.limits, &change, stop)?;
            live.set_skipped(skipped.iter().map(ToString::to_string).collect());
            Ok(skipped)
        })?;
        if allots {
            self.runtime.settle_cpus();
        }
        Ok(skipped)
    }

    /// The new configuration with the CPUs that the kernel is to be told of among its limits.
    fn with_changed_cpus(
        &self,
        old: &ContainerConfig,
        new: &ContainerConfig,
        cgroup: Option<&Cgroup>,
    ) -> Result<ContainerConfig> {
        if (&old.cpus, &old.cpu_nodes) == (&new.cpus, &new.cpu_nodes) {
            return Ok(new.clone());
        }
        if new.allots_cpus() {
            return self.runtime.with_cpus(&self.id(), new, cgroup);
        }
        let mut kernel = new.clone();
        kernel.limits.cpuset_cpus.get_or_insert_with(CpuSet::default);
        Ok(kernel)
    }

    /// What is to be changed: the run, where there is one, and the configuration on record.
    pub(super) fn to_change(&self) -> Result<(Option<Arc<Live>>, Arc<ContainerConfig>)> {
        self.settle_if_ended()?;
        let live = match &*self.run() {
            Run::Live(live) => Some(Arc::clone(live)),
            Run::Deleted => return Err(self.gone()),
            Run::Never | Run::Ended { .. } => None,
        };
        self.refresh()?;
        Ok((live, self.config()))
    }

    /// Changes a container that runs from `old` to `new`: on record, then by `act` in the kernel. Where that fails it
    /// has changed nothing there, and the record is put back.
    pub(super) fn change<T>(
        &self,
        live: &Arc<Live>,
        old: &ContainerConfig,
        new: ContainerConfig,
        act: impl FnOnce() -> Result<T>,
    ) -> Result<T> {
        self.note_update(live, Pending::Yes)?;
        let done = self.save_config(new).and_then(|()| {
            act().map_err(|e| match self.save_config(old.clone()) {
                Ok(()) => e,
                Err(left) => {
                    e.also(format!("the record has what was to be, and could not be put back: {left}"))
                }
            })
        });
        // Should this fail, the next runtime does once more what is done already.
        let _ = self.note_update(live, Pending::No);
        done
    }

    /// Writes the record with this configuration, and takes it for the container's.
    pub(super) fn save_config(&self, config: ContainerConfig) -> Result<()> {
        let store = &self.runtime.inner().store;
        store
            .save(&self.id(), config.durability(), &self.record(config.clone()))
            .map_err(|e| if e.kind() == ErrorKind::NotFound { self.gone() } else { e })?;
        *self.config.write().unwrap_or_else(|e| e.into_inner()) = Arc::new(config);
        Ok(())
    }

    /// Takes over what another runtime has changed. Fails where the record is gone or is another's: deleted by another
    /// runtime, and perhaps made anew.
    pub(super) fn refresh(&self) -> Result<()> {
        let config = self.config();
        let found: Option<Recorded> = self.runtime.inner().store.find(&self.id(), config.durability())?;
        let Some(found) = found.filter(|found| found.uuid == self.uuid) else { return Err(self.gone()) };
        let RecordedConfig { limits, cpus, cpu_nodes, enforce, devices } = found.config;
        let known = (&config.limits, &config.cpus, &config.cpu_nodes, config.enforce, &config.devices);
        if (&limits, &cpus, &cpu_nodes, enforce, &devices) != known {
            let config = ContainerConfig { limits, cpus, cpu_nodes, enforce, devices, ..(*config).clone() };
            *self.config.write().unwrap_or_else(|e| e.into_inner()) = Arc::new(config);
        }
        Ok(())
    }

    /// Gives the children of the runtime's cgroup the controllers that the limits need, down the way from where the tree is
    /// this process's. What it has not got there is the limits' own error, which says what grants it.
    pub(super) fn enable_controllers(&self, config: &ContainerConfig) -> Result<()> {
        let wanted = config.limits.controllers();
        if wanted.is_empty() || config.cgroup == CgroupConfig::None {
            return Ok(());
        }
        match self.runtime.inner().host.enable_controllers(&wanted) {
            Err(e) if config.enforce == Enforce::Required => Err(e),
            _ => Ok(()),
        }
    }

    /// Writes into the record of the run whether a change of it is on its way, and what was skipped. Does nothing where
    /// the run has ended.
    fn note_update(&self, live: &Arc<Live>, pending: Pending) -> Result<()> {
        // Held, so that nobody writes down the end at the same time.
        let run = self.run();
        if !matches!(&*run, Run::Live(now) if Arc::ptr_eq(now, live)) {
            return Ok(());
        }
        let store = &self.runtime.inner().store;
        // Another runtime may have written meanwhile: what it knows stays, and the end of the run, too.
        let now =
            store.load_run(&self.id())?.filter(|now| now.is_same_run(&live.record) && now.exit.is_none());
        let Some(now) = now else { return Ok(()) };
        let record = RunRecord { updating: pending == Pending::Yes, skipped: live.skipped(), ..now };
        store.save_run(&self.id(), self.config().durability(), &record)
    }

    /// Brings a running container to what its record says, where a change was on its way when its host died. What the
    /// kernel refuses now counts as skipped: nobody is there to be told.
    pub(super) fn finish_update(&self) -> Result<()> {
        let pending = |run: &Run| match run {
            Run::Live(live) if live.record.updating => Some(Arc::clone(live)),
            _ => None,
        };
        if pending(&self.run()).is_none() {
            return Ok(());
        }
        let _guard = self.begin(Action::Update)?;
        // Another runtime may have done it since.
        let still = self.runtime.inner().store.load_run(&self.id())?.is_some_and(|run| run.updating);
        let Some(live) = pending(&self.run()).filter(|_| still) else { return Ok(()) };
        self.refresh()?;
        let config = self.config();
        let mut skipped = Vec::new();
        if let Some(cgroup) = &live.cgroup {
            let mut limits = config.limits.clone();
            // Those of before are lifted; new ones come with the balance.
            if !config.allots_cpus() && cgroup.given_cpus().is_ok_and(|cpus| !cpus.is_empty()) {
                limits.cpuset_cpus.get_or_insert_with(CpuSet::default);
            }
            skipped = bring_to(cgroup, &limits);
            skipped.extend(devices::bring(&self.runtime.inner().host, cgroup, &config));
        }
        live.set_skipped(skipped);
        if config.allots_cpus() {
            self.runtime.settle_cpus();
        }
        self.note_update(&live, Pending::No)
    }

    /// Does the same for a container of which nobody has a handle.
    pub(crate) fn finish_update_of(runtime: &Runtime, id: &InstanceId) -> Result<()> {
        Self::load_to_look(runtime, id)?.finish_update()
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pending {
    Yes,
    No,
}

/// Sets what can be set; says what cannot.
fn bring_to(cgroup: &Cgroup, limits: &Limits) -> Vec<String> {
    let options = ChangeOptions::new().enforce(Enforce::BestEffort);
    match cgroup.update_unless(limits, &options, None) {
        Ok(skipped) => skipped.iter().map(ToString::to_string).collect(),
        Err(e) => vec![format!("limits of a change that a crash cut short: {e}")],
    }
}
