//! The store of a single machine: business transactions over a write-ahead log, a memtable and an index.
//!
//! ```text
//!  Store ─▶ writer ─▶ log ─▶ memtable ─▶ answer            a commit
//!                       │        └─▶ drain ─▶ index (sled)    seconds later
//!                       └─▶ checkpoint                        when the log has grown
//! ```
//!
//! One thread decides transactions in order and commits them in groups (`writer`). A group is durable once it
//! is in the write-ahead log (`wal`), and visible once it is in the memtable (`database`), from where it is drained
//! into the index, which is sled (`engine`). A `checkpoint` of what is live lets the log be cut. Log and
//! checkpoint are the truth: the index can be rebuilt from them, and is, unattended.
//!
//! The layout of the records and what each transaction does with them are not particular to it (`rows` and `business`
//! beside this folder). Millions of fans are found by their ids through an index in memory (`fan_index`). It is read
//! after the start, while callbacks are accepted already; an operation on fans waits for it.
//!
//! One process owns the folder, so leases are in memory: a crash ends them, and taking one costs no write.
//!
//! The order of the files, each of which imports only from those before it: `watchdog`, `failure`, `folder`,
//! `engine`, `wal`, `checkpoint`, `database`, `care`, `fan_index`, `published`, `writer`, and the files beside this one.

mod audit;
mod care;
mod checkpoint;
mod database;
pub mod engine;
mod failure;
mod fan_index;
mod folder;
mod impl_feed;
mod impl_groups;
mod impl_people;
mod impl_reconciling;
mod impl_store;
mod impl_suites;
mod impl_trail;
mod indexing;
mod leases;
mod leasing;
mod on_disk;
mod opening;
#[cfg(any(test, fuzzing))]
pub(crate) mod properties;
mod published;
#[cfg(test)]
mod rig;
mod slices;
mod sweeping;
mod upgrade;
mod waits;
mod wal;
mod watchdog;
mod writer;

use std::collections::VecDeque;
use std::sync::Arc;

use super::StoreError;
use crate::store::rows::expiry::Expiries;
use crate::store::rows::txn::Txn;
use crate::store::rows::view::{Damaged, View};
use crate::store::rows::watch::Watches;
use crate::store::rows::work_queue::WorkQueues;
pub use care::{
    BackedUp, Compacted, Differences, Restore, Restored, Verified, backup, compact, restore, verify,
};
use database::Database;
pub use database::Rebuilding;
use fan_index::Index;
pub use folder::OpenError;
use indexing::Indexing;
use leases::FanLeases;
use on_disk::OnDisk;
use published::Published;
pub use writer::ManualWriter;
use writer::{Patience, Writer};

/// Transactions submitted ahead of their results.
const AHEAD: usize = 32;
/// Rows in each transaction of a change of many: even if none of them is in the page cache, the writer is back
/// within tens of milliseconds.
const ROWS_PER_TRANSACTION: usize = 256;

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
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            cache_mb: 256,
            free_mb_min: 256,
            inbox_events_max: 1_000_000,
            dedupe_days: 7,
            quarantine_days: 30,
        }
    }
}

/// The store of a single machine.
pub struct EmbeddedStore {
    database: Arc<Database>,
    writer: Writer,
    settings: Settings,
    index: Arc<Index>,
    indexing: Indexing,
    queues: Arc<WorkQueues>,
    fan_leases: FanLeases,
    watches: Arc<Watches>,
    expiries: Expiries,
    /// Keys of records that failed their checksum.
    damaged: Damaged,
    /// A random secret of this store, for hashes that cannot be made without it.
    salt: [u8; 16],
    /// Beside the database, for a store on disk.
    on_disk: Option<Arc<OnDisk>>,
}

impl EmbeddedStore {
    /// Waits until the index of fans is complete.
    async fn indexed(&self) -> Result<(), StoreError> {
        self.indexing.finished().await
    }

    /// A view of the store as it is now.
    fn view(&self) -> View<'_> {
        View::new(Published::new(&self.database, &self.index), &self.damaged)
    }

    /// Runs `settle` for each outcome in a transaction of its own, and ends the leases. Work on a damaged
    /// record stays leased and is counted, so that its call is not made again and again. However slow the
    /// disk is, work stays leased until its transaction is decided: leased again before that, it would be
    /// done twice.
    async fn settle_all<O: Send + 'static, T: Send + 'static>(
        &self,
        outcomes: Vec<(Vec<u8>, O)>,
        settle: fn(&mut Txn<'_>, O) -> Result<T, StoreError>,
    ) -> Result<Vec<T>, StoreError> {
        let (lease_keys, outcomes): (Vec<_>, Vec<_>) = outcomes.into_iter().unzip();
        let transactions = outcomes.into_iter().map(|outcome| move |txn: &mut Txn<'_>| settle(txn, outcome));
        let settled = self.run_all(transactions, Patience::UntilDecided).await;
        let (mut results, mut first_error) = (Vec::new(), Ok(()));
        for (key, settled) in lease_keys.iter().zip(settled) {
            match self.damaged.skip(key, settled) {
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

    /// Runs `change` on all items, [`ROWS_PER_TRANSACTION`] in each transaction, one after the other. Returns the
    /// result of each transaction.
    async fn in_parts<T: Clone + Send + 'static, R: Send + 'static>(
        &self,
        items: Vec<T>,
        change: impl Fn(&mut Txn<'_>, Vec<T>) -> Result<R, StoreError> + Clone + Send + Sync + 'static,
    ) -> Result<Vec<R>, StoreError> {
        let mut results = Vec::new();
        for part in items.chunks(ROWS_PER_TRANSACTION) {
            let (change, part) = (change.clone(), part.to_vec());
            results.push(self.writer.run(move |txn| change(txn, part)).await?);
        }
        Ok(results)
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
        let (mut submitted, mut results) = (VecDeque::new(), Vec::new());
        for transaction in transactions {
            if submitted.len() == AHEAD
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
}

#[cfg(test)]
pub(in crate::store) use {
    crate::store::rows::keys as row_keys,
    crate::store::rows::records::checked,
    wal::{AppendError, Log},
    writer::Disk,
};

#[cfg(test)]
impl EmbeddedStore {
    /// Has the store refuse every write, or take them again.
    pub(crate) fn fill_disk(&self, is_full: bool) {
        self.writer.health.is_full.store(is_full, std::sync::atomic::Ordering::Relaxed);
    }

    /// The keys of all records of a kind.
    pub(in crate::store) fn keys_of(&self, kind: u8) -> Vec<Vec<u8>> {
        self.view().range(&[kind], &[kind + 1]).map(|row| row.unwrap().0).collect()
    }

    /// The value of a key.
    pub(in crate::store) fn value_of(&self, key: &[u8]) -> Vec<u8> {
        self.view().get(key).unwrap().unwrap()
    }

    /// Loses a record.
    pub(in crate::store) fn lose(&self, key: &[u8]) {
        self.overwrite(key, None);
    }

    /// Flips a bit of a record, in log and index.
    pub(in crate::store) fn corrupt(&self, key: &[u8]) {
        let mut value = self.value_of(key);
        value[1] ^= 4;
        self.overwrite(key, Some(value));
    }

    /// Overwrites the value of a key, or deletes it.
    pub(in crate::store) fn overwrite(&self, key: &[u8], value: Option<Vec<u8>>) {
        let key = key.to_vec();
        self.damaged.trust();
        self.database.remember_damaged(&key);
        let write = move |txn: &mut Txn<'_>| {
            txn.overwrite(key, value);
            Ok(())
        };
        self.writer.run_here(write).unwrap();
    }
}
