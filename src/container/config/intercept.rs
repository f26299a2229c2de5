//! Checking which calls are to be intercepted.

use super::ContainerConfig;
use super::choices::SeccompConfig;
use crate::namespaces::{NamespaceKind, NamespaceSource};
use crate::seccomp::MountInterception;

/// Everything that is wrong with it: field, reason.
pub(super) fn problems(config: &ContainerConfig) -> Vec<(&'static str, String)> {
    let what = &config.intercept;
    if what.is_empty() {
        return Vec::new();
    }
    let mut found = what.problems();
    if *config.namespaces.get(NamespaceKind::User) == NamespaceSource::Host {
        found.push((
            "intercept",
            "is for containers with a user namespace: others have the rights".to_owned(),
        ));
    }
    if config.seccomp == SeccompConfig::Unconfined {
        found.push(("intercept", "needs a seccomp policy, and the container is to have none".to_owned()));
    }
    if what.mounts().is_some_and(MountInterception::is_hosts) && !config.confines_devices() {
        let why = "needs a device policy that is required and denies by default: what is mounted may hold nodes of any \
                   device"
            .to_owned();
        found.push(("intercept.mount", why));
    }
    found
}
