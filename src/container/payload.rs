//! The cgroups of a container that makes cgroups of its own.
//!
//! ```text
//! stockade-1a2b3c4d-default:web    limits and all else that the host does; not shown inside
//!   payload                        `/` of the cgroup namespace, the container's root's own
//!     stockade.exec                commands by exec
//! ```

use super::config::{CgroupConfig, ContainerConfig};
use super::handle::Container;
use crate::cgroup::{Cgroup, Enforce};
use crate::error::{ErrorKind, Result};
use crate::idmap::IdMap;
use crate::op::{Cancel, Deadline};
use crate::spawn::{Child, Plan, Started};

const PAYLOAD: &str = "payload";
/// Of a name that no init uses. A process may not be put where the container has given controllers away.
const EXEC: &str = "stockade.exec";

/// Makes the payload's cgroup in a fresh leaf and gives it to the container's root.
pub(super) fn make(leaf: &Cgroup, config: &ContainerConfig, id_map: Option<&IdMap>) -> Result<Cgroup> {
    // All that the leaf has been given: which of them the container uses is its own business.
    if let Err(e) = leaf.enable_controllers(&leaf.controllers()?)
        && config.enforce == Enforce::Required
    {
        return Err(e);
    }
    let payload = leaf.create_child(PAYLOAD)?;
    let (uid, gid) = owner(id_map)?;
    if (uid, gid) != ids_of_caller() {
        payload.delegate(uid, gid)?;
    }
    Ok(payload)
}

/// Where processes of a running container go: those of `exec` into a leaf of their own.
pub(super) fn for_exec(leaf: &Cgroup, config: &ContainerConfig) -> Result<Option<Cgroup>> {
    if config.cgroup != CgroupConfig::Delegated {
        return Ok(None);
    }
    let payload = match leaf.open_child(PAYLOAD) {
        // It was started before its configuration said so.
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
        opened => opened?,
    };
    match payload.create_child(EXEC) {
        Err(e) if e.kind() == ErrorKind::AlreadyExists => payload.open_child(EXEC).map(Some),
        made => made.map(Some),
    }
}

/// Puts a program that joins the container, and was born into a v2 cgroup alone, into the v1 groups of `leaf`.
pub(super) fn take_in(
    leaf: &Cgroup,
    started: &mut Started,
    plan: &Plan,
    deadline: Deadline,
    cancel: Option<&Cancel>,
) -> Result<()> {
    started.wait_sibling(plan, deadline, cancel)?;
    let joined = started.child().map(Child::id).and_then(|pid| leaf.v1_take_in(pid));
    let joined = joined.and_then(|()| started.go(&[]));
    started.or_its_own(plan, joined)
}

impl Container {
    /// Gives the instances' cgroups all controllers that the one above them has and can give: nothing further up is
    /// changed for what the container may never use.
    pub(super) fn enable_for_payload(&self) -> Result<()> {
        let host = &self.runtime.inner().host;
        let mut all = host.delegation()?.attainable();
        let has = host.cgroup()?.controllers()?;
        all.retain(|c| has.contains(c));
        host.enable_controllers(&all)
    }
}

/// Who is root inside.
pub(super) fn owner(id_map: Option<&IdMap>) -> Result<(u32, u32)> {
    let Some(map) = id_map else { return Ok((0, 0)) };
    let (uid, gid) = map.host_root()?;
    Ok((uid.as_raw(), gid.as_raw()))
}

fn ids_of_caller() -> (u32, u32) {
    (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw())
}
