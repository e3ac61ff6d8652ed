//! [`Feed`] over rows.
//!
//! Deliberately absent: the transactions and reads, which are in `business/feed.rs`.

use std::sync::Arc;

use async_trait::async_trait;
use tokio::sync::watch;

use super::super::{Counts, Cursor, CursorState, Feed, LinksScan, Seek, Start, StoreError};
use super::{Backend, RowStore};
use crate::domain::ids::SinkName;
use crate::domain::link::{FeedEntry, LinkData};
use crate::domain::time::Timestamp;
use crate::store::business::{feed, links};

/// Customers, linked or not, that a page of a scan reads. Few in tests, so that they have several pages.
const CUSTOMERS_AT_ONCE: usize = if cfg!(test) { 8 } else { 512 };

#[async_trait]
impl<B: Backend> Feed for RowStore<B> {
    async fn feed(&self, after: u64, limit: usize, now: Timestamp) -> Result<Vec<FeedEntry>, StoreError> {
        let head = *self.backend.feed_head().borrow();
        self.backend.read(|view| feed::page(view, after, head, limit, now)).await
    }

    fn feed_head(&self) -> watch::Receiver<u64> {
        self.backend.feed_head()
    }

    async fn prune_feed(&self, cutoff: Timestamp, sinks: &[SinkName]) -> Result<u64, StoreError> {
        const DELETED_AT_ONCE: u64 = 80;
        let sinks = sinks.to_vec();
        self.backend.run(move |txn| feed::prune(txn, cutoff, &sinks, DELETED_AT_ONCE)).await
    }

    async fn open_cursor(&self, sink: &SinkName, start: Start) -> Result<(Cursor, u64), StoreError> {
        let sink = sink.clone();
        self.backend.run(move |txn| feed::open_cursor(txn, &sink, start)).await
    }

    async fn cursor(&self, sink: &SinkName) -> Result<Option<Cursor>, StoreError> {
        self.backend.read(|view| feed::cursor(view, sink)).await
    }

    async fn advance(&self, sink: &SinkName, epoch: u64, after: u64) -> Result<bool, StoreError> {
        let sink = sink.clone();
        self.backend.run(move |txn| feed::advance(txn, &sink, epoch, after)).await
    }

    async fn seek(&self, sink: &SinkName, to: Seek) -> Result<Option<Cursor>, StoreError> {
        let sink = sink.clone();
        self.backend.run(move |txn| feed::seek(txn, &sink, to)).await
    }

    async fn set_state(&self, sink: &SinkName, state: CursorState) -> Result<Option<Cursor>, StoreError> {
        let sink = sink.clone();
        self.backend.run(move |txn| feed::set_state(txn, &sink, state)).await
    }

    async fn scan_links(&self) -> Result<Box<dyn LinksScan>, StoreError> {
        // Before any link is read: what is committed up to this head can be read from now on.
        let Counts { feed_head, links, .. } = self.backend.counts();
        Ok(Box::new(Scan { backend: self.backend.clone(), feed_head, links, next: Some(links::first()) }))
    }
}

/// A scan of all links, under way. Each page is read in a view of its own.
struct Scan<B> {
    backend: Arc<B>,
    feed_head: u64,
    links: u64,
    /// Where the next page begins; `None` after the last.
    next: Option<Vec<u8>>,
}

#[async_trait]
impl<B: Backend> LinksScan for Scan<B> {
    fn feed_head(&self) -> u64 {
        self.feed_head
    }

    fn links(&self) -> u64 {
        self.links
    }

    async fn next(&mut self, now: Timestamp) -> Result<Option<Vec<LinkData>>, StoreError> {
        let Some(from) = &self.next else { return Ok(None) };
        let page = self.backend.read(|view| links::page(view, from, CUSTOMERS_AT_ONCE, now)).await;
        let (links, next) = page?;
        self.next = next;
        Ok(Some(links))
    }
}
