//! What a store in a database keeps its rows in: reads, each on a connection of its own, and the way to the writer.

use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex};

use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::{AbortHandle, JoinHandle};

use super::database::{Database, Session, Trouble};
use super::known::{Known, fan_entry};
use super::leases::Leases;
use super::state::{SILENT, State, lock};
use super::writer::Repeatable;
use crate::store::row_store::{Answer, Backend, Job, Patience, ReadOnce, Reply, Transaction, in_time};
use crate::store::rows::clue::Print;
use crate::store::rows::ids::FanNumber;
use crate::store::rows::view::{Damaged, View};
use crate::store::rows::watch::Watches;
use crate::store::{Counts, LogStatus, Replicas, StoreError};

/// What a store in a database keeps its rows in.
pub struct Shared {
    pub(super) database: Arc<dyn Database>,
    pub(super) state: Arc<State>,
    pub(super) jobs: Mutex<Option<mpsc::Sender<Box<dyn Job>>>>,
    pub(super) writing: tokio::sync::Mutex<Option<JoinHandle<()>>>,
    pub(super) reading: Mutex<Vec<Box<dyn Session>>>,
    pub(super) reads: Semaphore,
    pub(super) damaged: Damaged,
    pub(super) leases: Box<dyn Leases>,
    /// Follows the other replicas, and notifies them.
    pub(super) following: Mutex<Vec<AbortHandle>>,
}

impl Shared {
    #[cfg(test)]
    pub(in crate::store) fn database(&self) -> &dyn Database {
        &*self.database
    }

    async fn hand_in<T: Send + 'static>(&self, work: impl Transaction<T>) -> Result<Answer<T>, StoreError> {
        let jobs = lock(&self.jobs).clone();
        let jobs = jobs.ok_or(StoreError::Closed)?;
        let (reply, answer) = Reply::new();
        let job = Box::new(Repeatable { work, reply });
        jobs.send(job).await.map_err(|_| StoreError::Closed)?;
        Ok(answer)
    }

    async fn read_once<T>(&self, read: impl ReadOnce<T>) -> Result<T, StoreError> {
        let _permit = self.reads.acquire().await.map_err(|_| StoreError::Closed)?;
        let idle = lock(&self.reading).pop();
        if let Some(connection) = idle.filter(|connection| !connection.is_closed()) {
            // It may have ended while it was idle.
            if let Ok(result) = self.read_over(connection, &read).await {
                return result;
            }
        }
        let connection = self.database.open().await.map_err(unavailable)?;
        self.read_over(connection, &read).await.unwrap_or_else(|error| Err(unavailable(error)))
    }

    /// Reads over a connection, which is idle again afterwards.
    async fn read_over<T>(
        &self,
        connection: Box<dyn Session>,
        read: &impl ReadOnce<T>,
    ) -> Result<Result<T, StoreError>, Trouble> {
        let mut known = Known::nothing(self.state.salt);
        let result = Self::read_with(&*connection, &mut known, &self.damaged, read).await?;
        self.state.answered();
        lock(&self.reading).push(connection);
        Ok(result)
    }

    async fn read_with<T>(
        connection: &dyn Session,
        known: &mut Known,
        damaged: &Damaged,
        read: &impl ReadOnce<T>,
    ) -> Result<Result<T, StoreError>, Trouble> {
        let mut is_open = false;
        loop {
            let trial = damaged.trial();
            let mut result = read(&View::new(&*known, &trial));
            let wanted = known.take_wanted();
            if wanted.is_empty() {
                if trial.keys().len() > damaged.keys().len() {
                    result = read(&View::new(&*known, damaged));
                }
                if is_open {
                    connection.end_read().await?;
                }
                return Ok(result);
            }
            if is_open {
                connection.read_on(wanted).await?.add_to(known);
            } else {
                connection.begin_read(wanted).await?.add_to(known);
                is_open = true;
            }
        }
    }
}

async fn answered<T>(answer: Answer<T>) -> Result<T, StoreError> {
    answer.await.unwrap_or(Err(StoreError::Closed))
}

impl Backend for Shared {
    async fn read<T: Send>(&self, read: impl ReadOnce<T>) -> Result<T, StoreError> {
        // Nothing is written here: whatever takes too long is the database's, or the way to it.
        match in_time(self.read_once(read)).await {
            Err(StoreError::Stalled) => Err(StoreError::Unavailable(SILENT.to_owned())),
            answered => answered,
        }
    }

    async fn submit<T: Send + 'static>(&self, work: impl Transaction<T>) -> Result<Answer<T>, StoreError> {
        in_time(self.hand_in(work)).await
    }

    async fn answer<T: Send + 'static>(
        &self,
        answer: Answer<T>,
        patience: Patience,
    ) -> Result<T, StoreError> {
        match patience {
            Patience::InTime => in_time(answered(answer)).await,
            Patience::UntilDecided => answered(answer).await,
        }
    }

    async fn run<T: Send + 'static>(&self, work: impl Transaction<T>) -> Result<T, StoreError> {
        in_time(async { answered(self.hand_in(work).await?).await }).await
    }

    async fn indexed(&self) -> Result<(), StoreError> {
        Ok(())
    }

    fn ready(&self) -> Result<(), StoreError> {
        if self.state.is_away() {
            return Err(StoreError::Unavailable(SILENT.to_owned()));
        }
        if self.state.is_stuck() {
            return Err(StoreError::Stalled);
        }
        Ok(())
    }

    fn counts(&self) -> Counts {
        self.state.counts_now()
    }

    fn feed_head(&self) -> watch::Receiver<u64> {
        self.state.feed_head.subscribe()
    }

    fn damaged(&self) -> &Damaged {
        &self.damaged
    }

    fn watches(&self) -> &Watches {
        &self.state.watches
    }

    fn salt(&self) -> [u8; 16] {
        self.state.salt
    }

    fn index_entry(print: Print, fan: FanNumber) -> Option<Vec<u8>> {
        Some(fan_entry(print, fan))
    }

    fn replicas(&self) -> Option<&dyn Replicas> {
        Some(&*self.leases)
    }

    fn free_disk_bytes(&self) -> Option<u64> {
        None
    }

    fn log_status(&self) -> Option<LogStatus> {
        None
    }

    async fn failed(&self) -> String {
        let mut failure = self.state.failure.subscribe();
        // The state, which has the sender, lives as long as this.
        let reason = failure.wait_for(Option::is_some).await.ok().and_then(|reason| reason.clone());
        reason.unwrap_or_default()
    }

    async fn close(&self) {
        drop(lock(&self.jobs).take());
        // What cannot be committed now is given up.
        self.state.is_closing.store(true, Relaxed);
        if let Some(writing) = self.writing.lock().await.take() {
            let _ = writing.await;
        }
        lock(&self.following).drain(..).for_each(|task| task.abort());
        if let Err(error) = self.leases.leave().await {
            tracing::debug!(%error, "the other replicas will notice later that this one has stopped");
        }
    }
}

impl Drop for Shared {
    /// As if the process were killed: what was handed in may still be committed.
    fn drop(&mut self) {
        lock(&self.following).drain(..).for_each(|task| task.abort());
    }
}

fn unavailable(error: Trouble) -> StoreError {
    StoreError::Unavailable(error.reason)
}
