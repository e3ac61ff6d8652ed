//! The store of a single machine: business transactions ([`business`]) over
//! a small engine interface (`engine`). One thread writes (`writer`), to sled (`sled_engine`) and to a redo
//! journal (`journal`).
//!
//! Millions of fans are stored in the order of their registration (`roll`) and wait in `queues`; an `index`
//! in memory finds them by their ids. The index is built after the start, while callbacks are accepted
//! already; an operation on fans waits for it.
//!
//! One process owns the folder, so leases are in memory: a crash ends them, and taking one costs no write.
//! Any thread reads directly from the engine; a row that can be read before it is durable does no harm except
//! on the feed, which shows durable entries only.

mod audit;
mod business;
mod compaction;
pub mod engine;
mod fresh;
mod indexing;
mod journal;
mod leasing;
#[cfg(test)]
mod limited;
mod listing;
mod private;
#[cfg(any(test, fuzzing))]
pub(crate) mod properties;
mod records;
mod rows;
mod small_commits;
mod snapshot;
mod transactions;
mod upgrade;
mod writer;

use std::collections::{HashSet, VecDeque};
use std::path::Path;
use std::sync::{Arc, Mutex};

use super::{Counts, StoreError};
use crate::domain::ids::ContactKey;

pub use compaction::{Compacted, compact};
pub use engine::sled::OpenError;
use engine::sled::SledEngine;
use engine::{Engine, Memory};
use indexing::Indexing;
use journal::Journaled;
use journal::care::journal_in;
pub use journal::care::{BackedUp, Differences, Rebuild, Rebuilt, Verified, backup, rebuild, verify};
use records::{Record, decode};
use rows::frontier::Frontiers;
use rows::ids::FanNumber;
use rows::index::{Clue, Index};
use rows::keys;
use rows::txn::{Meta, Txn, failed};
use rows::view::{Damaged, Read, View};
use snapshot::Snapshots;
pub use writer::ManualWriter;
use writer::groups::Readers;
use writer::{Patience, Writer};

/// Disk space, on top of `free_mb_min`, that merging files of the journal leaves free.
const MERGING_SPARES_BYTES: u64 = 64 << 20;
/// Transactions submitted ahead of their results: a few groups of them.
const AHEAD: usize = 32;
/// The same for results of background lookups: less than one group, so that a transaction of live work that
/// comes in between waits for no other.
const AHEAD_IN_BACKGROUND: usize = 4;

/// The settings of an embedded store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// The size of sled's page cache. The process needs about twice as much memory.
    pub cache_mb: u64,
    /// The minimum of free disk space; below it every write fails with [`StoreError::NoSpace`].
    pub free_mb_min: u64,
    /// The maximum number of events in the inbox, and of messages in quarantine.
    pub inbox_events_max: u64,
    /// How many days messages are remembered for deduplication.
    pub dedupe_days: u32,
    /// How many days a quarantined message is kept.
    pub quarantine_days: u32,
    /// Whether a write-ahead log is kept beside the database.
    pub journal: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            cache_mb: 256,
            free_mb_min: 256,
            inbox_events_max: 1_000_000,
            dedupe_days: 7,
            quarantine_days: 30,
            journal: true,
        }
    }
}

/// The store of a single machine, with sled as the engine.
pub struct EmbeddedStore {
    engine: Arc<dyn Engine>,
    writer: Writer,
    settings: Settings,
    index: Arc<Index>,
    indexing: Indexing,
    snapshots: Arc<Snapshots>,
    leased: Mutex<HashSet<Vec<u8>>>,
    /// Lookups that are held back: see `leasing`.
    held_back: Mutex<Vec<leasing::LookupsAt>>,
    frontiers: Arc<Frontiers>,
    /// Keys of records that failed their checksum.
    damaged: Damaged,
    /// A random secret of this store, for hashes that nobody else can make.
    salt: [u8; 16],
}

impl EmbeddedStore {
    /// Opens or creates the store in `folder`.
    ///
    /// # Errors
    /// [`OpenError`] says what is wrong with the folder or its content.
    pub fn open(folder: &Path, settings: Settings) -> Result<Self, OpenError> {
        let engine = SledEngine::open(folder, settings.cache_mb << 20)?;
        let journal = journal_in(folder);
        let unusable = |error| OpenError::journal(&journal, &error);
        if settings.journal {
            let spare_bytes = (settings.free_mb_min << 20).saturating_add(MERGING_SPARES_BYTES);
            let engine = Journaled::open(engine, &journal, spare_bytes).map_err(unusable)?;
            return Self::over(Arc::new(engine), settings);
        }
        journal::turn_off(&engine, &journal).map_err(unusable)?;
        Self::over(Arc::new(engine), settings)
    }

    /// A store in memory, for tests and simulations; `memory` keeps what a disk would keep.
    ///
    /// # Errors
    /// [`OpenError::Content`] when the memory holds something else.
    pub fn in_memory(memory: Memory, settings: Settings) -> Result<Self, OpenError> {
        Self::over(Arc::new(memory), settings)
    }

    /// A store in memory without threads, for deterministic simulations: transactions are committed only when
    /// [`ManualWriter::commit`] is called. `store_id` is used if the memory is empty.
    ///
    /// # Errors
    /// As [`in_memory`](Self::in_memory).
    pub fn with_manual_writer(
        memory: Memory,
        settings: Settings,
        store_id: [u8; 16],
    ) -> Result<(Self, ManualWriter), OpenError> {
        let engine: Arc<dyn Engine> = Arc::new(memory);
        let meta = meta_of(&*engine, store_id)?;
        upgrade::upgrade(&*engine, &meta).map_err(OpenError::Content)?;
        let (readers, damaged) = (Readers::default(), Damaged::default());
        let (writer, manual) = Writer::manual(&engine, readers.clone(), meta);
        let indexing = Indexing::here(&*engine, &readers.index, meta.sheets, &damaged);
        let indexing = indexing.map_err(OpenError::Content)?;
        Ok((Self::of(engine, writer, settings, readers, indexing, damaged, meta.store_id), manual))
    }

    pub(in crate::store) fn over(engine: Arc<dyn Engine>, settings: Settings) -> Result<Self, OpenError> {
        let meta = meta_of(&*engine, rand::random())?;
        upgrade::upgrade(&*engine, &meta).map_err(OpenError::Content)?;
        let not_started = |source| OpenError::Folder {
            attempted: "start the threads of",
            path: "the store".into(),
            source,
        };
        let (readers, damaged) = (Readers::default(), Damaged::default());
        let writer =
            Writer::start(&engine, readers.clone(), meta, settings.free_mb_min).map_err(not_started)?;
        let indexing = Indexing::start(&engine, &readers.index, meta.sheets, &damaged, writer.shared.clone());
        let indexing = indexing.map_err(not_started)?;
        Ok(Self::of(engine, writer, settings, readers, indexing, damaged, meta.store_id))
    }

    fn of(
        engine: Arc<dyn Engine>,
        writer: Writer,
        settings: Settings,
        readers: Readers,
        indexing: Indexing,
        damaged: Damaged,
        salt: [u8; 16],
    ) -> Self {
        let Readers { index, snapshots, frontiers } = readers;
        let (leased, held_back) = (Mutex::default(), Mutex::default());
        Self {
            engine,
            writer,
            settings,
            index,
            indexing,
            snapshots,
            leased,
            held_back,
            frontiers,
            damaged,
            salt,
        }
    }

    /// Waits until the index of fans is complete.
    async fn indexed(&self) -> Result<(), StoreError> {
        self.indexing.finished().await
    }

    /// A view of the store as it is now.
    fn view(&self) -> View<'_> {
        View::new(&*self.engine, &self.index, &self.damaged)
    }

    fn read<R: Record>(&self, key: &[u8]) -> Result<Option<R>, StoreError> {
        self.view().read(key)
    }

    fn rows<T>(
        &self,
        from: &[u8],
        to: &[u8],
        limit: usize,
        row: impl FnMut(&[u8], &[u8]) -> Result<Option<T>, StoreError>,
    ) -> Result<Vec<T>, StoreError> {
        self.view().rows(from, to, limit, row)
    }

    fn damaged_keys(&self) -> std::sync::MutexGuard<'_, HashSet<Vec<u8>>> {
        self.damaged.keys()
    }

    fn undamaged<T>(&self, key: &[u8], read: Result<T, StoreError>) -> Result<Option<T>, StoreError> {
        self.damaged.skip(key, read)
    }

    /// Runs `settle` for each outcome in a transaction of its own, and ends the leases. Work on a damaged
    /// record stays leased and is counted, so that its call is not made again and again. However slow the
    /// disk is, work stays leased until its transaction is decided: leased again before that, it would be
    /// done twice.
    async fn settle_all<O: Send + 'static, T: Send + 'static>(
        &self,
        outcomes: Vec<(Vec<u8>, O)>,
        settle: fn(&mut Txn<'_>, O) -> Result<T, StoreError>,
        ahead: usize,
    ) -> Result<Vec<T>, StoreError> {
        let (lease_keys, outcomes): (Vec<_>, Vec<_>) = outcomes.into_iter().unzip();
        let transactions = outcomes.into_iter().map(|outcome| move |txn: &mut Txn<'_>| settle(txn, outcome));
        let settled = self.run_ahead(transactions, Patience::UntilDecided, ahead).await;
        let (mut results, mut first_error) = (Vec::new(), Ok(()));
        for (key, settled) in lease_keys.iter().zip(settled) {
            match self.undamaged(key, settled) {
                Ok(None) => {}
                Ok(Some(result)) => {
                    self.release(key);
                    results.push(result);
                }
                Err(error) => {
                    self.release(key);
                    first_error = first_error.and(Err(error));
                }
            }
        }
        first_error.map(|()| results)
    }

    /// Runs transactions, all of them even after an error. Several are submitted ahead of their results, so
    /// that the writer can group them; not all of them, so that other transactions get in between. The
    /// results are in the same order.
    async fn run_all<T, F>(
        &self,
        transactions: impl Iterator<Item = F> + Send,
        patience: Patience,
    ) -> Vec<Result<T, StoreError>>
    where
        F: FnOnce(&mut Txn<'_>) -> Result<T, StoreError> + Send + 'static,
        T: Send + 'static,
    {
        self.run_ahead(transactions, patience, AHEAD).await
    }

    /// The same with at most `ahead` transactions submitted ahead of their results.
    async fn run_ahead<T, F>(
        &self,
        transactions: impl Iterator<Item = F> + Send,
        patience: Patience,
        ahead: usize,
    ) -> Vec<Result<T, StoreError>>
    where
        F: FnOnce(&mut Txn<'_>) -> Result<T, StoreError> + Send + 'static,
        T: Send + 'static,
    {
        let (mut submitted, mut results) = (VecDeque::new(), Vec::new());
        for transaction in transactions {
            if submitted.len() == ahead
                && let Some(first) = submitted.pop_front()
            {
                results.push(self.answer(first, patience).await);
            }
            submitted.push_back(self.writer.submit(transaction).await);
        }
        for submitted in submitted {
            results.push(self.answer(submitted, patience).await);
        }
        results
    }

    async fn answer<T>(
        &self,
        submitted: Result<tokio::sync::oneshot::Receiver<Result<T, StoreError>>, StoreError>,
        patience: Patience,
    ) -> Result<T, StoreError> {
        self.writer.answer(submitted?, patience).await
    }

    fn contacts_in(&self, prefix: &[u8]) -> Result<Vec<ContactKey>, StoreError> {
        self.view().contacts_in(prefix)
    }
}

/// The counters of a store; those of a new one if it is empty.
fn meta_of(engine: &dyn Engine, store_id: [u8; 16]) -> Result<Meta, OpenError> {
    let key = keys::meta();
    let stored = engine.get(&key).map_err(|e| OpenError::Content(failed(e)))?;
    let new = Meta { store_id, counts: Counts::default(), sheets: 0, forgotten_at: None };
    stored.map_or(Ok(new), |bytes| decode(&key, &bytes).map_err(OpenError::Content))
}

impl Read for EmbeddedStore {
    fn record<R: Record>(&self, key: &[u8]) -> Result<Option<R>, StoreError> {
        self.view().record(key)
    }

    fn under(&self, prefix: &[u8], limit: usize) -> Result<Vec<Vec<u8>>, StoreError> {
        self.view().under(prefix, limit)
    }

    fn candidates(&self, clue: &Clue<'_>) -> Vec<FanNumber> {
        self.view().candidates(clue)
    }
}

#[cfg(test)]
pub(in crate::store) use keys::feed as feed_key;

#[cfg(test)]
impl EmbeddedStore {
    /// Has the store refuse every write, or take them again.
    pub(crate) fn fill_disk(&self, is_full: bool) {
        self.writer.shared.is_full.store(is_full, std::sync::atomic::Ordering::Relaxed);
    }

    /// Flips a bit of a record without the writer.
    pub(in crate::store) fn corrupt(&self, key: &[u8]) {
        if let Ok(Some(mut value)) = self.engine.get(key) {
            value[1] ^= 4;
            assert!(self.engine.commit(vec![(key.to_vec(), Some(value))]).is_ok());
        }
    }
}
