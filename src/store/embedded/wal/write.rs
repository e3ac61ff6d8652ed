//! Appending to the log, segment after segment.

use std::io;
use std::path::{Path, PathBuf};

use super::record::{Lineage, record};
use super::segment::{AppendError, Segment};
use crate::store::embedded::engine::Memory;
use crate::store::rows::source::Batch;

/// A segment that has become longer is followed by another. Small in tests, to have many.
const SEGMENT_BYTES_MAX: u64 = if cfg!(test) { 2 << 10 } else { 16 << 20 };

/// Where commit groups become durable, one after the other.
pub(crate) trait Log: Send {
    /// Appends a commit group as the record `seq`; durable when it returns.
    fn append(&mut self, seq: u64, writes: &Batch) -> Result<(), AppendError>;

    /// Closes the present segment, if there are segments and it has a record.
    fn rotate(&mut self) {}
}

impl Log for Memory {
    fn append(&mut self, seq: u64, writes: &Batch) -> Result<(), AppendError> {
        self.log(seq, writes.clone());
        Ok(())
    }
}

/// Called with the last record of each segment that has been closed.
pub(crate) type Rotated = Box<dyn Fn(u64) + Send>;

/// Appends records, one after the other.
pub(crate) struct LogWriter {
    folder: PathBuf,
    lineage: Lineage,
    segment: Segment,
    /// The number of the last record appended.
    last: u64,
    rotated: Rotated,
    /// Whether another segment was to be begun, and could not be.
    is_overdue: bool,
}

impl LogWriter {
    /// Begins a segment for the record `next`.
    pub(crate) fn begin(folder: &Path, lineage: Lineage, next: u64, rotated: Rotated) -> io::Result<Self> {
        let segment = Segment::create(folder, lineage, next)?;
        Ok(Self { folder: folder.to_owned(), lineage, segment, last: next - 1, rotated, is_overdue: false })
    }
}

impl Log for LogWriter {
    fn append(&mut self, seq: u64, writes: &Batch) -> Result<(), AppendError> {
        self.segment.append(&record(seq, writes).map_err(AppendError::Failed)?)?;
        self.last = seq;
        if self.segment.bytes >= SEGMENT_BYTES_MAX || self.is_overdue {
            self.rotate();
        }
        Ok(())
    }

    fn rotate(&mut self) {
        if self.segment.is_empty() {
            return;
        }
        match Segment::create(&self.folder, self.lineage, self.last + 1) {
            Ok(next) => {
                (self.segment, self.is_overdue) = (next, false);
                (self.rotated)(self.last);
            }
            // The present one grows on; the next record tries again.
            Err(error) => {
                // Once, and not for every record.
                if !std::mem::replace(&mut self.is_overdue, true) {
                    tracing::warn!(%error, "the next segment of the log cannot be begun");
                }
            }
        }
    }
}
