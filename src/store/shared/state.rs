//! What every replica knows of the store without asking the database.

use std::sync::atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, broadcast, watch};
use tokio::time::Instant;

use crate::clock::{Clock, ServerClock};
use crate::store::rows::watch::Watches;
use crate::store::rows::work_queue::WorkQueues;
use crate::store::{Counts, Heard};

/// Longer than this without an answer, the database counts as away: each replica asks it for something every second.
const AWAY_AFTER: Duration = Duration::from_secs(4);
/// Why there is no answer in time.
pub(super) const SILENT: &str = "it has not answered for some seconds";
/// What other replicas told and nobody has listened to yet.
const HEARD_MAX: usize = 256;

/// What is known of the store without asking the database.
pub(crate) struct State {
    pub(super) salt: [u8; 16],
    pub(super) counts: Mutex<Counts>,
    pub(super) feed_head: watch::Sender<u64>,
    pub(super) is_closing: AtomicBool,
    /// The newest commit whose rows this replica knows of.
    pub(super) followed: Mutex<i64>,
    /// The newest commit that is known to be where every commit has to be: on a standby that is waited for, say.
    pub(super) confirmed: AtomicI64,
    /// How many other replicas live.
    pub(super) others: AtomicUsize,
    /// What is told to them with the next commit: signals, each as JSON.
    pub(super) signals: Mutex<Vec<String>>,
    /// Notified when something was committed of which they do not know yet.
    pub(super) committed: Notify,
    pub(in crate::store) heard: broadcast::Sender<Heard>,
    pub(in crate::store) clock: Arc<ServerClock>,
    /// When the database answered last.
    answered_at: Mutex<Instant>,
    /// Since when the writer tries in vain to commit a group, and when it has given one up.
    committing_since: Mutex<Option<Instant>>,
    gave_up_at: Mutex<Option<Instant>>,
    is_in_trouble: AtomicBool,
    /// Why this program must not go on.
    pub(in crate::store) failure: watch::Sender<Option<String>>,
    pub(super) queues: Arc<WorkQueues>,
    pub(super) watches: Arc<Watches>,
}

impl State {
    pub(super) fn new(salt: [u8; 16], queues: Arc<WorkQueues>, machine: Arc<dyn Clock>) -> Self {
        Self {
            salt,
            counts: Mutex::default(),
            feed_head: watch::Sender::new(0),
            is_closing: AtomicBool::new(false),
            followed: Mutex::default(),
            confirmed: AtomicI64::new(0),
            others: AtomicUsize::new(0),
            signals: Mutex::default(),
            committed: Notify::new(),
            heard: broadcast::Sender::new(HEARD_MAX),
            clock: Arc::new(ServerClock::new(machine)),
            answered_at: Mutex::new(Instant::now()),
            committing_since: Mutex::default(),
            gave_up_at: Mutex::default(),
            is_in_trouble: AtomicBool::new(false),
            failure: watch::Sender::new(None),
            queues,
            watches: Arc::default(),
        }
    }

    /// The counters as of the newest commit that is known.
    pub(super) fn set_counts(&self, counts: Counts) {
        *lock(&self.counts) = counts;
        self.feed_head.send_if_modified(|head| std::mem::replace(head, counts.feed_head) != counts.feed_head);
    }

    /// Records that a heartbeat was answered, and how many replicas live.
    pub(in crate::store) fn beaten(&self, replicas: usize) {
        self.answered();
        self.others.store(replicas.saturating_sub(1), Relaxed);
    }

    pub(super) fn has_others(&self) -> bool {
        self.others.load(Relaxed) > 0
    }

    /// Records that the database has answered.
    pub(super) fn answered(&self) {
        *lock(&self.answered_at) = Instant::now();
    }

    /// Whether the database has not answered for a while.
    pub(super) fn is_away(&self) -> bool {
        lock(&self.answered_at).elapsed() > AWAY_AFTER
    }

    /// Records that the writer tries to commit a group.
    pub(super) fn begins_to_commit(&self) {
        lock(&self.committing_since).get_or_insert_with(Instant::now);
    }

    /// Records that a group was committed, or given up.
    pub(super) fn ends_to_commit(&self, is_committed: bool) {
        *lock(&self.committing_since) = None;
        *lock(&self.gave_up_at) = (!is_committed).then(Instant::now);
    }

    /// Whether the writer tries to commit a group.
    pub(super) fn is_committing(&self) -> bool {
        lock(&self.committing_since).is_some()
    }

    /// Whether a commit takes too long: its standby is gone, say.
    pub(super) fn is_stuck(&self) -> bool {
        let takes_long = lock(&self.committing_since).is_some_and(|since| since.elapsed() > AWAY_AFTER);
        // Until it is tried again, for a while only.
        takes_long || lock(&self.gave_up_at).is_some_and(|at| at.elapsed() < AWAY_AFTER)
    }

    /// Logs trouble with the database when it begins.
    pub(super) fn trouble(&self, reason: &str) {
        if !self.is_in_trouble.swap(true, Relaxed) {
            tracing::warn!(
                reason,
                "the database does not do what it is asked; this is tried again until it does"
            );
        }
    }

    /// Logs that it has ended.
    pub(super) fn no_trouble(&self) {
        if self.is_in_trouble.swap(false, Relaxed) {
            tracing::info!("the database works again");
        }
    }

    pub(super) fn hear(&self, heard: Heard) {
        // Without a receiver there is nobody who has to know.
        let _ = self.heard.send(heard);
    }
}

pub(in crate::store) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
