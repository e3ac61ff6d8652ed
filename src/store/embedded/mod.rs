//! The store of one machine: business transactions (`inbox`, `links`, `fans`) over a small engine seam
//! (`engine`), written by one thread (`writer`), kept by sled (`sled_engine`).
//!
//! One process owns the folder, so leases live in memory: a crash frees them at once, and taking one costs no
//! write. Reads go straight to the engine from whatever thread asks; a row that is visible but not yet durable
//! is harmless everywhere except on the feed, whose readers are told of durable entries only.

mod durable_sync;
pub mod engine;
mod fans;
mod inbox;
mod keys;
mod links;
mod records;
mod sled_engine;
mod transactions;
mod txn;
mod writer;

use std::collections::{HashSet, VecDeque};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use super::{Counts, LINKS_MAX, StoreError, Work};
use crate::domain::contact::Contact;
use crate::domain::dealer::Dealer;
use crate::domain::ids::ContactKey;
use crate::domain::quota::Ledger;

use engine::{Engine, Memory};
use records::{Record, decode};
pub use sled_engine::OpenError;
use sled_engine::SledEngine;
use transactions::lease_key;
use txn::{Meta, Txn, failed};
use writer::Writer;

impl Record for Ledger {}
impl Record for Dealer {}

/// What can be set about a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// Memory for sled's page cache; the process needs about twice that.
    pub cache_mb: u64,
    /// Nothing is written while the disk has less free than this.
    pub free_mb_min: u64,
    /// Events the inbox may hold, quarantined ones included.
    pub inbox_events_max: u64,
    /// How long a message is remembered for deduplication.
    pub dedupe_days: u32,
}

impl Default for Settings {
    fn default() -> Self {
        Self { cache_mb: 256, free_mb_min: 256, inbox_events_max: 1_000_000, dedupe_days: 7 }
    }
}

/// The store of one machine.
pub struct EmbeddedStore {
    engine: Arc<dyn Engine>,
    writer: Writer,
    settings: Settings,
    leased: Mutex<HashSet<Vec<u8>>>,
    /// Keys of records that failed their checksum.
    damaged: Mutex<HashSet<Vec<u8>>>,
}

impl EmbeddedStore {
    /// Opens or creates the store in `folder`.
    ///
    /// # Errors
    /// [`OpenError`] says what is wrong with the folder or its content.
    pub fn open(folder: &Path, settings: Settings) -> Result<Self, OpenError> {
        let engine = SledEngine::open(folder, settings.cache_mb << 20)?;
        Self::over(Arc::new(engine), settings)
    }

    /// A store in memory, for tests and simulations; `memory` keeps what a disk would keep.
    ///
    /// # Errors
    /// [`OpenError::Content`] when the memory holds something else.
    pub fn in_memory(memory: Memory, settings: Settings) -> Result<Self, OpenError> {
        Self::over(Arc::new(memory), settings)
    }

    pub(in crate::store) fn over(engine: Arc<dyn Engine>, settings: Settings) -> Result<Self, OpenError> {
        let key = keys::meta();
        let stored = engine.get(&key).map_err(|e| OpenError::Content(failed(e)))?;
        let meta = match stored {
            Some(bytes) => decode(&key, &bytes).map_err(OpenError::Content)?,
            None => Meta { store_id: rand::random(), counts: Counts::default() },
        };
        let writer = Writer::start(&engine, meta, settings.free_mb_min).map_err(|source| {
            OpenError::Folder { attempted: "start the writer of", path: "the store".into(), source }
        })?;
        Ok(Self { engine, writer, settings, leased: Mutex::default(), damaged: Mutex::default() })
    }

    fn read<R: Record>(&self, key: &[u8]) -> Result<Option<R>, StoreError> {
        self.engine.get(key).map_err(failed)?.map(|bytes| decode(key, &bytes)).transpose()
    }

    /// Rows that begin with `prefix`, decoded by `row`, up to `limit` of those it wants.
    fn rows<T>(
        &self,
        from: &[u8],
        to: &[u8],
        limit: usize,
        mut row: impl FnMut(&[u8], &[u8]) -> Result<Option<T>, StoreError>,
    ) -> Result<Vec<T>, StoreError> {
        let mut found = Vec::new();
        for entry in self.engine.range(from, to) {
            if found.len() >= limit {
                break;
            }
            let (key, value) = entry.map_err(failed)?;
            found.extend(row(&key, &value)?);
        }
        Ok(found)
    }

    fn leases(&self) -> std::sync::MutexGuard<'_, HashSet<Vec<u8>>> {
        self.leased.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn damaged_keys(&self) -> std::sync::MutexGuard<'_, HashSet<Vec<u8>>> {
        self.damaged.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Passes over a damaged record, once said and from then on counted, so that it holds up nothing but itself.
    fn undamaged<T>(&self, key: &[u8], read: Result<T, StoreError>) -> Result<Option<T>, StoreError> {
        match read {
            Ok(value) => Ok(Some(value)),
            Err(StoreError::Damaged(reason)) => {
                if self.damaged_keys().insert(key.to_vec()) {
                    tracing::error!(reason, "a damaged record is left alone");
                }
                Ok(None)
            }
            Err(other) => Err(other),
        }
    }

    /// A piece of work with what is known of its customer; `None` if that record is damaged.
    fn known(&self, mut work: Work) -> Result<Option<Work>, StoreError> {
        let key = keys::contact(&work.contact);
        let known = self.read::<Contact>(&key).map(|known| work.known = known);
        Ok(self.undamaged(&lease_key(&work.id), known)?.map(|()| work))
    }

    /// The first key of a queue that nobody works on.
    fn first_free(&self, prefix: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        let (leased, damaged) = (self.leases(), self.damaged_keys());
        let free = |key: &[u8], _: &[u8]| {
            Ok((!leased.contains(key) && !damaged.contains(key)).then(|| key.to_vec()))
        };
        Ok(self.rows(prefix, &keys::after(prefix), 1, free)?.pop())
    }

    /// Runs `settle` for each outcome as a transaction of its own, all handed in before the first answer, so
    /// that the writer can group them. What was not settled is done again, unless a damaged record stands in its
    /// way: that keeps its lease, and is counted, so that the same call is not made for it over and over.
    async fn settle_all<O: Send + 'static>(
        &self,
        outcomes: Vec<(Vec<u8>, O)>,
        settle: fn(&mut Txn<'_>, O) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let (lease_keys, outcomes): (Vec<_>, Vec<_>) = outcomes.into_iter().unzip();
        let transactions = outcomes.into_iter().map(|outcome| move |txn: &mut Txn<'_>| settle(txn, outcome));
        let settled = self.run_all(transactions).await;
        let mut first_error = Ok(());
        for (key, settled) in lease_keys.iter().zip(settled) {
            match self.undamaged(key, settled) {
                Ok(None) => {}
                Ok(Some(())) => drop(self.leases().remove(key)),
                Err(error) => {
                    self.leases().remove(key);
                    first_error = first_error.and(Err(error));
                }
            }
        }
        first_error
    }

    /// Runs many transactions, several handed in ahead of their answers so that the writer can group them, and no
    /// more than that so that others find room between them. All are attempted; the results
    /// come in their order.
    async fn run_all<T, F>(&self, transactions: impl Iterator<Item = F> + Send) -> Vec<Result<T, StoreError>>
    where
        F: FnOnce(&mut Txn<'_>) -> Result<T, StoreError> + Send + 'static,
        T: Send + 'static,
    {
        const AHEAD_MAX: usize = 32;
        let (mut ahead, mut results) = (VecDeque::new(), Vec::new());
        for transaction in transactions {
            if ahead.len() == AHEAD_MAX
                && let Some(submitted) = ahead.pop_front()
            {
                results.push(self.answer(submitted).await);
            }
            ahead.push_back(self.writer.submit(transaction).await);
        }
        for submitted in ahead {
            results.push(self.answer(submitted).await);
        }
        results
    }

    async fn answer<T>(
        &self,
        submitted: Result<tokio::sync::oneshot::Receiver<Result<T, StoreError>>, StoreError>,
    ) -> Result<T, StoreError> {
        self.writer.answer(submitted?).await
    }

    /// The contacts that end the keys under `prefix`, behind the id of their app.
    fn contacts_in(&self, prefix: &[u8]) -> Result<Vec<ContactKey>, StoreError> {
        self.rows(prefix, &keys::after(prefix), LINKS_MAX, |key, _| {
            let mut parts = keys::Parts(&key[prefix.len()..]);
            parts.id()?;
            parts.contact().map(Some)
        })
    }
}
