//! How requests reach WeCom: over HTTPS, or, in a simulation, without any socket.
//!
//! The access token travels in the query, as WeCom wants it, so nothing here is ever printed.
//!
//! Deliberately absent: what is sent and what an answer means.

use async_trait::async_trait;
use serde_json::Value;

use super::Transport;
use super::client::{ClientError, ClientSettings};

const ANSWER_BYTES_MAX: usize = 4 << 20;

/// An answer, whatever it says.
#[derive(Debug)]
pub struct Reply {
    /// The HTTP status.
    pub status: u16,
    /// The body; not read unless the status is 200.
    pub body: Vec<u8>,
}

/// Carries requests to WeCom.
#[async_trait]
pub trait Wire: Send + Sync + 'static {
    /// POSTs `body`, or GETs if there is none. `target` is path and query, and holds secrets.
    async fn exchange(&self, target: &str, body: Option<&Value>) -> Result<Reply, Transport>;
}

/// Requests over HTTPS.
pub struct Https {
    http: reqwest::Client,
    api_base: String,
}

impl Https {
    /// A client with these settings.
    ///
    /// # Errors
    /// [`ClientError`] when the proxy's address is malformed or the platform has no TLS roots.
    pub fn new(settings: &ClientSettings) -> Result<Self, ClientError> {
        // An error means that another client of this process was first, with the same provider.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut builder = reqwest::Client::builder()
            .connect_timeout(settings.connect_timeout)
            .timeout(settings.timeout)
            .redirect(reqwest::redirect::Policy::none())
            .user_agent(concat!("unionlink/", env!("CARGO_PKG_VERSION")))
            .no_proxy();
        if let Some(proxy) = &settings.proxy {
            builder = builder.proxy(reqwest::Proxy::all(proxy).map_err(ClientError)?);
        }
        Ok(Self { http: builder.build().map_err(ClientError)?, api_base: settings.api_base.clone() })
    }
}

#[async_trait]
impl Wire for Https {
    async fn exchange(&self, target: &str, body: Option<&Value>) -> Result<Reply, Transport> {
        let broken = |error: reqwest::Error| cause(&error);
        let url = format!("{}{target}", self.api_base);
        let request = match body {
            Some(body) => self.http.post(url).json(body),
            None => self.http.get(url),
        };
        let mut response = request.send().await.map_err(broken)?;
        let (status, mut bytes) = (response.status().as_u16(), Vec::new());
        if status != 200 {
            return Ok(Reply { status, body: bytes });
        }
        while let Some(chunk) = response.chunk().await.map_err(broken)? {
            bytes.extend_from_slice(&chunk);
            if bytes.len() > ANSWER_BYTES_MAX {
                return Err(Transport::Body);
            }
        }
        Ok(Reply { status, body: bytes })
    }
}

fn cause(error: &reqwest::Error) -> Transport {
    if error.is_timeout() {
        Transport::Timeout
    } else if error.is_connect() {
        Transport::Connect
    } else {
        Transport::Broken
    }
}
