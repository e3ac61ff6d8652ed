//! The routes of the public listener: `/callback/{name}`, of an app or a suite, and `/livez`, nothing else.
//!
//! A callback passes these steps in order: name, source, query, form of the signature, body size, signature,
//! decryption, classification, store. The cheap checks come before the body is read. Every refused callback
//! gets the same empty 403, so that a forger learns nothing. An event is acknowledged only after it is
//! durable; if it cannot be made durable, the answer is 503, so that WeCom may send it again.
//!
//! Deliberately absent: what becomes of a verified message (see `callbacks`).

use std::sync::Arc;
use std::time::Instant;

use axum::body::{Body, HttpBody as _};
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, RawQuery, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Extension, Router};

use super::body::read_body;
use super::callbacks::CallbackState;
use super::doors::Door;
use super::payload::receive_id;
use super::socket::Source;
use super::strangers::Stranger;
use crate::callback::{self, KeyAge, Query, Refusal, VerifiedMessage};
use crate::domain::ids::AppName;
use crate::store::StoreError;
use crate::telemetry::metrics::{CallbackOutcome, TimestampSource};
use crate::telemetry::observed::SealedFor;

/// The public router.
pub fn router(state: Arc<CallbackState>) -> Router {
    Router::new()
        .route("/callback/{name}", get(check_url).post(receive))
        .route("/livez", get(|| async { "alive\n" }))
        .method_not_allowed_fallback(|| async { StatusCode::NOT_FOUND })
        .fallback(|| async { StatusCode::NOT_FOUND })
        .with_state(state)
}

type Shared = State<Arc<CallbackState>>;
type RequestSource = Option<Extension<Source>>;
type NamePath = Result<Path<String>, PathRejection>;

/// A positive answer.
enum Ack {
    /// `success`: the event is durable, or there is nothing to keep.
    Success(CallbackOutcome),
    /// The decrypted echo string of a URL check.
    Echo(Vec<u8>),
    /// That of one of our own.
    Trial(Vec<u8>),
}

/// A negative answer.
enum Reject {
    /// No URL of this name: 404.
    UnknownApp,
    /// The app uses its suite's URL: 404.
    SuiteUrl { app: AppName, suite: AppName },
    /// The callback is not from WeCom: 403.
    Refused(Refusal),
    /// A URL check that is encrypted for a corp or suite that is not accepted: 403.
    ReceiveId { receive_id: String, is_self_built: bool },
    /// The body is too large, too slow or incomplete: 413, 408 or 400.
    Body(StatusCode),
    /// The event cannot be made durable now: 503.
    Unavailable(StoreError),
}

impl From<Refusal> for Reject {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl Ack {
    const fn outcome(&self) -> CallbackOutcome {
        match self {
            Self::Success(outcome) => *outcome,
            Self::Echo(_) | Self::Trial(_) => CallbackOutcome::Verified,
        }
    }
}

impl Reject {
    fn outcome(&self) -> CallbackOutcome {
        match self {
            Self::UnknownApp | Self::SuiteUrl { .. } => CallbackOutcome::UnknownApp,
            Self::Body(status) if *status == StatusCode::PAYLOAD_TOO_LARGE => CallbackOutcome::TooLarge,
            Self::Refused(_) | Self::ReceiveId { .. } | Self::Body(_) => CallbackOutcome::Refused,
            Self::Unavailable(_) => CallbackOutcome::Unavailable,
        }
    }

    const fn refusal(&self) -> Option<Refusal> {
        match self {
            Self::Refused(refusal) => Some(*refusal),
            Self::ReceiveId { .. } => Some(Refusal::ReceiveId),
            Self::UnknownApp | Self::SuiteUrl { .. } | Self::Body(_) | Self::Unavailable(_) => None,
        }
    }
}

impl IntoResponse for Ack {
    fn into_response(self) -> Response {
        match self {
            Self::Success(_) => "success".into_response(),
            Self::Echo(text) | Self::Trial(text) => {
                ([(header::CONTENT_TYPE, "text/plain")], text).into_response()
            }
        }
    }
}

impl IntoResponse for Reject {
    fn into_response(self) -> Response {
        match self {
            Self::UnknownApp | Self::SuiteUrl { .. } => StatusCode::NOT_FOUND,
            Self::Refused(_) | Self::ReceiveId { .. } => StatusCode::FORBIDDEN,
            Self::Body(status) => status,
            Self::Unavailable(_) => StatusCode::SERVICE_UNAVAILABLE,
        }
        .into_response()
    }
}

/// WeCom's URL check (GET): it expects the decrypted echo string, byte for byte, within a second (document
/// 90930).
async fn check_url(
    State(state): Shared,
    source: RequestSource,
    path: NamePath,
    RawQuery(query): RawQuery,
) -> Response {
    let stranger = state.stranger(source);
    let (door, answer) = match state.door(path) {
        Ok(door) if is_refused(stranger) => (Some(door), Err(Refusal::Source.into())),
        Ok(door) => {
            let query = query.as_deref().unwrap_or_default();
            let answer = state.echo(&door, query);
            // Whoever says that it is a trial, genuine or not, says nothing about WeCom.
            if !Query::parse(query).is_ok_and(|query| callback::is_trial(&query.nonce)) {
                state.note(door.name(), &answer);
            }
            (Some(door), answer)
        }
        Err(reject) => (None, Err(reject)),
    };
    state.respond(door.as_ref().map(|door| door.name()), stranger, answer, None)
}

/// WeCom's event callback (POST, document 90930).
async fn receive(
    State(state): Shared,
    source: RequestSource,
    path: NamePath,
    RawQuery(query): RawQuery,
    body: Body,
) -> Response {
    let mut received_at = None;
    let stranger = state.stranger(source);
    let (door, answer) = match state.door(path) {
        Ok(door) if is_refused(stranger) => (Some(door), Err(Refusal::Source.into())),
        Ok(door) => {
            let query = query.as_deref().unwrap_or_default();
            let answer = state.receive(&door, query, body, &mut received_at).await;
            state.note(door.name(), &answer);
            (Some(door), answer)
        }
        Err(reject) => (None, Err(reject)),
    };
    state.respond(door.as_ref().map(|door| door.name()), stranger, answer, received_at)
}

fn is_refused(stranger: Option<Stranger>) -> bool {
    stranger.is_some_and(|stranger| stranger.is_refused)
}

impl CallbackState {
    /// Counts and logs the answer and converts it into a response. `name` is that in the URL if there is one
    /// of this name, `received_at` when the whole request had been received, if it was.
    fn respond(
        &self,
        name: Option<&AppName>,
        stranger: Option<Stranger>,
        answer: Result<Ack, Reject>,
        received_at: Option<Instant>,
    ) -> Response {
        let outcome = answer.as_ref().map_or_else(Reject::outcome, Ack::outcome);
        if let Some(refusal) = answer.as_ref().err().and_then(Reject::refusal) {
            self.metrics.callbacks.refused(refusal);
        }
        // Only acknowledged callbacks are timed: a flood of forged ones must not change the histogram.
        let acknowledged = received_at.filter(|_| answer.is_ok());
        self.metrics.callbacks.answered(outcome, acknowledged.map(|received_at| received_at.elapsed()));
        // A trial of our own says nothing about WeCom's list.
        let stranger = stranger.filter(|_| !matches!(answer, Ok(Ack::Trial(_))));
        if let (Some(check), Some(stranger)) = (&self.source_check, stranger) {
            self.metrics.callbacks.stranger(outcome);
            check.answered(stranger, name, answer.is_ok(), &self.log);
        }
        match (name, &answer) {
            (None, Err(Reject::SuiteUrl { app, suite })) => self.log.uses_suite_url(app, suite),
            (None, _) => self.log.unknown_app(self.doors.current().keys()),
            (Some(name), answer) => self.log_answer(name, answer),
        }
        answer.into_response()
    }

    /// Notes the answer as the last of its kind at this URL.
    fn note(&self, name: &AppName, answer: &Result<Ack, Reject>) {
        let now = self.clock.now();
        match answer {
            Ok(Ack::Success(_)) => self.notes.acknowledged(name, now),
            Ok(Ack::Echo(_)) => self.notes.verified(name, now),
            Ok(Ack::Trial(_)) => {}
            Err(reject) => {
                if let Some(refusal) = reject.refusal() {
                    self.notes.refused(name, refusal.into(), now);
                }
            }
        }
    }

    fn log_answer(&self, name: &AppName, answer: &Result<Ack, Reject>) {
        match answer {
            Ok(Ack::Echo(_)) => self.log.url_verified(name),
            Ok(Ack::Trial(_)) => self.log.url_tried(name),
            // The last of these was logged with its address.
            Ok(Ack::Success(_))
            | Err(Reject::UnknownApp | Reject::SuiteUrl { .. } | Reject::Refused(Refusal::Source)) => {}
            Err(Reject::Refused(refusal)) => self.log.refused(name, *refusal),
            Err(Reject::ReceiveId { receive_id, is_self_built }) => {
                self.log.echo_not_accepted(name, receive_id, *is_self_built);
            }
            Err(Reject::Body(status)) => self.log.body_refused(name, *status),
            Err(Reject::Unavailable(error)) => self.log.not_acknowledged(error),
        }
    }

    /// The source of a request if it is compared with WeCom's list and not on it.
    fn stranger(&self, source: RequestSource) -> Option<Stranger> {
        self.source_check.as_ref()?.stranger(source?.0, self.clock.moment(), &self.log)
    }

    fn door(&self, path: NamePath) -> Result<Arc<Door>, Reject> {
        let name = path.ok().and_then(|Path(name)| AppName::new(name).ok()).ok_or(Reject::UnknownApp)?;
        if let Some(door) = self.doors.current().get(&name) {
            return Ok(door.clone());
        }
        let suite = self.apps.get(&name).and_then(|rules| rules.suite.clone());
        Err(suite.map_or(Reject::UnknownApp, |suite| Reject::SuiteUrl { app: name, suite }))
    }

    /// Notes which token and key a message was verified with.
    fn opened(&self, door: &Door, with: KeyAge) {
        self.metrics.callbacks.opened(door.name(), with);
        if with == KeyAge::Previous {
            self.log.opened_with_previous(door.name());
        }
    }

    fn echo(&self, door: &Door, query: &str) -> Result<Ack, Reject> {
        let query = Query::parse(query).map_err(|_| Refusal::Query)?;
        let echo = callback::verify_echo(&query, door.keys())?;
        self.opened(door, echo.opened_with());
        if !callback::is_trial(&query.nonce) {
            self.count_signed_at(&query);
        }
        match door.check_echo(&self.apps, &echo) {
            Ok(()) if callback::is_trial(&query.nonce) => Ok(Ack::Trial(echo.text().to_vec())),
            Ok(()) => {
                self.url_checks.answered(door.name());
                Ok(Ack::Echo(echo.text().to_vec()))
            }
            Err(Refusal::ReceiveId) => {
                let (receive_id, is_self_built) = (receive_id(&echo), door.is_self_built());
                if !callback::is_trial(&query.nonce) {
                    self.url_checks.refused(door.name(), &receive_id, self.clock.now());
                }
                Err(Reject::ReceiveId { receive_id, is_self_built })
            }
            Err(other) => Err(other.into()),
        }
    }

    async fn receive(
        &self,
        door: &Door,
        query: &str,
        body: Body,
        received_at: &mut Option<Instant>,
    ) -> Result<Ack, Reject> {
        let query = match Query::parse(query) {
            Ok(query) if query.has_well_formed_signature() => Ok(query),
            Ok(_) => Err(Refusal::Signature),
            Err(_) => Err(Refusal::Query),
        };
        // A refusal need not wait for the body, except that a body with a Content-Length over the limit is
        // answered 413 whatever the query says.
        let is_too_large = usize::try_from(body.size_hint().lower()).is_ok_and(|b| b > self.body_bytes_max);
        if !is_too_large && let Err(refusal) = query {
            return Err(refusal.into());
        }
        let body = read_body(body, self.body_bytes_max, self.body_timeout).await.map_err(Reject::Body)?;
        let all_received_at = Instant::now();
        *received_at = Some(all_received_at);
        let query = query?;
        let message = callback::verify(&query, &body, door.keys())?;
        self.opened(door, message.opened_with());
        self.count_signed_at(&query);
        let outcome = self.accept(door, &message, all_received_at).await.map_err(Reject::Unavailable)?;
        self.observe(door, &query, &message);
        Ok(Ack::Success(outcome))
    }

    /// Counts how WeCom has sealed a message: for whom, and whether it has sent it before.
    fn observe(&self, door: &Door, query: &Query<'_>, message: &VerifiedMessage) {
        let observed = &self.metrics.observed;
        let id = String::from_utf8_lossy(message.receive_id());
        let is_named = || memchr::memmem::find(message.text(), id.as_bytes()).is_some();
        let whom = match &*id {
            "" => SealedFor::Nobody,
            id if door.is_of(&self.apps, id) => SealedFor::Owner,
            _ if is_named() => SealedFor::Named,
            _ => SealedFor::Other,
        };
        observed.sealed_for(whom);
        observed.received(message.text(), query.msg_signature.as_bytes(), self.clock.now());
    }

    fn count_signed_at(&self, query: &Query<'_>) {
        if let Some(signed_at) = query.signed_at() {
            self.metrics.callbacks.timestamp_seen(TimestampSource::Timestamp, signed_at, self.clock.now());
        }
    }
}
