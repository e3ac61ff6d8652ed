//! The routes of the public listener: `/callback/{app}` and `/livez`, nothing else.
//!
//! A callback passes these steps in order: app, query, form of the signature, body size, signature,
//! decryption, classification, store. The cheap checks come before the body is read. Every refused callback
//! gets the same empty 403, so that a forger learns nothing. An event is acknowledged only after it is
//! durable; if it cannot be made durable, the answer is 503, so that WeCom may send it again.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::{Body, HttpBody as _};
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, RawQuery, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;

use super::body::read_body;
use super::callback_log::CallbackLog;
use crate::callback::{self, Keys, Query, Refusal, VerifiedMessage};
use crate::clock::Clock;
use crate::domain::event::Kind;
use crate::domain::ids::{AppName, CorpId};
use crate::domain::time::Timestamp;
use crate::intake::{self, AgeLimit, Classified, Ignored, Recipients};
use crate::store::{Appended, Arrival, MessageDigest, Payload, Store, StoreError};
use crate::telemetry::metrics::{CallbackOutcome, Metrics, TimestampSource};
use crate::worker::Wake;
use crate::worker::activity::Activity;

/// An app that receives callbacks.
#[derive(Debug)]
pub struct CallbackApp {
    /// Its name: the `{app}` in its callback URL.
    pub name: AppName,
    /// Its callback token and AES key, shared with WeCom.
    pub keys: Keys,
    /// The receive ids it accepts: corps and suites.
    pub recipients: Recipients,
    /// Whether it acts upon the events of customer groups.
    pub customer_groups: bool,
}

/// The apps that receive callbacks, by name.
pub type CallbackApps = HashMap<AppName, CallbackApp>;

/// The state that the handlers share.
pub struct CallbackState {
    /// The apps that receive callbacks.
    pub apps: Arc<CallbackApps>,
    /// The store.
    pub store: Arc<dyn Store>,
    /// The clock.
    pub clock: Arc<dyn Clock>,
    /// The metrics.
    pub metrics: Arc<Metrics>,
    /// Wakes the workers.
    pub wake: Arc<Wake>,
    /// Counts the events of each corp.
    pub activity: Arc<Activity>,
    /// Logs answers.
    pub log: CallbackLog,
    /// The maximum age of an event in days; 0 means no limit.
    pub event_days_max: u32,
    /// The largest accepted body, in bytes.
    pub body_bytes_max: usize,
    /// How long a body may take to arrive.
    pub body_timeout: Duration,
}

/// The public router.
pub fn router(state: Arc<CallbackState>) -> Router {
    Router::new()
        .route("/callback/{app}", get(check_url).post(receive))
        .route("/livez", get(|| async { "alive\n" }))
        .method_not_allowed_fallback(|| async { StatusCode::NOT_FOUND })
        .fallback(|| async { StatusCode::NOT_FOUND })
        .with_state(state)
}

type Shared = State<Arc<CallbackState>>;
type AppPath = Result<Path<String>, PathRejection>;

/// A positive answer.
enum Ack {
    /// `success`: the event is durable, or there is nothing to keep.
    Success(CallbackOutcome),
    /// The decrypted echo string of a URL check.
    Echo(Vec<u8>),
}

/// A negative answer.
enum Reject {
    /// No app of this name: 404.
    UnknownApp,
    /// The callback is not from WeCom: 403.
    Refused(Refusal),
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
            Self::Echo(_) => CallbackOutcome::Verified,
        }
    }
}

impl Reject {
    fn outcome(&self) -> CallbackOutcome {
        match self {
            Self::UnknownApp => CallbackOutcome::UnknownApp,
            Self::Body(status) if *status == StatusCode::PAYLOAD_TOO_LARGE => CallbackOutcome::TooLarge,
            Self::Refused(_) | Self::Body(_) => CallbackOutcome::Refused,
            Self::Unavailable(_) => CallbackOutcome::Unavailable,
        }
    }
}

impl IntoResponse for Ack {
    fn into_response(self) -> Response {
        match self {
            Self::Success(_) => "success".into_response(),
            Self::Echo(text) => ([(header::CONTENT_TYPE, "text/plain")], text).into_response(),
        }
    }
}

impl IntoResponse for Reject {
    fn into_response(self) -> Response {
        match self {
            Self::UnknownApp => StatusCode::NOT_FOUND,
            Self::Refused(_) => StatusCode::FORBIDDEN,
            Self::Body(status) => status,
            Self::Unavailable(_) => StatusCode::SERVICE_UNAVAILABLE,
        }
        .into_response()
    }
}

/// WeCom's URL check (GET): it expects the decrypted echo string, byte for byte, within a second (document
/// 90930).
async fn check_url(State(state): Shared, path: AppPath, RawQuery(query): RawQuery) -> Response {
    let app = state.app(path);
    let echo = |app| state.echo(app, query.as_deref().unwrap_or_default());
    state.respond(app, app.ok_or(Reject::UnknownApp).and_then(echo), None)
}

/// WeCom's event callback (POST, document 90930).
async fn receive(State(state): Shared, path: AppPath, RawQuery(query): RawQuery, body: Body) -> Response {
    let mut received_at = None;
    let app = state.app(path);
    let answer = match app {
        Some(app) => state.receive(app, query.as_deref().unwrap_or_default(), body, &mut received_at).await,
        None => Err(Reject::UnknownApp),
    };
    state.respond(app, answer, received_at)
}

impl CallbackState {
    /// Counts and logs the answer and converts it into a response. `received_at` is when the whole request
    /// had been received, if it was.
    fn respond(
        &self,
        app: Option<&CallbackApp>,
        answer: Result<Ack, Reject>,
        received_at: Option<Instant>,
    ) -> Response {
        let outcome = answer.as_ref().map_or_else(Reject::outcome, Ack::outcome);
        if let Err(Reject::Refused(refusal)) = &answer {
            self.metrics.callback_refused(*refusal);
        }
        // Only acknowledged callbacks are timed: a flood of forged ones must not change the histogram.
        let acknowledged = received_at.filter(|_| answer.is_ok());
        self.metrics.callback_answered(outcome, acknowledged.map(|received_at| received_at.elapsed()));
        match app {
            Some(app) => self.log_answer(&app.name, &answer),
            None => self.log.unknown_app(self.apps.keys()),
        }
        answer.into_response()
    }

    fn log_answer(&self, app: &AppName, answer: &Result<Ack, Reject>) {
        match answer {
            Ok(Ack::Echo(_)) => self.log.url_verified(app),
            Ok(Ack::Success(_)) | Err(Reject::UnknownApp) => {}
            Err(Reject::Refused(refusal)) => self.log.refused(app, *refusal),
            Err(Reject::Body(status)) => self.log.body_refused(app, *status),
            Err(Reject::Unavailable(error)) => self.log.not_acknowledged(error),
        }
    }

    fn app(&self, path: AppPath) -> Option<&CallbackApp> {
        let Path(name) = path.ok()?;
        self.apps.get(&AppName::new(name).ok()?)
    }

    fn echo(&self, app: &CallbackApp, query: &str) -> Result<Ack, Reject> {
        let query = Query::parse(query).map_err(|_| Refusal::Query)?;
        let echo = callback::verify_echo(&query, &app.keys)?;
        self.count_signed_at(&query);
        Ok(Ack::Echo(echo.text().to_vec()))
    }

    async fn receive(
        &self,
        app: &CallbackApp,
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
        *received_at = Some(Instant::now());
        let query = query?;
        let message = callback::verify(&query, &body, &app.keys)?;
        self.count_signed_at(&query);
        let outcome = self.accept(app, &message).await.map_err(Reject::Unavailable)?;
        Ok(Ack::Success(outcome))
    }

    /// Classifies a verified message and stores what it reports, or the message in quarantine.
    async fn accept(
        &self,
        app: &CallbackApp,
        message: &VerifiedMessage,
    ) -> Result<CallbackOutcome, StoreError> {
        let now = self.clock.now();
        let age_limit = AgeLimit { days_max: self.event_days_max, now };
        let classified = classify(&*self.store, app, message, Some(age_limit)).await?;
        if let Some((kind, created_at)) = classified.kind() {
            self.count_event(kind, created_at, now);
        }
        let corp_id = classified.corp_id().cloned();
        let (outcome, payload) = match classified {
            Classified::Event(event) => (CallbackOutcome::Accepted, Payload::Event(event)),
            Classified::Chat(event) => (CallbackOutcome::Accepted, Payload::Chat(event)),
            Classified::Visibility { corp_id, .. } => {
                (CallbackOutcome::Accepted, Payload::Visibility(corp_id))
            }
            Classified::Alarm(alarm) => (CallbackOutcome::Accepted, Payload::Alarm(alarm)),
            Classified::Ignored(ignored) => {
                if ignored.kind.changes_dealers() {
                    self.wake.dealers_changed(&app.name);
                }
                self.note_activity(app, corp_id.as_ref(), now).await;
                return Ok(CallbackOutcome::Ignored);
            }
            Classified::Quarantine { reason, event } => {
                self.log.quarantined(&app.name, &reason);
                let receive_id = String::from_utf8_lossy(message.receive_id()).chars().take(128).collect();
                let message = message.text().to_vec();
                (CallbackOutcome::Quarantined, Payload::Quarantine { reason, receive_id, message, event })
            }
        };
        let digest = MessageDigest::of(&app.name, message.text());
        let concern = Concern::of(Some(&payload));
        let arrival = Arrival { app: app.name.clone(), digest, received_at: now, payload };
        Ok(match self.store.append(arrival).await? {
            Appended::New(_) => {
                concern.wake(&self.wake, &app.name);
                self.note_activity(app, corp_id.as_ref(), now).await;
                outcome
            }
            Appended::Duplicate => CallbackOutcome::Duplicate,
            Appended::Forgotten | Appended::Stale => CallbackOutcome::Ignored,
        })
    }

    /// Counts a message from a corp. If the corp is a dealer, logs its first message with the dealer's name,
    /// and has the list of dealers read if the dealer is not on it.
    async fn note_activity(&self, app: &CallbackApp, corp_id: Option<&CorpId>, now: Timestamp) {
        let Some(corp_id) = corp_id else { return };
        self.activity.seen(&app.name, corp_id, now);
        if app.recipients.corp_id.same_corp(corp_id.as_str()) {
            return;
        }
        let known = self.store.dealer(&app.name, corp_id).await.ok().flatten();
        if known.as_ref().is_none_or(|dealer| dealer.left_at.is_some()) {
            self.wake.dealers_changed(&app.name);
        }
        if self.log.is_first_of(&app.name, corp_id) {
            let (app, dealer) = (&app.name, known.map(|dealer| dealer.name));
            tracing::info!(%app, corp = %corp_id, dealer, "first callback of a dealer since the start");
        }
    }

    fn count_event(&self, kind: Kind, created_at: Option<Timestamp>, now: Timestamp) {
        self.metrics.event(kind);
        if let Some(created_at) = created_at {
            self.metrics.timestamp_seen(TimestampSource::CreateTime, created_at, now);
        }
    }

    fn count_signed_at(&self, query: &Query<'_>) {
        if let Some(signed_at) = query.signed_at() {
            self.metrics.timestamp_seen(TimestampSource::Timestamp, signed_at, self.clock.now());
        }
    }
}

/// [`intake::classify`] with the dealers known to the store and the settings of the app; used for incoming
/// callbacks and for redriving quarantined messages.
///
/// # Errors
/// When the store cannot be read.
pub(super) async fn classify(
    store: &dyn Store,
    app: &CallbackApp,
    message: &VerifiedMessage,
    age_limit: Option<AgeLimit>,
) -> Result<Classified, StoreError> {
    let classified = intake::classify(message, &app.recipients, age_limit, async |corp_id| {
        Ok::<_, StoreError>(store.dealer(&app.name, corp_id).await?.is_some())
    })
    .await?;
    Ok(match classified {
        Classified::Chat(event) if !app.customer_groups => Classified::Ignored(Ignored {
            kind: Kind::ChangeExternalChat,
            corp_id: Some(event.corp_id),
            created_at: Some(event.created_at),
        }),
        classified => classified,
    })
}

/// The workers to be woken after something was stored.
pub(super) enum Concern {
    Inbox,
    Groups,
    Visibility(CorpId),
    Alarms,
    Suites,
}

impl Concern {
    /// The workers to be woken after `payload` was stored; `None` stands for a dead letter that was redriven.
    pub(super) fn of(payload: Option<&Payload>) -> Self {
        match payload {
            None | Some(Payload::Event(_) | Payload::Quarantine { .. }) => Self::Inbox,
            Some(Payload::Suite(_)) => Self::Suites,
            Some(Payload::Chat(_)) => Self::Groups,
            Some(Payload::Visibility(corp_id)) => Self::Visibility(corp_id.clone()),
            Some(Payload::Alarm(_)) => Self::Alarms,
        }
    }

    /// Wakes the workers.
    pub(super) fn wake(self, wake: &Wake, app: &AppName) {
        match self {
            Self::Inbox => wake.inbox.notify_one(),
            Self::Groups => wake.groups_changed(),
            Self::Visibility(corp_id) => wake.visibility_changed(app, &corp_id),
            Self::Alarms => wake.alarms_changed(),
            Self::Suites => wake.suites.notify_one(),
        }
    }
}
