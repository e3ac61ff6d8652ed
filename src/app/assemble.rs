//! Assembles the service, without its listeners, from a configuration and [`Parts`]. The simulation in the
//! tests passes other parts: a store in memory, a [`Wire`] without sockets, a simulated clock.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::apps;
use super::start_error::StartError;
use crate::at_rest::Nonces;
use crate::clock::{Clock, ServiceClock};
use crate::config::{self, Config};
use crate::domain::backoff::Jitter;
use crate::domain::ids::SinkName;
use crate::domain::quota::{Budget, Grant, Share};
use crate::domain::time::{DAY_MS, Moment};
use crate::http::doors::Doors;
use crate::http::{
    CallbackLog, CallbackState, DoorSet, SourceCheck, TrustedProxies, UnservedCorps, unrouted,
};
use crate::sink::Sink;
use crate::store::{Start, Store, StoreError};
use crate::telemetry::metrics::Metrics;
use crate::wecom::{Api, Client, Ledgers, Limiter, Platform, SuitePlatform, Wire};
use crate::worker::breaker::Breakers;
use crate::worker::clock_watch::ClockWatch;
use crate::worker::dealer_names::DealerNames;
use crate::worker::directory::Directory;
use crate::worker::history::Notes;
use crate::worker::sink_status::SinkRegistry;
use crate::worker::{
    Context, Wake, authorize, callback_ips, dealers, groups, history, mint, reconcile, renew, resolve, sweep,
};

/// What a service is assembled from, apart from its configuration.
pub struct Parts {
    /// The durable state.
    pub store: Arc<dyn Store>,
    /// The HTTP client for WeCom, or what replaces it.
    pub wire: Arc<dyn Wire>,
    /// The clock. Only the watch over the wall clock steps it.
    pub clock: Arc<ServiceClock>,
    /// Spreads retries over time.
    pub jitter: Jitter,
    /// The nonces that secrets are sealed with.
    pub nonces: Nonces,
    /// Where feed entries are delivered.
    pub sinks: Vec<SinkPart>,
    /// The metrics.
    pub metrics: Arc<Metrics>,
    /// Cancelled when a call to WeCom panics.
    pub panicked: CancellationToken,
}

/// A sink to deliver to.
pub struct SinkPart {
    /// Its name.
    pub name: SinkName,
    /// The name of its kind.
    pub kind: &'static str,
    /// Where in the feed it starts while it has no cursor.
    pub start: Start,
    /// The receiver.
    pub sink: Box<dyn Sink>,
    /// How long a delivery may take.
    pub takes: Duration,
}

/// A task that lasts as long as the service.
pub type Task = Pin<Box<dyn Future<Output = ()> + Send>>;

/// An assembled service; it works once its tasks run.
pub struct Assembled {
    /// What the workers share.
    pub context: Context,
    /// What the callback handlers share.
    pub callbacks: Arc<CallbackState>,
    /// WeCom, as a suite's calls see it.
    pub suite_platform: Arc<dyn SuitePlatform>,
    /// What one replica at a time does, without the deliveries.
    pub workers: Workers,
    /// What each replica does, by name.
    pub tasks: Vec<(Cow<'static, str>, Task)>,
    /// What is delivered to. The caller runs [`deliver::run`](crate::worker::deliver::run) for each.
    pub sinks: Vec<SinkPart>,
}

/// The workers, which begin and end with the duty to work.
pub struct Workers {
    context: Context,
    clock: Arc<ServiceClock>,
    callbacks: Arc<CallbackState>,
    suite_platform: Arc<dyn SuitePlatform>,
    nonces: Nonces,
    has_suites: bool,
}

impl Workers {
    /// The workers, by name, which have not begun before. They end when `stop` is cancelled.
    ///
    /// # Errors
    /// The last reading of the clocks cannot be read.
    pub async fn begin(
        &self,
        stop: &CancellationToken,
    ) -> Result<Vec<(Cow<'static, str>, Task)>, StoreError> {
        let Self { context, clock, callbacks, suite_platform, nonces, has_suites } = self;
        let clock_watch = ClockWatch::begin(context, clock.clone()).await?;
        let (of, stop) = (|| context.clone(), || stop.clone());
        let mut workers: Vec<(Cow<'static, str>, Task)> = vec![
            ("resolve".into(), Box::pin(resolve::run(of(), stop()))),
            ("mint".into(), Box::pin(mint::run(of(), stop()))),
            ("renew".into(), Box::pin(renew::run(of(), stop()))),
            ("groups".into(), Box::pin(groups::run(of(), stop()))),
            ("reconcile".into(), Box::pin(reconcile::run(of(), stop()))),
            ("dealers".into(), Box::pin(dealers::run(of(), stop()))),
            ("sweep".into(), Box::pin(sweep::run(of(), stop()))),
            ("clock watch".into(), Box::pin(clock_watch.run(stop()))),
        ];
        if *has_suites {
            let authorize = authorize::run(of(), suite_platform.clone(), nonces.clone(), stop());
            workers.push(("authorize".into(), Box::pin(authorize)));
            workers.push(("unrouted".into(), Box::pin(unrouted::run(callbacks.clone(), stop()))));
        }
        Ok(workers)
    }
}

/// Assembles a service. The tasks of each replica end when `stop` is cancelled.
///
/// # Errors
/// [`StartError::Key`] when an AES key is malformed, [`StartError::Suites`] when the store cannot be read.
pub async fn assemble(
    config: &Config,
    parts: Parts,
    stop: CancellationToken,
) -> Result<Assembled, StartError> {
    let Parts { store, wire, clock: service_clock, jitter, nonces, sinks, metrics, panicked } = parts;
    let clock: Arc<dyn Clock> = service_clock.clone();
    let registry = Arc::new(apps::registry(config, clock.now()));
    let doors = apps::doors(config, &registry, (&Doors::new(), &BTreeSet::new()))?;
    // Before the limiter, which has to know the brands.
    authorize::load(&*store, &registry, clock.now()).await.map_err(StartError::Suites)?;
    let limiter = Limiter::new(Arc::new(StoredLedgers(store.clone())), clock.clone(), registry.clone())
        .at_address(config.wecom.address.as_deref());
    limiter.begin().await;
    let client = Client::over(wire, registry.clone(), limiter, clock.clone(), metrics.clone());
    let client = Arc::new(client);
    let platform: Arc<dyn Platform> = client.clone();
    for suite in &config.suites {
        metrics.suites.configured(&suite.name);
    }
    for name in doors.keys() {
        metrics.callbacks.url_configured(name);
    }
    let dealer_names = Arc::new(DealerNames::default());
    for app in &config.apps {
        dealer_names.load(&*store, &app.name).await;
    }
    let directory = Directory::new(
        store.clone(),
        platform.clone(),
        clock.clone(),
        dealer_names.clone(),
        registry.clone(),
    );
    let sink_names = sinks.iter().map(|part| (part.name.clone(), part.kind));
    let registry_of_sinks = Arc::new(SinkRegistry::new(sink_names));
    let notes = Notes::new(metrics.clone(), registry_of_sinks.clone());
    let context = Context {
        store: store.clone(),
        directory: Arc::new(directory),
        platform,
        clock: clock.clone(),
        metrics: metrics.clone(),
        wake: Arc::new(Wake::default()),
        breakers: Arc::new(Breakers::new(jitter, dealer_names.clone())),
        optional_calls: Arc::default(),
        parallelism: Arc::default(),
        dealer_names,
        activity: Arc::default(),
        notes: Arc::new(notes),
        jitter,
        apps: registry,
        calls: TaskTracker::new(),
        panicked,
        sinks: registry_of_sinks,
        store_failures: Arc::default(),
        feed_kept_ms: i64::try_from(config.store.feed_days).unwrap_or(i64::MAX).saturating_mul(DAY_MS),
        calls_max: size(config.wecom.calls_max),
    };
    let callbacks = Arc::new(CallbackState {
        doors: Arc::new(DoorSet::new(doors)),
        apps: context.apps.clone(),
        nonces: nonces.clone(),
        store,
        clock,
        metrics,
        wake: context.wake.clone(),
        activity: context.activity.clone(),
        notes: context.notes.clone(),
        unserved: UnservedCorps::default(),
        url_checks: Arc::default(),
        log: CallbackLog::default(),
        event_days_max: u32::try_from(config.server.event_days_max).unwrap_or(u32::MAX),
        source_check: source_check(&config.server),
        body_bytes_max: size(config.server.body_bytes_max),
        body_timeout: Duration::from_millis(config.server.body_timeout_ms),
    });
    let mut tasks: Vec<(Cow<'static, str>, Task)> = Vec::new();
    if let Some(SourceCheck { ips, .. }) = &callbacks.source_check {
        context.metrics.callbacks.sources_compared();
        let reading = callback_ips::run(context.clone(), ips.clone(), stop.clone());
        tasks.push(("callback addresses".into(), Box::pin(reading)));
    }
    tasks.push(("history".into(), Box::pin(history::run(context.clone(), stop))));
    let workers = Workers {
        context: context.clone(),
        clock: service_clock,
        callbacks: callbacks.clone(),
        suite_platform: client.clone(),
        nonces,
        has_suites: !config.suites.is_empty(),
    };
    Ok(Assembled { context, callbacks, suite_platform: client, workers, tasks, sinks })
}

/// The comparison of callbacks' sources with WeCom's list, if it is configured.
fn source_check(server: &config::Server) -> Option<SourceCheck> {
    let is_enforced = match server.callback_ips {
        config::CallbackIps::Off => return None,
        config::CallbackIps::Report => false,
        config::CallbackIps::Enforce => true,
    };
    let proxies = TrustedProxies::new(&server.trusted_proxies);
    Some(SourceCheck { ips: Arc::default(), proxies, is_enforced })
}

/// The limiter's ledgers, kept in the store.
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

    async fn rate_limited(
        &self,
        account: &str,
        budget: Budget,
        api: Api,
        now: Moment,
    ) -> Result<i64, String> {
        self.0.rate_limited(account, budget, api.as_str(), now).await.map_err(|e| e.to_string())
    }
}

/// A configured number as a size in memory.
pub(super) fn size(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}
