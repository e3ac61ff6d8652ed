//! Commits transactions in groups, one group after the other, and one replica after the other.
//!
//! A group is decided inside a transaction of the database that holds the one lock of the store: so it reads what all
//! commits before it have written, whichever replica made them, and nobody writes until it is committed. Numbers are
//! given in that order too, so the feed has no gaps. What comes in meanwhile is the next group, so the longer a commit
//! takes, the more share it.
//!
//! Before the lock is asked for, the group is tried with nothing at hand, to learn what it reads first: that comes with
//! the lock. So a group takes two or three round trips and one commit, however many transactions it has.
//!
//! A commit whose answer is lost is looked up by its id, and repeated if it did not take place.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use tokio::sync::mpsc;

use super::database::{AskedFirst, Begun, Database, NewCommit, Session, Told, Trouble};
use super::following::told_keys;
use super::known::{InGroup, Known, Wanted, fan_entry};
use super::state::{State, lock};
use crate::store::row_store::{Job, Reply, Transaction};
use crate::store::rows::keys;
use crate::store::rows::records::{decode, encode};
use crate::store::rows::source::Batch;
use crate::store::rows::txn::{Decided, Meta, Txn};
use crate::store::{Counts, StoreError};

/// Transactions of one group.
const GROUP_MAX: usize = 256;
/// A group takes no further transaction once its writes have this many bytes.
const GROUP_BYTES: usize = 1 << 20;
/// Times that more rows are fetched for one group.
const FETCHES_MAX: usize = 1_000;
/// The wait before a connection is opened again.
const RECONNECT_AFTER: Duration = Duration::from_millis(250);

/// The longest that an attempt may take. A database that is silent for so long may be another one by now.
const ATTEMPT_MAX: Duration = Duration::from_secs(15);
/// Attempts that the database may refuse before a group fails.
const REFUSALS_MAX: u32 = 20;

/// A transaction that may run several times.
pub(super) struct Repeatable<F, T> {
    pub(super) work: F,
    pub(super) reply: Reply<T>,
}

impl<F: Transaction<T>, T: Send> Job for Repeatable<F, T> {
    fn run(&mut self, txn: &mut Txn<'_>) -> bool {
        self.reply.set(self.work.clone()(txn))
    }

    fn finish(self: Box<Self>, durable: Result<(), StoreError>) {
        self.reply.send(durable);
    }
}

/// The writer of one replica.
pub(super) struct Writer {
    pub(super) database: Arc<dyn Database>,
    pub(super) state: Arc<State>,
    pub(super) connection: Option<Box<dyn Session>>,
    pub(super) meta: Meta,
}

/// Signals that are told with a commit. Unless it is known that they [are told](Self::are_told), they go back: also if the
/// attempt is given up.
struct TakenSignals<'a> {
    state: &'a State,
    signals: Vec<String>,
}

impl<'a> TakenSignals<'a> {
    fn take(state: &'a State) -> Self {
        Self { state, signals: std::mem::take(&mut *lock(&state.signals)) }
    }

    fn are_told(mut self) {
        self.signals.clear();
    }
}

impl Drop for TakenSignals<'_> {
    fn drop(&mut self) {
        lock(&self.state.signals).append(&mut self.signals);
    }
}

/// What a group has come to.
struct Outcome {
    writes: Batch,
    meta: Meta,
    /// How many transactions were decided; those behind them wait for the next group.
    decided: usize,
}

/// Why a group was not committed.
enum Failure {
    Database(Trouble),
    /// The answer cannot be relied on.
    Warned,
    /// It never will be.
    Refused(StoreError),
}

impl From<Trouble> for Failure {
    fn from(error: Trouble) -> Self {
        Self::Database(error)
    }
}

impl Writer {
    /// Serves until nobody can hand in anything any more.
    pub(super) async fn serve(mut self, mut inbox: mpsc::Receiver<Box<dyn Job>>) {
        let mut group = Vec::new();
        loop {
            if group.is_empty() && inbox.recv_many(&mut group, GROUP_MAX).await == 0 {
                return;
            }
            let (decided, committed) = match self.commit(&mut group).await {
                Ok(decided) => (decided, Ok(())),
                Err(error) => (group.len(), Err(error)),
            };
            for job in group.drain(..decided) {
                job.finish(committed.clone());
            }
        }
    }

    /// Commits a group, or the first part of a large one, however long the database is away. Returns how many of its
    /// transactions.
    async fn commit(&mut self, group: &mut [Box<dyn Job>]) -> Result<usize, StoreError> {
        self.state.begins_to_commit();
        let committed = self.commit_in_the_end(group).await;
        self.state.ends_to_commit(committed.is_ok());
        committed
    }

    async fn commit_in_the_end(&mut self, group: &mut [Box<dyn Job>]) -> Result<usize, StoreError> {
        let id: [u8; 16] = rand::random();
        let (mut may_be_committed, mut refusals) = (None, 0);
        loop {
            let Some(connection) = self.connected().await else {
                self.pause().await?;
                continue;
            };
            let attempt = self.attempt(&*connection, group, id, &mut may_be_committed);
            let error = match tokio::time::timeout(ATTEMPT_MAX, attempt).await {
                Ok(Ok(Outcome { meta, decided, .. })) => {
                    self.connection = Some(connection);
                    self.meta = meta;
                    self.state.answered();
                    self.state.no_trouble();
                    return Ok(decided);
                }
                Ok(Err(Failure::Refused(error))) => return Err(error),
                Ok(Err(Failure::Database(error))) => {
                    // A refusal that does not pass must not keep up everybody behind it.
                    refusals += u32::from(may_be_committed.is_none() && error.is_refusal);
                    error.reason
                }
                Ok(Err(Failure::Warned)) => "the database has warned".to_owned(),
                Err(_) => "the database does not answer".to_owned(),
            };
            self.state.trouble(&error);
            if refusals >= REFUSALS_MAX {
                return Err(StoreError::Unavailable(error));
            }
            self.pause().await?;
        }
    }

    /// Waits before the next attempt, unless the store is being closed.
    async fn pause(&self) -> Result<(), StoreError> {
        if self.state.is_closing.load(Relaxed) {
            return Err(StoreError::Stalled);
        }
        tokio::time::sleep(RECONNECT_AFTER).await;
        Ok(())
    }

    /// Tries to commit a group once. An outcome that `may_be_committed`, with this number and id, is looked up before it is
    /// tried again.
    async fn attempt(
        &self,
        connection: &dyn Session,
        group: &mut [Box<dyn Job>],
        id: [u8; 16],
        may_be_committed: &mut Option<(i64, Outcome)>,
    ) -> Result<Outcome, Failure> {
        let mut known = Known::nothing(self.state.salt);
        let wanted = if may_be_committed.is_none() {
            run_all(group, &known, self.meta);
            known.take_wanted()
        } else {
            Wanted::default()
        };
        let which = may_be_committed.as_ref().map(|(seq, _)| (*seq, id));
        // Read with the lock, so that it is not held for another round trip.
        let told_after = self.state.has_others().then(|| *lock(&self.state.followed));
        let begun = connection.begin_commit(AskedFirst { which, told_after }, wanted).await?;
        let Begun { head, is_committed, told, fetched } = begun;
        fetched.add_to(&mut known);
        let Some((head, meta)) = head else {
            return Err(Failure::Refused(StoreError::Damaged("the counters are missing".to_owned())));
        };
        self.state.catch_up(connection, head, told_after.map(|after| (after, told))).await?;
        if let Some((_, outcome)) = may_be_committed.as_ref().filter(|_| is_committed) {
            let counts = decode::<Meta>(&keys::meta(), &meta).map_err(Failure::Refused)?.counts;
            self.confirm(connection, head + 1, &meta, &outcome.writes).await?;
            self.committed(head + 1, counts, &outcome.writes);
            return may_be_committed.take().map(|(_, outcome)| outcome).ok_or(Failure::Warned);
        }
        *may_be_committed = None;
        let outcome = decide(connection, group, &mut known, &meta).await?;
        if outcome.writes.is_empty() && lock(&self.state.signals).is_empty() {
            if head <= self.state.confirmed.load(Relaxed) {
                connection.roll_back().await?;
            } else {
                // What was decided may rest on commits of others that are not where they have to be: a message counts as
                // known only if it cannot be lost.
                self.confirm(connection, head + 1, &meta, &Batch::new()).await?;
                self.committed(head + 1, outcome.meta.counts, &Batch::new());
            }
            return Ok(outcome);
        }
        let meta = encode(&keys::meta(), &outcome.meta).map_err(Failure::Refused)?;
        // Before it can be read.
        self.state.watches.show(&outcome.writes);
        let (seq, outcome) = may_be_committed.insert((head + 1, outcome));
        let new = NewCommit { seq: *seq, id, meta: &meta, told: None };
        if let Err(error) = self.commit_all(connection, new, &outcome.writes, (&outcome.writes, &known)).await
        {
            if matches!(&error, Failure::Database(error) if error.is_refusal) {
                *may_be_committed = None;
            }
            return Err(error);
        }
        self.committed(head + 1, outcome.meta.counts, &outcome.writes);
        may_be_committed.take().map(|(_, outcome)| outcome).ok_or(Failure::Warned)
    }

    /// Makes sure that all commits so far are where every commit has to be, on a standby that is waited for, say: one that
    /// is made after them gets there. It tells what was `written` by one that may not have been heard.
    async fn confirm(
        &self,
        connection: &dyn Session,
        seq: i64,
        meta: &[u8],
        written: &Batch,
    ) -> Result<(), Failure> {
        let new = NewCommit { seq, id: rand::random(), meta, told: None };
        let nothing = Known::nothing(self.state.salt);
        self.commit_all(connection, new, written, (&Batch::new(), &nothing)).await
    }

    /// Commits these writes, and tells the other replicas of what was `written`.
    ///
    /// A database that warns may have given up waiting for a standby: the commit stands on this server, and may be lost
    /// with it.
    async fn commit_all(
        &self,
        connection: &dyn Session,
        new: NewCommit<'_>,
        written: &Batch,
        (writes, known): (&Batch, &Known),
    ) -> Result<(), Failure> {
        let taken = self.state.has_others().then(|| TakenSignals::take(&self.state));
        let told =
            taken.as_ref().map(|taken| Told { keys: told_keys(written), signals: taken.signals.clone() });
        // What it said before is about something else.
        connection.take_warning();
        connection.commit(NewCommit { told: told.as_ref(), ..new }, writes, known).await?;
        if connection.take_warning() {
            return Err(Failure::Warned);
        }
        if let Some(taken) = taken {
            taken.are_told();
        }
        Ok(())
    }

    /// Makes known what was committed.
    fn committed(&self, seq: i64, counts: Counts, writes: &Batch) {
        *lock(&self.state.followed) = seq;
        self.state.confirmed.store(seq, Relaxed);
        self.state.set_counts(counts);
        self.state.queues.add(self.state.queues.rows_of(writes));
        self.state.committed.notify_one();
    }

    async fn connected(&mut self) -> Option<Box<dyn Session>> {
        match self.connection.take() {
            Some(connection) if !connection.is_closed() => Some(connection),
            _ => match self.database.open().await {
                Ok(connection) => Some(connection),
                Err(error) => {
                    self.state.trouble(&error.reason);
                    None
                }
            },
        }
    }
}

/// Decides a group in a transaction of the database, with what all commits before have written at hand.
async fn decide(
    connection: &dyn Session,
    group: &mut [Box<dyn Job>],
    known: &mut Known,
    meta: &[u8],
) -> Result<Outcome, Failure> {
    // Those of a newer program, say.
    let meta: Meta = decode(&keys::meta(), meta).map_err(Failure::Refused)?;
    for _ in 0..FETCHES_MAX {
        let outcome = run_all(group, known, meta);
        let wanted = known.take_wanted();
        if wanted.is_empty() {
            return Ok(outcome);
        }
        connection.read_on(wanted).await?.add_to(known);
    }
    Err(Failure::Refused(StoreError::Failed("a transaction reads too much".to_owned())))
}

/// Runs the transactions of a group one after the other, each of which sees what those before it write.
fn run_all(group: &mut [Box<dyn Job>], known: &Known, mut meta: Meta) -> Outcome {
    let (mut all, mut index, mut bytes, mut decided) = (Batch::new(), BTreeMap::new(), 0, 0);
    for job in group {
        if bytes >= GROUP_BYTES {
            break;
        }
        decided += 1;
        let in_group = InGroup { known, index: &index };
        let mut txn = Txn::new(&in_group, &all, meta);
        if !job.run(&mut txn) {
            continue;
        }
        let Decided { writes, index: changed, meta: after, .. } = txn.into_decided();
        meta = after;
        bytes += writes.values().flatten().map(Vec::len).sum::<usize>();
        all.extend(writes);
        for (print, fan, leads) in changed {
            index.insert((print.0, fan), leads);
            all.insert(fan_entry(print, fan), leads.then(Vec::new));
        }
    }
    Outcome { writes: all, meta, decided }
}
