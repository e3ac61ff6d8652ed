//! Sends one body to the admin API, again and again until it is taken, refused, or patience is over.
//!
//! Sending a body twice is harmless: the service knows its rows. So whatever might not have arrived is repeated.

use std::error::Error as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use axum::body::Bytes;
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue, RETRY_AFTER};
use reqwest::{Response, StatusCode};
use secrecy::ExposeSecret;
use serde::Deserialize;
use tokio_util::sync::CancellationToken;

use super::show::Show;
use crate::config::AdminAccess;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// For a whole request. Rows are durable before they are answered, and a busy disk takes its time.
const TIMEOUT: Duration = Duration::from_mins(1);
/// A thousand rejected rows, with room to spare.
const ANSWER_BYTES_MAX: usize = 4 << 20;
const RETRY_AFTER_MAX: Duration = Duration::from_mins(1);

/// How a service that does not answer is waited for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Patience {
    /// Before the first repetition; twice as long before each further one.
    pub(super) first: Duration,
    pub(super) longest: Duration,
    /// In all, for one request.
    pub(super) total: Duration,
}

/// What became of the rows of a body.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Receipt {
    pub(super) accepted: u64,
    pub(super) known: u64,
    pub(super) rejected: Vec<Rejected>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Rejected {
    /// Of the body, from 1.
    pub(super) line: u64,
    pub(super) reason: String,
}

/// An error of the admin API, as far as a person is told of it.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Problem {
    detail: String,
    hint: Option<String>,
}

/// What one try came to.
enum Tried {
    Taken(Receipt),
    Refused(anyhow::Error),
    /// Worth another try.
    Trouble {
        what: String,
        hint: Option<String>,
        after: Option<Duration>,
    },
}

/// The admin API.
pub(super) struct Service {
    http: reqwest::Client,
    url: String,
    base_url: String,
    patience: Patience,
    show: Arc<Show>,
    /// Whether the user knows that it does not answer.
    in_trouble: AtomicBool,
    stop: CancellationToken,
}

impl Service {
    pub(super) fn new(
        access: &AdminAccess,
        patience: Patience,
        show: Arc<Show>,
        stop: CancellationToken,
    ) -> anyhow::Result<Self> {
        // An error means that another client of this process was first, with the same provider.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-ndjson"));
        if let Some(token) = &access.token {
            let mut bearer =
                HeaderValue::from_str(&format!("Bearer {}", token.expose_secret())).map_err(|_| {
                    anyhow::anyhow!(
                        "the admin token cannot be sent: it has line ends or control characters in it"
                    )
                })?;
            bearer.set_sensitive(true);
            headers.insert(AUTHORIZATION, bearer);
        }
        let http = reqwest::Client::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(TIMEOUT)
            .redirect(reqwest::redirect::Policy::none())
            .user_agent(concat!("unionlink/", env!("CARGO_PKG_VERSION")))
            .default_headers(headers)
            .no_proxy()
            .build()
            .context("cannot build an HTTP client")?;
        let base_url = access.base_url.clone();
        let url = format!("{base_url}/v1/fans?priority=bulk");
        Ok(Self { http, url, base_url, patience, show, in_trouble: AtomicBool::new(false), stop })
    }

    /// Sends `rows` rows; `None` if it was told to stop before they were taken.
    pub(super) async fn send(&self, body: Bytes, rows: usize) -> anyhow::Result<Option<Receipt>> {
        let mut wait = self.patience.first;
        let mut since: Option<Instant> = None;
        loop {
            let (what, hint, after) = match self.once(body.clone()).await {
                Tried::Taken(receipt) => {
                    if self.in_trouble.swap(false, Ordering::Relaxed) {
                        self.show.say("the service answers again");
                    }
                    self.account(&receipt, rows)?;
                    return Ok(Some(receipt));
                }
                Tried::Refused(error) => return Err(error),
                Tried::Trouble { what, hint, after } => (what, hint, after),
            };
            if since.get_or_insert_with(Instant::now).elapsed() >= self.patience.total {
                bail!(
                    "the service at {} does not take fans: {what}\nhint: {}once it does, the same command goes on \
                     where this one stopped",
                    self.base_url,
                    hint.map(|hint| format!("{hint}; ")).unwrap_or_default()
                );
            }
            if !self.in_trouble.swap(true, Ordering::Relaxed) {
                self.show.say(&format!("the service does not take fans ({what}); trying again"));
            }
            let pause = after.unwrap_or_default().min(RETRY_AFTER_MAX).max(wait);
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.stop.cancelled() => return Ok(None),
            }
            wait = (wait * 2).min(self.patience.longest);
        }
    }

    /// A row that the answer does not account for would be a lost one.
    fn account(&self, receipt: &Receipt, rows: usize) -> anyhow::Result<()> {
        let told = receipt.accepted + receipt.known + receipt.rejected.len() as u64;
        ensure!(
            told == rows as u64,
            "{} was sent {rows} rows and answered for {told}\nhint: is it unionlink, of a version like this one?",
            self.base_url
        );
        Ok(())
    }

    async fn once(&self, body: Bytes) -> Tried {
        match self.http.post(&self.url).body(body).send().await {
            Ok(response) => self.judge(response).await,
            Err(error) => trouble(&error),
        }
    }

    async fn judge(&self, response: Response) -> Tried {
        let status = response.status();
        let after = response
            .headers()
            .get(RETRY_AFTER)
            .and_then(|value| value.to_str().ok()?.trim().parse().ok())
            .map(Duration::from_secs);
        let answer = match read(response).await {
            Ok(answer) => answer,
            Err(error) => return trouble(&error),
        };
        let problem = || serde_json::from_slice::<Problem>(&answer).unwrap_or_default();
        match status {
            StatusCode::ACCEPTED => match serde_json::from_slice(&answer) {
                Ok(receipt) => Tried::Taken(receipt),
                Err(_) => Tried::Refused(self.stranger(status)),
            },
            StatusCode::REQUEST_TIMEOUT
            | StatusCode::TOO_MANY_REQUESTS
            | StatusCode::BAD_GATEWAY
            | StatusCode::SERVICE_UNAVAILABLE
            | StatusCode::GATEWAY_TIMEOUT => {
                let Problem { detail, hint } = problem();
                let what = if detail.is_empty() { status.to_string() } else { format!("{status}: {detail}") };
                Tried::Trouble { what, hint, after }
            }
            StatusCode::UNAUTHORIZED => Tried::Refused(anyhow::anyhow!(
                "{} refuses the admin token\nhint: set admin.token, or UNIONLINK_ADMIN_TOKEN with --admin, to the \
                 service's own",
                self.base_url
            )),
            _ => Tried::Refused(match problem() {
                Problem { detail, .. } if detail.is_empty() => self.stranger(status),
                Problem { detail, hint } => {
                    let hint = hint.map(|hint| format!("\nhint: {hint}")).unwrap_or_default();
                    anyhow::anyhow!("{} answered {status}: {detail}{hint}", self.base_url)
                }
            }),
        }
    }

    fn stranger(&self, status: StatusCode) -> anyhow::Error {
        anyhow::anyhow!(
            "{} answered {status} as unionlink does not\nhint: is it the admin listener's address? see admin.listen, or \
             --admin URL",
            self.base_url
        )
    }
}

async fn read(mut response: Response) -> reqwest::Result<Vec<u8>> {
    let mut answer = Vec::new();
    while let Some(chunk) = response.chunk().await? {
        if answer.len() + chunk.len() > ANSWER_BYTES_MAX {
            break;
        }
        answer.extend_from_slice(&chunk);
    }
    Ok(answer)
}

fn trouble(error: &reqwest::Error) -> Tried {
    let mut root: &dyn std::error::Error = error;
    while let Some(source) = root.source() {
        root = source;
    }
    let what = if error.is_timeout() {
        "no answer in time".to_owned()
    } else if error.source().is_some() {
        root.to_string()
    } else {
        "the connection failed".to_owned()
    };
    Tried::Trouble { what, hint: None, after: None }
}
