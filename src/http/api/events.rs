//! `/v1/events`: the inbox, and what was set aside.

use axum::Json;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::links::{id, query};
use super::{AdminState, Problem, Shared};
use crate::domain::event::{Event, QuarantineReason};
use crate::domain::time::{SECOND_MS, Timestamp};
use crate::store::{EventId, EventRow, EventState, InboxEvent, Quarantined};
use crate::wecom::{Remedy, remedy};

pub(super) mod redrive;

const EVENTS_DEFAULT: usize = 100;
const EVENTS_MAX: usize = 1_000;
/// Rows of the queue that are looked at for a filter: it has no other order than by due instant.
const QUEUE_LOOKED_AT_MAX: usize = 20_000;

/// Which events.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct ListQuery {
    #[param(inline)]
    #[serde(default)]
    state: StateName,
    /// Behind this one; for dead letters and quarantined messages only.
    #[param(example = "evt_42")]
    after: Option<String>,
    /// At most so many; beyond 1 to 1000 it is the nearer of them.
    #[param(default = 100)]
    limit: Option<usize>,
    /// Only of this app.
    app: Option<String>,
    /// Only of this dealer.
    corp_id: Option<String>,
    /// Only with this code of WeCom's.
    errcode: Option<i64>,
    /// Only with these words in the reason.
    reason: Option<String>,
}

#[derive(Deserialize, Serialize, Default, Clone, Copy, PartialEq, Eq, ToSchema)]
#[schema(as = EventState)]
#[serde(rename_all = "snake_case")]
enum StateName {
    #[default]
    Waiting,
    Leased,
    Dead,
    Quarantined,
}

impl From<StateName> for EventState {
    fn from(name: StateName) -> Self {
        match name {
            StateName::Waiting => Self::Waiting,
            StateName::Leased => Self::Leased,
            StateName::Dead => Self::Dead,
            StateName::Quarantined => Self::Quarantined,
        }
    }
}

/// An event, or a quarantined message.
#[derive(Serialize, ToSchema)]
pub(super) struct Row {
    #[schema(example = "evt_42")]
    id: String,
    #[schema(inline)]
    state: StateName,
    #[schema(example = "brand")]
    app: String,
    #[schema(value_type = String, format = DateTime)]
    received_at: Timestamp,
    /// Since it was received.
    #[schema(example = 61)]
    age_seconds: i64,
    /// What an operator can do about it.
    remedy: Option<&'static str>,
    #[serde(flatten)]
    about: About,
    /// The whole text of a quarantined message; only when one is asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<String>,
}

#[derive(Serialize, ToSchema)]
#[serde(untagged)]
enum About {
    Event {
        #[schema(example = "add_external_contact")]
        r#type: &'static str,
        #[schema(example = "wpINVENTED-dealer-01")]
        corp_id: String,
        #[schema(example = "wmINVENTED-customer-0001")]
        external_userid: String,
        #[schema(example = "zhangsan")]
        user_id: String,
        #[schema(value_type = String, format = DateTime)]
        created_at: Timestamp,
        #[schema(value_type = String, format = DateTime)]
        due_at: Timestamp,
        #[schema(value_type = Option<String>, format = DateTime)]
        died_at: Option<Timestamp>,
        attempts: u32,
        errcode: Option<i64>,
        reason: Option<String>,
    },
    Message {
        #[schema(example = "receive_id")]
        reason: &'static str,
        detail: Option<String>,
        receive_id: String,
        message_bytes: u32,
    },
}

fn event_row(event: InboxEvent, state: StateName, died_at: Option<Timestamp>, now: Timestamp) -> Row {
    let Event { corp_id, created_at, contact } = event.event;
    let (errcode, reason) =
        event.failure.map_or((None, None), |failure| (failure.errcode, Some(failure.text)));
    Row {
        id: event.id.to_string(),
        state,
        app: event.app.into(),
        received_at: event.received_at,
        age_seconds: now.millis_since(event.received_at).max(0) / SECOND_MS,
        remedy: errcode.map(remedy),
        about: About::Event {
            r#type: contact.change.kind().into(),
            corp_id: corp_id.into(),
            external_userid: contact.external_userid.into(),
            user_id: contact.user_id.into(),
            created_at,
            due_at: event.due_at,
            died_at,
            attempts: event.attempts,
            errcode,
            reason,
        },
        message: None,
    }
}

fn row(row: EventRow, asked: StateName, now: Timestamp) -> Row {
    match row {
        EventRow::Inbox(event) => event_row(event, asked, None, now),
        EventRow::Dead { event, died_at } => event_row(event, StateName::Dead, Some(died_at), now),
        EventRow::Quarantined(Quarantined { id, app, received_at, reason, receive_id, message_bytes }) => {
            let remedy = quarantine_remedy(&reason).en;
            let (reason, detail) = ((&reason).into(), reason.detail());
            Row {
                id: id.to_string(),
                state: StateName::Quarantined,
                app: app.into(),
                received_at,
                age_seconds: now.millis_since(received_at).max(0) / SECOND_MS,
                remedy: Some(remedy),
                about: About::Message { reason, detail, receive_id, message_bytes },
                message: None,
            }
        }
    }
}

/// What to do about a quarantined message.
pub(super) const fn quarantine_remedy(reason: &QuarantineReason) -> Remedy {
    match reason {
        QuarantineReason::ReceiveId => Remedy {
            en: "if this corp or suite is yours, add it to the app's accept_receive_ids, restart and redrive",
            zh: "若该企业或套件属于自己，请将其加入应用的 accept_receive_ids，重启后重新投递",
        },
        QuarantineReason::NotUnderstood(_) => Remedy {
            en: "a newer version of unionlink may understand it; update, then redrive",
            zh: "新版 unionlink 可能支持该消息，请升级后重新投递",
        },
        QuarantineReason::FarOff { .. } => Remedy {
            en: "the event is older than event_days_max or more than a day ahead: an old callback sent \
                 again, or a wrong clock; redrive it if it should count all the same",
            zh: "事件早于 event_days_max 的期限，或超前一天以上：可能是旧回调被重放，或时钟有误；\
                 如仍应处理，请重新投递",
        },
    }
}

/// What a row has to be like.
#[derive(Default)]
struct Filter {
    app: Option<String>,
    corp_id: Option<String>,
    errcode: Option<i64>,
    reason: Option<String>,
}

impl Filter {
    const fn is_empty(&self) -> bool {
        let Self { app, corp_id, errcode, reason } = self;
        app.is_none() && corp_id.is_none() && errcode.is_none() && reason.is_none()
    }

    fn wants(&self, row: &Row) -> bool {
        let (corp, code, reasons) = match &row.about {
            About::Event { corp_id, errcode, reason, .. } => {
                (Some(corp_id), *errcode, [reason.as_deref(), None])
            }
            About::Message { reason, detail, .. } => (None, None, [Some(*reason), detail.as_deref()]),
        };
        let says = |words: &String| reasons.iter().flatten().any(|reason| reason.contains(words.as_str()));
        self.app.as_ref().is_none_or(|app| *app == row.app)
            && self.corp_id.as_ref().is_none_or(|corp_id| Some(corp_id) == corp)
            && self.errcode.is_none_or(|errcode| Some(errcode) == code)
            && self.reason.as_ref().is_none_or(says)
    }
}

/// Events.
#[derive(Serialize, ToSchema)]
#[schema(as = EventList)]
pub(super) struct List {
    events: Vec<Row>,
    /// What `after` has to be for the next page, if there may be more.
    #[schema(example = "evt_42")]
    next: Option<String>,
}

impl AdminState {
    /// Some of what was set aside, behind `after`, and where to go on.
    async fn set_aside(
        &self,
        asked: StateName,
        filter: &Filter,
        mut after: EventId,
        limit: usize,
    ) -> Result<(Vec<(EventId, Row)>, Option<EventId>), Problem> {
        let now = self.clock.now();
        let mut found = Vec::new();
        loop {
            let rows = self.store.events(asked.into(), after, EVENTS_MAX).await?;
            let over = rows.len() < EVENTS_MAX;
            for event in rows {
                after = event.id();
                let row = row(event, asked, now);
                if filter.wants(&row) {
                    found.push((after, row));
                }
                if found.len() == limit {
                    return Ok((found, Some(after)));
                }
            }
            if over {
                return Ok((found, None));
            }
            tokio::task::yield_now().await;
        }
    }
}

/// The inbox in one state, dead letters and quarantine
///
/// Waiting and leased events by the instant they are due, the first ones only; dead letters and quarantined messages
/// by number, page by page.
#[utoipa::path(operation_id = "list_events", get, path = "/v1/events", tag = "events", params(ListQuery), responses(
    (status = 200, body = List),
    super::openapi::Errors,
))]
pub(super) async fn list(
    State(state): Shared,
    parsed: Result<Query<ListQuery>, QueryRejection>,
) -> Result<Json<List>, Problem> {
    let ListQuery { state: asked, after, limit, app, corp_id, errcode, reason } = query(parsed)?;
    let filter = Filter { app, corp_id, errcode, reason };
    let limit = limit.unwrap_or(EVENTS_DEFAULT).clamp(1, EVENTS_MAX);
    match (after, asked) {
        (after, StateName::Dead | StateName::Quarantined) => {
            let after = after.as_deref().map_or(Ok(EventId(0)), event_id)?;
            let (found, next) = state.set_aside(asked, &filter, after, limit).await?;
            let events = found.into_iter().map(|(_, row)| row).collect();
            Ok(Json(List { events, next: next.map(|id| id.to_string()) }))
        }
        (Some(_), StateName::Waiting | StateName::Leased) => {
            Err(Problem::bad_request("after is for state=dead and state=quarantined")
                .hint("the queue changes while it is read; the first rows are those due first"))
        }
        (None, StateName::Waiting | StateName::Leased) => {
            let looked_at = if filter.is_empty() { limit } else { QUEUE_LOOKED_AT_MAX };
            let (rows, now) =
                (state.store.events(asked.into(), EventId(0), looked_at).await?, state.clock.now());
            let rows = rows.into_iter().map(|found| row(found, asked, now));
            let events = rows.filter(|row| filter.wants(row)).take(limit).collect();
            Ok(Json(List { events, next: None }))
        }
    }
}

fn event_id(text: &str) -> Result<EventId, Problem> {
    text.parse()
        .map_err(|_| Problem::bad_request(format!("{text:?} is not an event id; they look like evt_42")))
}

fn gone() -> Problem {
    Problem::not_found("no dead letter or quarantined message has this id")
}

/// A dead letter or a quarantined message, whole
#[utoipa::path(operation_id = "show_event", get, path = "/v1/events/{id}", tag = "events",
    params(("id" = String, Path, description = "Its name", example = "evt_42")),
    responses(
        (status = 200, body = Row),
        (status = 404, response = super::openapi::NotFound),
        super::openapi::Errors,
    ))]
pub(super) async fn show(
    State(state): Shared,
    path: Result<Path<String>, PathRejection>,
) -> Result<Json<Row>, Problem> {
    let id = event_id(&id(path)?)?;
    let event = state.store.event(id).await?.ok_or_else(gone)?;
    let mut row = row(event, StateName::Waiting, state.clock.now());
    let message = state.store.quarantined_message(id).await?;
    row.message = message.map(|message| String::from_utf8_lossy(&message).into_owned());
    Ok(Json(row))
}
