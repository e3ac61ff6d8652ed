//! For tests: a log in memory that fails after a number of commits, as a killed process would.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use super::{AppendError, Log};
use crate::store::embedded::engine::Memory;
use crate::store::rows::source::Batch;

/// Shared: the log of a store and the test's own hold of it.
#[derive(Clone)]
pub(crate) struct Limited {
    memory: Memory,
    commits_left: Arc<AtomicUsize>,
}

impl Limited {
    pub(crate) fn new(memory: &Memory, commits_left: usize) -> Self {
        Self { memory: memory.clone(), commits_left: Arc::new(AtomicUsize::new(commits_left)) }
    }
}

impl Log for Limited {
    fn append(&mut self, seq: u64, writes: &Batch) -> Result<(), AppendError> {
        let left = self.commits_left.load(Relaxed).checked_sub(1).ok_or(AppendError::failed("killed"))?;
        self.commits_left.store(left, Relaxed);
        self.memory.log(seq, writes.clone());
        Ok(())
    }
}
