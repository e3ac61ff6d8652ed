//! A connection to a database in memory.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use tokio::time::{Instant, timeout_at};

use super::kept::{Connected, Kept, Table, lost};
use super::way::{Asked, Passage};
use crate::store::rows::keys;
use crate::store::rows::source::Batch;
use crate::store::shared::database::{AskedFirst, Begun, Fetched, Head, NewCommit, Session, Told, Trouble};
use crate::store::shared::known::{Known, Wanted};

/// A session that waits in a transaction for its client is ended once it is in the way of others for so long.
const IDLE_MAX: Duration = Duration::from_secs(2);
/// Rows of a range that are fetched at a time.
const RANGE_ROWS: usize = 16;

/// A connection.
pub(super) struct MemorySession {
    number: u64,
    connected: Connected,
    is_closed: AtomicBool,
    /// Whether it is in a transaction that writes.
    is_writing: AtomicBool,
    has_warned: AtomicBool,
    /// What a transaction that reads sees.
    snapshot: Mutex<Option<Arc<Table>>>,
}

impl MemorySession {
    pub(super) fn new(number: u64, connected: Connected) -> Self {
        Self {
            number,
            connected,
            is_closed: AtomicBool::new(false),
            is_writing: AtomicBool::new(false),
            has_warned: AtomicBool::new(false),
            snapshot: Mutex::default(),
        }
    }

    async fn ask<T: Send>(
        &self,
        asked: Asked,
        what: impl FnOnce(&mut Kept) -> Result<T, Trouble> + Send,
    ) -> Result<T, Trouble> {
        let memory = &self.connected.memory;
        if self.is_closed.load(Relaxed) || !self.connected.way.there(asked).await {
            self.close();
            return Err(lost());
        }
        let answer = {
            let mut kept = memory.kept();
            // Another one may have begun: this session was ended for that.
            let is_ended = self.is_writing.load(Relaxed)
                && kept.writing.is_none_or(|(session, _)| session != self.number);
            if is_ended {
                self.is_closed.store(true, Relaxed);
            }
            let answer = if is_ended { Err(lost()) } else { what(&mut kept) };
            if let Some((session, since)) = &mut kept.writing
                && *session == self.number
            {
                *since = Instant::now();
            }
            answer
        };
        match self.connected.way.back(asked).await {
            Passage::Arrives => answer,
            Passage::Warned => {
                self.has_warned.store(true, Relaxed);
                answer
            }
            Passage::Lost => {
                self.close();
                Err(lost())
            }
        }
    }

    /// Ends the connection, and a transaction of it with it.
    fn close(&self) {
        self.is_closed.store(true, Relaxed);
        self.end(&mut self.connected.memory.kept());
    }

    fn end(&self, kept: &mut Kept) {
        self.is_writing.store(false, Relaxed);
        if kept.writing.is_some_and(|(session, _)| session == self.number) {
            kept.writing = None;
            self.connected.memory.is_free.notify_waiters();
        }
    }

    fn snapshot(&self) -> MutexGuard<'_, Option<Arc<Table>>> {
        self.snapshot.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until no other transaction writes.
    async fn lock(&self) -> Result<(), Trouble> {
        let memory = &self.connected.memory;
        loop {
            let mut freed = std::pin::pin!(memory.is_free.notified());
            freed.as_mut().enable();
            let idle_until = {
                let mut kept = memory.kept();
                let now = Instant::now();
                match kept.writing {
                    Some((session, since)) if session != self.number && since + IDLE_MAX > now => {
                        since + IDLE_MAX
                    }
                    _ => {
                        kept.writing = Some((self.number, now));
                        self.is_writing.store(true, Relaxed);
                        return Ok(());
                    }
                }
            };
            // It may have gone on meanwhile.
            let _ = timeout_at(idle_until, freed).await;
        }
    }
}

impl Drop for MemorySession {
    fn drop(&mut self) {
        self.close();
    }
}

fn fetch(rows: &Table, head: &Head, wanted: Wanted) -> Fetched {
    let Wanted { keys, ranges } = wanted;
    let mut fetched = Fetched::default();
    for key in keys {
        let is_meta = key == keys::meta();
        let value =
            if is_meta { head.as_ref().map(|(_, meta)| meta.clone()) } else { rows.get(&key).cloned() };
        fetched.rows.push((key, value));
    }
    for (from, to) in ranges {
        let found: Vec<_> = rows.range(from.clone()..to.clone()).take(RANGE_ROWS).collect();
        let last = found.last().filter(|_| found.len() == RANGE_ROWS).map(|(last, _)| keys::next(last));
        fetched.rows.extend(found.into_iter().map(|(key, value)| (key.clone(), Some(value.clone()))));
        fetched.ranges.push((from, last.unwrap_or(to)));
    }
    fetched
}

#[async_trait]
impl Session for MemorySession {
    fn is_closed(&self) -> bool {
        self.is_closed.load(Relaxed)
    }

    fn take_warning(&self) -> bool {
        self.has_warned.swap(false, Relaxed)
    }

    async fn begin_read(&self, wanted: Wanted) -> Result<Fetched, Trouble> {
        self.ask(Asked::Read, |kept| {
            *self.snapshot() = Some(kept.rows.clone());
            Ok(fetch(&kept.rows, &kept.head, wanted))
        })
        .await
    }

    async fn read_on(&self, wanted: Wanted) -> Result<Fetched, Trouble> {
        let asked = if self.is_writing.load(Relaxed) { Asked::Begin } else { Asked::Read };
        self.ask(asked, |kept| {
            let rows = self.snapshot().clone().unwrap_or_else(|| kept.rows.clone());
            Ok(fetch(&rows, &kept.head, wanted))
        })
        .await
    }

    async fn end_read(&self) -> Result<(), Trouble> {
        self.ask(Asked::Read, |_| {
            *self.snapshot() = None;
            Ok(())
        })
        .await
    }

    async fn begin_commit(&self, asked: AskedFirst, wanted: Wanted) -> Result<Begun, Trouble> {
        self.ask(Asked::Begin, |_| Ok(())).await?;
        self.lock().await?;
        self.ask(Asked::Begin, |kept| {
            let is_committed = asked.which.is_some_and(|(seq, id)| kept.commits.get(&seq) == Some(&id));
            let told = asked.told_after.map_or_else(Vec::new, |after| kept.told_after(after, i64::MAX));
            let fetched = fetch(&kept.rows, &kept.head, wanted);
            Ok(Begun { head: kept.head.clone(), is_committed, told, fetched })
        })
        .await
    }

    async fn commit(&self, commit: NewCommit<'_>, writes: &Batch, _: &Known) -> Result<(), Trouble> {
        self.ask(Asked::Commit, |kept| {
            let NewCommit { seq, id, meta, told } = commit;
            if kept.commits.contains_key(&seq) {
                self.end(kept);
                return Err(Trouble { reason: format!("there is a commit {seq}"), is_refusal: true });
            }
            let rows = Arc::make_mut(&mut kept.rows);
            for (key, value) in writes {
                match value {
                    Some(value) => rows.insert(key.clone(), value.clone()),
                    None => rows.remove(key),
                };
            }
            kept.commits.insert(seq, id);
            kept.told.extend(told.map(|told| (seq, told.clone())));
            kept.head = Some((seq, meta.to_vec()));
            self.end(kept);
            Ok(())
        })
        .await
    }

    async fn roll_back(&self) -> Result<(), Trouble> {
        self.ask(Asked::Begin, |kept| {
            self.end(kept);
            Ok(())
        })
        .await
    }

    async fn head(&self) -> Result<Head, Trouble> {
        self.ask(Asked::Follow, |kept| Ok(kept.head.clone())).await
    }

    async fn told(&self, after: i64, to: i64) -> Result<Vec<(i64, Told)>, Trouble> {
        self.ask(Asked::Follow, |kept| Ok(kept.told_after(after, to))).await
    }
}
