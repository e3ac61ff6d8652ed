//! The accept loop of a listener: HTTP/1 connections with time-outs and limits.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio_io_timeout::TimeoutStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::admission::{Admission, Slot};
use super::socket::{Listener, Socket, Source};
use super::tracked::TrackedService;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::throttle::LogThrottle;

/// The limits of a listener.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// The number of open connections. From 15/16 of it on, each new one sheds the one that has been waiting
    /// for input for longest.
    pub connections_max: usize,
    /// The size of a request's head in bytes.
    pub head_bytes_max: usize,
    /// The total size of all bodies being read; `None` if the handlers limit them.
    pub bodies_bytes_max: Option<usize>,
    /// How long a request's head may take; also how long an idle connection is kept.
    pub header_timeout: Duration,
    /// The age at which a connection is closed after its request in progress.
    pub connection_life: Duration,
    /// How long a write may block because the peer does not read.
    pub write_timeout: Duration,
    /// The age at which a connection is closed even during a request; `None` for never.
    pub cut_off_after: Option<Duration>,
}

const HEADERS_MAX: usize = 64;

/// Serves `router` until `stop` is cancelled. Open connections, tracked by `connections`, then finish their
/// request in progress and close.
pub async fn serve(
    listener: Listener,
    router: Router,
    limits: Limits,
    metrics: Arc<Metrics>,
    connections: TaskTracker,
    stop: CancellationToken,
) {
    let admission = Admission::new(limits.connections_max, limits.bodies_bytes_max, metrics.clone());
    let log = LogThrottle::default();
    loop {
        let Some(accepted) = stop.run_until_cancelled(listener.accept()).await else { return };
        let connection = match accepted {
            Ok(connection) => connection,
            // Closed by the peer before it was accepted.
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => continue,
            Err(error) => {
                // Most likely out of file descriptors, until time-outs have closed some connections.
                if let Some(failures) = log.count(error.kind()) {
                    tracing::warn!(failures, error = error.to_string(), "connections not accepted");
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let Some(slot) = admission.admit().await else {
            metrics.connection_refused();
            continue;
        };
        connections.spawn(serve_connection(connection, router.clone(), slot, limits, stop.clone()));
    }
}

async fn serve_connection(
    (socket, source): (Socket, Source),
    router: Router,
    slot: Arc<Slot>,
    limits: Limits,
    stop: CancellationToken,
) {
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(limits.header_timeout)
        .max_headers(HEADERS_MAX)
        .max_buf_size(limits.head_bytes_max);
    // hyper has no timer for writes.
    let mut stream = Box::pin(TimeoutStream::new(socket));
    stream.as_mut().set_write_timeout_pinned(Some(limits.write_timeout));
    let service = TrackedService::new(router, slot.clone(), source);
    let connection = builder.serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    let served = async {
        tokio::select! {
            ended = connection.as_mut() => return ended,
            () = stop.cancelled() => {}
            () = tokio::time::sleep(limits.connection_life) => {}
        }
        // Finish the request in progress, then close.
        connection.as_mut().graceful_shutdown();
        connection.await
    };
    let life_max = limits.cut_off_after.unwrap_or(Duration::MAX);
    let ended = tokio::select! {
        biased;
        () = slot.shed() => {
            tracing::debug!("connection shed: the listener is full");
            return;
        }
        ended = tokio::time::timeout(life_max, served) => ended,
    };
    match ended {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(error = error.to_string(), "connection failed"),
        Err(_) => tracing::debug!("connection closed: it exceeded its maximum lifetime"),
    }
}
