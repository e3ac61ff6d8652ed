//! Reading the store beside its transactions.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::domain::ids::ContactKey;
use crate::store::embedded::engine::{Engine, Rows};
use crate::store::embedded::records::{Record, decode};
use crate::store::embedded::rows::ids::FanNumber;
use crate::store::embedded::rows::index::{Clue, Index};
use crate::store::embedded::rows::keys;
use crate::store::embedded::rows::txn::failed;
use crate::store::{LINKS_MAX, StoreError};

/// Reads records and looks into the index of fans, within a transaction or outside of all of them.
pub(crate) trait Read {
    /// The record with this key.
    fn record<R: Record>(&self, key: &[u8]) -> Result<Option<R>, StoreError>;
    /// Up to `limit` keys that begin with `prefix`, in order.
    fn under(&self, prefix: &[u8], limit: usize) -> Result<Vec<Vec<u8>>, StoreError>;
    /// The fans that may be meant; few, and usually the one.
    fn candidates(&self, clue: &Clue<'_>) -> Vec<FanNumber>;
}

/// The keys of the damaged records found since the start.
#[derive(Debug, Clone, Default)]
pub(crate) struct Damaged(Arc<Mutex<HashSet<Vec<u8>>>>);

impl Damaged {
    /// The result of a read, or `None` for a damaged record, which is logged once and counted: it delays
    /// nothing but itself.
    pub(crate) fn skip<T>(&self, key: &[u8], read: Result<T, StoreError>) -> Result<Option<T>, StoreError> {
        match read {
            Ok(value) => Ok(Some(value)),
            Err(StoreError::Damaged(reason)) => {
                self.add(key, &reason);
                Ok(None)
            }
            Err(other) => Err(other),
        }
    }

    /// Counts a damaged record and logs it, the first time.
    pub(crate) fn add(&self, key: &[u8], reason: &str) {
        if self.keys().insert(key.to_vec()) {
            tracing::error!(reason, "a damaged record is skipped");
        }
    }

    pub(crate) fn keys(&self) -> MutexGuard<'_, HashSet<Vec<u8>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A view of the store. Hold it for as long as its reads take, and never while waiting for anything else.
pub(crate) struct View<'a> {
    engine: &'a dyn Engine,
    index: &'a Index,
    damaged: &'a Damaged,
}

impl<'a> View<'a> {
    pub(crate) fn new(engine: &'a dyn Engine, index: &'a Index, damaged: &'a Damaged) -> Self {
        Self { engine, index, damaged }
    }

    /// The value of a key.
    pub(crate) fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.engine.get(key).map_err(failed)
    }

    /// The record with this key.
    pub(crate) fn read<R: Record>(&self, key: &[u8]) -> Result<Option<R>, StoreError> {
        self.get(key)?.map(|bytes| decode(key, &bytes)).transpose()
    }

    /// Every row from `from` on and before `to`, in the order of the keys.
    pub(crate) fn range(&self, from: &[u8], to: &[u8]) -> Rows<'_> {
        self.engine.range(from, to)
    }

    /// The rows from `from` on and before `to`, converted by `row`, which returns `None` to skip one; at most
    /// `limit`.
    pub(crate) fn rows<T>(
        &self,
        from: &[u8],
        to: &[u8],
        limit: usize,
        mut row: impl FnMut(&[u8], &[u8]) -> Result<Option<T>, StoreError>,
    ) -> Result<Vec<T>, StoreError> {
        let mut found = Vec::new();
        for entry in self.range(from, to) {
            if found.len() >= limit {
                break;
            }
            let (key, value) = entry.map_err(failed)?;
            found.extend(row(&key, &value)?);
        }
        Ok(found)
    }

    /// See [`Damaged::skip`].
    pub(crate) fn undamaged<T>(
        &self,
        key: &[u8],
        read: Result<T, StoreError>,
    ) -> Result<Option<T>, StoreError> {
        self.damaged.skip(key, read)
    }

    /// The contacts in the keys that begin with `prefix` and go on with an app and a contact.
    pub(crate) fn contacts_in(&self, prefix: &[u8]) -> Result<Vec<ContactKey>, StoreError> {
        self.rows(prefix, &keys::after(prefix), LINKS_MAX, |key, _| {
            let mut parts = keys::Parts(&key[prefix.len()..]);
            parts.id()?;
            parts.contact().map(Some)
        })
    }
}

impl Read for View<'_> {
    fn record<R: Record>(&self, key: &[u8]) -> Result<Option<R>, StoreError> {
        self.read(key)
    }

    fn under(&self, prefix: &[u8], limit: usize) -> Result<Vec<Vec<u8>>, StoreError> {
        self.rows(prefix, &keys::after(prefix), limit, |key, _| Ok(Some(key.to_vec())))
    }

    fn candidates(&self, clue: &Clue<'_>) -> Vec<FanNumber> {
        self.index.find(self.index.print(clue))
    }
}
