//! The store on PostgreSQL, which several replicas of the service may share.
//!
//! It keeps the same rows as the embedded store, and the same transactions are decided on them (`rows` and `business`
//! beside this folder), so that both behave alike. What is particular to it:
//!
//! - Reads and transactions run on the rows at hand, and run again when more were fetched (`known`).
//! - One lock, which a transaction of the database takes first, puts the commits of all replicas into one order (`writer`).
//!   So no two of them can miss what the other writes, numbers have no gaps, and counters are exact. It costs little: each
//!   replica commits what came in meanwhile as one group.
//! - A table is a part of the rows (`tables`), which are private to the program.

mod connection;
mod known;
#[cfg(test)]
pub(crate) mod server;
mod tables;
mod writer;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio_postgres::{Config, Error};

use super::row_store::{Answer, Backend, Limits, Patience, ReadOnce, RowStore, Transaction};
use super::{Counts, LogStatus, StoreError};
use crate::store::rows::keys;
use crate::store::rows::records::{decode, encode};
use crate::store::rows::txn::Meta;
use crate::store::rows::view::{Damaged, View};
use crate::store::rows::watch::Watches;
use crate::store::rows::work_queue::WorkQueues;
use connection::Connection;
use known::Known;
use writer::{Job, Repeatable, Writer};

/// Transactions that wait for the writer.
const WAITING_MAX: usize = 4_096;
/// A caller is told [`StoreError::Stalled`] after this long without an answer.
const STALLED_AFTER: Duration = Duration::from_secs(3);
/// Reads at the same time, each on a connection of its own.
const READS_MAX: usize = 4;

/// The store on PostgreSQL.
pub type PostgresStore = RowStore<Postgres>;

/// Which database, and which schema in it.
pub(crate) struct Database {
    config: Config,
    schema: String,
}

impl Database {
    async fn open(&self) -> Result<Connection, Error> {
        Connection::open(&self.config, &self.schema).await
    }
}

/// What is known of the store without asking the database.
pub(crate) struct State {
    salt: [u8; 16],
    counts: Mutex<Counts>,
    feed_head: watch::Sender<u64>,
}

impl State {
    /// What was committed last.
    fn committed(&self, counts: Counts) {
        *self.counts.lock().unwrap_or_else(PoisonError::into_inner) = counts;
        self.feed_head.send_if_modified(|head| std::mem::replace(head, counts.feed_head) != counts.feed_head);
    }
}

/// What the store on PostgreSQL keeps its rows in.
pub struct Postgres {
    database: Arc<Database>,
    state: Arc<State>,
    jobs: Mutex<Option<mpsc::Sender<Box<dyn Job>>>>,
    reading: Mutex<Vec<Connection>>,
    reads: Semaphore,
    damaged: Damaged,
    watches: Watches,
}

/// Why the store could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The address of the database cannot be read.
    #[error("the address of the database cannot be read")]
    Address(#[source] Error),
    /// The database cannot be reached, or refused a statement.
    #[error("the database cannot be used")]
    Database(#[from] Error),
    /// The database holds something else.
    #[error("the schema {schema} holds something that this program cannot read: {reason}")]
    Content {
        /// The schema.
        schema: String,
        /// What it is.
        reason: StoreError,
    },
}

impl PostgresStore {
    /// Opens the store in a schema of a database; makes it if it does not exist.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub(crate) async fn open_postgres(url: &str, schema: &str, limits: Limits) -> Result<Self, OpenError> {
        let config: Config = url.parse().map_err(OpenError::Address)?;
        let database = Arc::new(Database { config, schema: schema.to_owned() });
        make_schema(&database).await?;
        let connection = database.open().await?;
        let unreadable = |reason| OpenError::Content { schema: schema.to_owned(), reason };
        let meta: Meta = match connection.head().await? {
            Some((_, meta)) => decode(&keys::meta(), &meta).map_err(unreadable)?,
            None => first_commit(&connection).await?,
        };
        let state = Arc::new(State {
            salt: meta.store_id,
            counts: Mutex::new(meta.counts),
            feed_head: watch::Sender::new(meta.counts.feed_head),
        });
        let queues = Arc::new(WorkQueues::default());
        let (jobs, inbox) = mpsc::channel(WAITING_MAX);
        let writer = Writer {
            database: database.clone(),
            state: state.clone(),
            queues: queues.clone(),
            connection: Some(connection),
            meta,
        };
        tokio::spawn(writer.serve(inbox));
        let backend = Postgres {
            database,
            state,
            jobs: Mutex::new(Some(jobs)),
            reading: Mutex::default(),
            reads: Semaphore::new(READS_MAX),
            damaged: Damaged::default(),
            watches: Watches::default(),
        };
        Ok(Self::new(backend, limits, queues))
    }
}

/// Makes the schema and its tables, if they do not exist.
async fn make_schema(database: &Database) -> Result<(), Error> {
    let Database { config, schema } = database;
    let client = connection::connect(config, schema).await?;
    let known = "SELECT 1 FROM pg_tables WHERE schemaname = $1 AND tablename = 'cluster'";
    if client.query_opt(known, &[schema]).await?.is_some() {
        return Ok(());
    }
    let make = format!("BEGIN; CREATE SCHEMA IF NOT EXISTS {schema}; {} COMMIT", tables::SCHEMA);
    client.batch_execute(&make).await
}

/// The first commit of a new store.
async fn first_commit(connection: &Connection) -> Result<Meta, Error> {
    let meta = Meta { store_id: rand::random(), counts: Counts::default(), sheets: 0, forgotten_at: None };
    let mut known = Known::nothing(meta.store_id);
    connection.begin_commit(known.take_wanted(), &mut known).await?;
    let encoded = encode(&keys::meta(), &meta).unwrap_or_default();
    connection.commit((1, rand::random()), &encoded, &std::collections::BTreeMap::new()).await?;
    Ok(meta)
}

impl Postgres {
    async fn hand_in<T: Send + 'static>(&self, work: impl Transaction<T>) -> Result<Answer<T>, StoreError> {
        let jobs = self.jobs.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let jobs = jobs.ok_or(StoreError::Closed)?;
        let (reply, answer) = oneshot::channel();
        let job = Box::new(Repeatable { work, result: None, reply });
        jobs.send(job).await.map_err(|_| StoreError::Closed)?;
        Ok(answer)
    }

    async fn read_with<T>(
        connection: &Connection,
        known: &mut Known,
        damaged: &Damaged,
        read: &impl ReadOnce<T>,
    ) -> Result<Result<T, StoreError>, Error> {
        let mut is_open = false;
        loop {
            let result = read(&View::new(&*known, damaged));
            let wanted = known.take_wanted();
            if wanted.is_empty() {
                if is_open {
                    connection.end_read().await?;
                }
                return Ok(result);
            }
            if is_open {
                connection.read_on(wanted, known).await?;
            } else {
                connection.begin_read(wanted, known).await?;
                is_open = true;
            }
        }
    }
}

async fn answered<T>(answer: Answer<T>) -> Result<T, StoreError> {
    answer.await.unwrap_or(Err(StoreError::Closed))
}

async fn in_time<T>(work: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
    tokio::time::timeout(STALLED_AFTER, work).await.unwrap_or(Err(StoreError::Stalled))
}

impl Backend for Postgres {
    async fn read<T: Send>(&self, read: impl ReadOnce<T>) -> Result<T, StoreError> {
        let _permit = self.reads.acquire().await.map_err(|_| StoreError::Closed)?;
        let mut idle = self.reading.lock().unwrap_or_else(PoisonError::into_inner).pop();
        loop {
            let connection = match idle.take().filter(|connection| !connection.is_closed()) {
                Some(connection) => connection,
                None => self.database.open().await.map_err(unavailable)?,
            };
            let mut known = Known::nothing(self.state.salt);
            match Self::read_with(&connection, &mut known, &self.damaged, &read).await {
                Ok(result) => {
                    self.reading.lock().unwrap_or_else(PoisonError::into_inner).push(connection);
                    return result;
                }
                // It may have ended while it was idle.
                Err(_) if connection.is_closed() => {}
                Err(error) => return Err(unavailable(error)),
            }
        }
    }

    async fn submit<T: Send + 'static>(&self, work: impl Transaction<T>) -> Result<Answer<T>, StoreError> {
        in_time(self.hand_in(work)).await
    }

    async fn answer<T: Send + 'static>(
        &self,
        answer: Answer<T>,
        patience: Patience,
    ) -> Result<T, StoreError> {
        match patience {
            Patience::InTime => in_time(answered(answer)).await,
            Patience::UntilDecided => answered(answer).await,
        }
    }

    async fn run<T: Send + 'static>(&self, work: impl Transaction<T>) -> Result<T, StoreError> {
        in_time(async { answered(self.hand_in(work).await?).await }).await
    }

    async fn indexed(&self) -> Result<(), StoreError> {
        Ok(())
    }

    fn ready(&self) -> Result<(), StoreError> {
        Ok(())
    }

    fn counts(&self) -> Counts {
        *self.state.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn feed_head(&self) -> watch::Receiver<u64> {
        self.state.feed_head.subscribe()
    }

    fn damaged(&self) -> &Damaged {
        &self.damaged
    }

    fn watches(&self) -> &Watches {
        &self.watches
    }

    fn salt(&self) -> [u8; 16] {
        self.state.salt
    }

    fn free_disk_bytes(&self) -> Option<u64> {
        None
    }

    fn log_status(&self) -> Option<LogStatus> {
        None
    }

    async fn failed(&self) -> String {
        std::future::pending().await
    }

    async fn close(&self) {
        drop(self.jobs.lock().unwrap_or_else(PoisonError::into_inner).take());
    }
}

fn unavailable(error: Error) -> StoreError {
    tracing::warn!(%error, "the database cannot be read");
    StoreError::Stalled
}
