//! `POST /v1/events/{id}/redrive` and `POST /v1/events/redrive`: putting back what was set aside.

use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;
use utoipa::ToSchema;

use super::super::links::id;
use super::super::{AdminState, Problem, Shared, json, openapi};
use super::{Filter, StateName, event_id, gone};
use crate::http::{RedriveError, redrive};
use crate::store::EventId;

/// Refusals listed in one answer.
const REFUSED_LISTED_MAX: usize = 100;
/// Redriven at the same time, so that the store can write them together.
const REDRIVEN_AT_ONCE: usize = 64;

/// Whether an event was put back.
#[derive(Serialize, ToSchema)]
pub(in super::super) struct Redriven {
    #[schema(example = "evt_42")]
    id: String,
    /// False when there is nothing to put back any more: it was redriven before, or worked on since.
    redriven: bool,
}

/// Put a dead letter back into the inbox, or release a quarantined message that is understood by now
///
/// Asked twice, it is done once.
#[utoipa::path(operation_id = "redrive_event", post, path = "/v1/events/{id}/redrive", tag = "events",
    params(("id" = String, Path, description = "Its name", example = "evt_42")),
    responses(
        (status = 200, body = Redriven),
        (status = 404, response = openapi::NotFound),
        (status = 409, response = openapi::Conflict),
        openapi::Errors,
    ))]
pub(in super::super) async fn one(
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
    /// Redrives one event. Returns whether there was one to redrive.
    async fn redrive(&self, id: EventId) -> Result<bool, Problem> {
        let redriven = redrive(&*self.store, &self.callback_apps, id, self.clock.now()).await?;
        if redriven {
            self.wake.inbox.notify_one();
        }
        Ok(redriven)
    }
}

impl From<RedriveError> for Problem {
    fn from(error: RedriveError) -> Self {
        match error {
            RedriveError::Store(error) => error.into(),
            RedriveError::ReceiveId => {
                Self::conflict(error.to_string()).hint("add it to accept_receive_ids of the app and restart")
            }
            RedriveError::UnknownApp | RedriveError::NotUnderstood(_) => Self::conflict(error.to_string()),
        }
    }
}

/// Which of what was set aside; everything if nothing is said.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in super::super) struct RedriveAll {
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
pub(in super::super) struct RedrivenAll {
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
#[utoipa::path(operation_id = "redrive_events", post, path = "/v1/events/redrive", tag = "events", request_body = RedriveAll, responses(
    (status = 200, body = RedrivenAll),
    (status = 408, response = openapi::TooSlow),
    (status = 413, response = openapi::TooLarge),
    openapi::Errors,
))]
pub(in super::super) async fn several(
    State(state): Shared,
    body: Body,
) -> Result<Json<RedrivenAll>, Problem> {
    let RedriveAll { state: asked, app, corp_id, errcode, reason } = json(body).await?;
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
