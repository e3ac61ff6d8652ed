//! The one thread that writes, and the acknowledgement rule.
//!
//! Callers hand in transactions and wait. The thread runs each against the tree plus what is already decided, gathers
//! whatever else is waiting into a [`group`](super::writer::groups), commits the group as one batch, and only then answers. So
//! **nobody is told "done" before it is durable**, one caller alone waits for nobody, and many share the price of one
//! sync.
//!
//! "Durable" is one of these:
//!
//! * With a [journal](super::journal): the batch was appended to it, and `fdatasync` has returned. A database that a
//!   crash leaves behind is given the rest when it is opened.
//! * Without: sled 0.34.7 has it. `Tree::apply_batch` (`tree.rs:376-401`) makes the batch atomic: its log messages lie
//!   between a manifest and a seal (`pagecache/mod.rs:889-918`), and recovery drops a batch whose seal it does not find.
//!
//! What sled is told to flush is durable, which the journal's folding rests on as well:
//!
//! * `Db::flush` waits until the log is stable up to all that was reserved (`pagecache/iobuf.rs:1011-1015`, `900-990`),
//!   and a position is stable once its buffer was written and `sync_file_range` returned (`iobuf.rs:729-753`), which in
//!   this program is `fdatasync`: see [`durable_sync`](super::engine::durable_sync).
//! * A write that fails is remembered for good and returned by every later flush (`iobuf.rs:916-925`); but who waits is
//!   not always told (`pagecache/logger.rs:438-446`). Hence the watchdog.
//!
//! An I/O error is final: the rest of the process's life every transaction is refused, because what the disk
//! holds is known only after a restart (Linux reports a failed sync once; retrying it would succeed and lie).

pub(crate) mod groups;

use std::panic::{AssertUnwindSafe, catch_unwind};
#[cfg(test)]
use std::sync::atomic::AtomicBool;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot, watch};

use super::engine::Engine;
use super::engine::sled::panic_text;
use super::rows::txn::{Meta, Txn};
use super::writer::groups::{Groups, Inbox, Readers};
use crate::store::{Counts, StoreError};

const WAITING_MAX: usize = 4_096;
/// A caller is told [`StoreError::Stalled`] after this long without an answer.
const STALLED_AFTER: Duration = Duration::from_secs(3);
/// A writer stuck in one commit for this long is beyond help; sled is known to leave waiters hanging.
pub(crate) const ABORT_AFTER: Duration = Duration::from_secs(10);

/// A transaction on its way to the thread.
pub(crate) trait Job: Send {
    /// Runs it. Whether there is something to commit.
    fn run(&mut self, txn: &mut Txn<'_>) -> bool;
    /// Answers the caller.
    fn finish(self: Box<Self>, durable: Result<(), StoreError>);
}

struct Transaction<F, T> {
    work: Option<F>,
    result: Option<Result<T, StoreError>>,
    reply: oneshot::Sender<Result<T, StoreError>>,
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

/// What the thread tells everybody else.
pub(crate) struct Shared {
    counts: Mutex<Counts>,
    feed_head: watch::Sender<u64>,
    failure: watch::Sender<Option<String>>,
    free_mb: AtomicU64,
    /// Milliseconds since `started` at which there was progress last, plus one; 0 when idle.
    busy_since: AtomicU64,
    started: Instant,
    min_free_mb: u64,
    /// As if the disk were full.
    #[cfg(test)]
    pub(crate) is_full: AtomicBool,
}

impl Shared {
    pub(crate) fn counts(&self) -> Counts {
        *self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn feed_head(&self) -> watch::Receiver<u64> {
        self.feed_head.subscribe()
    }

    pub(crate) fn failure(&self) -> watch::Receiver<Option<String>> {
        self.failure.subscribe()
    }

    /// Whether a transaction would be accepted now.
    pub(crate) fn ready(&self) -> Result<(), StoreError> {
        if let Some(reason) = self.failed() {
            return Err(StoreError::Failed(reason));
        }
        #[cfg(test)]
        if self.is_full.load(Ordering::Relaxed) {
            return Err(StoreError::NoSpace { min_mb: 1 });
        }
        if self.free_mb.load(Ordering::Relaxed) < self.min_free_mb {
            return Err(StoreError::NoSpace { min_mb: self.min_free_mb });
        }
        if self.busy_for().is_some_and(|busy| busy > STALLED_AFTER) {
            return Err(StoreError::Stalled);
        }
        Ok(())
    }

    fn busy_for(&self) -> Option<Duration> {
        let since = self.busy_since.load(Ordering::Relaxed).checked_sub(1)?;
        Some(self.started.elapsed().saturating_sub(Duration::from_millis(since)))
    }

    /// What was committed last.
    pub(crate) fn committed(&self, counts: Counts) {
        *self.counts.lock().unwrap_or_else(PoisonError::into_inner) = counts;
        self.feed_head.send_if_modified(|head| std::mem::replace(head, counts.feed_head) != counts.feed_head);
    }

    pub(crate) fn set_busy(&self, busy: bool) {
        let now = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX - 1) + 1;
        self.busy_since.store(if busy { now } else { 0 }, Ordering::Relaxed);
    }

    pub(crate) fn progressed(&self) {
        // With a manual writer nobody is ever busy: it takes the time that the simulation says it takes.
        if self.busy_since.load(Ordering::Relaxed) > 0 {
            self.set_busy(true);
        }
    }

    pub(crate) fn look_at_space(&self, engine: &dyn Engine) {
        let free_mb = engine.free_bytes().map_or(u64::MAX, |bytes| bytes >> 20);
        self.free_mb.store(free_mb, Ordering::Relaxed);
    }

    /// Bytes free where the store is, in whole MiB, as of the last look.
    pub(crate) fn free_bytes(&self) -> Option<u64> {
        let free_mb = self.free_mb.load(Ordering::Relaxed);
        (free_mb < u64::MAX).then_some(free_mb << 20)
    }

    /// Why nothing is written any more.
    pub(crate) fn failed(&self) -> Option<String> {
        self.failure.borrow().clone()
    }

    pub(crate) fn fail(&self, reason: &str) {
        self.failure.send_if_modified(|known| {
            let first = known.is_none();
            if first {
                tracing::error!(reason, "the store has failed; nothing is acknowledged any more");
                *known = Some(reason.to_owned());
            }
            first
        });
    }
}

/// The handle on the thread.
pub(crate) struct Writer {
    jobs: Mutex<Option<mpsc::Sender<Box<dyn Job>>>>,
    thread: Mutex<Option<JoinHandle<()>>>,
    pub(crate) shared: Arc<Shared>,
}

impl Writer {
    /// Starts the thread.
    pub(crate) fn start(
        engine: &Arc<dyn Engine>,
        readers: Readers,
        meta: Meta,
        min_free_mb: u64,
    ) -> std::io::Result<Self> {
        let (writer, mut groups, inbox) = Self::idle(engine, readers, meta, min_free_mb);
        let shared = writer.shared.clone();
        let thread = std::thread::Builder::new().name("store-writer".to_owned()).spawn(move || {
            if let Err(panic) = catch_unwind(AssertUnwindSafe(|| groups.serve(inbox))) {
                let shared = groups.shared();
                shared.set_busy(false);
                shared.fail(&format!("the writer panicked: {}", panic_text(&*panic)));
            }
        })?;
        let (watched, disk) = (Arc::downgrade(&shared), Arc::downgrade(engine));
        std::thread::Builder::new()
            .name("store-watchdog".to_owned())
            .spawn(move || watch_over(&watched, &disk))?;
        *writer.thread.lock().unwrap_or_else(PoisonError::into_inner) = Some(thread);
        Ok(writer)
    }

    /// A writer without a thread: its caller commits through the [`ManualWriter`].
    pub(crate) fn manual(engine: &Arc<dyn Engine>, readers: Readers, meta: Meta) -> (Self, ManualWriter) {
        let (writer, groups, inbox) = Self::idle(engine, readers, meta, 0);
        (writer, ManualWriter { groups, inbox, first: None })
    }

    fn idle(
        engine: &Arc<dyn Engine>,
        readers: Readers,
        meta: Meta,
        min_free_mb: u64,
    ) -> (Self, Groups, Inbox) {
        let (jobs, inbox) = mpsc::channel(WAITING_MAX);
        let shared = Arc::new(Shared {
            counts: Mutex::new(meta.counts),
            feed_head: watch::Sender::new(meta.counts.feed_head),
            failure: watch::Sender::new(None),
            free_mb: AtomicU64::new(u64::MAX),
            busy_since: AtomicU64::new(0),
            started: Instant::now(),
            min_free_mb,
            #[cfg(test)]
            is_full: AtomicBool::new(false),
        });
        shared.look_at_space(&**engine);
        let groups = Groups::new(engine.clone(), readers, meta, shared.clone());
        (Self { jobs: Mutex::new(Some(jobs)), thread: Mutex::default(), shared }, groups, inbox)
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
        self.shared.ready()?;
        let jobs =
            self.jobs.lock().unwrap_or_else(PoisonError::into_inner).clone().ok_or(StoreError::Closed)?;
        let (reply, answer) = oneshot::channel();
        let job = Box::new(Transaction { work: Some(work), result: None, reply });
        jobs.send(job).await.map_err(|_| self.gone())?;
        Ok(answer)
    }

    async fn answered<T>(&self, answer: Answer<T>) -> Result<T, StoreError> {
        answer.await.unwrap_or_else(|_| Err(self.gone()))
    }

    fn gone(&self) -> StoreError {
        self.shared.failed().map_or(StoreError::Closed, StoreError::Failed)
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

/// How long is waited for the answer to a transaction handed in.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Patience {
    /// Until a caller has to be told [`StoreError::Stalled`], and does not know what becomes of it.
    InTime,
    /// Until it is durable or refused; [`ABORT_AFTER`] bounds what hangs.
    UntilDecided,
}

/// Where the answer to a transaction arrives.
type Answer<T> = oneshot::Receiver<Result<T, StoreError>>;

async fn in_time<T>(work: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
    tokio::time::timeout(STALLED_AFTER, work).await.unwrap_or(Err(StoreError::Stalled))
}

/// Looks once a second whether the writer is stuck in one commit, whether the engine still works, and how much space there
/// is: while there is too little nobody writes, so nobody else would notice that it has come back.
fn watch_over(shared: &Weak<Shared>, engine: &Weak<dyn Engine>) {
    while let (Some(shared), Some(engine)) = (shared.upgrade(), engine.upgrade()) {
        shared.look_at_space(&*engine);
        if let Err(error) = engine.health() {
            shared.fail(&error.0);
        }
        drop(engine);
        if shared.busy_for().is_some_and(|busy| busy > ABORT_AFTER) {
            tracing::error!("the store's writer is stuck in one commit; aborting the process");
            std::process::abort();
        }
        drop(shared);
        std::thread::park_timeout(Duration::from_secs(1));
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
