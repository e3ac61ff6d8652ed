//! The handlers of callbacks that the benchmark `door` compares with the service: from one that does nothing
//! to the service's own over another store.

use std::fs::File;
use std::io::Write as _;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{RawQuery, Request};
use axum::http::StatusCode;
use axum::routing::post;
use hyper::service::Service as _;
use hyper_util::service::TowerToHyperService;
use tokio::sync::{Semaphore, oneshot};
use tokio_postgres::{Client, NoTls, Statement};
use unionlink::callback::{AesKey, Keys, Query, VerifiedMessage, verify};
use unionlink::clock::SystemClock;
use unionlink::domain::ids::{AppName, CorpId};
use unionlink::http::doors::{AppDoor, AppRecipients, Door};
use unionlink::http::{CallbackLog, CallbackState, DoorSet, UnservedCorps, public};
use unionlink::intake::{Recipients, classify};
use unionlink::store::{MessageDigest, Store};
use unionlink::telemetry::metrics::Metrics;
use unionlink::worker::Wake;

use super::Brand;

/// Reads the body, without which the listener would close the connection, and does nothing with it.
pub fn answering() -> Router {
    Router::new().route("/callback/brand", post(async |_: Bytes| "success"))
}

fn keys(brand: &Brand) -> Keys {
    Keys::new(brand.callback.token.as_str().into(), AesKey::decode(&brand.callback.aes_key).unwrap())
}

fn recipients(brand: &Brand) -> Recipients {
    Recipients { corp_id: CorpId::new(&brand.corp.corp_id).unwrap(), accept_receive_ids: Vec::new() }
}

/// What opens callbacks.
struct Opener {
    keys: Keys,
    recipients: Recipients,
}

impl Opener {
    fn new(brand: &Brand) -> Arc<Self> {
        Arc::new(Self { keys: keys(brand), recipients: recipients(brand) })
    }

    /// Verifies, decrypts, parses and classifies.
    async fn open(&self, query: Option<String>, body: &Bytes) -> Result<VerifiedMessage, StatusCode> {
        let query = query.unwrap_or_default();
        let query = Query::parse(&query).map_err(|_| StatusCode::FORBIDDEN)?;
        let message = verify(&query, body, &self.keys).map_err(|_| StatusCode::FORBIDDEN)?;
        // The receive id is the brand's, so no store is needed.
        classify(&message, &self.recipients, None, async |_| Err(StatusCode::BAD_REQUEST)).await?;
        Ok(message)
    }
}

/// Verifies, decrypts, parses and classifies, and stores nothing.
pub fn parsing(brand: &Brand) -> Router {
    let opener = Opener::new(brand);
    let answer = async move |RawQuery(query): RawQuery, body: Bytes| {
        opener.open(query, &body).await?;
        Ok::<_, StatusCode>("success")
    };
    Router::new().route("/callback/brand", post(answer))
}

/// Does the same, and appends a record of the message to `log`.
pub fn bare_durable(brand: &Brand, log: Log) -> Router {
    let (opener, app) = (Opener::new(brand), AppName::new("brand").unwrap());
    let answer = async move |RawQuery(query): RawQuery, body: Bytes| {
        let message = opener.open(query, &body).await?;
        let MessageDigest(digest) = MessageDigest::of(&app, message.text());
        log.append([&digest, message.text()].concat()).await;
        Ok::<_, StatusCode>("success")
    };
    Router::new().route("/callback/brand", post(answer))
}

/// A file that a thread of its own appends records to, with group commit.
#[derive(Clone)]
pub struct Log(mpsc::Sender<(Vec<u8>, oneshot::Sender<()>)>);

impl Log {
    pub fn begin(mut file: File) -> Self {
        let (sender, records) = mpsc::channel::<(Vec<u8>, oneshot::Sender<()>)>();
        let append_in_groups = move || {
            let (mut group, mut waiting) = (Vec::new(), Vec::new());
            while let Ok(first) = records.recv() {
                for (record, answer) in std::iter::once(first).chain(records.try_iter()) {
                    group.extend(record);
                    waiting.push(answer);
                }
                file.write_all(&group).unwrap();
                file.sync_data().unwrap();
                group.clear();
                waiting.drain(..).for_each(|answer| answer.send(()).unwrap_or_default());
            }
        };
        std::thread::Builder::new().name("bare-log".to_owned()).spawn(append_in_groups).unwrap();
        Self(sender)
    }

    /// Durable when it returns.
    async fn append(&self, record: Vec<u8>) {
        let (answer, durable) = oneshot::channel();
        self.0.send((record, answer)).unwrap();
        durable.await.unwrap();
    }
}

/// The callback handlers over several stores, in turn, as a load balancer has it.
pub fn storing_in_turn(brand: &Brand, stores: Vec<Arc<dyn Store>>) -> Router {
    let replicas: Vec<_> =
        stores.into_iter().map(|store| TowerToHyperService::new(storing(brand, store))).collect();
    let (replicas, next) = (Arc::new(replicas), Arc::new(AtomicUsize::new(0)));
    Router::new().fallback(async move |request: Request| {
        let n = next.fetch_add(1, Ordering::Relaxed);
        replicas[n % replicas.len()].call(request).await
    })
}

/// As [`bare_durable`], but the record is inserted into a table.
pub fn bare_insert(brand: &Brand, inserts: Arc<Inserts>) -> Router {
    let (opener, app) = (Opener::new(brand), AppName::new("brand").unwrap());
    let answer = async move |RawQuery(query): RawQuery, body: Bytes| {
        let message = opener.open(query, &body).await?;
        let MessageDigest(digest) = MessageDigest::of(&app, message.text());
        inserts.insert(&[&digest, message.text()].concat()).await;
        Ok::<_, StatusCode>("success")
    };
    Router::new().route("/callback/brand", post(answer))
}

/// A table of a schema that records are inserted into, each in a transaction of its own.
pub struct Inserts {
    idle: Mutex<Vec<(Client, Statement)>>,
    permits: Semaphore,
}

impl Inserts {
    pub async fn begin(url: &str, schema: &str, connections: usize) -> Self {
        let mut idle = Vec::new();
        for n in 0..connections {
            let (client, connection) = tokio_postgres::connect(url, NoTls).await.unwrap();
            tokio::spawn(connection);
            if n == 0 {
                let table = format!(
                    "CREATE SCHEMA {schema}; CREATE TABLE {schema}.bare (id bigserial PRIMARY KEY, record bytea)"
                );
                client.batch_execute(&table).await.unwrap();
            }
            let insert =
                client.prepare(&format!("INSERT INTO {schema}.bare (record) VALUES ($1)")).await.unwrap();
            idle.push((client, insert));
        }
        Self { idle: Mutex::new(idle), permits: Semaphore::new(connections) }
    }

    /// Durable when it returns.
    async fn insert(&self, record: &[u8]) {
        let _permit = self.permits.acquire().await.unwrap();
        let connection = self.idle.lock().unwrap().pop().unwrap();
        connection.0.execute(&connection.1, &[&record]).await.unwrap();
        self.idle.lock().unwrap().push(connection);
    }
}

/// The callback handler over a store, without workers.
pub fn storing(brand: &Brand, store: Arc<dyn Store>) -> Router {
    let name = AppName::new("brand").unwrap();
    let (keys, recipients) = (keys(brand), AppRecipients::SelfBuilt(recipients(brand)));
    let door = Door::App(AppDoor { name: name.clone(), keys, recipients, customer_groups: true });
    public::router(Arc::new(CallbackState {
        doors: Arc::new(DoorSet::new([(name, Arc::new(door))].into())),
        apps: Arc::default(),
        nonces: Arc::new(|| [0; 12]),
        store,
        clock: Arc::new(SystemClock),
        metrics: Arc::new(Metrics::default()),
        wake: Arc::new(Wake::default()),
        activity: Arc::default(),
        notes: Arc::default(),
        unserved: UnservedCorps::default(),
        source_check: None,
        url_checks: Arc::default(),
        log: CallbackLog::default(),
        event_days_max: 0,
        body_bytes_max: 64 << 10,
        body_timeout: Duration::from_secs(3),
    }))
}
