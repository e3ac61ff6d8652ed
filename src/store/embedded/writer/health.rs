//! Whether the writer would accept a transaction, and what it has committed, for everybody else.

#[cfg(test)]
use std::sync::atomic::AtomicBool;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use tokio::sync::watch;

use crate::store::embedded::failure::Failure;
use crate::store::row_store::STALLED_AFTER;
use crate::store::{Counts, StoreError};

const LOOKS_EVERY: Duration = Duration::from_secs(1);

/// What is asked of the disk.
pub(crate) trait Disk: Send + Sync + 'static {
    /// Bytes free where the store writes; `None` if that is not a disk.
    fn free_bytes(&self) -> Option<u64> {
        None
    }

    /// Why nothing more should be accepted, if there is a reason.
    fn refuses(&self) -> Option<StoreError> {
        None
    }
}

/// The health of a store.
pub(crate) struct Health {
    counts: Mutex<Counts>,
    feed_head: watch::Sender<u64>,
    failure: Failure,
    disk: Box<dyn Disk>,
    free_mb: AtomicU64,
    refusal: Mutex<Option<StoreError>>,
    /// Milliseconds since `started` at which there was progress last, plus one; 0 when idle.
    busy_since: AtomicU64,
    started: Instant,
    min_free_mb: u64,
    /// As if the disk were full.
    #[cfg(test)]
    pub(crate) is_full: AtomicBool,
}

impl Health {
    pub(super) fn new(counts: Counts, failure: Failure, disk: Box<dyn Disk>, min_free_mb: u64) -> Self {
        let health = Self {
            counts: Mutex::new(counts),
            feed_head: watch::Sender::new(counts.feed_head),
            failure,
            disk,
            free_mb: AtomicU64::new(u64::MAX),
            refusal: Mutex::default(),
            busy_since: AtomicU64::new(0),
            started: Instant::now(),
            min_free_mb,
            #[cfg(test)]
            is_full: AtomicBool::new(false),
        };
        health.look_at_disk();
        health
    }

    pub(crate) fn counts(&self) -> Counts {
        *self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn feed_head(&self) -> watch::Receiver<u64> {
        self.feed_head.subscribe()
    }

    pub(crate) fn failure(&self) -> &Failure {
        &self.failure
    }

    /// Whether a transaction would be accepted now.
    pub(crate) fn ready(&self) -> Result<(), StoreError> {
        if let Some(reason) = self.failure.reason() {
            return Err(StoreError::Failed(reason));
        }
        #[cfg(test)]
        if self.is_full.load(Relaxed) {
            return Err(StoreError::NoSpace { min_mb: 1 });
        }
        if self.free_mb.load(Relaxed) < self.min_free_mb {
            return Err(StoreError::NoSpace { min_mb: self.min_free_mb });
        }
        if let Some(refusal) = self.refusal.lock().unwrap_or_else(PoisonError::into_inner).clone() {
            return Err(refusal);
        }
        if self.busy_for().is_some_and(|busy| busy > STALLED_AFTER) {
            return Err(StoreError::Stalled);
        }
        Ok(())
    }

    fn busy_for(&self) -> Option<Duration> {
        let since = self.busy_since.load(Relaxed).checked_sub(1)?;
        Some(self.started.elapsed().saturating_sub(Duration::from_millis(since)))
    }

    /// What was committed last.
    pub(super) fn committed(&self, counts: Counts) {
        *self.counts.lock().unwrap_or_else(PoisonError::into_inner) = counts;
        self.feed_head.send_if_modified(|head| std::mem::replace(head, counts.feed_head) != counts.feed_head);
    }

    pub(super) fn set_busy(&self, busy: bool) {
        let now = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX - 1) + 1;
        self.busy_since.store(if busy { now } else { 0 }, Relaxed);
    }

    pub(super) fn progressed(&self) {
        // With a manual writer nobody is ever busy: it takes the time that the simulation says it takes.
        if self.busy_since.load(Relaxed) > 0 {
            self.set_busy(true);
        }
    }

    pub(super) fn look_at_disk(&self) {
        let free_mb = self.disk.free_bytes().map_or(u64::MAX, |bytes| bytes >> 20);
        self.free_mb.store(free_mb, Relaxed);
        *self.refusal.lock().unwrap_or_else(PoisonError::into_inner) = self.disk.refuses();
    }

    /// The disk was full although there seemed to be space.
    pub(super) fn disk_is_full(&self) -> StoreError {
        self.free_mb.store(0, Relaxed);
        StoreError::NoSpace { min_mb: self.min_free_mb.max(1) }
    }

    /// Bytes free where the store is, in whole MiB, as of the last look.
    pub(crate) fn free_bytes(&self) -> Option<u64> {
        let free_mb = self.free_mb.load(Relaxed);
        (free_mb < u64::MAX).then_some(free_mb << 20)
    }
}

/// Looks at the disk once a second: while there is too little space nobody writes, so nobody else would notice that
/// it has come back.
pub(super) fn watch_disk(health: &Weak<Health>) {
    while let Some(health) = health.upgrade() {
        health.look_at_disk();
        drop(health);
        std::thread::park_timeout(LOOKS_EVERY);
    }
}
