//! What a database in memory holds.

use std::collections::BTreeMap;
use std::ops::Bound::{Excluded, Included};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use tokio::time::Instant;

use super::way::{Asked, Passage, Way};
use crate::clock::Clock;
use crate::domain::time::Timestamp;
use crate::store::Duty;
use crate::store::shared::database::{Head, Told, Trouble};

pub(super) type Table = BTreeMap<Vec<u8>, Vec<u8>>;

/// The database. Clones share it.
#[derive(Clone)]
pub struct SharedMemory {
    pub(super) kept: Arc<Mutex<Kept>>,
    pub(super) clock: Arc<dyn Clock>,
    /// Notified when replicas are: in the order in which they wait, so that a simulation is repeatable.
    pub(super) notified: Arc<Notify>,
    /// Notified when a transaction that writes has ended.
    pub(super) is_free: Arc<Notify>,
}

#[derive(Default)]
pub(super) struct Kept {
    pub(super) rows: Arc<Table>,
    /// The newest commit, and the ids of all of them.
    pub(super) head: Head,
    pub(super) commits: BTreeMap<i64, [u8; 16]>,
    pub(super) told: BTreeMap<i64, Told>,
    pub(super) sessions: u64,
    /// The notifications so far: that there are commits, and that a lease was released.
    pub(super) notified: [u64; 2],
    /// The session whose transaction writes, and since when it waits for its client.
    pub(super) writing: Option<(u64, Instant)>,
    pub(super) replicas: BTreeMap<String, Seen>,
    pub(super) leases: BTreeMap<String, Lease>,
}

impl Kept {
    /// What the commits after one and up to another have told.
    pub(super) fn told_after(&self, after: i64, to: i64) -> Vec<(i64, Told)> {
        // After a failover there may be fewer commits than there were.
        let told = self.told.range((Excluded(after), Included(to.max(after + 1))));
        told.filter(|(seq, _)| **seq <= to).map(|(seq, told)| (*seq, told.clone())).collect()
    }
}

pub(super) struct Seen {
    pub(super) at: Timestamp,
    pub(super) status: Option<String>,
}

pub(super) struct Lease {
    pub(super) holder: String,
    pub(super) term: i64,
    pub(super) expires_at: Timestamp,
}

impl SharedMemory {
    /// An empty database with this clock.
    #[must_use]
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self { kept: Arc::default(), clock, notified: Arc::default(), is_free: Arc::default() }
    }

    /// Every key with its value, in order.
    #[must_use]
    pub fn rows(&self) -> Vec<(Vec<u8>, Vec<u8>)> {
        let rows = self.kept().rows.clone();
        rows.iter().map(|(key, value)| (key.clone(), value.clone())).collect()
    }

    /// The replica that holds a duty now.
    #[must_use]
    pub fn holder(&self, duty: &Duty) -> Option<String> {
        let now = self.clock.now();
        let kept = self.kept();
        let lease = kept.leases.get(&duty.to_string()).filter(|lease| lease.expires_at > now);
        lease.map(|lease| lease.holder.clone())
    }

    /// How often a duty has been taken, renewals not counted.
    #[must_use]
    pub fn terms(&self, duty: &Duty) -> u64 {
        self.kept().leases.get(&duty.to_string()).map_or(0, |lease| lease.term.unsigned_abs())
    }

    /// Notifies those who listen.
    pub(super) fn notify(&self, kept: &mut Kept, released: bool) {
        kept.notified[usize::from(released)] += 1;
        self.notified.notify_waiters();
    }

    pub(super) fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The database, as a replica is connected to it.
#[derive(Clone)]
pub(super) struct Connected {
    pub(super) memory: SharedMemory,
    pub(super) way: Arc<dyn Way>,
}

impl Connected {
    /// Asks something, and waits for the answer.
    pub(super) async fn ask<T: Send>(
        &self,
        asked: Asked,
        what: impl FnOnce(&SharedMemory) -> T + Send,
    ) -> Result<T, Trouble> {
        if !self.way.there(asked).await {
            return Err(lost());
        }
        let answer = what(&self.memory);
        match self.way.back(asked).await {
            Passage::Arrives | Passage::Warned => Ok(answer),
            Passage::Lost => Err(lost()),
        }
    }
}

/// What a lost connection is.
pub(super) fn lost() -> Trouble {
    Trouble { reason: "the connection is lost".to_owned(), is_refusal: false }
}
