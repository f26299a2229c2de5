//! What the network of a running container looks like from inside.

use std::net::IpAddr;
use std::os::fd::AsFd;

use crate::container::config::{IpNet, MacAddress};
use crate::container::handle::Container;
use crate::error::{ErrorKind, Result};
use crate::namespaces::{Namespace, NamespaceKind, NamespaceSource};
use crate::op::Deadline;
use crate::sys::netlink::Netlink;
use crate::sys::netlink::route::{
    Address, IFA_F_TENTATIVE, IFF_RUNNING, IFF_UP, Link, SCOPE_LINK, SCOPE_UNIVERSE, decode_nsid, get_nsid,
    list_addresses, list_links, new_nsid,
};

use super::{open, refused};

/// `RT_SCOPE_HOST`.
const SCOPE_HOST: u8 = 254;
/// `ARPHRD_LOOPBACK`.
const LOOPBACK: u16 = 772;
/// How long the kernel may take to answer.
const ANSWER: std::time::Duration = std::time::Duration::from_secs(10);

/// One network interface of a running container, as it is seen inside.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct InterfaceState {
    /// Its name inside.
    pub name: String,
    /// Its hardware address, where it has one.
    pub mac: Option<MacAddress>,
    /// The largest packet that it takes, in bytes.
    pub mtu: u32,
    /// Whether packets can pass.
    pub state: LinkState,
    /// Whether it is a loopback device.
    pub is_loopback: bool,
    /// What kind of virtual device it is, such as `veth`.
    pub kind: Option<String>,
    /// The name of the host's end, of one that the library made.
    pub host_name: Option<String>,
    /// Its addresses.
    pub addresses: Vec<InterfaceAddress>,
    /// What has passed.
    pub counters: InterfaceCounters,
}

/// Whether packets can pass an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum LinkState {
    /// It is set up, and so is what it is joined to.
    Up,
    /// It is set up, but what it is joined to is not.
    NoCarrier,
    /// It is down.
    Down,
}

/// An address of an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct InterfaceAddress {
    /// The address and the length of its prefix.
    pub net: IpNet,
    /// How far it reaches.
    pub scope: AddressScope,
    /// The kernel still looks whether anybody else has it; it cannot be used before.
    pub is_tentative: bool,
}

/// How far an address reaches (`rtnetlink(7)`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum AddressScope {
    /// Everywhere.
    Global,
    /// As far as the link.
    Link,
    /// Inside alone.
    Local,
    /// Another one, by number.
    Other(u8),
}

/// What has passed an interface since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct InterfaceCounters {
    /// Bytes received.
    pub bytes_received: u64,
    /// Bytes sent.
    pub bytes_sent: u64,
    /// Packets received.
    pub packets_received: u64,
    /// Packets sent.
    pub packets_sent: u64,
    /// Packets that could not be received.
    pub errors_received: u64,
    /// Packets that could not be sent.
    pub errors_sent: u64,
    /// Packets received and dropped.
    pub packets_dropped_inbound: u64,
    /// Packets dropped instead of sent.
    pub packets_dropped_outbound: u64,
}

impl Container {
    /// Its network interfaces as they are now, seen from inside: what Incus calls `state.network`. Those of a container
    /// with the host's network, or in another's namespace, are that one's.
    ///
    /// Nothing runs inside for it, and no thread enters the namespace: the kernel is asked through a socket of the
    /// host's, which knows the other namespace by a number. Where it has none yet it is given one, which goes with the
    /// namespace (`RTM_NEWNSID`). Needs `CAP_NET_ADMIN`.
    ///
    /// # Errors
    /// [`InvalidState`](crate::ErrorKind::InvalidState) where it does not run;
    /// [`PermissionDenied`](crate::ErrorKind::PermissionDenied).
    pub fn interfaces(&self) -> Result<Vec<InterfaceState>> {
        self.read_interfaces().map_err(|e| e.with_op("read the interfaces").with_instance(self.id()))
    }

    /// The addresses under which others may reach it: those that reach beyond a link and can be used now. See
    /// [`interfaces`](Self::interfaces).
    ///
    /// # Errors
    /// As there.
    pub fn addresses(&self) -> Result<Vec<IpAddr>> {
        let all = self.interfaces()?;
        let global = all.iter().filter(|interface| !interface.is_loopback).flat_map(|i| &i.addresses);
        let usable = global.filter(|address| address.scope == AddressScope::Global && !address.is_tentative);
        Ok(usable.map(|address| address.net.address()).collect())
    }

    fn read_interfaces(&self) -> Result<Vec<InterfaceState>> {
        let live = self.live()?;
        let until = Deadline::after(ANSWER);
        let mut socket = open()?;
        let nsid = if self.config().namespaces().get(NamespaceKind::Net) == &NamespaceSource::Host {
            None
        } else {
            let namespace = Namespace::of_pidfd(NamespaceKind::Net, live.as_fd());
            let namespace = namespace.map_err(|e| match e.kind() {
                // A moment ago: nobody has looked since.
                ErrorKind::NotFound => e.with_kind(ErrorKind::InvalidState),
                _ => e,
            })?;
            number_of(&mut socket, &namespace, until)?
        };
        let until = until.instant();
        let step = "list the interfaces";
        let links =
            socket.list(&list_links(nsid), until, Link::decode).map_err(|e| refused(step, "inside", e))?;
        let addresses = socket
            .list(&list_addresses(nsid), until, Address::decode)
            .map_err(|e| refused("list the addresses", "inside", e))?;
        let ours = if live.record.host_links.is_empty() {
            Vec::new()
        } else {
            let ours = socket.list(&list_links(None), until, Link::decode);
            ours.map_err(|e| refused(step, "on the host", e))?
        };
        let host_name = |link: &Link| {
            let is_end =
                |ours: &&Link| Some(ours.index) == link.peer && live.record.host_links.contains(&ours.name);
            ours.iter().find(is_end).map(|ours| ours.name.clone())
        };
        let state = |link: Link| {
            let host_name = host_name(&link);
            InterfaceState::new(link, &addresses, host_name)
        };
        Ok(links.into_iter().map(state).collect())
    }
}

/// The number by which the host's network namespace knows `namespace`; none where they are one.
fn number_of(socket: &mut Netlink, namespace: &Namespace, deadline: Deadline) -> Result<Option<i32>> {
    if namespace.is_own()? {
        return Ok(None);
    }
    let until = deadline.instant();
    let known = |socket: &mut Netlink| {
        let asked = socket.ask(get_nsid(namespace.as_fd()), until, decode_nsid);
        asked.map_err(|e| refused("look for the network namespace", "inside", e))
    };
    match known(socket)? {
        nsid @ 0.. => return Ok(Some(nsid)),
        _ => match socket.act(new_nsid(namespace.as_fd()), until) {
            // Another thread was faster.
            Ok(()) | Err(super::Refused { errno: super::Errno::EXIST, .. }) => {}
            Err(e) => return Err(refused("number the network namespace", "inside", e)),
        },
    }
    known(socket).map(Some)
}

impl InterfaceState {
    fn new(link: Link, addresses: &[Address], host_name: Option<String>) -> Self {
        let state = match link.flags {
            flags if flags & IFF_UP == 0 => LinkState::Down,
            flags if flags & IFF_RUNNING == 0 => LinkState::NoCarrier,
            _ => LinkState::Up,
        };
        let [
            packets_received,
            packets_sent,
            bytes_received,
            bytes_sent,
            errors_received,
            errors_sent,
            inbound,
            outbound,
        ] = link.stats;
        let addresses = addresses.iter().filter(|address| address.index == link.index);
        Self {
            mac: link.mac.filter(|_| link.hardware != LOOPBACK).map(MacAddress::new),
            name: link.name,
            mtu: link.mtu,
            state,
            is_loopback: link.hardware == LOOPBACK,
            kind: link.kind,
            host_name,
            addresses: addresses.filter_map(InterfaceAddress::new).collect(),
            counters: InterfaceCounters {
                bytes_received,
                bytes_sent,
                packets_received,
                packets_sent,
                errors_received,
                errors_sent,
                packets_dropped_inbound: inbound,
                packets_dropped_outbound: outbound,
            },
        }
    }
}

impl InterfaceAddress {
    fn new(address: &Address) -> Option<Self> {
        let scope = match address.scope {
            SCOPE_UNIVERSE => AddressScope::Global,
            SCOPE_LINK => AddressScope::Link,
            SCOPE_HOST => AddressScope::Local,
            other => AddressScope::Other(other),
        };
        let net = IpNet::new(address.address, address.prefix).ok()?;
        Some(Self { net, scope, is_tentative: address.flags & IFA_F_TENTATIVE != 0 })
    }
}
