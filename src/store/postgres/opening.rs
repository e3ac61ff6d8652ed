//! Opening the store: its schema is made if it does not exist, and the writer is started.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};

use tokio::sync::{Semaphore, mpsc, watch};
use tokio_postgres::{Config, Error};

use super::backend::{Postgres, READS_MAX};
use super::connection::{Connection, connect};
use super::database::{Database, State};
use super::known::Known;
use super::tables;
use super::writer::Writer;
use crate::store::row_store::{Limits, RowStore};
use crate::store::rows::keys;
use crate::store::rows::records::{decode, encode};
use crate::store::rows::txn::Meta;
use crate::store::rows::view::Damaged;
use crate::store::rows::watch::Watches;
use crate::store::rows::work_queue::WorkQueues;
use crate::store::{Counts, StoreError};

/// Transactions that wait for the writer.
const WAITING_MAX: usize = 4_096;
/// The longest name of a schema.
const NAME_BYTES_MAX: usize = 63;

/// The settings of a store on PostgreSQL.
#[derive(Clone)]
pub struct Settings {
    /// The address of the database, as libpq has it: `postgres://user:password@host/database`.
    pub url: String,
    /// The schema that is the store's.
    pub schema: String,
    /// The maximum number of events in the inbox, and of messages in quarantine.
    pub inbox_events_max: u64,
    /// How many days messages are remembered for deduplication.
    pub dedupe_days: u32,
    /// How many days a quarantined message is kept.
    pub quarantine_days: u32,
}

impl Settings {
    const fn limits(&self) -> Limits {
        let Self { inbox_events_max, dedupe_days, quarantine_days, .. } = *self;
        Limits { inbox_events_max, dedupe_days, quarantine_days }
    }
}

/// Why the store could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The address of the database cannot be read.
    #[error("the address of the database cannot be read")]
    Address(#[source] Error),
    /// The name of the schema is none that needs no quotes.
    #[error("the schema {0:?} is not a name: up to 63 of a-z, 0-9 and _, beginning with a letter")]
    Schema(String),
    /// The database cannot be reached, or refused a statement.
    #[error("the database cannot be used")]
    Database(#[from] Error),
    /// The counters of the store cannot be read.
    #[error("the schema {schema} holds something that this program cannot read")]
    Content {
        /// The schema.
        schema: String,
        /// What it is.
        source: StoreError,
    },
}

impl RowStore<Postgres> {
    /// Opens the store; makes its schema if it does not exist.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub async fn open(settings: &Settings) -> Result<Self, OpenError> {
        let Settings { url, schema, .. } = settings;
        let config: Config = url.parse().map_err(OpenError::Address)?;
        let is_name = schema.starts_with(|first: char| first.is_ascii_lowercase())
            && schema.len() <= NAME_BYTES_MAX
            && schema.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
        if !is_name {
            return Err(OpenError::Schema(schema.clone()));
        }
        let database = Arc::new(Database { config, schema: schema.clone() });
        make_schema(&database).await?;
        let connection = database.open().await?;
        let unreadable = |source| OpenError::Content { schema: schema.clone(), source };
        let meta: Meta = decode(&keys::meta(), &first_counters(&connection).await?).map_err(unreadable)?;
        let state = Arc::new(State {
            salt: meta.store_id,
            counts: Mutex::new(meta.counts),
            feed_head: watch::Sender::new(meta.counts.feed_head),
            is_closing: AtomicBool::new(false),
        });
        let (queues, watches) = (Arc::new(WorkQueues::default()), Arc::new(Watches::default()));
        let (jobs, inbox) = mpsc::channel(WAITING_MAX);
        let writer = Writer {
            database: database.clone(),
            state: state.clone(),
            queues: queues.clone(),
            watches: watches.clone(),
            connection: Some(connection),
            meta,
        };
        let writing = tokio::spawn(writer.serve(inbox));
        let backend = Postgres {
            database,
            state,
            jobs: Mutex::new(Some(jobs)),
            writing: tokio::sync::Mutex::new(Some(writing)),
            reading: Mutex::default(),
            reads: Semaphore::new(READS_MAX),
            damaged: Damaged::default(),
            watches,
        };
        Ok(Self::new(backend, settings.limits(), queues))
    }
}

/// Makes the schema and its tables, if they do not exist.
async fn make_schema(database: &Database) -> Result<(), Error> {
    let Database { config, schema } = database;
    let client = connect(config, schema).await?;
    let is_made = async || {
        let tables = "SELECT 1 FROM pg_tables WHERE schemaname = $1 AND tablename = 'cluster'";
        Ok::<_, Error>(client.query_opt(tables, &[schema]).await?.is_some())
    };
    if is_made().await? {
        return Ok(());
    }
    let make = format!("BEGIN; CREATE SCHEMA IF NOT EXISTS {schema}; {} COMMIT", tables::SCHEMA);
    match client.batch_execute(&make).await {
        Ok(()) => Ok(()),
        // Another replica may have made it at this moment.
        Err(error) => {
            client.batch_execute("ROLLBACK").await?;
            if is_made().await? { Ok(()) } else { Err(error) }
        }
    }
}

/// The counters after the newest commit, encoded; makes the first commit of a new store.
async fn first_counters(connection: &Connection) -> Result<Vec<u8>, Error> {
    let mut nothing = Known::nothing([0; 16]);
    if let (Some((_, meta)), _) = connection.begin_commit(None, nothing.take_wanted(), &mut nothing).await? {
        connection.roll_back().await?;
        return Ok(meta);
    }
    let meta = Meta { store_id: rand::random(), counts: Counts::default(), sheets: 0, forgotten_at: None };
    let encoded = encode(&keys::meta(), &meta).unwrap_or_default();
    connection.commit((1, rand::random()), &encoded, &BTreeMap::new()).await?;
    Ok(encoded)
}
