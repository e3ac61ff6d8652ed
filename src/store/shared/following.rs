//! Follows what other replicas commit: which work there is, how far the feed is, and what they tell.
//!
//! Commits are numbered without gaps, and each says which rows it has written as far as others have to know. A replica
//! catches up when it writes, behind the lock, so that a search that it makes for an erasure misses nothing; and when it
//! is notified, or a second has passed. A replica that is alone writes nothing for others; where what was told is
//! missing, the queues are read from their fronts.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use super::database::{COMMITS_FOLLOWED, Database, Session, Told, Trouble};
use super::state::{SILENT, State, lock};
use crate::store::rows::keys;
use crate::store::rows::records::decode;
use crate::store::rows::source::Batch;
use crate::store::rows::txn::Meta;
use crate::store::{Counts, EventId, Heard};

/// How often the database is asked without a notification.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// The same where there are none.
const POLL_EVERY: Duration = Duration::from_millis(50);
/// Notifications are sent at most this often.
const NOTIFY_EVERY: Duration = Duration::from_millis(2);
/// The wait before a connection is opened again.
const RECONNECT_AFTER: Duration = Duration::from_millis(500);

/// What a batch tells other replicas: the keys of events that wait, and of what a search for a person may look for. Of
/// lookups, whose keys have ids of people in them, only that there are new ones: the first letter.
pub(super) fn told_keys(batch: &Batch) -> Vec<Vec<u8>> {
    let mut told = BTreeSet::new();
    for (key, _) in batch.iter().filter(|(_, value)| value.is_some()) {
        match key.first() {
            Some(b'i' | b'x' | b'f') => drop(told.insert(key.clone())),
            Some(kind @ (b'y' | b'w')) => drop(told.insert(vec![*kind])),
            _ => {}
        }
    }
    told.into_iter().collect()
}

/// A commit, and what those after it have told, each with its number.
pub(super) type AtHand = (i64, Vec<(i64, Told)>);

/// What other replicas have told with some commits.
#[derive(Default)]
pub(super) struct Heeded {
    /// The commit before these, and the last.
    from: i64,
    to: i64,
    /// Whether some of them say nothing.
    has_gap: bool,
    keys: Vec<Vec<u8>>,
    signals: Vec<String>,
    /// What a search may look for.
    searched: Batch,
}

impl State {
    /// Reads what the commits up to this one have told, as far as this replica has not followed them. `at_hand` is what
    /// those after some commit have told, if that was read already.
    pub(super) async fn read_told(
        &self,
        connection: &dyn Session,
        to: i64,
        at_hand: Option<AtHand>,
    ) -> Result<Heeded, Trouble> {
        let mut heeded = Heeded { from: *lock(&self.followed), to, ..Heeded::default() };
        let from = heeded.from;
        // After a failover that has lost commits there are fewer than there were.
        let is_readable = (from..from + COMMITS_FOLLOWED).contains(&to);
        let told = match at_hand {
            _ if !is_readable || to == from => Vec::new(),
            Some((after, told)) if after == from => told,
            _ => connection.told(from, to).await?,
        };
        heeded.has_gap = i64::try_from(told.len()).ok() != Some(to - from);
        for (_, told) in told {
            heeded.keys.extend(told.keys);
            heeded.signals.extend(told.signals);
        }
        if self.watches.are_any() {
            let searched: Vec<_> = heeded.keys.iter().filter(|key| key.len() > 1).cloned().collect();
            // The texts of quarantined messages are rows of their own.
            let texts = searched.iter().filter(|key| key.first() == Some(&b'x')).filter_map(|key| {
                let parts = keys::message_parts(EventId(keys::Parts(key.get(1..)?).number().ok()?));
                Some((parts.clone(), keys::after(&parts)))
            });
            heeded.searched = connection.rows(searched.iter().cloned(), texts.collect()).await?;
        }
        Ok(heeded)
    }

    /// Takes up what was told; false if this replica has followed some of these commits meanwhile.
    pub(super) fn heed(&self, heeded: Heeded) -> bool {
        let mut followed = lock(&self.followed);
        let Heeded { from, to, has_gap, keys, signals, searched } = heeded;
        if *followed != from {
            return false;
        }
        *followed = to;
        if has_gap {
            self.queues.read_all_again();
            self.watches.miss();
            self.hear(Heard::Missed);
        }
        self.watches.show(&searched);
        let mut has_work = false;
        let (kinds, keys): (Vec<_>, Vec<_>) = keys.into_iter().partition(|key| key.len() == 1);
        for kind in kinds {
            self.queues.read_one_again(&kind);
            has_work = true;
        }
        let reported: Batch = keys.into_iter().map(|key| (key, Some(Vec::new()))).collect();
        let rows = self.queues.rows_of(&reported);
        has_work |= rows.iter().any(|rows| !rows.is_empty());
        self.queues.add(rows);
        if has_work {
            self.hear(Heard::Work);
        }
        for signal in signals.iter().filter_map(|signal| serde_json::from_str(signal).ok()) {
            self.hear(Heard::Signal(signal));
        }
        true
    }

    /// Follows the commits of others up to this one. See [`read_told`](Self::read_told).
    pub(super) async fn catch_up(
        &self,
        connection: &dyn Session,
        to: i64,
        mut at_hand: Option<AtHand>,
    ) -> Result<(), Trouble> {
        while *lock(&self.followed) != to {
            let heeded = self.read_told(connection, to, at_hand.take()).await?;
            self.heed(heeded);
        }
        Ok(())
    }

    /// Looks whether other replicas have committed something.
    async fn look(&self, connection: &dyn Session) -> Result<(), Trouble> {
        let before = *lock(&self.followed);
        if let Some((seq, meta)) = connection.head().await?
            && seq != before
            && !self.may_be_own(seq, before)
        {
            let heeded = self.read_told(connection, seq, None).await?;
            // A damaged one is reported by whoever writes.
            if self.heed(heeded)
                && let Ok(Meta { counts, .. }) = decode(&keys::meta(), &meta)
            {
                self.set_counts(counts);
            }
        }
        self.answered();
        Ok(())
    }

    /// Whether a commit may be one of this replica, whose writer notes it itself: it has gone on since `before`, or is about
    /// to commit.
    fn may_be_own(&self, seq: i64, before: i64) -> bool {
        *lock(&self.followed) != before || (self.is_committing() && seq <= before + 1)
    }

    pub(super) fn counts_now(&self) -> Counts {
        *lock(&self.counts)
    }
}

/// Follows the other replicas until the store is closed.
pub(super) async fn follow(database: Arc<dyn Database>, state: Arc<State>) {
    while !state.is_closing.load(Relaxed) {
        if let Err(error) = follow_over(&*database, &state).await {
            tracing::debug!(%error, "other replicas cannot be followed at the moment");
        }
        tokio::time::sleep(RECONNECT_AFTER).await;
    }
}

async fn follow_over(database: &dyn Database, state: &State) -> Result<(), Trouble> {
    let connection = database.open().await?;
    let mut listener = database.listen().await?;
    while !state.is_closing.load(Relaxed) {
        let looked =
            tokio::time::timeout(crate::store::row_store::STALLED_AFTER, state.look(&*connection)).await;
        looked.map_err(|_| Trouble { reason: SILENT.to_owned(), is_refusal: false })??;
        match &mut listener {
            Some(listener) => {
                if listener.wait(LOOK_EVERY).await?.released {
                    state.hear(Heard::Released);
                }
            }
            None if state.has_others() => tokio::time::sleep(POLL_EVERY).await,
            None => tokio::time::sleep(LOOK_EVERY).await,
        }
    }
    Ok(())
}

/// Notifies the other replicas of commits, until the store is closed. Never in a transaction that writes: a database may
/// commit those that notify one after the other.
pub(super) async fn notify(database: Arc<dyn Database>, state: Arc<State>) {
    while !state.is_closing.load(Relaxed) {
        state.committed.notified().await;
        if !state.has_others() {
            continue;
        }
        // Those who hear nothing look every second.
        if let Err(error) = database.notify().await {
            tracing::debug!(%error, "other replicas were not notified");
        }
        tokio::time::sleep(NOTIFY_EVERY).await;
    }
}
