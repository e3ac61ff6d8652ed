//! What a request has to pass before a handler of the private listener sees it: the name it was sent to, the page it
//! comes from, the token. And what every answer carries.
//!
//! The name: a page whose host name is made to lead to this machine after it was loaded (DNS rebinding) is of one
//! origin with us in the browser's eyes, but the browser still says under which name it asks. Addresses cannot be
//! rebound, and `localhost` is not asked of any DNS; every other name has to be in the configuration.
//!
//! The page: no answer ever allows another origin to read it, but a browser sends a form or a plain POST first and
//! asks later. Without a token, on loopback, that would be enough to change something.
//!
//! The token: a right one always passes. The bound on failures spares the log and the time of this service; it must
//! not help a stranger to lock the operator out.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::{Mutex, MutexGuard, PoisonError};

use axum::extract::{Request, State};
use axum::http::header::{self, HeaderName};
use axum::http::{HeaderMap, HeaderValue, Method, Uri};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use super::{Problem, Shared};
use crate::domain::time::{SECOND_MS, Timestamp};
use crate::telemetry::metrics::{AdminRefusal, Metrics};

/// Wrong tokens of one minute that are answered 401; those after them are answered 429.
const WRONG_MAX: u64 = 20;
const MINUTE_MS: i64 = 60 * SECOND_MS;

/// Who is let in.
pub struct Guard {
    hosts: Vec<String>,
    /// Of the token; what is compared has one length then, and the token itself need not be kept.
    digest: Option<[u8; 32]>,
    refused: Mutex<Refused>,
}

#[derive(Default)]
struct Refused {
    token: Minute,
    host: Minute,
    origin: Minute,
}

/// Refusals since the first one of a minute.
#[derive(Default)]
struct Minute {
    began_at: Option<Timestamp>,
    count: u64,
    untold: u64,
}

impl Minute {
    /// Counts one. How many the log does not know of yet, once a minute.
    fn note(&mut self, now: Timestamp) -> Option<u64> {
        let lasts = self.began_at.is_some_and(|at| (0..MINUTE_MS).contains(&now.millis_since(at)));
        if !lasts {
            (self.began_at, self.count) = (Some(now), 0);
        }
        self.count += 1;
        self.untold += 1;
        if lasts { None } else { Some(std::mem::take(&mut self.untold)) }
    }

    /// Until the minute is over, rounded up.
    fn seconds_left(&self, now: Timestamp) -> u64 {
        let left_ms = MINUTE_MS - self.began_at.map_or(0, |at| now.millis_since(at));
        u64::try_from(left_ms).unwrap_or(0).div_ceil(1_000).max(1)
    }
}

impl Guard {
    /// Lets in whoever asks for one of `hosts`, all in lower case, or for an address, and has `token`, if there is one.
    #[must_use]
    pub fn new(hosts: Vec<String>, token: Option<&SecretString>) -> Self {
        let digest = token.map(|token| Sha256::digest(token.expose_secret()).into());
        Self { hosts, digest, refused: Mutex::default() }
    }

    fn refused(&self) -> MutexGuard<'_, Refused> {
        self.refused.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether this is a way to write where we are: `host` or `host:port`.
    fn is_ours(&self, authority: &str) -> bool {
        let Some(host) = host_of(authority) else { return false };
        match host {
            Host::Address => true,
            Host::Name(name) => is_localhost(&name) || self.hosts.contains(&name),
        }
    }

    /// Looks at the name and the origin of a request.
    fn place(
        &self,
        (method, uri, headers): (&Method, &Uri, &HeaderMap),
        now: Timestamp,
        metrics: &Metrics,
    ) -> Result<(), Problem> {
        let one = |name| {
            let mut values = headers.get_all(name).iter();
            let first = values.next().and_then(|value| value.to_str().ok());
            first.filter(|_| values.next().is_none())
        };
        let Some(host) = one(header::HOST) else {
            metrics.admin_refused(AdminRefusal::Host);
            return Err(Problem::bad_request("a request needs one Host header, and only one"));
        };
        // A request may name the place in its first line as well; then that counts, but both have to be right.
        let in_line = uri.authority().map(axum::http::uri::Authority::as_str);
        if !self.is_ours(host) || in_line.is_some_and(|authority| !self.is_ours(authority)) {
            metrics.admin_refused(AdminRefusal::Host);
            if let Some(refused) = self.refused().host.note(now) {
                tracing::warn!(refused, "requests for a name that is not in [admin] hosts were refused");
            }
            return Err(Problem::host_not_allowed());
        }
        let from_elsewhere = headers.contains_key(header::ORIGIN)
            && !one(header::ORIGIN).is_some_and(|origin| self.is_origin_of(origin, in_line.unwrap_or(host)));
        if from_elsewhere && !method.is_safe() {
            metrics.admin_refused(AdminRefusal::Origin);
            if let Some(refused) = self.refused().origin.note(now) {
                tracing::warn!(refused, "requests from pages of another origin were refused");
            }
            return Err(Problem::cross_origin());
        }
        Ok(())
    }

    /// Whether a page of `origin` is one that we, at `host`, have served; a proxy that speaks for a configured name may
    /// have changed the `Host`.
    fn is_origin_of(&self, origin: &str, host: &str) -> bool {
        let Some((scheme, authority)) = origin.split_once("://") else { return false };
        let default_port = if scheme.eq_ignore_ascii_case("https") { ":443" } else { ":80" };
        let plain = |authority: &str| {
            let authority = authority.to_ascii_lowercase();
            authority.strip_suffix(default_port).map(str::to_owned).unwrap_or(authority)
        };
        let configured =
            || matches!(host_of(authority), Some(Host::Name(name)) if self.hosts.contains(&name));
        plain(authority) == plain(host) || configured()
    }

    /// Looks at the token of a request. Digests are compared, so the time tells neither content nor length.
    fn token(&self, headers: &HeaderMap, now: Timestamp, metrics: &Metrics) -> Result<(), Problem> {
        let Some(wanted) = &self.digest else { return Ok(()) };
        let given = headers.get(header::AUTHORIZATION).map(HeaderValue::as_bytes);
        let Some(given) = given.and_then(bearer) else {
            metrics.admin_refused(AdminRefusal::Token);
            return Err(Problem::unauthorized());
        };
        if bool::from(Sha256::digest(given).as_slice().ct_eq(wanted)) {
            return Ok(());
        }
        let mut refused = self.refused();
        if let Some(refused) = refused.token.note(now) {
            tracing::warn!(refused, "requests with a wrong admin token were refused");
        }
        if refused.token.count <= WRONG_MAX {
            metrics.admin_refused(AdminRefusal::Token);
            return Err(Problem::unauthorized());
        }
        metrics.admin_refused(AdminRefusal::Rate);
        Err(Problem::too_many_attempts(refused.token.seconds_left(now)))
    }
}

/// The token of `Bearer TOKEN`; the scheme is written in any case.
fn bearer(value: &[u8]) -> Option<&[u8]> {
    let (scheme, token) = value.split_at_checked(b"Bearer ".len())?;
    scheme.eq_ignore_ascii_case(b"Bearer ").then_some(token)
}

#[derive(Debug, PartialEq, Eq)]
enum Host {
    Address,
    /// In lower case.
    Name(String),
}

/// The host of `host` or `host:port`; `None` if it is neither.
fn host_of(authority: &str) -> Option<Host> {
    let is_port = |rest: &str| {
        rest.strip_prefix(':').map_or(rest.is_empty(), |port| port.parse::<u16>().is_ok() || port.is_empty())
    };
    if let Some(v6) = authority.strip_prefix('[') {
        let (address, rest) = v6.split_once(']')?;
        return (address.parse::<Ipv6Addr>().is_ok() && is_port(rest)).then_some(Host::Address);
    }
    let (host, rest) = authority.split_at(authority.find(':').unwrap_or(authority.len()));
    if !is_port(rest) {
        return None;
    }
    if host.parse::<Ipv4Addr>().is_ok() {
        return Some(Host::Address);
    }
    // A dot at the end only says that the name is complete.
    let name = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
    (!name.is_empty()).then_some(Host::Name(name))
}

fn is_localhost(name: &str) -> bool {
    name == "localhost" || name.ends_with(".localhost")
}

/// Lets a request pass that was sent to this place by nobody's page but ours.
pub(super) async fn placed(State(state): Shared, request: Request, next: Next) -> Response {
    let head = (request.method(), request.uri(), request.headers());
    match state.guard.place(head, state.clock.now(), &state.metrics) {
        Ok(()) => next.run(request).await,
        Err(problem) => problem.into_response(),
    }
}

/// Lets a request pass that carries the admin token.
pub(super) async fn authorised(State(state): Shared, request: Request, next: Next) -> Response {
    match state.guard.token(request.headers(), state.clock.now(), &state.metrics) {
        Ok(()) => next.run(request).await,
        Err(problem) => problem.into_response(),
    }
}

/// What browsers are told with every answer. Deliberately absent: anything of CORS.
const HEADERS: [(HeaderName, HeaderValue); 4] = [
    (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
    (header::REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
    (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
    (HeaderName::from_static("cross-origin-resource-policy"), HeaderValue::from_static("same-origin")),
];
/// For answers that are no page. One that is says itself what it needs.
const NO_PAGE: HeaderValue = HeaderValue::from_static(
    "default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
);

/// Adds what every answer carries.
pub(super) async fn with_headers(request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    for (name, value) in HEADERS {
        headers.insert(name, value);
    }
    headers.entry(header::CONTENT_SECURITY_POLICY).or_insert(NO_PAGE);
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guard() -> Guard {
        Guard::new(vec!["unionlink.example.com".to_owned()], Some(&SecretString::from("the-token")))
    }

    #[test]
    fn addresses_localhost_and_configured_names_are_ours() {
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
            assert!(guard().is_ours(ours), "{ours}");
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
            assert!(!guard().is_ours(strange), "{strange}");
        }
    }

    #[test]
    fn a_page_of_ours_is_told_from_others() {
        for (origin, host) in [
            ("http://127.0.0.1:8081", "127.0.0.1:8081"),
            ("https://admin.localhost", "admin.localhost:443"),
            ("http://LOCALHOST", "localhost:80"),
            ("https://unionlink.example.com", "127.0.0.1:8081"),
        ] {
            assert!(guard().is_origin_of(origin, host), "{origin} {host}");
        }
        for (origin, host) in [
            ("null", "localhost"),
            ("http://localhost:3000", "localhost:8081"),
            ("http://127.0.0.1:8081", "localhost:8081"),
            ("https://evil.example", "127.0.0.1:8081"),
            ("https://localhost:80", "localhost"),
        ] {
            assert!(!guard().is_origin_of(origin, host), "{origin} {host}");
        }
    }

    #[test]
    fn wrong_tokens_are_slowed_down_and_a_right_one_passes_all_the_while() {
        let (guard, metrics) = (guard(), Metrics::default());
        let begin = Timestamp::from_millis(1_000_000);
        let send = |value: &'static str, at: Timestamp| {
            let headers = [(header::AUTHORIZATION, HeaderValue::from_static(value))].into_iter().collect();
            guard.token(&headers, at, &metrics).map_err(|problem| problem.status())
        };
        for _ in 0..WRONG_MAX {
            assert_eq!(send("Bearer wrong", begin).unwrap_err(), 401);
        }
        for value in ["Bearer wrong", "Bearer ", "bearer the-toke", "BEARER the-token "] {
            assert_eq!(send(value, begin.plus_ms(59_999)).unwrap_err(), 429, "{value}");
        }
        // Who offers none is no attempt.
        assert_eq!(send("Basic dTpw", begin).unwrap_err(), 401);
        assert!(send("Bearer the-token", begin).is_ok() && send("bearer the-token", begin).is_ok());
        assert_eq!(send("Bearer wrong", begin.plus_ms(60_000)).unwrap_err(), 401);
        // A clock that was set back begins a new minute as well.
        assert_eq!(send("Bearer wrong", begin).unwrap_err(), 401);
    }

    #[test]
    fn the_log_hears_of_refusals_once_a_minute_and_of_all_of_them() {
        let mut minute = Minute::default();
        let begin = Timestamp::from_millis(5);
        assert_eq!(minute.note(begin), Some(1));
        assert_eq!(minute.note(begin.plus_ms(30_000)), None);
        assert_eq!(minute.note(begin.plus_ms(59_999)), None);
        assert_eq!((minute.seconds_left(begin), minute.seconds_left(begin.plus_ms(59_001))), (60, 1));
        assert_eq!(minute.note(begin.plus_ms(60_000)), Some(3));
    }
}
