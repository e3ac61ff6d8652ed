//! The admin listener's JSON API, for the brand's own systems and its operators.

mod events;
mod explain;
mod export;
mod fans;
mod feed;
mod forget;
mod guard;
mod links;
mod openapi;
mod sinks;
mod status;

use std::collections::{BTreeMap, HashMap};
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Extension, State};
use axum::middleware::{from_fn, from_fn_with_state};
use serde::de::DeserializeOwned;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use utoipa::OpenApi as _;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::body::read_body;
use super::problem::Problem;
use super::public::CallbackApps;
use crate::clock::Clock;
use crate::domain::fan::Renew;
use crate::domain::ids::{AppName, CorpId, SinkName};
use crate::domain::quota::Limits;
use crate::domain::time::Timestamp;
use crate::lifecycle::Lifecycle;
use crate::store::Store;
use crate::telemetry::metrics::Metrics;
use crate::worker::Wake;
use crate::worker::breaker::Breakers;
use crate::worker::sink_status::SinkRegistry;
pub use feed::Pages;
pub use guard::Guard;

/// An app as the admin API sees it.
#[derive(Debug, Clone)]
pub struct AdminApp {
    /// The brand's corp.
    pub corp_id: CorpId,
    /// Whether WeCom is asked which dealers have a new fan already.
    pub existing_customers: bool,
    /// Its quota.
    pub quota: Limits,
    /// Percent of it reserved for live registrations.
    pub reserve_percent: u8,
    /// Whose pending ids are renewed.
    pub renew: Renew,
}

/// What the handlers share.
pub struct AdminState {
    /// The durable state.
    pub store: Arc<dyn Store>,
    /// The apps that receive callbacks, to classify quarantined messages again.
    pub callback_apps: Arc<CallbackApps>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Counters.
    pub metrics: Arc<Metrics>,
    /// Wakes the workers.
    pub wake: Arc<Wake>,
    /// The circuit breakers.
    pub breakers: Arc<Breakers>,
    /// Status of the sinks.
    pub sinks: Arc<SinkRegistry>,
    /// The sinks of the configuration, each with its kind.
    pub sink_kinds: BTreeMap<SinkName, &'static str>,
    /// The newest pages of the feed, shared by readers.
    pub pages: Arc<Pages>,
    /// Permits for streams.
    pub streams: Arc<Semaphore>,
    /// Permits for requests that scan the store.
    pub heavy: Arc<Semaphore>,
    /// Cancelled when long polls and streams have to end.
    pub stop: CancellationToken,
    /// The apps.
    pub apps: HashMap<AppName, AdminApp>,
    /// Checks host, origin and token.
    pub guard: Guard,
    /// The tasks of the service, for the status.
    pub lifecycle: Lifecycle,
    /// When the service started.
    pub started_at: Timestamp,
}

type Shared = State<Arc<AdminState>>;

/// Permits for streams of the feed.
#[must_use]
pub fn streams() -> Arc<Semaphore> {
    Arc::new(Semaphore::new(feed::STREAMS_MAX))
}

/// The largest body that is read whole.
const BODY_BYTES_MAX: usize = 64 * 1024;

/// The admin listener's router.
pub fn router(state: Arc<AdminState>) -> Router {
    let (guarded, mut description) = OpenApiRouter::with_openapi(openapi::Api::openapi())
        .routes(routes!(fans::register))
        .routes(routes!(fans::show))
        .routes(routes!(links::find))
        .routes(routes!(feed::feed))
        .routes(routes!(feed::stream))
        .routes(routes!(export::export))
        .routes(routes!(sinks::list))
        .routes(routes!(sinks::show))
        .routes(routes!(sinks::pause))
        .routes(routes!(sinks::resume))
        .routes(routes!(sinks::rewind))
        .routes(routes!(events::list))
        .routes(routes!(events::show))
        .routes(routes!(events::redrive::one))
        .routes(routes!(events::redrive::several))
        .routes(routes!(explain::show))
        .routes(routes!(forget::forget))
        .routes(routes!(forget::receipt))
        .routes(routes!(status::show))
        .routes(routes!(status::metrics))
        .routes(routes!(openapi::describe))
        .split_for_parts();
    let (open, of_open) = OpenApiRouter::<Arc<AdminState>>::new()
        .routes(routes!(status::live))
        .routes(routes!(status::ready))
        .split_for_parts();
    description.merge(of_open);
    let guarded = guarded
        .layer(Extension(Arc::new(description)))
        .route_layer(from_fn_with_state(state.clone(), guard::token))
        .method_not_allowed_fallback(|| async { Problem::method_not_allowed() })
        .fallback(|| async { Problem::not_found("no such path; /openapi.json lists them") })
        .layer(from_fn_with_state(state.clone(), guard::host_and_origin));
    // Health checks have no token and use any host name.
    let open = open.method_not_allowed_fallback(|| async { Problem::method_not_allowed() });
    guarded.merge(open).layer(from_fn(guard::security_headers)).with_state(state)
}

/// Requests that scan the store at the same time.
const HEAVY_MAX: usize = 4;
/// How long such a request waits for a permit.
const HEAVY_WAIT: Duration = Duration::from_secs(20);

/// Permits for requests that scan the store.
#[must_use]
pub fn heavy() -> Arc<Semaphore> {
    Arc::new(Semaphore::new(HEAVY_MAX))
}

/// Runs a request that scans the store on a blocking thread, a few at a time, so that it holds up no other request.
async fn scan<T: Send + 'static>(
    state: &AdminState,
    work: impl Future<Output = T> + Send + 'static,
) -> Result<T, Problem> {
    let permit = tokio::time::timeout(HEAVY_WAIT, state.heavy.clone().acquire_owned()).await;
    let Ok(Ok(_permit)) = permit else {
        return Err(Problem::busy("too many requests scan the store now; try again later"));
    };
    let runtime = tokio::runtime::Handle::current();
    let done = tokio::task::spawn_blocking(move || runtime.block_on(work)).await;
    done.map_err(|error| {
        tracing::error!(error = error.to_string(), "request failed");
        Problem::busy("the request failed; see the log")
    })
}

const BODY_TIMEOUT: Duration = Duration::from_secs(10);

/// Parses a request's JSON body.
async fn json<T: DeserializeOwned>(body: Body) -> Result<T, Problem> {
    let bytes = read_body(body, BODY_BYTES_MAX, BODY_TIMEOUT).await.map_err(Problem::body)?;
    serde_json::from_slice(&bytes).map_err(|error| Problem::bad_request(format!("the body: {error}")))
}

impl AdminState {
    /// The app of this name; without a name, the only app.
    fn app(&self, name: Option<&str>) -> Result<AppName, String> {
        match name {
            Some(name) => {
                let known = AppName::new(name).ok().filter(|name| self.apps.contains_key(name));
                let shown: String = name.chars().take(64).collect();
                known.ok_or_else(|| format!("there is no app named {shown:?}"))
            }
            None => match self.apps.keys().next() {
                Some(only) if self.apps.len() == 1 => Ok(only.clone()),
                _ => Err("there are several apps; name one in app".to_owned()),
            },
        }
    }
}
