//! User namespaces that the runtime keeps for an ordinary user's containers.
//!
//! The two set-id programs that write a map of many ids take longer than a whole start. So they run once for each map,
//! on a namespace without a container in it, and the containers join that. It lives as long as its descriptor here.

use std::sync::{Mutex, PoisonError};

use super::Host;
use super::newuidmap::Programs;
use super::userns::waiting_in_new;
use crate::error::{Error, ErrorKind, Result};
use crate::idmap::{IdMap, SetGroups};
use crate::namespaces::{Namespace, NamespaceKind};
use crate::op::Deadline;

/// The most that are kept: each is a descriptor. The one that was made first goes first; those who are in it stay.
const MAX: usize = 32;

/// A user namespace with a map.
#[derive(Clone, Debug)]
pub(crate) struct Held {
    pub(crate) namespace: Namespace,
    /// Whether supplementary groups can be set in it.
    pub(crate) set_groups: SetGroups,
}

/// Those of one runtime.
#[derive(Debug, Default)]
pub(crate) struct HeldUsers(Mutex<Vec<(IdMap, Held)>>);

impl HeldUsers {
    /// The namespace with this map, made where there is none yet. Who comes while it is made waits for it.
    ///
    /// # Errors
    /// [`PermissionDenied`](ErrorKind::PermissionDenied) where the programs are missing or refuse the map, or no user
    /// namespace can be made; [`Timeout`](ErrorKind::Timeout) where a program hangs.
    pub(crate) fn get(&self, host: &Host, map: &IdMap, deadline: Deadline) -> Result<Held> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, held)) = all.iter().find(|(of, _)| of == map) {
            return Ok(held.clone());
        }
        let held = make(host, map, deadline)?;
        if all.len() >= MAX {
            all.remove(0);
        }
        all.push((map.clone(), held.clone()));
        Ok(held)
    }
}

/// A namespace whose map the programs have written.
pub(super) fn make(host: &Host, map: &IdMap, deadline: Deadline) -> Result<Held> {
    let programs = Programs::find().map_err(|why| {
        Error::new(ErrorKind::PermissionDenied, "write the id map").detail(why).hint(
            "a map of other ids than one's own needs CAP_SETUID and CAP_SETGID, or the programs newuidmap and \
             newgidmap and ranges in /etc/subuid and /etc/subgid",
        )
    })?;
    let waiting = waiting_in_new(host)?;
    let pid = waiting.child()?.id();
    programs.write(pid, map, deadline)?;
    let path = format!("/proc/{pid}/setgroups");
    let groups = std::fs::read_to_string(&path)
        .map_err(|e| Error::io("see whether groups can be set", e).path(&path))?;
    let fd = waiting.user_namespace()?;
    Ok(Held {
        namespace: Namespace::from_fd(NamespaceKind::User, std::sync::Arc::new(fd))?,
        set_groups: if groups.trim() == "allow" { SetGroups::Allow } else { SetGroups::Deny },
    })
}
