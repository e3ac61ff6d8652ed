//! A database in memory, for tests and simulations: several stores in one process share it, each on a way that may lose
//! what is asked, or what is answered.
//!
//! It does what PostgreSQL does for the store, with the same guarantees: reads see one instant, those who write wait for
//! each other, a session that is idle in a transaction for too long is ended, and leases are on one clock.

mod kept;
mod leases;
mod session;
mod way;

#[cfg(test)]
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::time::{Instant, timeout_at};

use self::kept::Connected;
pub use self::kept::SharedMemory;
use self::leases::MemoryLeases;
use self::session::MemorySession;
pub use self::way::{Asked, Direct, Passage, Way};
use super::backend::Shared;
use super::database::{Database, Listener, Notified, Session, Trouble};
use super::opening::{NotOpened, Opening};
use crate::clock::Clock;
use crate::store::StoreError;
use crate::store::row_store::{Limits, RowStore};

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
}

#[async_trait]
impl Database for Connected {
    async fn open(&self) -> Result<Box<dyn Session>, Trouble> {
        let number = self.ask(Asked::Read, |memory| {
            let mut kept = memory.kept();
            kept.sessions += 1;
            kept.sessions
        });
        Ok(Box::new(MemorySession::new(number.await?, self.clone())))
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
