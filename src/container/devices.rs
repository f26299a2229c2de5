//! The device policy: at the start, and changed while the container runs.
//!
//! At a start the program is attached while the child waits for its plan, so that it holds before the payload's first
//! instruction, and for the plan too: what the policy denies, the plan does without.

use std::os::unix::fs::MetadataExt;

use super::config::ContainerConfig;
use super::handle::Container;
use crate::cgroup::{Cgroup, DevicePolicy, Enforce, Skipped};
use crate::error::{Error, ErrorKind, Result};
use crate::op::Action;
use crate::runtime::Host;

/// The inode of the first user namespace (`PROC_USER_INIT_INO`).
const FIRST_USER_NAMESPACE: u64 = 0xefff_fffd;

/// Attaches the policy to the fresh cgroup of a start. Gives what was skipped.
pub(super) fn confine(host: &Host, cgroup: &Cgroup, config: &ContainerConfig) -> Result<Option<Skipped>> {
    let Some(policy) = config.devices() else { return Ok(None) };
    let attached = host.device_programs().get(policy).and_then(|program| cgroup.attach_devices(&program));
    match attached {
        Ok(()) => Ok(None),
        // The kernel has no programs for devices.
        Err(reason) if reason.kind() == ErrorKind::Unsupported && cgroup.v1_confines() => {
            match cgroup.confine_by_v1(policy) {
                Ok(()) => Ok(None),
                Err(e) if may_skip(config, &e) => {
                    Ok(Some(Skipped { file: "devices".to_owned(), reason: reason.also(e.to_string()) }))
                }
                Err(e) => Err(reason.also(e.to_string())),
            }
        }
        Err(reason) if is_needless(config, &reason) => Ok(None),
        Err(reason) if may_skip(config, &reason) => Ok(Some(Skipped { file: "devices".to_owned(), reason })),
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

/// Brings a running container to its configuration, where a change of it was cut short. Says what cannot be done.
pub(super) fn bring(host: &Host, cgroup: &Cgroup, config: &ContainerConfig) -> Option<String> {
    let done = match config.devices() {
        Some(policy) => {
            host.device_programs().get(policy).and_then(|program| cgroup.replace_devices(&program))
        }
        None => cgroup.detach_devices(),
    };
    done.err().filter(|e| !is_needless(config, e)).map(|e| format!("devices: {e}"))
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
        let (live, old) = self.to_change()?;
        let mut new = (*old).clone();
        new.devices = policy;
        new.check()?;
        let cgroup = live.as_ref().and_then(|live| live.cgroup.as_ref());
        let (Some(live), Some(cgroup)) = (&live, cgroup) else { return self.save_config(new) };
        let host = &self.runtime.inner().host;
        // Loaded before anything is written: this is what can fail.
        let program = new.devices().map(|policy| host.device_programs().get(policy)).transpose()?;
        self.change(live, &old, new, || match &program {
            Some(program) => cgroup.replace_devices(program),
            None => cgroup.detach_devices(),
        })
    }
}
