//! A transaction on its way to the writer's thread: it runs once.

use crate::store::StoreError;
use crate::store::row_store::{Job, Reply};
use crate::store::rows::txn::Txn;

/// A closure whose result is sent to its caller.
pub(super) struct Transaction<F, T> {
    pub(super) work: Option<F>,
    pub(super) reply: Reply<T>,
}

impl<F, T> Job for Transaction<F, T>
where
    F: FnOnce(&mut Txn<'_>) -> Result<T, StoreError> + Send,
    T: Send,
{
    fn run(&mut self, txn: &mut Txn<'_>) -> bool {
        self.work.take().is_some_and(|work| self.reply.set(work(txn)))
    }

    fn finish(self: Box<Self>, durable: Result<(), StoreError>) {
        self.reply.send(durable);
    }
}
