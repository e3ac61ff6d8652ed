//! What a replica does with others beside it, whichever database it is: it tells them something with its next commit, and
//! takes leave of them.

use std::sync::Arc;

use async_trait::async_trait;
use tokio::sync::mpsc;

use super::state::{State, lock};
use super::writer::Repeatable;
use crate::store::row_store::{Job, Reply, in_time};
use crate::store::rows::txn::Txn;
use crate::store::{Replicas, Signal, StoreError};

/// The replicas and their leases, as one of them sees them.
#[async_trait]
pub(in crate::store) trait Leases: Replicas {
    /// Reads the clock of the database, before anybody reads the time from the one that follows it.
    async fn read_clock(&self) -> Result<(), StoreError>;

    /// Releases all leases, and takes leave of the other replicas.
    async fn leave(&self) -> Result<(), StoreError>;
}

/// The way to tell other replicas something.
pub(in crate::store) struct Telling {
    pub(super) state: Arc<State>,
    /// The way to the writer.
    pub(super) jobs: mpsc::WeakSender<Box<dyn Job>>,
}

impl Telling {
    /// See [`Replicas::tell`].
    pub(in crate::store) async fn tell(&self, signal: Signal) -> Result<(), StoreError> {
        if !self.state.has_others() {
            return Ok(());
        }
        let signal = serde_json::to_string(&signal).map_err(|error| StoreError::Failed(error.to_string()))?;
        lock(&self.state.signals).push(signal);
        // The next commit takes it along; this one, if there is no other.
        let jobs = self.jobs.upgrade().ok_or(StoreError::Closed)?;
        let (reply, answer) = Reply::new();
        let nothing = Box::new(Repeatable { work: |_: &mut Txn<'_>| Ok(()), reply });
        in_time(async {
            jobs.send(nothing).await.map_err(|_| StoreError::Closed)?;
            answer.await.unwrap_or(Err(StoreError::Closed))
        })
        .await
    }
}
