//! `POST /v1/events/{id}/discard` and `POST /v1/events/discard`: deleting dead letters and quarantined
//! messages for good.

use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::super::audit::By;
use super::super::extract::{PathParam, json};
use super::super::openapi;
use super::super::state::{AdminState, Shared, task_failed};
use super::known_event;
use super::selection::{Batches, Filter, SetAside};
use crate::domain::audit::AuditAction;
use crate::http::problem::Problem;
use crate::store::{EventId, EventState};
use crate::telemetry::metrics::Deletion;

/// Whether an event was discarded.
#[derive(Serialize, ToSchema)]
pub(in super::super) struct Discarded {
    #[schema(example = "evt_42")]
    id: String,
    /// False when there is nothing to discard: the event was discarded before, waits in the inbox, or is
    /// settled.
    discarded: bool,
}

/// Discard one event
///
/// Deletes a dead letter or a quarantined message for good. Idempotent. An event in the inbox is not
/// discarded.
#[utoipa::path(operation_id = "discard_event", post, path = "/v1/events/{id}/discard", tag = "events",
    params(("id" = String, Path, description = "The event's id", example = "evt_42")),
    responses(
        (status = 200, body = Discarded, description = "Whether it was discarded"),
        (status = 404, response = openapi::NotFound),
        openapi::Errors,
    ))]
pub(in super::super) async fn one(
    State(state): Shared,
    by: By,
    PathParam(id): PathParam,
) -> Result<Json<Discarded>, Problem> {
    let id = known_event(&state, &id)?;
    let discarded = state.discard(vec![id]).await? > 0;
    let entry = by.did(AuditAction::Discard, &state).about("event", &id);
    state.record(entry.count("events", u64::from(discarded))).await?;
    Ok(Json(Discarded { id: id.to_string(), discarded }))
}

/// The events to discard: those that match all filters, or, without a filter, `{"all": true}`.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in super::super) struct DiscardFilter {
    /// Required without a filter: all dead letters and quarantined messages.
    #[serde(default)]
    all: bool,
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

/// The result of a discard.
#[derive(Serialize, ToSchema)]
pub(in super::super) struct DiscardResult {
    /// The number of events discarded.
    discarded: u64,
}

/// Discard the dead letters and quarantined messages that match a filter, or all
#[utoipa::path(operation_id = "discard_events", post, path = "/v1/events/discard",
    tag = "events", request_body = DiscardFilter, responses(
    (status = 200, body = DiscardResult, description = "How many events were discarded"),
    (status = 408, response = openapi::TooSlow),
    (status = 413, response = openapi::TooLarge),
    openapi::Errors,
))]
pub(in super::super) async fn several(
    State(state): Shared,
    by: By,
    body: Body,
) -> Result<Json<DiscardResult>, Problem> {
    let DiscardFilter { all, state: only, app, corp_id, errcode, reason } = json(body).await?;
    let filter = Filter { app, corp_id, errcode, reason };
    if !all && only.is_none() && filter.is_empty() {
        return Err(Problem::bad_request("it is not said which events to discard")
            .hint("name a filter, or send {\"all\": true}"));
    }
    let entry = filter.shown(only, by.did(AuditAction::Discard, &state), &state);
    let (mut batches, mut discarded) = (Batches::new(only, filter), 0);
    while let Some(ids) = batches.next(&state).await? {
        discarded += state.discard(ids).await?;
    }
    state.record(entry.count("events", discarded)).await?;
    Ok(Json(DiscardResult { discarded }))
}

impl AdminState {
    /// Discards events, in a task of its own: what is deleted is counted and logged even if the client gives
    /// up meanwhile. Returns the number of those that were dead letters or quarantined messages.
    async fn discard(self: &Arc<Self>, ids: Vec<EventId>) -> Result<u64, Problem> {
        let owner = self.clone();
        let discarding = tokio::spawn(async move { owner.discard_and_count(ids).await });
        discarding.await.map_err(|error| task_failed(&error))?
    }

    async fn discard_and_count(&self, ids: Vec<EventId>) -> Result<u64, Problem> {
        let (mut dead, mut quarantined, mut failure) = (0, 0, None);
        for discarded in self.store.discard(ids).await {
            match discarded {
                Ok(Some(EventState::Dead)) => dead += 1,
                Ok(Some(_)) => quarantined += 1,
                Ok(None) => {}
                Err(error) => failure = failure.or(Some(error)),
            }
        }
        self.metrics.events_deleted(EventState::Dead, Deletion::Discarded, dead);
        self.metrics.events_deleted(EventState::Quarantined, Deletion::Discarded, quarantined);
        if dead + quarantined > 0 {
            tracing::info!(dead, quarantined, "events discarded by an operator");
        }
        failure.map_or(Ok(dead + quarantined), |error| Err(error.into()))
    }
}
