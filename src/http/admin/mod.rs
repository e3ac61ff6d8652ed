//! The private listener: the brand's own systems and operators. Contract in README.

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

use super::door::Door;
use super::problem::Problem;
use crate::clock::Clock;
use crate::domain::fan::Renew;
use crate::domain::ids::{AppName, CorpId, SinkName};
use crate::domain::quota::Limits;
use crate::domain::time::Timestamp;
use crate::lifecycle::Lifecycle;
use crate::store::Store;
use crate::telemetry::metrics::Metrics;
use crate::worker::Wake;
use crate::worker::deliver::Sinks;
use crate::worker::pause::Pauses;
pub use feed::Pages;
pub use guard::Guard;

/// What the admin API knows of an app.
#[derive(Debug, Clone)]
pub struct AdminApp {
    /// The brand's corp.
    pub corp_id: CorpId,
    /// Whether new fans are to be asked about.
    pub existing_customers: bool,
    /// Its budget.
    pub quota: Limits,
    /// Percent of it kept for those who register now.
    pub reserve_percent: u8,
    /// Whose pending ids are renewed.
    pub renew: Renew,
}

/// What the handlers share.
pub struct AdminState {
    /// The durable state.
    pub store: Arc<dyn Store>,
    /// What a quarantined message means now.
    pub door: Arc<Door>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// Whom to wake.
    pub wake: Arc<Wake>,
    /// Who is left alone for now.
    pub pauses: Arc<Pauses>,
    /// How the sinks do.
    pub sinks: Arc<Sinks>,
    /// The sinks of the configuration, each with its kind.
    pub sink_kinds: BTreeMap<SinkName, &'static str>,
    /// Pages of the feed that several readers want.
    pub pages: Arc<Pages>,
    /// Room for streams.
    pub streams: Arc<Semaphore>,
    /// Room for requests that read much of the store.
    pub heavy: Arc<Semaphore>,
    /// Cancelled when what waits for news has to end.
    pub stop: CancellationToken,
    /// The apps.
    pub apps: HashMap<AppName, AdminApp>,
    /// Who is let in.
    pub guard: Guard,
    /// The tasks of the service.
    pub lifecycle: Lifecycle,
    /// Since when the service runs.
    pub started_at: Timestamp,
}

type Shared = State<Arc<AdminState>>;

/// Room for streams of the feed.
#[must_use]
pub fn streams() -> Arc<Semaphore> {
    Arc::new(Semaphore::new(feed::STREAMS_MAX))
}

/// For a body that is read whole.
const BODY_BYTES_MAX: usize = 64 * 1024;

/// The private router.
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
        .route_layer(from_fn_with_state(state.clone(), guard::authorised))
        .method_not_allowed_fallback(|| async { Problem::method_not_allowed() })
        .fallback(|| async { Problem::not_found("no such path; /openapi.json lists them") })
        .layer(from_fn_with_state(state.clone(), guard::placed));
    // Health is for those who have no token, and who call us whatever they like.
    let open = open.method_not_allowed_fallback(|| async { Problem::method_not_allowed() });
    guarded.merge(open).layer(from_fn(guard::with_headers)).with_state(state)
}

/// Requests that read much of the store, at once.
const HEAVY_MAX: usize = 4;
/// How long such a request waits for its turn.
const HEAVY_WAIT: Duration = Duration::from_secs(20);

/// Room for requests that read much of the store.
#[must_use]
pub fn heavy() -> Arc<Semaphore> {
    Arc::new(Semaphore::new(HEAVY_MAX))
}

/// Runs what reads much of the store beside the threads that serve everybody, a few at a time.
async fn beside<T: Send + 'static>(
    state: &AdminState,
    work: impl Future<Output = T> + Send + 'static,
) -> Result<T, Problem> {
    let turn = tokio::time::timeout(HEAVY_WAIT, state.heavy.clone().acquire_owned()).await;
    let Ok(Ok(_turn)) = turn else {
        return Err(Problem::busy("other requests read the whole store now; try again later"));
    };
    let runtime = tokio::runtime::Handle::current();
    let done = tokio::task::spawn_blocking(move || runtime.block_on(work)).await;
    done.map_err(|error| {
        tracing::error!(%error, "a request was given up");
        Problem::busy("this could not be done; see the log")
    })
}

const BODY_TIMEOUT: Duration = Duration::from_secs(10);

/// The JSON body of a request, with a problem that says what is wrong with it.
async fn json<T: DeserializeOwned>(body: Body) -> Result<T, Problem> {
    let bytes = super::read_body(body, BODY_BYTES_MAX, BODY_TIMEOUT).await.map_err(Problem::body)?;
    serde_json::from_slice(&bytes).map_err(|error| Problem::bad_request(format!("the body: {error}")))
}

impl AdminState {
    /// The app of this name; the only one, if none is named.
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
