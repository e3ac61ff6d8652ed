//! `/v1/sinks`: sink status, and operating sinks: pause, resume, rewind.

use std::collections::BTreeMap;

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use strum::{IntoStaticStr, VariantNames};
use utoipa::ToSchema;

use super::audit::By;
use super::extract::{PathParam, json};
use super::state::{AdminState, Shared};
use crate::domain::audit::AuditAction;
use crate::domain::history::{SinkFailure, remember};
use crate::domain::ids::SinkName;
use crate::domain::time::{SECOND_MS, Timestamp};
use crate::http::problem::Problem;
use crate::store::{Cursor, CursorState, Seek, StoreError};
use crate::worker::sink_status::SinkStatus;

/// A sink and its status.
#[derive(Serialize, ToSchema)]
pub(super) struct SinkView {
    #[schema(example = "crm")]
    pub(super) name: String,
    #[schema(example = "webhook")]
    kind: &'static str,
    pub(super) state: SinkState,
    /// When it was paused or disabled; of a failing sink, when the present run of failures began.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub(super) since: Option<Timestamp>,
    /// The sequence number of the last entry delivered.
    #[schema(example = 42)]
    after: u64,
    /// Entries not yet delivered.
    #[schema(example = 0)]
    pub(super) lag_entries: u64,
    /// The age of the oldest entry not yet delivered.
    #[schema(example = 0)]
    pub(super) lag_seconds: i64,
    /// Entries delivered since the service started, redeliveries included.
    delivered: u64,
    /// Attempts since the service started.
    attempts: u64,
    /// Failed attempts since the service started.
    failures: u64,
    /// Consecutive failures up to now.
    failures_in_a_row: u32,
    /// Why the last attempt failed, or why the sink is disabled.
    pub(super) reason: Option<String>,
    /// When a failing delivery is tried again.
    #[schema(value_type = Option<String>, format = DateTime)]
    next_attempt_at: Option<Timestamp>,
    /// Entries that are never delivered: they were pruned while the sink was not in the configuration.
    missed: u64,
}

/// A sink, its status, and its last failures.
#[derive(Serialize, ToSchema)]
pub(super) struct SinkDetail {
    #[serde(flatten)]
    sink: SinkView,
    /// The last 20 deliveries that failed, the oldest first, also from before the last start.
    recent_failures: Vec<FailureView>,
}

/// A delivery that failed.
#[derive(Serialize, ToSchema)]
struct FailureView {
    #[schema(value_type = String, format = DateTime)]
    at: Timestamp,
    reason: String,
}

/// The state of a sink.
#[derive(Serialize, Clone, Copy, PartialEq, Eq, ToSchema, IntoStaticStr, VariantNames)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
pub(super) enum SinkState {
    /// Delivering.
    Running,
    /// The last attempt failed and will be retried.
    Failing,
    /// Paused by an operator.
    Paused,
    /// Disabled because its receiver permanently refuses deliveries.
    Disabled,
}

impl SinkView {
    fn new(
        name: &SinkName,
        kind: &'static str,
        cursor: Option<Cursor>,
        status: SinkStatus,
        head: u64,
        now: Timestamp,
    ) -> Self {
        let after = status.position(cursor.as_ref());
        let lag_entries = head.saturating_sub(after);
        let oldest_at = status.oldest_at.filter(|_| lag_entries > 0);
        let failing = status.last_error;
        let (state, since, reason) = match cursor.map(|cursor| cursor.state) {
            Some(CursorState::Paused { since }) => (SinkState::Paused, Some(since), failing),
            Some(CursorState::Disabled { since, reason }) => (SinkState::Disabled, Some(since), Some(reason)),
            Some(CursorState::Running) | None if failing.is_some() => {
                (SinkState::Failing, status.failing_since, failing)
            }
            Some(CursorState::Running) | None => (SinkState::Running, None, None),
        };
        Self {
            name: name.to_string(),
            kind,
            state,
            since,
            after,
            lag_entries,
            lag_seconds: oldest_at.map_or(0, |at| now.millis_since(at).max(0) / SECOND_MS),
            delivered: status.delivered,
            attempts: status.attempts,
            failures: status.failures,
            failures_in_a_row: status.failures_in_a_row,
            reason,
            next_attempt_at: status.next_attempt_at.filter(|_| state == SinkState::Failing),
            missed: status.missed,
        }
    }
}

impl AdminState {
    /// All sinks with their status, `elsewhere` of those that another replica delivers to.
    pub(super) async fn sink_views(
        &self,
        mut elsewhere: BTreeMap<SinkName, SinkStatus>,
    ) -> Result<Vec<SinkView>, Problem> {
        let (head, now) = (self.store.counts().feed_head, self.clock.now());
        let mut views = Vec::new();
        for (name, kind) in self.sinks.all() {
            let status = elsewhere.remove(&name).or_else(|| self.sinks.status(&name)).unwrap_or_default();
            views.push(SinkView::new(&name, kind, self.cursor(&name).await?, status, head, now));
        }
        Ok(views)
    }

    /// The cursor of a sink; `None` if its record is damaged, because the sink's worker then replaces it.
    pub(super) async fn cursor(&self, name: &SinkName) -> Result<Option<Cursor>, Problem> {
        match self.store.cursor(name).await {
            Err(StoreError::Damaged(_)) => Ok(None),
            cursor => Ok(cursor?),
        }
    }

    async fn sink_view(&self, name: &SinkName) -> Result<Json<SinkView>, Problem> {
        let views = self.sink_views(self.replicas().await.sinks).await?;
        let view = views.into_iter().find(|view| view.name == name.as_str());
        view.map(Json).ok_or_else(sink_not_found)
    }

    /// The configured sink named `name`.
    fn sink_named(&self, name: &str) -> Result<SinkName, Problem> {
        let name = SinkName::new(name).ok();
        name.filter(|name| self.sinks.contains(name)).ok_or_else(sink_not_found)
    }
}

fn sink_not_found() -> Problem {
    Problem::not_found("sink not found in the configuration; /v1/sinks lists all sinks")
}

/// All sinks.
#[derive(Serialize, ToSchema)]
#[schema(as = SinkList)]
pub(super) struct List {
    sinks: Vec<SinkView>,
}

/// List the sinks with their status
#[utoipa::path(operation_id = "list_sinks", get, path = "/v1/sinks", tag = "sinks", responses(
    (status = 200, body = List, description = "All sinks"),
    super::openapi::Errors,
))]
pub(super) async fn list(State(state): Shared) -> Result<Json<List>, Problem> {
    Ok(Json(List { sinks: state.sink_views(state.replicas().await.sinks).await? }))
}

/// Show one sink with its status
#[utoipa::path(operation_id = "show_sink", get, path = "/v1/sinks/{name}", tag = "sinks",
    params(("name" = String, Path, description = "The sink's name in the configuration", example = "crm")),
    responses(
        (status = 200, body = SinkDetail, description = "The sink"),
        (status = 404, response = super::openapi::NotFound),
        super::openapi::Errors,
    ))]
pub(super) async fn show(
    State(state): Shared,
    PathParam(name): PathParam,
) -> Result<Json<SinkDetail>, Problem> {
    let name = state.sink_named(&name)?;
    let Json(sink) = state.sink_view(&name).await?;
    let mut failures = state.store.sink_failures(&name).await?;
    remember(&mut failures, state.sinks.unrecorded_failures(&name));
    let view = |SinkFailure { at, reason }| FailureView { at, reason };
    Ok(Json(SinkDetail { sink, recent_failures: failures.into_iter().map(view).collect() }))
}

/// Pauses or resumes a sink.
async fn set_state(
    state: &AdminState,
    by: By,
    name: &str,
    to: CursorState,
) -> Result<Json<SinkView>, Problem> {
    let name = state.sink_named(name)?;
    let action = if to == CursorState::Running { AuditAction::Resume } else { AuditAction::Pause };
    state.store.set_state(&name, to).await?.ok_or_else(no_cursor)?;
    state.record(by.did(action, state).about("sink", &name)).await?;
    state.sinks.wake(&name);
    state.sink_view(&name).await
}

fn no_cursor() -> Problem {
    Problem::conflict("this sink has not started yet; try again in a moment")
}

/// Pause deliveries to a sink
///
/// Nothing is lost: entries are kept in the feed until they are delivered.
#[utoipa::path(operation_id = "pause_sink", post, path = "/v1/sinks/{name}/pause", tag = "sinks",
    params(("name" = String, Path, description = "The sink's name in the configuration", example = "crm")),
    responses(
        (status = 200, body = SinkView, description = "The sink"),
        (status = 404, response = super::openapi::NotFound),
        (status = 409, response = super::openapi::Conflict),
        super::openapi::Errors,
    ))]
pub(super) async fn pause(
    State(state): Shared,
    by: By,
    PathParam(name): PathParam,
) -> Result<Json<SinkView>, Problem> {
    set_state(&state, by, &name, CursorState::Paused { since: state.clock.now() }).await
}

/// Resume deliveries to a sink
///
/// Ends a pause, enables a disabled sink, and makes a failing sink retry immediately.
#[utoipa::path(operation_id = "resume_sink", post, path = "/v1/sinks/{name}/resume", tag = "sinks",
    params(("name" = String, Path, description = "The sink's name in the configuration", example = "crm")),
    responses(
        (status = 200, body = SinkView, description = "The sink"),
        (status = 404, response = super::openapi::NotFound),
        (status = 409, response = super::openapi::Conflict),
        super::openapi::Errors,
    ))]
pub(super) async fn resume(
    State(state): Shared,
    by: By,
    PathParam(name): PathParam,
) -> Result<Json<SinkView>, Problem> {
    set_state(&state, by, &name, CursorState::Running).await
}

/// Where in the feed to continue: exactly one of `after` and `to`.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Rewind {
    /// Continue with the entry after this sequence number.
    #[schema(example = 41)]
    after: Option<u64>,
    /// Continue at one end of the feed.
    to: Option<End>,
}

#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum End {
    /// With the oldest entry kept.
    Beginning,
    /// After the newest entry.
    Now,
}

/// Move a sink to another position in the feed
///
/// Move it back to redeliver entries, under the same ids; or forward to skip entries that a receiver cannot
/// process. It cannot be moved beyond the newest entry.
#[utoipa::path(operation_id = "rewind_sink", post, path = "/v1/sinks/{name}/rewind",
    tag = "sinks", request_body = Rewind,
    params(("name" = String, Path, description = "The sink's name in the configuration", example = "crm")),
    responses(
        (status = 200, body = SinkView, description = "The sink"),
        (status = 404, response = super::openapi::NotFound),
        (status = 409, response = super::openapi::Conflict),
        (status = 410, response = super::openapi::Gone),
        (status = 408, response = super::openapi::TooSlow),
        (status = 413, response = super::openapi::TooLarge),
        super::openapi::Errors,
    ))]
pub(super) async fn rewind(
    State(state): Shared,
    by: By,
    PathParam(name): PathParam,
    body: Body,
) -> Result<Json<SinkView>, Problem> {
    let name = state.sink_named(&name)?;
    let seek = match json(body).await? {
        Rewind { after: Some(after), to: None } => Seek::After(after),
        Rewind { after: None, to: Some(End::Beginning) } => Seek::Beginning,
        Rewind { after: None, to: Some(End::Now) } => Seek::Now,
        Rewind { .. } => {
            return Err(Problem::bad_request("exactly one of after and to is required")
                .hint("send for example {\"after\": 41} or {\"to\": \"beginning\"}"));
        }
    };
    let from_seq = state.sinks.status(&name).map(|status| status.after);
    let cursor = state.store.seek(&name, seek).await?.ok_or_else(no_cursor)?;
    let entry = by.did(AuditAction::Rewind, &state).about("sink", &name);
    state.record(entry.about_some("from_seq", from_seq).about("to_seq", &cursor.after)).await?;
    state.sinks.wake(&name);
    state.sink_view(&name).await
}
