//! The one thread that writes, and the acknowledgement rule.
//!
//! Callers hand in transactions and wait. The thread decides each against what is published and what is already
//! decided, gathers whatever else is waiting into a [group](groups), appends the group to the write-ahead log as one
//! record, publishes it in the memtable once that is durable, and only then answers. So **nobody is told "done"
//! before it is durable**, one caller alone waits for nobody, and many share the price of one sync.
//!
//! An I/O error is final: for the rest of the process's life every transaction is refused, because what the disk holds
//! is known only after a restart. A full disk is not: the group is taken back and refused, and whoever comes
//! later is accepted once there is space.

mod groups;
mod health;
mod job;

use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use tokio::sync::mpsc;

use crate::store::StoreError;
use crate::store::embedded::watchdog::caught;
use crate::store::row_store::{Answer, Job, Patience, Reply, in_time};
use crate::store::rows::txn::{Meta, Txn};
use groups::{Groups, Inbox};
pub(crate) use groups::{InMemory, Parts};
use health::watch_disk;
pub(crate) use health::{Disk, Health};
use job::Transaction;

const WAITING_MAX: usize = 4_096;

/// The handle on the thread.
pub(crate) struct Writer {
    jobs: Mutex<Option<mpsc::Sender<Box<dyn Job>>>>,
    thread: Mutex<Option<JoinHandle<()>>>,
    pub(crate) health: Arc<Health>,
}

impl Writer {
    /// Starts the thread.
    pub(crate) fn start(
        parts: Parts,
        meta: Meta,
        disk: Box<dyn Disk>,
        min_free_mb: u64,
    ) -> std::io::Result<Self> {
        let (writer, mut groups, inbox) = Self::idle(parts, meta, disk, min_free_mb);
        let health = writer.health.clone();
        let thread = std::thread::Builder::new().name("store-writer".to_owned()).spawn(move || {
            if let Err(panic) = caught(|| groups.serve(inbox)) {
                let health = groups.health();
                health.set_busy(false);
                health.failure().fail(&format!("the writer panicked: {panic}"));
            }
        })?;
        let watched = Arc::downgrade(&health);
        std::thread::Builder::new().name("store-health".to_owned()).spawn(move || watch_disk(&watched))?;
        *writer.thread.lock().unwrap_or_else(PoisonError::into_inner) = Some(thread);
        Ok(writer)
    }

    /// A writer without a thread: its caller commits through the [`ManualWriter`].
    pub(crate) fn manual(parts: Parts, meta: Meta, disk: Box<dyn Disk>) -> (Self, ManualWriter) {
        let (writer, groups, inbox) = Self::idle(parts, meta, disk, 0);
        (writer, ManualWriter { groups, inbox, first: None })
    }

    fn idle(parts: Parts, meta: Meta, disk: Box<dyn Disk>, min_free_mb: u64) -> (Self, Groups, Inbox) {
        let (jobs, inbox) = mpsc::channel(WAITING_MAX);
        let failure = parts.database.failure().clone();
        let health = Arc::new(Health::new(meta.counts, failure, disk, min_free_mb));
        let groups = Groups::new(parts, meta, health.clone());
        (Self { jobs: Mutex::new(Some(jobs)), thread: Mutex::default(), health }, groups, inbox)
    }

    /// Hands in a transaction; the receiver answers once it is durable or refused.
    pub(crate) async fn submit<T, F>(&self, work: F) -> Result<Answer<T>, StoreError>
    where
        F: FnOnce(&mut Txn<'_>) -> Result<T, StoreError> + Send + 'static,
        T: Send + 'static,
    {
        in_time(self.hand_in(work)).await
    }

    /// Waits for the answer to a transaction handed in.
    pub(crate) async fn answer<T>(&self, answer: Answer<T>, patience: Patience) -> Result<T, StoreError> {
        let answered = self.answered(answer);
        match patience {
            Patience::InTime => in_time(answered).await,
            Patience::UntilDecided => answered.await,
        }
    }

    /// Hands in a transaction and waits until it is durable.
    pub(crate) async fn run<T, F>(&self, work: F) -> Result<T, StoreError>
    where
        F: FnOnce(&mut Txn<'_>) -> Result<T, StoreError> + Send + 'static,
        T: Send + 'static,
    {
        // One deadline over both: WeCom waits five seconds in all.
        in_time(async { self.answered(self.hand_in(work).await?).await }).await
    }

    async fn hand_in<T, F>(&self, work: F) -> Result<Answer<T>, StoreError>
    where
        F: FnOnce(&mut Txn<'_>) -> Result<T, StoreError> + Send + 'static,
        T: Send + 'static,
    {
        self.health.ready()?;
        let jobs =
            self.jobs.lock().unwrap_or_else(PoisonError::into_inner).clone().ok_or(StoreError::Closed)?;
        let (reply, answer) = Reply::new();
        let job = Box::new(Transaction { work: Some(work), reply });
        jobs.send(job).await.map_err(|_| self.gone())?;
        Ok(answer)
    }

    async fn answered<T>(&self, answer: Answer<T>) -> Result<T, StoreError> {
        answer.await.unwrap_or_else(|_| Err(self.gone()))
    }

    fn gone(&self) -> StoreError {
        self.health.failure().reason().map_or(StoreError::Closed, StoreError::Failed)
    }

    /// Hands in a transaction and waits on this thread, which may be one that runs async tasks.
    #[cfg(test)]
    pub(crate) fn run_here<T, F>(&self, work: F) -> Result<T, StoreError>
    where
        F: FnOnce(&mut Txn<'_>) -> Result<T, StoreError> + Send + 'static,
        T: Send + 'static,
    {
        let jobs = self.jobs.lock().unwrap().clone().ok_or(StoreError::Closed)?;
        let (reply, mut answer) = Reply::new();
        let job = Box::new(Transaction { work: Some(work), reply });
        jobs.try_send(job).map_err(|_| StoreError::Closed)?;
        loop {
            match answer.try_recv() {
                Ok(result) => return result,
                Err(tokio::sync::oneshot::error::TryRecvError::Empty) => std::thread::yield_now(),
                Err(tokio::sync::oneshot::error::TryRecvError::Closed) => return Err(self.gone()),
            }
        }
    }

    /// Lets the thread finish what was handed in, and waits for its end.
    pub(crate) async fn close(&self) {
        drop(self.jobs.lock().unwrap_or_else(PoisonError::into_inner).take());
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread {
            let _ = tokio::task::spawn_blocking(move || thread.join()).await;
        }
    }
}

/// The writer of a store without threads: a simulation calls it, and so decides what happens before and after
/// each commit. When it is dropped, submitted transactions are neither committed nor answered.
pub struct ManualWriter {
    groups: Groups,
    inbox: Inbox,
    first: Option<Box<dyn Job>>,
}

impl ManualWriter {
    /// Waits until a transaction is submitted. False when the store is closed and there will be no more.
    pub async fn has_work(&mut self) -> bool {
        if self.first.is_none() {
            self.first = self.inbox.recv().await;
        }
        self.first.is_some()
    }

    /// Commits the submitted transactions in groups, as the thread would, and answers their callers.
    pub fn commit(&mut self) {
        if let Some(first) = self.first.take() {
            self.groups.turn(first, &mut self.inbox);
        }
    }
}
