//! `GET /v1/events` and `POST /v1/events/{id}/redrive`.

use axum::Json;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::links::{id, query};
use super::{Problem, Shared};
use crate::domain::event::{ContactChange, Kind};
use crate::domain::time::Timestamp;
use crate::http::door::Meaning;
use crate::store::{EventId, EventRow, EventState, InboxEvent, QuarantineReason, Quarantined};

const EVENTS_DEFAULT: usize = 100;
const EVENTS_MAX: usize = 1_000;

#[derive(Deserialize)]
pub(super) struct ListQuery {
    #[serde(default)]
    state: StateName,
    #[serde(default)]
    after: Option<String>,
    limit: Option<usize>,
}

#[derive(Deserialize, Serialize, Default, Clone, Copy)]
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

#[derive(Serialize)]
struct Row {
    id: String,
    state: StateName,
    app: String,
    received_at: Timestamp,
    #[serde(flatten)]
    about: About,
}

#[derive(Serialize)]
#[serde(untagged)]
enum About {
    Event {
        r#type: &'static str,
        corp_id: String,
        external_userid: String,
        user_id: String,
        created_at: Timestamp,
        due_at: Timestamp,
        died_at: Option<Timestamp>,
        attempts: u32,
        errcode: Option<i64>,
        reason: Option<String>,
    },
    Message {
        reason: &'static str,
        detail: Option<String>,
        receive_id: String,
        message_bytes: u32,
    },
}

fn kind_of(change: ContactChange) -> Kind {
    match change {
        ContactChange::Added => Kind::AddExternalContact,
        ContactChange::HalfAdded => Kind::AddHalfExternalContact,
        ContactChange::DeletedByMember => Kind::DelExternalContact,
        ContactChange::DeletedByCustomer => Kind::DelFollowUser,
    }
}

fn event_row(event: InboxEvent, state: StateName, died_at: Option<Timestamp>) -> Row {
    let contact = event.happening.contact;
    let (errcode, reason) = event.problem.map_or((None, None), |p| (p.errcode, Some(p.text)));
    Row {
        id: event.id.to_string(),
        state,
        app: event.app.into(),
        received_at: event.received_at,
        about: About::Event {
            r#type: kind_of(contact.change).as_str(),
            corp_id: event.happening.corp_id.into(),
            external_userid: contact.external_userid.into(),
            user_id: contact.user_id.into(),
            created_at: event.happening.created_at,
            due_at: event.due_at,
            died_at,
            attempts: event.attempts,
            errcode,
            reason,
        },
    }
}

fn row(row: EventRow, asked: StateName) -> Row {
    match row {
        EventRow::Inbox(event) => event_row(event, asked, None),
        EventRow::Dead { event, died_at } => event_row(event, StateName::Dead, Some(died_at)),
        EventRow::Quarantined(Quarantined { id, app, received_at, reason, receive_id, message_bytes }) => {
            let (reason, detail) = match reason {
                QuarantineReason::ReceiveId => ("receive_id", None),
                QuarantineReason::NotUnderstood(detail) => ("not_understood", Some(detail)),
            };
            let about = About::Message { reason, detail, receive_id, message_bytes };
            Row { id: id.to_string(), state: StateName::Quarantined, app: app.into(), received_at, about }
        }
    }
}

/// The inbox in one state.
pub(super) async fn list(
    State(state): Shared,
    parsed: Result<Query<ListQuery>, QueryRejection>,
) -> Result<Response, Problem> {
    let ListQuery { state: asked, after, limit } = query(parsed)?;
    let after = match (after, asked) {
        (None, _) => EventId(0),
        (Some(text), StateName::Dead | StateName::Quarantined) => event_id(&text)?,
        (Some(_), StateName::Waiting | StateName::Leased) => {
            return Err(Problem::bad_request("after is for state=dead and state=quarantined")
                .hint("the queue changes while it is read; the first rows are those due first"));
        }
    };
    let limit = limit.unwrap_or(EVENTS_DEFAULT).clamp(1, EVENTS_MAX);
    let rows = state.store.events(asked.into(), after, limit).await?;
    let events: Vec<_> = rows.into_iter().map(|found| row(found, asked)).collect();
    Ok(Json(json!({ "events": events })).into_response())
}

fn event_id(text: &str) -> Result<EventId, Problem> {
    text.parse()
        .map_err(|_| Problem::bad_request(format!("{text:?} is not an event id; they look like evt_42")))
}

/// Puts a dead letter back into the inbox; releases a quarantined message if it is understood by now.
pub(super) async fn redrive(
    State(state): Shared,
    path: Result<Path<String>, PathRejection>,
) -> Result<Response, Problem> {
    let id = event_id(&id(path)?)?;
    let gone = || Problem::not_found("no dead letter or quarantined message has this id");
    let becomes = match state.store.event(id).await?.ok_or_else(gone)? {
        EventRow::Inbox(_) | EventRow::Dead { .. } => None,
        EventRow::Quarantined(quarantined) => {
            let message = state.store.quarantined_message(id).await?.ok_or_else(gone)?;
            let app = state.door.app(quarantined.app.as_str());
            let app = app.ok_or_else(|| Problem::conflict("its app is not in the configuration"))?;
            match state.door.meaning(app, quarantined.receive_id.as_bytes(), &message).await? {
                Meaning::Act(_, happening) => Some(happening),
                Meaning::Ignore(_) => None,
                Meaning::Quarantine(QuarantineReason::ReceiveId) => {
                    return Err(Problem::conflict("the receive id is still not accepted")
                        .hint("add it to accept_receive_ids of the app and restart"));
                }
                Meaning::Quarantine(QuarantineReason::NotUnderstood(reason)) => {
                    return Err(Problem::conflict(format!("the message is still not understood: {reason}")));
                }
            }
        }
    };
    if !state.store.redrive(id, becomes, state.clock.now()).await? {
        return Err(gone());
    }
    state.wake.inbox.notify_one();
    Ok(Json(json!({ "id": id.to_string(), "redriven": true })).into_response())
}
