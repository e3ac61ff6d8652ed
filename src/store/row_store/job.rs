//! A transaction on its way to the writer of a backend, and how long its caller waits.

use std::time::Duration;

use tokio::sync::oneshot;

use crate::store::StoreError;
use crate::store::rows::txn::Txn;

/// A caller gets [`StoreError::Stalled`] after this long without an answer.
pub(crate) const STALLED_AFTER: Duration = Duration::from_secs(3);

/// Where the answer to a transaction arrives.
pub(crate) type Answer<T> = oneshot::Receiver<Result<T, StoreError>>;

/// A transaction on its way to the writer.
pub(crate) trait Job: Send {
    /// Runs it. Whether there is something to commit.
    fn run(&mut self, txn: &mut Txn<'_>) -> bool;
    /// Answers the caller.
    fn finish(self: Box<Self>, durable: Result<(), StoreError>);
}

/// The result of a transaction, and the way to its caller.
pub(crate) struct Reply<T> {
    result: Option<Result<T, StoreError>>,
    caller: oneshot::Sender<Result<T, StoreError>>,
}

impl<T> Reply<T> {
    /// The reply to a transaction that has yet to run, and where its answer arrives.
    pub(crate) fn new() -> (Self, Answer<T>) {
        let (caller, answer) = oneshot::channel();
        (Self { result: None, caller }, answer)
    }

    /// Keeps the result. Whether there is something to commit.
    pub(crate) fn set(&mut self, result: Result<T, StoreError>) -> bool {
        self.result.insert(result).is_ok()
    }

    /// Answers with the result, if it is durable.
    pub(crate) fn send(self, durable: Result<(), StoreError>) {
        let answer = match (durable, self.result) {
            (Ok(()), Some(result)) => result,
            (Ok(()), None) => Err(StoreError::Closed),
            (Err(error), _) => Err(error),
        };
        // The caller may have stopped waiting; the transaction stands all the same.
        let _ = self.caller.send(answer);
    }
}

/// Waits for [`STALLED_AFTER`] at most.
pub(crate) async fn in_time<T>(work: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
    tokio::time::timeout(STALLED_AFTER, work).await.unwrap_or(Err(StoreError::Stalled))
}
