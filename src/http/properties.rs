//! Properties that hold for the first bytes of a connection, whatever they are; see [`crate::properties`].
//! Those of registrations are beside their parser.

use std::net::IpAddr;

pub use super::api::fans::properties::fans;
use super::socket::Source;
use super::source::{PROXY_HEADER_BYTES_MAX, Preamble, V2_START, proxy_header as read};

/// Any start of a connection: a PROXY header is within bounds, does not depend on what follows, is incomplete
/// without its last byte, and names the same source when it is written again. A request is none.
///
/// # Panics
/// When that does not hold.
pub fn proxy_header(start: &[u8]) {
    let found = read(start);
    let more = [start, b"x"].concat();
    match found {
        Preamble::Incomplete => assert!(start.len() < PROXY_HEADER_BYTES_MAX),
        Preamble::Absent | Preamble::Malformed => assert_eq!(read(&more), found),
        Preamble::Header { bytes, source } => {
            assert!(bytes <= start.len() && bytes <= PROXY_HEADER_BYTES_MAX);
            assert_eq!(read(&more), found);
            assert_eq!(read(&start[..bytes]), found);
            for length in 0..bytes {
                assert_eq!(read(&start[..length]), Preamble::Incomplete);
            }
            for header in [version_1(source), version_2(source)] {
                let bytes = header.len();
                assert_eq!(read(&header), Preamble::Header { bytes, source });
            }
        }
    }
    for method in [b"GET ".as_slice(), b"POST ", b"PUT ", b"PROPFIND "] {
        assert_eq!(read(&[method, start].concat()), Preamble::Absent);
    }
}

fn version_1(source: Source) -> Vec<u8> {
    let line = match source.0 {
        Some(IpAddr::V4(ip)) => format!("TCP4 {ip} {ip} 1 2"),
        Some(IpAddr::V6(ip)) => format!("TCP6 {ip} {ip} 1 2"),
        None => "UNKNOWN".to_owned(),
    };
    format!("PROXY {line}\r\n").into_bytes()
}

fn version_2(source: Source) -> Vec<u8> {
    let addresses = |octets: &[u8]| [octets, octets, &[0, 1, 0, 2]].concat();
    let (family, body) = match source.0 {
        Some(IpAddr::V4(ip)) => (0x11, addresses(&ip.octets())),
        Some(IpAddr::V6(ip)) => (0x21, addresses(&ip.octets())),
        None => (0, Vec::new()),
    };
    let length = u8::try_from(body.len()).unwrap_or(u8::MAX);
    [V2_START, [0x21, family, 0, length].as_slice(), &body].concat()
}
