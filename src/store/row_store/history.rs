//! [`History`] over rows.
//!
//! Deliberately absent: the transaction, which is in `business/history.rs`.

use async_trait::async_trait;

use super::super::{History, Noted, StoreError};
use super::{Backend, RowStore};
use crate::domain::history::{SinkFailure, Tallies, UrlMarks};
use crate::domain::ids::{AppName, SinkName};
use crate::domain::time::Timestamp;
use crate::store::business::history;

#[async_trait]
impl<B: Backend> History for RowStore<B> {
    async fn record_noted(&self, noted: Noted, now: Timestamp) -> Result<(), StoreError> {
        self.backend.run(move |txn| history::record(txn, &noted, now)).await
    }

    async fn hours(&self, from: Timestamp, now: Timestamp) -> Result<Vec<(Timestamp, Tallies)>, StoreError> {
        self.backend.read(|view| history::hours(view, from, now)).await
    }

    async fn observed(&self) -> Result<Tallies, StoreError> {
        self.backend.read(history::observed).await
    }

    async fn url_marks(&self) -> Result<Vec<(AppName, UrlMarks)>, StoreError> {
        self.backend.read(history::url_marks).await
    }

    async fn sink_failures(&self, sink: &SinkName) -> Result<Vec<SinkFailure>, StoreError> {
        self.backend.read(|view| history::sink_failures(view, sink)).await
    }
}
