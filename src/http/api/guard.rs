//! Checks of requests to the admin listener: host, origin and token. `middleware` applies them.
//!
//! Host, against DNS rebinding: an attacker's page can have its own host name resolve to this machine after
//! it was loaded. The browser then treats this service as the page's origin, but still sends the page's name
//! as `Host`. IP addresses cannot be rebound and `localhost` is not looked up in DNS; every other name has to
//! be configured.
//!
//! Origin, against cross-site requests: no response is readable by another origin (no CORS), but browsers
//! send forms and simple POSTs to other origins without asking first. On loopback without a token, such a
//! request could make changes.
//!
//! Token: a bearer token, compared in constant time with each configured one. Each has its scopes.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::{Arc, PoisonError, RwLock};

use axum::http::{HeaderMap, HeaderValue, Method, Uri, header};
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};
use subtle::{Choice, ConstantTimeEq};

use crate::domain::access::TokenScopes;
use crate::http::problem::Problem;
use crate::telemetry::metrics::{AdminRefusal, Metrics};
use crate::telemetry::throttle::LogThrottle;

/// The checks of one admin listener. Reloading the configuration replaces what they accept.
pub struct Guard {
    accepted: RwLock<Arc<Accepted>>,
    log: LogThrottle<AdminRefusal>,
}

/// What the checks accept.
struct Accepted {
    hosts: Vec<String>,
    tokens: Vec<Token>,
}

/// A token and what it allows.
pub struct Token {
    name: Arc<str>,
    /// SHA-256 of each value, so that values of equal length are compared and none is kept.
    digests: Vec<[u8; 32]>,
    scopes: TokenScopes,
}

impl Token {
    /// The token `name`, with all values that are accepted for it.
    pub fn new<'a>(
        name: &str,
        values: impl IntoIterator<Item = &'a SecretString>,
        scopes: TokenScopes,
    ) -> Self {
        let digest = |value: &SecretString| Sha256::digest(value.expose_secret()).into();
        Self { name: name.into(), digests: values.into_iter().map(digest).collect(), scopes }
    }
}

/// Whose request it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Caller {
    /// The name of the token: one of `[[admin.tokens]]`, `admin` for `admin.token`, or `open` where there is
    /// none.
    pub(super) token: Arc<str>,
    /// What it allows.
    pub(super) scopes: TokenScopes,
}

/// Why a request has no caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TokenRefusal {
    /// It has no token.
    Missing,
    /// It has another token.
    Wrong,
}

impl Accepted {
    /// Whether `host` or `host:port` names this service.
    fn is_ours(&self, authority: &str) -> bool {
        let Some(host) = host_of(authority) else { return false };
        match host {
            Host::IpAddress => true,
            Host::Name(name) => {
                name == "localhost" || name.ends_with(".localhost") || self.hosts.contains(&name)
            }
        }
    }

    /// Whether `origin` is this service's own, either as `host` or as a configured name, since a reverse
    /// proxy may have rewritten `Host`.
    fn is_origin_of(&self, origin: &str, host: &str) -> bool {
        let Some((scheme, authority)) = origin.split_once("://") else { return false };
        let default_port = if scheme.eq_ignore_ascii_case("https") { ":443" } else { ":80" };
        let without_default_port = |authority: &str| {
            let authority = authority.to_ascii_lowercase();
            authority.strip_suffix(default_port).map(str::to_owned).unwrap_or(authority)
        };
        let is_configured =
            || matches!(host_of(authority), Some(Host::Name(name)) if self.hosts.contains(&name));
        without_default_port(authority) == without_default_port(host) || is_configured()
    }
}

impl Guard {
    /// The checks for a service named `hosts` (in lower case); without `tokens` every request is authorised.
    #[must_use]
    pub fn new(hosts: Vec<String>, tokens: Vec<Token>) -> Self {
        Self { accepted: RwLock::new(Arc::new(Accepted { hosts, tokens })), log: LogThrottle::default() }
    }

    /// Accepts these hosts and tokens from the next request on, as [`new`](Self::new) does.
    pub fn replace(&self, hosts: Vec<String>, tokens: Vec<Token>) {
        let accepted = Arc::new(Accepted { hosts, tokens });
        *self.accepted.write().unwrap_or_else(PoisonError::into_inner) = accepted;
    }

    fn accepted(&self) -> Arc<Accepted> {
        self.accepted.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Logs a refusal, unless one for the same reason was logged within the last minute.
    fn log_refusal(&self, reason: AdminRefusal, what: &str) {
        if let Some(refused) = self.log.count(reason) {
            tracing::warn!(refused, "requests refused: {what}");
        }
    }

    /// Checks the host and the origin of a request.
    pub(super) fn check_host_and_origin(
        &self,
        (method, uri, headers): (&Method, &Uri, &HeaderMap),
        metrics: &Metrics,
    ) -> Result<(), Problem> {
        let single = |name| {
            let mut values = headers.get_all(name).iter();
            let first = values.next().and_then(|value| value.to_str().ok());
            first.filter(|_| values.next().is_none())
        };
        let Some(host) = single(header::HOST) else {
            metrics.admin_refused(AdminRefusal::Host);
            return Err(Problem::bad_request("a request needs exactly one Host header"));
        };
        // An absolute URI in the request line names a host, too, and takes precedence; both have to be ours.
        let in_uri = uri.authority().map(axum::http::uri::Authority::as_str);
        let accepted = self.accepted();
        if !accepted.is_ours(host) || in_uri.is_some_and(|authority| !accepted.is_ours(authority)) {
            metrics.admin_refused(AdminRefusal::Host);
            self.log_refusal(AdminRefusal::Host, "Host header not in [admin] hosts");
            return Err(Problem::host_not_allowed());
        }
        let is_cross_origin = headers.contains_key(header::ORIGIN)
            && !single(header::ORIGIN)
                .is_some_and(|origin| accepted.is_origin_of(origin, in_uri.unwrap_or(host)));
        if is_cross_origin && !method.is_safe() {
            metrics.admin_refused(AdminRefusal::Origin);
            self.log_refusal(AdminRefusal::Origin, "cross-origin change");
            return Err(Problem::cross_origin());
        }
        Ok(())
    }

    /// Whose request it is. Digests are compared, each with all of them, so the time reveals neither content
    /// nor length nor which token is close.
    pub(super) fn caller(&self, headers: &HeaderMap, metrics: &Metrics) -> Result<Caller, TokenRefusal> {
        let accepted = self.accepted();
        if accepted.tokens.is_empty() {
            return Ok(Caller { token: "open".into(), scopes: TokenScopes::all() });
        }
        let given = headers.get(header::AUTHORIZATION).map(HeaderValue::as_bytes).and_then(bearer);
        let mut found = None;
        if let Some(digest) = given.map(Sha256::digest) {
            for token in &accepted.tokens {
                let equals = |known: &[u8; 32]| digest.as_slice().ct_eq(known);
                let is_it = token.digests.iter().map(equals).fold(Choice::from(0), std::ops::BitOr::bitor);
                if bool::from(is_it) {
                    found = Some(Caller { token: token.name.clone(), scopes: token.scopes.clone() });
                }
            }
        }
        found.ok_or_else(|| {
            metrics.admin_refused(AdminRefusal::Token);
            if given.is_none() {
                return TokenRefusal::Missing;
            }
            self.log_refusal(AdminRefusal::Token, "wrong admin token");
            TokenRefusal::Wrong
        })
    }

    /// Counts and logs a request whose token does not allow it.
    pub(super) fn scope_missing(&self, metrics: &Metrics) {
        metrics.admin_refused(AdminRefusal::Scope);
        self.log_refusal(AdminRefusal::Scope, "the token does not allow them");
    }
}

/// The token in `Bearer TOKEN`; the scheme is case-insensitive.
fn bearer(value: &[u8]) -> Option<&[u8]> {
    let (scheme, token) = value.split_at_checked(b"Bearer ".len())?;
    scheme.eq_ignore_ascii_case(b"Bearer ").then_some(token)
}

#[derive(Debug, PartialEq, Eq)]
enum Host {
    IpAddress,
    /// In lower case.
    Name(String),
}

/// The host in `host` or `host:port`; `None` if the text has neither form.
fn host_of(authority: &str) -> Option<Host> {
    let is_port = |rest: &str| {
        rest.strip_prefix(':').map_or(rest.is_empty(), |port| port.parse::<u16>().is_ok() || port.is_empty())
    };
    if let Some(v6) = authority.strip_prefix('[') {
        let (address, rest) = v6.split_once(']')?;
        return (address.parse::<Ipv6Addr>().is_ok() && is_port(rest)).then_some(Host::IpAddress);
    }
    let (host, rest) = authority.split_at(authority.find(':').unwrap_or(authority.len()));
    if !is_port(rest) {
        return None;
    }
    if host.parse::<Ipv4Addr>().is_ok() {
        return Some(Host::IpAddress);
    }
    // A trailing dot only marks the name as fully qualified.
    let name = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
    (!name.is_empty()).then_some(Host::Name(name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::access::TokenScope;

    fn guard() -> Guard {
        let links = [TokenScope::Links].into_iter().collect();
        let values = ["the-reader", "the-reader-before"].map(SecretString::from);
        let tokens = vec![
            Token::new("admin", [&SecretString::from("the-token")], TokenScopes::all()),
            Token::new("reader", &values, links),
        ];
        Guard::new(vec!["unionlink.example.com".to_owned()], tokens)
    }

    #[test]
    fn ip_addresses_localhost_and_configured_names_are_ours() {
        for ours in [
            "127.0.0.1",
            "10.1.2.3:8081",
            "[::1]:8081",
            "[fd00::7]",
            "localhost",
            "LOCALHOST:1",
            "a.localhost:8081",
            "localhost.",
            "unionlink.example.com",
            "UnionLink.Example.COM:443",
            "unionlink.example.com.",
        ] {
            assert!(guard().accepted().is_ours(ours), "{ours}");
        }
        for strange in [
            "",
            ":8081",
            "evil.example",
            "evil.example:8081",
            "127.0.0.1.evil.example",
            "localhost.evil.example",
            "notlocalhost",
            "xunionlink.example.com",
            "x.unionlink.example.com",
            "evil.example@127.0.0.1",
            "127.0.0.1@evil.example",
            "127.0.0.1:80:80",
            "127.0.0.1:x",
            "127.0.0.1:99999",
            "[::1",
            "[::1]x",
            "[127.0.0.1]",
            "::1",
            "127.1",
            "127.0.0.1, evil.example",
        ] {
            assert!(!guard().accepted().is_ours(strange), "{strange}");
        }
    }

    #[test]
    fn only_our_own_origin_is_accepted() {
        for (origin, host) in [
            ("http://127.0.0.1:8081", "127.0.0.1:8081"),
            ("https://admin.localhost", "admin.localhost:443"),
            ("http://LOCALHOST", "localhost:80"),
            ("https://unionlink.example.com", "127.0.0.1:8081"),
        ] {
            assert!(guard().accepted().is_origin_of(origin, host), "{origin} {host}");
        }
        for (origin, host) in [
            ("null", "localhost"),
            ("http://localhost:3000", "localhost:8081"),
            ("http://127.0.0.1:8081", "localhost:8081"),
            ("https://evil.example", "127.0.0.1:8081"),
            ("https://localhost:80", "localhost"),
        ] {
            assert!(!guard().accepted().is_origin_of(origin, host), "{origin} {host}");
        }
    }

    #[test]
    fn each_token_has_its_name_and_scopes_and_only_the_right_ones_pass() {
        let (guard, metrics) = (guard(), Metrics::default());
        let send = |value: Option<&'static str>| {
            let value = value.map(|value| (header::AUTHORIZATION, HeaderValue::from_static(value)));
            guard.caller(&value.into_iter().collect(), &metrics)
        };
        let wrong = ["Bearer wrong", "Bearer ", "bearer the-toke", "BEARER the-token "];
        for value in wrong.into_iter().cycle().take(100) {
            assert_eq!(send(Some(value)), Err(TokenRefusal::Wrong), "{value}");
        }
        assert_eq!(send(Some("Basic dTpw")), Err(TokenRefusal::Missing));
        assert_eq!(send(None), Err(TokenRefusal::Missing));
        for value in ["Bearer the-token", "bearer the-token"] {
            assert_eq!(send(Some(value)), Ok(Caller { token: "admin".into(), scopes: TokenScopes::all() }));
        }
        for value in ["Bearer the-reader", "Bearer the-reader-before"] {
            let reader = send(Some(value)).unwrap();
            assert!(&*reader.token == "reader" && reader.scopes.contain(TokenScope::Links));
            assert!(!reader.scopes.contain(TokenScope::Erase));
        }
        let open = Guard::new(Vec::new(), Vec::new()).caller(&HeaderMap::new(), &metrics).unwrap();
        assert_eq!(open, Caller { token: "open".into(), scopes: TokenScopes::all() });
    }

    #[test]
    fn what_is_accepted_can_be_replaced_as_a_whole() {
        let (guard, metrics) = (guard(), Metrics::default());
        let sent = |value| HeaderMap::from_iter([(header::AUTHORIZATION, HeaderValue::from_static(value))]);
        let token = Token::new("admin", [&SecretString::from("the-next-token")], TokenScopes::all());
        guard.replace(vec!["other.example.com".to_owned()], vec![token]);
        assert!(guard.caller(&sent("Bearer the-next-token"), &metrics).is_ok());
        for gone in ["Bearer the-token", "Bearer the-reader"] {
            assert_eq!(guard.caller(&sent(gone), &metrics), Err(TokenRefusal::Wrong), "{gone}");
        }
        let accepted = guard.accepted();
        assert!(accepted.is_ours("other.example.com") && !accepted.is_ours("unionlink.example.com"));
    }
}
