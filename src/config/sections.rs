//! The tables of the configuration that exist once: their keys, and which values are valid.
//!
//! Deliberately absent: the keys' meanings and defaults, which are in `config/default.toml`.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use super::checks::check_unencrypted;
use super::reader::{Invalid, Section, Severity};
use super::secret;
use crate::domain::network::Network;
use crate::reach::Host;
use crate::telemetry::address::Address;
use crate::telemetry::logs::{self, Format};

/// `[server]`: the public listener.
#[derive(Debug, Clone, Serialize)]
pub struct Server {
    pub(crate) listen: SocketAddr,
    /// What stands before `/callback/…` in WeCom's console.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) public_url: Option<Address>,
    pub(crate) connections_max: u64,
    /// 0: no limit.
    pub(crate) source_connections_max: u64,
    pub(crate) header_timeout_ms: u64,
    pub(crate) body_timeout_ms: u64,
    pub(crate) body_bytes_max: u64,
    pub(crate) event_days_max: u64,
    pub(crate) grace_ms: u64,
    /// Proxies that are believed when they name the source of a connection or a request.
    pub(crate) trusted_proxies: Vec<Network>,
    pub(crate) callback_ips: CallbackIps,
}

/// What is done with requests from addresses that are not on WeCom's list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum CallbackIps {
    Off,
    Report,
    Enforce,
}

impl Server {
    pub(super) fn read(section: &mut Section<'_>) -> Option<Self> {
        let server = Self::read_keys(section)?;
        // Only a proxy on this machine reaches the listener, and its address is that of every connection.
        if server.listen.ip().is_loopback() && server.trusted_proxies.is_empty() {
            if server.source_connections_max > 0 {
                let reason = "counts all connections as those of one source, the proxy";
                let hint = "name the proxy in trusted_proxies, and have it send PROXY headers";
                section.report(Severity::Suspect, "source_connections_max", reason, Some(hint));
            }
            if server.callback_ips != CallbackIps::Off {
                let reason = "compares the address of the proxy with WeCom's";
                let hint = "name the proxy in trusted_proxies";
                section.report(Severity::Suspect, "callback_ips", reason, Some(hint));
            }
        }
        Some(server)
    }

    fn read_keys(section: &mut Section<'_>) -> Option<Self> {
        Some(Self {
            listen: section.parse("listen", |text| parse_address(&text))?,
            public_url: secret::address(
                section,
                "public_url",
                &["https", "http"],
                "https://callback.example.com",
            ),
            connections_max: section.number("connections_max", 1..=1_000_000)?,
            source_connections_max: section.number("source_connections_max", 0..=1_000_000)?,
            header_timeout_ms: section.number("header_timeout_ms", 10..=60_000)?,
            body_timeout_ms: section.number("body_timeout_ms", 10..=60_000)?,
            body_bytes_max: section.number("body_bytes_max", 1_024..=1 << 20)?,
            event_days_max: section.number("event_days_max", 0..=3_650)?,
            grace_ms: section.number("grace_ms", 0..=600_000)?,
            trusted_proxies: read_networks(section, "trusted_proxies")?,
            callback_ips: section.text("callback_ips")?,
        })
    }
}

/// Reads addresses and networks, of which none may be everything.
fn read_networks(section: &mut Section<'_>, name: &'static str) -> Option<Vec<Network>> {
    let mut networks = Vec::new();
    for text in section.texts(name)? {
        let Some(network) = Network::parse(&text) else {
            let reason = format!("{text:?} is not an address or a network");
            section.problem(name, reason, Some("write 127.0.0.1 or 10.0.0.0/8"));
            continue;
        };
        if network.is_everything() {
            let reason = format!("{text:?} trusts everybody, who can then claim any address");
            section.report(Severity::Suspect, name, reason, Some("name only your proxies"));
        }
        networks.push(network);
    }
    Some(networks)
}

/// Reads an address and port.
pub(super) fn parse_address(text: &str) -> Result<SocketAddr, Invalid> {
    let hint = Some("write 0.0.0.0:8080".to_owned());
    text.parse().map_err(|_| (format!("{text:?} is not an address and port"), hint))
}

/// `[wecom]`: how WeCom is reached.
#[derive(Debug, Clone, Serialize)]
pub struct Wecom {
    pub(crate) api_base: Address,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) proxy: Option<Address>,
    pub(crate) connect_timeout_ms: u64,
    pub(crate) timeout_ms: u64,
    pub(crate) calls_max: u64,
    /// The name of the address that calls come from, in quotas.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) address: Option<String>,
}

impl Wecom {
    pub(super) fn read(section: &mut Section<'_>) -> Option<Self> {
        let schemes = &["http", "https"];
        let api_base = secret::address(section, "api_base", schemes, "https://qyapi.weixin.qq.com")?;
        let proxy = secret::address(section, "proxy", schemes, "http://proxy.example.com:3128");
        if api_base.0.scheme() == "http" {
            if proxy.is_some() && Host::of(&api_base.0) == Host::Name {
                let reason = "is without TLS and reached through proxy, and no call is made like that";
                section.report(Severity::Suspect, "api_base", reason, Some("write https://"));
            } else {
                check_unencrypted(section, "api_base", &api_base.0, "write https://");
            }
        }
        Some(Self {
            api_base,
            proxy,
            connect_timeout_ms: section.number("connect_timeout_ms", 10..=10_000)?,
            // At most `quota::FLIGHT_MS`: the ledger relies on WeCom having counted every call by then.
            timeout_ms: section.number("timeout_ms", 10..=10_000)?,
            calls_max: section.number("calls_max", 1..=1_000)?,
            address: section.parse("address", |text: String| {
                let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | ':');
                if !text.is_empty() && text.len() <= 64 && text.chars().all(is_plain) {
                    return Ok(text);
                }
                Err((
                    format!("{text:?} is not a name"),
                    Some("write an address, or a name for it".to_owned()),
                ))
            }),
        })
    }
}

/// `[log]`: what is logged, and how.
#[derive(Debug, Clone, Serialize)]
pub struct Log {
    pub(crate) filter: String,
    pub(crate) format: Format,
}

impl Log {
    pub(super) fn read(section: &mut Section<'_>) -> Option<Self> {
        let filter = section.parse("filter", |text: String| {
            if logs::is_filter(&text) {
                return Ok(text);
            }
            Err((format!("{text:?} is not a filter"), Some(logs::FILTER_HINT.to_owned())))
        });
        if let Some(target) = filter.as_deref().and_then(logs::too_verbose) {
            let reason = format!("names {target} with more than info, which has no effect");
            let hint = "other crates log keys, values and headers below info; leave it out";
            section.report(Severity::Warning, "filter", reason, Some(hint));
        }
        Some(Self { filter: filter?, format: section.text("format")? })
    }
}

/// Reads the name of an app or a sink, as `of` says, which must not be `taken` by another.
pub(super) fn unique_name<T: TryFrom<String>>(
    section: &mut Section<'_>,
    of: &str,
    taken: impl Fn(&T) -> bool,
) -> Option<T> {
    let hint = "use up to 64 of A-Z a-z 0-9 - _ .";
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    section.require("name", hint);
    section.parse("name", |text| match T::try_from(text.clone()) {
        Ok(name) if taken(&name) => Err((format!("{text} is taken by another {of}"), None)),
        Ok(name) if text.chars().all(is_plain) => Ok(name),
        _ => Err((format!("{text:?} is not a name"), Some(hint.to_owned()))),
    })
}
