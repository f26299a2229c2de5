//! Renaming and deleting, and a virtual machine as an [`Instance`]: each method is the inherent one.

use std::sync::Arc;

use super::config::VmConfig;
use super::handle::{Run, Vm, VmRecord};
use crate::cgroup::Skipped;
use crate::error::{Error, ErrorKind, Result};
use crate::exit::ExitStatus;
use crate::instance::{
    DeleteMode, DeleteOptions, Exec, FreezeOptions, Instance, InstanceConfig, InstanceInfo, InstanceKind,
    KillOptions, Metrics, Pipes, RestartOptions, ShutdownOptions, StartOptions, Status, StopOptions,
    UpdateOptions, WaitOptions, sealed,
};
use crate::name::{InstanceId, InstanceName};
use crate::op::Action;
use crate::runtime::Runtime;

impl Vm {
    /// Deletes it with default options.
    ///
    /// # Errors
    /// As [`delete_with`](Self::delete_with).
    pub fn delete(&self) -> Result<()> {
        self.delete_with(DeleteOptions::default())
    }

    /// Removes its records; see [`Instance::delete_with`](crate::instance::Instance::delete_with).
    ///
    /// # Errors
    /// As there.
    pub fn delete_with(&self, options: DeleteOptions) -> Result<()> {
        let done = self.begin(Action::Delete).and_then(|guard| {
            self.settle_if_ended()?;
            let live = match &*self.run() {
                Run::Live(live) => Some(Arc::clone(live)),
                Run::Elsewhere { pid, .. } => return Err(super::state::elsewhere(*pid)),
                _ => None,
            };
            if let Some(live) = live {
                if options.mode != DeleteMode::Stop {
                    return Err(Error::new(ErrorKind::InvalidState, "delete")
                        .detail("the virtual machine is running")
                        .hint("stop it first, or delete it with DeleteMode::Stop"));
                }
                let _part = guard.nested(Action::Stop);
                live.end();
                self.settle_if_ended()?;
            }
            self.delete_stopped()
        });
        self.named(Action::Delete, done)
    }

    /// An ephemeral machine goes with its end.
    pub(super) fn delete_if_ephemeral(&self) -> Result<()> {
        if !self.config().ephemeral {
            return Ok(());
        }
        match self.delete_stopped() {
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(()),
            done => done,
        }
    }

    fn delete_stopped(&self) -> Result<()> {
        if self.is_deleted() {
            return Err(self.gone());
        }
        let id = self.id();
        // Another runtime may have deleted it, and made another one of that name.
        let same = self.runtime.inner().store.load::<VmRecord>(&id);
        let removed = match same {
            Ok(stored) if stored.record.uuid == self.uuid => {
                self.runtime.inner().store.remove(&id, self.config().durability())
            }
            Ok(_) => Err(self.gone()),
            Err(e) => Err(e),
        };
        if let Err(e) = removed
            && e.kind() != ErrorKind::NotFound
        {
            return Err(e);
        }
        let mut run = self.run();
        let seen = match std::mem::replace(&mut *run, Run::Never) {
            Run::Ended(ended) => ended.seen,
            _ => None,
        };
        *run = Run::Deleted(seen);
        drop(run);
        self.runtime.vms().forget(&id);
        Ok(())
    }

    fn rename_inner(&self, name: &InstanceName) -> Result<()> {
        let done = self.begin(Action::Rename).and_then(|_guard| {
            self.settle_if_ended()?;
            match &*self.run() {
                Run::Never | Run::Ended(_) => {}
                Run::Deleted(_) => return Err(self.gone()),
                Run::Live(_) | Run::Elsewhere { .. } => {
                    return Err(Error::new(ErrorKind::InvalidState, "rename")
                        .detail("the virtual machine is running"));
                }
            }
            let old = self.id();
            let new = InstanceId { name: name.clone(), ..(*old).clone() };
            if new == *old {
                return Ok(());
            }
            let mut config = (*self.config()).clone();
            let store = &self.runtime.inner().store;
            store.rename(&old, &new, config.durability())?;
            config.id = new.clone();
            let record = VmRecord {
                kind: InstanceKind::Vm,
                uuid: self.uuid.clone(),
                created_at: self.created_at,
                config: config.clone(),
            };
            // The directory alone has the name: a record that knows the old one is as good.
            let _ = store.save(&new, config.durability(), &record);
            *self.config.write().unwrap_or_else(|e| e.into_inner()) = Arc::new(config);
            *self.identity.write().unwrap_or_else(|e| e.into_inner()) = Arc::new(new);
            self.runtime.vms().forget(&old);
            Ok(())
        });
        self.named(Action::Rename, done)
    }

    /// Gives it another name in the same project; see [`Instance::rename`].
    ///
    /// # Errors
    /// As there.
    pub fn rename(self: &Arc<Self>, name: &InstanceName) -> Result<()> {
        self.rename_inner(name)?;
        self.runtime.vms().remember(&self.id(), self);
        Ok(())
    }
}

impl sealed::Sealed for VmConfig {}

impl InstanceConfig for VmConfig {
    type Handle = Vm;

    fn id(&self) -> &InstanceId {
        &self.id
    }

    fn create_in(self, runtime: &Runtime) -> Result<Arc<Vm>> {
        Vm::create(runtime, self)
    }
}

impl Instance for Vm {
    fn id(&self) -> Arc<InstanceId> {
        Self::id(self)
    }

    fn kind(&self) -> InstanceKind {
        InstanceKind::Vm
    }

    fn status(&self) -> Status {
        Self::status(self)
    }

    fn info(&self) -> Result<InstanceInfo> {
        Self::info(self)
    }

    fn start_with(&self, options: StartOptions) -> Result<Pipes> {
        Self::start_with(self, options)
    }

    fn stop_with(&self, options: StopOptions) -> Result<()> {
        Self::stop_with(self, options)
    }

    fn shutdown_with(&self, options: ShutdownOptions) -> Result<()> {
        Self::shutdown_with(self, options)
    }

    fn kill(&self, options: KillOptions) -> Result<()> {
        Self::kill(self, options)
    }

    fn restart_with(&self, options: RestartOptions) -> Result<()> {
        Self::restart_with(self, options)
    }

    fn freeze_with(&self, options: FreezeOptions) -> Result<()> {
        Self::freeze_with(self, options)
    }

    fn unfreeze_with(&self, options: FreezeOptions) -> Result<()> {
        Self::unfreeze_with(self, options)
    }

    fn update_with(&self, options: UpdateOptions) -> Result<Vec<Skipped>> {
        Self::update_with(self, options)
    }

    fn wait_with(&self, options: WaitOptions) -> Result<ExitStatus> {
        Self::wait_with(self, options)
    }

    fn rename(&self, name: &InstanceName) -> Result<()> {
        self.rename_inner(name)
    }

    fn delete_with(&self, options: DeleteOptions) -> Result<()> {
        Self::delete_with(self, options)
    }

    fn exec(&self) -> Option<&dyn Exec> {
        self.config().guest.as_ref().map(|_| self as &dyn Exec)
    }

    fn metrics(&self) -> Option<&dyn Metrics> {
        Some(self)
    }
}
