//! The simulated platform's HTTP server: the accept loop, the API routes, and the faults as clients see them.
//!
//! It has an accept loop of its own because `axum::serve` cannot reset a connection. Here a handler marks its
//! response with `ConnectionReset`; instead of sending it, the loop drops the connection with a zero linger
//! time, and the client sees RST.
//!
//! Deliberately absent: what the APIs do (`endpoints` and those it calls) and the control routes (`control`).

use std::collections::HashMap;
use std::error::Error as _;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
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
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use serde_json::Value;
use strum::VariantArray as _;
use tokio::net::{TcpListener, TcpStream};

use super::api::{self, Api, Form, Request};
use super::control;
use super::counters::Call;
use super::fault::Fault;
use super::platform::Platform;
use super::world::{Caller, World};

/// More than any documented request needs.
const BODY_BYTES_MAX: usize = 1024 * 1024;

/// The address a request came from.
#[derive(Debug, Clone, Copy)]
struct Peer(IpAddr);

/// Marks a response that is never sent: its connection is reset instead.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("the connection is reset on purpose")]
struct ConnectionReset;

/// A call that counts as in flight until this is dropped, which also happens when the client gives up.
struct InFlight<'a> {
    platform: &'a Platform,
    caller: Caller,
    api: Api,
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.platform.world().leave(self.caller, self.api);
    }
}

/// Serves until the platform stops.
pub(super) async fn serve(listener: TcpListener, platform: Arc<Platform>) {
    let router = router(Arc::clone(&platform));
    loop {
        let accepted = tokio::select! {
            () = platform.stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => {
                let connection = serve_connection(stream, Peer(peer.ip()), router.clone());
                let stop = platform.stop.clone();
                platform.tasks.spawn(async move {
                    tokio::select! {
                        () = stop.cancelled() => {}
                        () = connection => {}
                    }
                });
            }
            // Out of file descriptors, or closed by the peer before it was accepted.
            Err(error) => {
                tracing::warn!(error = error.to_string(), "simulator could not accept a connection");
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
    }
}

async fn serve_connection(stream: TcpStream, peer: Peer, router: Router) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(error = error.to_string(), "simulator could not set TCP_NODELAY");
    }
    let app = TowerToHyperService::new(router);
    let service = service_fn(move |mut request: hyper::Request<Incoming>| {
        request.extensions_mut().insert(peer);
        let response = app.call(request);
        async move {
            let Ok(response) = response.await;
            // An error ends the connection without a response.
            let reset = response.extensions().get::<ConnectionReset>().copied();
            reset.map_or(Ok(response), Err)
        }
    });
    let mut served =
        http1::Builder::new().timer(TokioTimer::new()).serve_connection(TokioIo::new(stream), service);
    let Err(error) = (&mut served).await else { return };
    tracing::debug!(error = error.to_string(), "simulator connection ended");
    // Dropped with a zero linger time, the socket sends RST.
    if error.source().is_some_and(<dyn std::error::Error>::is::<ConnectionReset>)
        && let Err(error) = served.into_parts().io.into_inner().set_zero_linger()
    {
        tracing::debug!(error = error.to_string(), "simulator closes a connection instead of resetting it");
    }
}

/// The routes of the platform, called directly instead of through a socket.
#[derive(Clone)]
pub struct InProcess(TowerToHyperService<Router>);

impl InProcess {
    pub(super) fn new(platform: Arc<Platform>) -> Self {
        Self(TowerToHyperService::new(router(platform)))
    }

    /// Answers one request; `None` if a client would see its connection reset.
    pub async fn call(&self, mut request: hyper::Request<Body>) -> Option<Response> {
        request.extensions_mut().insert(Peer(Ipv4Addr::LOCALHOST.into()));
        let Ok(response) = self.0.call(request).await;
        response.extensions().get::<ConnectionReset>().is_none().then_some(response)
    }
}

impl std::fmt::Debug for InProcess {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("InProcess")
    }
}

fn router(platform: Arc<Platform>) -> Router {
    let apis = Api::VARIANTS.iter().fold(Router::new(), |router, &api| {
        let handler =
            move |state: State<Arc<Platform>>,
                  peer: Extension<Peer>,
                  method: Method,
                  query: Query<_>,
                  body: Bytes| { call(state.0, api, peer.0, method, query.0, body) };
        router.route(api.path(), any(handler))
    });
    apis.merge(control::routes()).layer(DefaultBodyLimit::max(BODY_BYTES_MAX)).with_state(platform)
}

/// One API call, faults included.
async fn call(
    platform: Arc<Platform>,
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
    // Registered before the faults are read, so that clearing them right after that ends a hang, too.
    let cleared = platform.faults_cleared.notified();
    tokio::pin!(cleared);
    cleared.as_mut().enable();
    let (response, latency_ms, hangs, in_flight) = {
        let mut world = platform.world();
        let taken = world.faults.take(api);
        let latency_ms = world.options.latency_ms.saturating_add(taken.latency_ms);
        let (response, in_flight) = respond(&mut world, api, &request, is_json, taken.fault);
        (response, latency_ms, taken.fault == Some(Fault::Hang), in_flight)
    };
    let _in_flight = in_flight.map(|caller| InFlight { platform: &platform, caller, api });
    if latency_ms > 0 {
        tokio::time::sleep(Duration::from_millis(latency_ms)).await;
    }
    if hangs {
        cleared.await;
    }
    response
}

/// Carries a call out unless its fault prevents that, and records it. Also returns the caller for which
/// the call is in flight, if it was admitted.
fn respond(
    world: &mut World,
    api: Api,
    request: &Request,
    is_json: bool,
    fault: Option<Fault>,
) -> (Response, Option<Caller>) {
    let now = world.now();
    let caller = world.caller(api, request);
    // Before any fault: a call counts against the quota even if its answer is lost.
    let admitted = world.admit(api, request);
    let admitted = admitted.and_then(|caller| world.enter(caller, api).map(|()| caller));
    let takes_effect = matches!(fault, None | Some(Fault::Latency(_) | Fault::ApplyThenDrop));
    let answer = match fault {
        Some(Fault::Errcode(code)) => Err(api::Errcode(code)),
        _ if takes_effect => admitted.and_then(|caller| world.answer(api, caller, request)),
        // Never sent.
        _ => Err(api::Errcode(-1)),
    };
    let errcode = answer.as_ref().map_or_else(|code| code.0, |_| 0);
    let omits_success = api == Api::GetSuiteToken && !world.options.agency.suite_token_errcode;
    let form = Form { is_json, omits_success };
    let body = api::body(api, answer, now, request.ip, form, &mut world.noise);
    let (response, is_answered) = match fault {
        None | Some(Fault::Latency(_) | Fault::Errcode(_)) => (json_response(body), true),
        Some(Fault::HttpStatus(status)) => (status_response(status), false),
        Some(Fault::Garbage) => {
            (([(header::CONTENT_TYPE, "text/html")], "<html>502 Bad Gateway</html>").into_response(), false)
        }
        Some(Fault::Hang | Fault::Reset | Fault::ApplyThenDrop) => (reset_response(), false),
    };
    let (corp_id, suite_id) = match caller {
        Some(Caller::Corp(corp)) => (Some(world.corps[corp].id.clone()), None),
        Some(Caller::Template(template)) => (
            request.body["auth_corpid"].as_str().map(str::to_owned),
            Some(world.templates[template].spec.suite_id.clone()),
        ),
        None => (None, None),
    };
    let call = Call {
        api,
        at: now,
        corp_id,
        suite_id,
        ids: ids_in(api, &request.body),
        chat_id: request.body["chat_id"].as_str().map(str::to_owned),
        errcode: is_answered.then_some(errcode),
    };
    world.record(call);
    (response, admitted.ok())
}

/// The number of ids to convert, or of members to list, in a call.
fn ids_in(api: Api, body: &Value) -> usize {
    match api {
        Api::UnionidToPendingId | Api::UnionidToExternalUserid | Api::ExternalContactList => 1,
        Api::ExternalUseridToPendingId => body["external_userid"].as_array().map_or(0, Vec::len),
        Api::GetByUser => body["userid_list"].as_array().map_or(0, Vec::len),
        Api::GetToken
        | Api::GetCallbackIp
        | Api::ListAppShareInfo
        | Api::CorpGetToken
        | Api::GetFollowUserList
        | Api::ContactList
        | Api::GroupChatList
        | Api::GroupChatGet
        | Api::GetChainList
        | Api::GetChainGroup
        | Api::GetChainCorpinfoList
        | Api::GetChainCorpinfo
        | Api::GetSuiteToken
        | Api::GetPermanentCode
        | Api::GetAuthInfo
        | Api::GetPermissions => 0,
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
    response.extensions_mut().insert(ConnectionReset);
    response
}
