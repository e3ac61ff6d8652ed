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
mod timed;
mod write;

pub(crate) use files::{SegmentFile, delete_up_to, list, segment_name};
#[cfg(test)]
pub(crate) use limited::Limited;
pub(crate) use read::{Content, Gap, Replayed, damaged, lineage, replay};
pub(crate) use record::Lineage;
pub(crate) use segment::AppendError;
pub(crate) use timed::Timed;
pub(crate) use write::{Log, LogWriter};
