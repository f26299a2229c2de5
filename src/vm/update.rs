//! Changing the limits of a machine, while it runs or not.

use std::sync::Arc;

use super::config::VmConfig;
use super::handle::{Run, Vm, VmRecord};
use super::limits::{self, Parts};
use super::state::elsewhere;
use crate::cgroup::{Limits, Skipped};
use crate::error::{Error, ErrorKind, Result};
use crate::instance::{InstanceKind, UpdateOptions};
use crate::op::Action;

impl Vm {
    /// Changes limits with default options: those that `limits` names, and no others.
    ///
    /// # Errors
    /// As [`update_with`](Self::update_with).
    pub fn update(&self, limits: Limits) -> Result<Vec<Skipped>> {
        self.update_with(UpdateOptions::new(limits))
    }

    /// Changes limits; see [`Instance::update_with`](crate::instance::Instance::update_with), and
    /// [`VmBuilder::limits`](super::VmBuilder::limits) for those that a machine can have. `memory_max` moves the balloon: it
    /// returns at once, and [`balloon`](Self::balloon) says how far the guest has come.
    ///
    /// # Errors
    /// As there. [`Unsupported`](crate::ErrorKind::Unsupported) for a limit that a machine cannot have, or not in this runtime,
    /// by name; for `memory_max` without a balloon; for a count or choice of CPUs that is balanced between instances; and where
    /// it runs in another runtime.
    pub fn update_with(&self, options: UpdateOptions) -> Result<Vec<Skipped>> {
        let done = self.begin(Action::Update).and_then(|_guard| self.update_locked(&options));
        self.named(Action::Update, done)
    }

    fn update_locked(&self, options: &UpdateOptions) -> Result<Vec<Skipped>> {
        if options.cpus.is_some() || options.cpu_nodes.is_some() {
            return Err(Error::new(ErrorKind::Unsupported, "limit a virtual machine")
                .object("cpus")
                .detail("virtual machines take no part in the balance of CPUs")
                .hint("name them: Limits::cpuset_cpus"));
        }
        self.settle_if_ended()?;
        let live = match &*self.run() {
            Run::Live(live) => Some(Arc::clone(live)),
            Run::Deleted(_) => return Err(self.gone()),
            Run::Elsewhere { pid, .. } => return Err(elsewhere(*pid)),
            Run::Never | Run::Ended(_) => None,
        };
        self.refresh()?;
        let old = self.config();
        let mut new = (*old).clone();
        new.limits = old.limits.patched(&options.limits);
        new.enforce = options.enforce.unwrap_or(old.enforce);
        Parts::of(&new)?;
        let problems = new.problems();
        if !problems.is_empty() {
            return Err(Error::invalid("configuration", problems.join("; ")));
        }
        new.limits.check_host()?;
        let Some(live) = live else {
            self.save_config(new)?;
            return Ok(Vec::new());
        };
        self.save_config(new.clone())?;
        let mut given = live.given();
        let above = self.runtime.vms().above();
        match limits::change(&old, &new, &live.machine, &given, options, above) {
            Ok(skipped) => {
                given.skipped = limits::texts(&skipped);
                Ok(skipped)
            }
            Err(e) => Err(match self.save_config((*old).clone()) {
                Ok(()) => e,
                Err(left) => {
                    e.also(format!("the record has what was to be, and could not be put back: {left}"))
                }
            }),
        }
    }

    /// Writes the record with this configuration, and takes it for the machine's.
    fn save_config(&self, config: VmConfig) -> Result<()> {
        let record = VmRecord {
            kind: InstanceKind::Vm,
            uuid: self.uuid.clone(),
            created_at: self.created_at,
            config: config.clone(),
        };
        let store = &self.runtime.inner().store;
        store
            .save(&self.id(), config.durability(), &record)
            .map_err(|e| if e.kind() == ErrorKind::NotFound { self.gone() } else { e })?;
        *self.config.write().unwrap_or_else(|e| e.into_inner()) = Arc::new(config);
        Ok(())
    }

    /// Takes over what another runtime has changed. Fails where the record is gone or is another's.
    pub(super) fn refresh(&self) -> Result<()> {
        let config = self.config();
        let found: Option<VmRecord> = self.runtime.inner().store.find(&self.id(), config.durability())?;
        let Some(found) = found.filter(|found| found.uuid == self.uuid) else { return Err(self.gone()) };
        let (limits, enforce) = (found.config.limits, found.config.enforce);
        if (&limits, enforce) != (&config.limits, config.enforce) {
            let config = VmConfig { limits, enforce, ..(*config).clone() };
            *self.config.write().unwrap_or_else(|e| e.into_inner()) = Arc::new(config);
        }
        Ok(())
    }
}
