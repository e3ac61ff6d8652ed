//! The public listener: `/callback/{app}` and `/livez`, and nothing else.
//!
//! The order is: app, query, form of the signature, size, signature, decryption, store, answer; what costs little
//! comes first, and before any byte of a body of proper length is read. Whoever is refused learns nothing: every
//! refusal is the same empty 403. An event is acknowledged only after it is durable; whatever cannot be made
//! durable is answered 503, so that WeCom may send it again.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::{Body, HttpBody as _};
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, RawQuery, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;

use super::door::{Door, DoorApp, Meaning};
use crate::callback::{Opened, Query, Refusal, Sealed};
use crate::clock::Clock;
use crate::domain::event::Kind;
use crate::domain::far_off::is_doubtful;
use crate::store::{Appended, Arrival, Content, Happening, MessageDigest, QuarantineReason, Store};
use crate::telemetry::metrics::{DoorOutcome, Metrics, Told};
use crate::worker::Wake;

/// What the handlers share.
pub struct CallbackState {
    /// The apps.
    pub door: Arc<Door>,
    /// The durable state.
    pub store: Arc<dyn Store>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// Whom to wake.
    pub wake: Arc<Wake>,
    /// How many days ago an event may have happened; 0: any number.
    pub event_days_max: u32,
    /// The largest body.
    pub body_bytes_max: usize,
    /// For a body.
    pub body_timeout: Duration,
}

/// The public router.
pub fn router(state: Arc<CallbackState>) -> Router {
    Router::new()
        .route("/callback/{app}", get(verify).post(receive))
        .route("/livez", get(|| async { "alive\n" }))
        .method_not_allowed_fallback(|| async { StatusCode::NOT_FOUND })
        .fallback(|| async { StatusCode::NOT_FOUND })
        .with_state(state)
}

type Shared = State<Arc<CallbackState>>;

/// WeCom checks the URL: it wants its echo back, decrypted, byte for byte, within a second (document 90930).
async fn verify(
    State(state): Shared,
    path: Result<Path<String>, PathRejection>,
    RawQuery(query): RawQuery,
) -> Response {
    let started = Instant::now();
    let (outcome, answer) = match state.app(path) {
        None => (DoorOutcome::UnknownApp, StatusCode::NOT_FOUND.into_response()),
        Some(app) => match echo(app, query.as_deref()) {
            Ok((query, opened)) => {
                state.count_signed_at(&query);
                let plain = [(header::CONTENT_TYPE, "text/plain")];
                (DoorOutcome::Verified, (plain, opened.message().to_vec()).into_response())
            }
            Err(refusal) => state.refuse(refusal),
        },
    };
    state.metrics.door(outcome, started.elapsed());
    answer
}

fn echo<'a>(app: &DoorApp, query: Option<&'a str>) -> Result<(Query<'a>, Opened), Refusal> {
    let query = Query::parse(query.unwrap_or_default()).map_err(|_| Refusal::Query)?;
    let opened = Sealed::from_echo(&query)?.open(&app.keys)?;
    Ok((query, opened))
}

/// WeCom tells of an event (document 90930).
async fn receive(
    State(state): Shared,
    path: Result<Path<String>, PathRejection>,
    RawQuery(query): RawQuery,
    body: Body,
) -> Response {
    let (outcome, answer, took) = match state.app(path) {
        None => (DoorOutcome::UnknownApp, StatusCode::NOT_FOUND.into_response(), Duration::ZERO),
        Some(app) => state.receive(app, query.as_deref(), body).await,
    };
    state.metrics.door(outcome, took);
    answer
}

impl CallbackState {
    fn app(&self, path: Result<Path<String>, PathRejection>) -> Option<&DoorApp> {
        path.ok().and_then(|Path(name)| self.door.app(&name))
    }

    fn refuse(&self, refusal: Refusal) -> (DoorOutcome, Response) {
        self.metrics.refused(refusal);
        (DoorOutcome::Refused, StatusCode::FORBIDDEN.into_response())
    }

    fn count_signed_at(&self, query: &Query<'_>) {
        if let Some(signed_at) = query.signed_at() {
            self.metrics.told(Told::Timestamp, signed_at, self.clock.now());
        }
    }

    async fn receive(
        &self,
        app: &DoorApp,
        query: Option<&str>,
        body: Body,
    ) -> (DoorOutcome, Response, Duration) {
        let query = match Query::parse(query.unwrap_or_default()) {
            Ok(query) if query.has_a_signature() => Ok(query),
            Ok(_) => Err(Refusal::Signature),
            Err(_) => Err(Refusal::Query),
        };
        // Whatever the query says, a body that is too large is told so.
        let is_too_large = usize::try_from(body.size_hint().lower()).is_ok_and(|b| b > self.body_bytes_max);
        if let Err(refusal) = query
            && !is_too_large
        {
            let (outcome, answer) = self.refuse(refusal);
            return (outcome, answer, Duration::ZERO);
        }
        let body = match super::read_body(body, self.body_bytes_max, self.body_timeout).await {
            Ok(body) => body,
            Err(status) => {
                let outcome = match status {
                    StatusCode::PAYLOAD_TOO_LARGE => DoorOutcome::TooLarge,
                    _ => DoorOutcome::Refused,
                };
                return (outcome, status.into_response(), Duration::ZERO);
            }
        };
        // From here on it is our time that passes, not the sender's.
        let started = Instant::now();
        let opened = query.and_then(|query| {
            let opened = Sealed::from_body(&query, &body)?.open(&app.keys)?;
            self.count_signed_at(&query);
            Ok(opened)
        });
        let (outcome, answer) = match opened {
            Ok(opened) => self.keep(app, &opened).await,
            Err(refusal) => self.refuse(refusal),
        };
        (outcome, answer, started.elapsed())
    }

    /// Makes a verified event durable, then acknowledges it.
    async fn keep(&self, app: &DoorApp, opened: &Opened) -> (DoorOutcome, Response) {
        match self.store_opened(app, opened).await {
            Ok(outcome) => (outcome, "success".into_response()),
            Err(error) => {
                tracing::error!(app = %app.name, %error, "a callback could not be made durable and was not acknowledged");
                (DoorOutcome::Unavailable, StatusCode::SERVICE_UNAVAILABLE.into_response())
            }
        }
    }

    async fn store_opened(
        &self,
        app: &DoorApp,
        opened: &Opened,
    ) -> Result<DoorOutcome, crate::store::StoreError> {
        let meaning = self.door.meaning(app, opened.receive_id(), opened.message()).await?;
        let received_at = self.clock.now();
        let (outcome, content) = match meaning {
            Meaning::Ignore(kind, created_at) => {
                self.metrics.event(kind);
                if matches!(kind, Kind::ShareChainChange | Kind::ChangeChain) {
                    self.wake.dealers_changed(&app.name);
                }
                created_at.inspect(|at| self.metrics.told(Told::CreateTime, *at, received_at));
                return Ok(DoorOutcome::Ignored);
            }
            Meaning::Act(kind, happening) => {
                let created_at = happening.created_at;
                self.metrics.event(kind);
                self.metrics.told(Told::CreateTime, created_at, received_at);
                if is_doubtful(created_at, received_at, self.event_days_max) {
                    let reason = QuarantineReason::FarOff { created_at };
                    (DoorOutcome::Quarantined, quarantine(opened, reason, Some(happening)))
                } else {
                    (DoorOutcome::Accepted, Content::Event(happening))
                }
            }
            Meaning::Stranger => {
                (DoorOutcome::Quarantined, quarantine(opened, QuarantineReason::ReceiveId, None))
            }
            Meaning::NotUnderstood(why) => {
                (DoorOutcome::Quarantined, quarantine(opened, QuarantineReason::NotUnderstood(why), None))
            }
        };
        if let Content::Quarantine { reason, .. } = &content {
            tracing::warn!(app = %app.name, ?reason, "a callback was quarantined");
        }
        let digest = MessageDigest::of(&app.name, opened.message());
        let arrival = Arrival { app: app.name.clone(), digest, received_at, content };
        match self.store.append(arrival).await? {
            Appended::New(_) => {
                self.wake.inbox.notify_one();
                Ok(outcome)
            }
            Appended::Duplicate => Ok(DoorOutcome::Duplicate),
            Appended::Forgotten => Ok(DoorOutcome::Ignored),
        }
    }
}

fn quarantine(opened: &Opened, reason: QuarantineReason, about: Option<Happening>) -> Content {
    let receive_id = String::from_utf8_lossy(opened.receive_id()).chars().take(128).collect();
    Content::Quarantine { reason, receive_id, message: opened.message().to_vec(), about }
}
