//! Feed → sinks: each sink has a task of its own, so a slow or dead receiver delays nobody else.
//!
//! One delivery at a time, in the order of the feed. The cursor is written down when it has nothing more to deliver, and
//! at least every 250 ms while it has: killed in between, the receiver gets the same entries again,
//! under the same ids. What fails is tried again, with growing waits, for ever; that is what keeps the order. An
//! operator who wants to go on without it moves the cursor.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::Context;
use crate::clock::Clock;
use crate::domain::backoff::{Backoff, Jitter};
use crate::domain::ids::SinkName;
use crate::domain::link::FeedEntry;
use crate::domain::time::Timestamp;
use crate::sink::{Again, Sink, Undelivered};
use crate::store::{Cursor, CursorState, Start, Store, StoreError};
use crate::telemetry::metrics::Metrics;

/// While there is more to deliver.
const WRITTEN_DOWN_EVERY: Duration = Duration::from_millis(250);
/// The longest a task sleeps without looking.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// How a sink is doing.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Progress {
    /// The number of the newest entry that arrived,
    pub after: u64,
    /// since the cursor was moved by hand so often.
    pub epoch: u64,
    /// Entries that arrived since the start, repetitions included.
    pub delivered: u64,
    /// Deliveries begun since the start.
    pub attempts: u64,
    /// Of those, how many did not come to their end.
    pub failures: u64,
    /// Failures in a row.
    pub failures_in_a_row: u32,
    /// The last one, if it has not worked since.
    pub problem: Option<(Timestamp, String)>,
    /// When it is tried again, after a failure.
    pub due_at: Option<Timestamp>,
    /// When the oldest entry that has not arrived was written.
    pub oldest_at: Option<Timestamp>,
    /// Entries that it will never get: they were deleted while nobody served it.
    pub missed: u64,
}

impl Progress {
    /// The number of the newest entry that arrived, given the cursor as it is written down: that is a little behind,
    /// unless it has just been moved by hand.
    #[must_use]
    pub fn arrived(&self, cursor: Option<&Cursor>) -> u64 {
        match cursor {
            Some(cursor) if cursor.epoch == self.epoch => self.after.max(cursor.after),
            Some(cursor) => cursor.after,
            None => self.after,
        }
    }
}

/// A sink that is served.
#[derive(Debug, Default)]
struct Served {
    progress: Mutex<Progress>,
    wake: Notify,
}

/// The sinks that are served, for those who ask how they do.
#[derive(Debug, Default)]
pub struct Sinks(BTreeMap<SinkName, Arc<Served>>);

impl Sinks {
    /// Sinks of these names.
    #[must_use]
    pub fn new(names: impl IntoIterator<Item = SinkName>) -> Self {
        Self(names.into_iter().map(|name| (name, Arc::default())).collect())
    }

    /// Their names.
    pub fn names(&self) -> impl Iterator<Item = &SinkName> {
        self.0.keys()
    }

    /// How a sink does.
    #[must_use]
    pub fn progress(&self, sink: &SinkName) -> Option<Progress> {
        let served = self.0.get(sink)?;
        Some(served.progress.lock().unwrap_or_else(PoisonError::into_inner).clone())
    }

    /// Has a sink look at its cursor again, at once, whatever it waits for.
    pub fn wake(&self, sink: &SinkName) {
        if let Some(served) = self.0.get(sink) {
            served.progress.lock().unwrap_or_else(PoisonError::into_inner).due_at = None;
            served.wake.notify_one();
        }
    }
}

/// Delivers to one sink until `stop`.
pub async fn run(
    context: Context,
    name: SinkName,
    sink: Box<dyn Sink>,
    start: Start,
    stop: CancellationToken,
) {
    let Some(served) = context.sinks.0.get(&name).cloned() else { return };
    let mut head = context.store.feed_head();
    let mut delivery = Delivery::new(&context, served.clone(), name, sink, start);
    while !stop.is_cancelled() {
        // Registered before looking, so that a signal between look and wait is not lost.
        let woken = served.wake.notified();
        tokio::pin!(woken);
        woken.as_mut().enable();
        head.mark_unchanged();
        let idle = delivery.activate(&stop).await.min(LOOK_EVERY);
        tokio::select! {
            // In this order: a run can be repeated exactly.
            biased;
            () = stop.cancelled() => {}
            () = woken => {}
            _ = head.changed() => {}
            () = tokio::time::sleep(idle) => {}
        }
    }
    delivery.write_down().await;
}

struct Delivery {
    store: Arc<dyn Store>,
    clock: Arc<dyn Clock>,
    jitter: Jitter,
    metrics: Arc<Metrics>,
    served: Arc<Served>,
    name: SinkName,
    sink: Box<dyn Sink>,
    start: Start,
    /// As it was when last read.
    cursor: Option<Cursor>,
    /// How far the receiver is.
    after: u64,
    written_down: Instant,
}

impl Delivery {
    fn new(
        context: &Context,
        served: Arc<Served>,
        name: SinkName,
        sink: Box<dyn Sink>,
        start: Start,
    ) -> Self {
        let Context { store, clock, jitter, metrics, .. } = context;
        let (store, clock, jitter, metrics) = (store.clone(), clock.clone(), *jitter, metrics.clone());
        let (cursor, after, written_down) = (None, 0, Instant::now());
        Self { store, clock, jitter, metrics, served, name, sink, start, cursor, after, written_down }
    }

    /// Delivers what there is. Returns how long there is nothing to do unless somebody signals.
    async fn activate(&mut self, stop: &CancellationToken) -> Duration {
        match self.deliver_all(stop).await {
            Ok(idle) => idle,
            Err(error) => {
                tracing::warn!(sink = %self.name, %error, "deliveries put off");
                LOOK_EVERY
            }
        }
    }

    async fn deliver_all(&mut self, stop: &CancellationToken) -> Result<Duration, StoreError> {
        while !stop.is_cancelled() {
            let cursor = self.look_at_cursor().await?;
            let now = self.clock.now();
            let due_at = self.progress(|progress| progress.due_at);
            if cursor.state != CursorState::Running {
                self.tell_lag(now).await?;
                return Ok(LOOK_EVERY);
            }
            // No wait is that long: the clock was set back.
            let set_back = |due_at: &Timestamp| due_at.millis_since(now) > Backoff::DELIVERY.max_ms;
            if let Some(due_at) = due_at.filter(|due_at| now < *due_at && !set_back(due_at)) {
                return Ok(super::until(now, due_at));
            }
            let entries = self.store.feed(self.after, self.sink.batch_max(), now).await?;
            if entries.is_empty() {
                self.write_down().await;
                self.progress(|progress| progress.oldest_at = None);
                return Ok(LOOK_EVERY);
            }
            self.deliver(&entries).await?;
            if self.written_down.elapsed() >= WRITTEN_DOWN_EVERY {
                self.write_down().await;
            }
        }
        Ok(LOOK_EVERY)
    }

    /// Reads the cursor; an operator may have moved it.
    async fn look_at_cursor(&mut self) -> Result<Cursor, StoreError> {
        let stored = match &self.cursor {
            Some(_) => match self.store.cursor(&self.name).await {
                // Opened again, it is mended.
                Err(StoreError::Damaged(_)) => None,
                cursor => cursor?,
            },
            None => None,
        };
        let Some(cursor) = stored else {
            let (cursor, missed) = self.store.open_cursor(&self.name, self.start).await?;
            if missed > 0 {
                tracing::error!(sink = %self.name, missed, "entries were deleted while nobody served this sink");
            }
            self.after = cursor.after;
            self.progress(|progress| {
                (progress.after, progress.epoch, progress.missed) = (cursor.after, cursor.epoch, missed);
            });
            self.cursor = Some(cursor.clone());
            return Ok(cursor);
        };
        let known = self.cursor.as_ref();
        if known.is_none_or(|known| known.epoch != cursor.epoch) {
            self.after = cursor.after;
        }
        if known.is_none_or(|known| (known.epoch, &known.state) != (cursor.epoch, &cursor.state)) {
            // Whoever moves or resumes it wants to see at once what comes of it.
            let after = self.after;
            self.progress(|progress| {
                (progress.after, progress.epoch) = (after, cursor.epoch);
                (progress.due_at, progress.failures_in_a_row) = (None, 0);
                progress.problem = None;
            });
        }
        self.cursor = Some(cursor.clone());
        Ok(cursor)
    }

    async fn deliver(&mut self, entries: &[FeedEntry]) -> Result<(), StoreError> {
        self.progress(|progress| {
            progress.attempts += 1;
            progress.oldest_at = entries.first().map(|entry| entry.occurred_at);
        });
        let delivered = self.sink.deliver(entries).await;
        let arrived = match &delivered {
            Ok(()) => entries.len(),
            Err(Undelivered { arrived, .. }) => *arrived,
        };
        self.metrics.delivery(&self.name, delivered.is_ok(), arrived);
        if let Some(last) = entries.get(..arrived).and_then(<[_]>::last) {
            self.after = last.seq;
        }
        let (after, now) = (self.after, self.clock.now());
        let failures = self.progress(|progress| {
            progress.after = after;
            progress.delivered += arrived as u64;
            // The first that is left is a new one.
            progress.failures_in_a_row = if arrived > 0 { 0 } else { progress.failures_in_a_row };
            progress.due_at = None;
            progress.problem = None;
            progress.failures_in_a_row
        });
        match delivered {
            Ok(()) => {
                if failures > 0 {
                    tracing::info!(sink = %self.name, "takes entries again");
                }
                self.progress(|progress| progress.failures_in_a_row = 0);
                Ok(())
            }
            Err(undelivered) => self.failed(undelivered, failures + 1, now).await,
        }
    }

    async fn failed(&mut self, failed: Undelivered, failures: u32, now: Timestamp) -> Result<(), StoreError> {
        let Undelivered { again, reason, .. } = failed;
        let backoff_ms = Backoff::DELIVERY.wait_ms(failures, self.jitter.of(&self.name, failures));
        let due_at = match again {
            Again::Later | Again::Never => now.plus_ms(backoff_ms),
            Again::After(wait) => now.plus_ms(i64::try_from(wait.as_millis()).unwrap_or(backoff_ms).max(1)),
        };
        if failures == 1 {
            tracing::warn!(sink = %self.name, reason, "a delivery failed");
        }
        self.progress(|progress| {
            progress.failures += 1;
            progress.failures_in_a_row = failures;
            progress.due_at = Some(due_at);
            progress.problem = Some((now, reason.clone()));
        });
        self.write_down().await;
        if again == Again::Never {
            tracing::error!(sink = %self.name, reason, "disabled: its receiver wants nothing any more");
            self.store.set_state(&self.name, CursorState::Disabled { since: now, reason }).await?;
        }
        Ok(())
    }

    /// Makes the cursor durable. What cannot be written down is written down the next time.
    async fn write_down(&mut self) {
        self.written_down = Instant::now();
        let Some(cursor) = self.cursor.as_mut().filter(|cursor| cursor.after != self.after) else { return };
        match self.store.advance(&self.name, cursor.epoch, self.after).await {
            Ok(true) => cursor.after = self.after,
            // Moved by hand; the next look finds out where to.
            Ok(false) => {}
            Err(error) => tracing::warn!(sink = %self.name, %error, "the cursor was not written down"),
        }
    }

    /// How old the oldest entry is that waits, though nothing is delivered.
    async fn tell_lag(&mut self, now: Timestamp) -> Result<(), StoreError> {
        let next = self.store.feed(self.after, 1, now).await?;
        self.progress(|progress| progress.oldest_at = next.first().map(|entry| entry.occurred_at));
        Ok(())
    }

    fn progress<T>(&self, change: impl FnOnce(&mut Progress) -> T) -> T {
        change(&mut self.served.progress.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[cfg(test)]
mod tests;
