//! How links leave the store: the ordered feed of their changes, the cursors of those who follow it, and all of them
//! at once.

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::StoreError;
use crate::domain::ids::SinkName;
use crate::domain::link::{FeedEntry, LinkData};
use crate::domain::time::Timestamp;

/// How far a sink is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cursor {
    /// The number of the newest entry that arrived.
    pub after: u64,
    /// Counts the times it was moved by hand: who delivered meanwhile may not move it any more.
    pub epoch: u64,
    /// Whether anything is delivered.
    pub state: CursorState,
}

/// Whether a sink is delivered to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum CursorState {
    /// It is.
    Running,
    /// Not until an operator resumes it.
    Paused {
        /// Since when.
        since: Timestamp,
    },
    /// Not until an operator resumes it: its receiver wants nothing any more.
    Disabled {
        /// Since when.
        since: Timestamp,
        /// What the receiver said.
        reason: String,
    },
}

/// Where a sink starts that is new.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Start {
    /// With the oldest entry kept.
    Beginning,
    /// With the next one.
    Now,
}

/// Where an operator moves a cursor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seek {
    /// Behind this entry.
    After(u64),
    /// Before the oldest entry kept.
    Beginning,
    /// Behind the newest entry.
    Now,
}

/// The feed, and the cursors in it.
#[async_trait]
pub trait Feed: Send + Sync {
    /// Up to `limit` feed entries after `after`, durable ones only, as of `now`. Without a gap, unless a record is
    /// damaged: that one is passed over and counted.
    ///
    /// # Errors
    /// [`StoreError::Gone`] when entries after `after` are no longer kept.
    async fn feed(&self, after: u64, limit: usize, now: Timestamp) -> Result<Vec<FeedEntry>, StoreError>;

    /// Follows the number of the newest durable feed entry.
    fn feed_head(&self) -> watch::Receiver<u64>;

    /// Deletes some of the entries written before `cutoff` that all of `sinks` have behind them. Returns how many, 0 when
    /// there are no more.
    async fn prune_feed(&self, cutoff: Timestamp, sinks: &[SinkName]) -> Result<u64, StoreError>;

    /// The cursor of a sink that is to be served, begun at `start` if there is none. Returns also how many entries it
    /// will never get: those that were deleted while nobody served it.
    async fn open_cursor(&self, sink: &SinkName, start: Start) -> Result<(Cursor, u64), StoreError>;

    /// The cursor of a sink.
    async fn cursor(&self, sink: &SinkName) -> Result<Option<Cursor>, StoreError>;

    /// Moves a cursor forward unless it was moved by hand since `epoch`. Whether it was moved.
    async fn advance(&self, sink: &SinkName, epoch: u64, after: u64) -> Result<bool, StoreError>;

    /// Moves a cursor by hand; what is delivered goes on from there.
    ///
    /// # Errors
    /// [`StoreError::Gone`] when entries after that place are no longer kept.
    async fn seek(&self, sink: &SinkName, to: Seek) -> Result<Option<Cursor>, StoreError>;

    /// Stops or resumes deliveries.
    async fn set_state(&self, sink: &SinkName, state: CursorState) -> Result<Option<Cursor>, StoreError>;

    /// All links as they are at one instant, to be read while they change.
    async fn snapshot(&self) -> Result<Box<dyn LinksSnapshot>, StoreError>;
}

/// All links as they were when the snapshot was taken.
#[async_trait]
pub trait LinksSnapshot: Send {
    /// The number of the newest feed entry that the snapshot contains the effect of.
    fn feed_head(&self) -> u64;

    /// How many links there are.
    fn links(&self) -> u64;

    /// Some more of them, perhaps none; `None` when there are no more. A person who was forgotten meanwhile is left out.
    ///
    /// # Errors
    /// [`StoreError::SnapshotLost`] when too much changed meanwhile.
    async fn next(&mut self, now: Timestamp) -> Result<Option<Vec<LinkData>>, StoreError>;
}
