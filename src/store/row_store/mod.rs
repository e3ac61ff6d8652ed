//! [`Store`](super::Store) over rows, whatever keeps them: each method hands a transaction to a [`Backend`], or reads.
//!
//! What a transaction does, and what a read returns, is in the file of its subject in `business`; how rows become
//! durable and visible is the backend's. Leases are here, in the memory of one process.

#![expect(private_bounds, reason = "all backends are in this crate")]

mod backend;
mod feed;
mod groups;
mod history;
mod job;
mod leases;
mod leasing;
mod moving;
mod people;
mod reconciling;
mod slices;
mod store;
mod suites;
mod sweeping;
mod trail;
mod waits;

use std::collections::VecDeque;
use std::sync::Arc;

pub(crate) use backend::{Backend, Patience, ReadOnce, Transaction};
pub(crate) use job::{Answer, Job, Reply, STALLED_AFTER, in_time};
use leases::FanLeases;

use super::StoreError;
use super::rows::expiry::Expiries;
use super::rows::txn::Txn;
use super::rows::work_queue::WorkQueues;

/// Transactions submitted ahead of their results.
const AHEAD: usize = 32;
/// Rows in each transaction of a change of many: even if each of them has to be read from a disk, others have their
/// turn within tens of milliseconds.
const ROWS_PER_TRANSACTION: usize = 256;

/// What a store keeps, and for how long.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// The maximum number of events in the inbox, and of messages in quarantine.
    pub(crate) inbox_events_max: u64,
    /// How many days messages are remembered for deduplication.
    pub(crate) dedupe_days: u32,
    /// How many days a quarantined message is kept.
    pub(crate) quarantine_days: u32,
}

/// A store over rows.
pub struct RowStore<B> {
    backend: Arc<B>,
    limits: Limits,
    queues: Arc<WorkQueues>,
    fan_leases: FanLeases,
    expiries: Expiries,
}

impl<B: Backend> RowStore<B> {
    /// A store over this backend, which reports the rows that it commits to `queues`.
    pub(crate) fn new(backend: B, limits: Limits, queues: Arc<WorkQueues>) -> Self {
        Self {
            backend: Arc::new(backend),
            limits,
            queues,
            fan_leases: FanLeases::default(),
            expiries: Expiries::default(),
        }
    }

    pub(crate) fn backend(&self) -> &B {
        &self.backend
    }

    /// Runs `settle` for each outcome in a transaction of its own, and ends the leases. Work on a damaged
    /// record stays leased and is counted, so that its call is not made again and again. However slow the
    /// disk is, work stays leased until its transaction is decided: leased again before that, it would be
    /// done twice.
    async fn settle_all<O: Clone + Send + 'static, T: Send + 'static>(
        &self,
        outcomes: Vec<(Vec<u8>, O)>,
        settle: fn(&mut Txn<'_>, O) -> Result<T, StoreError>,
    ) -> Result<Vec<T>, StoreError> {
        let (lease_keys, outcomes): (Vec<_>, Vec<_>) = outcomes.into_iter().unzip();
        let transactions = outcomes.into_iter().map(|outcome| move |txn: &mut Txn<'_>| settle(txn, outcome));
        let settled = self.run_all(transactions, Patience::UntilDecided).await;
        let (mut results, mut first_error) = (Vec::new(), Ok(()));
        for (key, settled) in lease_keys.iter().zip(settled) {
            match self.backend.damaged().skip(key, settled) {
                Ok(None) => {}
                Ok(Some(result)) => {
                    self.release(key, false);
                    results.push(result);
                }
                Err(error) => {
                    self.release(key, true);
                    first_error = first_error.and(Err(error));
                }
            }
        }
        first_error.map(|()| results)
    }

    /// Runs `change` on all items, [`ROWS_PER_TRANSACTION`] in each transaction, one after the other. Returns the
    /// result of each transaction.
    async fn in_parts<T: Clone + Send + 'static, R: Send + 'static>(
        &self,
        items: Vec<T>,
        change: impl FnOnce(&mut Txn<'_>, Vec<T>) -> Result<R, StoreError> + Clone + Send + 'static,
    ) -> Result<Vec<R>, StoreError> {
        let mut results = Vec::new();
        for part in items.chunks(ROWS_PER_TRANSACTION) {
            let (change, part) = (change.clone(), part.to_vec());
            results.push(self.backend.run(move |txn| change(txn, part)).await?);
        }
        Ok(results)
    }

    /// Runs transactions, all of them even after an error. Several are submitted ahead of their results, so
    /// that the writer can group them; not all of them, so that other transactions get in between. The
    /// results are in the same order.
    async fn run_all<T: Send + 'static>(
        &self,
        transactions: impl Iterator<Item = impl Transaction<T>> + Send,
        patience: Patience,
    ) -> Vec<Result<T, StoreError>> {
        let (mut submitted, mut results) = (VecDeque::new(), Vec::new());
        for transaction in transactions {
            if submitted.len() == AHEAD
                && let Some(first) = submitted.pop_front()
            {
                results.push(self.answer(first, patience).await);
            }
            submitted.push_back(self.backend.submit(transaction).await);
        }
        for submitted in submitted {
            results.push(self.answer(submitted, patience).await);
        }
        results
    }

    async fn answer<T: Send + 'static>(
        &self,
        submitted: Result<Answer<T>, StoreError>,
        patience: Patience,
    ) -> Result<T, StoreError> {
        self.backend.answer(submitted?, patience).await
    }
}
