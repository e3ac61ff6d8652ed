//! Housekeeping, once an hour: deletes expired records, old quarantined messages, feed entries and entries of the
//! audit trail, and finishes erasures.
//!
//! Deliberately absent: the dealers, which [`dealers`](super::dealers) keeps up to date.

use std::time::Duration;

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::{Activation, Context, overdue};
use crate::domain::time::{DAY_MS, Moment, Timestamp};
use crate::store::EventState;
use crate::telemetry::metrics::Deletion;

/// How often expired records are deleted.
const SWEEP_EVERY: Duration = Duration::from_hours(1);

/// How long the audit trail is kept.
const AUDIT_DAYS: i64 = 365;

/// Runs until `stop`.
pub async fn run(context: Context, stop: CancellationToken) {
    let sweep = Sweep { context, stop: stop.clone(), swept_at: None };
    super::run(&Notify::new(), stop, sweep).await;
}

struct Sweep {
    context: Context,
    stop: CancellationToken,
    /// When expired records were last deleted.
    swept_at: Option<Moment>,
}

impl Activation for Sweep {
    async fn activate(&mut self) -> Duration {
        if overdue(self.swept_at, SWEEP_EVERY, self.context.clock.moment()) {
            let now = self.context.now();
            match self.context.store.sweep(now).await {
                Ok(0) => {}
                Ok(deleted) => tracing::info!(deleted, "expired records deleted"),
                Err(error) => {
                    let error = error.to_string();
                    tracing::warn!(error, "deleting expired records failed; the next try is in an hour");
                }
            }
            self.delete_expired_messages(now).await;
            self.prune_feed(now).await;
            self.prune_audit_trail(now).await;
            if let Err(error) = self.context.store.finish_forgetting(now).await {
                let error = error.to_string();
                tracing::warn!(error, "an erasure could not be completed; the next try is in an hour");
            }
            self.swept_at = Some(self.context.clock.moment());
        }
        super::LOOK_EVERY
    }
}

impl Sweep {
    /// Deletes the quarantined messages that no operator has redriven in time, a batch at a time.
    async fn delete_expired_messages(&self, now: Timestamp) {
        let mut deleted = 0;
        let result = loop {
            let (count, result) = self.context.store.sweep_quarantine(now).await;
            self.context.metrics.events_deleted(EventState::Quarantined, Deletion::Expired, count);
            deleted += count;
            if count == 0 || result.is_err() || self.stop.is_cancelled() {
                break result;
            }
        };
        if deleted > 0 {
            tracing::warn!(deleted, "quarantined messages deleted: older than store.quarantine_days");
        }
        if let Err(error) = result {
            let error = error.to_string();
            tracing::warn!(error, "deleting old quarantined messages failed; the next try is in an hour");
        }
    }

    /// Deletes old entries of the audit trail.
    async fn prune_audit_trail(&self, now: Timestamp) {
        match self.context.store.prune_trail(now.plus_ms(-AUDIT_DAYS * DAY_MS)).await {
            Ok(0) => {}
            Ok(deleted) => tracing::info!(deleted, "old entries of the audit trail deleted"),
            Err(error) => {
                let error = error.to_string();
                tracing::warn!(error, "old entries of the audit trail could not be deleted");
            }
        }
    }

    /// Deletes old feed entries, a batch at a time.
    async fn prune_feed(&self, now: Timestamp) {
        let sinks = self.context.sinks.names();
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
}
