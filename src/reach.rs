//! Protection against server-side request forgery: the addresses that a webhook may connect to.
//!
//! The operator chooses a receiver's URL, but the DNS zone of its host decides where it resolves to. Host
//! names may therefore resolve to public addresses only. The check is on the addresses that are then
//! connected to, so DNS rebinding does not get round it. A private address in the URL itself is intended, and
//! allowed.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use reqwest::Url;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};

/// Whether the host of `url` is a private address or `localhost`.
#[must_use]
pub fn names_private_address(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default();
    match host.trim_matches(['[', ']']).parse::<IpAddr>() {
        Ok(ip) => is_private(ip),
        Err(_) => host.trim_end_matches('.') == "localhost",
    }
}

/// Whether an address is not one of the public internet.
fn is_private(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => is_private_v4(ip),
        IpAddr::V6(ip) => embedded(ip).map_or_else(|| is_private_v6(ip), is_private_v4),
    }
}

const fn is_private_v4(ip: Ipv4Addr) -> bool {
    let [a, b, c, _] = ip.octets();
    ip.is_private()
        || ip.is_loopback()
        || ip.is_link_local()
        || ip.is_multicast()
        || matches!((a, b), (100, 64..=127) | (198, 18 | 19)) // between carriers (CGNAT); benchmarks
        || matches!((a, b, c), (192, 0, 0)) // protocol assignments
        || matches!(a, 0 | 240..) // this network; reserved, broadcast included
}

const fn is_private_v6(ip: Ipv6Addr) -> bool {
    let first = ip.segments()[0];
    ip.is_loopback()
        || ip.is_unspecified()
        || ip.is_multicast()
        || matches!(first, 0xfc00..=0xfdff) // unique local
        || matches!(ip.segments(), [0x0064, 0xff9b, 1, ..] | [0x2001, 0, ..]) // local NAT64; Teredo
        || matches!(first, 0xfe80..=0xfeff) // link-local and the site-local of old
}

/// The IPv4 address embedded in an IPv6 address: mapped, compatible, translated (SIIT, NAT64) or 6to4.
fn embedded(ip: Ipv6Addr) -> Option<Ipv4Addr> {
    let v4 = |high: u16, low: u16| Ipv4Addr::from((u32::from(high) << 16) | u32::from(low));
    match ip.segments() {
        [0, 0, 0, 0, 0, 0 | 0xffff, high, low]
        | [0, 0, 0, 0, 0xffff, 0, high, low]
        | [0x0064, 0xff9b, 0, 0, 0, 0, high, low]
        | [0x2002, high, low, ..] => Some(v4(high, low)),
        _ => None,
    }
}

/// A host name resolves to private addresses only.
#[derive(Debug, thiserror::Error)]
#[error("the host name resolves to a private address")]
pub(super) struct PrivateAddress;

/// The system's resolver.
pub(super) struct SystemNames;

impl Resolve for SystemNames {
    fn resolve(&self, name: Name) -> Resolving {
        Box::pin(async move {
            let addresses: Vec<_> = tokio::net::lookup_host((name.as_str(), 0)).await?.collect();
            Ok(Box::new(addresses.into_iter()) as Addrs)
        })
    }
}

/// A resolver that leaves out private addresses.
pub(super) struct PublicOnly(pub(super) Arc<dyn Resolve>);

impl Resolve for PublicOnly {
    fn resolve(&self, name: Name) -> Resolving {
        let resolving = self.0.resolve(name);
        Box::pin(async move {
            let all: Vec<_> = resolving.await?.collect();
            let public: Vec<_> = all.iter().copied().filter(|address| !is_private(address.ip())).collect();
            if public.is_empty() && !all.is_empty() {
                return Err(PrivateAddress.into());
            }
            Ok(Box::new(public.into_iter()) as Addrs)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn private_and_public_addresses_are_distinguished() {
        let private = [
            "10.1.2.3",
            "172.16.0.1",
            "172.31.255.255",
            "192.168.1.1",
            "127.0.0.1",
            "127.8.8.8",
            "169.254.169.254",
            "100.64.0.1",
            "100.127.255.255",
            "0.0.0.0",
            "0.1.2.3",
            "224.0.0.1",
            "239.1.1.1",
            "255.255.255.255",
            "240.0.0.1",
            "192.0.0.8",
            "198.18.0.1",
            "::",
            "::1",
            "fe80::1",
            "febf::1",
            "fec0::1",
            "fc00::1",
            "fd12::1",
            "ff02::1",
            "::ffff:10.0.0.1",
            "::ffff:127.0.0.1",
            "64:ff9b::a00:1",
            "2002:7f00:1::",
        ];
        for ip in private {
            assert!(is_private(ip.parse().unwrap()), "{ip}");
        }
        let public = [
            "1.1.1.1",
            "9.255.255.255",
            "172.15.0.1",
            "172.32.0.1",
            "100.63.255.255",
            "100.128.0.1",
            "192.0.1.1",
            "198.17.0.1",
            "223.255.255.255",
            "2606:4700::1111",
            "::ffff:1.1.1.1",
            "64:ff9b::101:101",
            "2002:101:101::",
        ];
        for ip in public {
            assert!(!is_private(ip.parse().unwrap()), "{ip}");
        }
    }

    #[test]
    fn a_private_address_in_the_url_is_recognised_in_every_notation() {
        for url in [
            "http://127.1/",
            "https://[::1]:8/",
            "http://0x7f.1",
            "http://LOCALHOST:9/",
            "http://2130706433/",
        ] {
            assert!(names_private_address(&url.parse().unwrap()), "{url}");
        }
        for url in ["http://1.1.1.1/", "https://crm.example.com/", "https://localhost.example.com/"] {
            assert!(!names_private_address(&url.parse().unwrap()), "{url}");
        }
    }

    #[tokio::test]
    async fn the_systems_own_names_are_filtered_too() {
        let names = PublicOnly(Arc::new(SystemNames));
        let refused = names.resolve("localhost".parse().unwrap()).await.err().unwrap();
        assert!(refused.is::<PrivateAddress>(), "{refused}");
        assert!(SystemNames.resolve("localhost".parse().unwrap()).await.unwrap().next().is_some());
    }
}
