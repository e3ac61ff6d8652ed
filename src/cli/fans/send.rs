//! Sends one body to the admin API, again and again until it is taken, refused, or patience is over.
//!
//! Sending a body twice is harmless: the service knows its rows. So whatever might not have arrived is repeated.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{bail, ensure};
use axum::body::Bytes;
use reqwest::header::{CONTENT_TYPE, RETRY_AFTER};
use reqwest::{Method, Response, StatusCode, Url};
use serde::Deserialize;
use tokio_util::sync::CancellationToken;

use crate::cli::admin::{self, AdminApi, Problem};
use crate::cli::show::Show;
use crate::config::AdminAccess;

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
    api: AdminApi,
    url: Url,
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
        let api = AdminApi::new(access)?;
        let url = api.address(&["v1", "fans"], &[("priority", Some("bulk"))]);
        Ok(Self { api, url, patience, show, in_trouble: AtomicBool::new(false), stop })
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
                    self.api.base_url,
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
            self.api.base_url
        );
        Ok(())
    }

    async fn once(&self, body: Bytes) -> Tried {
        let request = self.api.request(Method::POST, self.url.clone()).timeout(admin::TIMEOUT);
        match request.header(CONTENT_TYPE, "application/x-ndjson").body(body).send().await {
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
        let answer = match admin::read(response).await {
            Ok(answer) => answer,
            Err(error) => return trouble(&error),
        };
        match status {
            StatusCode::ACCEPTED => match serde_json::from_slice(&answer) {
                Ok(receipt) => Tried::Taken(receipt),
                Err(_) => Tried::Refused(self.api.stranger(status)),
            },
            // Only a wrong token is told so, and that will not change.
            StatusCode::TOO_MANY_REQUESTS if Problem::of(&answer).code == "too_many_attempts" => {
                Tried::Refused(self.api.refusal(StatusCode::UNAUTHORIZED, &answer))
            }
            StatusCode::REQUEST_TIMEOUT
            | StatusCode::TOO_MANY_REQUESTS
            | StatusCode::BAD_GATEWAY
            | StatusCode::SERVICE_UNAVAILABLE
            | StatusCode::GATEWAY_TIMEOUT => {
                let Problem { detail, hint, .. } = Problem::of(&answer);
                let what = if detail.is_empty() { status.to_string() } else { format!("{status}: {detail}") };
                Tried::Trouble { what, hint, after }
            }
            _ => Tried::Refused(self.api.refusal(status, &answer)),
        }
    }
}

fn trouble(error: &reqwest::Error) -> Tried {
    Tried::Trouble { what: admin::what_failed(error), hint: None, after: None }
}
