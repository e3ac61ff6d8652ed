//! The composition root: a checked configuration becomes a running service.
//!
//! Everything is built here and handed what it needs; nobody below knows the configuration.

mod descriptors;
mod sinks;

pub use sinks::BuildError;

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use secrecy::ExposeSecret;
use tokio::net::{TcpListener, TcpSocket};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::callback::{AesKey, AesKeyError, Keys};
use crate::clock::Clock;
use crate::config::{self, Config};
use crate::domain::backoff::Jitter;
use crate::domain::ids::{AppName, CorpId};
use crate::domain::quota::{Budget, Grant, Limits, Share};
use crate::domain::time::{DAY_MS, Moment};
use crate::http;
use crate::http::admin::{self, AdminApp, AdminState, Guard};
use crate::http::callback::{self, CallbackState};
use crate::http::door::{Door, DoorApp};
use crate::lifecycle::{Failure, Lifecycle};
use crate::sink::Sink;
use crate::store::embedded::{EmbeddedStore, OpenError, Settings};
use crate::store::{Store, StoreError};
use crate::telemetry::metrics::Metrics;
use crate::wecom::{Api, AppCredentials, Client, ClientError, ClientSettings, Ledgers, Limiter, Platform};
use crate::worker::deliver::Sinks;
use crate::worker::directory::Directory;
use crate::worker::pause::Pauses;
use crate::worker::{AppRules, Context, MintRules, Wake, deliver, mint, renew, resolve, sweep};

/// Long enough for a keep-alive connection to pay, short enough that nobody holds one for ever.
const CONNECTION_LIFE: Duration = Duration::from_mins(2);

/// A callback's head has some hundred bytes; of the feed's readers, proxies may ask for more.
const HEAD_BYTES_MAX: usize = 16 << 10;
const ADMIN_HEAD_BYTES_MAX: usize = 32 << 10;

/// All bodies of callbacks that are being read, together: thousands of genuine ones.
const BODIES_BYTES_MAX: usize = 32 << 20;

/// Connections that wait for being accepted; the system allows no more than net.core.somaxconn.
const BACKLOG: u32 = 8_192;

/// A peer that takes nothing for so long is cut off; a reader of the feed goes on when it connects again.
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);

/// Why a service cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The store cannot be opened.
    #[error("the store cannot be opened")]
    Store(#[source] OpenError),
    /// A listener cannot be bound.
    #[error("cannot listen on {address} ({key})\nhint: is another process listening there?")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// The configuration's key.
        key: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// The client cannot be built.
    #[error("WeCom cannot be spoken to")]
    Client(#[source] ClientError),
    /// A key was not checked.
    #[error("the encoding_aes_key of app {app} {source}")]
    Key {
        /// Whose.
        app: AppName,
        /// Why.
        source: AesKeyError,
    },
    /// A sink cannot be set up.
    #[error("not every sink can be set up")]
    Sink(#[source] BuildError),
}

/// A running service.
pub struct App {
    /// Where callbacks are received.
    pub public_address: SocketAddr,
    /// Where the admin API is.
    pub admin_address: SocketAddr,
    /// The durable state.
    pub store: Arc<dyn Store>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    lifecycle: Lifecycle,
    connections: TaskTracker,
    calls: TaskTracker,
    grace: Duration,
}

impl App {
    /// Binds the listeners, opens the store and starts the workers. Stops when `stop` is cancelled.
    ///
    /// # Errors
    /// [`StartError`]; nothing keeps running then.
    pub async fn start(
        config: &Config,
        clock: Arc<dyn Clock>,
        stop: CancellationToken,
    ) -> Result<Self, StartError> {
        let public = listen(config.server.listen, "server.listen")?;
        let private = listen(config.admin.listen, "admin.listen")?;
        let store = open_store(config).await?;
        let metrics = Arc::new(Metrics::default());
        let platform = platform(config, &store, &clock, &metrics).await?;
        // Before anything runs: what cannot be set up is found out now.
        let mut sinks = Vec::new();
        for sink in &config.sinks {
            sinks.push((sink, sinks::build(sink, clock.clone()).map_err(StartError::Sink)?));
        }
        for sink in &config.sinks {
            metrics.sink_known(&sink.name);
        }
        let jitter = Jitter::new(rand::random());
        let context = Context {
            store: store.clone(),
            directory: Arc::new(Directory::new(store.clone(), platform.clone(), clock.clone())),
            platform,
            clock: clock.clone(),
            metrics: metrics.clone(),
            wake: Arc::new(Wake::default()),
            pauses: Arc::new(Pauses::new(jitter)),
            jitter,
            apps: Arc::new(config.apps.iter().map(rules).collect()),
            calls: TaskTracker::new(),
            panicked: CancellationToken::new(),
            sinks: Arc::new(Sinks::new(config.sinks.iter().map(|sink| sink.name.clone()))),
            feed_kept_ms: i64::try_from(config.store.feed_days).unwrap_or(0) * DAY_MS,
            calls_max: size(config.wecom.calls_max),
        };
        let lifecycle = Lifecycle::new(stop.clone());
        let door_apps = config.apps.iter().map(door_app).collect::<Result<_, _>>()?;
        let door = Arc::new(Door::new(door_apps, store.clone()));
        let public_router = callback::router(Arc::new(CallbackState {
            door: door.clone(),
            store: store.clone(),
            clock: clock.clone(),
            metrics: metrics.clone(),
            wake: context.wake.clone(),
            event_days_max: u32::try_from(config.server.event_days_max).unwrap_or(u32::MAX),
            body_bytes_max: size(config.server.body_bytes_max),
            body_timeout: Duration::from_millis(config.server.body_timeout_ms),
        }));
        let admin_router = admin::router(Arc::new(AdminState {
            store: store.clone(),
            door,
            clock: clock.clone(),
            metrics: metrics.clone(),
            wake: context.wake.clone(),
            pauses: context.pauses.clone(),
            sinks: context.sinks.clone(),
            sink_kinds: config.sinks.iter().map(|sink| (sink.name.clone(), sink.target.kind())).collect(),
            pages: Arc::default(),
            streams: admin::streams(),
            heavy: admin::heavy(),
            stop,
            lifecycle: lifecycle.clone(),
            apps: config.apps.iter().map(admin_app).collect(),
            guard: Guard::new(
                config.admin.hosts.clone(),
                config.admin.token.as_ref().map(|token| &token.value),
            ),
            started_at: clock.now(),
        }));

        let app = Self {
            public_address: local(&public, config.server.listen),
            admin_address: local(&private, config.admin.listen),
            store,
            metrics,
            lifecycle,
            connections: TaskTracker::new(),
            calls: context.calls.clone(),
            grace: Duration::from_millis(config.server.grace_ms),
        };
        let (public_limits, admin_limits) = limits(&config.server);
        app.serve("public listener", public, public_router, public_limits);
        app.serve("admin listener", private, admin_router, admin_limits);
        app.work(context, sinks);
        let (store, lifecycle) = (app.store.clone(), app.lifecycle.clone());
        app.lifecycle.supervise("store watch", async move {
            let stop = lifecycle.soft();
            tokio::select! {
                reason = store.failed() => lifecycle.fail(Failure::Store(reason)),
                () = stop.cancelled() => {}
            }
        });
        tracing::info!(callbacks = %app.public_address, admin = %app.admin_address, apps = config.apps.len(), "serving");
        Ok(app)
    }

    /// Starts the workers.
    fn work(&self, context: Context, sinks: Vec<(&config::Sink, Box<dyn Sink>)>) {
        let stop = || self.lifecycle.soft();
        let (panicked, soft) = (context.panicked.clone(), stop());
        self.lifecycle.supervise("calls to WeCom", async move {
            tokio::select! {
                () = panicked.cancelled() => {}
                () = soft.cancelled() => {}
            }
        });
        self.lifecycle.supervise("resolve", resolve::run(context.clone(), stop()));
        self.lifecycle.supervise("mint", mint::run(context.clone(), stop()));
        self.lifecycle.supervise("renew", renew::run(context.clone(), stop()));
        for (settings, sink) in sinks {
            let delivering =
                deliver::run(context.clone(), settings.name.clone(), sink, settings.start, stop());
            self.lifecycle.supervise("deliver", delivering);
        }
        self.lifecycle.supervise("sweep", sweep::run(context, stop()));
    }

    fn serve(&self, name: &'static str, listener: TcpListener, router: axum::Router, limits: http::Limits) {
        let (metrics, connections) = (self.metrics.clone(), self.connections.clone());
        let serving = http::serve(listener, router, limits, metrics, connections, self.lifecycle.soft());
        self.lifecycle.supervise(name, serving);
    }

    /// Runs until told to stop, then finishes what is under way and closes the store.
    ///
    /// # Errors
    /// [`Failure`] when the service ended on its own.
    pub async fn run(self) -> Result<(), Failure> {
        self.run_until(CancellationToken::new()).await
    }

    /// As [`run`](Self::run), but waits for nothing once `hard` is cancelled.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    pub async fn run_until(self, hard: CancellationToken) -> Result<(), Failure> {
        let verdict = self.lifecycle.finish(&[&self.connections, &self.calls], self.grace, &hard).await;
        self.store.close().await;
        tracing::info!("stopped");
        // While it stopped nobody watched any more.
        match self.store.ready() {
            Err(StoreError::Failed(reason)) => verdict.and(Err(Failure::Store(reason))),
            _ => verdict,
        }
    }
}

/// What the public listener allows, and the admin listener.
fn limits(server: &config::Server) -> (http::Limits, http::Limits) {
    let connections = descriptors::connections(server.connections_max);
    let public = http::Limits {
        connections_max: size(connections.public),
        head_bytes_max: HEAD_BYTES_MAX,
        bodies_bytes_max: Some(BODIES_BYTES_MAX),
        header_timeout: Duration::from_millis(server.header_timeout_ms),
        connection_life: CONNECTION_LIFE,
        write_timeout: WRITE_TIMEOUT,
        cut_off_after: Some(CONNECTION_LIFE * 2),
    };
    let admin = http::Limits {
        connections_max: size(connections.admin),
        head_bytes_max: ADMIN_HEAD_BYTES_MAX,
        bodies_bytes_max: None,
        // An import may take hours in one request.
        cut_off_after: None,
        ..public
    };
    (public, admin)
}

async fn open_store(config: &Config) -> Result<Arc<dyn Store>, StartError> {
    let settings = Settings {
        cache_mb: config.store.cache_mb,
        free_mb_min: config.store.free_mb_min,
        inbox_events_max: config.store.inbox_events_max,
        dedupe_days: u32::try_from(config.store.dedupe_days).unwrap_or(u32::MAX),
        journal: config.store.journal,
    };
    let path = config.store.path.clone();
    let opened = tokio::task::spawn_blocking(move || EmbeddedStore::open(&path, settings)).await;
    match opened {
        Ok(store) => Ok(Arc::new(store.map_err(StartError::Store)?)),
        Err(panic) => {
            let (path, reason) = (config.store.path.clone(), panic.to_string());
            Err(StartError::Store(OpenError::Database { path, reason }))
        }
    }
}

fn size(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

fn listen(address: SocketAddr, key: &'static str) -> Result<TcpListener, StartError> {
    let bound = || {
        let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        // In a flood, who is genuine waits among all others: the more may wait, the fewer are turned away.
        socket.listen(BACKLOG)
    };
    bound().map_err(|source| StartError::Listen { address, key, source })
}

fn local(listener: &TcpListener, configured: SocketAddr) -> SocketAddr {
    listener.local_addr().unwrap_or(configured)
}

fn rules(app: &config::App) -> (AppName, AppRules) {
    let mint = MintRules {
        renew: app.renew,
        same_id_extends: app.same_id_extends,
        per_hour: app.quota.per_hour,
        reserve_percent: app.quota.reserve_percent,
    };
    let rules = AppRules { corp_id: app.corp_id.clone(), conversion_token: app.conversion_token, mint };
    (app.name.clone(), rules)
}

fn admin_app(app: &config::App) -> (AppName, AdminApp) {
    let admin_app = AdminApp {
        corp_id: app.corp_id.clone(),
        existing_customers: app.existing_customers,
        quota: app.quota.limits(),
        reserve_percent: app.quota.reserve_percent,
        renew: app.renew,
    };
    (app.name.clone(), admin_app)
}

fn door_app(app: &config::App) -> Result<DoorApp, StartError> {
    let aes_key = AesKey::decode(app.encoding_aes_key.value.expose_secret())
        .map_err(|source| StartError::Key { app: app.name.clone(), source })?;
    Ok(DoorApp {
        name: app.name.clone(),
        keys: Keys::new(app.callback_token.value.clone(), aes_key),
        corp_id: app.corp_id.clone(),
        accept_receive_ids: app.accept_receive_ids.clone(),
    })
}

async fn platform(
    config: &Config,
    store: &Arc<dyn Store>,
    clock: &Arc<dyn Clock>,
    metrics: &Arc<Metrics>,
) -> Result<Arc<dyn Platform>, StartError> {
    let mut limits: HashMap<CorpId, Limits> = HashMap::new();
    for app in &config.apps {
        // Apps of one corp share one budget: the smallest that any of them names.
        let shared = limits.entry(app.corp_id.clone()).or_insert(app.quota.limits());
        *shared = shared.and(app.quota.limits());
    }
    let credentials = config.apps.iter().map(|app| {
        let credentials = AppCredentials {
            corp_id: app.corp_id.clone(),
            agent_id: app.agent_id,
            secret: app.secret.value.clone(),
        };
        (app.name.clone(), credentials)
    });
    let settings = ClientSettings {
        api_base: config.wecom.api_base.clone(),
        proxy: config.wecom.proxy.clone(),
        connect_timeout: Duration::from_millis(config.wecom.connect_timeout_ms),
        timeout: Duration::from_millis(config.wecom.timeout_ms),
    };
    let limiter = Limiter::new(Arc::new(StoredLedgers(store.clone())), clock.clone(), limits);
    limiter.begin().await;
    let client = Client::new(&settings, credentials.collect(), limiter, clock.clone(), metrics.clone());
    Ok(Arc::new(client.map_err(StartError::Client)?))
}

/// The ledgers of calls, kept in the store.
pub struct StoredLedgers(pub Arc<dyn Store>);

#[async_trait]
impl Ledgers for StoredLedgers {
    async fn reserve(
        &self,
        accounts: &[(String, Budget)],
        api: Api,
        share: Share,
        want: u32,
        now: Moment,
    ) -> Result<Grant, String> {
        self.0.reserve(accounts, api.as_str(), share, want, now).await.map_err(|e| e.to_string())
    }

    async fn refused(&self, account: &str, budget: Budget, api: Api, now: Moment) -> Result<i64, String> {
        self.0.refused(account, budget, api.as_str(), now).await.map_err(|e| e.to_string())
    }
}
