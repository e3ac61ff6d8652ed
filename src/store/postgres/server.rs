//! The server: which database the store is in, and how it is connected to.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use futures_util::future::poll_fn;
use tokio::sync::Notify;
use tokio_postgres::config::{Host, TargetSessionAttrs};
use tokio_postgres::error::Severity;
use tokio_postgres::{AsyncMessage, Client, Config, Error};
use tokio_postgres_rustls::MakeRustlsConnect;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// After this long without an answer of the other machine a connection is given up.
const SILENT_MAX: Duration = Duration::from_secs(8);
const KEEPALIVE_EVERY: Duration = Duration::from_secs(5);

/// What a session is set to. Statements take far less; a transaction that waits for its client is in the way of all others.
pub(super) const SESSION: [(&str, &str); 7] = [
    ("synchronous_commit", "on"),
    ("statement_timeout", "10s"),
    // Shorter, so that a wait for others is known as one.
    ("lock_timeout", "7s"),
    // A commit that does not get where it has to be is answered with a warning.
    ("client_min_messages", "warning"),
    ("idle_in_transaction_session_timeout", "2s"),
    ("jit", "off"),
    ("timezone", "UTC"),
];

/// Which database, and which schema in it.
#[derive(Clone)]
pub(crate) struct Server {
    pub(super) config: Config,
    pub(super) tls: MakeRustlsConnect,
    pub(super) schema: String,
    /// Whether statements are prepared once for each connection. Otherwise they are sent with their text, and nothing is
    /// kept in a session, for poolers that give each transaction another one.
    pub(super) prepared: bool,
    /// The replica, for the DBA.
    pub(super) replica: String,
}

/// The settings for one of the hosts only.
fn of_host(all: &Config, n: usize) -> Config {
    let mut config = Config::new();
    match all.get_hosts().get(n) {
        Some(Host::Tcp(host)) => config.host(host),
        Some(Host::Unix(folder)) => config.host_path(folder),
        None => &mut config,
    };
    // One port may be for all of them.
    if let Some(port) = all.get_ports().get(n).or_else(|| all.get_ports().first()) {
        config.port(*port);
    }
    if let Some(address) = all.get_hostaddrs().get(n) {
        config.hostaddr(*address);
    }
    if let Some(user) = all.get_user() {
        config.user(user);
    }
    if let Some(password) = all.get_password() {
        config.password(password);
    }
    if let Some(name) = all.get_dbname() {
        config.dbname(name);
    }
    if let Some(options) = all.get_options() {
        config.options(options);
    }
    if let Some(name) = all.get_application_name() {
        config.application_name(name);
    }
    config.ssl_mode(all.get_ssl_mode()).ssl_negotiation(all.get_ssl_negotiation());
    config.channel_binding(all.get_channel_binding()).target_session_attrs(TargetSessionAttrs::ReadWrite);
    config.connect_timeout(CONNECT_TIMEOUT).tcp_user_timeout(SILENT_MAX);
    config.keepalives_idle(KEEPALIVE_EVERY).keepalives_interval(KEEPALIVE_EVERY);
    config
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

impl Server {
    /// Connects, and sets up the session.
    pub(super) async fn connect(&self) -> Result<(Client, Arc<Notices>), Unreachable> {
        let Self { config, tls, schema, prepared, replica } = self;
        let mut config = config.clone();
        // Shows a DBA which store and which replica it is.
        config.application_name(format!("unionlink/{schema}/{replica}"));
        // One after the other, each with its time: one that accepts the connection and says nothing must not keep the others
        // from being tried.
        let mut connected = Err(Unreachable::Silent);
        for host in 0..config.get_hosts().len().max(1) {
            let config = of_host(&config, host);
            let connecting = Box::pin(config.connect(tls.clone()));
            connected = match tokio::time::timeout(SILENT_MAX, connecting).await {
                Ok(connected) => connected.map_err(Unreachable::from),
                Err(_) => Err(Unreachable::Silent),
            };
            if connected.is_ok() {
                break;
            }
        }
        let (client, mut connection) = connected?;
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
                        // Not the text, which may be in another language.
                        if notice.parsed_severity() == Some(Severity::Warning) {
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
