//! A sink that POSTs entries to a URL, signed as [Standard Webhooks](https://www.standardwebhooks.com)
//! specify.
//!
//! Requests are sent in order, each once; the delivery worker decides when to try again. The status of the
//! response alone decides (`answer`); its body is read only so that the connection can be reused. Redirects
//! are not followed: they would send personal data to a place that no operator configured.

mod answer;
mod signing;
#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use reqwest::Certificate;
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use serde::Serialize;
use serde_json::json;

pub use signing::{SecretError, SigningKey};

use super::{DeliveryError, Retry, Sink};
use crate::clock::Clock;
use crate::domain::link::FeedEntry;
use crate::reach::{Host, PrivateOnly, PublicOnly, SystemNames};
use crate::telemetry::address::Address;

/// How much of a response's body is read, and for how long, so that its connection can be reused.
const ANSWER_BYTES_MAX: usize = 64 << 10;
const ANSWER_TIMEOUT: Duration = Duration::from_secs(1);

const WEBHOOK_ID: HeaderName = HeaderName::from_static("webhook-id");
const WEBHOOK_TIMESTAMP: HeaderName = HeaderName::from_static("webhook-timestamp");
const WEBHOOK_SIGNATURE: HeaderName = HeaderName::from_static("webhook-signature");

/// Where and how a webhook is sent.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The receiver's URL.
    pub url: Address,
    /// The key that signs.
    pub key: SigningKey,
    /// A second key that signs too, while a receiver changes from one secret to the next.
    pub previous_key: Option<SigningKey>,
    /// Additional request headers; see [`is_ours`].
    pub headers: HeaderMap,
    /// The maximum number of entries per request; from 2 on the body is a list.
    pub batch: usize,
    /// Time-out of a request, from resolving the host name to the end of the response.
    pub timeout: Duration,
    /// Whether the URL's host name may resolve to private addresses.
    pub private_addresses: bool,
    /// A PEM file of CA certificates that are trusted in addition to the system's.
    pub ca_file: Option<PathBuf>,
}

impl Settings {
    fn is_encrypted(&self) -> bool {
        self.url.0.scheme() == "https"
    }
}

/// Whether a request header is set by the sink itself or by the HTTP client, so that it cannot be configured.
#[must_use]
pub fn is_ours(name: &HeaderName) -> bool {
    let name = name.as_str();
    let hop = ["connection", "transfer-encoding", "upgrade", "te", "trailer", "expect"];
    name.starts_with("webhook-")
        || ["content-type", "content-length", "host"].contains(&name)
        || hop.contains(&name)
}

/// Why a webhook sink cannot be built.
#[derive(Debug, thiserror::Error)]
pub enum WebhookError {
    /// The file of CA certificates cannot be read.
    #[error("ca_file {} cannot be read", path.display())]
    CaFile {
        /// The file.
        path: PathBuf,
        /// The I/O error.
        source: std::io::Error,
    },
    /// The file of CA certificates contains none.
    #[error("ca_file {} contains no PEM certificate", path.display())]
    NoCertificate {
        /// The file.
        path: PathBuf,
    },
    /// The HTTP client cannot be built.
    #[error("the HTTP client for a webhook cannot be built")]
    Client(#[source] reqwest::Error),
}

/// The webhook sink.
pub struct Webhook {
    http: reqwest::Client,
    settings: Settings,
    clock: Arc<dyn Clock>,
}

/// The body of a request with several entries.
#[derive(Serialize)]
struct Batch<'a> {
    entries: &'a [FeedEntry],
}

impl Webhook {
    /// A sink for one receiver.
    ///
    /// # Errors
    /// [`WebhookError`] when `ca_file` cannot be used or the HTTP client cannot be built.
    pub fn new(settings: Settings, clock: Arc<dyn Clock>) -> Result<Self, WebhookError> {
        Self::resolving(settings, clock, Arc::new(SystemNames))
    }

    fn resolving(
        settings: Settings,
        clock: Arc<dyn Clock>,
        names: Arc<dyn reqwest::dns::Resolve>,
    ) -> Result<Self, WebhookError> {
        // Fails if the provider is installed already, by another client of this process: the same one.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let private = settings.private_addresses || Host::of(&settings.url.0) == Host::Private;
        let names = if private { names } else { Arc::new(PublicOnly(names)) };
        let names = if settings.is_encrypted() { names } else { Arc::new(PrivateOnly(names)) };
        let http = reqwest::Client::builder()
            .timeout(settings.timeout)
            .redirect(reqwest::redirect::Policy::none())
            .retry(reqwest::retry::never())
            .user_agent(concat!("unionlink/", env!("CARGO_PKG_VERSION")))
            .dns_resolver(names)
            .tls_certs_merge(roots(&settings)?)
            .pool_max_idle_per_host(1)
            .no_proxy()
            .build()
            .map_err(WebhookError::Client)?;
        Ok(Self { http, settings, clock })
    }

    /// One request with these entries.
    async fn post(&self, entries: &[FeedEntry]) -> Result<(), (Retry, String)> {
        let Some(last) = entries.last() else { return Ok(()) };
        let (id, body) = if self.settings.batch > 1 {
            // The number distinguishes batches of different length that end with the same entry.
            (format!("{}_{}", last.id, entries.len()), serde_json::to_vec(&Batch { entries }))
        } else {
            (last.id.clone(), serde_json::to_vec(last))
        };
        // These two errors cannot occur with entries of the store. If they did, the operator would see them,
        // and no entry would be lost.
        let body = body
            .map_err(|error| (Retry::Backoff, format!("an entry cannot be serialised as JSON: {error}")))?;
        self.send(&id, body).await
    }

    /// Sends a message with this id.
    async fn send(&self, id: &str, body: Vec<u8>) -> Result<(), (Retry, String)> {
        // An address in the URL is connected to without a resolver.
        if !self.settings.is_encrypted() && Host::of(&self.settings.url.0) == Host::Public {
            return Err((Retry::Backoff, answer::unencrypted()));
        }
        let signed = self.signed(id, &body);
        let headers =
            signed.map_err(|_| (Retry::Backoff, "an entry's id cannot be sent in a header".to_owned()))?;
        let request = self.http.post(self.settings.url.0.clone()).headers(headers).body(body);
        let mut response =
            request.send().await.map_err(|error| (Retry::Backoff, answer::no_response(&error)))?;
        let verdict = answer::verdict(response.status(), response.headers(), self.clock.now());
        // The status alone decides, so an error while the body is read does not matter.
        let _ = tokio::time::timeout(ANSWER_TIMEOUT, drain(&mut response)).await;
        verdict
    }

    fn signed(&self, id: &str, body: &[u8]) -> Result<HeaderMap, reqwest::header::InvalidHeaderValue> {
        let timestamp_secs = self.clock.now().as_secs();
        let mut signature = self.settings.key.sign(id, timestamp_secs, body);
        if let Some(previous) = &self.settings.previous_key {
            signature.push(' ');
            signature.push_str(&previous.sign(id, timestamp_secs, body));
        }
        let mut headers = self.settings.headers.clone();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(WEBHOOK_ID, HeaderValue::from_str(id)?);
        headers.insert(WEBHOOK_TIMESTAMP, HeaderValue::from(timestamp_secs));
        headers.insert(WEBHOOK_SIGNATURE, HeaderValue::from_str(&signature)?);
        Ok(headers)
    }
}

fn roots(settings: &Settings) -> Result<Vec<Certificate>, WebhookError> {
    let Some(path) = settings.ca_file.clone() else {
        return Ok(Vec::new());
    };
    match std::fs::read(&path) {
        Err(source) => Err(WebhookError::CaFile { path, source }),
        Ok(pem) => certificates(&pem).ok_or(WebhookError::NoCertificate { path }),
    }
}

/// The certificates in a PEM file, if it holds any.
#[must_use]
pub fn certificates(pem: &[u8]) -> Option<Vec<Certificate>> {
    Certificate::from_pem_bundle(pem).ok().filter(|found| !found.is_empty())
}

/// Reads a response to its end if it is short. A connection whose response was not read to its end is closed.
async fn drain(response: &mut reqwest::Response) {
    let mut bytes = 0;
    while let Ok(Some(chunk)) = response.chunk().await {
        bytes += chunk.len();
        if bytes > ANSWER_BYTES_MAX {
            return;
        }
    }
}

#[async_trait]
impl Sink for Webhook {
    fn batch_max(&self) -> usize {
        self.settings.batch.max(1)
    }

    async fn deliver(&mut self, entries: &[FeedEntry]) -> Result<(), DeliveryError> {
        let mut delivered = 0;
        for message in entries.chunks(self.batch_max()) {
            self.post(message).await.map_err(|(retry, reason)| DeliveryError { delivered, retry, reason })?;
            delivered += message.len();
        }
        Ok(())
    }

    async fn test(&mut self) -> Result<bool, String> {
        let now = self.clock.now();
        let id = format!("test_{}", now.as_millis());
        let body = json!({ "type": "unionlink.test", "id": &id, "occurred_at": now }).to_string();
        self.send(&id, body.into_bytes()).await.map_err(|(_, reason)| reason)?;
        Ok(true)
    }
}
