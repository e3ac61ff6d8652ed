//! The seam between the business transactions and a key-value engine: `get · range · commit`.
//!
//! An engine has ordered keys and an atomic, durable batch. Everything else (transactions, queues, indexes,
//! checksums) is written once, above it. [`Memory`] is the reference: it keeps what a reopened engine keeps.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

/// A key with its value, or with `None` to delete it.
pub(in crate::store) type Write = (Vec<u8>, Option<Vec<u8>>);

/// An I/O error of an engine; final.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{0}")]
pub struct EngineError(pub String);

/// Rows of a range, in key order. The first error ends it.
pub(in crate::store) type Rows<'a> = Box<dyn Iterator<Item = Result<(Vec<u8>, Vec<u8>), EngineError>> + 'a>;

/// An embedded key-value engine.
pub(in crate::store) trait Engine: Send + Sync + 'static {
    /// The value of a key.
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, EngineError>;

    /// The rows with `from <= key < to`.
    fn range<'a>(&'a self, from: &[u8], to: &[u8]) -> Rows<'a>;

    /// Applies all writes or none; durable when it returns `Ok`. Called by one thread only.
    fn commit(&self, writes: Vec<Write>) -> Result<(), EngineError>;

    /// Bytes free where the engine writes, if that is a disk.
    fn free_bytes(&self) -> Option<u64>;
}

/// An engine in memory. Clones share their content, so one kept aside survives "closing" the store.
#[derive(Debug, Clone, Default)]
pub struct Memory(Arc<Mutex<BTreeMap<Vec<u8>, Vec<u8>>>>);

#[cfg(test)]
impl Memory {
    /// What it holds now, apart from it.
    pub(in crate::store) fn copy(&self) -> Self {
        let content = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        Self(Arc::new(Mutex::new(content)))
    }

    /// Holds again what a copy holds.
    pub(in crate::store) fn restore(&self, copy: &Self) {
        let content = copy.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = content;
    }
}

impl Engine for Memory {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, EngineError> {
        Ok(self.0.lock().unwrap_or_else(PoisonError::into_inner).get(key).cloned())
    }

    fn range<'a>(&'a self, from: &[u8], to: &[u8]) -> Rows<'a> {
        if from >= to {
            return Box::new(std::iter::empty());
        }
        let map = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let rows: Vec<_> =
            map.range(from.to_vec()..to.to_vec()).map(|(k, v)| Ok((k.clone(), v.clone()))).collect();
        Box::new(rows.into_iter())
    }

    fn commit(&self, writes: Vec<Write>) -> Result<(), EngineError> {
        let mut map = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for (key, value) in writes {
            match value {
                Some(value) => map.insert(key, value),
                None => map.remove(&key),
            };
        }
        Ok(())
    }

    fn free_bytes(&self) -> Option<u64> {
        None
    }
}
