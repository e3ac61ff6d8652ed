//! Which database the store is in, and how it is connected to.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use futures_util::future::poll_fn;
use tokio::sync::Notify;
use tokio_postgres::config::TargetSessionAttrs;
use tokio_postgres::{AsyncMessage, Client, Config, Error};
use tokio_postgres_rustls::MakeRustlsConnect;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// After this long without an answer of the other machine a connection is given up.
const SILENT_MAX: Duration = Duration::from_secs(8);
const KEEPALIVE_EVERY: Duration = Duration::from_secs(5);

/// What a session is set to. Statements take far less; a transaction that waits for its client is in the way of all others.
pub(super) const SESSION: [(&str, &str); 6] = [
    ("synchronous_commit", "on"),
    ("statement_timeout", "10s"),
    ("lock_timeout", "10s"),
    ("idle_in_transaction_session_timeout", "2s"),
    ("jit", "off"),
    ("timezone", "UTC"),
];

/// Which database, and which schema in it.
#[derive(Clone)]
pub(crate) struct Database {
    pub(super) config: Config,
    pub(super) tls: MakeRustlsConnect,
    pub(super) schema: String,
    /// Whether statements are prepared once for each connection. Otherwise they are sent with their text, and nothing is
    /// kept in a session, for poolers that give each transaction another one.
    pub(super) prepared: bool,
    /// The replica, for the DBA.
    pub(super) replica: String,
}

/// An error with its cause, in which the server says what is wrong.
pub(super) fn in_words(error: &dyn std::error::Error) -> String {
    let mut words = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        words = format!("{words}: {error}");
        cause = error.source();
    }
    words
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum Unreachable {
    /// The server, or the way to it, refuses.
    #[error(transparent)]
    Refused(#[from] Error),
    /// It accepts the connection, and says nothing.
    #[error("the server accepts connections but does not answer")]
    Silent,
}

/// What a server says on a connection without being asked.
#[derive(Debug, Default)]
pub(super) struct Notices {
    /// Whether it warned. A commit may have been answered although it is not where it was to be.
    pub(super) warned: AtomicBool,
    /// Notified by `NOTIFY` on another connection, and when this one ends.
    pub(super) notified: Notify,
    /// Whether a replica has released a lease.
    pub(super) released: AtomicBool,
}

/// What is notified when a replica releases a lease.
pub(super) const RELEASED: &str = "released";

impl Database {
    /// Connects, and sets up the session.
    pub(super) async fn connect(&self) -> Result<(Client, Arc<Notices>), Unreachable> {
        let Self { config, tls, schema, prepared, replica } = self;
        let mut config = config.clone();
        // Shows a DBA which store and which replica it is.
        config.application_name(format!("unionlink/{schema}/{replica}"));
        config.connect_timeout(CONNECT_TIMEOUT).tcp_user_timeout(SILENT_MAX);
        config.keepalives_idle(KEEPALIVE_EVERY).keepalives_interval(KEEPALIVE_EVERY);
        config.target_session_attrs(TargetSessionAttrs::ReadWrite);
        let connected = Box::pin(config.connect(tls.clone()));
        let connected = tokio::time::timeout(SILENT_MAX, connected).await;
        let (client, mut connection) = connected.map_err(|_| Unreachable::Silent)??;
        let notices = Arc::new(Notices::default());
        let heard = notices.clone();
        tokio::spawn(async move {
            while let Some(message) = poll_fn(|context| connection.poll_message(context)).await {
                match message {
                    Ok(AsyncMessage::Notification(notification)) => {
                        heard.released.fetch_or(notification.payload() == RELEASED, Relaxed);
                        heard.notified.notify_one();
                    }
                    Ok(AsyncMessage::Notice(notice)) => {
                        if notice.severity() == "WARNING" {
                            tracing::warn!(warning = notice.message(), "the database warns");
                            heard.warned.store(true, Relaxed);
                        }
                    }
                    Ok(_) => {}
                    Err(error) => {
                        tracing::debug!(%error, "a connection to the database ended");
                        break;
                    }
                }
            }
            heard.notified.notify_one();
        });
        if *prepared {
            // Not with the connection: poolers refuse that.
            let session = SESSION.map(|(name, value)| format!("SET {name} = '{value}';")).concat();
            let set = tokio::time::timeout(SILENT_MAX, client.batch_execute(&session)).await;
            set.map_err(|_| Unreachable::Silent)??;
        }
        Ok((client, notices))
    }
}
