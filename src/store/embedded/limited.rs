//! For tests: an engine in memory that fails after a number of commits, as a full disk or a killed process
//! would, and measures them.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use super::engine::{Batch, Engine, EngineError, Memory, Rows};

/// Shared: the engine of a store and the test's own hold of it.
#[derive(Clone)]
pub(super) struct Limited {
    memory: Memory,
    commits_left: Arc<AtomicUsize>,
    largest: Arc<AtomicUsize>,
}

impl Limited {
    pub(super) fn new(memory: &Memory, commits_left: usize) -> Self {
        let (memory, largest) = (memory.clone(), Arc::default());
        Self { memory, commits_left: Arc::new(AtomicUsize::new(commits_left)), largest }
    }

    /// The number of keys of the largest commit.
    pub(super) fn largest(&self) -> usize {
        self.largest.load(Relaxed)
    }
}

impl Engine for Limited {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, EngineError> {
        self.memory.get(key)
    }

    fn range<'a>(&'a self, from: &[u8], to: &[u8]) -> Rows<'a> {
        self.memory.range(from, to)
    }

    fn apply(&self, batch: Batch) -> Result<(), EngineError> {
        let left = self.commits_left.load(Relaxed).checked_sub(1).ok_or(EngineError("full".to_owned()))?;
        self.commits_left.store(left, Relaxed);
        self.largest.fetch_max(batch.len(), Relaxed);
        self.memory.apply(batch)
    }

    fn free_bytes(&self) -> Option<u64> {
        None
    }
}
