//! The seam between the business transactions and a key-value engine: `get · range · commit`.
//!
//! An engine has ordered keys and an atomic, durable batch. Everything else (transactions, queues, indexes,
//! checksums) is written once, above it. [`Memory`] is the reference: it keeps what a reopened engine keeps.
//!
//! A commit has two steps for those who can do something between them: a batch is logged, and while that is made
//! durable the next one can be decided; then it is applied.

pub(crate) mod durable_sync;
pub(crate) mod sled;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

/// A key with its value, or with `None` to delete it.
pub(crate) type Write = (Vec<u8>, Option<Vec<u8>>);

/// The writes of a commit, each key once.
pub(crate) type Batch = BTreeMap<Vec<u8>, Option<Vec<u8>>>;

/// An I/O error of an engine; final.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{0}")]
pub struct EngineError(pub String);

/// Rows of a range, in key order. The first error ends it.
pub(crate) type Rows<'a> = Box<dyn Iterator<Item = Result<(Vec<u8>, Vec<u8>), EngineError>> + 'a>;

/// What logging a batch came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Logged {
    /// It is being made durable.
    Ahead,
    /// It becomes durable when it is applied.
    Not,
}

/// An embedded key-value engine.
pub(crate) trait Engine: Send + Sync + 'static {
    /// The value of a key.
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, EngineError>;

    /// The rows with `from <= key < to`.
    fn range<'a>(&'a self, from: &[u8], to: &[u8]) -> Rows<'a>;

    /// Begins to make a batch durable ahead of its being applied, if the engine does that. Like the other steps of a
    /// commit, called by one thread only, and for one batch after the other.
    fn log(&self, _batch: &Batch) -> Result<Logged, EngineError> {
        Ok(Logged::Not)
    }

    /// Waits until the batch logged last is durable.
    fn logged(&self) -> Result<(), EngineError> {
        Ok(())
    }

    /// Applies the batch logged first of those not applied. Durable when it returns `Ok`: after a crash all of it is
    /// there or none.
    fn apply(&self, batch: Batch) -> Result<(), EngineError>;

    /// All of a commit at once.
    fn commit(&self, writes: Vec<Write>) -> Result<(), EngineError> {
        let batch = writes.into_iter().collect();
        self.log(&batch)?;
        self.logged()?;
        self.apply(batch)
    }

    /// An error that no commit has told of yet.
    fn health(&self) -> Result<(), EngineError> {
        Ok(())
    }

    /// Ends with nothing left to do at the next start. Nothing is committed afterwards.
    fn close(&self) -> Result<(), EngineError> {
        Ok(())
    }

    /// Bytes free where the engine writes, if that is a disk.
    fn free_bytes(&self) -> Option<u64>;
}

/// What a journal is put beside: an engine that can also be written without being durable.
pub(crate) trait Database: Engine {
    /// One write after the other, to be seen at once. After a crash the later ones may be gone, never an earlier one
    /// without them.
    fn write(&self, batch: Batch) -> Result<(), EngineError>;

    /// Durable when it returns `Ok`: all that was written before it was called.
    fn flush(&self) -> Result<(), EngineError>;
}

/// An engine in memory. Clones share their content, so one kept aside survives "closing" the store.
#[derive(Debug, Clone, Default)]
pub struct Memory(Arc<Mutex<BTreeMap<Vec<u8>, Vec<u8>>>>);

impl Memory {
    /// Every key with its value, in order.
    #[must_use]
    pub fn rows(&self) -> Vec<(Vec<u8>, Vec<u8>)> {
        let map = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        map.iter().map(|(key, value)| (key.clone(), value.clone())).collect()
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

    fn apply(&self, batch: Batch) -> Result<(), EngineError> {
        let mut map = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for (key, value) in batch {
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
