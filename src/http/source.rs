//! Where a request comes from if it comes through a trusted proxy: the PROXY protocol, versions 1 and 2, at
//! the start of a connection, and `X-Forwarded-For` in a request. Pure.
//!
//! Anybody can write these headers, so they are read only where a proxy has written them: a PROXY header from
//! a trusted peer, and entries of `X-Forwarded-For` from the right, as long as a trusted proxy appended them.
//!
//! Deliberately absent: reading from the socket (see `serve`), and the header `Forwarded`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use axum::http::HeaderMap;

use super::socket::Source;
use crate::domain::network::Network;

/// The longest PROXY header of version 1, and of version 2 with its TLVs.
const V1_BYTES_MAX: usize = 107;
pub(super) const PROXY_HEADER_BYTES_MAX: usize = 536;

const V1_START: &[u8] = b"PROXY ";
pub(super) const V2_START: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
/// The fixed part of a header of version 2.
const V2_BYTES_MIN: usize = 16;

const X_FORWARDED_FOR: &str = "x-forwarded-for";
/// Entries of `X-Forwarded-For` that are looked at.
const HOPS_MAX: usize = 32;

/// The addresses of proxies that are believed.
#[derive(Debug, Clone, Default)]
pub struct TrustedProxies(Option<Arc<[Network]>>);

impl TrustedProxies {
    /// Proxies with addresses in these networks.
    #[must_use]
    pub fn new(networks: &[Network]) -> Self {
        Self((!networks.is_empty()).then(|| networks.into()))
    }

    /// Whether the proxy at this address is believed.
    pub(super) fn contains(&self, source: Source) -> bool {
        let (Some(networks), Some(address)) = (&self.0, source.0) else { return false };
        networks.iter().any(|network| network.contains(address))
    }

    /// Where a request with these headers comes from, if they were received from `peer`.
    pub(super) fn forwarded_for(&self, headers: &HeaderMap, peer: Source) -> Source {
        let lines = headers.get_all(X_FORWARDED_FOR).iter().rev();
        let entries = lines.flat_map(|line| line.as_bytes().rsplit(|byte| *byte == b','));
        let mut source = peer;
        for entry in entries.take(HOPS_MAX) {
            if !self.contains(source) {
                break;
            }
            // If it cannot be read, the last trusted hop is as far as the request can be followed.
            let Some(address) = address_of(entry) else { break };
            source = Source(Some(address));
        }
        source
    }
}

/// The address in an entry of `X-Forwarded-For`, which may come with a port.
fn address_of(entry: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(entry).ok()?.trim();
    let address = match text.strip_prefix('[') {
        Some(bracketed) => bracketed.split_once(']')?.0.parse::<Ipv6Addr>().ok()?.into(),
        None => match text.split_once(':') {
            Some((v4, port)) if !port.contains(':') => v4.parse::<Ipv4Addr>().ok()?.into(),
            _ => text.parse::<IpAddr>().ok()?,
        },
    };
    Some(address.to_canonical())
}

/// What a connection begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Preamble {
    /// No PROXY header.
    Absent,
    /// Possibly a PROXY header, of which more has to be received.
    Incomplete,
    /// A PROXY header.
    Header {
        /// Its length.
        bytes: usize,
        /// The source of the connection; none if that is the proxy itself, or the proxy does not know it.
        source: Source,
    },
    /// A PROXY header with an error.
    Malformed,
}

/// Looks for a PROXY header in the first bytes of a connection.
pub(super) fn proxy_header(start: &[u8]) -> Preamble {
    for (marker, read) in [(V1_START, version_1 as fn(&[u8]) -> Preamble), (V2_START.as_slice(), version_2)] {
        if start.starts_with(marker) {
            return read(start);
        }
        if marker.starts_with(start) {
            return Preamble::Incomplete;
        }
    }
    Preamble::Absent
}

/// `PROXY TCP4 192.0.2.1 192.0.2.2 56324 443\r\n`, or `TCP6`, or `PROXY UNKNOWN` and anything.
fn version_1(start: &[u8]) -> Preamble {
    let Some(end) = start.iter().take(V1_BYTES_MAX).position(|byte| *byte == b'\n') else {
        return if start.len() < V1_BYTES_MAX { Preamble::Incomplete } else { Preamble::Malformed };
    };
    let line = start[..end].strip_suffix(b"\r").and_then(|line| std::str::from_utf8(line).ok());
    match line.and_then(version_1_source) {
        Some(source) => Preamble::Header { bytes: end + 1, source },
        None => Preamble::Malformed,
    }
}

fn version_1_source(line: &str) -> Option<Source> {
    let mut words = line.split(' ').skip(1);
    let family = words.next()?;
    if family == "UNKNOWN" {
        return Some(Source(None));
    }
    let words: [&str; 4] = words.collect::<Vec<_>>().try_into().ok()?;
    let [source, destination, ports @ ..] = words;
    let address = |text: &str| match family {
        "TCP4" => text.parse::<Ipv4Addr>().ok().map(IpAddr::from),
        "TCP6" => text.parse::<Ipv6Addr>().ok().map(IpAddr::from),
        _ => None,
    };
    let _ = address(destination)?;
    ports.iter().all(|port| port.parse::<u16>().is_ok()).then_some(())?;
    Some(Source(Some(address(source)?.to_canonical())))
}

fn version_2(start: &[u8]) -> Preamble {
    let Some((fixed, rest)) = start.split_first_chunk::<V2_BYTES_MIN>() else {
        return Preamble::Incomplete;
    };
    let [.., version_and_command, family, high, low] = *fixed;
    let length = usize::from(u16::from_be_bytes([high, low]));
    if V2_BYTES_MIN + length > PROXY_HEADER_BYTES_MAX {
        return Preamble::Malformed;
    }
    let Some(body) = rest.get(..length) else { return Preamble::Incomplete };
    let source = match (version_and_command, family >> 4) {
        (0x21, 1) if length >= 12 => body.first_chunk().map(|octets| Ipv4Addr::from_octets(*octets).into()),
        (0x21, 2) if length >= 36 => {
            body.first_chunk().map(|octets| Ipv6Addr::from_octets(*octets).to_canonical())
        }
        // The proxy itself (LOCAL); or an unspecified source, or a Unix socket.
        (0x20, _) | (0x21, 0 | 3) => None,
        _ => return Preamble::Malformed,
    };
    Preamble::Header { bytes: V2_BYTES_MIN + length, source: Source(source) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version_2_header(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
        let [high, low] = u16::try_from(body.len()).unwrap().to_be_bytes();
        [V2_START, [command, family, high, low].as_slice(), body].concat()
    }

    #[test]
    fn headers_of_both_versions_name_the_source_or_none() {
        let v4 = [192, 0, 2, 1, 127, 0, 0, 1, 0xdc, 4, 1, 0xbb];
        let mut v6 = [0; 36];
        v6[..16].copy_from_slice(&"2001:db8::1".parse::<Ipv6Addr>().unwrap().octets());
        let mut mapped = v6;
        mapped[..16].copy_from_slice(&"::ffff:192.0.2.1".parse::<Ipv6Addr>().unwrap().octets());
        let tlvs = [v4.as_slice(), &[3; 508]].concat();
        for (header, source) in [
            (b"PROXY TCP4 192.0.2.1 127.0.0.1 56324 443\r\n".to_vec(), "192.0.2.1"),
            (b"PROXY TCP6 2001:db8::1 ::1 1 2\r\n".to_vec(), "2001:db8::1"),
            (b"PROXY TCP6 ::ffff:192.0.2.1 ::1 1 2\r\n".to_vec(), "192.0.2.1"),
            (b"PROXY UNKNOWN\r\n".to_vec(), ""),
            (b"PROXY UNKNOWN ffff::1 ffff::2 1 2\r\n".to_vec(), ""),
            (version_2_header(0x21, 0x11, &v4), "192.0.2.1"),
            (version_2_header(0x21, 0x21, &v6), "2001:db8::1"),
            (version_2_header(0x21, 0x21, &mapped), "192.0.2.1"),
            (version_2_header(0x21, 0x11, &tlvs), "192.0.2.1"),
            (version_2_header(0x20, 0x11, &v4), ""),
            (version_2_header(0x20, 0, &[]), ""),
            (version_2_header(0x21, 0, &[]), ""),
            (version_2_header(0x21, 0x31, &[7; 216]), ""),
        ] {
            let expected = Preamble::Header { bytes: header.len(), source: Source(source.parse().ok()) };
            let request = [&header, b"GET / HTTP/1.1\r\n".as_slice()].concat();
            assert_eq!(proxy_header(&request), expected, "{}", header.escape_ascii());
            for length in 0..header.len() {
                assert_eq!(proxy_header(&header[..length]), Preamble::Incomplete, "{length}");
            }
        }
    }

    #[test]
    fn headers_with_errors_are_malformed_and_anything_else_is_a_request() {
        let long = [b"PROXY TCP4 ".as_slice(), &[b'1'; 96]].concat();
        for header in [
            b"PROXY TCP4 192.0.2.1 127.0.0.1 56324 443\n".as_slice(),
            b"PROXY TCP4 192.0.2.1 127.0.0.1 56324\r\n",
            b"PROXY TCP4 192.0.2.1 127.0.0.1 56324 65536\r\n",
            b"PROXY TCP4 192.0.2.1  127.0.0.1 56324 443\r\n",
            b"PROXY TCP4 2001:db8::1 ::1 1 2\r\n",
            b"PROXY TCP6 192.0.2.1 127.0.0.1 1 2\r\n",
            b"PROXY UDP4 192.0.2.1 127.0.0.1 1 2\r\n",
            b"PROXY / HTTP/1.1\r\n",
            &long,
            &version_2_header(0x11, 0x11, &[1; 12]),
            &version_2_header(0x22, 0x11, &[1; 12]),
            &version_2_header(0x21, 0x41, &[1; 12]),
            &version_2_header(0x21, 0x11, &[1; 11]),
            &version_2_header(0x21, 0x21, &[1; 35]),
            &version_2_header(0x21, 0x11, &[1; 521]),
        ] {
            assert_eq!(proxy_header(header), Preamble::Malformed, "{}", header.escape_ascii());
        }
        for start in [b"GET / HTTP/1.1".as_slice(), b"POST /", b"PROPFIND /", b"\r\nGET /", b"\0", b"proxy "]
        {
            assert_eq!(proxy_header(start), Preamble::Absent, "{}", start.escape_ascii());
        }
    }

    #[test]
    fn entries_of_x_forwarded_for_are_believed_as_far_as_trusted_proxies_appended_them() {
        let networks = ["127.0.0.1", "10.0.0.0/8", "2001:db8::/64"].map(|text| Network::parse(text).unwrap());
        let trusted = TrustedProxies::new(&networks);
        let many = vec!["10.0.0.1"; HOPS_MAX + 1].join(",");
        for (peer, lines, expected) in [
            ("127.0.0.1", [].as_slice(), "127.0.0.1"),
            ("127.0.0.1", &["9.9.9.9"], "9.9.9.9"),
            ("127.0.0.1", &["1.1.1.1, 9.9.9.9,127.0.0.1"], "9.9.9.9"),
            ("127.0.0.1", &["1.1.1.1", "9.9.9.9", "10.1.1.1"], "9.9.9.9"),
            ("127.0.0.1", &["9.9.9.9:1234"], "9.9.9.9"),
            ("127.0.0.1", &["[2001:db9::1]:1234"], "2001:db9::1"),
            ("127.0.0.1", &["9.9.9.9, [2001:db8::1], 2001:db8::2"], "9.9.9.9"),
            ("127.0.0.1", &["::ffff:9.9.9.9"], "9.9.9.9"),
            ("127.0.0.1", &["9.9.9.9, unknown, 10.1.1.1"], "10.1.1.1"),
            ("127.0.0.1", &["9.9.9.9,"], "127.0.0.1"),
            ("127.0.0.1", &["10.0.0.2, 10.0.0.1"], "10.0.0.2"),
            ("127.0.0.1", &["9.9.9.9", &many], "10.0.0.1"),
            ("192.0.2.1", &["9.9.9.9"], "192.0.2.1"),
        ] {
            let mut headers = HeaderMap::new();
            for line in lines {
                headers.append(X_FORWARDED_FOR, line.parse().unwrap());
            }
            let source = |text: &str| Source(Some(text.parse().unwrap()));
            assert_eq!(trusted.forwarded_for(&headers, source(peer)), source(expected), "{lines:?}");
            assert_eq!(TrustedProxies::default().forwarded_for(&headers, source(peer)), source(peer));
            assert_eq!(trusted.forwarded_for(&headers, Source(None)), Source(None));
        }
    }
}
