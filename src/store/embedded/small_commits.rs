//! Changes of many records, a few in each transaction.

use super::super::StoreError;
use super::EmbeddedStore;
use super::rows::txn::Txn;

/// Customers in one transaction: each has up to six keys, and a group of transactions at most 99. Half a group,
/// so that live work that comes in meanwhile is in the same group, or in the next.
pub(super) const CUSTOMERS_PER_TRANSACTION: usize = 8;

impl EmbeddedStore {
    /// Runs `change` on all items, [`CUSTOMERS_PER_TRANSACTION`] in each transaction, one after the other:
    /// live work never queues behind more than one of them. Returns the result of each transaction.
    pub(super) async fn in_parts<T: Clone + Send + 'static, R: Send + 'static>(
        &self,
        items: Vec<T>,
        change: impl Fn(&mut Txn<'_>, Vec<T>) -> Result<R, StoreError> + Clone + Send + Sync + 'static,
    ) -> Result<Vec<R>, StoreError> {
        let parts: Vec<_> = items.chunks(CUSTOMERS_PER_TRANSACTION).map(<[T]>::to_vec).collect();
        let mut results = Vec::with_capacity(parts.len());
        for part in parts {
            let change = change.clone();
            results.push(self.writer.run(move |txn| change(txn, part)).await?);
        }
        Ok(results)
    }
}
