//! [`Feed`] as the embedded store implements it.
//!
//! Deliberately absent: the transactions and reads, which are in `business/feed.rs`.

use std::sync::Arc;

use async_trait::async_trait;
use tokio::sync::watch;

use super::super::{Counts, Cursor, CursorState, Feed, LinksScan, Seek, Start, StoreError};
use super::EmbeddedStore;
use super::database::Database;
use super::fan_index::Index;
use super::published::Published;
use crate::domain::ids::SinkName;
use crate::domain::link::{FeedEntry, LinkData};
use crate::domain::time::Timestamp;
use crate::store::business::{feed, links};
use crate::store::rows::view::{Damaged, View};

/// Customers, linked or not, that a page of a scan reads. Few in tests, so that they have several pages.
const CUSTOMERS_AT_ONCE: usize = if cfg!(test) { 8 } else { 512 };

#[async_trait]
impl Feed for EmbeddedStore {
    async fn feed(&self, after: u64, limit: usize, now: Timestamp) -> Result<Vec<FeedEntry>, StoreError> {
        let head = *self.writer.health.feed_head().borrow();
        feed::page(&self.view(), after, head, limit, now)
    }

    fn feed_head(&self) -> watch::Receiver<u64> {
        self.writer.health.feed_head()
    }

    async fn prune_feed(&self, cutoff: Timestamp, sinks: &[SinkName]) -> Result<u64, StoreError> {
        const DELETED_AT_ONCE: u64 = 80;
        let sinks = sinks.to_vec();
        self.writer.run(move |txn| feed::prune(txn, cutoff, &sinks, DELETED_AT_ONCE)).await
    }

    async fn open_cursor(&self, sink: &SinkName, start: Start) -> Result<(Cursor, u64), StoreError> {
        let sink = sink.clone();
        self.writer.run(move |txn| feed::open_cursor(txn, &sink, start)).await
    }

    async fn cursor(&self, sink: &SinkName) -> Result<Option<Cursor>, StoreError> {
        feed::cursor(&self.view(), sink)
    }

    async fn advance(&self, sink: &SinkName, epoch: u64, after: u64) -> Result<bool, StoreError> {
        let sink = sink.clone();
        self.writer.run(move |txn| feed::advance(txn, &sink, epoch, after)).await
    }

    async fn seek(&self, sink: &SinkName, to: Seek) -> Result<Option<Cursor>, StoreError> {
        let sink = sink.clone();
        self.writer.run(move |txn| feed::seek(txn, &sink, to)).await
    }

    async fn set_state(&self, sink: &SinkName, state: CursorState) -> Result<Option<Cursor>, StoreError> {
        let sink = sink.clone();
        self.writer.run(move |txn| feed::set_state(txn, &sink, state)).await
    }

    async fn scan_links(&self) -> Result<Box<dyn LinksScan>, StoreError> {
        // Before any link is read: what is committed up to this head can be read from now on.
        let Counts { feed_head, links, .. } = self.writer.health.counts();
        let (database, index, damaged) = (self.database.clone(), self.index.clone(), self.damaged.clone());
        Ok(Box::new(Scan { database, index, damaged, feed_head, links, next: Some(links::first()) }))
    }
}

/// A scan of all links, under way. Each page is read in a view of its own.
struct Scan {
    database: Arc<Database>,
    index: Arc<Index>,
    damaged: Damaged,
    feed_head: u64,
    links: u64,
    /// Where the next page begins; `None` after the last.
    next: Option<Vec<u8>>,
}

#[async_trait]
impl LinksScan for Scan {
    fn feed_head(&self) -> u64 {
        self.feed_head
    }

    fn links(&self) -> u64 {
        self.links
    }

    async fn next(&mut self, now: Timestamp) -> Result<Option<Vec<LinkData>>, StoreError> {
        let Some(from) = &self.next else { return Ok(None) };
        let view = View::new(Published::new(&self.database, &self.index), &self.damaged);
        let (links, next) = links::page(&view, from, CUSTOMERS_AT_ONCE, now)?;
        self.next = next;
        Ok(Some(links))
    }
}
