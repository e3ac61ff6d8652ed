//! [`History`] over rows.
//!
//! Deliberately absent: the transaction, which is in `business/history.rs`.

use async_trait::async_trait;

use super::super::{History, Noted, StoreError};
use super::{Backend, Patience, RowStore};
use crate::domain::history::{SinkFailure, Tallies, UrlMarks};
use crate::domain::ids::{AppName, SinkName};
use crate::domain::time::Timestamp;
use crate::store::business::history;
use crate::store::rows::txn::Txn;

#[async_trait]
impl<B: Backend> History for RowStore<B> {
    async fn record_noted(&self, noted: Noted, now: Timestamp) -> Result<(), StoreError> {
        let record = move |txn: &mut Txn<'_>| history::record(txn, &noted, now);
        let recorded = self.run_all(std::iter::once(record), Patience::UntilDecided).await;
        recorded.into_iter().collect::<Result<Vec<()>, _>>().map(drop)
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
