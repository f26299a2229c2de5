//! Making and removing one interface.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::BorrowedFd;

use rustix::io::Errno;

use super::{PlannedLink, find, mark, open, refused};
use crate::container::config::{IpNet, Nic, NicKind, ROUTED_V4, ROUTED_V6};
use crate::error::{ErrorKind, Result};
use crate::op::Deadline;
use crate::sys::netlink::route::{
    Link, Probe, Route, SCOPE_LINK, SCOPE_UNIVERSE, Veth, delete_link, get_link, new_address, new_route,
    new_veth, set_up,
};
use crate::sys::netlink::{Message, Netlink, Refused};

/// Of the host's ends: high, because a bridge takes the lowest address of its ports for its own.
const HOST_MAC: u8 = 0xfe;

/// Makes the pair `link`, sets up both ends. On failure there is none.
pub(super) fn one(
    host: &mut Netlink,
    inside: &mut Netlink,
    namespace: BorrowedFd<'_>,
    link: &PlannedLink<'_>,
    mark: &str,
    deadline: Deadline,
) -> Result<()> {
    let until = deadline.instant();
    let nic = link.nic;
    let mac = nic.mac_address().map_or([0x02, 0, 0, 0, 0, 1], |mac| mac.octets());
    let [_, rest @ ..] = mac;
    let mut host_mac = [HOST_MAC; 6];
    host_mac[1..].copy_from_slice(&rest);
    let pair = Veth {
        name: &link.host_name,
        mac: host_mac,
        peer: nic.device_name(),
        peer_mac: mac,
        peer_ns: namespace,
        mtu: nic.mtu.or(link.bridge.as_ref().map(|bridge| bridge.mtu)),
    };
    let name = format!("{} ({})", nic.device_name(), link.host_name);
    host.act(new_veth(&pair), until).map_err(|e| refused("make a network interface", name, e))?;
    let both = (|| {
        let ours = look(host, &link.host_name, deadline)?;
        let theirs = look(inside, nic.device_name(), deadline)?.index;
        host_end(&mut Steps { socket: host, name: &link.host_name, deadline }, &ours, link, mark)?;
        inner_end(&mut Steps { socket: inside, name: nic.device_name(), deadline }, theirs, nic)
    })();
    both.map_err(|e| match find(host, &link.host_name, deadline) {
        Ok(Some(ours)) => match delete(host, &ours, deadline) {
            Ok(()) => e,
            Err(also) => e.also(format!("removing it failed too: {also}")),
        },
        _ => e,
    })
}

fn look(socket: &mut Netlink, name: &str, deadline: Deadline) -> Result<Link> {
    let found = socket.ask(get_link(name), deadline.instant(), Link::decode);
    found.map_err(|e| refused("look at the new interface", name, e))
}

/// Requests about one interface.
struct Steps<'a> {
    socket: &'a mut Netlink,
    name: &'a str,
    deadline: Deadline,
}

impl Steps<'_> {
    fn act(&mut self, step: &'static str, message: Message, object: Option<String>) -> Result<()> {
        self.socket.act(message, self.deadline.instant()).map_err(|e| {
            let object =
                object.map_or_else(|| self.name.to_owned(), |object| format!("{object} of {}", self.name));
            refused(step, object, e)
        })
    }

    fn address(&mut self, index: u32, net: &IpNet, scope: u8, probe: Probe) -> Result<()> {
        let message = new_address(index, net.address(), net.prefix(), scope, probe);
        self.act("add an address", message, Some(net.to_string()))
    }

    fn route(&mut self, index: u32, to: (IpAddr, u8), via: Option<IpAddr>) -> Result<()> {
        let message = new_route(&Route { to, via, index });
        let via = via.map(|via| format!(" via {via}")).unwrap_or_default();
        self.act("add a route", message, Some(format!("{}/{}{via}", to.0, to.1)))
    }
}

fn host_end(steps: &mut Steps<'_>, ours: &Link, link: &PlannedLink<'_>, mark: &str) -> Result<()> {
    let nic = link.nic;
    let alias = format!("{mark}{}", nic.device_name());
    let master = link.bridge.as_ref().map(|bridge| bridge.index);
    steps.act("set up the host's end", set_up(ours.index, master, Some(&alias)), None)?;
    for net in &nic.host_addresses {
        steps.address(ours.index, net, SCOPE_UNIVERSE, probe(nic))?;
    }
    if *nic.kind() != NicKind::Routed {
        return Ok(());
    }
    for gateway in gateways(nic) {
        let (length, scope) = if gateway.is_ipv4() { (32, SCOPE_LINK) } else { (64, SCOPE_UNIVERSE) };
        let message = new_address(ours.index, gateway, length, scope, Probe::No);
        steps.act("add an address", message, Some(gateway.to_string()))?;
    }
    for net in nic.addresses() {
        steps.route(ours.index, (net.address(), net.prefix()), None).map_err(|e| {
            if e.errno() == Some(libc::EEXIST) {
                e.hint("another interface of the host has that address")
            } else {
                e
            }
        })?;
    }
    Ok(())
}

fn inner_end(steps: &mut Steps<'_>, index: u32, nic: &Nic) -> Result<()> {
    steps.act("set up the interface", set_up(index, None, None), None)?;
    for net in nic.addresses() {
        steps.address(index, net, SCOPE_UNIVERSE, probe(nic))?;
    }
    for gateway in gateways(nic) {
        let all =
            if gateway.is_ipv4() { IpAddr::V4(Ipv4Addr::UNSPECIFIED) } else { Ipv6Addr::UNSPECIFIED.into() };
        steps.route(index, (all, 0), Some(gateway))?;
    }
    for route in &nic.routes {
        steps.route(index, (route.to.address(), route.to.prefix()), Some(route.via))?;
    }
    Ok(())
}

/// Where everything without a route of its own goes, for each family.
fn gateways(nic: &Nic) -> Vec<IpAddr> {
    if *nic.kind() != NicKind::Routed {
        return nic.gateways.iter().map(|gateway| gateway.address).collect();
    }
    let has = |v6: bool| nic.addresses().iter().any(|net| net.address().is_ipv6() == v6);
    let v4 = has(false).then_some(IpAddr::V4(ROUTED_V4));
    v4.into_iter().chain(has(true).then_some(IpAddr::V6(ROUTED_V6))).collect()
}

fn probe(nic: &Nic) -> Probe {
    if nic.probes { Probe::Yes } else { Probe::No }
}

/// Removes the host's ends of these names of the container with this uuid, with their other ends. Others of these names
/// stay, and what is gone is no failure.
pub(in crate::container) fn remove(names: &[String], uuid: &str, deadline: Deadline) -> Result<()> {
    if names.is_empty() {
        return Ok(());
    }
    match remove_named(&mut open()?, names, &mark(uuid), deadline) {
        // They go with the namespace of their other ends, a moment later.
        Err(e) if e.kind() == ErrorKind::PermissionDenied => Ok(()),
        done => done,
    }
}

pub(super) fn remove_named(
    socket: &mut Netlink,
    names: &[String],
    mark: &str,
    deadline: Deadline,
) -> Result<()> {
    for name in names {
        let found = find(socket, name, deadline).map_err(|e| refused("look for an interface", name, e))?;
        if let Some(link) = found.filter(|link| is_marked(link, mark)) {
            delete(socket, &link, deadline)?;
        }
    }
    Ok(())
}

/// Whether it was made for the container of this mark.
pub(super) fn is_marked(link: &Link, mark: &str) -> bool {
    link.alias.as_ref().is_some_and(|alias| alias.starts_with(mark))
}

pub(super) fn delete(socket: &mut Netlink, link: &Link, deadline: Deadline) -> Result<()> {
    match socket.act(delete_link(link.index), deadline.instant()) {
        // Gone with its other end's namespace.
        Ok(()) | Err(Refused { errno: Errno::NODEV, .. }) => Ok(()),
        Err(e) => Err(refused("remove a network interface", &link.name, e)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_routed_interface_has_the_host_as_gateway_of_its_families() {
        let v4: IpAddr = ROUTED_V4.into();
        let v6: IpAddr = ROUTED_V6.into();
        assert_eq!(gateways(&Nic::routed().address("192.0.2.1")), [v4]);
        assert_eq!(gateways(&Nic::routed().address("2001:db8::1").address("192.0.2.1")), [v4, v6]);
        assert_eq!(gateways(&Nic::routed()), Vec::<IpAddr>::new());
        assert_eq!(gateways(&Nic::bridged("b").address("10.0.0.2/24").gateway("10.0.0.1")).len(), 1);
    }

    #[test]
    fn only_marked_links_are_ours() {
        let link = |alias: Option<&str>| Link { alias: alias.map(str::to_owned), ..Link::default() };
        let ours = mark("00aa");
        assert!(is_marked(&link(Some("stockade:00aa:eth0")), &ours));
        for other in [None, Some(""), Some("stockade:00ab:eth0"), Some("x stockade:00aa:eth0")] {
            assert!(!is_marked(&link(other), &ours), "{other:?}");
        }
    }
}
