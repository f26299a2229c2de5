//! Checking the interfaces of a configuration. Nothing here looks at the host.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::super::{ContainerConfig, Problem};
use super::text::{IpNet, show};
use super::{Nic, NicKind};
use crate::namespaces::NamespaceKind;

/// `IFNAMSIZ` without the final NUL.
const MAX_NAME: usize = 15;
/// The least that IPv4 works with, and the most that a veth takes.
const MTU: std::ops::RangeInclusive<u32> = 68..=65_535;
/// The least that IPv6 works with.
const MTU_V6: u32 = 1280;
/// More than anybody has; each takes a millisecond.
const MAX_NICS: usize = 64;
/// Of addresses, gateways and routes of one.
const MAX_ENTRIES: usize = 256;

/// Everything that is wrong with them.
pub(in crate::container) fn problems(config: &ContainerConfig) -> Vec<Problem> {
    let nics = &config.nics;
    let mut found = Vec::new();
    if nics.is_empty() {
        return found;
    }
    if !config.namespaces.is_new(NamespaceKind::Net) {
        found.push(Problem::new("nics", "need a new network namespace"));
    }
    if nics.len() > MAX_NICS {
        found.push(Problem::new("nics", format!("are {}, not up to {MAX_NICS}", nics.len())));
        return found;
    }
    let (mut names, mut host_names, mut macs, mut addresses) =
        (BTreeSet::new(), BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    let mut families = BTreeSet::new();
    for (n, nic) in nics.iter().enumerate() {
        let mut check = Check { at: n, nic, found: &mut found };
        check.names();
        check.numbers();
        check.addresses();
        check.gateways();
        if !names.insert(&nic.name) {
            check.add("name", format!("`{}` is another one's too", show(&nic.name)));
        }
        if let Some(name) = &nic.host_name
            && !host_names.insert(name)
        {
            check.add("host_name", format!("`{}` is another one's too", show(name)));
        }
        if let Some(mac) = nic.mac
            && !macs.insert(mac)
        {
            check.add("mac", format!("{mac} is another one's too"));
        }
        for net in nic.addresses.iter().chain(&nic.host_addresses) {
            if !addresses.insert(net.address()) {
                check.add("address", format!("{} is there twice", net.address()));
            }
        }
        for v6 in nic.default_families() {
            if !families.insert(v6) {
                check.add("gateway", "its family has a gateway already");
            }
        }
    }
    found
}

impl Nic {
    /// The families that it brings a default route for: whether each is IPv6.
    fn default_families(&self) -> Vec<bool> {
        match self.kind {
            NicKind::Routed => {
                let families: BTreeSet<_> =
                    self.addresses.iter().map(|net| net.address().is_ipv6()).collect();
                families.into_iter().collect()
            }
            _ => self.gateways.iter().map(|gateway| gateway.address.is_ipv6()).collect(),
        }
    }
}

struct Check<'a> {
    at: usize,
    nic: &'a Nic,
    found: &'a mut Vec<Problem>,
}

impl Check<'_> {
    fn add(&mut self, field: &str, reason: impl Into<String>) {
        self.found.push(Problem::new(format!("nics[{}].{field}", self.at), reason));
    }

    fn names(&mut self) {
        let nic = self.nic;
        let bridge = match &nic.kind {
            NicKind::Bridged { bridge } => Some(("bridge", bridge)),
            _ => None,
        };
        let host = nic.host_name.as_ref().map(|name| ("host_name", name));
        for (field, name) in [("name", &nic.name)].into_iter().chain(host).chain(bridge) {
            if let Err(why) = interface_name(name) {
                self.add(field, why);
            }
        }
        if nic.name == "lo" {
            self.add("name", "`lo` is the loopback device");
        }
    }

    fn numbers(&mut self) {
        let nic = self.nic;
        if let Some(mac) = nic.mac
            && !mac.is_unicast()
        {
            self.add("mac", format!("{mac} is not the address of a single interface"));
        }
        let has_v6 = nic.addresses.iter().any(|net| net.address().is_ipv6());
        match nic.mtu {
            Some(mtu) if !MTU.contains(&mtu) => self.add("mtu", format!("{mtu} is not 68 to 65535")),
            Some(mtu) if has_v6 && mtu < MTU_V6 => {
                self.add("mtu", format!("{mtu} is below {MTU_V6}, which IPv6 needs"));
            }
            _ => {}
        }
        let entries = [nic.addresses.len(), nic.host_addresses.len(), nic.gateways.len(), nic.routes.len()];
        if entries.iter().sum::<usize>() > MAX_ENTRIES {
            self.add("addresses", format!("and routes are more than {MAX_ENTRIES}"));
        }
    }

    fn addresses(&mut self) {
        let nic = self.nic;
        for net in &nic.addresses {
            self.usable("address", net);
            if nic.kind == NicKind::Routed && !net.is_single() {
                let why = format!("{net} is a network: a routed interface has single addresses");
                self.add("address", why);
            }
        }
        for net in &nic.host_addresses {
            self.usable("host_address", net);
        }
        if !nic.host_addresses.is_empty() && nic.kind != NicKind::PointToPoint {
            self.add("host_address", "is for point-to-point interfaces only");
        }
    }

    fn usable(&mut self, field: &str, net: &IpNet) {
        let address = net.address();
        if let Err(why) = one_host(address) {
            self.add(field, why);
        } else if net.prefix() == 0 {
            self.add(field, format!("{net} has everything as its network"));
        } else if let IpAddr::V4(v4) = address
            && net.prefix() < 31
        {
            let host = v4.to_bits() & (u32::MAX >> net.prefix());
            if host == 0 || host == u32::MAX >> net.prefix() {
                self.add(field, format!("{net} is the network's own or its broadcast address"));
            }
        }
    }

    fn gateways(&mut self) {
        let nic = self.nic;
        if nic.kind == NicKind::Routed && !nic.gateways.is_empty() {
            self.add("gateway", "of a routed interface is the host");
        }
        for gateway in &nic.gateways {
            self.reaches("gateway", gateway.address, gateway.on_link);
        }
        let mut seen = BTreeSet::new();
        for route in &nic.routes {
            if !route.to.is_network() {
                self.add("route", format!("{} is no network: it has bits below its prefix", route.to));
            } else if route.to.prefix() == 0 {
                self.add("route", format!("{} is everything: name a gateway", route.to));
            }
            if route.to.address().is_ipv4() != route.via.is_ipv4() {
                self.add("route", format!("{} and {} are not of one family", route.to, route.via));
            }
            if !seen.insert(route.to.to_string()) {
                self.add("route", format!("{} is there twice", route.to));
            }
            let host = nic.kind == NicKind::Routed
                && [IpAddr::V4(super::ROUTED_V4), IpAddr::V6(super::ROUTED_V6)].contains(&route.via);
            self.reaches("route", route.via, host);
        }
    }

    fn reaches(&mut self, field: &str, via: IpAddr, on_link: bool) {
        let nic = self.nic;
        if let Err(why) = one_host(via) {
            return self.add(field, why);
        }
        if nic.addresses.iter().any(|net| net.address() == via) {
            return self.add(field, format!("{via} is its own address"));
        }
        let link_local = matches!(via, IpAddr::V6(v6) if v6.is_unicast_link_local());
        if !on_link && !link_local && !nic.addresses.iter().any(|net| net.contains(via)) {
            self.add(
                field,
                format!("{via} is in the subnet of none of its addresses (there is gateway_on_link)"),
            );
        }
    }
}

/// Fails where `address` is not that of one host.
fn one_host(address: IpAddr) -> Result<(), String> {
    let wrong = address.is_unspecified()
        || address.is_multicast()
        || address.is_loopback()
        || matches!(address, IpAddr::V4(v4) if v4.is_broadcast())
        || matches!(address, IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some());
    if wrong { Err(format!("{address} is not the address of one host")) } else { Ok(()) }
}

/// Fails where the kernel takes no interface of that name (`dev_valid_name`), or where it stands for more than itself.
fn interface_name(name: &str) -> Result<(), String> {
    let plain = |b: u8| b.is_ascii_graphic() && !b"/:%".contains(&b);
    if name.is_empty() || name.len() > MAX_NAME {
        Err(format!("`{}` has {} bytes, not 1 to {MAX_NAME}", show(name), name.len()))
    } else if name == "." || name == ".." || !name.bytes().all(plain) {
        Err(format!("`{}` is no name of an interface", show(name)))
    } else if ["all", "default"].contains(&name) {
        Err(format!("`{name}` is what the kernel calls the settings of all of them"))
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::namespaces::NamespaceSource;
    use crate::rootfs::Rootfs;

    fn wrong(nics: Vec<Nic>) -> Vec<String> {
        let mut builder = ContainerConfig::builder("x").rootfs(Rootfs::dir("/srv/x"));
        for nic in nics {
            builder = builder.nic(nic);
        }
        builder.problems().iter().map(|p| p.field.clone()).collect()
    }

    fn br() -> Nic {
        Nic::bridged("br0")
    }

    #[test]
    fn good_ones_pass() {
        let p2p = Nic::p2p;
        for nics in [
            vec![br(), br(), p2p()],
            vec![br().address("10.0.0.2/24").address("fd00::2/64").gateway("10.0.0.1").gateway("fe80::1")],
            vec![br().address("10.0.0.2").gateway_on_link("192.0.2.1").mtu(65_535).mac("02:00:00:00:00:01")],
            vec![p2p().address("10.0.0.2/31").host_address("10.0.0.3/31").route("10.9.0.0/16", "10.0.0.3")],
            vec![Nic::routed().address("192.0.2.7").address("2001:db8::7/128").host_name("web-0")],
        ] {
            assert_eq!(wrong(nics), Vec::<String>::new());
        }
        let mut named = ContainerConfig::builder("x").rootfs(Rootfs::dir("/srv/x")).nic(br().name("eth1"));
        named = named.nic(br()).nic(br());
        let config = named.build().unwrap();
        assert_eq!(config.nics().iter().map(Nic::device_name).collect::<Vec<_>>(), ["eth1", "eth0", "eth2"]);
    }

    #[test]
    fn each_bad_one_is_named() {
        let cases: Vec<(Nic, &str)> = vec![
            (br().name("sixteen-bytes-xx"), "name"),
            (br().name("a/b"), "name"),
            (br().name("a b"), "name"),
            (br().name("eth%d"), "name"),
            (br().name("lo"), "name"),
            (br().name(".."), "name"),
            (br().name("all"), "name"),
            (Nic::bridged(""), "bridge"),
            (br().host_name("x:1"), "host_name"),
            (br().mac("01:00:5e:00:00:01"), "mac"),
            (br().mac("00:00:00:00:00:00"), "mac"),
            (br().mac("nonsense"), "mac"),
            (br().mtu(67), "mtu"),
            (br().mtu(65_536), "mtu"),
            (br().mtu(1279).address("fd00::2/64"), "mtu"),
            (br().address("10.0.0.2/33"), "address"),
            (br().address("10.0.0.0/24"), "address"),
            (br().address("10.0.0.255/24"), "address"),
            (br().address("10.0.0.2/0"), "address"),
            (br().address("127.0.0.1/8"), "address"),
            (br().address("224.0.0.1/24"), "address"),
            (br().address("::ffff:10.0.0.1/96"), "address"),
            (br().address("10.0.0.2/24").address("10.0.0.2/16"), "address"),
            (br().host_address("10.0.0.1/24"), "host_address"),
            (br().gateway("10.0.0.1"), "gateway"),
            (br().address("10.0.0.2/24").gateway("10.0.1.1"), "gateway"),
            (br().address("10.0.0.2/24").gateway("10.0.0.2"), "gateway"),
            (br().address("10.0.0.2/24").gateway("10.0.0.1").gateway("10.0.0.3"), "gateway"),
            (br().address("10.0.0.2/24").gateway("x"), "gateway"),
            (Nic::routed().address("10.0.0.2/24"), "address"),
            (Nic::routed().address("10.0.0.2").gateway_on_link("10.0.0.1"), "gateway"),
            (br().address("10.0.0.2/24").route("10.9.0.1/16", "10.0.0.1"), "route"),
            (br().address("10.0.0.2/24").route("0.0.0.0/0", "10.0.0.1"), "route"),
            (br().address("10.0.0.2/24").route("fd00::/64", "10.0.0.1"), "route"),
            (br().address("10.0.0.2/24").route("10.9.0.0/16", "10.1.0.1"), "route"),
        ];
        for (nic, field) in cases {
            let text = format!("{nic:?}");
            let found = wrong(vec![nic]);
            assert!(
                !found.is_empty() && found.iter().all(|f| *f == format!("nics[0].{field}")),
                "{text}: {found:?}"
            );
        }
        let twice =
            br().name("a").host_name("h").mac("02:00:00:00:00:01").address("10.0.0.2/24").gateway("10.0.0.1");
        let fields = ["name", "host_name", "mac", "address", "gateway"].map(|f| format!("nics[1].{f}"));
        assert_eq!(wrong(vec![twice.clone(), twice]), fields);
        assert_eq!(wrong(vec![br(); 65]), ["nics"]);
        assert!(
            wrong(vec![(0..257).fold(br(), |nic, n| nic.address(&format!(
                "10.1.{}.{}/8",
                n / 200,
                n % 200 + 1
            )))])
            .contains(&"nics[0].addresses".to_owned())
        );
    }

    #[test]
    fn another_network_takes_no_interfaces() {
        let config = ContainerConfig::builder("x").rootfs(Rootfs::dir("/srv/x")).nic(br());
        let e = config.namespace(NamespaceKind::Net, NamespaceSource::Host).build().unwrap_err();
        assert!(e.to_string().contains("nics: need a new network namespace"), "{e}");
    }

    #[test]
    fn a_record_holds_all_of_it_and_is_checked() {
        let nic = Nic::p2p().address("10.0.0.2/24").host_address("10.0.0.1/24").gateway("10.0.0.1");
        let nic = nic
            .route("10.9.0.0/16", "10.0.0.1")
            .mtu(1400)
            .mac("02:00:00:00:00:01")
            .with_duplicate_detection();
        let config = ContainerConfig::builder("x").rootfs(Rootfs::dir("/srv/x")).nic(nic).build().unwrap();
        let text = serde_json::to_string(&config).unwrap();
        assert_eq!(serde_json::from_str::<ContainerConfig>(&text).unwrap(), config);
        let bad = text.replace("\"eth0\"", "\"eth/0\"");
        assert!(
            serde_json::from_str::<ContainerConfig>(&bad).unwrap_err().to_string().contains("nics[0].name")
        );
    }
}
