//! Network interfaces of a run: made while it starts, removed when it ends, looked at in between.
//!
//! ```text
//! host                                                     child
//!   looks at the bridges, chooses names, notes the run       .
//!   sends the plan                                           names; makes a netlink socket, hands it over
//!   makes the pair, the other end right in the child's       root, mounts
//!     network namespace; joins its own end to the bridge     .
//!   through the child's socket: addresses, routes            waits at the barrier
//!   opens the barrier                                        sysctls, the rest, the program
//! ```
//! A netlink socket acts on the namespace of its maker whoever holds it, so no thread of the host ever enters another
//! one. It is closed before the program runs: it has the rights of the container's root.

mod attach;
mod state;

use std::hash::{BuildHasher, RandomState};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::io::Errno;

pub(super) use self::attach::remove;
pub use self::state::{AddressScope, InterfaceAddress, InterfaceCounters, InterfaceState, LinkState};
use super::config::{ContainerConfig, Nic, NicKind};
use crate::caps::Capability;
use crate::error::{Error, ErrorKind, Result};
use crate::op::Deadline;
use crate::runtime::Host;
use crate::sys::netlink::route::{Link, get_link};
use crate::sys::netlink::{Netlink, Refused};

/// The interfaces of a run that begins: the host has been looked at, nothing has been made.
#[derive(Debug)]
pub(super) struct Planned<'a> {
    socket: Netlink,
    links: Vec<PlannedLink<'a>>,
    /// The mark on all links of the container.
    mark: String,
}

#[derive(Debug)]
struct PlannedLink<'a> {
    nic: &'a Nic,
    host_name: String,
    bridge: Option<Link>,
}

/// What links of the container with this uuid have as their alias, before their name inside.
fn mark(uuid: &str) -> String {
    format!("stockade:{uuid}:")
}

/// Looks at what the configuration's interfaces need of the host; `None` where it has none.
pub(super) fn plan<'a>(
    host: &Host,
    config: &'a ContainerConfig,
    uuid: &str,
    deadline: Deadline,
) -> Result<Option<Planned<'a>>> {
    if config.nics().is_empty() {
        return Ok(None);
    }
    if !host.permitted().contains(Capability::NetAdmin) {
        return Err(Error::new(ErrorKind::PermissionDenied, "make network interfaces")
            .detail("making one on the host needs CAP_NET_ADMIN")
            .hint("run the daemon with it, or do without `nic`: Network::Host and a joined namespace need nothing"));
    }
    let mut socket = open()?;
    let mark = mark(uuid);
    let mut links = Vec::with_capacity(config.nics().len());
    for nic in config.nics() {
        let bridge = match nic.kind() {
            NicKind::Bridged { bridge } => Some(find_bridge(&mut socket, bridge, deadline)?),
            _ => None,
        };
        let host_name = match &nic.host_name {
            Some(name) => {
                make_room(&mut socket, name, &mark, deadline)?;
                name.clone()
            }
            None => format!("veth{:08x}", RandomState::new().hash_one(nic.device_name()) >> 32),
        };
        links.push(PlannedLink { nic, host_name, bridge });
    }
    Ok(Some(Planned { socket, links, mark }))
}

impl Planned<'_> {
    /// The names of the host's ends.
    pub(super) fn host_names(&self) -> Vec<String> {
        self.links.iter().map(|link| link.host_name.clone()).collect()
    }
}

fn open() -> Result<Netlink> {
    Netlink::open().map_err(|e| Error::sys("open a netlink socket", e))
}

fn find_bridge(socket: &mut Netlink, name: &str, deadline: Deadline) -> Result<Link> {
    const STEP: &str = "find the bridge";
    let found = find(socket, name, deadline).map_err(|e| refused(STEP, name, e))?;
    match found {
        Some(link) if link.kind.as_deref() == Some("bridge") => Ok(link),
        Some(_) => Err(Error::invalid(STEP, "the interface of that name is no bridge").object(name)),
        None => Err(Error::new(ErrorKind::NotFound, STEP)
            .object(name)
            .detail("there is no interface of that name in the network namespace of the calling thread")
            .hint("make it first, such as by `ip link add NAME type bridge`")),
    }
}

/// The link of that name, if there is one.
fn find(socket: &mut Netlink, name: &str, deadline: Deadline) -> Result<Option<Link>, Refused> {
    match socket.ask(get_link(name), deadline.instant(), Link::decode) {
        Ok(link) => Ok(Some(link)),
        Err(Refused { errno: Errno::NODEV, .. }) => Ok(None),
        Err(refused) => Err(refused),
    }
}

/// Removes what a crashed start of this very container has left under the name that the link is to have.
fn make_room(socket: &mut Netlink, name: &str, mark: &str, deadline: Deadline) -> Result<()> {
    let found = find(socket, name, deadline).map_err(|e| refused("look for an interface", name, e))?;
    match found {
        None => Ok(()),
        Some(link) if attach::is_marked(&link, mark) => attach::delete(socket, &link, deadline),
        Some(_) => Err(Error::new(ErrorKind::AlreadyExists, "make a network interface")
            .object(name)
            .detail("the host has an interface of that name")),
    }
}

/// What the kernel would not do, as an error.
fn refused(step: &'static str, object: impl Into<String>, refused: Refused) -> Error {
    let Refused { errno, text } = refused;
    let mut e = Error::sys(step, errno).object(object);
    if let Some(text) = text {
        e = e.detail(text);
    }
    match errno {
        Errno::PERM => e.hint("it needs CAP_NET_ADMIN in the network namespace"),
        Errno::OPNOTSUPP | Errno::AFNOSUPPORT => e
            .with_kind(ErrorKind::Unsupported)
            .hint("the kernel may lack veth or bridge, or have IPv6 switched off"),
        _ => e,
    }
}

impl Planned<'_> {
    /// Makes them. `inside` is a netlink socket of the container's network namespace. On failure none is left.
    pub(super) fn attach(&mut self, inside: OwnedFd, deadline: Deadline) -> Result<()> {
        let mut inside = Netlink::adopt(inside).map_err(|e| Error::sys("use the netlink socket", e))?;
        let namespace = inside.namespace().map_err(|e| Error::sys("open the network namespace", e))?;
        for n in 0..self.links.len() {
            let link = &self.links[n];
            let made =
                attach::one(&mut self.socket, &mut inside, namespace.as_fd(), link, &self.mark, deadline);
            if let Err(e) = made {
                let names = self.links[..n].iter().map(|link| link.host_name.clone()).collect::<Vec<_>>();
                return Err(match attach::remove_named(&mut self.socket, &names, &self.mark, deadline) {
                    Ok(()) => e,
                    Err(also) => e.also(format!("removing the others failed too: {also}")),
                });
            }
        }
        Ok(())
    }
}

/// Gives the interfaces of a new container their hardware addresses, which stay with it: they follow from the machine,
/// the runtime's directory, and the names of both.
pub(super) fn settle_macs(config: &mut ContainerConfig, state_dir: &Path) {
    if config.nics.iter().all(|nic| nic.mac.is_some()) {
        return;
    }
    let machine = std::fs::read_to_string("/etc/machine-id").unwrap_or_default();
    let seed = format!("{}\0{}\0{}", machine.trim(), state_dir.display(), config.id);
    for nic in &mut config.nics {
        nic.settle_mac(&seed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::caps::CapSet;
    use crate::rootfs::Rootfs;

    #[test]
    fn an_ordinary_user_is_told_what_is_lacking() {
        let config =
            ContainerConfig::builder("x").rootfs(Rootfs::dir("/srv/x")).nic(Nic::p2p()).build().unwrap();
        let host = Host::of(CapSet::EMPTY, (1000, 1000));
        let e = plan(&host, &config, "00", Deadline::none()).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::PermissionDenied);
        assert!(e.to_string().contains("CAP_NET_ADMIN") && e.way_out().is_some(), "{e}");
        let none = ContainerConfig::builder("x").rootfs(Rootfs::dir("/srv/x")).build().unwrap();
        assert!(plan(&host, &none, "00", Deadline::none()).unwrap().is_none());
    }

    #[test]
    fn hardware_addresses_stay_and_differ_between_containers_and_runtimes() {
        let made = |name: &str, dir: &str| {
            let builder = ContainerConfig::builder(name).rootfs(Rootfs::dir("/srv/x"));
            let builder = builder.nic(Nic::p2p()).nic(Nic::p2p()).nic(Nic::p2p().mac("02:00:00:00:00:09"));
            let mut config = builder.build().unwrap();
            settle_macs(&mut config, Path::new(dir));
            config.nics().iter().map(|nic| nic.mac_address().unwrap().to_string()).collect::<Vec<_>>()
        };
        let first = made("a", "/s");
        assert_eq!(first, made("a", "/s"));
        assert_eq!(first[2], "02:00:00:00:00:09");
        let all: std::collections::BTreeSet<_> =
            [&first, &made("b", "/s"), &made("a", "/t")].iter().flat_map(|m| m[..2].to_vec()).collect();
        assert_eq!(all.len(), 6, "{all:?}");
    }
}
