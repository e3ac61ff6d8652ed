//! What was counted by hour, and what is remembered of callback URLs and sinks.

use async_trait::async_trait;

use super::error::StoreError;
use crate::domain::history::{SinkFailure, Tallies, UrlMarks};
use crate::domain::ids::{AppName, SinkName};
use crate::domain::time::Timestamp;

/// What a process has counted and noted since it last recorded it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Noted {
    /// What it counted.
    pub counts: Tallies,
    /// How it saw WeCom behave.
    pub observed: Tallies,
    /// What it noted of callback URLs.
    pub urls: Vec<(AppName, UrlMarks)>,
    /// Deliveries that failed.
    pub failures: Vec<(SinkName, Vec<SinkFailure>)>,
}

impl Noted {
    /// Whether there is nothing to record.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.counts.is_empty() && self.observed.is_empty() && self.urls.is_empty() && self.failures.is_empty()
    }
}

/// The service's memory of itself: counts by hour for [`HOURS_KEPT`](crate::domain::history::HOURS_KEPT), and the last marks
/// of callback URLs and sinks. It holds no ids of people.
#[async_trait]
pub trait History: Send + Sync {
    /// Adds what was noted to the hour of `now`, together with what the store has [made](super::Made) since it was last
    /// asked to, and deletes the hours that are too old. Several processes may do so: counts are added up. Waits until
    /// it is durable or refused, however long that takes.
    async fn record_noted(&self, noted: Noted, now: Timestamp) -> Result<(), StoreError>;

    /// The hours that begin at `from` or later and in which something was counted, the oldest first. What the store has made
    /// since it was last recorded is added to the hour of `now`.
    async fn hours(&self, from: Timestamp, now: Timestamp) -> Result<Vec<(Timestamp, Tallies)>, StoreError>;

    /// How WeCom was seen to behave since the store was created.
    async fn observed(&self) -> Result<Tallies, StoreError>;

    /// What is remembered of each callback URL, by the name in it.
    async fn url_marks(&self) -> Result<Vec<(AppName, UrlMarks)>, StoreError>;

    /// The last failures of a sink, the oldest first.
    async fn sink_failures(&self, sink: &SinkName) -> Result<Vec<SinkFailure>, StoreError>;
}
