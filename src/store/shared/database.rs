//! A database with transactions, as the store uses it: what is asked of it, and what it answers.

use std::collections::BTreeSet;
use std::time::Duration;

use async_trait::async_trait;

use super::known::{Known, Wanted};
use crate::store::rows::source::Batch;

/// Why a database has not done what it was asked to.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{reason}")]
pub struct Trouble {
    /// What it says, with its causes.
    pub reason: String,
    /// Whether it has refused a statement, and may do so again: nothing was committed, neither was the connection lost nor
    /// the database stopped, and it is no wait for others that took too long.
    pub is_refusal: bool,
}

/// More commits of others are not followed one by one.
pub(in crate::store) const COMMITS_FOLLOWED: i64 = 2_000;

/// A newest commit: its number and the encoded counters after it.
pub(in crate::store) type Head = Option<(i64, Vec<u8>)>;

/// What a commit tells other replicas.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(in crate::store) struct Told {
    /// The keys of rows that wait for work, and of those that a search may look for.
    pub(in crate::store) keys: Vec<Vec<u8>>,
    /// Signals, each as JSON.
    pub(in crate::store) signals: Vec<String>,
}

/// A commit: its number, its id, and the encoded counters after it.
#[derive(Clone, Copy)]
pub(in crate::store) struct NewCommit<'a> {
    pub(in crate::store) seq: i64,
    pub(in crate::store) id: [u8; 16],
    pub(in crate::store) meta: &'a [u8],
    /// The message to other replicas, if there are any.
    pub(in crate::store) told: Option<&'a Told>,
}

/// What was fetched: rows, or that there are none with these keys; and the ranges of which that is all.
#[derive(Debug, Default)]
pub(in crate::store) struct Fetched {
    pub(in crate::store) rows: Vec<(Vec<u8>, Option<Vec<u8>>)>,
    pub(in crate::store) ranges: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Fetched {
    pub(super) fn add_to(self, known: &mut Known) {
        for (key, value) in self.rows {
            known.add(key, value);
        }
        for (from, to) in self.ranges {
            known.add_range(from, to);
        }
    }
}

/// How a transaction that writes begins.
pub(in crate::store) struct Begun {
    /// The newest commit.
    pub(in crate::store) head: Head,
    /// Whether there is the commit that was asked for.
    pub(in crate::store) is_committed: bool,
    /// The messages to other replicas of the commits after the one that was asked for.
    pub(in crate::store) told: Vec<(i64, Told)>,
    pub(in crate::store) fetched: Fetched,
}

/// What is asked when a transaction begins that writes.
#[derive(Debug, Clone, Copy, Default)]
pub(in crate::store) struct AskedFirst {
    /// Whether there is a commit with this number and id: whichever connection it came over, it has ended by now.
    pub(in crate::store) which: Option<(i64, [u8; 16])>,
    /// What the commits after this one have told.
    pub(in crate::store) told_after: Option<i64>,
}

/// A database.
#[async_trait]
pub(in crate::store) trait Database: Send + Sync {
    /// Connects.
    async fn open(&self) -> Result<Box<dyn Session>, Trouble>;

    /// Listens to notifications, where the database passes them on.
    async fn listen(&self) -> Result<Option<Box<dyn Listener>>, Trouble>;

    /// Notifies those who listen. They may miss it.
    async fn notify(&self) -> Result<(), Trouble>;

    /// What is shown to others of each table, where something is: rows as JSON.
    #[cfg(test)]
    async fn shown(&self) -> Option<Vec<BTreeSet<String>>>;
}

/// A connection. At most one transaction at a time, which is ended by what is documented, or with the connection.
#[async_trait]
pub(in crate::store) trait Session: Send + Sync {
    /// Whether it has ended.
    fn is_closed(&self) -> bool;

    /// Whether the database has warned since the last call.
    fn take_warning(&self) -> bool;

    /// Begins a transaction that sees the rows as of one instant, and fetches from it.
    async fn begin_read(&self, wanted: Wanted) -> Result<Fetched, Trouble>;

    /// Fetches more: in the transaction, if there is one.
    async fn read_on(&self, wanted: Wanted) -> Result<Fetched, Trouble>;

    /// Ends a transaction that reads.
    async fn end_read(&self) -> Result<(), Trouble>;

    /// Begins a transaction once those of all others that write are committed.
    async fn begin_commit(&self, asked: AskedFirst, wanted: Wanted) -> Result<Begun, Trouble>;

    /// Writes these rows as a commit, and commits. `known` has the rows before.
    async fn commit(&self, commit: NewCommit<'_>, writes: &Batch, known: &Known) -> Result<(), Trouble>;

    /// Ends the transaction without a change.
    async fn roll_back(&self) -> Result<(), Trouble>;

    /// The newest commit.
    async fn head(&self) -> Result<Head, Trouble>;

    /// What the commits after `after` and up to `to` have told, in order, each with the commit's number.
    async fn told(&self, after: i64, to: i64) -> Result<Vec<(i64, Told)>, Trouble>;
}

impl dyn Session + '_ {
    /// Those of these rows that there are, and the rows of these ranges.
    pub(in crate::store) async fn rows(
        &self,
        keys: impl Iterator<Item = Vec<u8>>,
        ranges: BTreeSet<(Vec<u8>, Vec<u8>)>,
    ) -> Result<Batch, Trouble> {
        let fetched = self.read_on(Wanted { keys: keys.collect(), ranges }).await?;
        Ok(fetched.rows.into_iter().filter(|(_, value)| value.is_some()).collect())
    }
}

/// What a replica is notified of.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(in crate::store) struct Notified {
    /// One of the others has released a lease.
    pub(in crate::store) released: bool,
}

/// Hears notifications.
#[async_trait]
pub(in crate::store) trait Listener: Send {
    /// Waits for a notification, for no longer than this.
    async fn wait(&mut self, longest: Duration) -> Result<Notified, Trouble>;
}
