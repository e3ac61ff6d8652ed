//! What the log has and the index lacks, when a store is opened: a little of it is kept in memory, and drained later.

use std::io;

use super::mark::{Mark, set_mark};
use crate::store::embedded::engine::{Engine, EngineError, Write};
use crate::store::embedded::wal::Lineage;
use crate::store::embedded::watchdog::step;
use crate::store::rows::source::Batch;

/// What of the log is replayed into memory; more is written to the index at once.
const BACKLOG_BYTES_MAX: usize = if cfg!(test) { 8 << 10 } else { 128 << 20 };
/// Rows written at a time.
const ROWS_AT_A_TIME: usize = 64;

/// Why the log could not be replayed.
pub(super) enum ReplayError {
    Io(io::Error),
    Index(EngineError),
}

impl From<io::Error> for ReplayError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// Records of the log that the index lacks; beyond a number of bytes they are written to it at once.
pub(super) struct Backlog<'a> {
    engine: &'a dyn Engine,
    lineage: Lineage,
    records: Vec<(u64, Batch)>,
    bytes: usize,
    applied: u64,
}

impl<'a> Backlog<'a> {
    /// Of an index that has everything up to `applied`.
    pub(super) fn new(engine: &'a dyn Engine, lineage: Lineage, applied: u64) -> Self {
        Self { engine, lineage, bytes: 0, applied, records: Vec::new() }
    }

    /// The last record that the index has by now, and those behind it.
    pub(super) fn into_records(self) -> (u64, Vec<(u64, Batch)>) {
        (self.applied, self.records)
    }

    pub(super) fn add(&mut self, seq: u64, batch: Batch) -> Result<(), ReplayError> {
        self.bytes +=
            batch.iter().map(|(key, value)| key.len() + value.as_ref().map_or(0, Vec::len)).sum::<usize>();
        self.records.push((seq, batch));
        if self.bytes > BACKLOG_BYTES_MAX {
            apply_all(self.engine, &self.records).map_err(ReplayError::Index)?;
            set_mark(self.engine, Mark { lineage: self.lineage, seq }).map_err(ReplayError::Index)?;
            (self.applied, self.bytes) = (seq, 0);
            self.records.clear();
        }
        Ok(())
    }
}

/// Writes records to an index.
pub(crate) fn apply_all(engine: &dyn Engine, backlog: &[(u64, Batch)]) -> Result<(), EngineError> {
    for (_, batch) in backlog {
        let writes: Vec<Write> = batch.iter().map(|(key, value)| (key.clone(), value.clone())).collect();
        step("replaying the log", || writes.chunks(ROWS_AT_A_TIME).try_for_each(|rows| engine.apply(rows)))?;
    }
    Ok(())
}
