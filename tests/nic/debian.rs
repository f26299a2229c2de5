//! What a distribution does with its interface: names are looked up, ifupdown and networkd set it.

use stockade::Rootfs;
use stockade::container::{Container, ContainerConfig, Nic};

use crate::rig::end;
use crate::wire::Dns;
use crate::{bridged, with_rig, works};

fn debian(name: &str, nic: Nic) -> Option<stockade::container::ContainerBuilder> {
    match support::fixture("debian") {
        Ok(root) => {
            let builder =
                ContainerConfig::builder(name).rootfs(Rootfs::overlay([root])).args(["sleep", "1000"]);
            Some(builder.env("LC_ALL", "C").kill_on_drop().nic(nic))
        }
        Err(why) => {
            support::skip(why);
            None
        }
    }
}

fn works_soon(c: &Container, script: &str) -> String {
    works(c, &format!("for i in $(seq 300); do {script} && exit 0; sleep 0.1; done; exit 1"))
}

#[test]
fn names_are_looked_up_and_ifupdown_works() {
    with_rig(|wire, rig| {
        let Some(config) = debian("deb", bridged(11)) else { return };
        let dns = Dns::start("10.77.0.1".parse().unwrap(), [10, 77, 0, 1]);
        let c = rig.run(config.resolv_conf("nameserver 10.77.0.1\n"));
        let found = works(&c, "getent ahostsv4 stockade.test");
        assert!(found.starts_with("10.77.0.1 "), "{found}");
        works(&c, "ping -c 1 -W 20 stockade.test");
        assert!(dns.end() >= 2);
        // What ifupdown takes down it brings up again.
        works(
            &c,
            "printf 'auto eth0\\niface eth0 inet static\\n address 10.77.0.42/24\\n gateway 10.77.0.1\\n' >/etc/network/interfaces",
        );
        works(&c, "mkdir -p /run/network && ip addr flush dev eth0 && ifup eth0 && ifquery --state eth0");
        assert_eq!(c.addresses().unwrap().first().unwrap().to_string(), "10.77.0.42");
        wire.pings("10.77.0.42");
        works(&c, "ping -c 1 -W 20 10.77.0.1 && ip route | grep 'default via 10.77.0.1'");
        works(&c, "ifdown eth0");
        assert!(!c.addresses().unwrap().iter().any(|a| a.to_string() == "10.77.0.42"));
        end(c);
    });
}

#[test]
fn networkd_sets_an_interface_that_has_no_address_yet() {
    with_rig(|wire, rig| {
        let Some(config) = debian("deb", Nic::bridged("br0")) else { return };
        let c = rig.run(config);
        works(
            &c,
            "printf '[Match]\\nName=eth0\\n[Network]\\nIPv6AcceptRA=no\\nAddress=10.77.0.43/24\\nGateway=10.77.0.1\\n' >/etc/systemd/network/10-eth0.network",
        );
        works(
            &c,
            "systemd-machine-id-setup >/dev/null 2>&1; mkdir -p /run/systemd/netif/links /run/systemd/netif/leases /run/systemd/netif/lldp && chown -R systemd-network: /run/systemd/netif",
        );
        works(&c, "container=stockade setsid /lib/systemd/systemd-networkd </dev/null >/tmp/log 2>&1 & true");
        works_soon(&c, "ip -4 -o addr show dev eth0 | grep -q 10.77.0.43/24");
        works_soon(&c, "ip route | grep -q 'default via 10.77.0.1'");
        wire.pings("10.77.0.43");
        assert_eq!(c.addresses().unwrap().first().unwrap().to_string(), "10.77.0.43");
        end(c);
    });
}
