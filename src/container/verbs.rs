//! A container as an [`Instance`]: each method is the inherent one.

use std::sync::Arc;

use super::config::ContainerConfig;
use super::handle::Container;
use crate::cgroup::Skipped;
use crate::error::Result;
use crate::exit::ExitStatus;
use crate::instance::{
    DeleteOptions, Exec, ExecOptions, FreezeOptions, Instance, InstanceConfig, InstanceInfo, InstanceKind,
    KillOptions, Metrics, Pipes, Process, RestartOptions, ShutdownOptions, StartOptions, Status, StopOptions,
    UpdateOptions, WaitOptions,
};
use crate::name::{InstanceId, InstanceName};
use crate::runtime::Runtime;

impl InstanceConfig for ContainerConfig {
    type Handle = Container;

    fn id(&self) -> &InstanceId {
        &self.id
    }

    fn create_in(self, runtime: &Runtime) -> Result<Arc<Container>> {
        Container::create(runtime, self)
    }
}

impl Instance for Container {
    fn id(&self) -> Arc<InstanceId> {
        Self::id(self)
    }

    fn kind(&self) -> InstanceKind {
        InstanceKind::Container
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
        Some(self)
    }

    fn metrics(&self) -> Option<&dyn Metrics> {
        Some(self)
    }
}

impl Exec for Container {
    fn exec(&self, options: ExecOptions) -> Result<Box<dyn Process>> {
        Ok(Box::new(Self::exec(self, options)?))
    }
}
