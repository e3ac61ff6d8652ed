//! The replicas that live, and their leases, on the clock of the database.
//!
//! Each statement is a transaction of its own, on a connection that nothing else uses: what waits for the writer's lock
//! must not cost a lease.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::future::try_join_all;
use tokio::sync::{Semaphore, broadcast};
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, Row};

use super::database::channel;
use super::migrations;
use super::server::{RELEASED, Server, Unreachable};
use crate::clock::Clock;
use crate::domain::time::Timestamp;
use crate::store::row_store::in_time;
use crate::store::shared::leases::{Leases, Telling};
use crate::store::shared::state::{State, lock};
use crate::store::{Duty, Heard, Heartbeat, Replica, Replicas, Signal, StoreError};
use crate::telemetry::causes::with_causes;

/// The clock of the database, in milliseconds.
const NOW_MS: &str = "(extract(epoch FROM clock_timestamp()) * 1000)::bigint";
/// A replica that was not heard of for so long does not count.
const LIVES: &str = "interval '10 seconds'";
/// Questions that may wait for an answer, each for so long.
const PENDING_MAX: usize = 3;
const PENDING_FOR: Duration = Duration::from_secs(15);
/// One that was not heard of for so long is forgotten.
const FORGOTTEN: &str = "interval '1 day'";

/// The replicas and their leases, as one of them sees them.
pub(super) struct PostgresLeases {
    pub(super) state: Arc<State>,
    pub(super) telling: Telling,
    /// For heartbeats alone.
    pub(super) beats: Questions,
    /// For those who want to know.
    pub(super) questions: Questions,
    /// The name of the machine, and the number of the process.
    pub(super) name: String,
}

/// The values of a statement, with their types.
type Values = Vec<(Box<dyn ToSql + Sync + Send>, Type)>;

fn text(value: impl Into<String>) -> (Box<dyn ToSql + Sync + Send>, Type) {
    (Box::new(value.into()), Type::TEXT)
}

/// A connection for questions, and another one for each that is asked while one waits for its answer.
pub(super) struct Questions {
    server: Server,
    client: Arc<Mutex<Option<Client>>>,
    /// Bounds the questions that are not answered yet.
    pending: Arc<Semaphore>,
}

impl Questions {
    pub(super) fn new(server: Server) -> Self {
        Self { server, client: Arc::default(), pending: Arc::new(Semaphore::new(PENDING_MAX)) }
    }

    /// Sends statements one after the other, without waiting in between. What takes too long goes on without its caller
    /// for a while, and with its connection: while the server holds it up, there are not more and more.
    async fn ask(&self, statements: Vec<(String, Values)>) -> Result<Vec<Vec<Row>>, StoreError> {
        let Ok(permit) = self.pending.clone().try_acquire_owned() else {
            return Err(StoreError::Unavailable("it has not answered earlier questions".to_owned()));
        };
        let (server, client) = (self.server.clone(), self.client.clone());
        let sent = async move {
            let _permit = permit;
            let connected = lock(&client).take().filter(|client| !client.is_closed());
            let connected = match connected {
                Some(connected) => connected,
                None => server.connect().await?.0,
            };
            let queries = statements.iter().map(|(text, values)| {
                let values: Vec<_> =
                    values.iter().map(|(value, of)| (&**value as &(dyn ToSql + Sync), of.clone())).collect();
                let connected = &connected;
                async move { connected.query_typed(text, &values).await }
            });
            let results = try_join_all(queries).await?;
            *lock(&client) = Some(connected);
            Ok::<_, Unreachable>(results)
        };
        let sent = tokio::spawn(tokio::time::timeout(PENDING_FOR, sent));
        in_time(async {
            let sent = sent.await.map_err(|error| StoreError::Failed(error.to_string()))?;
            let sent = sent.unwrap_or(Err(Unreachable::Silent));
            sent.map_err(|error| StoreError::Unavailable(with_causes(&error)))
        })
        .await
    }
}

impl PostgresLeases {
    fn schema(&self) -> &str {
        &self.beats.server.schema
    }

    /// Notifies the replicas that listen of a released lease, which they claim at once.
    fn notice(&self) -> (String, Values) {
        let channel = channel(&self.beats.server);
        ("SELECT pg_notify($1, $2)".to_owned(), vec![text(channel), text(RELEASED)])
    }
}

#[async_trait]
impl Leases for PostgresLeases {
    async fn read_clock(&self) -> Result<(), StoreError> {
        let asked_ms = self.state.clock.local_ms();
        let results = self.beats.ask(vec![(format!("SELECT {NOW_MS}"), vec![])]).await?;
        let now = results.first().and_then(|rows| rows.first()).map_or(0, |row| row.get(0));
        self.state.clock.read(Timestamp::from_millis(now), asked_ms, self.state.clock.local_ms());
        Ok(())
    }

    async fn leave(&self) -> Result<(), StoreError> {
        let schema = self.schema();
        let id = || vec![text(self.id())];
        let release = format!("UPDATE {schema}.lease SET expires_at = to_timestamp(0) WHERE holder = $1");
        let leave = format!("DELETE FROM {schema}.replica WHERE id = $1");
        self.beats.ask(vec![(release, id()), (leave, id()), self.notice()]).await.map(drop)
    }
}

#[async_trait]
impl Replicas for PostgresLeases {
    fn id(&self) -> &str {
        &self.beats.server.replica
    }

    fn clock(&self) -> Arc<dyn Clock> {
        self.state.clock.clone()
    }

    async fn beat(
        &self,
        duties: &BTreeMap<Duty, Duration>,
        status: Option<String>,
    ) -> Result<Heartbeat, StoreError> {
        let (Self { name, state, .. }, schema) = (self, self.schema());
        let clock = &state.clock;
        let asked_ms = self.state.clock.local_ms();
        let seen = format!(
            "INSERT INTO {schema}.replica AS r (id, name, version, seen_at, status) \
             VALUES ($1, $2, $3, clock_timestamp(), $4) \
             ON CONFLICT (id) DO UPDATE SET seen_at = EXCLUDED.seen_at, status = COALESCE($4, r.status)"
        );
        let version = env!("CARGO_PKG_VERSION");
        let seen_values =
            vec![text(self.id()), text(name), text(version), (Box::new(status) as Box<_>, Type::TEXT)];
        // In the order of the names: two replicas wait for each other's rows, never in a circle.
        let by_name: BTreeMap<String, (&Duty, f64)> = duties
            .iter()
            .map(|(duty, held_for)| (duty.to_string(), (duty, held_for.as_secs_f64())))
            .collect();
        let names: Vec<_> = by_name.keys().cloned().collect();
        let seconds: Vec<_> = by_name.values().map(|(_, seconds)| *seconds).collect();
        let claim = format!(
            "INSERT INTO {schema}.lease AS l (name, holder, epoch, expires_at) \
             SELECT n, $1, 1, clock_timestamp() + s * interval '1 second' FROM unnest($2, $3) AS d (n, s) ORDER BY n \
             ON CONFLICT (name) DO UPDATE SET holder = EXCLUDED.holder, expires_at = EXCLUDED.expires_at, \
             epoch = l.epoch + (l.holder <> EXCLUDED.holder OR l.expires_at < clock_timestamp())::int \
             WHERE l.holder = EXCLUDED.holder OR l.expires_at < clock_timestamp() RETURNING name, epoch"
        );
        let claim_values: Values = vec![
            text(self.id()),
            (Box::new(names), Type::TEXT_ARRAY),
            (Box::new(seconds), Type::FLOAT8_ARRAY),
        ];
        let look = format!(
            "SELECT (SELECT count(*) FROM {schema}.replica WHERE seen_at > clock_timestamp() - {LIVES}), \
             oldest_binary, {NOW_MS} FROM {schema}.cluster"
        );
        let forget = format!("DELETE FROM {schema}.replica WHERE seen_at < clock_timestamp() - {FORGOTTEN}");
        let statements = [(seen, seen_values), (claim, claim_values), (look, vec![]), (forget, vec![])];
        let results = self.beats.ask(statements.into()).await?;
        let [_, claimed, look, _] = &results[..] else { return Err(StoreError::Closed) };
        let look =
            look.first().ok_or_else(|| StoreError::Damaged("the cluster's row is missing".to_owned()))?;
        let (live, oldest_binary, now): (i64, i32, i64) = (look.get(0), look.get(1), look.get(2));
        clock.read(Timestamp::from_millis(now), asked_ms, self.state.clock.local_ms());
        if oldest_binary > migrations::NEWEST {
            let newer = format!("the schema needs a newer unionlink: it has become version {oldest_binary}");
            self.state.failure.send_replace(Some(newer));
        }
        let replicas = usize::try_from(live).unwrap_or_default();
        self.state.beaten(replicas);
        let duty = |row: &Row| Some((by_name.get(row.get::<_, &str>(0))?.0.clone(), row.get(1)));
        Ok(Heartbeat { held: claimed.iter().filter_map(duty).collect(), replicas })
    }

    async fn release(&self, duties: &[Duty]) -> Result<(), StoreError> {
        let schema = self.schema();
        let names: Vec<_> = duties.iter().map(ToString::to_string).collect();
        let release = format!(
            "UPDATE {schema}.lease SET expires_at = to_timestamp(0) WHERE holder = $1 AND name = ANY($2)"
        );
        let values = vec![text(self.id()), (Box::new(names) as Box<_>, Type::TEXT_ARRAY)];
        self.beats.ask(vec![(release, values), self.notice()]).await.map(drop)
    }

    async fn replicas(&self) -> Result<Vec<Replica>, StoreError> {
        let schema = self.schema();
        let list = format!(
            "SELECT id, name, version, (extract(epoch FROM seen_at) * 1000)::bigint, status, \
             ARRAY(SELECT l.name FROM {schema}.lease l WHERE l.holder = r.id AND l.expires_at > clock_timestamp() ORDER BY 1) \
             FROM {schema}.replica r WHERE seen_at > clock_timestamp() - {LIVES} ORDER BY name, id"
        );
        let results = self.questions.ask(vec![(list, vec![])]).await?;
        let replica = |row: &Row| Replica {
            id: row.get(0),
            name: row.get(1),
            version: row.get(2),
            seen_at: Timestamp::from_millis(row.get(3)),
            status: row.get(4),
            holds: row.get(5),
        };
        Ok(results.first().into_iter().flatten().map(replica).collect())
    }

    async fn tell(&self, signal: Signal) -> Result<(), StoreError> {
        self.telling.tell(signal).await
    }

    fn heard(&self) -> broadcast::Receiver<Heard> {
        self.state.heard.subscribe()
    }
}
