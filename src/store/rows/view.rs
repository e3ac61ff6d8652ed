//! Reading the store outside of its transactions.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::domain::ids::ContactKey;
use crate::store::rows::clue::Clue;
use crate::store::rows::ids::FanNumber;
use crate::store::rows::keys;
use crate::store::rows::records::{Record, decode};
use crate::store::rows::source::{Rows, Source};
use crate::store::{LINKS_MAX, StoreError};

/// Reads records and looks into the index of fans, within a transaction or outside of all of them.
pub(crate) trait Read {
    /// The record with this key.
    fn record<R: Record>(&self, key: &[u8]) -> Result<Option<R>, StoreError>;
    /// Up to `limit` keys that begin with `prefix`, in order.
    fn under(&self, prefix: &[u8], limit: usize) -> Result<Vec<Vec<u8>>, StoreError>;
    /// The fans that may be meant; few, and usually the one.
    fn candidates(&self, clue: &Clue<'_>) -> Result<Vec<FanNumber>, StoreError>;
}

/// Called with the reason when a damaged record is found that is intact in the log.
type OnDamage = dyn Fn(&str) + Send + Sync;

/// Called with the key of a record that is damaged in the log too.
type OnFound = dyn Fn(&[u8]) + Send + Sync;

/// The damaged records found since the start.
#[derive(Clone, Default)]
pub(crate) struct Damaged {
    keys: Arc<Mutex<HashSet<Vec<u8>>>>,
    /// `None` if they are damaged in the log too: then they are skipped.
    in_the_index: Arc<Mutex<Option<Box<OnDamage>>>>,
    found: Option<Arc<OnFound>>,
    /// Whether this is a trial, which logs nothing and reports nothing.
    is_trial: bool,
}

impl Damaged {
    /// For a store whose index is known to agree with the log. `found` is called with the key of each damaged
    /// record that is found.
    pub(crate) fn in_the_log(keys: Vec<Vec<u8>>, found: impl Fn(&[u8]) + Send + Sync + 'static) -> Self {
        let (keys, found) = (Arc::new(Mutex::new(keys.into_iter().collect())), Some(Arc::new(found) as _));
        Self { keys, in_the_index: Arc::default(), found, is_trial: false }
    }

    /// For a store whose log has intact what is damaged in the index: the index is rebuilt.
    pub(crate) fn in_the_index(found: impl Fn(&str) + Send + Sync + 'static) -> Self {
        Self { in_the_index: Arc::new(Mutex::new(Some(Box::new(found)))), ..Self::default() }
    }

    /// A copy for a read of which nobody knows yet whether it has all its rows: what it finds is forgotten.
    pub(crate) fn trial(&self) -> Self {
        let keys = Arc::new(Mutex::new(self.keys().clone()));
        Self { keys, is_trial: true, ..Self::default() }
    }

    /// The result of a read, or `None` for a damaged record, which is logged once and counted: it delays
    /// nothing but itself.
    pub(crate) fn skip<T>(&self, key: &[u8], read: Result<T, StoreError>) -> Result<Option<T>, StoreError> {
        match read {
            Ok(value) => Ok(Some(value)),
            Err(StoreError::Damaged(reason)) => {
                self.add(key, &reason)?;
                Ok(None)
            }
            Err(other) => Err(other),
        }
    }

    /// Counts a damaged record and logs it, the first time.
    ///
    /// # Errors
    /// [`StoreError::Failed`] if the index has to be rebuilt: then nothing may be skipped.
    pub(crate) fn add(&self, key: &[u8], reason: &str) -> Result<(), StoreError> {
        if let Some(found) = &*self.in_the_index.lock().unwrap_or_else(PoisonError::into_inner) {
            found(reason);
            return Err(StoreError::Failed(reason.to_owned()));
        }
        if self.keys().insert(key.to_vec()) && !self.is_trial {
            tracing::error!(reason, "a damaged record is skipped");
            if let Some(found) = &self.found {
                found(key);
            }
        }
        Ok(())
    }

    pub(crate) fn keys(&self) -> MutexGuard<'_, HashSet<Vec<u8>>> {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has damaged records skipped from now on.
    #[cfg(test)]
    pub(crate) fn trust(&self) {
        *self.in_the_index.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

/// A view of the store as of one instant. Hold it for as long as its reads take, and never while waiting for anything
/// else: nothing that was committed after it was taken is drained meanwhile.
pub(crate) struct View<'a> {
    source: Box<dyn Source + 'a>,
    damaged: &'a Damaged,
}

impl<'a> View<'a> {
    pub(crate) fn new(source: impl Source + 'a, damaged: &'a Damaged) -> Self {
        Self { source: Box::new(source), damaged }
    }

    /// The value of a key.
    pub(crate) fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.source.get(key)
    }

    /// The record with this key.
    pub(crate) fn read<R: Record>(&self, key: &[u8]) -> Result<Option<R>, StoreError> {
        self.get(key)?.map(|bytes| decode(key, &bytes)).transpose()
    }

    /// Every row from `from` on and before `to`, in the order of the keys.
    pub(crate) fn range(&self, from: &[u8], to: &[u8]) -> Rows<'_> {
        self.source.range(from, to)
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
        let (mut found, mut rows) = (Vec::new(), self.range(from, to));
        // None is asked for that is not wanted: it may have to be fetched.
        while found.len() < limit
            && let Some(entry) = rows.next()
        {
            let (key, value) = entry?;
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

    /// Whether the record with this key was found to be damaged.
    pub(crate) fn is_damaged(&self, key: &[u8]) -> bool {
        self.damaged.keys().contains(key)
    }

    /// The record with this key; `None` if there is none, or it is damaged.
    pub(crate) fn read_undamaged<R: Record>(&self, key: &[u8]) -> Result<Option<R>, StoreError> {
        Ok(self.undamaged(key, self.read(key))?.flatten())
    }

    /// The undamaged rows under a prefix, converted by `row`; at most `limit`.
    pub(crate) fn undamaged_under<T>(
        &self,
        prefix: &[u8],
        limit: usize,
        row: impl Fn(&[u8], &[u8]) -> Result<T, StoreError>,
    ) -> Result<Vec<T>, StoreError> {
        self.rows(prefix, &keys::after(prefix), limit, |key, value| self.undamaged(key, row(key, value)))
    }

    /// The undamaged records under a prefix, with their keys.
    pub(crate) fn records_under<R: Record>(&self, prefix: &[u8]) -> Result<Vec<(Vec<u8>, R)>, StoreError> {
        self.undamaged_under(prefix, usize::MAX, |key, value| Ok((key.to_vec(), decode(key, value)?)))
    }

    /// The contacts in the keys that begin with `prefix` and go on with an app and a contact.
    pub(crate) fn contacts_in(&self, prefix: &[u8]) -> Result<Vec<ContactKey>, StoreError> {
        self.undamaged_under(prefix, LINKS_MAX, |key, _| {
            let mut parts = keys::Parts(&key[prefix.len()..]);
            parts.id()?;
            parts.contact()
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

    fn candidates(&self, clue: &Clue<'_>) -> Result<Vec<FanNumber>, StoreError> {
        self.source.find(self.source.print(clue))
    }
}
