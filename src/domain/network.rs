//! Ranges of IP addresses, as they are written in the configuration and in WeCom's lists.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::{Serialize, Serializer};

/// A range of addresses with a common prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Network {
    /// Its first address, not an IPv4 address mapped to IPv6.
    first: IpAddr,
    prefix_bits: u8,
}

impl Network {
    /// Reads an address, `10.0.0.0/8`, or an IPv4 address that ends in wildcards: `101.226.103.*`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        if let Some((address, bits)) = text.split_once('/') {
            // Not "+8".
            let digits = Some(bits).filter(|bits| bits.bytes().all(|byte| byte.is_ascii_digit()))?;
            return Self::new(address.parse().ok()?, digits.parse().ok()?);
        }
        match text.find('*') {
            Some(wildcards) => Self::with_wildcards(text, wildcards),
            None => text.parse().ok().map(Self::of),
        }
    }

    fn with_wildcards(text: &str, start: usize) -> Option<Self> {
        let wildcards = text[start..].split('.');
        if !text[..start].ends_with('.') || wildcards.clone().any(|part| part != "*") {
            return None;
        }
        let bits_free = u8::try_from(wildcards.count()).ok()?.checked_mul(8)?;
        let first: Ipv4Addr = text.replace('*', "0").parse().ok()?;
        Self::new(first.into(), 32_u8.checked_sub(bits_free)?)
    }

    /// The network of one address.
    #[must_use]
    pub fn of(address: IpAddr) -> Self {
        let first = address.to_canonical();
        Self { first, prefix_bits: if first.is_ipv4() { 32 } else { 128 } }
    }

    /// The network of `address` with a prefix of this length; `None` if no address has that many bits.
    #[must_use]
    pub fn new(address: IpAddr, prefix_bits: u8) -> Option<Self> {
        let (address, prefix_bits) = match (address, address.to_canonical()) {
            // Mapped to IPv6: the first 96 bits say so.
            (IpAddr::V6(_), v4 @ IpAddr::V4(_)) => (v4, prefix_bits.checked_sub(96)?),
            (address, _) => (address, prefix_bits),
        };
        let first = match address {
            IpAddr::V4(ip) => {
                let bits_free = 32_u32.checked_sub(prefix_bits.into())?;
                IpAddr::V4(Ipv4Addr::from_bits(ip.to_bits() & u32::MAX.checked_shl(bits_free).unwrap_or(0)))
            }
            IpAddr::V6(ip) => {
                let bits_free = 128_u32.checked_sub(prefix_bits.into())?;
                IpAddr::V6(Ipv6Addr::from_bits(ip.to_bits() & u128::MAX.checked_shl(bits_free).unwrap_or(0)))
            }
        };
        Some(Self { first, prefix_bits })
    }

    /// Whether this address belongs to it. An IPv4 address that is mapped to IPv6 is that IPv4 address.
    #[must_use]
    pub fn contains(self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        address.is_ipv4() == self.first.is_ipv4() && Self::new(address, self.prefix_bits) == Some(self)
    }

    /// Whether every address of its version belongs to it.
    #[must_use]
    pub const fn is_everything(self) -> bool {
        self.prefix_bits == 0
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { first, prefix_bits } = self;
        if *self == Self::of(*first) { first.fmt(f) } else { write!(f, "{first}/{prefix_bits}") }
    }
}

impl Serialize for Network {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_contains_the_addresses_with_its_prefix() {
        for (network, inside, outside) in [
            ("127.0.0.1", "127.0.0.1", "127.0.0.2"),
            ("127.0.0.1", "::ffff:127.0.0.1", "::1"),
            ("10.0.0.0/8", "10.255.0.1", "11.0.0.0"),
            ("10.9.9.9/8", "10.255.0.1", "9.255.255.255"),
            ("10.0.0.4/31", "10.0.0.5", "10.0.0.6"),
            ("::ffff:10.0.0.0/104", "10.255.0.1", "11.0.0.0"),
            ("101.226.103.*", "101.226.103.255", "101.226.104.0"),
            ("101.226.*.*", "101.226.255.0", "101.227.0.0"),
            ("0.0.0.0/0", "255.0.0.1", "::"),
            ("::/0", "ffff::1", "0.0.0.0"),
            ("2001:db8::/32", "2001:db8:ffff::1", "2001:db9::"),
            ("2001:db8::1", "2001:db8::1", "2001:db8::2"),
        ] {
            let parsed = Network::parse(network).unwrap();
            let contains = |address: &str| parsed.contains(address.parse().unwrap());
            assert!(contains(inside) && !contains(outside), "{network}");
            assert_eq!(Network::parse(&parsed.to_string()), Some(parsed));
            assert_eq!(parsed.is_everything(), network.ends_with("/0"));
        }
    }

    #[test]
    fn anything_else_is_no_network() {
        for text in [
            "",
            "*",
            "*.*.*.*.*",
            "1.2.3",
            "1.2.*",
            "1.2.*.4",
            "1.2.3.4*",
            "1.2.3.*/24",
            "1.2.3.4/33",
            "1.2.3.4/+8",
            "1.2.3.4/",
            "::/129",
            "::ffff:1.2.3.4/95",
            "localhost",
            "1.2.3.4:80",
            " 1.2.3.4",
        ] {
            assert_eq!(Network::parse(text), None, "{text:?}");
        }
    }
}
