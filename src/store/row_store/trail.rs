//! [`Trail`] over rows.
//!
//! Deliberately absent: the transactions, which are in `business/trail.rs`.

use async_trait::async_trait;

use super::super::{StoreError, Trail};
use super::{Backend, ROWS_PER_TRANSACTION, RowStore};
use crate::domain::audit::AuditEntry;
use crate::domain::time::Timestamp;
use crate::store::business::trail;

#[async_trait]
impl<B: Backend> Trail for RowStore<B> {
    async fn record(&self, entry: AuditEntry) -> Result<u64, StoreError> {
        self.backend.run(move |txn| trail::record(txn, &entry)).await
    }

    async fn trail(&self, after: u64, limit: usize) -> Result<Vec<(u64, AuditEntry)>, StoreError> {
        self.backend.read(|view| trail::page(view, after, limit)).await
    }

    async fn prune_trail(&self, cutoff: Timestamp) -> Result<u64, StoreError> {
        let mut deleted = 0;
        loop {
            let pruned = self.backend.run(move |txn| trail::prune(txn, cutoff, ROWS_PER_TRANSACTION)).await?;
            deleted += pruned;
            if pruned < ROWS_PER_TRANSACTION as u64 {
                return Ok(deleted);
            }
        }
    }
}
