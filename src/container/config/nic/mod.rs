//! Network interfaces of a container.

mod check;
mod text;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};

pub(in crate::container) use self::check::problems;
pub use self::text::{IpNet, MacAddress};
use super::Problem;

/// The address that the host has on its end of a routed interface, for IPv4: the gateway inside.
pub(in crate::container) const ROUTED_V4: Ipv4Addr = Ipv4Addr::new(169, 254, 0, 1);
/// The same for IPv6.
pub(in crate::container) const ROUTED_V6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);

/// What the host's end of an interface is joined to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum NicKind {
    /// It is a port of this bridge, which exists already.
    Bridged {
        /// The name of the bridge.
        bridge: String,
    },
    /// Nothing: it is one end of a cable whose other end is inside.
    PointToPoint,
    /// The host's routing: the host has a route to each address inside, and is the gateway of the container.
    Routed,
}

/// A network interface of a container: a pair of virtual devices (`veth(4)`), one inside and one on the host.
///
/// The host is the network namespace of the thread that starts the container. Needs `CAP_NET_ADMIN` there, and a new
/// network namespace for the container. The interface stands with all its addresses and routes before the first
/// program of the container runs. It goes when the container stops. No sysctl of the host is changed: for packets
/// beyond the host the host has to forward (`net.ipv4.ip_forward`), and where it filters bridges or forwarding, to let
/// them pass.
///
/// ```
/// use stockade::container::{ContainerConfig, Nic};
/// use stockade::rootfs::Rootfs;
///
/// let config = ContainerConfig::builder("web")
///     .rootfs(Rootfs::overlay(["/srv/debian"]))
///     .nic(Nic::bridged("br0").address("10.0.0.2/24").address("fd00::2/64").gateway("10.0.0.1"))
///     .build()?;
/// assert_eq!(config.nics()[0].device_name(), "eth0");
/// # Ok::<(), stockade::Error>(())
/// ```
///
/// Everything is checked by `build`:
///
/// ```
/// use stockade::container::{ContainerConfig, Nic};
/// use stockade::rootfs::Rootfs;
///
/// let nic = Nic::bridged("br0").address("10.0.0.2/24").gateway("10.0.9.1").mac("01:00:5e:00:00:01").mtu(20);
/// let e = ContainerConfig::builder("web").rootfs(Rootfs::dir("/srv/x")).nic(nic).build().unwrap_err();
/// for field in ["nics[0].gateway: ", "nics[0].mac: ", "nics[0].mtu: "] {
///     assert!(e.to_string().contains(field));
/// }
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[must_use = "an interface is made by the container that it is given to"]
pub struct Nic {
    pub(in crate::container) kind: NicKind,
    /// Empty until the builder gives it the next free one.
    pub(in crate::container) name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(in crate::container) host_name: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(in crate::container) mac: Option<MacAddress>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(in crate::container) mtu: Option<u32>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(in crate::container) addresses: Vec<IpNet>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(in crate::container) host_addresses: Vec<IpNet>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(in crate::container) gateways: Vec<Gateway>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(in crate::container) routes: Vec<NicRoute>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(in crate::container) probes: bool,
    /// What setters were given and could not read.
    #[serde(skip)]
    refused: Vec<Problem>,
}

/// Where packets for everywhere else go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::container) struct Gateway {
    pub(in crate::container) address: IpAddr,
    /// It is reached by the interface although no address of that says so.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(in crate::container) on_link: bool,
}

/// A route inside.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::container) struct NicRoute {
    pub(in crate::container) to: IpNet,
    pub(in crate::container) via: IpAddr,
}

impl Nic {
    fn new(kind: NicKind) -> Self {
        Self {
            kind,
            name: String::new(),
            host_name: None,
            mac: None,
            mtu: None,
            addresses: Vec::new(),
            host_addresses: Vec::new(),
            gateways: Vec::new(),
            routes: Vec::new(),
            probes: false,
            refused: Vec::new(),
        }
    }

    /// One whose host end is a port of the bridge `bridge`. Who makes the bridge, and gives the host an address on it,
    /// is the caller.
    pub fn bridged(bridge: impl Into<String>) -> Self {
        Self::new(NicKind::Bridged { bridge: bridge.into() })
    }

    /// A cable between the container and the host; see [`host_address`](Self::host_address).
    pub fn p2p() -> Self {
        Self::new(NicKind::PointToPoint)
    }

    /// One through which the host routes. Each [`address`](Self::address) is a single one, to which the host gets a
    /// route; inside, the host is the gateway, as 169.254.0.1 and fe80::1.
    pub fn routed() -> Self {
        Self::new(NicKind::Routed)
    }

    /// Sets its name inside: 1 to 15 bytes. Unless told otherwise the first free one of `eth0`, `eth1` ...
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// Sets the name of the host's end, the same at each start. Unless told otherwise `veth` and eight random
    /// hexadecimal digits, new at each start.
    pub fn host_name(mut self, name: impl Into<String>) -> Self {
        self.host_name = Some(name.into());
        self
    }

    /// Sets its hardware address, such as `02:00:00:00:00:01`. Unless told otherwise a locally administered one that
    /// follows from the machine and the container's name, and then stays with the container.
    pub fn mac(mut self, mac: &str) -> Self {
        if let Some(mac) = self.read("mac", mac) {
            self.mac = Some(mac);
        }
        self
    }

    /// Sets the largest packet that it takes, in bytes, 68 to 65535, for both ends. Unless told otherwise as the bridge,
    /// else 1500.
    pub fn mtu(mut self, mtu: u32) -> Self {
        self.mtu = Some(mtu);
        self
    }

    /// Adds an address with its prefix length, such as `10.0.0.2/24` or `fd00::2/64`. Without a length it is a single
    /// one.
    pub fn address(mut self, address: &str) -> Self {
        let address: Option<IpNet> = self.read("address", address);
        self.addresses.extend(address);
        self
    }

    /// Adds an address of the host's end, with its prefix length. Only for [`p2p`](Self::p2p).
    pub fn host_address(mut self, address: &str) -> Self {
        let address: Option<IpNet> = self.read("host_address", address);
        self.host_addresses.extend(address);
        self
    }

    /// Sets the gateway of its family: for everything without a route of its own. It is in the subnet of one of the
    /// addresses, or a link-local one of IPv6.
    pub fn gateway(self, address: &str) -> Self {
        self.add_gateway(address, false)
    }

    /// As [`gateway`](Self::gateway), for one that is on the link although it is in none of the subnets.
    pub fn gateway_on_link(self, address: &str) -> Self {
        self.add_gateway(address, true)
    }

    fn add_gateway(mut self, address: &str, on_link: bool) -> Self {
        if let Some(address) = self.read("gateway", address) {
            self.gateways.push(Gateway { address, on_link });
        }
        self
    }

    /// Adds a route inside: to `network`, such as `10.9.0.0/16`, through `gateway`, for which the same holds as for
    /// [`gateway`](Self::gateway).
    pub fn route(mut self, network: &str, gateway: &str) -> Self {
        let to = self.read("route", network);
        let via = self.read("route", gateway);
        self.routes.extend(to.zip(via).map(|(to, via)| NicRoute { to, via }));
        self
    }

    /// Has the kernel look, by asking the neighbours, whether anybody else has its IPv6 addresses. They cannot be used
    /// before, which takes one to two seconds; unless told otherwise they can be at once.
    pub fn with_duplicate_detection(mut self) -> Self {
        self.probes = true;
        self
    }

    /// Its name inside.
    pub fn device_name(&self) -> &str {
        &self.name
    }

    /// What its host end is joined to.
    pub fn kind(&self) -> &NicKind {
        &self.kind
    }

    /// Its hardware address, where it was set, or the container was made.
    pub fn mac_address(&self) -> Option<MacAddress> {
        self.mac
    }

    /// Its addresses.
    pub fn addresses(&self) -> &[IpNet] {
        &self.addresses
    }

    fn read<T: std::str::FromStr<Err: ToString>>(&mut self, field: &str, text: &str) -> Option<T> {
        text.parse().map_err(|e: T::Err| self.refused.push(Problem::new(field, e.to_string()))).ok()
    }

    /// Gives it a name that none of `others` has, unless it has one.
    pub(super) fn settle_name(&mut self, others: &[Self]) {
        if self.name.is_empty() {
            let free =
                (0..).map(|n| format!("eth{n}")).find(|name| others.iter().all(|nic| nic.name != *name));
            self.name = free.unwrap_or_default();
        }
    }

    /// What setters could not read, for the interface of that number.
    pub(super) fn take_refused(&mut self, number: usize) -> Vec<Problem> {
        let refused = std::mem::take(&mut self.refused);
        refused.into_iter().map(|p| Problem::new(format!("nics[{number}].{}", p.field), p.reason)).collect()
    }

    /// Gives it a hardware address that follows from `seed` and its name, unless it has one.
    pub(in crate::container) fn settle_mac(&mut self, seed: &str) {
        self.mac.get_or_insert_with(|| MacAddress::derived(&format!("{seed}\0{}", self.name)));
    }
}
