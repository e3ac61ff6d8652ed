//! Groups of transactions that are committed together, one after the other.
//!
//! While one group is being made durable the next one is already decided: against the tree, under the group that is on its
//! way, under its own. Then they change places: the next is handed to the engine, and only then the one that has become
//! durable is applied and answered, so that the disk is never left without something to do.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use super::{Job, Shared};
use crate::store::embedded::engine::{Batch, Engine, Logged};
use crate::store::embedded::records::encode;
use crate::store::embedded::rows::frontier::Frontiers;
use crate::store::embedded::rows::index::Index;
use crate::store::embedded::rows::keys;
use crate::store::embedded::rows::txn::{Decided, Meta, Txn, failed};
use crate::store::embedded::snapshot::Snapshots;
use crate::store::{Counts, StoreError};

/// Batches beyond a hundred keys make sled's memory grow without bound (13.5 GB against 0.6 GB for the same
/// five million records). One is left for the counters that every group rewrites.
const GROUP_KEYS_MAX: usize = 99;
const SPACE_LOOKED_AT_EVERY: Duration = Duration::from_millis(100);

/// Transactions that wait.
pub(crate) type Inbox = mpsc::Receiver<Box<dyn Job>>;

/// What readers look at besides the engine, kept in step with it.
#[derive(Clone, Default)]
pub(crate) struct Readers {
    pub(crate) index: Arc<Index>,
    pub(crate) snapshots: Arc<Snapshots>,
    pub(crate) frontiers: Arc<Frontiers>,
}

/// A group on its way: logged, and not yet applied.
struct Flight {
    batch: Batch,
    counts: Counts,
    unanswered: Vec<Box<dyn Job>>,
}

/// The groups of one store, as its only writer sees them.
pub(crate) struct Groups {
    engine: Arc<dyn Engine>,
    readers: Readers,
    shared: Arc<Shared>,
    space_looked_at: Instant,
    /// As of the last decision.
    meta: Meta,
    decided: Batch,
    /// Who is answered with the group that is being decided.
    unanswered: Vec<Box<dyn Job>>,
    /// A decision that the group had no room for. The next one begins with it.
    over: Option<(Decided, Box<dyn Job>)>,
    flying: Option<Flight>,
}

impl Groups {
    pub(crate) fn new(engine: Arc<dyn Engine>, readers: Readers, meta: Meta, shared: Arc<Shared>) -> Self {
        Self {
            engine,
            readers,
            shared,
            space_looked_at: Instant::now(),
            meta,
            decided: Batch::new(),
            unanswered: Vec::new(),
            over: None,
            flying: None,
        }
    }

    pub(crate) fn shared(&self) -> &Shared {
        &self.shared
    }

    /// Serves until nobody can hand in anything any more.
    pub(crate) fn serve(&mut self, mut inbox: Inbox) {
        while let Some(first) = inbox.blocking_recv() {
            self.shared.set_busy(true);
            self.turn(first, &mut inbox);
            self.shared.set_busy(false);
        }
    }

    /// One transaction, and whatever comes in behind it until there is nothing left to do.
    pub(crate) fn turn(&mut self, first: Box<dyn Job>, inbox: &mut Inbox) {
        self.decide(first);
        while self.flying.is_some() || !self.unanswered.is_empty() {
            self.gather(inbox);
            let durable = self.land();
            // What came in meanwhile need not wait for another sync.
            self.gather(inbox);
            self.depart(durable);
            self.shared.progressed();
        }
    }

    /// Decides what waits, as far as the group has room.
    fn gather(&mut self, inbox: &mut Inbox) {
        if self.space_looked_at.elapsed() >= SPACE_LOOKED_AT_EVERY {
            self.space_looked_at = Instant::now();
            self.shared.look_at_space(&*self.engine);
        }
        while self.over.is_none() && self.decided.len() < GROUP_KEYS_MAX {
            let Ok(job) = inbox.try_recv() else { return };
            self.decide(job);
        }
    }

    fn decide(&mut self, mut job: Box<dyn Job>) {
        if let Err(refusal) = self.shared.ready() {
            return job.finish(Err(refusal));
        }
        let flying = self.flying.as_ref().map(|flight| &flight.batch);
        let mut txn = Txn::new(&*self.engine, &self.readers.index, flying, &self.decided, self.meta);
        if !job.run(&mut txn) {
            return job.finish(Ok(()));
        }
        let decided = txn.into_decided();
        if self.decided.is_empty() || self.decided.len() + decided.writes.len() <= GROUP_KEYS_MAX {
            self.join(decided, job);
        } else {
            self.over = Some((decided, job));
        }
    }

    fn join(&mut self, decided: Decided, job: Box<dyn Job>) {
        let Decided { writes, index, meta } = decided;
        self.meta = meta;
        self.decided.extend(writes);
        // Before the commit, so that the next transaction finds them. Should the commit fail, the store has failed.
        for (print, fan, leads) in index {
            self.readers.index.set(print, fan, leads);
        }
        self.unanswered.push(job);
    }

    /// Waits until the group on its way is durable.
    fn land(&self) -> Result<(), StoreError> {
        match &self.flying {
            Some(_) => self.engine.logged().map_err(failed).inspect_err(|error| self.failed(error)),
            None => Ok(()),
        }
    }

    /// Hands what was decided to the engine; then there is time for the group that was on its way.
    fn depart(&mut self, durable: Result<(), StoreError>) {
        let landed = self.flying.take();
        let mut next = Flight {
            batch: std::mem::take(&mut self.decided),
            counts: self.meta.counts,
            unanswered: std::mem::take(&mut self.unanswered),
        };
        let logged = self.log(&mut next.batch);
        if let Some(landed) = landed {
            self.finish(landed, durable);
        }
        match logged {
            Ok(Logged::Ahead) => self.flying = Some(next),
            Ok(Logged::Not) => self.finish(next, Ok(())),
            Err(error) => self.finish(next, Err(error)),
        }
        if let Some((decided, job)) = self.over.take() {
            self.join(decided, job);
        }
    }

    fn log(&self, batch: &mut Batch) -> Result<Logged, StoreError> {
        // Once a commit has failed, nothing decided on top of it may be written or answered as done.
        if let Some(reason) = self.shared.failed() {
            return Err(StoreError::Failed(reason));
        }
        if batch.is_empty() {
            return Ok(Logged::Not);
        }
        let key = keys::meta();
        let counters = encode(&key, &self.meta)?;
        batch.insert(key, Some(counters));
        self.engine.log(batch).map_err(failed)
    }

    /// Applies a group, and answers.
    fn finish(&self, group: Flight, durable: Result<(), StoreError>) {
        let Flight { batch, counts, unanswered } = group;
        // Nor may what was decided on top of a group that could not be applied.
        let done = durable.and_then(|()| match self.shared.failed() {
            Some(reason) => Err(StoreError::Failed(reason)),
            None => self.apply(batch),
        });
        match &done {
            Ok(()) => self.shared.committed(counts),
            Err(error) => self.failed(error),
        }
        for job in unanswered {
            job.finish(done.clone());
        }
    }

    fn failed(&self, error: &StoreError) {
        match error {
            StoreError::Failed(reason) => self.shared.fail(reason),
            other => self.shared.fail(&other.to_string()),
        }
    }

    fn apply(&self, batch: Batch) -> Result<(), StoreError> {
        if batch.is_empty() {
            return Ok(());
        }
        let Readers { snapshots, frontiers, .. } = &self.readers;
        snapshots.keep(&*self.engine, &batch).map_err(failed)?;
        let first = frontiers.first_of(&batch);
        self.engine.apply(batch).map_err(failed)?;
        frontiers.appeared(&first);
        Ok(())
    }
}
