//! `/v1/events`: the inbox, dead letters and quarantined messages.

use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

pub(super) use self::row::quarantine_remedy;
use self::row::{Row, row};
use self::selection::{EVENTS_MAX, Filter, find_set_aside};
use super::extract::{PathParam, QueryParams};
use super::state::{AdminState, Shared, scan};
use crate::http::problem::Problem;
use crate::store::{EventId, EventState};

pub(super) mod discard;
pub(super) mod redrive;
mod row;
mod selection;

const EVENTS_DEFAULT: usize = 100;
/// Queue entries scanned for a filter: the queue is ordered by due instant only, so a filter has no index.
const QUEUE_SCANNED_MAX: usize = 20_000;

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct ListQuery {
    /// The state of the events to list.
    #[param(inline)]
    #[serde(default)]
    state: EventState,
    /// Only events after this id; for `dead` and `quarantined` only.
    #[param(example = "evt_42")]
    after: Option<String>,
    /// The maximum number of events, 1 to 1000; values outside this range are clamped.
    #[param(default = 100)]
    limit: Option<usize>,
    /// Only events of this app.
    app: Option<String>,
    /// Only events of this dealer (corp id).
    corp_id: Option<String>,
    /// Only events whose last failure has this WeCom errcode.
    errcode: Option<i64>,
    /// Only events whose reason contains this text.
    reason: Option<String>,
}

/// A page of events.
#[derive(Serialize, ToSchema)]
#[schema(as = EventList)]
pub(super) struct List {
    events: Vec<Row>,
    /// The `after` of the next page; `null` when there are no more events.
    #[schema(example = "evt_42")]
    next: Option<String>,
}

impl AdminState {
    /// The first `limit` events in the queue that match.
    async fn queued(
        &self,
        state: EventState,
        filter: &Filter,
        scanned_max: usize,
        limit: usize,
    ) -> Result<Vec<Row>, Problem> {
        let rows = self.store.events(state, EventId(0), scanned_max).await?;
        let now = self.clock.now();
        let rows = rows.into_iter().map(|found| row(self, found, state, now));
        Ok(rows.filter(|row| filter.matches(row)).take(limit).collect())
    }
}

/// List events in one state: the inbox, dead letters or quarantine
///
/// Waiting and leased events are listed by due instant, the first ones only. Dead letters and quarantined
/// messages are listed by id, page by page.
#[utoipa::path(operation_id = "list_events", get, path = "/v1/events",
    tag = "events", params(ListQuery), responses(
    (status = 200, body = List, description = "A page of events"),
    super::openapi::Errors,
))]
pub(super) async fn list(
    State(state): Shared,
    QueryParams(query): QueryParams<ListQuery>,
) -> Result<Json<List>, Problem> {
    let ListQuery { state: event_state, after, limit, app, corp_id, errcode, reason } = query;
    let filter = Filter { app, corp_id, errcode, reason };
    let limit = limit.unwrap_or(EVENTS_DEFAULT).clamp(1, EVENTS_MAX);
    match (after, event_state) {
        (after, EventState::Dead | EventState::Quarantined) => {
            let after = after.as_deref().map_or(Ok(EventId(0)), event_id)?;
            let (found, next) = find_set_aside(&state, event_state, &filter, after, limit).await?;
            let events = found.into_iter().map(|(_, row)| row).collect();
            Ok(Json(List { events, next: next.map(|id| id.to_string()) }))
        }
        (Some(_), EventState::Waiting | EventState::Leased) => {
            Err(Problem::bad_request("after requires state=dead or state=quarantined")
                .hint("the queue changes while it is read; narrow the list with a filter instead"))
        }
        (None, EventState::Waiting | EventState::Leased) => {
            let events = if filter.is_empty() {
                state.queued(event_state, &filter, limit, limit).await?
            } else {
                let owner = state.clone();
                let work = async move { owner.queued(event_state, &filter, QUEUE_SCANNED_MAX, limit).await };
                scan(&state.permits.scans, work).await??
            };
            Ok(Json(List { events, next: None }))
        }
    }
}

fn event_id(text: &str) -> Result<EventId, Problem> {
    text.parse().map_err(|_| Problem::bad_request(format!("{text:?} is not an event id such as evt_42")))
}

/// The id of an event that exists, or existed: the numbers are given in order.
fn known_event(state: &AdminState, text: &str) -> Result<EventId, Problem> {
    let id = event_id(text)?;
    let is_known = (1..=state.store.counts().event_head).contains(&id.0);
    if is_known { Ok(id) } else { Err(event_not_found()) }
}

fn event_not_found() -> Problem {
    Problem::not_found("dead letter or quarantined message not found")
}

/// Show one dead letter, or one quarantined message with its full text
#[utoipa::path(operation_id = "show_event", get, path = "/v1/events/{id}", tag = "events",
    params(("id" = String, Path, description = "The event's id", example = "evt_42")),
    responses(
        (status = 200, body = Row, description = "The event"),
        (status = 404, response = super::openapi::NotFound),
        super::openapi::Errors,
    ))]
pub(super) async fn show(State(state): Shared, PathParam(id): PathParam) -> Result<Json<Row>, Problem> {
    let id = event_id(&id)?;
    let event = state.store.event(id).await?.ok_or_else(event_not_found)?;
    let mut row = row(&state, event, EventState::Waiting, state.clock.now());
    let message = state.store.quarantined_message(id).await?;
    row.message = message.map(|message| String::from_utf8_lossy(&message).into_owned());
    Ok(Json(row))
}
