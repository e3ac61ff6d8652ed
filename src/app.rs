//! The composition root: a validated configuration becomes a running service.
//!
//! [`assemble`](assemble()) builds the service without its listeners, [`App`] adds them and runs everything.
//! Nothing below knows the configuration; each part receives the narrow struct it needs.

mod alerts;
mod apps;
mod assemble;
mod certificates;
mod deliveries;
mod descriptors;
mod duties;
mod opening;
mod reload;
mod replicas;
mod sinks;
mod start_error;
mod tokens;

pub use assemble::{Assembled, Parts, SinkPart, StoredLedgers, Task, Workers, assemble};
pub(crate) use opening::wanted;
pub use reload::ConfigSource;
pub use replicas::share_work;
pub use sinks::BuildError;
pub(crate) use sinks::build as build_sink;
pub use start_error::StartError;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpSocket};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::clock::{Clock, ServiceClock};
use crate::config::{self, Config};
use crate::domain::backoff::Jitter;
use crate::http::api::{self, AdminState, Guard, ImportLog, LateAnswers, Permits, RefusedTokens};
use crate::http::{self, BoundPath, CallbackState, Listener, Reload, TrustedProxies, public};
use crate::lifecycle::{Failure, Lifecycle};
use crate::machine::Wanted;
use crate::store::{Replicas, Store, StoreError};
use crate::telemetry::metrics::Metrics;
use crate::wecom::{ClientSettings, Https, SuitePlatform};
use crate::worker::Context;
use crate::worker::activity::Activity;
use crate::worker::history::Notes;
use deliveries::{Deliveries, sink_part};
use duties::Duties;
use reload::{Reloader, Replaceable};

/// The longest life of a connection: keep-alive pays off within it, and no client holds one for ever.
const CONNECTION_LIFE: Duration = Duration::from_mins(2);

/// Maximum sizes of a request's head. A callback's has a few hundred bytes; proxies may add more to an admin
/// request's.
const HEAD_BYTES_MAX: usize = 16 << 10;
/// How long the counts of the last seconds may take to be recorded when the service stops.
const RECORD_TIMEOUT: Duration = Duration::from_secs(3);
const ADMIN_HEAD_BYTES_MAX: usize = 32 << 10;

/// Maximum bytes of all callback bodies that are being read at once: enough for thousands of genuine ones.
const BODIES_BYTES_MAX: usize = 32 << 20;

/// The accept backlog; the system caps it at net.core.somaxconn.
const BACKLOG: u32 = 8_192;

/// A peer that reads nothing for this long is disconnected; a feed reader continues when it connects again.
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);

/// A running service.
pub struct App {
    /// Where callbacks are received.
    pub public_address: SocketAddr,
    /// Where the admin API is: an address and port, or `unix:` and a path.
    pub admin_address: String,
    /// The durable state.
    pub store: Arc<dyn Store>,
    /// Counters.
    pub metrics: Arc<Metrics>,
    lifecycle: Lifecycle,
    activity: Arc<Activity>,
    notes: Arc<Notes>,
    clock: Arc<dyn Clock>,
    imports: Arc<ImportLog>,
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
        Self::start_from(config, None, clock, stop).await
    }

    /// As [`start`](Self::start), with the configuration of `source`, which can be reloaded.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub async fn start_from(
        config: &Config,
        source: Option<ConfigSource>,
        clock: Arc<dyn Clock>,
        stop: CancellationToken,
    ) -> Result<Self, StartError> {
        let public = listen(config.server.listen, "server.listen")?;
        let public_address = local(&public, config.server.listen);
        let (private, admin_address) = listen_private(&config.admin.listen)?;
        let (public, private) = (Arc::new(Listener::Tcp(public)), Arc::new(private));
        let (public_limits, admin_limits) = limits(&config.server);
        let lifecycle = Lifecycle::new(stop);
        let metrics = Arc::new(Metrics::default());
        let listeners = [(public.clone(), public_limits), (private.clone(), admin_limits)];
        let store = opening::open_store(config, listeners, &metrics, &lifecycle.soft()).await?;
        // One clock for all replicas.
        let machine = clock.clone();
        let clock = store.replicas().map_or(clock, Replicas::clock);
        let clock = Arc::new(ServiceClock::new(clock));
        let parts_of_sinks =
            config.sinks.iter().map(|sink| sink_part(sink, clock.clone())).collect::<Result<_, _>>();
        let parts = Parts {
            nonces: Arc::new(rand::random),
            store,
            wire: Arc::new(Https::new(&client_settings(config)).map_err(StartError::Client)?),
            clock: clock.clone(),
            jitter: Jitter::new(rand::random()),
            sinks: parts_of_sinks.map_err(StartError::Sink)?,
            metrics,
            panicked: CancellationToken::new(),
        };
        let assembled = assemble(config, parts, lifecycle.soft()).await?;
        let Assembled { context, callbacks, suite_platform, workers, tasks, sinks } = assembled;
        let app = Self {
            public_address,
            admin_address,
            store: context.store.clone(),
            metrics: context.metrics.clone(),
            activity: context.activity.clone(),
            notes: context.notes.clone(),
            clock: context.clock.clone(),
            imports: Arc::default(),
            calls: context.calls.clone(),
            connections: TaskTracker::new(),
            grace: Duration::from_millis(config.server.grace_ms),
            lifecycle,
        };
        let duties = Arc::new(Duties::new(&*context.store, machine, app.lifecycle.soft()));
        let deliveries = Deliveries::new(context.clone(), app.lifecycle.clone(), duties.clone());
        for sink in sinks {
            deliveries.start(sink);
        }
        let guard = Arc::new(Guard::new(config.admin.hosts.clone(), tokens::of(&config.admin)));
        let reload = source.map(|source| {
            let (context, doors) = (context.clone(), callbacks.doors.clone());
            let parts = Replaceable { context, doors, guard: guard.clone(), deliveries };
            let reloader = Arc::new(Reloader::new(config, source, parts));
            app.lifecycle.supervise("reload", reloader.clone().run(app.lifecycle.soft()));
            reloader as Arc<dyn Reload>
        });
        let connections = admin_limits.connections_max;
        let machine = opening::wanted(config);
        let of_admin = OfAdmin { suite_platform, connections, guard, reload, machine };
        let admin_state = Arc::new(admin_state(&context, &callbacks, of_admin, &app));
        let proxies = TrustedProxies::new(&config.server.trusted_proxies);
        app.serve("public listener", public, public::router(callbacks), public_limits, proxies.clone());
        app.serve("admin listener", private, api::router(admin_state.clone()), admin_limits, proxies);
        let admin_for_others = admin_state.clone();
        if !config.alerts.is_empty() {
            let (robots, proxy) = (config.alerts.clone(), config.wecom.proxy.clone());
            let alerts =
                alerts::run(robots, proxy, admin_state.clone(), duties.clone(), app.lifecycle.soft());
            app.lifecycle.supervise("alerts", alerts);
        }
        app.lifecycle
            .supervise("refused tokens", api::record_refused_tokens(admin_state, app.lifecycle.soft()));
        for (name, task) in tasks {
            app.lifecycle.supervise(name, task);
        }
        if let Some(url) = config.server.public_url.as_ref().filter(|url| url.0.scheme() == "https") {
            let (clock, metrics) = (context.clock.clone(), context.metrics.clone());
            let watch = certificates::watch(url.0.clone(), clock, metrics, app.lifecycle.soft());
            app.lifecycle.supervise("certificate", watch);
        }
        app.work(workers, &context, &duties, admin_for_others).await?;
        app.watch(&context);
        let (callbacks, admin) = (app.public_address, &app.admin_address);
        if config.admin.open && matches!(config.admin.listen, config::Listen::Tcp(_)) {
            tracing::warn!("the admin API is open to every process of this machine (admin.open)");
        }
        tracing::info!(%callbacks, %admin, apps = config.apps.len(), "serving");
        Ok(app)
    }

    /// Begins to work; where the store is shared, once this process has the duty to.
    async fn work(
        &self,
        workers: Workers,
        context: &Context,
        duties: &Arc<Duties>,
        admin: Arc<AdminState>,
    ) -> Result<(), StartError> {
        let (lifecycle, soft) = (&self.lifecycle, self.lifecycle.soft());
        if context.store.replicas().is_none() {
            for (name, task) in workers.begin(&soft).await.map_err(StartError::Clocks)? {
                lifecycle.supervise(name, task);
            }
            return Ok(());
        }
        let status = move || api::published(&admin);
        for (name, task) in replicas::tasks(workers, context, status, duties, lifecycle) {
            lifecycle.supervise(name, task);
        }
        Ok(())
    }

    /// Stops the service when a call to WeCom panics or the store fails.
    fn watch(&self, context: &Context) {
        let (panicked, soft) = (context.panicked.clone(), self.lifecycle.soft());
        self.lifecycle.supervise("calls to WeCom", async move {
            soft.run_until_cancelled(panicked.cancelled()).await;
        });
        let (store, lifecycle) = (self.store.clone(), self.lifecycle.clone());
        self.lifecycle.supervise("store watch", async move {
            if let Some(reason) = lifecycle.soft().run_until_cancelled(store.failed()).await {
                lifecycle.fail(Failure::Store(reason));
            }
        });
    }

    fn serve(
        &self,
        name: &'static str,
        listener: Arc<Listener>,
        router: axum::Router,
        limits: http::Limits,
        proxies: TrustedProxies,
    ) {
        let (metrics, connections) = (self.metrics.clone(), self.connections.clone());
        let stop = self.lifecycle.soft();
        let serving = http::serve(listener, router, limits, proxies, metrics, connections, stop);
        self.lifecycle.supervise(name, serving);
    }

    /// Runs until the stop token is cancelled, then finishes what is in progress and closes the store.
    ///
    /// # Errors
    /// [`Failure`] when the service ended on its own.
    pub async fn run(self) -> Result<(), Failure> {
        self.run_until(CancellationToken::new()).await
    }

    /// As [`run`](Self::run), but waits no longer once `hard` is cancelled.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    pub async fn run_until(self, hard: CancellationToken) -> Result<(), Failure> {
        let verdict = self.lifecycle.finish(&[&self.connections, &self.calls], self.grace, &hard).await;
        self.imports.end();
        // After the last callback: one may be acknowledged until the connections are closed.
        if let Err(error) = self.activity.record_rest(&*self.store).await {
            tracing::warn!(error = error.to_string(), "the dealers' activity could not be recorded");
        }
        let record = self.notes.record(&*self.store, self.clock.now());
        match tokio::time::timeout(RECORD_TIMEOUT, record).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                tracing::warn!(error = error.to_string(), "what was counted could not be recorded");
            }
            Err(_) => tracing::warn!("what was counted could not be recorded in time"),
        }
        self.store.close().await;
        tracing::info!("stopped");
        // The store watch has ended by now.
        match self.store.ready() {
            Err(StoreError::Failed(reason)) => verdict.and(Err(Failure::Store(reason))),
            _ => verdict,
        }
    }
}

/// The limits of the public and of the admin listener.
fn limits(server: &config::Server) -> (http::Limits, http::Limits) {
    let connections = descriptors::connections(server.connections_max);
    let public = http::Limits {
        connections_max: assemble::size(connections.public),
        source_connections_max: Some(assemble::size(server.source_connections_max)).filter(|max| *max > 0),
        head_bytes_max: HEAD_BYTES_MAX,
        bodies_bytes_max: Some(BODIES_BYTES_MAX),
        header_timeout: Duration::from_millis(server.header_timeout_ms),
        connection_life: CONNECTION_LIFE,
        write_timeout: WRITE_TIMEOUT,
        cut_off_after: Some(CONNECTION_LIFE * 2),
    };
    let admin = http::Limits {
        connections_max: assemble::size(connections.admin),
        source_connections_max: None,
        head_bytes_max: ADMIN_HEAD_BYTES_MAX,
        bodies_bytes_max: None,
        // An import may take hours in one request.
        cut_off_after: None,
        ..public
    };
    (public, admin)
}

/// What only the handlers of the admin listener have.
struct OfAdmin {
    suite_platform: Arc<dyn SuitePlatform>,
    connections: usize,
    guard: Arc<Guard>,
    reload: Option<Arc<dyn Reload>>,
    machine: Wanted,
}

/// What the handlers of the admin listener share.
fn admin_state(context: &Context, callbacks: &CallbackState, own: OfAdmin, app: &App) -> AdminState {
    let OfAdmin { suite_platform, connections, guard, reload, machine } = own;
    AdminState {
        store: context.store.clone(),
        doors: callbacks.doors.clone(),
        url_checks: callbacks.url_checks.clone(),
        clock: context.clock.clone(),
        metrics: context.metrics.clone(),
        wake: context.wake.clone(),
        breakers: context.breakers.clone(),
        optional_calls: context.optional_calls.clone(),
        directory: context.directory.clone(),
        dealer_names: context.dealer_names.clone(),
        suite_platform,
        activity: context.activity.clone(),
        notes: context.notes.clone(),
        sinks: context.sinks.clone(),
        pages: Arc::default(),
        imports: app.imports.clone(),
        permits: Permits::of(connections),
        late_answers: LateAnswers::of(connections),
        refused_tokens: RefusedTokens::default(),
        stop: app.lifecycle.soft(),
        lifecycle: app.lifecycle.clone(),
        apps: context.apps.clone(),
        guard,
        reload,
        started_at: context.clock.now(),
        machine,
        feed_kept_ms: context.feed_kept_ms,
    }
}

fn client_settings(config: &Config) -> ClientSettings {
    ClientSettings {
        api_base: config.wecom.api_base.clone(),
        proxy: config.wecom.proxy.clone(),
        connect_timeout: Duration::from_millis(config.wecom.connect_timeout_ms),
        timeout: Duration::from_millis(config.wecom.timeout_ms),
    }
}

fn listen(address: SocketAddr, key: &'static str) -> Result<TcpListener, StartError> {
    let bound = || {
        let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        // In a flood genuine connections wait among all others; a long backlog turns fewer of them away.
        socket.listen(BACKLOG)
    };
    bound().map_err(|source| StartError::Listen { address: address.to_string(), key, source })
}

/// The listener of the admin API, and where it is.
fn listen_private(listen_at: &config::Listen) -> Result<(Listener, String), StartError> {
    const KEY: &str = "admin.listen";
    match listen_at {
        config::Listen::Tcp(address) => {
            let listener = listen(*address, KEY)?;
            let address = local(&listener, *address).to_string();
            Ok((Listener::Tcp(listener), address))
        }
        config::Listen::Unix(path) => {
            let failed = |source| StartError::Listen { address: listen_at.to_string(), key: KEY, source };
            Ok((Listener::Unix(BoundPath::bind(path).map_err(failed)?), listen_at.to_string()))
        }
    }
}

fn local(listener: &TcpListener, configured: SocketAddr) -> SocketAddr {
    listener.local_addr().unwrap_or(configured)
}
