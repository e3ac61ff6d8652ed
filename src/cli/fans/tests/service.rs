//! A stand-in for the admin API that keeps its fans and fails on demand.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use hyper::body::Frame;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::super::import::{Job, Report};
use super::super::send::Patience;
use super::super::source::ReadOptions;
use crate::config::{AdminAccess, Environment};

/// What happens to a request, by its number from 0.
type Mood = Box<dyn Fn(usize) -> Answer + Send + Sync>;

#[derive(Clone, Copy, PartialEq)]
pub(super) enum Answer {
    Take,
    /// 503 before anything is taken.
    Refuse,
    /// Everything is taken, and the connection breaks instead of an answer.
    TakeAndBreak,
    /// This status, and a problem.
    Fail(u16),
    /// The answer of some other web server.
    OtherServer,
}

pub(super) struct Service {
    pub(super) base_url: String,
    mood: Mood,
    requests: AtomicUsize,
    pub(super) rows: AtomicUsize,
    /// Whether rows have to name their app.
    pub(super) several_apps: AtomicBool,
    /// How often each fan was new: never more than once.
    fans: Mutex<BTreeMap<String, Value>>,
}

impl Service {
    pub(super) async fn start(mood: impl Fn(usize) -> Answer + Send + Sync + 'static) -> Arc<Self> {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base_url = format!("http://{}", listener.local_addr().unwrap());
        let (requests, rows) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let (fans, several_apps) = (Mutex::default(), AtomicBool::new(false));
        let service = Arc::new(Self { base_url, mood: Box::new(mood), requests, rows, several_apps, fans });
        let router = Router::new().route("/v1/fans", post(register)).with_state(service.clone());
        crate::cli::tests::service::serve(listener, router);
        service
    }

    pub(super) fn fans(&self) -> BTreeMap<String, Value> {
        self.fans.lock().unwrap().clone()
    }

    /// The requests with rows.
    pub(super) fn requests(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }

    /// An import of `file` into this service.
    pub(super) fn job(&self, file: &Path) -> Job {
        Job {
            file: file.to_owned(),
            options: ReadOptions::default(),
            access: Some(AdminAccess::at(&self.base_url, &token())),
            rejects: None,
            progress: None,
            restart: false,
            retry_rejected: false,
            max_rejects: None,
            patience: Patience {
                first: Duration::from_millis(1),
                longest: Duration::from_millis(4),
                total: Duration::from_mins(1),
            },
            save_every: Duration::from_millis(1),
            terminal: false,
        }
    }
}

fn token() -> Environment {
    [("UNIONLINK_ADMIN_TOKEN".to_owned(), "right".to_owned())].into_iter().collect()
}

/// Imports to the end.
pub(super) async fn run(job: Job) -> anyhow::Result<Report> {
    Box::pin(job.run(CancellationToken::new())).await
}

async fn register(State(service): State<Arc<Service>>, headers: HeaderMap, body: Bytes) -> Response {
    let problem = |status: u16, detail: &str| {
        let body = json!({"code": "x", "detail": detail, "hint": "look at the disk"}).to_string();
        (StatusCode::from_u16(status).unwrap(), [("content-type", "application/problem+json")], body)
            .into_response()
    };
    if headers["authorization"] != "Bearer right" {
        return problem(401, "the admin token is missing or wrong");
    }
    if headers["content-type"] == "application/json" {
        return service.reject(&body);
    }
    assert_eq!(headers["content-type"], "application/x-ndjson");
    let answer = (service.mood)(service.requests.fetch_add(1, Ordering::SeqCst));
    match answer {
        Answer::Take | Answer::TakeAndBreak => {}
        Answer::Refuse => return problem(503, "no space"),
        Answer::Fail(status) => return problem(status, "that will not do"),
        Answer::OtherServer => return "<html>It works!</html>".into_response(),
    }
    let receipt = service.take(&body);
    if answer == Answer::TakeAndBreak {
        return Response::builder().status(202).body(Body::new(Broken)).unwrap();
    }
    (StatusCode::ACCEPTED, axum::Json(receipt)).into_response()
}

impl Service {
    /// The answer to a fan without ids, by which an import asks for the app.
    fn reject(&self, body: &[u8]) -> Response {
        let fan: Value = serde_json::from_slice(body).unwrap();
        assert!(fan["unionid"].is_null(), "a fan is not registered alone");
        let problem = match fan["app"].as_str() {
            Some("unknown") => {
                json!({"detail": "there is no app named \"unknown\"", "apps": ["brand", "shop"]})
            }
            None if self.several_apps.load(Ordering::SeqCst) => {
                json!({"detail": "app is missing", "apps": ["brand", "shop"]})
            }
            _ => json!({"detail": "unionid is missing"}),
        };
        (StatusCode::UNPROCESSABLE_ENTITY, axum::Json(problem)).into_response()
    }

    fn take(&self, body: &[u8]) -> Value {
        let lines: Vec<_> = body.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).collect();
        assert!(
            lines.len() <= 1_000 && body.len() < 600 * 1024,
            "{} rows in {} bytes",
            lines.len(),
            body.len()
        );
        self.rows.fetch_add(lines.len(), Ordering::SeqCst);
        let (mut accepted, mut known, mut rejected) = (0, 0, Vec::new());
        let mut fans = self.fans.lock().unwrap();
        for (line, n) in lines.into_iter().zip(1..) {
            let row: Value = serde_json::from_slice(line).unwrap();
            if row["app"] == "unknown" {
                rejected.push(json!({"line": n, "reason": "there is no app named \"unknown\""}));
            } else if fans.insert(row["unionid"].as_str().unwrap().to_owned(), row).is_some() {
                known += 1;
            } else {
                accepted += 1;
            }
        }
        json!({"accepted": accepted, "known": known, "rejected": rejected})
    }
}

/// A body that ends in the middle.
struct Broken;

impl hyper::body::Body for Broken {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        Poll::Ready(Some(Err(io::Error::other("broken on purpose"))))
    }
}
