//! Which database the store is in, and what every replica knows of the store without asking it.

use std::sync::atomic::AtomicBool;
use std::sync::{Mutex, PoisonError};

use tokio::sync::watch;
use tokio_postgres::{Config, Error};

use super::connection::Connection;
use crate::store::Counts;

/// Which database, and which schema in it.
pub(crate) struct Database {
    pub(super) config: Config,
    pub(super) schema: String,
}

impl Database {
    pub(super) async fn open(&self) -> Result<Connection, Error> {
        Connection::open(&self.config, &self.schema).await
    }
}

/// What is known of the store without asking the database.
pub(crate) struct State {
    pub(super) salt: [u8; 16],
    pub(super) counts: Mutex<Counts>,
    pub(super) feed_head: watch::Sender<u64>,
    pub(super) is_closing: AtomicBool,
}

impl State {
    /// What was committed last.
    pub(super) fn committed(&self, counts: Counts) {
        *self.counts.lock().unwrap_or_else(PoisonError::into_inner) = counts;
        self.feed_head.send_if_modified(|head| std::mem::replace(head, counts.feed_head) != counts.feed_head);
    }
}
