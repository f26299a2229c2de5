//! Network namespaces that are made before they are needed: a third of what a start takes.

use crate::error::{Error, Result};
use crate::namespaces::{Namespace, NamespaceKind};
use crate::sys::process::{join_network, unshare_network};

use super::stock::{Refill, Stock};

/// A stock of fresh network namespaces. They belong to the host's user namespace, so only containers in that can have
/// one: root of another would have no rights over it, and could not mount its sysfs.
#[derive(Debug)]
pub(crate) struct Networks(Stock<Namespace>);

/// One that was taken. Nobody else ever gets it.
#[derive(Debug)]
pub(crate) struct Taken {
    pub(super) namespace: Namespace,
    _refill: Refill,
}

impl Networks {
    /// Makes `size` of them, and starts the thread that replaces those which are taken. Needs `CAP_SYS_ADMIN`.
    pub(crate) fn open(size: usize) -> Result<Self> {
        let mut own = None;
        Stock::open("stockade-net", size, move || Some(make(&mut own))).map(Self)
    }

    pub(crate) fn take(&self) -> Option<Taken> {
        self.0.take(|_| true).map(|(namespace, _refill)| Taken { namespace, _refill })
    }

    pub(crate) fn ready(&self) -> usize {
        self.0.ready()
    }
}

/// Makes one. The calling thread goes back to its own each time: with `net.core.devconf_inherit_init_net` at 3 a new
/// namespace has the settings of its maker's, as one has that is made by clone3(2).
fn make(own: &mut Option<Namespace>) -> Result<Namespace> {
    let host = match own {
        Some(host) => &*host,
        None => own.insert(Namespace::own(NamespaceKind::Net)?),
    };
    unshare_network().map_err(|e| {
        let e = Error::sys("make a network namespace", e);
        if e.kind() == crate::ErrorKind::PermissionDenied { e.hint("it needs CAP_SYS_ADMIN") } else { e }
    })?;
    let made = Namespace::own(NamespaceKind::Net);
    join_network(host).map_err(|e| Error::sys("return to the host's network namespace", e))?;
    made
}
