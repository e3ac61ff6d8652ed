//! The HTTP side of the platform: the accept loop, the API routes, and faults carried out for real.
//!
//! The accept loop is our own because a reset has to be a reset: a handler marks its response, the connection
//! is then dropped with a zero linger time and the client sees RST instead of an answer.
//!
//! Deliberately absent: what the APIs do (`endpoints`, `convert`) and the control routes (`control`).

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Extension;
use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{DefaultBodyLimit, Query, State};
use axum::http::{Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::any;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::Service as _;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::api::{self, Api};
use super::control;
use super::counters::Call;
use super::endpoints::Request;
use super::fault::Fault;
use super::shared::Shared;
use super::world::World;

/// More than any documented request needs.
const BODY_BYTES_MAX: usize = 1024 * 1024;

/// The address a request came from.
#[derive(Debug, Clone, Copy)]
struct Peer(IpAddr);

/// Marks a response that must not be sent: the connection is reset instead.
#[derive(Debug, Clone, Copy)]
struct ResetConnection;

/// Ends a connection from inside its service.
#[derive(Debug, thiserror::Error)]
#[error("the connection is reset on purpose")]
struct ConnectionReset;

/// Serves until `stop`.
pub(super) async fn serve(
    listener: TcpListener,
    shared: Arc<Shared>,
    tasks: TaskTracker,
    stop: CancellationToken,
) {
    let router = router(shared);
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => {
                let connection = connection(stream, Peer(peer.ip()), router.clone());
                let stop = stop.clone();
                tasks.spawn(async move {
                    tokio::select! {
                        () = stop.cancelled() => {}
                        () = connection => {}
                    }
                });
            }
            // Out of descriptors, or a peer that left early: neither is a reason to spin or to stop.
            Err(error) => {
                tracing::warn!(%error, "simulator could not accept a connection");
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
    }
}

async fn connection(stream: TcpStream, peer: Peer, router: Router) {
    let must_reset = Arc::new(AtomicBool::new(false));
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "simulator could not set TCP_NODELAY");
    }
    let socket = Socket { stream, must_reset: Arc::clone(&must_reset) };
    let app = TowerToHyperService::new(router);
    let service = hyper::service::service_fn(move |mut request: hyper::Request<Incoming>| {
        request.extensions_mut().insert(peer);
        let answer = app.call(request);
        let must_reset = Arc::clone(&must_reset);
        async move {
            let Ok(response) = answer.await;
            if response.extensions().get::<ResetConnection>().is_some() {
                must_reset.store(true, Ordering::Release);
                return Err(ConnectionReset);
            }
            Ok(response)
        }
    });
    let served =
        http1::Builder::new().timer(TokioTimer::new()).serve_connection(TokioIo::new(socket), service).await;
    if let Err(error) = served {
        tracing::debug!(%error, "simulator connection ended");
    }
}

/// The API without a socket, for simulations that have none.
#[derive(Clone)]
pub struct InProcess(TowerToHyperService<Router>);

impl InProcess {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self(TowerToHyperService::new(router(shared)))
    }

    /// Answers one request; `None` where a client would see its connection reset.
    pub async fn call(&self, mut request: hyper::Request<Body>) -> Option<Response> {
        request.extensions_mut().insert(Peer(Ipv4Addr::LOCALHOST.into()));
        let Ok(response) = self.0.call(request).await;
        response.extensions().get::<ResetConnection>().is_none().then_some(response)
    }
}

impl std::fmt::Debug for InProcess {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("InProcess")
    }
}

fn router(shared: Arc<Shared>) -> Router {
    let apis = Api::ALL.into_iter().fold(Router::new(), |router, api| {
        let handler =
            move |state: State<Arc<Shared>>,
                  peer: Extension<Peer>,
                  method: Method,
                  query: Query<_>,
                  body: Bytes| { call(state.0, api, peer.0, method, query.0, body) };
        router.route(api.path(), any(handler))
    });
    apis.merge(control::routes()).layer(DefaultBodyLimit::max(BODY_BYTES_MAX)).with_state(shared)
}

/// One API call, faults included.
async fn call(
    shared: Arc<Shared>,
    api: Api,
    peer: Peer,
    method: Method,
    params: HashMap<String, String>,
    body: Bytes,
) -> Response {
    let parsed: Option<Value> = serde_json::from_slice(&body).ok();
    let is_json = parsed.is_some() || body.is_empty();
    let request = Request {
        is_get: method == Method::GET,
        params,
        body: parsed.unwrap_or_default(),
        has_escapes: body.windows(2).any(|pair| pair == b"\\u"),
        ip: peer.0,
    };
    // Before the faults are taken, so that clearing them in between is not missed.
    let cleared = shared.faults_cleared.notified();
    tokio::pin!(cleared);
    cleared.as_mut().enable();
    let (response, latency_ms, hangs) = {
        let mut world = shared.world();
        let taken = world.faults.take(api);
        let latency_ms = world.options.latency_ms.saturating_add(taken.latency_ms);
        let response = handle(&mut world, &shared, api, &request, is_json, taken.fault);
        (response, latency_ms, taken.fault == Some(Fault::Hang))
    };
    if latency_ms > 0 {
        tokio::time::sleep(Duration::from_millis(latency_ms)).await;
    }
    if hangs {
        cleared.await;
    }
    response
}

fn handle(
    world: &mut World,
    shared: &Shared,
    api: Api,
    request: &Request,
    is_json: bool,
    fault: Option<Fault>,
) -> Response {
    let now = shared.clock.now();
    let caller = world.caller(api, request);
    // Charged whatever happens next: a call that fails on its way back has been made all the same.
    let admitted = world.admit(api, request, now);
    let is_carried_out = matches!(fault, None | Some(Fault::Latency(_) | Fault::ApplyThenDrop));
    let answer = match fault {
        Some(Fault::Errcode(code)) => Err(api::Errcode(code)),
        _ if is_carried_out => admitted.and_then(|caller| world.answer(api, caller, request, now)),
        _ => Err(api::Errcode(-1)),
    };
    let errcode = answer.as_ref().map_or_else(|code| code.0, |_| 0);
    let body = api::body(answer, now, request.ip, is_json, &mut world.rng);
    let (response, is_answered) = match fault {
        None | Some(Fault::Latency(_) | Fault::Errcode(_)) => (json_response(body), true),
        Some(Fault::HttpStatus(status)) => (status_response(status), false),
        Some(Fault::Garbage) => {
            (([(header::CONTENT_TYPE, "text/html")], "<html>502 Bad Gateway</html>").into_response(), false)
        }
        Some(Fault::Hang | Fault::Reset | Fault::ApplyThenDrop) => (reset_response(), false),
    };
    let call = Call {
        api,
        at: now,
        corp_id: caller.map(|corp| world.corps[corp].id.clone()),
        ids: ids_in(api, &request.body),
        errcode: is_answered.then_some(errcode),
    };
    world.counters.count(&call);
    let calls_max = world.options.call_log_calls_max;
    world.calls.push(call, calls_max);
    response
}

fn ids_in(api: Api, body: &Value) -> usize {
    match api {
        Api::UnionidToPendingId | Api::UnionidToExternalUserid => 1,
        Api::ExternalUseridToPendingId => body["external_userid"].as_array().map_or(0, Vec::len),
        Api::GetToken | Api::GetCallbackIp | Api::ListAppShareInfo | Api::CorpGetToken => 0,
    }
}

fn json_response(body: Vec<u8>) -> Response {
    ([(header::CONTENT_TYPE, "application/json; charset=UTF-8")], body).into_response()
}

fn status_response(status: u16) -> Response {
    StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR).into_response()
}

fn reset_response() -> Response {
    let mut response = Response::new(Body::empty());
    response.extensions_mut().insert(ResetConnection);
    response
}

/// A TCP stream that can be told to end with a reset.
#[derive(Debug)]
struct Socket {
    stream: TcpStream,
    must_reset: Arc<AtomicBool>,
}

impl Drop for Socket {
    fn drop(&mut self) {
        if self.must_reset.load(Ordering::Acquire)
            && let Err(error) = self.stream.set_zero_linger()
        {
            tracing::debug!(%error, "simulator closes a connection it should have reset");
        }
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Socket {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
