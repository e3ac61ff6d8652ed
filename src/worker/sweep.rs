//! Housekeeping: deletes expired records and feed entries, finishes erasures, refreshes the list of dealers.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::breaker::Scope;
use super::directory::DirectoryError;
use super::failure::{failure_reason, limit_ends_at};
use super::{Activation, Context};
use crate::domain::backoff::Backoff;
use crate::domain::ids::AppName;
use crate::domain::time::{DAY_MS, HOUR_MS, MINUTE_MS, Timestamp};
use crate::store::FailureReason;
use crate::wecom::Class;

/// Runs until `stop`.
pub async fn run(context: Context, stop: CancellationToken) {
    let wake = context.wake.clone();
    let (refreshed_at, changed) = (HashMap::new(), BTreeSet::new());
    let sweep = Sweep { context, stop: stop.clone(), swept_at: None, refreshed_at, changed };
    super::run(&wake.dealers, stop, sweep).await;
}

struct Sweep {
    context: Context,
    stop: CancellationToken,
    /// When expired records were last deleted.
    swept_at: Option<Timestamp>,
    /// When the list of dealers of each app was last refreshed.
    refreshed_at: HashMap<AppName, Timestamp>,
    /// Apps whose dealers have changed since the last refresh, according to WeCom.
    changed: BTreeSet<AppName>,
}

impl Activation for Sweep {
    async fn activate(&mut self) -> Duration {
        let now = self.context.now();
        if overdue(self.swept_at, HOUR_MS, now) {
            match self.context.store.sweep(now).await {
                Ok(0) => {}
                Ok(deleted) => tracing::info!(deleted, "expired records deleted"),
                Err(error) => {
                    let error = error.to_string();
                    tracing::warn!(error, "deleting expired records failed; the next try is in an hour");
                }
            }
            self.prune_feed(now).await;
            if let Err(error) = self.context.store.finish_forgetting(now).await {
                let error = error.to_string();
                tracing::warn!(error, "an erasure could not be completed; the next try is in an hour");
            }
            self.swept_at = Some(now);
        }
        let apps = self.context.apps.clone();
        self.changed.extend(self.context.wake.take_changed());
        for app in apps.keys() {
            // At most one refresh a minute, so that several changes in a row cause only one.
            let every_ms = if self.changed.contains(app) { MINUTE_MS } else { DAY_MS };
            let due = overdue(self.refreshed_at.get(app).copied(), every_ms, now);
            if due && self.refresh_dealers(app, now).await {
                self.changed.remove(app);
                self.refreshed_at.insert(app.clone(), now);
            }
        }
        super::LOOK_EVERY
    }
}

fn overdue(last: Option<Timestamp>, every_ms: i64, now: Timestamp) -> bool {
    last.is_none_or(|at| now.millis_since(at) >= every_ms)
}

impl Sweep {
    /// Deletes old feed entries, a batch at a time.
    async fn prune_feed(&self, now: Timestamp) {
        let sinks: Vec<_> = self.context.sinks.names().cloned().collect();
        let cutoff = now.plus_ms(-self.context.feed_kept_ms);
        let mut deleted = 0;
        while !self.stop.is_cancelled() {
            match self.context.store.prune_feed(cutoff, &sinks).await {
                Ok(0) => break,
                Ok(count) => deleted += count,
                Err(error) => {
                    tracing::warn!(error = error.to_string(), "old feed entries could not be deleted");
                    break;
                }
            }
        }
        if deleted > 0 {
            tracing::info!(deleted, "old feed entries deleted");
        }
    }

    /// Refreshes the list of dealers. Returns whether it did.
    async fn refresh_dealers(&self, app: &AppName, now: Timestamp) -> bool {
        let scope = Scope::Dealers(app.clone());
        if self.context.breakers.open(&[&scope], now).is_some() {
            return false;
        }
        match self.context.directory.refresh(app).await {
            Ok(dealers) => {
                tracing::info!(%app, dealers, "dealer list refreshed");
                self.context.breakers.succeeded(&scope);
                return true;
            }
            Err(DirectoryError::Call(error)) if error.class() == Class::Rate => {
                let until = limit_ends_at(&error, now);
                self.context.breakers.hold(scope, failure_reason(&error), now, until);
            }
            Err(DirectoryError::Call(error)) => {
                let backoff =
                    if error.class() == Class::Transient { Backoff::CALL } else { Backoff::CONFIGURATION };
                self.context.breakers.failed(&scope, failure_reason(&error), backoff, now);
            }
            Err(DirectoryError::Store(error)) => {
                let reason = FailureReason { errcode: None, text: error.to_string() };
                self.context.breakers.failed(&scope, reason, Backoff::CALL, now);
            }
        }
        false
    }
}
