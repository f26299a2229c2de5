//! A child cgroup with controllers, which only the VM lane gives.

use stockade::cgroup::{Controller, Hierarchy};

use crate::cgroup_util::Leaf;

/// A new one that has all the controllers that the test's cgroup has. Only in the throw-away VM may the test change its
/// own cgroup for it; elsewhere `None`, with a loud reason, where it has not these already.
pub(crate) fn with_controllers(needed: &[Controller]) -> Option<Leaf> {
    let hierarchy = Hierarchy::detect().unwrap();
    let own = hierarchy.own();
    if std::env::var_os("VM_LANE").is_some() {
        own.enable_controllers(&own.controllers().unwrap()).unwrap();
    }
    let leaf = Leaf::new()?;
    let has = leaf.controllers().unwrap();
    if needed.iter().all(|c| has.contains(c)) {
        return Some(leaf);
    }
    support::skip(format!("the test's cgroup gives its children only {has:?}, not {needed:?}"));
    None
}
