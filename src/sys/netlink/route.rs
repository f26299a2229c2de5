//! The messages of `rtnetlink(7)` that the library sends, and those that it reads.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd, BorrowedFd};

use super::message::{Message, NLM_F_CREATE, NLM_F_EXCL, attributes, number, text};

const RTM_NEWLINK: u16 = 16;
const RTM_DELLINK: u16 = 17;
const RTM_GETLINK: u16 = 18;
const RTM_SETLINK: u16 = 19;
const RTM_NEWADDR: u16 = 20;
const RTM_GETADDR: u16 = 22;
const RTM_NEWROUTE: u16 = 24;
const RTM_NEWNSID: u16 = 88;
const RTM_GETNSID: u16 = 90;

const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_LINK: u16 = 5;
const IFLA_MASTER: u16 = 10;
const IFLA_LINKINFO: u16 = 18;
const IFLA_IFALIAS: u16 = 20;
const IFLA_STATS64: u16 = 23;
const IFLA_NET_NS_FD: u16 = 28;
const IFLA_LINK_NETNSID: u16 = 37;
const IFLA_TARGET_NETNSID: u16 = 46;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const VETH_INFO_PEER: u16 = 1;

const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_BROADCAST: u16 = 4;
const IFA_FLAGS: u16 = 8;
const IFA_TARGET_NETNSID: u16 = 10;
const IFA_F_NODAD: u32 = 0x02;
pub(crate) const IFA_F_TENTATIVE: u32 = 0x40;

const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RT_TABLE_MAIN: u8 = 254;
const RTPROT_STATIC: u8 = 4;
const RTN_UNICAST: u8 = 1;
const RTNH_F_ONLINK: u32 = 4;

const NETNSA_NSID: u16 = 1;
const NETNSA_FD: u16 = 3;

pub(crate) const SCOPE_UNIVERSE: u8 = 0;
pub(crate) const SCOPE_LINK: u8 = 253;

pub(crate) const IFF_UP: u32 = 0x1;
pub(crate) const IFF_RUNNING: u32 = 0x40;

/// `struct ifinfomsg`.
fn link_body(index: u32, flags: u32, change: u32) -> [u8; 16] {
    let mut body = [0; 16];
    body[4..8].copy_from_slice(&index.to_ne_bytes());
    body[8..12].copy_from_slice(&flags.to_ne_bytes());
    body[12..].copy_from_slice(&change.to_ne_bytes());
    body
}

/// A pair of virtual devices (`veth(4)`).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Veth<'a> {
    pub(crate) name: &'a str,
    pub(crate) mac: [u8; 6],
    pub(crate) peer: &'a str,
    pub(crate) peer_mac: [u8; 6],
    /// The network namespace that the other end is born in.
    pub(crate) peer_ns: BorrowedFd<'a>,
    /// Of both ends.
    pub(crate) mtu: Option<u32>,
}

pub(crate) fn new_veth(veth: &Veth<'_>) -> Message {
    let end = |m: Message, name: &str, mac: &[u8; 6]| {
        let m = m.text(IFLA_IFNAME, name).attr(IFLA_ADDRESS, mac);
        if let Some(mtu) = veth.mtu { m.number(IFLA_MTU, mtu) } else { m }
    };
    let message = Message::new(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, &link_body(0, 0, 0));
    end(message, veth.name, &veth.mac).nest(IFLA_LINKINFO, &[], |m| {
        m.text(IFLA_INFO_KIND, "veth").nest(IFLA_INFO_DATA, &[], |m| {
            m.nest(VETH_INFO_PEER, &link_body(0, 0, 0), |m| {
                end(m, veth.peer, &veth.peer_mac)
                    .number(IFLA_NET_NS_FD, veth.peer_ns.as_raw_fd().cast_unsigned())
            })
        })
    })
}

/// Brings a link up; makes it a port of `master`, and gives it an alias, where given.
pub(crate) fn set_up(index: u32, master: Option<u32>, alias: Option<&str>) -> Message {
    let mut message = Message::new(RTM_SETLINK, 0, &link_body(index, IFF_UP, IFF_UP));
    if let Some(alias) = alias {
        // No final NUL: it would be part of it.
        message = message.attr(IFLA_IFALIAS, alias.as_bytes());
    }
    match master {
        Some(master) => message.number(IFLA_MASTER, master),
        None => message,
    }
}

pub(crate) fn delete_link(index: u32) -> Message {
    Message::new(RTM_DELLINK, 0, &link_body(index, 0, 0))
}

pub(crate) fn get_link(name: &str) -> Message {
    Message::new(RTM_GETLINK, 0, &link_body(0, 0, 0)).text(IFLA_IFNAME, name)
}

/// Whether the kernel looks for others with the same IPv6 address before it lets one be used (RFC 4862).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Probe {
    No,
    Yes,
}

pub(crate) fn new_address(index: u32, address: IpAddr, prefix: u8, scope: u8, probe: Probe) -> Message {
    let mut body = [0; 8];
    body[0] = family(address);
    body[1] = prefix;
    body[3] = scope;
    body[4..].copy_from_slice(&index.to_ne_bytes());
    let bytes = octets(address);
    let message = Message::new(RTM_NEWADDR, NLM_F_CREATE | NLM_F_EXCL, &body)
        .attr(IFA_LOCAL, &bytes)
        .attr(IFA_ADDRESS, &bytes);
    match address {
        IpAddr::V4(v4) if prefix < 31 => {
            let host_part = u32::MAX.checked_shr(u32::from(prefix)).unwrap_or(0);
            message.attr(IFA_BROADCAST, &(v4.to_bits() | host_part).to_be_bytes())
        }
        IpAddr::V4(_) => message,
        IpAddr::V6(_) if probe == Probe::Yes => message,
        IpAddr::V6(_) => message.number(IFA_FLAGS, IFA_F_NODAD),
    }
}

/// A route of the main table.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Route {
    /// All of a family where the prefix is 0.
    pub(crate) to: (IpAddr, u8),
    pub(crate) via: Option<IpAddr>,
    pub(crate) index: u32,
}

/// A gateway is taken to be on the link, whatever addresses that has.
pub(crate) fn new_route(route: &Route) -> Message {
    let (to, prefix) = route.to;
    let scope = if route.via.is_none() && to.is_ipv4() { SCOPE_LINK } else { SCOPE_UNIVERSE };
    let mut body = [0; 12];
    body[0] = family(to);
    body[1] = prefix;
    body[4] = RT_TABLE_MAIN;
    body[5] = RTPROT_STATIC;
    body[6] = scope;
    body[7] = RTN_UNICAST;
    if route.via.is_some() {
        body[8..].copy_from_slice(&RTNH_F_ONLINK.to_ne_bytes());
    }
    let mut message = Message::new(RTM_NEWROUTE, NLM_F_CREATE | NLM_F_EXCL, &body);
    if prefix > 0 {
        message = message.attr(RTA_DST, &octets(to));
    }
    if let Some(via) = route.via {
        message = message.attr(RTA_GATEWAY, &octets(via));
    }
    message.number(RTA_OIF, route.index)
}

/// The links of the namespace that the socket's namespace knows by the number `nsid`; of its own without one.
pub(crate) fn list_links(nsid: Option<i32>) -> Message {
    let message = Message::new(RTM_GETLINK, 0, &link_body(0, 0, 0));
    of_namespace(message, IFLA_TARGET_NETNSID, nsid)
}

/// As [`list_links`], the addresses.
pub(crate) fn list_addresses(nsid: Option<i32>) -> Message {
    of_namespace(Message::new(RTM_GETADDR, 0, &[0; 8]), IFA_TARGET_NETNSID, nsid)
}

fn of_namespace(message: Message, attr: u16, nsid: Option<i32>) -> Message {
    match nsid {
        Some(nsid) => message.number(attr, nsid.cast_unsigned()),
        None => message,
    }
}

/// Asks for the number by which the socket's namespace knows `ns`.
pub(crate) fn get_nsid(ns: BorrowedFd<'_>) -> Message {
    Message::new(RTM_GETNSID, 0, &[0; 4]).number(NETNSA_FD, ns.as_raw_fd().cast_unsigned())
}

/// Gives it one.
pub(crate) fn new_nsid(ns: BorrowedFd<'_>) -> Message {
    Message::new(RTM_NEWNSID, 0, &[0; 4])
        .number(NETNSA_NSID, u32::MAX)
        .number(NETNSA_FD, ns.as_raw_fd().cast_unsigned())
}

/// The number; negative where there is none.
pub(crate) fn decode_nsid(body: &[u8]) -> Option<i32> {
    attributes(body.get(4..)?).find(|(kind, _)| *kind == NETNSA_NSID).and_then(|(_, data)| int(data))
}

/// What the kernel tells of a link.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Link {
    pub(crate) index: u32,
    pub(crate) name: String,
    /// `ARPHRD_*`.
    pub(crate) hardware: u16,
    pub(crate) flags: u32,
    pub(crate) mac: Option<[u8; 6]>,
    pub(crate) mtu: u32,
    pub(crate) alias: Option<String>,
    /// The other end, in the namespace that is known by that number.
    pub(crate) peer: Option<u32>,
    pub(crate) peer_nsid: Option<i32>,
    /// Such as `veth`; none where it is hardware.
    pub(crate) kind: Option<String>,
    /// `struct rtnl_link_stats64`.
    pub(crate) stats: [u64; 8],
}

impl Link {
    /// Reads an `RTM_NEWLINK`.
    pub(crate) fn decode(body: &[u8]) -> Option<Self> {
        let mut link = Self {
            hardware: u16::from_ne_bytes(body.get(2..4)?.try_into().ok()?),
            index: number(body, 4)?,
            flags: number(body, 8)?,
            ..Self::default()
        };
        for (kind, data) in attributes(body.get(16..)?) {
            match kind {
                IFLA_IFNAME => link.name = text(data),
                IFLA_ADDRESS => link.mac = data.try_into().ok(),
                IFLA_MTU => link.mtu = number(data, 0)?,
                IFLA_LINK => link.peer = number(data, 0),
                IFLA_LINK_NETNSID => link.peer_nsid = int(data),
                IFLA_IFALIAS => link.alias = Some(text(data)),
                IFLA_LINKINFO => {
                    link.kind =
                        attributes(data).find(|(kind, _)| *kind == IFLA_INFO_KIND).map(|(_, d)| text(d));
                }
                IFLA_STATS64 => {
                    for (stat, bytes) in link.stats.iter_mut().zip(data.chunks_exact(8)) {
                        *stat = u64::from_ne_bytes(bytes.try_into().ok()?);
                    }
                }
                _ => {}
            }
        }
        Some(link)
    }
}

/// What the kernel tells of an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Address {
    pub(crate) index: u32,
    pub(crate) address: IpAddr,
    pub(crate) prefix: u8,
    pub(crate) scope: u8,
    pub(crate) flags: u32,
}

impl Address {
    /// Reads an `RTM_NEWADDR`.
    pub(crate) fn decode(body: &[u8]) -> Option<Self> {
        let (family, prefix, scope) = (*body.first()?, *body.get(1)?, *body.get(3)?);
        let mut flags = u32::from(*body.get(2)?);
        let index = number(body, 4)?;
        let (mut local, mut address) = (None, None);
        for (kind, data) in attributes(body.get(8..)?) {
            match kind {
                IFA_LOCAL => local = ip(family, data),
                IFA_ADDRESS => address = ip(family, data),
                IFA_FLAGS => flags = number(data, 0)?,
                _ => {}
            }
        }
        // Of a point-to-point link, the plain one is the other end's.
        Some(Self { index, address: local.or(address)?, prefix, scope, flags })
    }
}

fn family(address: IpAddr) -> u8 {
    match address {
        IpAddr::V4(_) => libc::AF_INET as u8,
        IpAddr::V6(_) => libc::AF_INET6 as u8,
    }
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

fn ip(family: u8, data: &[u8]) -> Option<IpAddr> {
    match i32::from(family) {
        libc::AF_INET => <[u8; 4]>::try_from(data).ok().map(|b| Ipv4Addr::from(b).into()),
        libc::AF_INET6 => <[u8; 16]>::try_from(data).ok().map(|b| Ipv6Addr::from(b).into()),
        _ => None,
    }
}

fn int(data: &[u8]) -> Option<i32> {
    number(data, 0).map(u32::cast_signed)
}
