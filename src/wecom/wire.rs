//! The HTTP exchange with WeCom: over HTTPS or, in a simulation, without sockets.
//!
//! The access token is part of the URL (document 90664), so URLs are never logged and never part of an error.
//!
//! What is sent is in `calls`, `suites` and `obtain`, what an answer means in `answer`.

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use reqwest::dns::Resolve;
use reqwest::header::DATE;
use serde_json::Value;

use super::error::Transport;
use crate::domain::time::Timestamp;
use crate::reach::{Host, PrivateOnly, PublicAddress, SystemNames};
use crate::telemetry::address::Address;

const ANSWER_BYTES_MAX: usize = 4 << 20;

/// The settings of the connection to WeCom.
#[derive(Debug, Clone)]
pub struct ClientSettings {
    /// The URL before the paths of the API.
    pub api_base: Address,
    /// The URL of an HTTP proxy; without one the connection is direct: environment variables are ignored.
    pub proxy: Option<Address>,
    /// Time-out for connecting.
    pub connect_timeout: Duration,
    /// Time-out for a whole call, connecting included.
    pub timeout: Duration,
}

/// The HTTP client cannot be built.
#[derive(Debug, thiserror::Error)]
#[error("the HTTP client for WeCom cannot be built")]
pub struct ClientError(#[source] reqwest::Error);

/// An HTTP answer.
#[derive(Debug)]
pub struct Reply {
    /// The HTTP status.
    pub status: u16,
    /// The body; empty unless the status is 200.
    pub body: Vec<u8>,
    /// When it was answered, as the answer says: to the second.
    pub at: Option<Timestamp>,
}

/// Carries requests to WeCom.
#[async_trait]
pub trait Wire: Send + Sync + 'static {
    /// Sends `body` with POST, or a GET without one. `target` is path and query. Both contain secrets.
    async fn exchange(&self, target: &str, body: Option<&Value>) -> Result<Reply, Transport>;
}

/// Requests over HTTPS.
pub struct Https {
    http: reqwest::Client,
    /// Without a slash at the end.
    api_base: String,
    /// Whether calls would leave the private network without TLS. None is made then.
    is_exposed: bool,
}

impl Https {
    /// A client with these settings.
    ///
    /// # Errors
    /// [`ClientError`] when the proxy's address is malformed or the platform has no TLS roots.
    pub fn new(settings: &ClientSettings) -> Result<Self, ClientError> {
        Self::resolving(settings, Arc::new(SystemNames))
    }

    fn resolving(settings: &ClientSettings, names: Arc<dyn Resolve>) -> Result<Self, ClientError> {
        // Fails if the provider is installed already, by another client of this process: the same one.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut builder = reqwest::Client::builder()
            .connect_timeout(settings.connect_timeout)
            .timeout(settings.timeout)
            .redirect(reqwest::redirect::Policy::none())
            .user_agent(concat!("unionlink/", env!("CARGO_PKG_VERSION")))
            .no_proxy();
        let (url, has_proxy) = (&settings.api_base.0, settings.proxy.is_some());
        let is_encrypted = url.scheme() == "https";
        if !is_encrypted && !has_proxy {
            builder = builder.dns_resolver(PrivateOnly(names));
        }
        let is_exposed = !is_encrypted
            && match Host::of(url) {
                Host::Private => false,
                Host::Public => true,
                // It is the proxy that resolves it.
                Host::Name => has_proxy,
            };
        if let Some(proxy) = &settings.proxy {
            builder = builder.proxy(reqwest::Proxy::all(proxy.0.clone()).map_err(ClientError)?);
        }
        let api_base = url.as_str().trim_end_matches('/').to_owned();
        Ok(Self { http: builder.build().map_err(ClientError)?, api_base, is_exposed })
    }
}

#[async_trait]
impl Wire for Https {
    async fn exchange(&self, target: &str, body: Option<&Value>) -> Result<Reply, Transport> {
        if self.is_exposed {
            return Err(Transport::Unencrypted);
        }
        let broken = |error: reqwest::Error| cause(&error);
        let url = format!("{}{target}", self.api_base);
        let request = match body {
            Some(body) => self.http.post(url).json(body),
            None => self.http.get(url),
        };
        let mut response = request.send().await.map_err(broken)?;
        let (status, mut bytes) = (response.status().as_u16(), Vec::new());
        let at = response.headers().get(DATE).and_then(|date| instant_of(date.to_str().ok()?));
        if status != 200 {
            return Ok(Reply { status, body: bytes, at });
        }
        while let Some(chunk) = response.chunk().await.map_err(broken)? {
            bytes.extend_from_slice(&chunk);
            if bytes.len() > ANSWER_BYTES_MAX {
                return Err(Transport::Body);
            }
        }
        Ok(Reply { status, body: bytes, at })
    }
}

/// The instant of a `Date` header.
fn instant_of(date: &str) -> Option<Timestamp> {
    let since_epoch = httpdate::parse_http_date(date).ok()?.duration_since(std::time::UNIX_EPOCH).ok()?;
    i64::try_from(since_epoch.as_secs()).ok().map(Timestamp::from_secs)
}

fn cause(error: &reqwest::Error) -> Transport {
    let mut causes = std::iter::successors(error.source(), |cause| (*cause).source());
    if causes.any(<dyn Error>::is::<PublicAddress>) {
        Transport::Unencrypted
    } else if error.is_timeout() {
        Transport::Timeout
    } else if error.is_connect() {
        Transport::Connect
    } else {
        Transport::Broken
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use reqwest::dns::{Addrs, Name, Resolving};

    use super::*;

    /// A zone in which every name has the same, public address.
    struct Zone;

    impl Resolve for Zone {
        fn resolve(&self, _: Name) -> Resolving {
            let addresses = std::iter::once(SocketAddr::from(([1, 1, 1, 1], 0)));
            Box::pin(async move { Ok(Box::new(addresses) as Addrs) })
        }
    }

    #[tokio::test]
    async fn without_tls_no_call_leaves_the_private_network() {
        let address = |url: &str| Address(url.parse().unwrap());
        let timeout = Duration::from_secs(30);
        for (api_base, proxy, cause) in [
            ("http://1.1.1.1", None, Transport::Unencrypted),
            ("http://1.1.1.1", Some("http://127.0.0.1:1"), Transport::Unencrypted),
            ("http://wecom.test", Some("http://127.0.0.1:1"), Transport::Unencrypted),
            ("http://wecom.test", None, Transport::Unencrypted),
            ("http://127.0.0.1:1", None, Transport::Connect),
            ("https://wecom.test", Some("http://127.0.0.1:1"), Transport::Connect),
        ] {
            let (url, proxy) = (address(api_base), proxy.map(address));
            let settings = ClientSettings { api_base: url, proxy, connect_timeout: timeout, timeout };
            let https = Https::resolving(&settings, Arc::new(Zone)).unwrap();
            let answer = https.exchange("/cgi-bin/gettoken", None).await;
            assert_eq!(answer.map(|reply| reply.status), Err(cause), "{api_base}");
        }
    }
}
