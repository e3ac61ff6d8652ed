//! Group commit: transactions that are committed together, one group after the other.
//!
//! While one group is being synced the next one is already decided: against what is published, under the group in
//! flight, under its own. Then the next is handed to the log, and only then the one that has become durable is
//! published and answered, so that the disk is never left without something to do. A transaction that is alone, with
//! none behind it, is synced on this thread.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use super::health::Health;
use super::job::Job;
use crate::store::StoreError;
use crate::store::embedded::checkpoint::Progress;
use crate::store::embedded::database::{Database, Snapshot};
use crate::store::embedded::engine::{Batch, Memory};
use crate::store::embedded::records::encode;
use crate::store::embedded::rows::frontier::Frontiers;
use crate::store::embedded::rows::ids::FanNumber;
use crate::store::embedded::rows::index::{Index, Print};
use crate::store::embedded::rows::keys;
use crate::store::embedded::rows::txn::{Decided, Meta, Txn};
use crate::store::embedded::rows::watch::Watches;
use crate::store::embedded::wal::{AppendError, Lineage, Log};
use crate::store::embedded::watchdog::Step;

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
    pub(crate) frontiers: Arc<Frontiers>,
    pub(crate) watches: Arc<Watches>,
    /// For a store in memory, which is drained by its writer.
    pub(crate) in_memory: Option<InMemory>,
}

/// A store in memory.
pub(crate) struct InMemory {
    pub(crate) memory: Memory,
    pub(crate) lineage: Lineage,
}

/// A group being decided, or on its way to the disk.
#[derive(Default)]
struct Group {
    writes: Batch,
    bytes: usize,
    index: Vec<(Print, FanNumber, bool)>,
    erases: bool,
    unanswered: Vec<Box<dyn Job>>,
}

/// A group that was handed to the log.
struct Flight {
    seq: u64,
    group: Group,
    meta: Meta,
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
    began_at: Instant,
    /// The longest time for which a group is decided; none for a simulation, which has no time of its own.
    group_time: Duration,
    in_flight: Option<Flight>,
}

impl Groups {
    pub(super) fn new(parts: Parts, meta: Meta, health: Arc<Health>) -> Self {
        let now = Instant::now();
        Self {
            parts,
            health,
            disk_looked_at: now,
            published: meta,
            meta,
            group: Group::default(),
            began_at: now,
            group_time: Duration::MAX,
            in_flight: None,
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
        let database = self.parts.database.clone();
        self.decide(first, &database.snapshot());
        while self.in_flight.is_some() || !self.group.unanswered.is_empty() {
            self.gather(inbox);
            if self.in_flight.is_none() && self.group.unanswered.len() <= 1 {
                self.commit_here(progressed);
            } else {
                let durable = if self.in_flight.is_some() { self.parts.log.wait() } else { Ok(()) };
                // What came in meanwhile need not wait for another sync.
                self.gather(inbox);
                self.exchange(durable, progressed);
            }
            self.health.progressed();
            progressed();
        }
    }

    /// Decides what waits, as far as the group has room.
    fn gather(&mut self, inbox: &mut Inbox) {
        if self.disk_looked_at.elapsed() >= DISK_LOOKED_AT_EVERY {
            self.disk_looked_at = Instant::now();
            self.health.look_at_disk();
        }
        // One view for all of them: nothing is published meanwhile.
        let database = self.parts.database.clone();
        let snapshot = database.snapshot();
        while self.group.bytes < GROUP_BYTES
            && (self.group.unanswered.is_empty() || self.began_at.elapsed() < self.group_time)
        {
            let Ok(job) = inbox.try_recv() else { return };
            self.decide(job, &snapshot);
        }
    }

    fn decide(&mut self, mut job: Box<dyn Job>, snapshot: &Snapshot<'_>) {
        if let Err(refusal) = self.health.ready() {
            return job.finish(Err(refusal));
        }
        if self.group.unanswered.is_empty() {
            self.began_at = Instant::now();
        }
        let in_flight = self.in_flight.as_ref().map(|flight| &flight.group.writes);
        let mut txn = Txn::new(snapshot, &self.parts.index, in_flight, &self.group.writes, self.meta);
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

    /// Commits a group with nothing in flight before it and nobody waiting behind it.
    fn commit_here(&mut self, waiting: &dyn Fn()) {
        let mut flight = self.take_group();
        let durable = self.prepare(&mut flight, waiting).and_then(|has_writes| {
            if has_writes { self.parts.log.append_here(flight.seq, &flight.group.writes) } else { Ok(()) }
        });
        match durable {
            Ok(()) => self.publish(flight),
            Err(error) => self.refuse(vec![flight], error),
        }
    }

    /// Hands the group that was decided to the log; then there is time for the one that was on its way.
    fn exchange(&mut self, durable: Result<(), AppendError>, waiting: &dyn Fn()) {
        let mut next = self.take_group();
        let landed = self.in_flight.take();
        if let Err(error) = durable {
            // What was decided on top of a group that is refused is refused too.
            return self.refuse(landed.into_iter().chain([next]).collect(), error);
        }
        let handed = self.prepare(&mut next, waiting).and_then(|has_writes| {
            if has_writes {
                self.parts.log.append(next.seq, &next.group.writes)?;
            }
            Ok(has_writes)
        });
        if let Some(landed) = landed {
            self.publish(landed);
        }
        match handed {
            Ok(true) => self.in_flight = Some(next),
            Ok(false) => self.publish(next),
            Err(error) => self.refuse(vec![next], error),
        }
    }

    fn take_group(&mut self) -> Flight {
        let before = self.in_flight.as_ref().map_or_else(|| self.parts.database.seq(), |flight| flight.seq);
        Flight { seq: before + 1, group: std::mem::take(&mut self.group), meta: self.meta }
    }

    /// Adds the counters to a group. False if it has no writes.
    fn prepare(&self, flight: &mut Flight, waiting: &dyn Fn()) -> Result<bool, AppendError> {
        // Once a commit has failed, nothing may be written or answered as done.
        if let Some(reason) = self.health.failure().reason() {
            return Err(AppendError::failed(reason));
        }
        if flight.group.writes.is_empty() {
            return Ok(false);
        }
        self.parts.database.wait_for_room(waiting).map_err(AppendError::failed)?;
        let key = keys::meta();
        let counters = encode(&key, &flight.meta).map_err(AppendError::failed)?;
        flight.group.writes.insert(key, Some(counters));
        Ok(true)
    }

    /// Makes a group visible that is durable, and answers.
    fn publish(&mut self, flight: Flight) {
        let Flight { seq, group: Group { writes, erases, unanswered, .. }, meta } = flight;
        if !writes.is_empty() {
            self.parts.watches.show(&writes);
            let rows = self.parts.frontiers.rows_of(&writes);
            self.parts.database.publish(seq, writes);
            self.parts.frontiers.appeared(rows);
            self.published = meta;
            self.health.committed(meta.counts);
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

    /// Refuses groups, the last of which was decided on top of the others.
    fn refuse(&mut self, flights: Vec<Flight>, error: AppendError) {
        let refusal = match error {
            AppendError::Full => {
                for (print, fan, led) in flights.iter().flat_map(|flight| &flight.group.index).rev() {
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
        for job in flights.into_iter().flat_map(|flight| flight.group.unanswered) {
            job.finish(Err(refusal.clone()));
        }
    }
}
