//! `/v1/events`: the inbox, what was set aside, and putting it back.

use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::{JsonRejection, PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;
use utoipa::{IntoParams, ToSchema};

use super::explain::quarantine_remedy;
use super::links::{id, query};
use super::{AdminState, Problem, Shared, json};
use crate::domain::event::{ContactChange, Kind};
use crate::domain::time::{SECOND_MS, Timestamp};
use crate::http::door::Meaning;
use crate::store::{EventId, EventRow, EventState, InboxEvent, QuarantineReason, Quarantined};
use crate::wecom::remedy;

const EVENTS_DEFAULT: usize = 100;
const EVENTS_MAX: usize = 1_000;
/// Rows of the queue that are looked at for a filter: it has no other order than by due instant.
const QUEUE_LOOKED_AT_MAX: usize = 20_000;
/// Refusals listed in one answer.
const REFUSED_LISTED_MAX: usize = 100;
/// Redriven at the same time, so that the store can write them together.
const REDRIVEN_AT_ONCE: usize = 64;

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

fn kind_of(change: ContactChange) -> Kind {
    match change {
        ContactChange::Added => Kind::AddExternalContact,
        ContactChange::HalfAdded => Kind::AddHalfExternalContact,
        ContactChange::DeletedByMember => Kind::DelExternalContact,
        ContactChange::DeletedByCustomer => Kind::DelFollowUser,
    }
}

fn event_row(event: InboxEvent, state: StateName, died_at: Option<Timestamp>, now: Timestamp) -> Row {
    let contact = event.happening.contact;
    let (errcode, reason) = event.problem.map_or((None, None), |p| (p.errcode, Some(p.text)));
    Row {
        id: event.id.to_string(),
        state,
        app: event.app.into(),
        received_at: event.received_at,
        age_seconds: now.millis_since(event.received_at).max(0) / SECOND_MS,
        remedy: errcode.map(remedy),
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
        message: None,
    }
}

fn row(row: EventRow, asked: StateName, now: Timestamp) -> Row {
    match row {
        EventRow::Inbox(event) => event_row(event, asked, None, now),
        EventRow::Dead { event, died_at } => event_row(event, StateName::Dead, Some(died_at), now),
        EventRow::Quarantined(Quarantined { id, app, received_at, reason, receive_id, message_bytes }) => {
            let (remedy, _) = quarantine_remedy(&reason);
            let (reason, detail) = match reason {
                QuarantineReason::ReceiveId => ("receive_id", None),
                QuarantineReason::NotUnderstood(detail) => ("not_understood", Some(detail)),
            };
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
#[utoipa::path(get, path = "/v1/events", tag = "events", params(ListQuery), responses(
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
#[utoipa::path(get, path = "/v1/events/{id}", tag = "events",
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

/// Whether an event was put back.
#[derive(Serialize, ToSchema)]
pub(super) struct Redriven {
    #[schema(example = "evt_42")]
    id: String,
    /// False when there is nothing to put back any more: it was redriven before, or worked on since.
    redriven: bool,
}

/// Put a dead letter back into the inbox, or release a quarantined message that is understood by now
///
/// Asked twice, it is done once.
#[utoipa::path(post, path = "/v1/events/{id}/redrive", tag = "events",
    params(("id" = String, Path, description = "Its name", example = "evt_42")),
    responses(
        (status = 200, body = Redriven),
        (status = 404, response = super::openapi::NotFound),
        (status = 409, response = super::openapi::Conflict),
        super::openapi::Errors,
    ))]
pub(super) async fn redrive(
    State(state): Shared,
    path: Result<Path<String>, PathRejection>,
) -> Result<Json<Redriven>, Problem> {
    let id = event_id(&id(path)?)?;
    if id.0 == 0 || id.0 > state.store.counts().event_head {
        return Err(gone());
    }
    let redriven = state.redrive(id).await?;
    Ok(Json(Redriven { id: id.to_string(), redriven }))
}

impl AdminState {
    /// Puts back what was set aside under this number. Whether there was something.
    async fn redrive(&self, id: EventId) -> Result<bool, Problem> {
        let becomes = match self.store.event(id).await? {
            None => return Ok(false),
            Some(EventRow::Inbox(_) | EventRow::Dead { .. }) => None,
            Some(EventRow::Quarantined(quarantined)) => {
                let Some(message) = self.store.quarantined_message(id).await? else { return Ok(false) };
                let app = self.door.app(quarantined.app.as_str());
                let app = app.ok_or_else(|| Problem::conflict("its app is not in the configuration"))?;
                match self.door.meaning(app, quarantined.receive_id.as_bytes(), &message).await? {
                    Meaning::Act(_, happening) => Some(happening),
                    Meaning::Ignore(_) => None,
                    Meaning::Quarantine(QuarantineReason::ReceiveId) => {
                        return Err(Problem::conflict("the receive id is still not accepted")
                            .hint("add it to accept_receive_ids of the app and restart"));
                    }
                    Meaning::Quarantine(QuarantineReason::NotUnderstood(reason)) => {
                        return Err(Problem::conflict(format!(
                            "the message is still not understood: {reason}"
                        )));
                    }
                }
            }
        };
        let redriven = self.store.redrive(id, becomes, self.clock.now()).await?;
        if redriven {
            self.wake.inbox.notify_one();
        }
        Ok(redriven)
    }
}

/// Which of what was set aside; everything if nothing is said.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RedriveAll {
    #[schema(inline)]
    state: Option<AsideName>,
    /// Only of this app.
    #[schema(example = "brand")]
    app: Option<String>,
    /// Only of this dealer.
    corp_id: Option<String>,
    /// Only with this code of WeCom's.
    #[schema(example = 40096)]
    errcode: Option<i64>,
    /// Only with these words in the reason.
    reason: Option<String>,
}

#[derive(Deserialize, Clone, Copy, PartialEq, Eq, ToSchema)]
#[serde(rename_all = "snake_case")]
enum AsideName {
    Dead,
    Quarantined,
}

/// What came of it.
#[derive(Serialize, Default, ToSchema)]
pub(super) struct RedrivenAll {
    redriven: u64,
    /// Those that could not be put back, the first hundred.
    refused: Vec<Refused>,
    refused_total: u64,
}

#[derive(Serialize, ToSchema)]
struct Refused {
    #[schema(example = "evt_42")]
    id: String,
    #[serde(flatten)]
    problem: Problem,
}

/// Put back everything that was set aside, or all of a kind
#[utoipa::path(post, path = "/v1/events/redrive", tag = "events", request_body = RedriveAll, responses(
    (status = 200, body = RedrivenAll),
    (status = 413, response = super::openapi::TooLarge),
    super::openapi::Errors,
))]
pub(super) async fn redrive_all(
    State(state): Shared,
    body: Result<Json<RedriveAll>, JsonRejection>,
) -> Result<Json<RedrivenAll>, Problem> {
    let RedriveAll { state: asked, app, corp_id, errcode, reason } = json(body)?;
    let filter = Filter { app, corp_id, errcode, reason };
    let mut done = RedrivenAll::default();
    for (name, state_name) in
        [(AsideName::Dead, StateName::Dead), (AsideName::Quarantined, StateName::Quarantined)]
    {
        if asked.is_some_and(|asked| asked != name) {
            continue;
        }
        let mut after = EventId(0);
        loop {
            let (rows, next) = state.set_aside(state_name, &filter, after, REDRIVEN_AT_ONCE).await?;
            redrive_some(&state, rows.into_iter().map(|(id, _)| id), &mut done).await?;
            let Some(next) = next else { break };
            after = next;
        }
    }
    Ok(Json(done))
}

async fn redrive_some(
    state: &Arc<AdminState>,
    ids: impl Iterator<Item = EventId>,
    done: &mut RedrivenAll,
) -> Result<(), Problem> {
    let mut under_way = JoinSet::new();
    for id in ids {
        let state = state.clone();
        under_way.spawn(async move { (id, state.redrive(id).await) });
    }
    let mut results = under_way.join_all().await;
    results.sort_by_key(|(id, _)| *id);
    for (id, result) in results {
        match result {
            Ok(redriven) => done.redriven += u64::from(redriven),
            Err(problem) if problem.is_conflict() => {
                done.refused_total += 1;
                if done.refused.len() < REFUSED_LISTED_MAX {
                    done.refused.push(Refused { id: id.to_string(), problem });
                }
            }
            Err(other) => return Err(other),
        }
    }
    Ok(())
}
