//! Group commit: transactions that are committed together, one group after the other.
//!
//! What comes in while a group is decided and synced is the next group: so the longer the disk takes, the more share
//! one sync. All of it on one thread: deciding a transaction takes microseconds, which is less than handing a group to
//! another thread would cost.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use super::health::Health;
use crate::store::StoreError;
use crate::store::embedded::checkpoint::Progress;
use crate::store::embedded::database::Database;
use crate::store::embedded::engine::Memory;
use crate::store::embedded::fan_index::Index;
use crate::store::embedded::published::Published;
use crate::store::embedded::wal::{AppendError, Lineage, Log};
use crate::store::embedded::watchdog::Step;
use crate::store::row_store::Job;
use crate::store::rows::clue::Print;
use crate::store::rows::ids::FanNumber;
use crate::store::rows::keys;
use crate::store::rows::records::encode;
use crate::store::rows::source::Batch;
use crate::store::rows::txn::{Decided, Meta, Txn};
use crate::store::rows::watch::Watches;
use crate::store::rows::work_queue::WorkQueues;

/// A group takes no further transaction once its writes have this many bytes,
const GROUP_BYTES: usize = 1 << 20;
/// or once it has been decided for this long.
const GROUP_TIME: Duration = Duration::from_millis(4);
const DISK_LOOKED_AT_EVERY: Duration = Duration::from_millis(100);
/// Keys in the memtable of a store in memory before it is drained.
const IN_MEMORY_KEYS: usize = 200;

/// Transactions that wait.
pub(super) type Inbox = mpsc::Receiver<Box<dyn Job>>;

/// What the writer works on.
pub(crate) struct Parts {
    pub(crate) database: Arc<Database>,
    pub(crate) log: Box<dyn Log>,
    pub(crate) progress: Arc<Progress>,
    pub(crate) index: Arc<Index>,
    pub(crate) queues: Arc<WorkQueues>,
    pub(crate) watches: Arc<Watches>,
    /// For a store in memory, which is drained by its writer.
    pub(crate) in_memory: Option<InMemory>,
}

/// A store in memory.
pub(crate) struct InMemory {
    pub(crate) memory: Memory,
    pub(crate) lineage: Lineage,
}

/// A group being decided.
#[derive(Default)]
struct Group {
    writes: Batch,
    bytes: usize,
    index: Vec<(Print, FanNumber, bool)>,
    erases: bool,
    unanswered: Vec<Box<dyn Job>>,
}

/// The groups of one store, as its only writer sees them.
pub(super) struct Groups {
    parts: Parts,
    health: Arc<Health>,
    disk_looked_at: Instant,
    /// As of the last group that was published.
    published: Meta,
    /// As of the last decision.
    meta: Meta,
    group: Group,
    /// The longest time for which a group is decided; none for a simulation, which has no time of its own.
    group_time: Duration,
}

impl Groups {
    pub(super) fn new(parts: Parts, meta: Meta, health: Arc<Health>) -> Self {
        Self {
            parts,
            health,
            disk_looked_at: Instant::now(),
            published: meta,
            meta,
            group: Group::default(),
            group_time: Duration::MAX,
        }
    }

    pub(super) fn health(&self) -> &Health {
        &self.health
    }

    /// Serves until nobody can hand in anything any more.
    pub(super) fn serve(&mut self, mut inbox: Inbox) {
        self.group_time = GROUP_TIME;
        while let Some(first) = inbox.blocking_recv() {
            self.health.set_busy(true);
            let step = Step::begin("a commit");
            self.rounds(first, &mut inbox, &|| step.progressed());
            drop(step);
            self.health.set_busy(false);
        }
    }

    /// One transaction, and whatever comes in behind it until there is nothing left to do.
    pub(super) fn turn(&mut self, first: Box<dyn Job>, inbox: &mut Inbox) {
        self.rounds(first, inbox, &|| {});
    }

    fn rounds(&mut self, first: Box<dyn Job>, inbox: &mut Inbox, progressed: &dyn Fn()) {
        let mut next = Some(first);
        while let Some(first) = next {
            self.gather(first, inbox);
            self.commit(progressed);
            self.health.progressed();
            progressed();
            next = inbox.try_recv().ok();
        }
    }

    /// Decides a transaction, and those that wait behind it as far as the group has room.
    fn gather(&mut self, first: Box<dyn Job>, inbox: &mut Inbox) {
        if self.disk_looked_at.elapsed() >= DISK_LOOKED_AT_EVERY {
            self.disk_looked_at = Instant::now();
            self.health.look_at_disk();
        }
        // One view and one look at the store's health for all of them: nothing is published meanwhile.
        let database = self.parts.database.clone();
        let index = self.parts.index.clone();
        let published = Published::new(&database, &index);
        let (began_at, ready) = (Instant::now(), self.health.ready());
        let mut next = Some(first);
        while let Some(job) = next {
            match &ready {
                Ok(()) => self.decide(job, &published),
                Err(refusal) => job.finish(Err(refusal.clone())),
            }
            let has_room = self.group.bytes < GROUP_BYTES && began_at.elapsed() < self.group_time;
            next = has_room.then(|| inbox.try_recv().ok()).flatten();
        }
    }

    fn decide(&mut self, mut job: Box<dyn Job>, published: &Published<'_>) {
        let mut txn = Txn::new(published, &self.group.writes, self.meta);
        if !job.run(&mut txn) {
            drop(txn);
            return job.finish(Ok(()));
        }
        let Decided { writes, index, meta, erases } = txn.into_decided();
        self.meta = meta;
        let group = &mut self.group;
        let length =
            |(key, value): (&Vec<u8>, &Option<Vec<u8>>)| key.len() + value.as_ref().map_or(0, Vec::len);
        group.bytes += writes.iter().map(length).sum::<usize>();
        group.writes.extend(writes);
        group.erases |= erases;
        // Before the commit, so that the next transaction finds them; taken back if it is refused.
        for (print, fan, leads) in index {
            self.parts.index.set(print, fan, leads);
            group.index.push((print, fan, leads));
        }
        group.unanswered.push(job);
    }

    /// Makes the group durable and visible, and answers. Calls `waiting` while the memtable is full.
    fn commit(&mut self, waiting: &dyn Fn()) {
        let mut group = std::mem::take(&mut self.group);
        let seq = self.parts.database.seq() + 1;
        match self.append(seq, &mut group, waiting) {
            Ok(()) => self.publish(seq, group),
            Err(error) => self.refuse(group, error),
        }
    }

    /// Appends the group, with the counters, to the log; durable when it returns.
    fn append(&mut self, seq: u64, group: &mut Group, waiting: &dyn Fn()) -> Result<(), AppendError> {
        // Once a commit has failed, nothing may be written or answered as done.
        if let Some(reason) = self.health.failure().reason() {
            return Err(AppendError::failed(reason));
        }
        if group.writes.is_empty() {
            return Ok(());
        }
        self.parts.database.wait_for_room(waiting).map_err(AppendError::failed)?;
        let key = keys::meta();
        let counters = encode(&key, &self.meta).map_err(AppendError::failed)?;
        group.writes.insert(key, Some(counters));
        self.parts.log.append(seq, &group.writes)
    }

    /// Makes a group visible that is durable, and answers.
    fn publish(&mut self, seq: u64, group: Group) {
        let Group { writes, erases, unanswered, .. } = group;
        if !writes.is_empty() {
            self.parts.watches.show(&writes);
            let rows = self.parts.queues.rows_of(&writes);
            self.parts.database.publish(seq, writes);
            self.parts.queues.add(rows);
            self.published = self.meta;
            self.health.committed(self.meta.counts);
            if erases {
                // A checkpoint is made of closed segments.
                self.parts.log.rotate();
                self.parts.progress.forgot(seq);
            }
            self.drain_memory();
        }
        for job in unanswered {
            job.finish(Ok(()));
        }
    }

    fn drain_memory(&self) {
        let Parts { database, progress, in_memory, .. } = &self.parts;
        let Some(InMemory { memory, lineage }) = in_memory else { return };
        // Whoever reads on this thread would be waited for in vain.
        if database.keys_in_memory() < IN_MEMORY_KEYS || database.has_readers() {
            return;
        }
        match database.drain(*lineage, progress) {
            Ok(applied) => memory.forget_log(applied.unwrap_or(0)),
            Err(error) => self.health.failure().fail(&error.0),
        }
    }

    fn refuse(&mut self, group: Group, error: AppendError) {
        let refusal = match error {
            AppendError::Full => {
                for (print, fan, led) in group.index.iter().rev() {
                    self.parts.index.set(*print, *fan, !led);
                }
                self.meta = self.published;
                self.health.disk_is_full()
            }
            AppendError::Failed(error) => {
                self.health.failure().fail(&format!("the log cannot be written: {error}"));
                StoreError::Failed(self.health.failure().reason().unwrap_or_default())
            }
        };
        for job in group.unanswered {
            job.finish(Err(refusal.clone()));
        }
    }
}
