//! Network interfaces: containers on a bridge, on a cable and behind the host's routing; what is reported of them; and
//! nothing left of them. All in network namespaces of the tests' own.

#[path = "../again/mod.rs"]
mod again;
#[path = "../rig/mod.rs"]
mod rig;

mod debian;
mod ends;
mod wire;

use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};

use rig::{Rig, busybox, end, works};
use stockade::container::{AddressScope, Container, ContainerBuilder, LinkState, Network, Nic};
use stockade::namespaces::{NamespaceKind, NamespaceSource, Target};
use stockade::{ErrorKind, InstanceId};
use wire::Wire;

/// The turn of one test, from before its thread is made.
static ONE: Mutex<()> = Mutex::new(());

/// Runs `test` with a host's network of its own and a runtime, and checks that nothing is left.
pub(crate) fn with_rig(test: impl FnOnce(&Wire, &Rig) + Send) {
    if let Err(why) = support::privilege().and_then(|()| support::fixture("busybox").map(drop)) {
        return support::skip(why);
    }
    // The thread of the test is known to the harness from here on; the turn itself is that of the thread below.
    drop(support::serial());
    let _turn = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    Wire::with(|wire| {
        let Some(rig) = Rig::new() else { return };
        test(wire, &rig);
        assert_eq!(wire.links(), Vec::<String>::new());
        rig.end();
    });
}

/// An interface on the bridge with the addresses of this number.
pub(crate) fn bridged(number: u8) -> Nic {
    let nic = Nic::bridged("br0").address(&format!("10.77.0.{number}/24")).gateway("10.77.0.1");
    nic.address(&format!("fd77::{number}/64")).gateway("fd77::1")
}

fn id(name: &str) -> InstanceId {
    name.parse().unwrap()
}

#[test]
fn containers_on_a_bridge_reach_each_other_and_the_host() {
    with_rig(|wire, rig| {
        let one = rig.run(busybox("one").nic(bridged(11)));
        let two = rig.run(busybox("two").nic(bridged(12)).privileged());
        for address in ["10.77.0.1", "10.77.0.12", "fd77::1", "fd77::12"] {
            works(&one, &format!("ping -c 1 -W 20 {address}"));
        }
        for address in ["10.77.0.1", "10.77.0.11", "fd77::1", "fd77::11"] {
            works(&two, &format!("ping -c 1 -W 20 {address}"));
        }
        for address in ["10.77.0.11", "10.77.0.12", "fd77::11", "fd77::12"] {
            wire.pings(address);
        }
        // TCP, from one to the other and back: of two that end together one may not hear the other out.
        let listening = |c: &Container, port: u16| {
            works(
                c,
                &format!(
                    "for i in $(seq 100); do netstat -ltn | grep -q :{port} && exit; sleep 0.1; done; exit 1"
                ),
            );
        };
        works(&two, "nc -l -p 7777 </dev/null >/tmp/got 2>&1 & true");
        listening(&two, 7777);
        works(&one, "echo question | nc -w 10 10.77.0.12 7777");
        works(&two, "for i in $(seq 100); do grep -q question /tmp/got && exit; sleep 0.1; done; exit 1");
        works(&two, "echo answer | nc -l -p 7778 >/dev/null 2>&1 & true");
        listening(&two, 7778);
        assert_eq!(works(&one, "nc -w 10 fd77::12 7778 </dev/null"), "answer");
        let routes = works(&one, "ip route; ip -6 route");
        assert!(routes.contains("default via 10.77.0.1 dev eth0"), "{routes}");
        assert!(routes.contains("default via fd77::1 dev eth0"), "{routes}");
        assert_eq!(wire.links().len(), 2);
        end(one);
        assert_eq!(wire.links().len(), 1);
        end(two);
    });
}

#[test]
fn a_cable_joins_the_container_to_the_host() {
    with_rig(|wire, rig| {
        let cable = Nic::p2p().name("up0").host_name("cable0").mtu(1400).mac("02:00:00:00:00:07");
        let cable = cable.address("10.78.0.2/30").host_address("10.78.0.1/30").gateway("10.78.0.1");
        let cable = cable.route("10.79.0.0/16", "10.78.0.1").address("fd78::2/64").host_address("fd78::1/64");
        // Beside it another one, and a setting of it that needs it to be there.
        let bridge = Nic::bridged("br0").address("10.77.0.11/24");
        let c = rig.run(busybox("c").nic(cable).nic(bridge).sysctl("net.ipv4.conf.up0.arp_notify", "1"));
        for address in ["10.78.0.1", "fd78::1", "10.77.0.1"] {
            works(&c, &format!("ping -c 1 -W 20 {address}"));
        }
        for address in ["10.78.0.2", "fd78::2", "10.77.0.11"] {
            wire.pings(address);
        }
        let routes = works(&c, "ip route");
        assert!(routes.contains("10.79.0.0/16 via 10.78.0.1 dev up0"), "{routes}");
        assert_eq!(
            works(&c, "cat /sys/class/net/up0/address /sys/class/net/up0/mtu"),
            "02:00:00:00:00:07\n1400"
        );
        assert_eq!(works(&c, "cat /proc/sys/net/ipv4/conf/up0/arp_notify"), "1");
        assert_eq!(wire.run("cat /proc/self/net/dev").1.matches("cable0:").count(), 1);
        end(c);
    });
}

#[test]
fn the_host_routes_to_routed_containers() {
    with_rig(|wire, rig| {
        let nic = |n: u8| Nic::routed().address(&format!("192.0.2.{n}")).address(&format!("2001:db8::{n}"));
        let one = rig.run(busybox("one").nic(nic(1)));
        let two = rig.run(busybox("two").nic(nic(2)));
        for (c, address) in
            [(&one, "192.0.2.1"), (&one, "2001:db8::1"), (&two, "192.0.2.2"), (&two, "2001:db8::2")]
        {
            wire.pings(address);
            let gateway = if address.contains(':') { "fd77::1" } else { "10.77.0.1" };
            works(c, &format!("ping -c 1 -W 20 {gateway}"));
        }
        // From one to the other where the host forwards.
        wire.run("sysctl -w net.ipv4.ip_forward=1");
        works(&one, "ping -c 1 -W 20 192.0.2.2");
        // An address that another one has is refused by the kernel, with its words, and nothing is left of the try.
        let before = wire.links();
        let clash = Nic::routed().address("192.0.2.2");
        let third = busybox("three").nic(Nic::bridged("br0").address("10.77.0.13/24")).nic(clash);
        let third = rig.runtime.create(third.build().unwrap()).unwrap();
        let e = third.start().unwrap_err();
        assert_eq!(
            (e.kind(), e.step(), e.errno()),
            (ErrorKind::AlreadyExists, "add a route", Some(libc::EEXIST)),
            "{e}"
        );
        assert!(e.to_string().contains("192.0.2.2/32") && e.way_out().is_some(), "{e}");
        assert_eq!(wire.links(), before);
        third.delete().unwrap();
        end(one);
        end(two);
    });
}

#[test]
fn what_the_host_lacks_is_said_before_anything_is_made() {
    with_rig(|wire, rig| {
        let fails = |nic: Nic| {
            let c = rig.runtime.create(busybox("c").nic(nic).build().unwrap()).unwrap();
            let e = c.start().unwrap_err();
            c.delete().unwrap();
            e
        };
        let e = fails(Nic::bridged("br9"));
        assert_eq!(
            (e.kind(), e.step(), e.what()),
            (ErrorKind::NotFound, "find the bridge", Some("br9")),
            "{e}"
        );
        let e = fails(Nic::bridged("lo"));
        assert_eq!((e.kind(), e.step()), (ErrorKind::InvalidConfig, "find the bridge"), "{e}");
        let e = fails(Nic::p2p().host_name("br0"));
        assert_eq!((e.kind(), e.what()), (ErrorKind::AlreadyExists, Some("br0")), "{e}");
        // That one is still there.
        wire.ip("addr show dev br0");
        // The kernel itself refuses: a second one of a name.
        wire.ip("link add stranger type bridge");
        let e = fails(Nic::p2p().host_name("stranger"));
        assert_eq!(e.kind(), ErrorKind::AlreadyExists, "{e}");
        assert_eq!(wire.links(), ["stranger"]);
        wire.ip("link del stranger");
    });
}

#[test]
fn interfaces_are_reported_as_they_are_inside() {
    with_rig(|wire, rig| {
        let c = rig.run(busybox("c").nic(bridged(11).mac("02:00:00:00:00:0b")));
        wire.pings("10.77.0.11");
        let all = c.interfaces().unwrap();
        let lo = all.iter().find(|i| i.name == "lo").unwrap();
        assert!(
            lo.is_loopback && lo.mac.is_none() && lo.host_name.is_none() && lo.state == LinkState::Up,
            "{lo:?}"
        );
        let local: Vec<_> = lo.addresses.iter().map(|a| (a.net.to_string(), a.scope)).collect();
        assert_eq!(
            local,
            [("127.0.0.1/8".to_owned(), AddressScope::Local), ("::1/128".to_owned(), AddressScope::Local)]
        );
        let eth0 = all.iter().find(|i| i.name == "eth0").unwrap();
        assert_eq!(eth0.mac.unwrap().to_string(), "02:00:00:00:00:0b");
        assert_eq!((eth0.mtu, eth0.state, eth0.kind.as_deref()), (1500, LinkState::Up, Some("veth")));
        assert_eq!(wire.links(), [eth0.host_name.clone().unwrap()]);
        let name = eth0.host_name.as_ref().unwrap();
        assert!(name.len() == 12 && name.starts_with("veth"), "{name}");
        let global: Vec<_> = eth0.addresses.iter().filter(|a| a.scope == AddressScope::Global).collect();
        assert_eq!(
            global.iter().map(|a| a.net.to_string()).collect::<Vec<_>>(),
            ["10.77.0.11/24", "fd77::11/64"]
        );
        assert!(global.iter().all(|a| !a.is_tentative));
        let counters = eth0.counters;
        assert!(counters.packets_received > 0 && counters.packets_sent > 0, "{counters:?}");
        assert!(counters.bytes_received > 80 && counters.bytes_sent > 80, "{counters:?}");
        let read = |name: &str| {
            works(&c, &format!("cat /sys/class/net/eth0/statistics/{name}")).parse::<u64>().unwrap()
        };
        assert!(read("rx_bytes") >= counters.bytes_received && read("tx_bytes") >= counters.bytes_sent);
        let addresses = ["10.77.0.11", "fd77::11"].map(|a| a.parse::<IpAddr>().unwrap());
        assert_eq!(c.addresses().unwrap(), addresses);

        // What the payload does to it is seen; and who shares the network sees the same.
        works(&c, "ip addr add 10.77.0.99/24 dev eth0 && ip link set eth0 down");
        let kinds = [NamespaceKind::Net, NamespaceKind::User];
        let shares =
            |b, kind| ContainerBuilder::namespace(b, kind, NamespaceSource::Join(Target::Instance(id("c"))));
        let member = rig.run(kinds.into_iter().fold(busybox("member"), shares));
        for c in [&c, &member] {
            let all = c.interfaces().unwrap();
            let eth0 = all.iter().find(|i| i.name == "eth0").unwrap();
            assert_eq!(eth0.state, LinkState::Down);
            assert!(c.addresses().unwrap().contains(&"10.77.0.99".parse().unwrap()));
        }
        end(member);
        // One with no more than its loopback device, and one with the host's network.
        let plain = rig.run(busybox("plain"));
        let names = |c: &Container| c.interfaces().unwrap().into_iter().map(|i| i.name).collect::<Vec<_>>();
        assert!(names(&plain).contains(&"lo".to_owned()) && !names(&plain).contains(&"eth0".to_owned()));
        assert_eq!((names(&plain), plain.addresses().unwrap()), (names(&plain), Vec::new()));
        let host = rig.run(busybox("host").network(Network::Host));
        assert!(names(&host).contains(&"br0".to_owned()));
        end(host);
        plain.stop().unwrap();
        let e = plain.interfaces().unwrap_err();
        assert_eq!(e.kind(), ErrorKind::InvalidState, "{e}");
        end(plain);
        end(c);
    });
}
