//! The checkpoint: one file with every live record as of a position in the log.
//!
//! It is written in the background by a k-way merge of the previous checkpoint and the closed segments. Neither the
//! index nor the memory is read for that, so it stays right when sled is wrong. Being the oldest of all, it has
//! no tombstones, and a forgotten person is in neither log nor checkpoint once it is written. It carries the number
//! of the last record that it contains; records up to that number are ignored from then on, whatever segments a
//! crash left behind. It is read back before anything is deleted.

mod compare;
mod file;
mod inventory;
mod merge;
mod write;

pub(crate) use file::{CheckpointWriter, Entries, SortedReader, clear_unfinished, find, verify};
pub(crate) use inventory::Inventory;
pub(crate) use merge::{CompareError, live, newest, side_by_side};
pub(crate) use write::{Checkpointer, Progress, Suspect, from_index, make};
