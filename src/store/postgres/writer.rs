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

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio_postgres::Error;

use super::connection::Connection;
use super::database::{Database, State};
use super::known::{Known, fan_entry};
use crate::store::StoreError;
use crate::store::row_store::Transaction;
use crate::store::rows::keys;
use crate::store::rows::records::{decode, encode};
use crate::store::rows::source::Batch;
use crate::store::rows::txn::{Decided, Meta, Txn};
use crate::store::rows::work_queue::WorkQueues;

/// Transactions of one group.
const GROUP_MAX: usize = 256;
/// Times that more rows are fetched for one group.
const FETCHES_MAX: usize = 1_000;
/// The wait before a connection is opened again.
const RECONNECT_AFTER: Duration = Duration::from_millis(250);

/// A transaction handed in.
pub(super) trait Job: Send {
    /// Runs it. Whether there is something to commit.
    fn run(&mut self, txn: &mut Txn<'_>) -> bool;
    /// Answers the caller.
    fn finish(self: Box<Self>, durable: Result<(), StoreError>);
}

/// A transaction that may run several times.
pub(super) struct Repeatable<F, T> {
    pub(super) work: F,
    pub(super) result: Option<Result<T, StoreError>>,
    pub(super) reply: oneshot::Sender<Result<T, StoreError>>,
}

impl<F: Transaction<T>, T: Send> Job for Repeatable<F, T> {
    fn run(&mut self, txn: &mut Txn<'_>) -> bool {
        let result = self.work.clone()(txn);
        let is_ok = result.is_ok();
        self.result = Some(result);
        is_ok
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

/// The writer of one replica.
pub(super) struct Writer {
    pub(super) database: Arc<Database>,
    pub(super) state: Arc<State>,
    pub(super) queues: Arc<WorkQueues>,
    pub(super) connection: Option<Connection>,
    pub(super) meta: Meta,
}

/// What a group has come to.
struct Outcome {
    writes: Batch,
    meta: Meta,
}

impl Writer {
    /// Serves until nobody can hand in anything any more.
    pub(super) async fn serve(mut self, mut inbox: mpsc::Receiver<Box<dyn Job>>) {
        let mut group = Vec::new();
        while inbox.recv_many(&mut group, GROUP_MAX).await > 0 {
            self.commit(&mut group).await;
            for job in group.drain(..) {
                job.finish(Ok(()));
            }
        }
    }

    /// Commits a group, however often that has to be tried.
    async fn commit(&mut self, group: &mut [Box<dyn Job>]) {
        let id: [u8; 16] = rand::random();
        let mut may_be_committed = None;
        loop {
            let Some(connection) = self.connected().await else {
                tokio::time::sleep(RECONNECT_AFTER).await;
                continue;
            };
            let tried = async {
                if let Some(outcome) = may_be_committed.take()
                    && connection.has_committed(id).await?
                {
                    return Ok(outcome);
                }
                let decided = decide(&connection, group, self.state.salt, self.meta).await?;
                let Decision { seq, outcome } = decided;
                if outcome.writes.is_empty() {
                    connection.roll_back().await?;
                    return Ok(outcome);
                }
                let meta = encode(&keys::meta(), &outcome.meta).unwrap_or_default();
                match connection.commit((seq, id), &meta, &outcome.writes).await {
                    Ok(()) => Ok(outcome),
                    Err(error) => {
                        may_be_committed = Some(outcome);
                        Err(error)
                    }
                }
            };
            let tried: Result<Outcome, Error> = tried.await;
            match tried {
                Ok(Outcome { writes, meta }) => {
                    self.connection = Some(connection);
                    self.meta = meta;
                    let rows = self.queues.rows_of(&writes);
                    self.state.committed(meta.counts);
                    self.queues.add(rows);
                    return;
                }
                Err(error) => {
                    tracing::warn!(%error, "a group of transactions could not be committed yet");
                    tokio::time::sleep(RECONNECT_AFTER).await;
                }
            }
        }
    }

    async fn connected(&mut self) -> Option<Connection> {
        match self.connection.take() {
            Some(connection) if !connection.is_closed() => Some(connection),
            _ => match self.database.open().await {
                Ok(connection) => Some(connection),
                Err(error) => {
                    tracing::warn!(%error, "the database cannot be reached");
                    None
                }
            },
        }
    }
}

/// A decided group, in a transaction that is still open.
struct Decision {
    seq: i64,
    outcome: Outcome,
}

/// Decides a group in a transaction of the database, with what all commits before have written at hand.
async fn decide(
    connection: &Connection,
    group: &mut [Box<dyn Job>],
    salt: [u8; 16],
    last_meta: Meta,
) -> Result<Decision, Error> {
    let mut known = Known::nothing(salt);
    run_all(group, &known, last_meta);
    let head = connection.begin_commit(known.take_wanted(), &mut known).await?;
    let (seq, meta) = head.map_or((0, None), |(seq, meta)| (seq, decode(&keys::meta(), &meta).ok()));
    let meta = meta.unwrap_or(last_meta);
    let mut outcome = run_all(group, &known, meta);
    for _ in 0..FETCHES_MAX {
        let wanted = known.take_wanted();
        if wanted.is_empty() {
            break;
        }
        connection.read_on(wanted, &mut known).await?;
        outcome = run_all(group, &known, meta);
    }
    Ok(Decision { seq: seq + 1, outcome })
}

/// Runs the transactions of a group one after the other, each of which sees what those before it write.
fn run_all(group: &mut [Box<dyn Job>], known: &Known, mut meta: Meta) -> Outcome {
    let mut all = Batch::new();
    for job in group {
        let mut txn = Txn::new(known, &all, meta);
        if !job.run(&mut txn) {
            continue;
        }
        let Decided { writes, index, meta: after, .. } = txn.into_decided();
        meta = after;
        all.extend(writes);
        all.extend(
            index.into_iter().map(|(print, fan, leads)| (fan_entry(print, fan), leads.then(Vec::new))),
        );
    }
    Outcome { writes: all, meta }
}
