//! Which addresses are private, and resolvers that leave out the private or the public ones.
//!
//! The operator chooses a URL, but the DNS zone of its host decides where it resolves to. Two rules follow:
//! a webhook's name may resolve to public addresses only, against server-side request forgery, and without
//! TLS only private addresses are connected to. The check is on the addresses that are then connected to, so
//! DNS rebinding does not get round it.
//!
//! Deliberately absent: which rule applies to a connection, which is for the code that makes it.

use std::error::Error;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use reqwest::Url;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};

/// What the host of a URL says about the addresses that are connected to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Host {
    /// It is a private address, or `localhost`.
    Private,
    /// It is a public address.
    Public,
    /// It is a name, which has to be resolved.
    Name,
}

impl Host {
    /// The kind of host in `url`.
    #[must_use]
    pub fn of(url: &Url) -> Self {
        let host = url.host_str().unwrap_or_default();
        match host.trim_matches(['[', ']']).parse::<IpAddr>() {
            Ok(ip) if is_private(ip) => Self::Private,
            Ok(_) => Self::Public,
            Err(_) if host.trim_end_matches('.') == "localhost" => Self::Private,
            Err(_) => Self::Name,
        }
    }
}

/// Whether an address is not one of the public internet.
#[must_use]
pub fn is_private(ip: IpAddr) -> bool {
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
pub struct PrivateAddress;

/// The addresses of a host are public only.
#[derive(Debug, thiserror::Error)]
#[error("the host has a public address, to which nothing is sent without TLS")]
pub struct PublicAddress;

/// The system's resolver.
pub struct SystemNames;

impl Resolve for SystemNames {
    fn resolve(&self, name: Name) -> Resolving {
        Box::pin(async move {
            let addresses: Vec<_> = tokio::net::lookup_host((name.as_str(), 0)).await?.collect();
            Ok(Box::new(addresses.into_iter()) as Addrs)
        })
    }
}

/// A resolver that leaves out private addresses.
pub struct PublicOnly(pub Arc<dyn Resolve>);

impl Resolve for PublicOnly {
    fn resolve(&self, name: Name) -> Resolving {
        only(self.0.resolve(name), |ip| !is_private(ip), PrivateAddress)
    }
}

/// A resolver that leaves out public addresses.
pub struct PrivateOnly(pub Arc<dyn Resolve>);

impl Resolve for PrivateOnly {
    fn resolve(&self, name: Name) -> Resolving {
        only(self.0.resolve(name), is_private, PublicAddress)
    }
}

/// The addresses that `allowed` accepts; `refusal` if there are others only.
fn only(
    resolving: Resolving,
    allowed: fn(IpAddr) -> bool,
    refusal: impl Error + Send + Sync + 'static,
) -> Resolving {
    Box::pin(async move {
        let all: Vec<_> = resolving.await?.collect();
        let found: Vec<_> = all.iter().copied().filter(|address| allowed(address.ip())).collect();
        if found.is_empty() && !all.is_empty() {
            return Err(refusal.into());
        }
        Ok(Box::new(found.into_iter()) as Addrs)
    })
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
    fn an_address_in_the_url_is_recognised_in_every_notation() {
        for url in [
            "http://127.1/",
            "https://[::1]:8/",
            "http://0x7f.1",
            "http://LOCALHOST:9/",
            "http://2130706433/",
        ] {
            assert_eq!(Host::of(&url.parse().unwrap()), Host::Private, "{url}");
        }
        for url in
            ["http://1.1.1.1/", "https://[2606:4700::1111]:8/", "nats://1.1.1.1:4222", "http://16843009/"]
        {
            assert_eq!(Host::of(&url.parse().unwrap()), Host::Public, "{url}");
        }
        // The system's resolver reads the last one as 127.0.0.1.
        for url in
            ["https://crm.example.com/", "https://localhost.example.com/", "nats://nats", "nats://127.1"]
        {
            assert_eq!(Host::of(&url.parse().unwrap()), Host::Name, "{url}");
        }
    }

    #[tokio::test]
    async fn the_systems_own_names_are_filtered_too() {
        let names = PublicOnly(Arc::new(SystemNames));
        let refused = names.resolve("localhost".parse().unwrap()).await.err().unwrap();
        assert!(refused.is::<PrivateAddress>(), "{refused}");
        let names = PrivateOnly(Arc::new(SystemNames));
        assert!(names.resolve("localhost".parse().unwrap()).await.unwrap().next().is_some());
    }
}
