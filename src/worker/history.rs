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
        self.note(name, UrlMarks { callback_at: Some(at), ..UrlMarks::default() });
    }

    /// Notes that a request to a callback URL was refused.
    pub fn refused(&self, name: &AppName, reason: &str, at: Timestamp) {
        let refused = Some(LastRefusal { at, reason: reason.to_owned() });
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

    /// By how much less, or more, of the disk is free than the last time: of the store, and of whatever else is on it.
    fn disk_taken(&self, store: &dyn Store) -> Tallies {
        let mut taken = Tallies::default();
        let now = store.free_disk_bytes().map(|bytes| bytes >> 10);
        if let Some((before, now)) = std::mem::replace(&mut self.recorded().free_kib, now).zip(now) {
            taken.add("disk", "taken_kib", before.saturating_sub(now));
            taken.add("disk", "freed_kib", now.saturating_sub(before));
        }
        taken
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

    /// Records everything.
    ///
    /// # Errors
    /// When it could not be stored. It is recorded the next time.
    pub async fn record(&self, store: &dyn Store, now: Timestamp) -> Result<(), StoreError> {
        let (counted, made) = (self.counted(store), store.counts().made);
        let counts = counted.since(&self.recorded().counts);
        let seen = self.metrics.observed.counted();
        let observed = seen.since(&self.recorded().observed);
        let urls = std::mem::take(&mut *self.urls());
        let mut noted = Noted {
            counts,
            observed,
            urls: urls.into_iter().collect(),
            failures: self.sinks.take_failures(),
        };
        if noted.is_empty() && made == self.recorded().made {
            return Ok(());
        }
        let (urls, failures) = (noted.urls.clone(), noted.failures.clone());
        noted.counts.add_all(&self.disk_taken(store));
        let result = store.record_noted(noted, now).await;
        if result.is_ok() {
            let mut recorded = self.recorded();
            (recorded.counts, recorded.observed, recorded.made) = (counted, seen, made);
        } else {
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
        if let Err(error) = context.notes.record(&*context.store, context.now()).await {
            context.store_failures.warn("what was counted could not be recorded", &error);
        }
    }
}
