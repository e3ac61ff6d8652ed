//! The one thread that writes, and the acknowledgement rule.
//!
//! Callers hand in transactions and wait. The thread runs each against the tree plus what its group has
//! already decided, gathers whatever else is waiting up to [`GROUP_KEYS_MAX`] keys, commits the group as one
//! batch with one flush, and only then answers. So **nobody is told "done" before it is durable**, one caller
//! alone waits for nobody, and many share the price of one sync.
//!
//! "Durable" rests on this, in sled 0.34.7:
//!
//! * `Tree::apply_batch` (`tree.rs:376-401`) makes the batch atomic: its log messages lie between a manifest and a seal
//!   (`pagecache/mod.rs:889-918`), and recovery drops a batch whose seal it does not find.
//! * `Db::flush` waits until the log is stable up to all that was reserved (`pagecache/iobuf.rs:1011-1015`, `900-990`),
//!   and a position is stable once its buffer was written and `sync_file_range` returned (`iobuf.rs:729-753`), which in
//!   this program is `fdatasync`: see [`durable_sync`](super::durable_sync).
//! * A write that fails is remembered for good and returned by every later flush (`iobuf.rs:916-925`); but who waits is
//!   not always told (`pagecache/logger.rs:438-446`). Hence the watchdog.
//!
//! Beside it the same batch goes to the [journal](super::journal), and both have to be durable.
//!
//! An I/O error is final: the rest of the process's life every transaction is refused, because what the disk
//! holds is known only after a restart (Linux reports a failed sync once; retrying it would succeed and lie).

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot, watch};

use super::super::{Counts, StoreError};
use super::engine::Engine;
use super::frontier::Frontiers;
use super::index::{Index, Print};
use super::keys;
use super::records::encode;
use super::roll::FanNumber;
use super::sled_engine::panic_text;
use super::snapshot::Snapshots;
use super::txn::{Decided, Meta, Overlay, Txn, failed};

/// Batches beyond a hundred keys make sled's memory grow without bound (13.5 GB against 0.6 GB for the same
/// five million records). Two are left: the counters that every group rewrites, and its place in the journal.
const GROUP_KEYS_MAX: usize = 98;
const WAITING_MAX: usize = 4_096;
/// A caller is told [`StoreError::Stalled`] after this long without an answer.
const STALLED_AFTER: Duration = Duration::from_secs(3);
/// A writer stuck in one commit for this long is beyond help; sled is known to leave waiters hanging.
pub(super) const ABORT_AFTER: Duration = Duration::from_secs(10);
const SPACE_LOOKED_AT_EVERY: Duration = Duration::from_millis(100);

/// A transaction on its way to the thread.
trait Job: Send {
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
pub(super) struct Shared {
    counts: Mutex<Counts>,
    feed_head: watch::Sender<u64>,
    failure: watch::Sender<Option<String>>,
    free_mb: AtomicU64,
    /// Milliseconds since `started` at which the current group began, plus one; 0 when idle.
    busy_since: AtomicU64,
    started: Instant,
    min_free_mb: u64,
}

impl Shared {
    pub(super) fn counts(&self) -> Counts {
        *self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn feed_head(&self) -> watch::Receiver<u64> {
        self.feed_head.subscribe()
    }

    pub(super) fn failure(&self) -> watch::Receiver<Option<String>> {
        self.failure.subscribe()
    }

    /// Whether a transaction would be accepted now.
    pub(super) fn ready(&self) -> Result<(), StoreError> {
        if let Some(reason) = self.failure.borrow().clone() {
            return Err(StoreError::Failed(reason));
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

    fn set_busy(&self, busy: bool) {
        let now = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX - 1) + 1;
        self.busy_since.store(if busy { now } else { 0 }, Ordering::Relaxed);
    }

    fn progressed(&self) {
        // By hand nobody is ever busy: it takes the time that the simulation says it takes.
        if self.busy_since.load(Ordering::Relaxed) > 0 {
            self.set_busy(true);
        }
    }

    fn look_at_space(&self, engine: &dyn Engine) {
        let free_mb = engine.free_bytes().map_or(u64::MAX, |bytes| bytes >> 20);
        self.free_mb.store(free_mb, Ordering::Relaxed);
    }

    pub(super) fn fail(&self, reason: &str) {
        tracing::error!(reason, "the store has failed; nothing is acknowledged any more");
        self.failure.send_if_modified(|known| {
            let first = known.is_none();
            known.get_or_insert_with(|| reason.to_owned());
            first
        });
    }
}

/// The handle on the thread.
pub(super) struct Writer {
    jobs: Mutex<Option<mpsc::Sender<Box<dyn Job>>>>,
    thread: Mutex<Option<JoinHandle<()>>>,
    pub(super) shared: Arc<Shared>,
}

impl Writer {
    /// Starts the thread.
    pub(super) fn start(
        engine: &Arc<dyn Engine>,
        readers: Readers,
        meta: Meta,
        min_free_mb: u64,
    ) -> std::io::Result<Self> {
        let (writer, mut group, inbox) = Self::idle(engine, readers, meta, min_free_mb);
        let shared = writer.shared.clone();
        let thread = std::thread::Builder::new().name("store-writer".to_owned()).spawn(move || {
            if let Err(panic) = catch_unwind(AssertUnwindSafe(|| group.serve(inbox))) {
                group.shared.set_busy(false);
                group.shared.fail(&format!("the writer panicked: {}", panic_text(&*panic)));
            }
        })?;
        let (watched, disk) = (Arc::downgrade(&shared), Arc::downgrade(engine));
        std::thread::Builder::new()
            .name("store-watchdog".to_owned())
            .spawn(move || watch_over(&watched, &disk))?;
        *writer.thread.lock().unwrap_or_else(PoisonError::into_inner) = Some(thread);
        Ok(writer)
    }

    /// A writer without a thread: whoever holds the [`Hand`] does its work.
    pub(super) fn by_hand(engine: &Arc<dyn Engine>, readers: Readers, meta: Meta) -> (Self, Hand) {
        let (writer, group, inbox) = Self::idle(engine, readers, meta, 0);
        (writer, Hand { group, inbox, first: None })
    }

    fn idle(
        engine: &Arc<dyn Engine>,
        readers: Readers,
        meta: Meta,
        min_free_mb: u64,
    ) -> (Self, Group, mpsc::Receiver<Box<dyn Job>>) {
        let (jobs, inbox) = mpsc::channel(WAITING_MAX);
        let shared = Arc::new(Shared {
            counts: Mutex::new(meta.counts),
            feed_head: watch::Sender::new(meta.counts.feed_head),
            failure: watch::Sender::new(None),
            free_mb: AtomicU64::new(u64::MAX),
            busy_since: AtomicU64::new(0),
            started: Instant::now(),
            min_free_mb,
        });
        shared.look_at_space(&**engine);
        let (engine, space_looked_at) = (engine.clone(), Instant::now());
        let group = Group { engine, readers, meta, shared: shared.clone(), space_looked_at };
        (Self { jobs: Mutex::new(Some(jobs)), thread: Mutex::default(), shared }, group, inbox)
    }

    /// Hands in a transaction; the receiver answers once it is durable or refused.
    pub(super) async fn submit<T, F>(
        &self,
        work: F,
    ) -> Result<oneshot::Receiver<Result<T, StoreError>>, StoreError>
    where
        F: FnOnce(&mut Txn<'_>) -> Result<T, StoreError> + Send + 'static,
        T: Send + 'static,
    {
        self.shared.ready()?;
        let jobs =
            self.jobs.lock().unwrap_or_else(PoisonError::into_inner).clone().ok_or(StoreError::Closed)?;
        let (reply, answer) = oneshot::channel();
        let job = Box::new(Transaction { work: Some(work), result: None, reply });
        match tokio::time::timeout(STALLED_AFTER, jobs.send(job)).await {
            Ok(Ok(())) => Ok(answer),
            Ok(Err(_)) => Err(self.gone()),
            Err(_) => Err(StoreError::Stalled),
        }
    }

    /// Waits for the answer to a transaction handed in.
    pub(super) async fn answer<T>(
        &self,
        answer: oneshot::Receiver<Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        match tokio::time::timeout(STALLED_AFTER, answer).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Err(self.gone()),
            Err(_) => Err(StoreError::Stalled),
        }
    }

    /// Hands in a transaction and waits until it is durable.
    pub(super) async fn run<T, F>(&self, work: F) -> Result<T, StoreError>
    where
        F: FnOnce(&mut Txn<'_>) -> Result<T, StoreError> + Send + 'static,
        T: Send + 'static,
    {
        // One deadline over both: WeCom waits five seconds in all.
        let both = async {
            let answer = self.submit(work).await?;
            self.answer(answer).await
        };
        tokio::time::timeout(STALLED_AFTER, both).await.unwrap_or(Err(StoreError::Stalled))
    }

    fn gone(&self) -> StoreError {
        self.shared.failure.borrow().clone().map_or(StoreError::Closed, StoreError::Failed)
    }

    /// Lets the thread finish what was handed in, and waits for its end.
    pub(super) async fn close(&self) {
        drop(self.jobs.lock().unwrap_or_else(PoisonError::into_inner).take());
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread {
            let _ = tokio::task::spawn_blocking(move || thread.join()).await;
        }
    }
}

/// Looks once a second whether the writer is stuck in one commit, and how much space there is: while there is too
/// little nobody writes, so nobody else would notice that it has come back.
fn watch_over(shared: &Weak<Shared>, engine: &Weak<dyn Engine>) {
    while let (Some(shared), Some(engine)) = (shared.upgrade(), engine.upgrade()) {
        shared.look_at_space(&*engine);
        drop(engine);
        if shared.busy_for().is_some_and(|busy| busy > ABORT_AFTER) {
            tracing::error!("the store's writer is stuck in one commit; aborting the process");
            std::process::abort();
        }
        drop(shared);
        std::thread::park_timeout(Duration::from_secs(1));
    }
}

/// Does the writer's work when told to, for simulations that decide what happens before a commit and after it. Dropped,
/// it leaves unwritten and unanswered what was handed in.
pub struct Hand {
    group: Group,
    inbox: mpsc::Receiver<Box<dyn Job>>,
    first: Option<Box<dyn Job>>,
}

impl Hand {
    /// Waits until a transaction is handed in. False when there will be no more.
    pub async fn wanted(&mut self) -> bool {
        if self.first.is_none() {
            self.first = self.inbox.recv().await;
        }
        self.first.is_some()
    }

    /// Commits and answers what was handed in, in groups, as the thread would.
    pub fn write(&mut self) {
        if let Some(first) = self.first.take() {
            self.group.turn(first, &mut self.inbox);
        }
    }
}

/// What readers look at besides the engine, kept in step with it.
#[derive(Clone, Default)]
pub(super) struct Readers {
    pub(super) index: Arc<Index>,
    pub(super) snapshots: Arc<Snapshots>,
    pub(super) frontiers: Arc<Frontiers>,
}

struct Group {
    engine: Arc<dyn Engine>,
    readers: Readers,
    meta: Meta,
    shared: Arc<Shared>,
    space_looked_at: Instant,
}

impl Group {
    fn serve(&mut self, mut inbox: mpsc::Receiver<Box<dyn Job>>) {
        while let Some(first) = inbox.blocking_recv() {
            if self.space_looked_at.elapsed() >= SPACE_LOOKED_AT_EVERY {
                self.space_looked_at = Instant::now();
                self.shared.look_at_space(&*self.engine);
            }
            self.shared.set_busy(true);
            self.turn(first, &mut inbox);
            self.shared.set_busy(false);
        }
    }

    /// One transaction, and what waits behind it as far as a group has room.
    fn turn(&mut self, first: Box<dyn Job>, inbox: &mut mpsc::Receiver<Box<dyn Job>>) {
        let mut decided = Overlay::new();
        let mut unanswered = Vec::new();
        let mut next = Some(first);
        while let Some(mut job) = next {
            if let Err(refusal) = self.shared.ready() {
                job.finish(Err(refusal));
            } else {
                let mut txn = Txn::new(&*self.engine, &self.readers.index, &decided, self.meta);
                if job.run(&mut txn) {
                    let Decided { writes, index, meta } = txn.into_decided();
                    if !decided.is_empty() && decided.len() + writes.len() > GROUP_KEYS_MAX {
                        self.commit(std::mem::take(&mut decided), &mut unanswered);
                        // That was progress: under steady load one group follows the other in here.
                        self.shared.progressed();
                    }
                    self.meta = meta;
                    decided.extend(writes);
                    self.note(index);
                    unanswered.push(job);
                } else {
                    job.finish(Ok(()));
                }
            }
            next = if decided.len() < GROUP_KEYS_MAX { inbox.try_recv().ok() } else { None };
        }
        self.commit(decided, &mut unanswered);
    }

    /// Before the commit, so that the next transaction finds them. Should the commit fail, the store has failed.
    fn note(&self, changes: Vec<(Print, FanNumber, bool)>) {
        for (print, fan, leads) in changes {
            self.readers.index.set(print, fan, leads);
        }
    }

    fn commit(&mut self, decided: Overlay, unanswered: &mut Vec<Box<dyn Job>>) {
        // Once a commit has failed, nothing decided on top of it may be written or answered as done.
        let failure = self.shared.failure.borrow().clone();
        let durable = match failure {
            Some(reason) => Err(StoreError::Failed(reason)),
            None if decided.is_empty() => Ok(()),
            None => self.write(decided).inspect_err(|error| match error {
                StoreError::Failed(reason) => self.shared.fail(reason),
                other => self.shared.fail(&other.to_string()),
            }),
        };
        if durable.is_ok() {
            let counts = self.meta.counts;
            *self.shared.counts.lock().unwrap_or_else(PoisonError::into_inner) = counts;
            self.shared
                .feed_head
                .send_if_modified(|head| std::mem::replace(head, counts.feed_head) != counts.feed_head);
        }
        for job in unanswered.drain(..) {
            job.finish(durable.clone());
        }
    }

    fn write(&self, decided: Overlay) -> Result<(), StoreError> {
        let key = keys::meta();
        let counters = encode(&key, &self.meta)?;
        let mut writes: Vec<_> = decided.into_iter().collect();
        writes.push((key, Some(counters)));
        let Readers { snapshots, frontiers, .. } = &self.readers;
        snapshots.keep(&*self.engine, &writes).map_err(failed)?;
        let first = frontiers.first_of(&writes);
        self.engine.commit(writes).map_err(failed)?;
        frontiers.appeared(&first);
        Ok(())
    }
}
