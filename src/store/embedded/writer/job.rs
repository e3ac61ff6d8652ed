//! A transaction on its way to the writer's thread.

use tokio::sync::oneshot;

use crate::store::StoreError;
use crate::store::rows::txn::Txn;

/// A transaction on its way to the thread.
pub(super) trait Job: Send {
    /// Runs it. Whether there is something to commit.
    fn run(&mut self, txn: &mut Txn<'_>) -> bool;
    /// Answers the caller.
    fn finish(self: Box<Self>, durable: Result<(), StoreError>);
}

/// A closure whose result is sent to its caller.
pub(super) struct Transaction<F, T> {
    pub(super) work: Option<F>,
    pub(super) result: Option<Result<T, StoreError>>,
    pub(super) reply: oneshot::Sender<Result<T, StoreError>>,
}

impl<F, T> Job for Transaction<F, T>
where
    F: FnOnce(&mut Txn<'_>) -> Result<T, StoreError> + Send,
    T: Send,
{
    fn run(&mut self, txn: &mut Txn<'_>) -> bool {
        self.result = self.work.take().map(|work| work(txn));
        matches!(self.result, Some(Ok(_)))
    }

    fn finish(self: Box<Self>, durable: Result<(), StoreError>) {
        let answer = match (durable, self.result) {
            (Ok(()), Some(result)) => result,
            (Ok(()), None) => Err(StoreError::Closed),
            (Err(error), _) => Err(error),
        };
        // The caller may have stopped waiting; the transaction stands all the same.
        let _ = self.reply.send(answer);
    }
}
