//! A store's disk in memory: what is durable there survives the store, and so a restart.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::interface::{Engine, EngineError, PRIVATE, Rows, Write};
use crate::store::rows::source::Batch;

/// The index, and the records of the write-ahead log that it does not have yet. Clones share it, so that one
/// kept aside survives "closing" the store.
#[derive(Debug, Clone, Default)]
pub struct Memory(Arc<Mutex<Kept>>);

#[derive(Debug, Default)]
struct Kept {
    index: BTreeMap<Vec<u8>, Vec<u8>>,
    log: BTreeMap<u64, Batch>,
    /// Rows of the index that were read, by the name of the thread.
    #[cfg(test)]
    rows_read: BTreeMap<String, u64>,
}

impl Memory {
    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Every key with its value, in order, as a reopened store has them.
    #[must_use]
    pub fn rows(&self) -> Vec<(Vec<u8>, Vec<u8>)> {
        let kept = self.kept();
        let mut rows = kept.index.clone();
        for (key, value) in kept.log.values().flatten() {
            match value {
                Some(value) => rows.insert(key.clone(), value.clone()),
                None => rows.remove(key),
            };
        }
        rows.retain(|key, _| key.first() != Some(&PRIVATE));
        rows.into_iter().collect()
    }

    /// How many rows of the index a thread has read.
    #[cfg(test)]
    pub(crate) fn rows_read_by(&self, thread: &str) -> u64 {
        self.kept().rows_read.get(thread).copied().unwrap_or_default()
    }

    /// How many rows of the index have been read.
    #[cfg(test)]
    pub(crate) fn rows_read(&self) -> u64 {
        self.kept().rows_read.values().sum()
    }

    #[cfg(test)]
    fn count_read(kept: &mut Kept) {
        let thread = std::thread::current().name().unwrap_or_default().to_owned();
        *kept.rows_read.entry(thread).or_default() += 1;
    }

    /// Overwrites what is stored. Not while a store is open.
    #[cfg(test)]
    pub(crate) fn overwrite(&self, writes: &[Write]) {
        let mut kept = self.kept();
        let logged: Vec<Write> = std::mem::take(&mut kept.log).into_values().flatten().collect();
        drop(kept);
        self.apply(&logged).unwrap();
        self.apply(writes).unwrap();
    }

    /// Appends a record to the log.
    pub(crate) fn log(&self, seq: u64, batch: Batch) {
        self.kept().log.insert(seq, batch);
    }

    /// The records of the log after `seq`.
    pub(crate) fn logged_after(&self, seq: u64) -> Vec<(u64, Batch)> {
        self.kept().log.range(seq + 1..).map(|(seq, batch)| (*seq, batch.clone())).collect()
    }

    /// Deletes the records of the log up to `seq`: the index has them for good.
    pub(crate) fn forget_log(&self, seq: u64) {
        self.kept().log.retain(|logged, _| *logged > seq);
    }
}

impl Engine for Memory {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, EngineError> {
        let value = self.kept().index.get(key).cloned();
        #[cfg(test)]
        Self::count_read(&mut self.kept());
        Ok(value)
    }

    fn range<'a>(&'a self, from: &[u8], to: &[u8]) -> Rows<'a> {
        // Row by row, as sled iterates: what changes meanwhile is seen, or not.
        let (memory, mut from, to) = (self.clone(), from.to_vec(), to.to_vec());
        Box::new(std::iter::from_fn(move || {
            if from >= to {
                return None;
            }
            let kept = memory.kept();
            #[cfg(test)]
            let kept = {
                let mut kept = kept;
                Self::count_read(&mut kept);
                kept
            };
            let (key, value) = kept.index.range(from.clone()..to.clone()).next()?;
            from = [key.as_slice(), &[0]].concat();
            Some(Ok((key.clone(), value.clone())))
        }))
    }

    fn apply(&self, writes: &[Write]) -> Result<(), EngineError> {
        let mut kept = self.kept();
        for (key, value) in writes {
            match value {
                Some(value) => kept.index.insert(key.clone(), value.clone()),
                None => kept.index.remove(key),
            };
        }
        Ok(())
    }

    fn flush(&self) -> Result<(), EngineError> {
        Ok(())
    }
}
