//! The write-ahead log: what makes a commit durable.
//!
//! Segments of 16 MiB, each a sequence of checksummed, numbered records, one for each commit group. A commit is
//! durable when its record has been written and `fdatasync` has returned; nothing else makes it so. Every start
//! begins a new segment, so a segment may end in half a record that a crash left. A segment is deleted once a
//! checkpoint covers it and the index has its records for good.
//!
//! Segments are neither preallocated nor recycled: `docs/performance.md` has what that would gain.

mod files;
#[cfg(test)]
mod limited;
mod read;
pub(crate) mod record;
mod segment;
#[cfg(test)]
mod tests;
mod write;

pub(crate) use files::{SegmentFile, delete_up_to, list, segment_name};
#[cfg(test)]
pub(crate) use limited::Limited;
pub(crate) use read::{Content, Gap, damaged, lineage, replay};
pub(crate) use record::Lineage;
pub(crate) use segment::AppendError;
pub(crate) use write::LogWriter;

use crate::store::embedded::engine::{Batch, Memory};

/// Where commit groups become durable, one after the other.
pub(crate) trait Log: Send {
    /// Begins to make a group durable; [`wait`](Self::wait) returns when it is. Not called again before that.
    fn append(&mut self, seq: u64, writes: &Batch) -> Result<(), AppendError>;

    /// Waits until the group that was appended last is durable.
    fn wait(&mut self) -> Result<(), AppendError>;

    /// Makes a group durable on the caller's thread.
    fn append_here(&mut self, seq: u64, writes: &Batch) -> Result<(), AppendError> {
        self.append(seq, writes)?;
        self.wait()
    }

    /// Closes the present segment, if there are segments.
    fn rotate(&mut self) {}
}

impl Log for LogWriter {
    fn append(&mut self, seq: u64, writes: &Batch) -> Result<(), AppendError> {
        let record = record::record(seq, writes).map_err(AppendError::Failed)?;
        Self::append(self, seq, record)
    }

    fn wait(&mut self) -> Result<(), AppendError> {
        Self::wait(self)
    }

    fn append_here(&mut self, seq: u64, writes: &Batch) -> Result<(), AppendError> {
        let record = record::record(seq, writes).map_err(AppendError::Failed)?;
        Self::append_here(self, seq, &record)
    }

    fn rotate(&mut self) {
        Self::rotate(self);
    }
}

impl Log for Memory {
    fn append(&mut self, seq: u64, writes: &Batch) -> Result<(), AppendError> {
        self.log(seq, writes.clone());
        Ok(())
    }

    fn wait(&mut self) -> Result<(), AppendError> {
        Ok(())
    }
}
