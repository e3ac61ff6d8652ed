//! What a store keeps its rows in.

use tokio::sync::watch;

use super::job::Answer;
use crate::store::rows::clue::Print;
use crate::store::rows::ids::FanNumber;
use crate::store::rows::txn::Txn;
use crate::store::rows::view::{Damaged, View};
use crate::store::rows::watch::Watches;
use crate::store::{Counts, LogStatus, Replicas, StoreError};

/// How long is waited for the answer to a transaction handed in.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Patience {
    /// Until a caller has to be told [`StoreError::Stalled`], and does not know what becomes of it.
    InTime,
    /// Until it is durable or refused.
    UntilDecided,
}

/// A read: what it returns follows from the rows alone. It may run several times, each time with more of the rows at
/// hand; only the result of the last run counts.
pub(crate) trait ReadOnce<T>: Fn(&View<'_>) -> Result<T, StoreError> + Send + Sync {}

impl<T, F: Fn(&View<'_>) -> Result<T, StoreError> + Send + Sync> ReadOnce<T> for F {}

/// A transaction, which may run several times as well: each time on a clone of what it was made with.
pub(crate) trait Transaction<T>:
    FnOnce(&mut Txn<'_>) -> Result<T, StoreError> + Clone + Send + 'static
{
}

impl<T, F: FnOnce(&mut Txn<'_>) -> Result<T, StoreError> + Clone + Send + 'static> Transaction<T> for F {}

/// What a store keeps its rows in: reads see what is committed, and transactions are decided one after the other.
pub(crate) trait Backend: Send + Sync + 'static {
    /// Reads rows as of one instant.
    fn read<T: Send>(&self, read: impl ReadOnce<T>) -> impl Future<Output = Result<T, StoreError>> + Send;

    /// Hands in a transaction; the receiver answers once it is durable or refused.
    fn submit<T: Send + 'static>(
        &self,
        work: impl Transaction<T>,
    ) -> impl Future<Output = Result<Answer<T>, StoreError>> + Send;

    /// Waits for the answer to a transaction handed in.
    fn answer<T: Send + 'static>(
        &self,
        answer: Answer<T>,
        patience: Patience,
    ) -> impl Future<Output = Result<T, StoreError>> + Send;

    /// Hands in a transaction and waits until it is durable.
    fn run<T: Send + 'static>(
        &self,
        work: impl Transaction<T>,
    ) -> impl Future<Output = Result<T, StoreError>> + Send;

    /// Waits until fans can be found by their ids.
    fn indexed(&self) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// Whether a transaction would be accepted now.
    fn ready(&self) -> Result<(), StoreError>;

    /// The numbers of records as of the last commit.
    fn counts(&self) -> Counts;

    /// The sequence number of the newest feed entry.
    fn feed_head(&self) -> watch::Receiver<u64>;

    /// The damaged records found since the start.
    fn damaged(&self) -> &Damaged;

    /// What is written while a search goes on.
    fn watches(&self) -> &Watches;

    /// A random secret of this store, for hashes that cannot be made without it.
    fn salt(&self) -> [u8; 16];

    /// The row by which a fan is found, where it is a row.
    fn index_entry(print: Print, fan: FanNumber) -> Option<Vec<u8>>;

    /// See [`Store::replicas`](crate::store::Store::replicas).
    fn replicas(&self) -> Option<&dyn Replicas>;

    /// See [`Store::free_disk_bytes`](crate::store::Store::free_disk_bytes).
    fn free_disk_bytes(&self) -> Option<u64>;

    /// See [`Store::log_status`](crate::store::Store::log_status).
    fn log_status(&self) -> Option<LogStatus>;

    /// See [`Store::failed`](crate::store::Store::failed).
    fn failed(&self) -> impl Future<Output = String> + Send;

    /// See [`Store::close`](crate::store::Store::close).
    fn close(&self) -> impl Future<Output = ()> + Send;
}
