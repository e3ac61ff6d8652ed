//! The state that the handlers share, and the permits that bound expensive requests.
//!
//! Deliberately absent: routes and handlers.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use tokio::sync::Semaphore;
use tokio::task::JoinError;
use tokio_util::sync::CancellationToken;

use super::guard::Guard;
use super::import_log::ImportLog;
use super::late_answers::LateAnswers;
use super::pages::Pages;
use super::refused_tokens::RefusedTokens;
use crate::clock::Clock;
use crate::domain::ids::AppName;
use crate::domain::time::Timestamp;
use crate::http::door_set::DoorSet;
use crate::http::problem::Problem;
use crate::http::reload::Reload;
use crate::http::url_checks::UrlChecks;
use crate::lifecycle::Lifecycle;
use crate::machine::Wanted;
use crate::store::Store;
use crate::telemetry::metrics::Metrics;
use crate::wecom::SuitePlatform;
use crate::worker::Wake;
use crate::worker::activity::Activity;
use crate::worker::apps::Apps;
use crate::worker::breaker::Breakers;
use crate::worker::dealer_names::DealerNames;
use crate::worker::directory::Directory;
use crate::worker::history::Notes;
use crate::worker::optional_calls::OptionalCalls;
use crate::worker::sink_status::SinkRegistry;

/// Streams of the feed open at the same time; also long polls.
const STREAMS_MAX: usize = 1_000;
/// Exports at the same time.
const EXPORTS_MAX: usize = 4;
/// Requests of one kind that scan the store at the same time.
const SCANS_MAX: usize = 4;
/// How long such a request waits for a permit.
const SCAN_WAIT: Duration = Duration::from_secs(20);
/// The memory of all large bodies, in megabytes.
const LARGE_BODIES_MB: usize = 64;

/// Permits that bound how much is done at the same time. Each kind has its own, so that clients that read
/// slowly, or many, keep no other kind waiting.
pub struct Permits {
    /// For streams of the feed.
    pub(super) streams: Arc<Semaphore>,
    /// For long polls of the feed.
    pub(super) polls: Arc<Semaphore>,
    /// For exports.
    pub(super) exports: Arc<Semaphore>,
    /// For erasures.
    pub(super) erasures: Arc<Semaphore>,
    /// For explanations.
    pub(super) explanations: Arc<Semaphore>,
    /// For other requests that scan the store.
    pub(super) scans: Arc<Semaphore>,
    /// For bodies that are held in memory, in megabytes.
    pub(super) large_bodies: Arc<Semaphore>,
}

impl Permits {
    /// The permits of a listener with this many connections. An eighth of them is left to requests that are
    /// answered at once, such as health checks.
    #[must_use]
    pub fn of(connections: usize) -> Self {
        let permits = |count| Arc::new(Semaphore::new(count));
        Self {
            streams: permits(STREAMS_MAX.min(connections / 2)),
            polls: permits(STREAMS_MAX.min(connections / 2 - connections / 8)),
            exports: permits(EXPORTS_MAX),
            erasures: permits(SCANS_MAX),
            explanations: permits(SCANS_MAX),
            scans: permits(SCANS_MAX),
            large_bodies: permits(LARGE_BODIES_MB),
        }
    }
}

/// The state that the handlers share.
pub struct AdminState {
    /// The store.
    pub store: Arc<dyn Store>,
    /// The callback URLs, to classify quarantined messages again.
    pub doors: Arc<DoorSet>,
    /// The URL checks that were refused because of their receive id.
    pub url_checks: Arc<UrlChecks>,
    /// The clock.
    pub clock: Arc<dyn Clock>,
    /// The metrics.
    pub metrics: Arc<Metrics>,
    /// Wakes the workers.
    pub wake: Arc<Wake>,
    /// The circuit breakers.
    pub breakers: Arc<Breakers>,
    /// The names of the dealers.
    pub dealer_names: Arc<DealerNames>,
    /// The optional calls that WeCom refused, forgotten when an operator resumes calls.
    pub optional_calls: Arc<OptionalCalls>,
    /// The dealer directory, which forgets failures when an operator resumes calls.
    pub directory: Arc<Directory>,
    /// Knows which tickets of suites WeCom has refused.
    pub suite_platform: Arc<dyn SuitePlatform>,
    /// Knows where licences are missing.
    pub activity: Arc<Activity>,
    /// What was counted and noted, and is not recorded yet.
    pub notes: Arc<Notes>,
    /// The sinks, with their status.
    pub sinks: Arc<SinkRegistry>,
    /// The newest pages of the feed, shared by the open streams.
    pub pages: Arc<Pages>,
    /// Logs imports of fans.
    pub imports: Arc<ImportLog>,
    /// The permits of expensive requests.
    pub permits: Permits,
    /// Cancelled when long polls and streams have to end.
    pub stop: CancellationToken,
    /// The configured apps.
    pub apps: Arc<Apps>,
    /// Checks host, origin and token.
    pub guard: Arc<Guard>,
    /// Reloads the configuration, if the service has a file.
    pub reload: Option<Arc<dyn Reload>>,
    /// Delays the answers to wrong tokens.
    pub late_answers: LateAnswers,
    /// Wrong tokens that are not yet in the audit trail.
    pub refused_tokens: RefusedTokens,
    /// The tasks of the service, for its status.
    pub lifecycle: Lifecycle,
    /// When the service started.
    pub started_at: Timestamp,
    /// What is asked of the machine.
    pub machine: Wanted,
    /// How long entries of the feed are kept.
    pub feed_kept_ms: i64,
}

/// The extractor of the shared state.
pub(super) type Shared = State<Arc<AdminState>>;

impl AdminState {
    /// The app named `name`; without a name, the only app.
    pub(super) fn app(&self, name: Option<&str>) -> Result<AppName, String> {
        match name {
            Some(name) => {
                let known = AppName::new(name).ok().filter(|name| self.apps.get(name).is_some());
                let shown: String = name.chars().take(64).collect();
                known.ok_or_else(|| format!("there is no app named {shown:?}"))
            }
            None => match <[AppName; 1]>::try_from(self.apps.names()) {
                Ok([only]) => Ok(only),
                Err(_) => Err("app is missing: it is required when several apps are configured".to_owned()),
            },
        }
    }

    /// The app named `name`; without a name, all apps.
    pub(super) fn apps_named(&self, name: Option<&str>) -> Result<Vec<AppName>, Problem> {
        match name {
            Some(name) => Ok(vec![self.app(Some(name)).map_err(Problem::unknown_app)?]),
            None => Ok(self.apps.names()),
        }
    }
}

/// Runs work that scans the store on a blocking thread, so that it delays no other request: at most
/// [`SCANS_MAX`] of a kind at a time. The work itself holds the permit: it runs to its end even if the client gives up,
/// and a client that retries must not start ever more scans.
pub(super) async fn scan<T: Send + 'static>(
    permits: &Arc<Semaphore>,
    work: impl Future<Output = T> + Send + 'static,
) -> Result<T, Problem> {
    let permit = tokio::time::timeout(SCAN_WAIT, permits.clone().acquire_owned()).await;
    let Ok(Ok(permit)) = permit else {
        return Err(Problem::busy("too many requests are scanning the store; try again later"));
    };
    let runtime = tokio::runtime::Handle::current();
    let blocking = move || {
        let _permit = permit;
        runtime.block_on(work)
    };
    let done = tokio::task::spawn_blocking(blocking).await;
    done.map_err(|error| task_failed(&error))
}

/// Logs that the task of a request did not end as it should, and returns the answer.
pub(super) fn task_failed(error: &JoinError) -> Problem {
    tracing::error!(error = error.to_string(), "admin request failed: its task panicked or was cancelled");
    Problem::busy("the request failed; see the log")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::scene::Scene;
    use super::*;

    #[tokio::test]
    async fn no_kind_of_request_keeps_another_waiting() {
        let scene = Scene::new();
        let Permits { exports, scans, streams, polls, large_bodies, .. } = &scene.state.permits;
        let all = [exports, scans, streams, polls, large_bodies];
        let _held =
            all.map(|permits| permits.try_acquire_many(u32::try_from(permits.available_permits()).unwrap()));
        tokio::time::pause();
        assert_eq!(scene.get("/v1/links/export").await.0, 503);
        tokio::time::resume();
        assert_eq!(scene.get("/v1/explain/oINVENTED-unionid-0001").await.0, 200);
        let person = json!({"unionid": "oINVENTED-unionid-0001"});
        assert_eq!(scene.post("/v1/forget", &person).await, 200);
        assert_eq!(scene.get("/v1/links/feed").await.0, 200);
        scene.register("own", "oINVENTED-unionid-0002").await;
    }

    #[tokio::test]
    async fn a_scan_holds_its_permit_to_its_end_even_if_the_client_gives_up() {
        let permits = Arc::new(Semaphore::new(1));
        let (finish, finished) = tokio::sync::oneshot::channel::<()>();
        let (begin, started) = tokio::sync::oneshot::channel();
        let request = tokio::spawn({
            let permits = permits.clone();
            async move {
                let work = async move {
                    let _ = begin.send(());
                    finished.await
                };
                scan(&permits, work).await.map(|_| ())
            }
        });
        started.await.unwrap();
        request.abort();
        assert!(request.await.unwrap_err().is_cancelled());
        assert_eq!(permits.available_permits(), 0, "the scan still runs");
        finish.send(()).unwrap();
        let _permit = permits.acquire().await.unwrap();
    }
}
