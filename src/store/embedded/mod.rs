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

mod care;
mod checkpoint;
mod database;
pub mod engine;
mod failure;
mod fan_index;
mod folder;
mod indexing;
mod on_disk;
mod opening;
#[cfg(any(test, fuzzing))]
pub(crate) mod properties;
mod published;
#[cfg(test)]
mod rig;
mod upgrade;
mod wal;
mod watchdog;
mod writer;

use std::sync::Arc;

use tokio::sync::watch;

use super::business::audit;
use super::row_store::{Answer, Backend, Limits, Patience, ReadOnce, RowStore, Transaction};
use super::{Counts, LogStatus, Replicas, StoreError};
use crate::store::rows::clue::Print;
use crate::store::rows::ids::FanNumber;
use crate::store::rows::view::{Damaged, View};
use crate::store::rows::watch::Watches;
pub use care::{
    BackedUp, Compacted, Differences, Restore, Restored, Verified, backup, compact, restore, verify,
};
use database::Database;
pub use database::Rebuilding;
use fan_index::Index;
pub use folder::OpenError;
use indexing::Indexing;
use on_disk::OnDisk;
use published::Published;
pub use writer::ManualWriter;
use writer::Writer;

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

impl Settings {
    const fn limits(&self) -> Limits {
        let Self { inbox_events_max, dedupe_days, quarantine_days, .. } = *self;
        Limits { inbox_events_max, dedupe_days, quarantine_days }
    }
}

/// The store of a single machine.
pub type EmbeddedStore = RowStore<Embedded>;

/// What the store of a single machine keeps its rows in.
pub struct Embedded {
    database: Arc<Database>,
    writer: Writer,
    index: Arc<Index>,
    indexing: Indexing,
    watches: Arc<Watches>,
    /// Keys of records that failed their checksum.
    damaged: Damaged,
    /// A random secret of this store, for hashes that cannot be made without it.
    salt: [u8; 16],
    /// Beside the database, for a store on disk.
    on_disk: Option<Arc<OnDisk>>,
}

impl Embedded {
    /// A view of the store as it is now.
    fn view(&self) -> View<'_> {
        View::new(Published::new(&self.database, &self.index), &self.damaged)
    }
}

impl Backend for Embedded {
    async fn read<T: Send>(&self, read: impl ReadOnce<T>) -> Result<T, StoreError> {
        read(&self.view())
    }

    async fn submit<T: Send + 'static>(&self, work: impl Transaction<T>) -> Result<Answer<T>, StoreError> {
        self.writer.submit(work).await
    }

    async fn answer<T: Send + 'static>(
        &self,
        answer: Answer<T>,
        patience: Patience,
    ) -> Result<T, StoreError> {
        self.writer.answer(answer, patience).await
    }

    async fn run<T: Send + 'static>(&self, work: impl Transaction<T>) -> Result<T, StoreError> {
        self.writer.run(work).await
    }

    async fn indexed(&self) -> Result<(), StoreError> {
        self.indexing.finished().await
    }

    fn ready(&self) -> Result<(), StoreError> {
        self.writer.health.ready()
    }

    fn counts(&self) -> Counts {
        self.writer.health.counts()
    }

    fn feed_head(&self) -> watch::Receiver<u64> {
        self.writer.health.feed_head()
    }

    fn damaged(&self) -> &Damaged {
        &self.damaged
    }

    fn watches(&self) -> &Watches {
        &self.watches
    }

    fn salt(&self) -> [u8; 16] {
        self.salt
    }

    fn index_entry(_: Print, _: FanNumber) -> Option<Vec<u8>> {
        None
    }

    fn replicas(&self) -> Option<&dyn Replicas> {
        None
    }

    fn free_disk_bytes(&self) -> Option<u64> {
        self.writer.health.free_bytes()
    }

    fn log_status(&self) -> Option<LogStatus> {
        self.on_disk.as_ref().map(|on_disk| on_disk.log_status())
    }

    async fn failed(&self) -> String {
        let mut failure = self.writer.health.failure().watch();
        let reason = failure.wait_for(Option::is_some).await.ok().and_then(|reason| reason.clone());
        match reason {
            Some(reason) => reason,
            None => std::future::pending().await,
        }
    }

    async fn close(&self) {
        self.indexing.stop().await;
        self.writer.close().await;
        if let Some(on_disk) = self.on_disk.clone() {
            let _ = tokio::task::spawn_blocking(move || on_disk.close()).await;
        }
    }
}

#[cfg(test)]
pub(in crate::store) use {
    crate::store::rows::keys as row_keys,
    crate::store::rows::records::checked,
    wal::{AppendError, Log},
    writer::Disk,
};

impl EmbeddedStore {
    /// A view of the store as it is now.
    pub(crate) fn view(&self) -> View<'_> {
        self.backend().view()
    }

    /// The disagreements in this store, as text; empty if there are none.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn audit(&self) -> Result<Vec<String>, StoreError> {
        audit::complaints(&self.view(), self.backend().counts())
    }
}

#[cfg(test)]
impl EmbeddedStore {
    /// Has the store refuse every write, or take them again.
    pub(crate) fn fill_disk(&self, is_full: bool) {
        self.backend().writer.health.is_full.store(is_full, std::sync::atomic::Ordering::Relaxed);
    }

    /// The keys of all records of a kind.
    pub(in crate::store) fn keys_of(&self, kind: u8) -> Vec<Vec<u8>> {
        self.view().range(&[kind], &[kind + 1]).map(|row| row.unwrap().0).collect()
    }

    /// The value of a key.
    pub(in crate::store) fn value_of(&self, key: &[u8]) -> Vec<u8> {
        self.view().get(key).unwrap().unwrap()
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
        self.backend().damaged.trust();
        self.backend().database.remember_damaged(&key);
        let write = move |txn: &mut crate::store::rows::txn::Txn<'_>| {
            txn.overwrite(key, value);
            Ok(())
        };
        self.backend().writer.run_here(write).unwrap();
    }
}
