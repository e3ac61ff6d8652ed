//! The memtable over the index.
//!
//! A commit group that is durable in the log is published: it becomes visible whole, under
//! one lock and one sequence number, in the memtable. Readers look there first, then into the index. A
//! thread drains the memtable into the index ([`drain`]); [`recover`] brings log and index in step when a store is
//! opened.
//!
//! A [`Snapshot`] shows the store as of one sequence number. Two things make it hold: a memtable keeps the older
//! values that a snapshot may need, and a drain begins only when the snapshots taken before its last group was
//! published have been dropped, so that nobody finds a later group half-drained in the index.

mod backlog;
mod drain;
mod filling;
mod layout;
mod mark;
mod memtable;
mod recover;
mod snapshot;
mod sums;
mod tables;
#[cfg(test)]
mod tests;

pub(crate) use backlog::apply_all;
pub(crate) use drain::Drainer;
pub(crate) use filling::replace as replace_index;
pub(crate) use layout::upgrade as upgrade_layout;
pub(crate) use mark::Mark;
pub use recover::Rebuilding;
pub(crate) use recover::{Recovered, recover};
pub(crate) use snapshot::Snapshot;
pub(crate) use sums::write_sums;
pub(crate) use tables::Database;
