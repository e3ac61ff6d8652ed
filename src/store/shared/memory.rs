//! A database in memory, for tests and simulations: several stores in one process share it, each on a way that may lose
//! what is asked, or what is answered.
//!
//! It does what PostgreSQL does for the store, with the same guarantees: reads see one instant, those who write wait for
//! each other, a session that is idle in a transaction for too long is ended, and leases are on one clock.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound::{Excluded, Included};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::{Notify, broadcast};
use tokio::time::{Instant, timeout_at};

use super::backend::Shared;
use super::database::{
    AskedFirst, Begun, Database, Fetched, Head, Listener, NewCommit, Notified, Session, Told, Trouble,
};
use super::known::{Known, Wanted};
use super::leases::{Leases, Telling};
use super::opening::{NotOpened, Opening};
use super::state::State;
use crate::clock::Clock;
use crate::domain::time::Timestamp;
use crate::store::row_store::{Limits, RowStore};
use crate::store::rows::keys;
use crate::store::rows::source::Batch;
use crate::store::{Duty, Heard, Heartbeat, Replica, Replicas, Signal, StoreError};

/// A session that waits in a transaction for its client is ended once it is in the way of others for so long.
const IDLE_MAX: Duration = Duration::from_secs(2);
/// A replica that was not heard of for so long does not count.
const LIVES_MS: i64 = 10_000;
/// Rows of a range that are fetched at a time.
const RANGE_ROWS: usize = 16;

/// What is asked of the database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asked {
    /// Rows, or a connection.
    Read,
    /// What others have committed.
    Follow,
    /// That a transaction begins that writes, and rows for it.
    Begin,
    /// A commit.
    Commit,
    /// A heartbeat, or that leases are released.
    Beat,
}

/// What becomes of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Passage {
    /// It arrives.
    Arrives,
    /// It arrives with a warning: what was committed may not be where every commit has to be.
    Warned,
    /// The connection is lost.
    Lost,
}

/// The way between a replica and the database.
#[async_trait]
pub trait Way: Send + Sync + 'static {
    /// Waits until something asked is there; false if the connection is lost instead.
    async fn there(&self, asked: Asked) -> bool;

    /// Waits until its answer is back.
    async fn back(&self, asked: Asked) -> Passage;

    /// Whether a notification arrives.
    fn is_notified(&self) -> bool;
}

/// A way on which nothing is lost, and which takes no time.
#[derive(Debug, Clone, Copy, Default)]
pub struct Direct;

#[async_trait]
impl Way for Direct {
    async fn there(&self, _: Asked) -> bool {
        true
    }

    async fn back(&self, _: Asked) -> Passage {
        Passage::Arrives
    }

    fn is_notified(&self) -> bool {
        true
    }
}

type Table = BTreeMap<Vec<u8>, Vec<u8>>;

/// The database. Clones share it.
#[derive(Clone)]
pub struct SharedMemory {
    kept: Arc<Mutex<Kept>>,
    clock: Arc<dyn Clock>,
    /// Notified when replicas are: in the order in which they wait, so that a simulation is repeatable.
    notified: Arc<Notify>,
    /// Notified when a transaction that writes has ended.
    is_free: Arc<Notify>,
}

#[derive(Default)]
struct Kept {
    rows: Arc<Table>,
    /// The newest commit, and the ids of all of them.
    head: Head,
    commits: BTreeMap<i64, [u8; 16]>,
    told: BTreeMap<i64, Told>,
    sessions: u64,
    /// The notifications so far: that there are commits, and that a lease was released.
    notified: [u64; 2],
    /// The session whose transaction writes, and since when it waits for its client.
    writing: Option<(u64, Instant)>,
    replicas: BTreeMap<String, Seen>,
    leases: BTreeMap<String, Lease>,
}

impl Kept {
    /// What the commits after one and up to another have told.
    fn told_after(&self, after: i64, to: i64) -> Vec<(i64, Told)> {
        // After a failover there may be fewer commits than there were.
        let told = self.told.range((Excluded(after), Included(to.max(after + 1))));
        told.filter(|(seq, _)| **seq <= to).map(|(seq, told)| (*seq, told.clone())).collect()
    }
}

struct Seen {
    at: Timestamp,
    status: Option<String>,
}

struct Lease {
    holder: String,
    term: i64,
    expires_at: Timestamp,
}

/// How a replica's store is opened.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Its id, another one after each start.
    pub replica: String,
    /// The id of the store, if it is new.
    pub store_id: u128,
    /// The maximum number of events in the inbox, and of messages in quarantine.
    pub inbox_events_max: u64,
    /// How many days messages are remembered for deduplication.
    pub dedupe_days: u32,
    /// How many days a quarantined message is kept.
    pub quarantine_days: u32,
}

impl SharedMemory {
    /// An empty database with this clock.
    #[must_use]
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self { kept: Arc::default(), clock, notified: Arc::default(), is_free: Arc::default() }
    }

    /// Opens a replica's store on a machine with this clock.
    ///
    /// # Errors
    /// The way was lost.
    pub async fn open(
        &self,
        settings: &Settings,
        machine: Arc<dyn Clock>,
        way: Arc<dyn Way>,
    ) -> Result<RowStore<Shared>, StoreError> {
        let Settings { replica, store_id, inbox_events_max, dedupe_days, quarantine_days } = settings.clone();
        let limits = Limits { inbox_events_max, dedupe_days, quarantine_days };
        let connected = Connected { memory: self.clone(), way };
        let database = Arc::new(connected.clone());
        let opening = Opening { database, reads: 4, limits, machine, store_id: store_id.to_be_bytes() };
        let opened = RowStore::open_in(opening, |state, telling| {
            Box::new(MemoryLeases { state, telling, connected, id: replica })
        });
        opened.await.map_err(|error| match error {
            NotOpened::Database(trouble) => StoreError::Unavailable(trouble.reason),
            NotOpened::Content(error) => error,
        })
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

    fn notify(&self, kept: &mut Kept, released: bool) {
        kept.notified[usize::from(released)] += 1;
        self.notified.notify_waiters();
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The database, as a replica is connected to it.
#[derive(Clone)]
struct Connected {
    memory: SharedMemory,
    way: Arc<dyn Way>,
}

impl Connected {
    /// Asks something, and waits for the answer.
    async fn ask<T: Send>(
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

fn lost() -> Trouble {
    Trouble { reason: "the connection is lost".to_owned(), is_refusal: false }
}

#[async_trait]
impl Database for Connected {
    async fn open(&self) -> Result<Box<dyn Session>, Trouble> {
        let number = self.ask(Asked::Read, |memory| {
            let mut kept = memory.kept();
            kept.sessions += 1;
            kept.sessions
        });
        Ok(Box::new(MemorySession {
            number: number.await?,
            connected: self.clone(),
            is_closed: AtomicBool::new(false),
            is_writing: AtomicBool::new(false),
            has_warned: AtomicBool::new(false),
            snapshot: Mutex::default(),
        }))
    }

    async fn listen(&self) -> Result<Option<Box<dyn Listener>>, Trouble> {
        let heard = self.ask(Asked::Follow, |memory| memory.kept().notified).await?;
        Ok(Some(Box::new(Listening { connected: self.clone(), heard })))
    }

    async fn notify(&self) -> Result<(), Trouble> {
        self.ask(Asked::Follow, |memory| memory.notify(&mut memory.kept(), false)).await
    }

    #[cfg(test)]
    async fn shown(&self) -> Option<Vec<BTreeSet<String>>> {
        None
    }
}

/// A connection.
struct MemorySession {
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

/// What hears notifications.
struct Listening {
    connected: Connected,
    heard: [u64; 2],
}

#[async_trait]
impl Listener for Listening {
    async fn wait(&mut self, longest: Duration) -> Result<Notified, Trouble> {
        let (until, Connected { memory, way }) = (Instant::now() + longest, &self.connected);
        let heard = async {
            loop {
                let mut notified = std::pin::pin!(memory.notified.notified());
                notified.as_mut().enable();
                let newest = memory.kept().notified;
                if newest != self.heard {
                    return std::mem::replace(&mut self.heard, newest)[1] != newest[1];
                }
                notified.await;
            }
        };
        match timeout_at(until, heard).await {
            Ok(released) if way.is_notified() => Ok(Notified { released }),
            Ok(_) => {
                tokio::time::sleep_until(until).await;
                Ok(Notified::default())
            }
            Err(_) => Ok(Notified::default()),
        }
    }
}

/// The replicas and their leases, as one of them sees them.
struct MemoryLeases {
    state: Arc<State>,
    telling: Telling,
    connected: Connected,
    id: String,
}

impl MemoryLeases {
    async fn ask<T: Send>(&self, what: impl FnOnce(&SharedMemory) -> T + Send) -> Result<T, StoreError> {
        self.connected.ask(Asked::Beat, what).await.map_err(|error| StoreError::Unavailable(error.reason))
    }

    async fn release_those(&self, are: impl Fn(&str) -> bool + Send + Sync) -> Result<(), StoreError> {
        self.ask(|memory| {
            let mut kept = memory.kept();
            for (name, lease) in &mut kept.leases {
                if lease.holder == self.id && are(name) {
                    lease.expires_at = Timestamp::EPOCH;
                }
            }
            memory.notify(&mut kept, true);
        })
        .await
    }
}

#[async_trait]
impl Leases for MemoryLeases {
    async fn read_clock(&self) -> Result<(), StoreError> {
        let asked_ms = self.state.clock.local_ms();
        let now = self.ask(|memory| memory.clock.now()).await?;
        self.state.clock.read(now, asked_ms, self.state.clock.local_ms());
        Ok(())
    }

    async fn leave(&self) -> Result<(), StoreError> {
        self.ask(|memory| memory.kept().replicas.remove(&self.id)).await?;
        self.release_those(|_| true).await
    }
}

#[async_trait]
impl Replicas for MemoryLeases {
    fn id(&self) -> &str {
        &self.id
    }

    fn clock(&self) -> Arc<dyn Clock> {
        self.state.clock.clone()
    }

    async fn beat(
        &self,
        duties: &BTreeMap<Duty, Duration>,
        status: Option<String>,
    ) -> Result<Heartbeat, StoreError> {
        let asked_ms = self.state.clock.local_ms();
        let beaten = self.ask(|memory| {
            let (mut kept, now) = (memory.kept(), memory.clock.now());
            kept.replicas.insert(self.id.clone(), Seen { at: now, status });
            let mut held = BTreeMap::new();
            for (duty, held_for) in duties {
                let expires_at = now.plus_ms(i64::try_from(held_for.as_millis()).unwrap_or(i64::MAX));
                let (name, holder) = (duty.to_string(), self.id.clone());
                let term = match kept.leases.get(&name) {
                    Some(lease) if lease.expires_at >= now && lease.holder != self.id => continue,
                    Some(lease) => lease.term + i64::from(lease.expires_at < now || lease.holder != self.id),
                    None => 1,
                };
                kept.leases.insert(name, Lease { holder, term, expires_at });
                held.insert(duty.clone(), term);
            }
            let live = kept.replicas.values().filter(|seen| now.millis_since(seen.at) < LIVES_MS).count();
            (Heartbeat { held, replicas: live }, now)
        });
        let (heartbeat, now) = beaten.await?;
        self.state.clock.read(now, asked_ms, self.state.clock.local_ms());
        self.state.beaten(heartbeat.replicas);
        Ok(heartbeat)
    }

    async fn release(&self, duties: &[Duty]) -> Result<(), StoreError> {
        let names: BTreeSet<_> = duties.iter().map(ToString::to_string).collect();
        self.release_those(|name| names.contains(name)).await
    }

    async fn replicas(&self) -> Result<Vec<Replica>, StoreError> {
        self.ask(|memory| {
            let (kept, now) = (memory.kept(), memory.clock.now());
            let live = kept.replicas.iter().filter(|(_, seen)| now.millis_since(seen.at) < LIVES_MS);
            let holds = |id: &str| {
                let held =
                    kept.leases.iter().filter(|(_, lease)| lease.holder == id && lease.expires_at > now);
                held.map(|(name, _)| name.clone()).collect()
            };
            let replica = |(id, seen): (&String, &Seen)| Replica {
                id: id.clone(),
                name: id.clone(),
                version: env!("CARGO_PKG_VERSION").to_owned(),
                seen_at: seen.at,
                holds: holds(id),
                status: seen.status.clone(),
            };
            live.map(replica).collect()
        })
        .await
    }

    async fn tell(&self, signal: Signal) -> Result<(), StoreError> {
        self.telling.tell(signal).await
    }

    fn heard(&self) -> broadcast::Receiver<Heard> {
        self.state.heard.subscribe()
    }
}
