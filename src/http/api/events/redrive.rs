//! `POST /v1/events/{id}/redrive` and `POST /v1/events/redrive`: redriving dead letters and quarantined
//! messages.

use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;
use utoipa::ToSchema;

use super::super::audit::By;
use super::super::extract::{PathParam, json};
use super::super::openapi;
use super::super::state::{AdminState, Shared};
use super::known_event;
use super::selection::{Batches, Filter, SetAside};
use crate::domain::audit::AuditAction;
use crate::http::problem::Problem;
use crate::http::redrive::{Redrive, RedriveError};
use crate::store::EventId;

/// Refused events listed in one answer.
const REFUSED_LISTED_MAX: usize = 100;

/// Whether an event was redriven.
#[derive(Serialize, ToSchema)]
pub(in super::super) struct Redriven {
    #[schema(example = "evt_42")]
    id: String,
    /// False when there is nothing to redrive: the event was redriven before, or is settled.
    redriven: bool,
}

/// Redrive one event
///
/// Puts a dead letter back into the inbox, or classifies a quarantined message again. Idempotent.
#[utoipa::path(operation_id = "redrive_event", post, path = "/v1/events/{id}/redrive", tag = "events",
    params(("id" = String, Path, description = "The event's id", example = "evt_42")),
    responses(
        (status = 200, body = Redriven, description = "Whether it was redriven"),
        (status = 404, response = openapi::NotFound),
        (status = 409, response = openapi::Conflict),
        openapi::Errors,
    ))]
pub(in super::super) async fn one(
    State(state): Shared,
    by: By,
    PathParam(id): PathParam,
) -> Result<Json<Redriven>, Problem> {
    let id = known_event(&state, &id)?;
    let redriven = state.redrive(id).await?;
    let entry = by.did(AuditAction::Redrive, &state).about("event", &id);
    state.record(entry.count("events", u64::from(redriven))).await?;
    Ok(Json(Redriven { id: id.to_string(), redriven }))
}

impl AdminState {
    /// Redrives one event. Returns whether there was anything to redrive.
    async fn redrive(&self, id: EventId) -> Result<bool, Problem> {
        let doors = self.doors.current();
        let redrive = Redrive { store: &*self.store, doors: &doors, apps: &self.apps, wake: &self.wake };
        Ok(redrive.event(id, self.clock.now()).await?)
    }
}

impl From<RedriveError> for Problem {
    fn from(error: RedriveError) -> Self {
        match error {
            RedriveError::Store(error) => error.into(),
            RedriveError::ReceiveId => Self::conflict(error.to_string())
                .hint("add it to the app's accept_receive_ids and reload the configuration"),
            RedriveError::Unrouted => Self::conflict(error.to_string())
                .hint("have the brand authorise the suite; the message is redriven then without you"),
            RedriveError::UnknownApp | RedriveError::NotUnderstood(_) => Self::conflict(error.to_string()),
        }
    }
}

/// The events to redrive; an empty object means all dead letters and quarantined messages.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in super::super) struct RedriveFilter {
    /// Only dead letters, or only quarantined messages.
    #[schema(inline)]
    state: Option<SetAside>,
    /// Only events of this app.
    #[schema(example = "brand")]
    app: Option<String>,
    /// Only events of this dealer (corp id).
    corp_id: Option<String>,
    /// Only events whose last failure has this WeCom errcode.
    #[schema(example = 40096)]
    errcode: Option<i64>,
    /// Only events whose reason contains this text.
    reason: Option<String>,
}

/// The result of a redrive.
#[derive(Serialize, Default, ToSchema)]
pub(in super::super) struct RedriveResult {
    /// The number of events redriven.
    redriven: u64,
    /// Events that cannot be redriven now, at most 100 of them.
    refused: Vec<Refused>,
    /// The number of events that cannot be redriven now.
    refused_total: u64,
}

#[derive(Serialize, ToSchema)]
struct Refused {
    #[schema(example = "evt_42")]
    id: String,
    #[serde(flatten)]
    problem: Problem,
}

/// Redrive all dead letters and quarantined messages, or those that match a filter
#[utoipa::path(operation_id = "redrive_events", post, path = "/v1/events/redrive",
    tag = "events", request_body = RedriveFilter, responses(
    (status = 200, body = RedriveResult, description = "How many events were redriven"),
    (status = 408, response = openapi::TooSlow),
    (status = 413, response = openapi::TooLarge),
    openapi::Errors,
))]
pub(in super::super) async fn several(
    State(state): Shared,
    by: By,
    body: Body,
) -> Result<Json<RedriveResult>, Problem> {
    let RedriveFilter { state: only, app, corp_id, errcode, reason } = json(body).await?;
    let filter = Filter { app, corp_id, errcode, reason };
    let entry = filter.shown(only, by.did(AuditAction::Redrive, &state), &state);
    let (mut batches, mut result) = (Batches::new(only, filter), RedriveResult::default());
    while let Some(ids) = batches.next(&state).await? {
        redrive_batch(&state, ids, &mut result).await?;
    }
    state.record(entry.count("events", result.redriven).count("refused", result.refused_total)).await?;
    Ok(Json(result))
}

async fn redrive_batch(
    state: &Arc<AdminState>,
    ids: Vec<EventId>,
    total: &mut RedriveResult,
) -> Result<(), Problem> {
    let mut tasks = JoinSet::new();
    for id in ids {
        let state = state.clone();
        tasks.spawn(async move { (id, state.redrive(id).await) });
    }
    let mut results = tasks.join_all().await;
    results.sort_by_key(|(id, _)| *id);
    for (id, result) in results {
        match result {
            Ok(redriven) => total.redriven += u64::from(redriven),
            Err(problem) if problem.is_conflict() => {
                total.refused_total += 1;
                if total.refused.len() < REFUSED_LISTED_MAX {
                    total.refused.push(Refused { id: id.to_string(), problem });
                }
            }
            Err(other) => return Err(other),
        }
    }
    Ok(())
}
