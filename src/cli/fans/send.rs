//! Sends a batch to the admin API, with retries until it is accepted, refused, or out of time.
//!
//! The request is idempotent, so it is also repeated when it is unknown whether it arrived.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{bail, ensure};
use axum::body::Bytes;
use reqwest::header::{CONTENT_TYPE, RETRY_AFTER};
use reqwest::{Method, StatusCode, Url};
use serde::Deserialize;
use tokio_util::sync::CancellationToken;

use crate::cli::admin::{self, AdminApi, Problem};
use crate::cli::progress_display::ProgressDisplay;
use crate::config::AdminAccess;

const RETRY_AFTER_MAX: Duration = Duration::from_mins(1);

/// The retry schedule while the service does not accept fans.
#[derive(Debug, Clone, Copy)]
pub(super) struct Patience {
    /// The wait before the first retry; it doubles with each further one.
    pub(super) first: Duration,
    /// The longest wait between retries.
    pub(super) longest: Duration,
    /// The total time for one request.
    pub(super) total: Duration,
}

/// The service's answer to a batch.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Receipt {
    pub(super) accepted: u64,
    pub(super) known: u64,
    pub(super) rejected: Vec<Rejected>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Rejected {
    /// The line of the body, from 1.
    pub(super) line: u64,
    pub(super) reason: String,
}

/// Why an attempt failed, if it can be retried.
struct Failure {
    reason: String,
    hint: Option<String>,
    retry_after: Option<Duration>,
}

/// The admin API's endpoint for fans.
pub(super) struct Service {
    api: AdminApi,
    url: Url,
    patience: Patience,
    display: Arc<ProgressDisplay>,
    /// Whether the current outage has been reported to the user.
    reported: AtomicBool,
    stop: CancellationToken,
}

impl Service {
    pub(super) fn new(
        access: &AdminAccess,
        patience: Patience,
        retry_rejected: bool,
        display: Arc<ProgressDisplay>,
        stop: CancellationToken,
    ) -> anyhow::Result<Self> {
        let api = AdminApi::new(access)?;
        let retry = retry_rejected.then_some("rejected");
        let url = api.url(&["v1", "fans"], &[("priority", Some("bulk")), ("retry", retry)]);
        Ok(Self { api, url, patience, display, reported: AtomicBool::new(false), stop })
    }

    /// Sends a body of `rows` rows; no receipt if the import is stopped before they are accepted.
    pub(super) async fn send(&self, body: Bytes, rows: usize) -> anyhow::Result<Option<Receipt>> {
        let base_url = &self.api.base_url;
        let mut wait = self.patience.first;
        let mut failing_since = None;
        loop {
            let Failure { reason, hint, retry_after } = match self.attempt(body.clone()).await? {
                Err(failure) => failure,
                Ok(receipt) => {
                    if self.reported.swap(false, Ordering::Relaxed) {
                        self.display.say("the service accepts fans again");
                    }
                    let answered = receipt.accepted + receipt.known + receipt.rejected.len() as u64;
                    // A row missing from the receipt would be lost.
                    ensure!(
                        answered == rows as u64,
                        "{base_url} was sent {rows} rows and acknowledged {answered}\nhint: is it unionlink, \
                         of a version like this one?"
                    );
                    return Ok(Some(receipt));
                }
            };
            if failing_since.get_or_insert_with(Instant::now).elapsed() >= self.patience.total {
                let hint = hint.map(|hint| format!("{hint}; ")).unwrap_or_default();
                bail!(
                    "the service at {base_url} does not accept fans: {reason}\nhint: {hint}once it does, run \
                     the same command again to resume"
                );
            }
            if !self.reported.swap(true, Ordering::Relaxed) {
                self.display.say(&format!("the service does not accept fans ({reason}); retrying"));
            }
            tokio::select! {
                () = tokio::time::sleep(retry_after.unwrap_or_default().min(RETRY_AFTER_MAX).max(wait)) => {}
                () = self.stop.cancelled() => return Ok(None),
            }
            wait = (wait * 2).min(self.patience.longest);
        }
    }

    /// Sends once.
    ///
    /// # Errors
    /// When a retry would fail as well.
    async fn attempt(&self, body: Bytes) -> anyhow::Result<Result<Receipt, Failure>> {
        let (status, retry_after, answer) = match self.post(body).await {
            Ok(answered) => answered,
            Err(error) => {
                let reason = admin::failure_reason(&error);
                return Ok(Err(Failure { reason, hint: None, retry_after: None }));
            }
        };
        match status {
            StatusCode::ACCEPTED => {
                serde_json::from_slice(&answer).map(Ok).map_err(|_| self.api.unexpected_answer(status))
            }
            StatusCode::REQUEST_TIMEOUT
            | StatusCode::TOO_MANY_REQUESTS
            | StatusCode::BAD_GATEWAY
            | StatusCode::SERVICE_UNAVAILABLE
            | StatusCode::GATEWAY_TIMEOUT => {
                let Problem { detail, hint } = Problem::parse(&answer);
                let reason =
                    if detail.is_empty() { status.to_string() } else { format!("{status}: {detail}") };
                Ok(Err(Failure { reason, hint, retry_after }))
            }
            _ => Err(self.api.refusal(status, &answer)),
        }
    }

    async fn post(&self, body: Bytes) -> reqwest::Result<(StatusCode, Option<Duration>, Vec<u8>)> {
        let request = self.api.request(Method::POST, self.url.clone()).timeout(admin::TIMEOUT);
        let response = request.header(CONTENT_TYPE, "application/x-ndjson").body(body).send().await?;
        let retry_after = response.headers().get(RETRY_AFTER);
        let seconds = retry_after.and_then(|value| value.to_str().ok()?.trim().parse().ok());
        Ok((response.status(), seconds.map(Duration::from_secs), admin::read_body(response).await?))
    }
}
