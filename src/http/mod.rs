//! The two listeners: [`callback`] for WeCom, [`admin`] for the brand's own systems.
//!
//! Both are served by our own loop over hyper's HTTP/1 connection, because `axum::serve` sets no timer and would
//! let slow headers hold a connection for ever. WeCom needs no HTTP/2.

pub mod admin;
pub mod callback;
pub mod door;
mod problem;
mod room;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::http::StatusCode;
use http_body_util::BodyExt;
use hyper::body::Body as _;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio_io_timeout::TimeoutStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::room::{Room, Seat, Seated};
use crate::telemetry::metrics::Metrics;

/// What one listener allows.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Open connections. When there are as many, the one goes that has sent no request for longest.
    pub connections_max: usize,
    /// Of a request's head.
    pub head_bytes_max: usize,
    /// Of all bodies that are being read, together; `None` if the handlers see to it.
    pub bodies_bytes_max: Option<usize>,
    /// For a request's head, its first byte included; an idle connection is closed after as long.
    pub header_timeout: Duration,
    /// How long one connection may last; a request that is under way then is finished.
    pub connection_life: Duration,
    /// How long a peer may take nothing of what it is sent. Such a one meets no timer of hyper's.
    pub write_timeout: Duration,
    /// When even a request that is under way is cut off.
    pub cut_off_after: Option<Duration>,
}

const HEADERS_MAX: usize = 64;

/// Serves `router` until `stop`; connections with a request under way are finished, tracked by `connections`.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    limits: Limits,
    metrics: Arc<Metrics>,
    connections: TaskTracker,
    stop: CancellationToken,
) {
    let room = Room::new(limits.connections_max, limits.bodies_bytes_max, metrics.clone());
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            // Gone again before we came to it.
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => continue,
            Err(error) => {
                // Out of descriptors, most likely: the connections that hold them end by their time-outs.
                tracing::warn!(%error, "connection not accepted");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let Some(seat) = room.enter().await else {
            metrics.connection_refused();
            continue;
        };
        let (router, stop) = (router.clone(), stop.clone());
        connections.spawn(async move {
            serve_connection(stream, router, seat, limits, stop).await;
        });
    }
}

async fn serve_connection(
    stream: TcpStream,
    router: Router,
    seat: Arc<Seat>,
    limits: Limits,
    stop: CancellationToken,
) {
    // Answers are small; waiting for more to send would only delay them.
    let _ = stream.set_nodelay(true);
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(limits.header_timeout)
        .max_headers(HEADERS_MAX)
        .max_buf_size(limits.head_bytes_max);
    let mut stream = Box::pin(TimeoutStream::new(stream));
    stream.as_mut().set_write_timeout_pinned(Some(limits.write_timeout));
    let connection = builder.serve_connection(TokioIo::new(stream), Seated::new(router, seat.clone()));
    tokio::pin!(connection);
    let finished = async {
        tokio::select! {
            ended = connection.as_mut() => return ended,
            () = stop.cancelled() => {}
            () = tokio::time::sleep(limits.connection_life) => {}
        }
        // The request under way is finished, and then it is over.
        connection.as_mut().graceful_shutdown();
        connection.await
    };
    let within = limits.cut_off_after.unwrap_or(Duration::MAX);
    let ended = tokio::select! {
        biased;
        () = seat.told_to_go() => {
            tracing::debug!("connection closed to make room");
            return;
        }
        ended = tokio::time::timeout(within, finished) => ended,
    };
    match ended {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, "connection ended early"),
        Err(_) => tracing::debug!("connection cut off"),
    }
}

/// A body read in time and within its limit, or the status that says why not.
///
/// A body over the limit is read on, and thrown away, up to twice the limit: a sender whose connection is closed
/// while it still sends would never see the answer. One that is announced to be larger still is not read at all.
pub(crate) async fn read_body(
    mut body: axum::body::Body,
    bytes_max: usize,
    within: Duration,
) -> Result<Vec<u8>, StatusCode> {
    let announced = usize::try_from(body.size_hint().lower()).unwrap_or(usize::MAX);
    if announced > bytes_max.saturating_mul(2) {
        return Err(StatusCode::PAYLOAD_TOO_LARGE);
    }
    let mut bytes = Vec::new();
    let mut length = 0_usize;
    let read = async {
        while let Some(frame) = body.frame().await {
            let Ok(data) = frame.map_err(|_| StatusCode::BAD_REQUEST)?.into_data() else { continue };
            length += data.len();
            if length.max(announced) <= bytes_max {
                bytes.extend_from_slice(&data);
            } else if length > 2 * bytes_max {
                break;
            }
        }
        if length > bytes_max { Err(StatusCode::PAYLOAD_TOO_LARGE) } else { Ok(()) }
    };
    match tokio::time::timeout(within, read).await {
        Ok(result) => result.map(|()| bytes),
        Err(_) => Err(StatusCode::REQUEST_TIMEOUT),
    }
}
