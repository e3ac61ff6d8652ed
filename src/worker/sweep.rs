//! Periodic care: old records deleted, the list of dealers kept fresh.

use std::collections::HashMap;
use std::time::Duration;

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::Context;
use super::pause::Scope;
use super::resolve::problem_of;
use crate::domain::backoff::Backoff;
use crate::domain::time::{DAY_MS, HOUR_MS, Timestamp};
use crate::worker::directory::DirectoryError;

/// Runs until `stop`.
pub async fn run(context: Context, stop: CancellationToken) {
    let mut swept_at: Option<Timestamp> = None;
    let mut listed_at: HashMap<_, Timestamp> = HashMap::new();
    let nobody = Notify::new();
    super::run(&nobody, stop, async || {
        let now = context.now();
        let due = |last: Option<&Timestamp>, every_ms| last.is_none_or(|at| now.millis_since(*at) >= every_ms);
        if due(swept_at.as_ref(), HOUR_MS) {
            match context.store.sweep(now).await {
                Ok(0) => {}
                Ok(deleted) => tracing::info!(deleted, "old records deleted"),
                Err(error) => tracing::warn!(%error, "sweep put off"),
            }
            swept_at = Some(now);
        }
        for app in context.apps.keys() {
            let scope = Scope::App(app.clone());
            let paused = context.pauses.of(&[&scope], now).is_some();
            if paused || !due(listed_at.get(app), DAY_MS) {
                continue;
            }
            match context.directory.refresh(app).await {
                Ok(dealers) => {
                    tracing::info!(%app, dealers, "dealers listed");
                    context.pauses.worked(&scope);
                    listed_at.insert(app.clone(), now);
                }
                Err(DirectoryError::Call(error)) => {
                    let (problem, backoff) = (problem_of(&error), Backoff::PARKED);
                    context.pauses.failed(scope, problem, backoff, now);
                }
                Err(DirectoryError::Store(error)) => tracing::warn!(%error, "dealers not kept"),
            }
        }
        Duration::from_secs(1)
    })
    .await;
}
