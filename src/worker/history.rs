//! What this process has counted and noted since it last recorded it in the [`History`](crate::store::History) of the store:
//! every ten seconds, at the end of each hour, and when it stops.
//!
//! The door pays nothing for it: the counts are those of the [metrics](Metrics), and what is recorded is by how much they
//! have grown. They are statistics: those of the last seconds before a crash are lost. What the store itself makes (links,
//! pending ids, dead letters) it counts in its transactions, and loses none.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::Context;
use super::sink_status::SinkRegistry;
use crate::domain::history::{LastRefusal, Tallies, UrlMarks, hour_of};
use crate::domain::ids::AppName;
use crate::domain::time::{HOUR_MS, Timestamp};
use crate::store::{Made, Noted, Store, StoreError};
use crate::telemetry::metrics::Metrics;

/// How often it is recorded.
const RECORD_EVERY_MS: i64 = 10_000;

/// What is not recorded yet.
#[derive(Default)]
pub struct Notes {
    metrics: Arc<Metrics>,
    sinks: Arc<SinkRegistry>,
    urls: Mutex<BTreeMap<AppName, UrlMarks>>,
    /// The counts as of the last record.
    recorded: Mutex<Recorded>,
    recording: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct Recorded {
    counts: Tallies,
    observed: Tallies,
    made: Made,
    /// What was free on the disk of the store.
    free_kib: Option<u64>,
}

impl Notes {
    /// Notes of what these count.
    #[must_use]
    pub fn new(metrics: Arc<Metrics>, sinks: Arc<SinkRegistry>) -> Self {
        Self { metrics, sinks, ..Self::default() }
    }

    /// Notes that a check of a callback URL by WeCom was answered.
    pub fn verified(&self, name: &AppName, at: Timestamp) {
        self.note(name, UrlMarks { verified_at: Some(at), ..UrlMarks::default() });
    }

    /// Notes that a callback was acknowledged.
    pub fn acknowledged(&self, name: &AppName, at: Timestamp) {
        // The one of every callback.
        if let Some(marks) = self.urls().get_mut(name)
            && marks.refused.is_none()
        {
            marks.callback_at = marks.callback_at.max(Some(at));
            return;
        }
        self.note(name, UrlMarks { callback_at: Some(at), ..UrlMarks::default() });
    }

    /// Notes that a request to a callback URL was refused.
    pub fn refused(&self, name: &AppName, reason: &str, at: Timestamp) {
        let refused = Some(LastRefusal::one(at, reason));
        self.note(name, UrlMarks { refused, ..UrlMarks::default() });
    }

    fn note(&self, name: &AppName, marks: UrlMarks) {
        let mut urls = self.urls();
        match urls.get_mut(name) {
            Some(known) => known.merge(marks),
            None => drop(urls.insert(name.clone(), marks)),
        }
    }

    fn urls(&self) -> MutexGuard<'_, BTreeMap<AppName, UrlMarks>> {
        self.urls.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn recorded(&self) -> MutexGuard<'_, Recorded> {
        self.recorded.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All that this process counts.
    fn counted(&self, store: &dyn Store) -> Tallies {
        let mut counts = self.metrics.counted(&self.sinks.names());
        if let Some(log) = store.log_status() {
            log.syncs.named().for_each(|(name, count)| counts.add("syncs", name, count));
        }
        counts
    }

    /// What was counted and is not recorded yet.
    #[must_use]
    pub fn unrecorded(&self, store: &dyn Store) -> Tallies {
        self.counted(store).since(&self.recorded().counts)
    }

    /// How WeCom was seen to behave, what is not recorded yet.
    #[must_use]
    pub fn unrecorded_observed(&self) -> Tallies {
        self.metrics.observed.counted().since(&self.recorded().observed)
    }

    /// What was noted of callback URLs and is not recorded yet.
    #[must_use]
    pub fn unrecorded_urls(&self) -> BTreeMap<AppName, UrlMarks> {
        self.urls().clone()
    }

    /// Records everything. Of two calls one waits for the other.
    ///
    /// # Errors
    /// When it was not stored. It is recorded the next time. What is dropped before it is decided counts as recorded.
    pub async fn record(&self, store: &dyn Store, now: Timestamp) -> Result<(), StoreError> {
        let _one_at_a_time = self.recording.lock().await;
        let (counts, observed) = (self.counted(store), self.metrics.observed.counted());
        let after = Recorded {
            counts,
            observed,
            made: store.counts().made,
            free_kib: store.free_disk_bytes().map(|bytes| bytes >> 10),
        };
        let urls: Vec<_> = std::mem::take(&mut *self.urls()).into_iter().collect();
        let noted = {
            let before = self.recorded();
            let counts = after.counts.since(&before.counts);
            let observed = after.observed.since(&before.observed);
            Noted { counts, observed, urls, failures: self.sinks.take_failures() }
        };
        // Each record is a commit itself, and so are readings of the clock: they alone are not worth one.
        let is_idle = noted.counts.iter().all(|(group, ..)| group == "syncs")
            && noted.observed.is_empty()
            && noted.urls.is_empty()
            && noted.failures.is_empty();
        if is_idle && after.made == self.recorded().made {
            return Ok(());
        }
        let (urls, failures) = (noted.urls.clone(), noted.failures.clone());
        let before = std::mem::replace(&mut *self.recorded(), after);
        let mut noted = noted;
        if let Some((was_free, is_free)) = before.free_kib.zip(self.recorded().free_kib) {
            noted.counts.add("disk", "taken_kib", was_free.saturating_sub(is_free));
            noted.counts.add("disk", "freed_kib", is_free.saturating_sub(was_free));
        }
        let result = store.record_noted(noted, now).await;
        if result.is_err() {
            *self.recorded() = before;
            for (name, marks) in urls {
                self.note(&name, marks);
            }
            self.sinks.give_back(failures);
        }
        result
    }
}

/// Records what `context` notes until `stop`.
pub async fn run(context: Context, stop: CancellationToken) {
    loop {
        let now = context.now();
        // So that what is counted in an hour is recorded in it.
        let rest_ms = hour_of(now).plus_ms(HOUR_MS - 1).millis_since(now);
        let wait_ms = u64::try_from(rest_ms.clamp(1, RECORD_EVERY_MS)).unwrap_or(1);
        if stop.run_until_cancelled(tokio::time::sleep(Duration::from_millis(wait_ms))).await.is_none() {
            return;
        }
        let record = context.notes.record(&*context.store, context.now());
        if let Some(Err(error)) = stop.run_until_cancelled(record).await {
            context.store_failures.warn("what was counted could not be recorded", &error);
        }
    }
}
