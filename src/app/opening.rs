//! Opens the store; if that takes long, the listeners meanwhile answer that it does.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::{StartError, descriptors};
use crate::config::{Config, Place};
use crate::http::{self, Limits, Listener, StartProgress, TrustedProxies, starting, starting_in_public};
use crate::machine::Wanted;
use crate::store::Store;
use crate::store::embedded::{EmbeddedStore, OpenError, Settings};
use crate::store::postgres::{self, PostgresStore};
use crate::telemetry::metrics::Metrics;

/// Most stores are open by then.
const LONG: Duration = Duration::from_millis(300);

/// A listener, and what bounds it.
pub(super) type Bounded = (Arc<Listener>, Limits);

/// Opens the store of a configuration. `listeners` are the public one and that of the admin API.
pub(super) async fn open_store(
    config: &Config,
    listeners: [Bounded; 2],
    metrics: &Arc<Metrics>,
    stop: &CancellationToken,
) -> Result<Arc<dyn Store>, StartError> {
    let (progress, stop) = (StartProgress::default(), stop.clone());
    let proxies = TrustedProxies::new(&config.server.trusted_proxies);
    match &config.store.place {
        Place::Folder(folder) => {
            let opening =
                open_folder(config.store.settings(folder), folder.path.clone(), progress.clone(), stop);
            let opened = answering_meanwhile(opening, listeners, &progress, proxies, metrics).await;
            Ok(Arc::new(opened.map_err(StartError::Store)?))
        }
        Place::Database(database) => {
            let settings = database.settings(&config.store);
            let opening = Box::pin(stop.run_until_cancelled(PostgresStore::open(&settings)));
            let opened = answering_meanwhile(opening, listeners, &progress, proxies, metrics).await;
            let opened = opened.unwrap_or(Err(postgres::OpenError::Interrupted));
            Ok(Arc::new(opened.map_err(StartError::Database)?))
        }
    }
}

async fn open_folder(
    settings: Settings,
    path: PathBuf,
    progress: StartProgress,
    stop: CancellationToken,
) -> Result<EmbeddedStore, OpenError> {
    let folder = path.clone();
    let mut rebuilding = move |reason: &str, records| {
        progress.rebuilding(reason, records);
        !stop.is_cancelled()
    };
    let open = move || EmbeddedStore::open_with(&folder, settings, &mut rebuilding);
    match tokio::task::spawn_blocking(open).await {
        Ok(opened) => opened,
        Err(panic) => Err(OpenError::Index { path, reason: panic.to_string() }),
    }
}

/// Waits for something; while it takes long, the listeners answer how far it is. They are free again afterwards.
async fn answering_meanwhile<T>(
    opening: impl Future<Output = T>,
    [public, admin]: [Bounded; 2],
    progress: &StartProgress,
    proxies: TrustedProxies,
    metrics: &Arc<Metrics>,
) -> T {
    let mut opening = std::pin::pin!(opening);
    if let Ok(opened) = tokio::time::timeout(LONG, &mut opening).await {
        return opened;
    }
    let (until, connections, accepting) = (CancellationToken::new(), TaskTracker::new(), TaskTracker::new());
    let routers = [starting_in_public(), starting(progress.clone())];
    for ((listener, limits), router) in [public, admin].into_iter().zip(routers) {
        let (proxies, metrics) = (proxies.clone(), metrics.clone());
        accepting.spawn(http::serve(
            listener,
            router,
            limits,
            proxies,
            metrics,
            connections.clone(),
            until.clone(),
        ));
    }
    tracing::info!("opening the store takes long; callbacks are answered with 503 until it is done");
    let opened = opening.await;
    until.cancel();
    accepting.close();
    accepting.wait().await;
    // Requests under way have their answer within the time-outs of the listener.
    drop(connections);
    opened
}

/// What the service asks of its machine.
pub(crate) fn wanted(config: &Config) -> Wanted {
    let files = descriptors::files_for(config.server.connections_max);
    let Place::Folder(folder) = &config.store.place else { return Wanted { files, ..Wanted::default() } };
    Wanted {
        store: Some(folder.path.clone()),
        free_bytes_min: folder.free_mb_min << 20,
        files,
        memory_bytes: (folder.cache_mb << 20) * 2,
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn while_the_store_is_being_opened_both_listeners_answer_503_and_then_they_are_free() {
        let mut listeners = Vec::new();
        for _ in 0..2 {
            listeners.push(Arc::new(Listener::Tcp(TcpListener::bind("127.0.0.1:0").await.unwrap())));
        }
        let addresses: Vec<_> = listeners
            .iter()
            .map(|listener| match &**listener {
                Listener::Tcp(listener) => listener.local_addr().unwrap(),
                Listener::Unix(_) => unreachable!(),
            })
            .collect();
        let limits = Limits {
            connections_max: 10,
            source_connections_max: None,
            head_bytes_max: 16 << 10,
            bodies_bytes_max: None,
            header_timeout: Duration::from_secs(5),
            connection_life: Duration::from_mins(2),
            write_timeout: Duration::from_secs(30),
            cut_off_after: None,
        };
        let bounded = [(listeners[0].clone(), limits), (listeners[1].clone(), limits)];
        let (progress, metrics) = (StartProgress::default(), Arc::new(Metrics::default()));
        let (opened, opening) = tokio::sync::oneshot::channel::<()>();
        let _ = rustls::crypto::ring::default_provider().install_default();
        let http = reqwest::Client::builder().no_proxy().build().unwrap();
        let asking = async {
            progress.rebuilding("it is missing", 7);
            for (address, text) in addresses.into_iter().zip(["", "7 records so far: it is missing"]) {
                let answer = http.get(format!("http://{address}/readyz")).send().await.unwrap();
                assert_eq!(answer.status(), 503);
                let body = answer.text().await.unwrap();
                assert!(body.contains(text) && body.is_empty() == text.is_empty(), "{body}");
                let answer = http.get(format!("http://{address}/livez")).send().await.unwrap();
                assert_eq!(answer.status(), 200);
            }
            opened.send(()).unwrap();
        };
        let proxies = TrustedProxies::new(&[]);
        let waiting = answering_meanwhile(opening, bounded, &progress, proxies, &metrics);
        let (opened, ()) = tokio::join!(waiting, asking);
        opened.unwrap();
        assert!(listeners.iter().all(|listener| Arc::strong_count(listener) == 1));
    }
}
