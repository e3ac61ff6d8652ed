//! Sends batches to the admin API, with retries until each is accepted, refused, or out of time; before that,
//! asks whether the app of the rows is configured.
//!
//! The requests are idempotent, so they are also repeated when it is unknown whether they arrived.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{bail, ensure};
use axum::body::Bytes;
use reqwest::header::{CONTENT_TYPE, RETRY_AFTER};
use reqwest::{Method, StatusCode, Url};
use serde::Deserialize;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::cli::admin::{self, AdminApi, Problem};
use crate::cli::progress_display::ProgressDisplay;
use crate::config::AdminAccess;
use crate::domain::ids::AppName;

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
        let Some((status, answer)) = self.answer("application/x-ndjson", body).await? else {
            return Ok(None);
        };
        if status != StatusCode::ACCEPTED {
            return Err(self.api.refusal(status, &answer));
        }
        let Ok(receipt) = serde_json::from_slice::<Receipt>(&answer) else {
            return Err(self.api.unexpected_answer(status));
        };
        if self.reported.swap(false, Ordering::Relaxed) {
            self.display.say("the service accepts fans again");
        }
        let answered = receipt.accepted + receipt.known + receipt.rejected.len() as u64;
        // A row missing from the receipt would be lost.
        ensure!(
            answered == rows as u64,
            "{} was sent {rows} rows and acknowledged {answered}\nhint: is it unionlink, of a version like \
             this one?",
            self.api.place
        );
        Ok(Some(receipt))
    }

    /// Asks whether the service has `app`; without `app`, whether it has only one, so that rows need not name
    /// it. Returns false if the import is stopped before there is an answer.
    ///
    /// # Errors
    /// When it does not: every row would be rejected.
    pub(super) async fn check_app(&self, app: Option<&AppName>) -> anyhow::Result<bool> {
        // A fan without ids is always rejected; if its app is not usable, then for that reason.
        let body = json!({ "app": app }).to_string();
        let Some((status, answer)) = self.answer("application/json", body.into()).await? else {
            return Ok(false);
        };
        if status != StatusCode::UNPROCESSABLE_ENTITY {
            return Err(self.api.refusal(status, &answer));
        }
        let Problem { detail, apps, .. } = Problem::parse(&answer);
        ensure!(
            apps.is_empty(),
            "no fan was sent: {detail}\nhint: name one of the configured apps with --app: {}",
            apps.join(", ")
        );
        Ok(true)
    }

    /// Posts a body until the answer is one that a retry would not change. No answer if the import is stopped
    /// before.
    async fn answer(
        &self,
        content_type: &'static str,
        body: Bytes,
    ) -> anyhow::Result<Option<(StatusCode, Vec<u8>)>> {
        let place = &self.api.place;
        let mut wait = self.patience.first;
        let mut failing_since = None;
        loop {
            let Failure { reason, hint, retry_after } = match self.attempt(content_type, body.clone()).await {
                Ok(answer) => return Ok(Some(answer)),
                Err(failure) => failure,
            };
            if failing_since.get_or_insert_with(Instant::now).elapsed() >= self.patience.total {
                let hint = hint.map(|hint| format!("{hint}; ")).unwrap_or_default();
                bail!(
                    "the service at {place} does not accept fans: {reason}\nhint: {hint}once it does, run \
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

    /// Posts a body once.
    ///
    /// # Errors
    /// When a retry may be answered otherwise.
    async fn attempt(
        &self,
        content_type: &'static str,
        body: Bytes,
    ) -> Result<(StatusCode, Vec<u8>), Failure> {
        let (status, retry_after, answer) = match self.post(content_type, body).await {
            Ok(answered) => answered,
            Err(error) => {
                let reason = admin::failure_reason(&error);
                return Err(Failure { reason, hint: None, retry_after: None });
            }
        };
        match status {
            StatusCode::REQUEST_TIMEOUT
            | StatusCode::TOO_MANY_REQUESTS
            | StatusCode::BAD_GATEWAY
            | StatusCode::SERVICE_UNAVAILABLE
            | StatusCode::GATEWAY_TIMEOUT => {
                let Problem { detail, hint, .. } = Problem::parse(&answer);
                let reason =
                    if detail.is_empty() { status.to_string() } else { format!("{status}: {detail}") };
                Err(Failure { reason, hint, retry_after })
            }
            _ => Ok((status, answer)),
        }
    }

    async fn post(
        &self,
        content_type: &'static str,
        body: Bytes,
    ) -> reqwest::Result<(StatusCode, Option<Duration>, Vec<u8>)> {
        let request = self.api.request(Method::POST, self.url.clone()).timeout(admin::TIMEOUT);
        let response = request.header(CONTENT_TYPE, content_type).body(body).send().await?;
        let retry_after = response.headers().get(RETRY_AFTER);
        let seconds = retry_after.and_then(|value| value.to_str().ok()?.trim().parse().ok());
        Ok((response.status(), seconds.map(Duration::from_secs), admin::read_body(response).await?))
    }
}
