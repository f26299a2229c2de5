//! The device policy: at the start, and changed while the container runs.
//!
//! At a start the program is attached while the child waits for its plan, so that it holds before the payload's first
//! instruction, and for the plan too: what the policy denies, the plan does without.

use std::os::unix::fs::MetadataExt;
use std::sync::Arc;

use super::config::ContainerConfig;
use super::handle::{Container, ContainerRecord, Run};
use crate::cgroup::{Cgroup, DevicePolicy, Enforce, Skipped};
use crate::error::{Error, ErrorKind, Result};
use crate::name::InstanceId;
use crate::op::Action;
use crate::runtime::{Host, Runtime};

/// The inode of the first user namespace (`PROC_USER_INIT_INO`).
const FIRST_USER_NAMESPACE: u64 = 0xefff_fffd;

/// Attaches the policy to the fresh cgroup of a start. Gives what was skipped.
pub(super) fn confine(host: &Host, cgroup: &Cgroup, config: &ContainerConfig) -> Result<Option<Skipped>> {
    let Some(policy) = config.devices() else { return Ok(None) };
    let attached = host.device_programs().get(policy).and_then(|program| cgroup.attach_devices(&program));
    match attached {
        Ok(()) => Ok(None),
        Err(reason) if is_needless(config, &reason) => Ok(None),
        Err(reason) if may_skip(config, &reason) => Ok(Some(Skipped { file: "devices", reason })),
        Err(e) => Err(e),
    }
}

/// Whether nobody has asked for the policy, and it would take nothing away: from a user namespace that is not the first
/// neither programs can be attached nor device nodes made.
fn is_needless(config: &ContainerConfig, reason: &Error) -> bool {
    config.devices.is_none() && reason.kind() == ErrorKind::PermissionDenied && !in_first_user_namespace()
}

fn in_first_user_namespace() -> bool {
    std::fs::metadata("/proc/thread-self/ns/user").is_ok_and(|m| m.ino() == FIRST_USER_NAMESPACE)
}

fn may_skip(config: &ContainerConfig, reason: &Error) -> bool {
    config.enforce == Enforce::BestEffort
        && !matches!(reason.kind(), ErrorKind::InvalidConfig | ErrorKind::NotFound)
}

/// Brings a running container to its configuration.
fn bring(host: &Host, cgroup: &Cgroup, config: &ContainerConfig) -> Result<()> {
    match config.devices() {
        Some(policy) => cgroup.replace_devices(&host.device_programs().get(policy)?),
        None => cgroup.detach_devices(),
    }
}

impl Container {
    /// Sets which device nodes may be opened and made in it, in place of the policy that it has; with `None` that which
    /// goes with its privilege. See [`ContainerBuilder::devices`](super::ContainerBuilder::devices).
    ///
    /// Where it runs, the new policy is in force when this returns, and the kernel changes from the old one to it in
    /// one step: what both deny is denied all the time. Nodes that are open already stay open. The policy is written
    /// to the container's record first: should this process die in between, the next runtime that opens brings the
    /// container to its record.
    ///
    /// ```no_run
    /// use stockade::cgroup::DevicePolicy;
    ///
    /// let web = stockade::Runtime::open()?.container(&"web".parse()?)?;
    /// web.set_devices(DevicePolicy::standard().allow("c 10:232 rw".parse()?))?;
    /// # Ok::<(), stockade::Error>(())
    /// ```
    ///
    /// # Errors
    /// After an error the old policy holds, on record and in the kernel.
    /// [`InvalidConfig`](ErrorKind::InvalidConfig): the policy does not go with the configuration, such as an open one
    /// with `CAP_MKNOD` in a privileged container. [`PermissionDenied`](ErrorKind::PermissionDenied): it runs, and this
    /// process lacks `CAP_SYS_ADMIN` in the first user namespace; [`Unsupported`](ErrorKind::Unsupported): the kernel
    /// is built without `CONFIG_CGROUP_BPF`. Both whatever the configuration says of [`Enforce`].
    /// [`Busy`](ErrorKind::Busy): another action runs.
    pub fn set_devices(&self, policy: impl Into<Option<DevicePolicy>>) -> Result<()> {
        let policy = policy.into();
        let done = self.begin(Action::Update).and_then(|_guard| self.set_devices_locked(policy));
        self.named(Action::Update, done)
    }

    fn set_devices_locked(&self, policy: Option<DevicePolicy>) -> Result<()> {
        self.settle_if_ended()?;
        let live = match &*self.run() {
            Run::Live(live) => Some(Arc::clone(live)),
            Run::Deleted => return Err(self.gone()),
            Run::Never | Run::Ended { .. } => None,
        };
        let inner = self.runtime.inner();
        let (id, durability) = (self.id(), self.config().durability());
        // The record has what other runtimes have changed; what is known here has what no record holds.
        let before = match inner.store.find::<ContainerRecord>(&id, durability)? {
            Some(record) if record.uuid == self.uuid => record,
            _ => return Err(self.gone()),
        };
        let mut config = (*self.config()).clone();
        config.devices.clone_from(&policy);
        config.check()?;
        let cgroup = live.as_ref().and_then(|live| live.cgroup.as_ref());
        if cgroup.is_some()
            && let Some(policy) = config.devices()
        {
            inner.host.device_programs().get(policy)?;
        }
        let mut after = before.config.clone();
        after.devices.clone_from(&policy);
        let done = inner
            .store
            .save(&id, durability, &self.record(after))
            .and_then(|()| cgroup.map_or(Ok(()), |cgroup| bring(&inner.host, cgroup, &config)));
        if let Err(e) = done {
            return Err(match inner.store.save(&id, durability, &before) {
                Ok(()) => e,
                Err(also) => e.also(format!("putting back the record failed too: {also}")),
            });
        }
        self.know_devices(policy);
        Ok(())
    }

    /// Takes over the policy that is on record.
    pub(super) fn know_devices(&self, policy: Option<DevicePolicy>) {
        let mut config = self.config.write().unwrap_or_else(|e| e.into_inner());
        if config.devices != policy {
            Arc::make_mut(&mut config).devices = policy;
        }
    }

    /// Brings a container that runs to the policy on its record: the process that changed it may have died between the
    /// two. Nobody acts on it meanwhile.
    pub(crate) fn renew_devices(runtime: &Runtime, id: &InstanceId) -> Result<()> {
        let container = match Self::load_to_look(runtime, id) {
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(()),
            loaded => loaded?,
        };
        let live = match &*container.run() {
            Run::Live(live) => Arc::clone(live),
            _ => return Ok(()),
        };
        let Some(cgroup) = &live.cgroup else { return Ok(()) };
        let config = container.config();
        match bring(&runtime.inner().host, cgroup, &config) {
            // Who may not do it here has not done it before either; or the start went on without.
            Err(e)
                if matches!(e.kind(), ErrorKind::PermissionDenied | ErrorKind::Unsupported)
                    && (config.devices().is_none()
                        || config.enforce == Enforce::BestEffort
                        || is_needless(&config, &e)) =>
            {
                Ok(())
            }
            // It has ended meanwhile.
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(()),
            done => done,
        }
    }
}
