//! PostgreSQL as the store uses it.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use async_trait::async_trait;
use tokio_postgres::Client;

use super::connection::Connection;
use super::server::{Notices, Server, Unreachable};
use crate::store::shared::database::{Database, Listener, Notified, Session, Trouble};

/// A notification that takes longer is given up, with its connection.
const NOTIFIED_WITHIN: Duration = Duration::from_secs(1);

/// How replicas learn of each other's commits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Notify {
    /// They are notified.
    Listen,
    /// They look, many times a second: where a pooler or the engine passes no notifications on.
    Poll,
}

/// The database of a store.
pub(super) struct PostgresDatabase {
    server: Server,
    /// The same on a way that passes notifications.
    listening: Server,
    notify: Notify,
    /// The connection that notifies, while it is not in use.
    notifying: tokio::sync::Mutex<Option<Client>>,
}

impl PostgresDatabase {
    pub(super) fn new(server: Server, listening: Server, notify: Notify) -> Self {
        Self { server, listening, notify, notifying: tokio::sync::Mutex::default() }
    }
}

#[async_trait]
impl Database for PostgresDatabase {
    async fn open(&self) -> Result<Box<dyn Session>, Trouble> {
        Ok(Box::new(Connection::open(&self.server).await?))
    }

    async fn listen(&self) -> Result<Option<Box<dyn Listener>>, Trouble> {
        if self.notify == Notify::Poll {
            return Ok(None);
        }
        let (client, notices) = self.listening.connect().await?;
        client.batch_execute(&format!("LISTEN {}", channel(&self.server))).await?;
        Ok(Some(Box::new(Listening { client, notices })))
    }

    async fn notify(&self) -> Result<(), Trouble> {
        if self.notify == Notify::Poll {
            return Ok(());
        }
        let mut notifying = self.notifying.lock().await;
        let kept = notifying.take().filter(|client| !client.is_closed());
        let client = match kept {
            Some(client) => client,
            None => self.listening.connect().await?.0,
        };
        let text = format!("NOTIFY {}", channel(&self.server));
        let sent = tokio::time::timeout(NOTIFIED_WITHIN, client.batch_execute(&text)).await;
        sent.map_err(|_| Unreachable::Silent)??;
        *notifying = Some(client);
        Ok(())
    }

    #[cfg(test)]
    async fn shown(&self) -> Option<Vec<std::collections::BTreeSet<String>>> {
        let (client, _) = self.server.connect().await.unwrap();
        let mut shown = Vec::new();
        for name in super::shown::names() {
            let select = format!("SELECT row_to_json(t)::text FROM {}.{name} t", self.server.schema);
            let rows = client.query_typed(&select, &[]).await.unwrap();
            let row =
                |row: &tokio_postgres::Row| serde_json::from_str::<serde_json::Value>(row.get(0)).unwrap();
            shown.push(rows.iter().map(|found| row(found).to_string()).collect());
        }
        Some(shown)
    }
}

/// A connection that listens.
struct Listening {
    client: Client,
    notices: Arc<Notices>,
}

#[async_trait]
impl Listener for Listening {
    async fn wait(&mut self, longest: Duration) -> Result<Notified, Trouble> {
        let _ = tokio::time::timeout(longest, self.notices.notified.notified()).await;
        if self.client.is_closed() {
            let reason = "the connection for notifications has ended".to_owned();
            return Err(Trouble { reason, is_refusal: false });
        }
        Ok(Notified { released: self.notices.released.swap(false, Relaxed) })
    }
}

/// Where replicas notify each other.
pub(super) fn channel(server: &Server) -> String {
    format!("unionlink_{}", server.schema)
}
