//! The status of each sink since the start of the process, and a wake-up for its delivery task.
//!
//! Written by `deliver`, read by the admin API. Nothing here is persisted; the durable part of a sink's
//! state, its cursor, is in the store.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

use crate::domain::history::{SinkFailure, remember};
use crate::domain::ids::SinkName;
use crate::domain::time::Timestamp;
use crate::store::Cursor;

/// The status of a sink.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct SinkStatus {
    /// The sequence number of the last delivered entry, or the one that a seek moved to.
    pub after: u64,
    /// The epoch of the cursor that `after` belongs to; each manual seek starts another.
    pub epoch: u64,
    /// Entries delivered since the start, repetitions included.
    pub delivered: u64,
    /// Deliveries attempted since the start.
    pub attempts: u64,
    /// Attempts that failed.
    pub failures: u64,
    /// Consecutive failures of the entry that is to be delivered next.
    pub failures_in_a_row: u32,
    /// When the present run of failures began; `None` after a success, a seek or a resume.
    pub failing_since: Option<Timestamp>,
    /// Why the last attempt failed; `None` after a success, a seek or a resume.
    pub last_error: Option<String>,
    /// When the next attempt is due, after a failure.
    pub next_attempt_at: Option<Timestamp>,
    /// When the oldest entry not delivered yet was written.
    pub oldest_at: Option<Timestamp>,
    /// Entries that this sink will never get: they were deleted while it was not in the configuration.
    pub missed: u64,
}

impl SinkStatus {
    /// The sequence number after which the next delivery begins. In the same epoch the persisted `cursor`
    /// lags behind `after`; a cursor of another epoch was moved by a seek that the delivery task has not
    /// noticed yet, and counts alone.
    #[must_use]
    pub fn position(&self, cursor: Option<&Cursor>) -> u64 {
        match cursor {
            Some(cursor) if cursor.epoch == self.epoch => self.after.max(cursor.after),
            Some(cursor) => cursor.after,
            None => self.after,
        }
    }

    /// Ends the present run of failures: the next attempt is made at once.
    pub(super) fn forget_failures(&mut self) {
        (self.next_attempt_at, self.failures_in_a_row) = (None, 0);
        (self.failing_since, self.last_error) = (None, None);
    }
}

/// What a sink's delivery task shares with the rest of the process.
#[derive(Debug, Default)]
pub(super) struct SinkHandle {
    status: Mutex<SinkStatus>,
    /// Failures that are not recorded yet, the last few.
    failures: Mutex<Vec<SinkFailure>>,
    pub(super) wake: Notify,
}

impl SinkHandle {
    /// Reads or changes the status.
    pub(super) fn with_status<T>(&self, access: impl FnOnce(&mut SinkStatus) -> T) -> T {
        access(&mut self.status.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Notes failures until they are recorded.
    pub(super) fn failed(&self, failures: impl IntoIterator<Item = SinkFailure>) {
        remember(&mut self.failures(), failures);
    }

    fn failures(&self) -> MutexGuard<'_, Vec<SinkFailure>> {
        self.failures.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The sinks of the configuration, which may be reloaded: kind, status and wake-up by name.
#[derive(Debug, Default)]
pub struct SinkRegistry(RwLock<BTreeMap<SinkName, Registered>>);

/// A sink of the configuration.
#[derive(Debug)]
struct Registered {
    kind: &'static str,
    handle: Arc<SinkHandle>,
}

impl SinkRegistry {
    /// A registry of these sinks, each with its kind.
    #[must_use]
    pub fn new(sinks: impl IntoIterator<Item = (SinkName, &'static str)>) -> Self {
        let registry = Self::default();
        for (name, kind) in sinks {
            registry.insert(name, kind);
        }
        registry
    }

    fn read(&self) -> RwLockReadGuard<'_, BTreeMap<SinkName, Registered>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, BTreeMap<SinkName, Registered>> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a sink, or changes the kind of the one with this name, whose status stays.
    pub fn insert(&self, sink: SinkName, kind: &'static str) {
        let mut sinks = self.write();
        let handle = sinks.remove(&sink).map(|before| before.handle).unwrap_or_default();
        sinks.insert(sink, Registered { kind, handle });
    }

    /// Removes a sink.
    pub fn remove(&self, sink: &SinkName) {
        self.write().remove(sink);
    }

    /// Whether there is a sink with this name.
    #[must_use]
    pub fn contains(&self, sink: &SinkName) -> bool {
        self.read().contains_key(sink)
    }

    /// The sinks, each with its kind, sorted by name.
    #[must_use]
    pub fn all(&self) -> Vec<(SinkName, &'static str)> {
        self.read().iter().map(|(name, sink)| (name.clone(), sink.kind)).collect()
    }

    /// The names of the sinks, sorted.
    #[must_use]
    pub fn names(&self) -> Vec<SinkName> {
        self.read().keys().cloned().collect()
    }

    /// The status of a sink; `None` if the configuration has no such sink.
    #[must_use]
    pub fn status(&self, sink: &SinkName) -> Option<SinkStatus> {
        Some(self.handle(sink)?.with_status(|status| status.clone()))
    }

    /// The failures of a sink that are not recorded yet.
    #[must_use]
    pub fn unrecorded_failures(&self, sink: &SinkName) -> Vec<SinkFailure> {
        self.handle(sink).map(|handle| handle.failures().clone()).unwrap_or_default()
    }

    /// Takes the failures of all sinks, to record them.
    pub(super) fn take_failures(&self) -> Vec<(SinkName, Vec<SinkFailure>)> {
        let sinks = self.read();
        let taken =
            sinks.iter().map(|(name, sink)| (name.clone(), std::mem::take(&mut *sink.handle.failures())));
        taken.filter(|(_, failures)| !failures.is_empty()).collect()
    }

    /// Takes back what could not be recorded.
    pub(super) fn give_back(&self, failures: Vec<(SinkName, Vec<SinkFailure>)>) {
        for (sink, failures) in failures {
            if let Some(handle) = self.handle(&sink) {
                handle.failed(failures);
            }
        }
    }

    /// Wakes a sink's delivery task, which reads its cursor again and does not wait for its backoff.
    pub fn wake(&self, sink: &SinkName) {
        if let Some(handle) = self.handle(sink) {
            handle.with_status(|status| status.next_attempt_at = None);
            handle.wake.notify_one();
        }
    }

    /// Moves the instants of all sinks by `by_ms`, back if negative, because the clock is moved by as much.
    pub(super) fn shift(&self, by_ms: i64) {
        for Registered { handle, .. } in self.read().values() {
            handle.with_status(|SinkStatus { failing_since, next_attempt_at, .. }| {
                for at in failing_since.iter_mut().chain(next_attempt_at) {
                    *at = at.plus_ms(by_ms);
                }
            });
        }
    }

    pub(super) fn handle(&self, sink: &SinkName) -> Option<Arc<SinkHandle>> {
        self.read().get(sink).map(|registered| registered.handle.clone())
    }
}
