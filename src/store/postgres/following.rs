//! Follows what other replicas commit: which work there is, how far the feed is, and what they tell.
//!
//! Commits are numbered without gaps, and each says which rows it has written as far as others have to know. A replica
//! catches up when it writes, behind the lock, so that a search that it makes for an erasure misses nothing; and when it
//! is notified, or a second has passed. A replica that is alone writes nothing for others; where what was told is
//! missing, the queues are read from their fronts.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use tokio_postgres::Error;

use super::connection::Connection;
use super::database::Database;
use super::state::{State, lock};
use crate::store::rows::keys;
use crate::store::rows::records::decode;
use crate::store::rows::source::Batch;
use crate::store::rows::txn::Meta;
use crate::store::{Counts, Heard};

/// How often the database is asked without a notification.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// The same where there are none.
const POLL_EVERY: Duration = Duration::from_millis(50);
/// Notifications are sent at most this often.
const NOTIFY_EVERY: Duration = Duration::from_millis(2);
/// The wait before a connection is opened again.
const RECONNECT_AFTER: Duration = Duration::from_millis(500);
/// More commits of others are not followed one by one.
const COMMITS_MAX: i64 = 2_000;

/// The keys of what a batch writes as far as other replicas are told: which rows wait for work now, and which a search for
/// a person may look for.
pub(super) fn told_keys(batch: &Batch) -> Vec<Vec<u8>> {
    let is_told = |kind: Option<&u8>| matches!(kind, Some(b'i' | b'y' | b'w' | b'x' | b'f'));
    let written = batch.iter().filter(|(key, value)| value.is_some() && is_told(key.first()));
    written.map(|(key, _)| key.clone()).collect()
}

impl State {
    /// Catches up with the commits after `followed` and up to `to`, which other replicas have made.
    pub(super) async fn catch_up(
        &self,
        connection: &Connection,
        followed: &mut i64,
        to: i64,
    ) -> Result<(), Error> {
        if *followed >= to {
            return Ok(());
        }
        let told =
            if to - *followed > COMMITS_MAX { Vec::new() } else { connection.told(*followed, to).await? };
        if i64::try_from(told.len()).ok() != Some(to - *followed) {
            self.queues.read_all_again();
            self.watches.miss();
            self.hear(Heard::Missed);
        }
        let (mut keys, mut signals) = (Vec::new(), Vec::new());
        for (_, told) in told {
            keys.extend(told.keys);
            signals.extend(told.signals);
        }
        if self.watches.are_any() {
            let searched = keys.iter().filter(|key| matches!(key.first(), Some(b'i' | b'x' | b'f'))).cloned();
            self.watches.show(&connection.rows(searched).await?);
        }
        let reported: Batch = keys.into_iter().map(|key| (key, Some(Vec::new()))).collect();
        let rows = self.queues.rows_of(&reported);
        let has_work = rows.iter().any(|rows| !rows.is_empty());
        self.queues.add(rows);
        *followed = to;
        if has_work {
            self.hear(Heard::Work);
        }
        for signal in signals.iter().filter_map(|signal| serde_json::from_str(signal).ok()) {
            self.hear(Heard::Signal(signal));
        }
        Ok(())
    }

    /// Looks whether other replicas have committed something.
    async fn look(&self, connection: &Connection) -> Result<(), Error> {
        let mut followed = self.followed.lock().await;
        if let Some((seq, meta)) = connection.head().await?
            && seq > *followed
        {
            self.catch_up(connection, &mut followed, seq).await?;
            // A damaged one is reported by whoever writes.
            if let Ok(Meta { counts, .. }) = decode(&keys::meta(), &meta) {
                self.set_counts(counts);
            }
        }
        self.answered();
        Ok(())
    }

    pub(super) fn counts_now(&self) -> Counts {
        *lock(&self.counts)
    }
}

/// How replicas learn of each other's commits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Notify {
    /// They are notified.
    Listen,
    /// They look, many times a second: where a pooler or the engine passes no notifications on.
    Poll,
}

/// Follows the other replicas until the store is closed. `listening` is the database on a way that passes notifications.
pub(super) async fn follow(database: Database, listening: Database, state: Arc<State>, notify: Notify) {
    while !state.is_closing.load(Relaxed) {
        if let Err(error) = follow_over(&database, &listening, &state, notify).await {
            tracing::debug!(%error, "other replicas cannot be followed at the moment");
        }
        tokio::time::sleep(RECONNECT_AFTER).await;
    }
}

async fn follow_over(
    database: &Database,
    listening: &Database,
    state: &State,
    notify: Notify,
) -> Result<(), anyhow::Error> {
    let connection = Connection::open(database).await?;
    let listener = match notify {
        Notify::Listen => {
            let (client, notices) = listening.connect().await?;
            client.batch_execute(&format!("LISTEN {}", channel(database))).await?;
            Some((client, notices))
        }
        Notify::Poll => None,
    };
    while !state.is_closing.load(Relaxed) {
        tokio::time::timeout(crate::store::row_store::STALLED_AFTER, state.look(&connection)).await??;
        match &listener {
            Some((client, notices)) => {
                let _ = tokio::time::timeout(LOOK_EVERY, notices.notified.notified()).await;
                if notices.released.swap(false, Relaxed) {
                    state.hear(Heard::Released);
                }
                if client.is_closed() {
                    anyhow::bail!("the connection for notifications has ended");
                }
            }
            None if state.has_others() => tokio::time::sleep(POLL_EVERY).await,
            None => tokio::time::sleep(LOOK_EVERY).await,
        }
    }
    Ok(())
}

/// Notifies the other replicas of commits, until the store is closed. Never in a transaction that writes: the database
/// commits those that notify one after the other.
pub(super) async fn notify(database: Database, state: Arc<State>) {
    let (mut client, text) = (None, format!("NOTIFY {}", channel(&database)));
    while !state.is_closing.load(Relaxed) {
        state.committed.notified().await;
        if !state.has_others() {
            continue;
        }
        if client.as_ref().is_none_or(tokio_postgres::Client::is_closed) {
            client = database.connect().await.ok().map(|(client, _)| client);
        }
        if let Some(connected) = &client {
            let sent = connected.batch_execute(&text);
            // Those who hear nothing look every second.
            if !matches!(tokio::time::timeout(LOOK_EVERY, sent).await, Ok(Ok(()))) {
                client = None;
            }
        }
        tokio::time::sleep(NOTIFY_EVERY).await;
    }
}

/// Where replicas notify each other.
pub(super) fn channel(database: &Database) -> String {
    format!("unionlink_{}", database.schema)
}
