//! Opening the store: its schema is brought up to date, and the writer is started.

use std::path::PathBuf;
use std::sync::Arc;

use tokio_postgres::Config;
use tokio_postgres::config::{Host, SslMode};

use super::checks::{self, UnsafeServer};
use super::database::{Notify, PostgresDatabase};
use super::leases::{PostgresLeases, Questions};
use super::migrations::{self, SchemaError};
use super::server::{Server, Unreachable};
use super::tls::{self, TlsError};
use crate::clock::SystemClock;
use crate::store::StoreError;
use crate::store::row_store::{Limits, RowStore};
use crate::store::shared::Shared;
use crate::store::shared::database::Trouble;
use crate::store::shared::opening::{NotOpened, Opening};
use crate::telemetry::causes::with_causes;

/// The longest name of a schema: it is a part of other names, which PostgreSQL cuts at 63.
const NAME_BYTES_MAX: usize = 48;
/// Connections that are not for reads: the writer's, two for leases, that which follows other replicas, and two for
/// notifications.
const OTHER_CONNECTIONS: usize = 6;

/// The settings of a store on PostgreSQL.
#[derive(Clone)]
pub struct Settings {
    /// The address of the database, as libpq has it: `postgres://user:password@host/database`.
    pub url: String,
    /// The address on which notifications are heard, if not the same.
    pub listen_url: Option<String>,
    /// The schema that is the store's.
    pub schema: String,
    /// The maximum number of connections.
    pub pool_max: usize,
    /// Whether the schema is made and brought up to date.
    pub migrate: bool,
    /// How replicas learn of each other's commits.
    pub notify: Notify,
    /// Whether statements are prepared.
    pub prepared: bool,
    /// The certificate of the authority that the server's has to be from; `None`: those that the system trusts.
    pub tls_ca_file: Option<PathBuf>,
    /// Whether a server that loses what it has committed is put up with.
    pub allow_unsafe: bool,
    /// The maximum number of events in the inbox, and of messages in quarantine.
    pub inbox_events_max: u64,
    /// How many days messages are remembered for deduplication.
    pub dedupe_days: u32,
    /// How many days a quarantined message is kept.
    pub quarantine_days: u32,
}

impl Settings {
    /// The usual settings of a store in this schema of a database.
    #[must_use]
    pub fn of(url: &str, schema: &str) -> Self {
        Self {
            url: url.to_owned(),
            listen_url: None,
            schema: schema.to_owned(),
            pool_max: 16,
            migrate: true,
            notify: Notify::Listen,
            prepared: true,
            tls_ca_file: None,
            allow_unsafe: false,
            inbox_events_max: 1_000_000,
            dedupe_days: 7,
            quarantine_days: 30,
        }
    }

    const fn limits(&self) -> Limits {
        let Self { inbox_events_max, dedupe_days, quarantine_days, .. } = *self;
        Limits { inbox_events_max, dedupe_days, quarantine_days }
    }

    /// The server at this address.
    fn server(&self, url: &str, replica: &str) -> Result<Server, OpenError> {
        let mut config = parse(url)?;
        // Unless it says otherwise, what leaves this machine is encrypted.
        if config.get_ssl_mode() == SslMode::Prefer {
            let is_local = |host: &Host| match host {
                Host::Unix(_) => true,
                Host::Tcp(host) => {
                    host == "localhost" || host.parse().is_ok_and(|ip: std::net::IpAddr| ip.is_loopback())
                }
            };
            let are_local = config.get_hosts().iter().all(is_local);
            config.ssl_mode(if are_local { SslMode::Disable } else { SslMode::Require });
        }
        let Self { schema, prepared, tls_ca_file, .. } = self;
        check_schema(schema)?;
        Ok(Server {
            config,
            tls: tls::connector(tls_ca_file.as_deref())?,
            schema: schema.clone(),
            prepared: *prepared,
            replica: replica.to_owned(),
        })
    }
}

fn parse(url: &str) -> Result<Config, OpenError> {
    // Here every certificate is verified, and its name as well.
    let url =
        url.replace("sslmode=verify-full", "sslmode=require").replace("sslmode=verify-ca", "sslmode=require");
    let config: Config =
        url.parse().map_err(|error: tokio_postgres::Error| OpenError::Address(with_causes(&error)))?;
    if config.get_hosts().is_empty() {
        return Err(OpenError::Incomplete("host"));
    }
    if config.get_user().is_none() {
        return Err(OpenError::Incomplete("user"));
    }
    Ok(config)
}

/// Whether this can be the address of a database.
///
/// # Errors
/// What is wrong with it; the address is not repeated.
pub fn check_url(url: &str) -> Result<(), OpenError> {
    parse(url).map(drop)
}

/// Whether this can be the name of a schema.
///
/// # Errors
/// [`OpenError::Schema`].
pub fn check_schema(name: &str) -> Result<(), OpenError> {
    let is_name = name.starts_with(|first: char| first.is_ascii_lowercase())
        && name.len() <= NAME_BYTES_MAX
        && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
    if is_name { Ok(()) } else { Err(OpenError::Schema(name.to_owned())) }
}

/// Why the store could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The address of the database cannot be read.
    #[error("the address of the database cannot be read: {0}")]
    Address(String),
    /// Something is missing in the address.
    #[error("the address of the database names no {0}: write postgres://user:password@host/database")]
    Incomplete(&'static str),
    /// The name of the schema is none that needs no quotes.
    #[error(
        "{0:?} is not the name of a schema: up to {NAME_BYTES_MAX} of a-z, 0-9 and _, beginning with a letter"
    )]
    Schema(String),
    /// TLS cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The database cannot be reached, or refused a statement.
    #[error("the database cannot be used")]
    Database(#[from] Trouble),
    /// The schema cannot be used.
    #[error(transparent)]
    Migrations(#[from] SchemaError),
    /// The server may lose what it has committed.
    #[error(transparent)]
    Unsafe(#[from] UnsafeServer),
    /// The program was stopped meanwhile.
    #[error("stopped while the database was being opened")]
    Interrupted,
    /// The counters of the store cannot be read.
    #[error("the schema {schema} holds something that this program cannot read")]
    Content {
        /// The schema.
        schema: String,
        /// What it is.
        source: StoreError,
    },
}

impl From<tokio_postgres::Error> for OpenError {
    fn from(error: tokio_postgres::Error) -> Self {
        Self::Database(error.into())
    }
}

impl From<Unreachable> for OpenError {
    fn from(error: Unreachable) -> Self {
        Self::Database(error.into())
    }
}

/// Brings the schema up to date. Returns the version that it had, and the version that it has.
///
/// # Errors
/// See [`OpenError`].
pub async fn migrate(settings: &Settings) -> Result<(i32, i32), OpenError> {
    let server = settings.server(&settings.url, "migrate")?;
    Ok(migrations::prepare(&server, true).await?)
}

/// Removes the schema with everything in it.
///
/// # Errors
/// See [`OpenError`].
pub async fn remove(settings: &Settings) -> Result<(), OpenError> {
    let (client, _) = settings.server(&settings.url, "remove")?.connect().await?;
    Ok(client.batch_execute(&format!("DROP SCHEMA IF EXISTS {} CASCADE", settings.schema)).await?)
}

impl RowStore<Shared> {
    /// Opens the store on PostgreSQL; makes its schema if it does not exist, and may be made.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub async fn open(settings: &Settings) -> Result<Self, OpenError> {
        let Settings { url, listen_url, schema, .. } = settings;
        let replica = format!("{:012x}", rand::random::<u64>() >> 16);
        let server = settings.server(url, &replica)?;
        let listening = settings.server(listen_url.as_ref().unwrap_or(url), &replica)?;
        migrations::prepare(&server, settings.migrate).await?;
        checks::check(&server, settings.allow_unsafe).await?;
        let opening = Opening {
            database: Arc::new(PostgresDatabase::new(server.clone(), listening, settings.notify)),
            reads: settings.pool_max.saturating_sub(OTHER_CONNECTIONS).max(1),
            limits: settings.limits(),
            machine: Arc::new(SystemClock),
            store_id: rand::random(),
        };
        let questions = || Questions::new(server.clone());
        let opened = Self::open_in(opening, |state, telling| {
            Box::new(PostgresLeases {
                state,
                telling,
                beats: questions(),
                questions: questions(),
                name: name(),
            })
        });
        opened.await.map_err(|error| match error {
            NotOpened::Database(trouble) => OpenError::Database(trouble),
            NotOpened::Content(source) => OpenError::Content { schema: schema.clone(), source },
        })
    }
}

/// The name of this machine, and the number of this process.
fn name() -> String {
    let system = rustix::system::uname();
    format!("{}:{}", system.nodename().to_string_lossy(), std::process::id())
}
