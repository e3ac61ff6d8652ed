//! What there is of a store beside its index: a checkpoint, and the segments of the log.

use std::io;
use std::path::PathBuf;

use super::file::{Checkpoint, find};
use super::merge::{live, merged};
use crate::store::embedded::folder::Folder;
use crate::store::embedded::wal::record::Header;
use crate::store::embedded::wal::{self, Lineage, Replayed, SegmentFile};
use crate::store::rows::source::Row;

/// Checkpoint and segments of a store, as they were found.
pub(crate) struct Inventory {
    /// The newest checkpoint that can be read.
    pub(crate) checkpoint: Option<Checkpoint>,
    /// A checkpoint that cannot be read.
    pub(crate) unreadable: Option<PathBuf>,
    /// Oldest first.
    pub(crate) segments: Vec<SegmentFile>,
    folder: Folder,
}

impl Inventory {
    pub(crate) fn read(folder: &Folder) -> io::Result<Self> {
        // The checkpoint first: of the segments only those go that one covers.
        let (checkpoint, unreadable) = find(&folder.checkpoint())?;
        let segments = wal::list(&folder.wal())?;
        Ok(Self { checkpoint, unreadable, segments, folder: folder.clone() })
    }

    /// The history that they belong to; `None` if nothing tells.
    pub(crate) fn lineage(&self) -> io::Result<Option<Lineage>> {
        match &self.checkpoint {
            Some(checkpoint) => Ok(Some(checkpoint.lineage)),
            None => wal::lineage(&self.segments),
        }
    }

    /// The last record that the checkpoint contains.
    pub(crate) fn checkpointed(&self) -> u64 {
        self.checkpoint.as_ref().map_or(0, |checkpoint| checkpoint.seq)
    }

    /// The record that the log has to reach for checkpoint and log to be consistent.
    pub(crate) fn needs(&self) -> u64 {
        self.checkpoint.as_ref().map_or(0, |checkpoint| checkpoint.needs)
    }

    /// Whether there is neither a checkpoint nor a record, readable or not.
    pub(crate) fn is_empty(&self) -> bool {
        // A crash may have come while the first segment was begun.
        let holds_nothing =
            |segment: &SegmentFile| segment.bytes().is_ok_and(|bytes| bytes <= Header::BYTES as u64);
        self.checkpoint.is_none() && self.unreadable.is_none() && self.segments.iter().all(holds_nothing)
    }

    /// Whether something is lost that came before the first readable record of the log.
    pub(crate) fn lacks_its_beginning(&self) -> bool {
        let begins_at = self.segments.first().map_or(1, |segment| segment.from);
        self.unreadable.is_some() && self.checkpoint.is_none() || begins_at > self.checkpointed() + 1
    }

    /// Reads the log behind the checkpoint.
    pub(crate) fn replay(&self) -> io::Result<Replayed> {
        wal::replay::<io::Error>(&self.segments, self.checkpointed(), |_, _| Ok(()))
    }

    /// Every live record as of the record `to` of the log, in the order of the keys.
    ///
    /// # Errors
    /// Those of reading and writing; [`wal::damaged`] names a segment that lacks a record.
    pub(crate) fn rows(&self, to: u64) -> io::Result<impl Iterator<Item = io::Result<Row>> + use<>> {
        let folder = self.folder.checkpoint();
        Ok(live(merged(&folder, self.checkpoint.as_ref(), &self.segments, to)?))
    }
}
