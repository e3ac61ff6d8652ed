//! Delivers the feed to the sinks. Each sink has a task of its own, so a slow or dead receiver delays no
//! other.
//!
//! Deliveries to a sink are made one after the other, in the order of the feed. The cursor is persisted when
//! everything is delivered, after a failure, and at least every 250 ms in between; after a crash the receiver
//! gets the entries since then once more, under the same ids. A failed delivery is retried with backoff until
//! it succeeds, which keeps the order; an operator who wants to skip an entry seeks the cursor past it.
//!
//! How entries reach a receiver is in [`crate::sink`], the status that operators see in `sink_status`.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::Context;
use super::failure::StoreFailureLog;
use super::sink_status::{SinkHandle, SinkStatus};
use crate::clock::Clock;
use crate::domain::backoff::{Backoff, Jitter};
use crate::domain::history::SinkFailure;
use crate::domain::ids::SinkName;
use crate::domain::link::FeedEntry;
use crate::domain::time::Timestamp;
use crate::sink::{DeliveryError, Retry, Sink};
use crate::store::{Cursor, CursorState, Start, Store, StoreError};
use crate::telemetry::metrics::Metrics;

/// How often the cursor is persisted while there is more to deliver.
const PERSIST_EVERY: Duration = Duration::from_millis(250);
/// The longest time that a task waits for a wake-up.
const POLL_EVERY: Duration = Duration::from_secs(1);

/// Delivers to one sink until `stop`, and returns it. A sink without a cursor begins at `start`.
pub async fn run(
    context: Context,
    name: SinkName,
    sink: Box<dyn Sink>,
    start: Start,
    stop: CancellationToken,
) -> Box<dyn Sink> {
    let Some(handle) = context.sinks.handle(&name) else { return sink };
    // Those with other settings, before the configuration was reloaded, do not count.
    handle.with_status(SinkStatus::forget_failures);
    let Context { store, clock, jitter, metrics, .. } = context;
    let mut head = store.feed_head();
    let mut task = DeliveryTask {
        store,
        clock,
        jitter,
        metrics,
        handle: handle.clone(),
        name,
        sink,
        start,
        cursor: None,
        after: 0,
        persisted_at: Instant::now(),
        store_failures: StoreFailureLog::default(),
    };
    while !stop.is_cancelled() {
        // Registered before the check, so that a wake-up between check and wait is not lost.
        let woken = handle.wake.notified();
        tokio::pin!(woken);
        woken.as_mut().enable();
        head.mark_unchanged();
        let idle = task.activate(&stop).await.min(POLL_EVERY);
        tokio::select! {
            // In a fixed order, so that a simulation is repeatable.
            biased;
            () = stop.cancelled() => {}
            () = woken => {}
            _ = head.changed() => {}
            () = tokio::time::sleep(idle) => {}
        }
    }
    task.persist_cursor().await;
    task.sink
}

/// The delivery to one sink.
struct DeliveryTask {
    store: Arc<dyn Store>,
    clock: Arc<dyn Clock>,
    jitter: Jitter,
    metrics: Arc<Metrics>,
    handle: Arc<SinkHandle>,
    name: SinkName,
    sink: Box<dyn Sink>,
    start: Start,
    /// The persisted cursor, as last read or written.
    cursor: Option<Cursor>,
    /// The sequence number of the newest delivered entry.
    after: u64,
    persisted_at: Instant,
    /// Limits the log of failed store operations.
    store_failures: StoreFailureLog,
}

impl DeliveryTask {
    /// Delivers everything that is due. Returns how long to wait unless woken.
    async fn activate(&mut self, stop: &CancellationToken) -> Duration {
        match self.deliver_all(stop).await {
            Ok(idle) => idle,
            Err(error) => {
                if let Some(failures) = self.store_failures.count("deliver", &error) {
                    let (sink, error) = (&self.name, error.to_string());
                    tracing::warn!(%sink, failures, error, "deliveries are delayed: the store failed");
                }
                POLL_EVERY
            }
        }
    }

    async fn deliver_all(&mut self, stop: &CancellationToken) -> Result<Duration, StoreError> {
        while !stop.is_cancelled() {
            let cursor = self.read_cursor().await?;
            let now = self.clock.now();
            let due_at = self.status(|status| status.next_attempt_at);
            if cursor.state != CursorState::Running {
                // Nothing is delivered, but its lag still grows.
                let next = self.store.feed(self.after, 1, now).await?;
                self.status(|status| status.oldest_at = next.first().map(|entry| entry.occurred_at));
                return Ok(POLL_EVERY);
            }
            if let Some(due_at) = due_at.filter(|due_at| now < *due_at) {
                return Ok(super::until(now, due_at));
            }
            let entries = self.store.feed(self.after, self.sink.batch_max(), now).await?;
            if entries.is_empty() {
                self.persist_cursor().await;
                self.status(|status| status.oldest_at = None);
                return Ok(POLL_EVERY);
            }
            if stop.is_cancelled() {
                break;
            }
            self.deliver(&entries).await?;
            if self.persisted_at.elapsed() >= PERSIST_EVERY {
                self.persist_cursor().await;
            }
        }
        Ok(POLL_EVERY)
    }

    /// Reads the cursor, which an operator may have changed, or opens it if this is the first time.
    async fn read_cursor(&mut self) -> Result<Cursor, StoreError> {
        let stored = match &self.cursor {
            Some(_) => match self.store.cursor(&self.name).await {
                // Opening a damaged cursor repairs it.
                Err(StoreError::Damaged(_)) => None,
                cursor => cursor?,
            },
            None => None,
        };
        let Some(cursor) = stored else {
            let (cursor, missed) = self.store.open_cursor(&self.name, self.start).await?;
            if missed > 0 {
                tracing::error!(
                    sink = %self.name, missed,
                    "feed entries were deleted while this sink was not configured; it will not receive them"
                );
            }
            self.after = cursor.after;
            self.status(|status| {
                (status.after, status.epoch, status.missed) = (cursor.after, cursor.epoch, missed);
            });
            self.cursor = Some(cursor.clone());
            return Ok(cursor);
        };
        let known = self.cursor.as_ref();
        if known.is_none_or(|known| known.epoch != cursor.epoch) {
            self.after = cursor.after;
        }
        if known.is_none_or(|known| (known.epoch, &known.state) != (cursor.epoch, &cursor.state)) {
            // After a seek or a resume the next attempt is made at once.
            let after = self.after;
            self.status(|status| {
                (status.after, status.epoch) = (after, cursor.epoch);
                status.forget_failures();
            });
        }
        self.cursor = Some(cursor.clone());
        Ok(cursor)
    }

    /// One delivery.
    async fn deliver(&mut self, entries: &[FeedEntry]) -> Result<(), StoreError> {
        self.status(|status| {
            status.attempts += 1;
            status.oldest_at = entries.first().map(|entry| entry.occurred_at);
        });
        let result = self.sink.deliver(entries).await;
        let delivered = match &result {
            Ok(()) => entries.len(),
            Err(error) => error.delivered,
        };
        self.metrics.delivery(&self.name, result.is_ok(), delivered);
        if let Some(last) = entries.get(..delivered).and_then(<[_]>::last) {
            self.after = last.seq;
        }
        let (after, now) = (self.after, self.clock.now());
        let failures = self.status(|status| {
            status.after = after;
            status.delivered += delivered as u64;
            if delivered > 0 {
                // After a partial delivery another entry is the next one.
                (status.failing_since, status.failures_in_a_row) = (None, 0);
            }
            status.next_attempt_at = None;
            status.last_error = None;
            status.failures_in_a_row
        });
        match result {
            Ok(()) => {
                if failures > 0 {
                    tracing::info!(sink = %self.name, "deliveries succeed again");
                }
                self.status(|status| (status.failing_since, status.failures_in_a_row) = (None, 0));
                Ok(())
            }
            Err(error) => self.failed(error, failures + 1, now).await,
        }
    }

    /// Schedules the next attempt, or disables the sink.
    async fn failed(
        &mut self,
        error: DeliveryError,
        failures: u32,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let DeliveryError { retry, reason, .. } = error;
        let backoff_ms = Backoff::DELIVERY.wait_ms(failures, self.jitter.of(&self.name, failures));
        let next_attempt_at = match retry {
            Retry::Backoff | Retry::Never => now.plus_ms(backoff_ms),
            Retry::After(wait) => now.plus_ms(i64::try_from(wait.as_millis()).unwrap_or(backoff_ms).max(1)),
        };
        if failures == 1 {
            tracing::warn!(sink = %self.name, reason, "a delivery failed; it will be retried");
        }
        self.status(|status| {
            status.failures += 1;
            status.failures_in_a_row = failures;
            status.failing_since.get_or_insert(now);
            status.next_attempt_at = Some(next_attempt_at);
            status.last_error = Some(reason.clone());
        });
        self.handle.failed([SinkFailure::new(now, &reason)]);
        self.persist_cursor().await;
        if retry == Retry::Never {
            let sink = &self.name;
            tracing::error!(%sink, reason, "sink disabled: the receiver wants no more deliveries");
            self.store.set_state(&self.name, CursorState::Disabled { since: now, reason }).await?;
        }
        Ok(())
    }

    /// Persists the cursor. After an error it is persisted the next time.
    async fn persist_cursor(&mut self) {
        self.persisted_at = Instant::now();
        let Some(cursor) = self.cursor.as_mut().filter(|cursor| cursor.after != self.after) else { return };
        match self.store.advance(&self.name, cursor.epoch, self.after).await {
            Ok(true) => cursor.after = self.after,
            // An operator, or another replica, moved the cursor meanwhile; or a failover of the database has lost the
            // entries that were delivered. The next `read_cursor` continues from where it is.
            Ok(false) => self.cursor = None,
            Err(error) => {
                if let Some(failures) = self.store_failures.count("advance", &error) {
                    let (sink, error) = (&self.name, error.to_string());
                    tracing::warn!(%sink, failures, error, "the cursor could not be stored");
                }
            }
        }
    }

    fn status<T>(&self, change: impl FnOnce(&mut SinkStatus) -> T) -> T {
        self.handle.with_status(change)
    }
}

#[cfg(test)]
mod tests;
