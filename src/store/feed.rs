//! How links leave the store: the feed (the ordered log of their changes), the cursors of the sinks that
//! follow it, and scans of all links.
//!
//! Deliberately absent: delivery and its retries (the delivery worker) and the format of entries (the
//! domain).

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::error::StoreError;
use crate::domain::ids::SinkName;
use crate::domain::link::{FeedEntry, LinkData};
use crate::domain::time::Timestamp;

/// A sink's durable position in the feed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cursor {
    /// The sequence number of the last delivered entry; the next delivery begins after it.
    pub after: u64,
    /// The fencing token, incremented by each manual [`seek`](Feed::seek): a delivery that began under an
    /// older epoch can no longer [`advance`](Feed::advance) the cursor.
    pub epoch: u64,
    /// Whether entries are delivered.
    pub state: CursorState,
}

/// Whether entries are delivered to a sink.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum CursorState {
    /// Entries are delivered.
    Running,
    /// Paused by an operator, until an operator resumes it.
    Paused {
        /// When it was paused.
        since: Timestamp,
    },
    /// Stopped because the receiver wants no more deliveries, until an operator resumes it.
    Disabled {
        /// When it was disabled.
        since: Timestamp,
        /// The receiver's answer.
        reason: String,
    },
}

impl CursorState {
    /// The state after a change to `to`. A state of the same kind keeps its `since`.
    #[must_use]
    pub fn changed_to(&self, to: Self) -> Self {
        match (self, to) {
            (Self::Paused { since }, Self::Paused { .. }) => Self::Paused { since: *since },
            (Self::Disabled { since, .. }, Self::Disabled { reason, .. }) => {
                Self::Disabled { since: *since, reason }
            }
            (_, to) => to,
        }
    }
}

/// Where the cursor of a new sink starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Start {
    /// At the oldest entry that is kept.
    Beginning,
    /// After the newest entry.
    Now,
}

/// The target of a manual seek.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seek {
    /// After this sequence number, which is at most that of the newest entry.
    After(u64),
    /// Before the oldest entry that is kept.
    Beginning,
    /// After the newest entry.
    Now,
}

/// The feed of link changes, the cursors in it, and scans of all links.
#[async_trait]
pub trait Feed: Send + Sync {
    /// Up to `limit` durable entries after sequence number `after`. Sequence numbers have no gaps, except
    /// that an entry that is damaged, or missing without having been pruned, is skipped and counted. Links
    /// have the names that their dealers have now. `now` decides whether welcome codes are still valid and
    /// shown.
    ///
    /// # Errors
    /// [`StoreError::Gone`] if entries after `after` have been pruned.
    async fn feed(&self, after: u64, limit: usize, now: Timestamp) -> Result<Vec<FeedEntry>, StoreError>;

    /// Watches the sequence number of the newest durable entry.
    fn feed_head(&self) -> watch::Receiver<u64>;

    /// Deletes a limited number of the oldest entries: those written before `cutoff` that the cursors of all
    /// `sinks` have passed. Returns how many; to be repeated until it returns 0.
    async fn prune_feed(&self, cutoff: Timestamp, sinks: &[SinkName]) -> Result<u64, StoreError>;

    /// Opens the cursor of a sink, and creates it at `start` if there is none. Also returns the number of
    /// entries that the sink has missed: pruned before its cursor had passed them.
    async fn open_cursor(&self, sink: &SinkName, start: Start) -> Result<(Cursor, u64), StoreError>;

    /// The cursor of a sink; `None` if it was never opened.
    async fn cursor(&self, sink: &SinkName) -> Result<Option<Cursor>, StoreError>;

    /// Moves a cursor forward to `after`, if `epoch` is still its epoch, `after` is ahead of it and the feed reaches that
    /// far. Returns whether it moved.
    async fn advance(&self, sink: &SinkName, epoch: u64, after: u64) -> Result<bool, StoreError>;

    /// Moves a cursor for an operator, forward or back, and increments its epoch. Returns the cursor; `None`
    /// if there is none.
    ///
    /// # Errors
    /// [`StoreError::Gone`] if entries after the target have been pruned, [`StoreError::BeyondHead`] if the
    /// target is beyond the newest entry; the cursor is not moved then.
    async fn seek(&self, sink: &SinkName, to: Seek) -> Result<Option<Cursor>, StoreError>;

    /// Pauses, disables or resumes deliveries to a sink; see [`CursorState::changed_to`]. Returns the cursor;
    /// `None` if there is none.
    async fn set_state(&self, sink: &SinkName, state: CursorState) -> Result<Option<Cursor>, StoreError>;

    /// Begins a scan of all links, which may change meanwhile: first the feed's head is read, then the links,
    /// a page at a time.
    async fn scan_links(&self) -> Result<Box<dyn LinksScan>, StoreError>;
}

/// A scan of all links. A link is shown as it was at [`feed_head`](Self::feed_head) or later, never as it was
/// before; one that is made during the scan may be missing. Applying the feed's entries after that number to
/// the links that were read makes them complete and current.
#[async_trait]
pub trait LinksScan: Send {
    /// The feed's newest sequence number when the scan began: the feed continues after it.
    fn feed_head(&self) -> u64;

    /// The number of links when the scan began.
    fn links(&self) -> u64;

    /// The next page, which may be empty; `None` after the last. Links have the names that their dealers have
    /// now, and persons erased before the call are not among them.
    async fn next(&mut self, now: Timestamp) -> Result<Option<Vec<LinkData>>, StoreError>;
}
