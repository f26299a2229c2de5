//! Addresses as they are written.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::error::{Error, Result};

/// An IP address with the length of its network's prefix, such as `10.0.0.2/24`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct IpNet {
    address: IpAddr,
    prefix: u8,
}

impl IpNet {
    /// # Errors
    /// [`InvalidConfig`](crate::ErrorKind::InvalidConfig) where `prefix` is longer than the address.
    pub fn new(address: IpAddr, prefix: u8) -> Result<Self> {
        let longest = bits(address);
        if prefix > longest {
            return Err(Error::invalid("prefix length", format!("{prefix} is not 0 to {longest}")));
        }
        Ok(Self { address, prefix })
    }

    /// The address.
    pub fn address(&self) -> IpAddr {
        self.address
    }

    /// How many bits of it name the network.
    pub fn prefix(&self) -> u8 {
        self.prefix
    }

    /// Whether `other` is in the same network.
    pub fn contains(&self, other: IpAddr) -> bool {
        match (self.address, other) {
            (IpAddr::V4(a), IpAddr::V4(b)) => {
                let mask = u32::MAX.checked_shl(32 - u32::from(self.prefix)).unwrap_or(0);
                a.to_bits() & mask == b.to_bits() & mask
            }
            (IpAddr::V6(a), IpAddr::V6(b)) => {
                let mask = u128::MAX.checked_shl(128 - u32::from(self.prefix)).unwrap_or(0);
                a.to_bits() & mask == b.to_bits() & mask
            }
            _ => false,
        }
    }

    /// Whether it names one address and no network.
    pub(in crate::container) fn is_single(&self) -> bool {
        self.prefix == bits(self.address)
    }

    /// Whether no bit is set below the prefix.
    pub(super) fn is_network(&self) -> bool {
        let below = match self.address {
            IpAddr::V4(a) => u128::from(a.to_bits().checked_shl(u32::from(self.prefix)).unwrap_or(0)),
            IpAddr::V6(a) => a.to_bits().checked_shl(u32::from(self.prefix)).unwrap_or(0),
        };
        below == 0
    }
}

fn bits(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

impl FromStr for IpNet {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let invalid =
            || Error::invalid("address", format!("`{}` is no IP address with a prefix length", show(text)));
        let (address, prefix) = text.split_once('/').unwrap_or((text, ""));
        let address: IpAddr = address.parse().map_err(|_| invalid())?;
        if !text.contains('/') {
            return Ok(Self { address, prefix: bits(address) });
        }
        if prefix.is_empty() || !prefix.bytes().all(|b| b.is_ascii_digit()) {
            return Err(invalid());
        }
        Self::new(address, prefix.parse().map_err(|_| invalid())?)
    }
}

impl fmt::Display for IpNet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

/// The hardware address of a network interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MacAddress([u8; 6]);

impl MacAddress {
    /// These six bytes.
    pub const fn new(bytes: [u8; 6]) -> Self {
        Self(bytes)
    }

    /// Its six bytes.
    pub const fn octets(self) -> [u8; 6] {
        self.0
    }

    /// Whether a single interface can have it: it is neither zero nor a group's.
    pub(super) fn is_unicast(self) -> bool {
        self.0[0] & 1 == 0 && self.0 != [0; 6]
    }

    /// A locally administered one, the same for the same text.
    pub(super) fn derived(text: &str) -> Self {
        // FNV-1a: spreads, protects nothing.
        let hash = text.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
        });
        let [_, _, _, b1, b2, b3, b4, b5] = (hash ^ hash >> 40).to_be_bytes();
        Self([0x02, b1, b2, b3, b4, b5])
    }
}

impl FromStr for MacAddress {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let invalid = || {
            Error::invalid(
                "hardware address",
                format!("`{}` is not six bytes such as 02:00:00:00:00:01", show(text)),
            )
        };
        let mut bytes = [0; 6];
        let mut parts = text.split(':');
        for byte in &mut bytes {
            let part = parts.next().filter(|p| p.len() == 2 && p.bytes().all(|b| b.is_ascii_hexdigit()));
            *byte = u8::from_str_radix(part.ok_or_else(invalid)?, 16).map_err(|_| invalid())?;
        }
        if parts.next().is_some() { Err(invalid()) } else { Ok(Self(bytes)) }
    }
}

impl fmt::Display for MacAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

/// Text of the caller's for a message: short and on one line.
pub(super) fn show(text: &str) -> String {
    text.chars().take(60).map(|c| if c.is_control() { '?' } else { c }).collect()
}

macro_rules! as_text {
    ($($t:ty)*) => {$(
        impl Serialize for $t {
            fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                s.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $t {
            fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                String::deserialize(d)?.parse().map_err(de::Error::custom)
            }
        }
    )*};
}

as_text!(IpNet MacAddress);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_and_written() {
        for (text, written) in [
            ("10.0.0.2/24", "10.0.0.2/24"),
            ("10.0.0.2", "10.0.0.2/32"),
            ("fd00::2", "fd00::2/128"),
            ("::/0", "::/0"),
        ] {
            assert_eq!(text.parse::<IpNet>().unwrap().to_string(), written);
        }
        for text in [
            "",
            "10.0.0/24",
            "10.0.0.2/33",
            "fd00::2/129",
            "10.0.0.2/",
            "10.0.0.2/+8",
            "10.0.0.2/2/4",
            "a/300",
        ] {
            assert!(text.parse::<IpNet>().is_err(), "{text}");
        }
        assert_eq!("02:00:0A:ff:00:01".parse::<MacAddress>().unwrap().to_string(), "02:00:0a:ff:00:01");
        for text in [
            "",
            "02:00:0a:ff:00",
            "02:00:0a:ff:00:01:02",
            "2:0:a:f:0:1",
            "02-00-0a-ff-00-01",
            "zz:00:0a:ff:00:01",
        ] {
            assert!(text.parse::<MacAddress>().is_err(), "{text}");
        }
    }

    #[test]
    fn networks_contain_their_addresses() {
        let net = |text: &str| text.parse::<IpNet>().unwrap();
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        assert!(
            net("10.0.0.2/24").contains(ip("10.0.0.255")) && !net("10.0.0.2/24").contains(ip("10.0.1.0"))
        );
        assert!(net("0.0.0.0/0").contains(ip("1.2.3.4")) && !net("0.0.0.0/0").contains(ip("::1")));
        assert!(net("fd00::/64").contains(ip("fd00::ffff")) && !net("fd00::1/128").contains(ip("fd00::2")));
        assert!(
            net("10.9.0.0/16").is_network() && !net("10.9.0.1/16").is_network() && net("::/0").is_network()
        );
        assert!(net("10.9.0.1/32").is_network() && !net("fd00::1/64").is_network());
    }

    #[test]
    fn derived_hardware_addresses_differ_and_stay() {
        let all: std::collections::BTreeSet<_> =
            (0..5000).map(|n| MacAddress::derived(&n.to_string())).collect();
        assert_eq!(all.len(), 5000);
        assert!(all.iter().all(|mac| mac.is_unicast() && mac.octets()[0] == 2));
        assert_eq!(
            MacAddress::derived("machine\0default/web\0eth0").to_string(),
            MacAddress::derived("machine\0default/web\0eth0").to_string()
        );
    }
}
