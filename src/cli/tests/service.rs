//! A stand-in for the admin API with answers defined by each test, and captured output.

use std::io::{self, Write};
use std::pin::Pin;
use std::process::ExitCode;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, Method, Uri};
use axum::response::{IntoResponse, Response};
use clap::Parser as _;
use hyper::body::Frame;
use serde_json::Value;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::cli::admin::AdminApi;
use crate::cli::output::Output;
use crate::cli::{Cli, Command};
use crate::config::{AdminAccess, Environment};

type Answering = Box<dyn Fn(&str) -> Response + Send + Sync>;

pub(super) struct Service {
    pub(super) base_url: String,
    answering: Answering,
    asked: Mutex<Vec<String>>,
}

/// Serves a router as the service serves its own, until the test is over.
pub(in crate::cli) fn serve(listener: tokio::net::TcpListener, router: Router) {
    let limits = crate::http::Limits {
        write_timeout: Duration::from_secs(30),
        cut_off_after: None,
        connections_max: 64,
        source_connections_max: None,
        head_bytes_max: 32 << 10,
        bodies_bytes_max: None,
        header_timeout: Duration::from_mins(1),
        connection_life: Duration::from_mins(10),
    };
    tokio::spawn(crate::http::serve(
        crate::http::Listener::Tcp(listener),
        router,
        limits,
        crate::http::TrustedProxies::default(),
        Arc::new(crate::telemetry::metrics::Metrics::default()),
        tokio_util::task::TaskTracker::new(),
        CancellationToken::new(),
    ));
}

impl Service {
    /// A service that answers each request, written as `GET /v1/events?state=dead`, a body behind it.
    pub(super) async fn start(answering: impl Fn(&str) -> Response + Send + Sync + 'static) -> Arc<Self> {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base_url = format!("http://{}", listener.local_addr().unwrap());
        let service = Arc::new(Self { base_url, answering: Box::new(answering), asked: Mutex::default() });
        let router = Router::new().fallback(answer).with_state(service.clone());
        serve(listener, router);
        service
    }

    /// The requests it received, in order.
    pub(super) fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }

    /// Runs a command against it.
    pub(super) async fn run(&self, arguments: &[&str]) -> Ran {
        run_at(&self.base_url, "right", arguments, Heard::default()).await
    }

    /// Runs a command whose data goes to `data`.
    pub(super) async fn run_into(&self, arguments: &[&str], data: impl Write + 'static) -> Ran {
        run_at(&self.base_url, "right", arguments, data).await
    }
}

async fn answer(
    State(service): State<Arc<Service>>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    if headers["authorization"] != "Bearer right" {
        return json(401, r#"{"status":401,"detail":"the admin token is missing or wrong"}"#);
    }
    let mut asked = format!("{method} {uri}");
    if !body.is_empty() {
        assert_eq!(headers["content-type"], "application/json");
        asked = format!("{asked} {}", String::from_utf8_lossy(&body));
    }
    let answer = (service.answering)(&asked);
    service.asked.lock().unwrap().push(asked);
    answer
}

pub(super) fn json(status: u16, body: &str) -> Response {
    let status = axum::http::StatusCode::from_u16(status).unwrap();
    (status, [("content-type", "application/json")], body.to_owned()).into_response()
}

/// The result of a command.
pub(super) struct Ran {
    pub(super) outcome: anyhow::Result<ExitCode>,
    pub(super) data: String,
    pub(super) talk: String,
}

impl Ran {
    pub(super) fn error(&self) -> String {
        self.outcome.as_ref().unwrap_err().to_string()
    }

    #[track_caller]
    pub(super) fn ends_with(&self, code: u8) {
        let ended = self.outcome.as_ref().unwrap();
        assert_eq!(format!("{ended:?}"), format!("{:?}", ExitCode::from(code)), "{}", self.talk);
    }
}

/// Parses a command line.
pub(super) fn parsed(arguments: &[&str]) -> Result<Command, String> {
    let all = ["unionlink"].iter().chain(arguments);
    Ok(Cli::try_parse_from(all).map_err(|error| error.to_string())?.command)
}

pub(super) async fn run_at(
    base_url: &str,
    token: &str,
    arguments: &[&str],
    data: impl Write + 'static,
) -> Ran {
    let environment: Environment =
        [("UNIONLINK_ADMIN_TOKEN".to_owned(), token.to_owned())].into_iter().collect();
    let api = AdminApi::new(&AdminAccess::at(base_url, &environment)).unwrap();
    let (heard, talk) = (Heard::default(), Heard::default());
    let both = Both(heard.clone(), data);
    let mut out = Output::to(both, talk.clone());
    let outcome = match parsed(arguments).unwrap() {
        Command::Fans(fans) => fans.run_with(&api, &mut out).await,
        Command::Links(links) => Box::pin(links.run_with(&api, &mut out)).await,
        Command::Reconcile(reconcile) => {
            Box::pin(reconcile.run_with(&api, &mut out, &CancellationToken::new())).await
        }
        Command::Events(events) => Box::pin(events.run_with(&api, &mut out)).await,
        Command::Explain(explain) => explain.run_with(&api, &mut out).await,
        Command::Forget(forget) => forget.run_with(&api, &mut out).await,
        other => panic!("{other:?}"),
    };
    Ran { outcome, data: heard.text(), talk: talk.text() }
}

/// Captures what is written.
#[derive(Clone, Default)]
pub(super) struct Heard(Arc<Mutex<Vec<u8>>>);

impl Heard {
    pub(super) fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

impl Write for Heard {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Writes to the second and captures it in the first.
struct Both<W>(Heard, W);

impl<W: Write> Write for Both<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.1.write(bytes)?;
        self.0.write_all(&bytes[..written])?;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.1.flush()
    }
}

/// A body of chunks that a test sends; an error aborts it.
pub(super) fn body(pieces: mpsc::Receiver<io::Result<String>>) -> Body {
    Body::new(Pieces(pieces))
}

struct Pieces(mpsc::Receiver<io::Result<String>>);

impl hyper::body::Body for Pieces {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        self.0.poll_recv(context).map(|piece| piece.map(|piece| piece.map(|text| Frame::data(text.into()))))
    }
}

/// A page with these rows.
pub(super) fn page(rows: &[Value], next: Option<&str>) -> Response {
    json(200, &serde_json::json!({"events": rows, "next": next}).to_string())
}
