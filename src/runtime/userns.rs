//! User namespaces without a container in them.

use std::sync::Arc;

use super::{Host, Runtime, held};
use crate::error::Result;
use crate::idmap::{self, IdMap};
use crate::instance::DEFAULT_DEADLINE;
use crate::namespaces::{Namespace, NamespaceKind};
use crate::op::Deadline;
use crate::spawn::{Spec, Started, launch};

impl Runtime {
    /// A user namespace with this map and nobody in it, which lives as long as the handle: for idmapped mounts
    /// ([`idmap::mounts`]), or for several containers to join.
    ///
    /// Starts a process that waits inside while the map is written, and ends it: about 0.4 ms. For an ordinary user
    /// `newuidmap(1)` and `newgidmap(1)` write a map of other ids than his own: about 3 ms.
    ///
    /// ```no_run
    /// use stockade::Runtime;
    /// use stockade::idmap::{IdMap, mounts::MountProbe};
    /// use std::os::fd::AsFd;
    ///
    /// let users = Runtime::open()?.user_namespace(&IdMap::range(100_000, 65_536)?)?;
    /// let maps = MountProbe::new().supported("/srv".as_ref(), users.as_fd())?;
    /// # Ok::<(), stockade::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`PermissionDenied`](crate::ErrorKind::PermissionDenied) where user namespaces are forbidden, or the map
    /// has ids that this process may not give; [`Timeout`](crate::ErrorKind::Timeout) where `newuidmap(1)` takes
    /// more than half a minute.
    pub fn user_namespace(&self, map: &IdMap) -> Result<Namespace> {
        let host = &self.inner().host;
        if host.needs_programs(map) {
            return held::make(host, map, Deadline::after(DEFAULT_DEADLINE)).map(|held| held.namespace);
        }
        let waiting = waiting_in_new(host)?;
        idmap::write(waiting.child()?.id(), map, host.set_groups())?;
        let fd = waiting.user_namespace()?;
        Namespace::from_fd(NamespaceKind::User, Arc::new(fd))
    }
}

/// A process in a new user namespace that has no map yet. No plan ever comes: it waits for one until it is dropped.
pub(super) fn waiting_in_new(host: &Host) -> Result<Started> {
    launch(&Spec {
        strategy: host.strategy(),
        namespaces: NamespaceKind::User.clone_flag(),
        cgroup: None,
        ambient: 0,
        // Its files in proc must be its own, whatever this process's are like: newuidmap looks at their owner.
        own_memory_first: true,
    })
}
