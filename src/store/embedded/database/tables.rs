//! The memtables, and the index under them.

use std::convert::Infallible;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::filling::damaged_row;
use super::mark::Mark;
use super::memtable::Memtable;
use crate::store::embedded::engine::{Engine, EngineError, Memory};
use crate::store::embedded::failure::Failure;
use crate::store::rows::source::Batch;

/// A memtable that has become larger is drained at once. Small in tests, to have many drains.
pub(super) const DRAIN_BYTES: usize = if cfg!(test) { 16 << 10 } else { 128 << 20 };
/// Commits wait while the memtable is larger, with another one being drained.
pub(super) const MEMTABLE_BYTES_MAX: usize = DRAIN_BYTES / 2 * 3;

/// Called when a read has found the index damaged, with the reason.
pub(crate) type OnDamage = Box<dyn Fn(&str) + Send + Sync>;

/// The memtable, and the index under it.
pub(crate) struct Database {
    pub(super) engine: Arc<dyn Engine>,
    state: Mutex<State>,
    /// A memtable has been drained, or there is enough to drain.
    pub(super) changed: Condvar,
    pub(super) failure: Failure,
    on_damage: OnDamage,
}

pub(super) struct State {
    /// The last record that was published.
    pub(super) seq: u64,
    pub(super) active: Arc<Memtable>,
    /// The memtable that is being drained.
    pub(super) frozen: Option<Arc<Memtable>>,
    pub(super) epoch: Arc<Epoch>,
    /// Ends when the epoch has ended and its last snapshot is dropped.
    pub(super) epoch_ended: Receiver<Infallible>,
    /// Whether the store is being closed.
    pub(super) closing: bool,
}

/// The time between two drains. Held by its snapshots; its end tells the drain that there are none left.
pub(super) struct Epoch(
    #[expect(dead_code, reason = "dropped with the epoch, which ends the channel")] Sender<Infallible>,
);

impl Epoch {
    pub(super) fn begin() -> (Arc<Self>, Receiver<Infallible>) {
        let (held, ended) = channel();
        (Arc::new(Self(held)), ended)
    }
}

impl Database {
    /// A database whose index has every record up to `seq`.
    pub(crate) fn new(engine: Arc<dyn Engine>, seq: u64, failure: Failure, on_damage: OnDamage) -> Self {
        let (epoch, epoch_ended) = Epoch::begin();
        let state = State { seq, active: Arc::default(), frozen: None, epoch, epoch_ended, closing: false };
        Self { engine, state: Mutex::new(state), changed: Condvar::new(), failure, on_damage }
    }

    /// A database over a memory, with the records of its log.
    pub(crate) fn of_memory(memory: &Memory) -> Result<Self, EngineError> {
        let applied = Mark::read(memory)?.map_or(0, |mark| mark.seq);
        let database = Self::new(Arc::new(memory.clone()), applied, Failure::default(), Box::new(|_| {}));
        for (seq, batch) in memory.logged_after(applied) {
            database.publish(seq, batch);
        }
        Ok(database)
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn failure(&self) -> &Failure {
        &self.failure
    }

    /// Makes a group visible that is durable in the log.
    pub(crate) fn publish(&self, seq: u64, batch: Batch) {
        let mut state = self.state();
        let has_readers = Arc::strong_count(&state.epoch) > 1;
        let bytes_before = state.active.bytes();
        state.active.insert(seq, batch, has_readers);
        state.seq = seq;
        if bytes_before == 0 || state.active.bytes() > DRAIN_BYTES {
            self.changed.notify_all();
        }
    }

    /// Waits until the memtable has room for another group; calls `waiting` meanwhile. The error is the store's
    /// failure.
    pub(crate) fn wait_for_room(&self, waiting: &dyn Fn()) -> Result<(), EngineError> {
        let mut state = self.state();
        while state.frozen.is_some() && state.active.bytes() > MEMTABLE_BYTES_MAX {
            if let Some(reason) = self.failure.reason() {
                return Err(EngineError(reason));
            }
            waiting();
            let waited = self.changed.wait_timeout(state, Duration::from_millis(50));
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        Ok(())
    }

    /// Whether there are snapshots taken since the last drain began.
    pub(crate) fn has_readers(&self) -> bool {
        Arc::strong_count(&self.state().epoch) > 1
    }

    /// The number of keys in the memtable.
    pub(crate) fn keys_in_memory(&self) -> usize {
        self.state().active.len()
    }

    /// The last record that was published.
    pub(crate) fn seq(&self) -> u64 {
        self.state().seq
    }

    /// An error of a read of the index: final, and a reason to build it anew.
    pub(super) fn unreadable(&self, error: EngineError) -> EngineError {
        (self.on_damage)(&error.0);
        self.failure.fail(&format!("the index cannot be read: {error}"));
        error
    }

    /// Remembers that a record is damaged in log and checkpoint too, so that the index is not built anew for it again.
    pub(crate) fn remember_damaged(&self, key: &[u8]) {
        let known = damaged_row(key);
        if let Err(error) = self.engine.apply(&[known]) {
            self.failure.fail(&format!("the index cannot be written: {error}"));
        }
    }

    /// Has the index built anew: it has lost `what`, which the log has.
    pub(crate) fn damaged(&self, what: &str) -> EngineError {
        self.unreadable(EngineError(what.to_owned()))
    }
}
