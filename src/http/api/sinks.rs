//! `/v1/sinks`: how the sinks do, and an operator's hand on them.

use axum::Json;
use axum::body::Body;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::links::id;
use super::{AdminState, Problem, Shared};
use crate::domain::ids::SinkName;
use crate::domain::time::{SECOND_MS, Timestamp};
use crate::store::{Cursor, CursorState, Seek, StoreError};
use crate::worker::sink_status::SinkStatus;

/// A sink, and how it does.
#[derive(Serialize, ToSchema)]
pub(super) struct SinkView {
    #[schema(example = "crm")]
    pub(super) name: String,
    #[schema(example = "webhook")]
    kind: &'static str,
    pub(super) state: StateName,
    /// Since when it is paused or disabled.
    #[schema(value_type = Option<String>, format = DateTime)]
    since: Option<Timestamp>,
    /// The number of the newest entry that arrived.
    #[schema(example = 42)]
    after: u64,
    /// Entries that have not arrived.
    #[schema(example = 0)]
    pub(super) lag_entries: u64,
    /// The age of the oldest of them.
    #[schema(example = 0)]
    pub(super) lag_seconds: i64,
    /// Entries that arrived since the start, repetitions included.
    delivered: u64,
    /// Deliveries begun since the start.
    attempts: u64,
    /// Of those, how many failed.
    failures: u64,
    /// Failures in a row.
    failures_in_a_row: u32,
    /// Why the last delivery failed, or why it is disabled.
    reason: Option<String>,
    /// When it is tried again.
    #[schema(value_type = Option<String>, format = DateTime)]
    next_attempt_at: Option<Timestamp>,
    /// Entries that it will never get: they were deleted while it was not in the configuration.
    missed: u64,
}

#[derive(Serialize, Clone, Copy, PartialEq, Eq, ToSchema)]
#[schema(as = SinkState)]
#[serde(rename_all = "snake_case")]
pub(super) enum StateName {
    /// Everything arrives.
    Running,
    /// The last delivery failed; it is tried again.
    Failing,
    /// An operator paused it.
    Paused,
    /// Its receiver wants nothing any more.
    Disabled,
}

impl StateName {
    pub(super) const NAMES: [&'static str; 4] = ["running", "failing", "paused", "disabled"];

    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Failing => "failing",
            Self::Paused => "paused",
            Self::Disabled => "disabled",
        }
    }
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
        let failing = status.last_error.map(|(_, reason)| reason);
        let (state, since, reason) = match cursor.map(|cursor| cursor.state) {
            Some(CursorState::Paused { since }) => (StateName::Paused, Some(since), failing),
            Some(CursorState::Disabled { since, reason }) => (StateName::Disabled, Some(since), Some(reason)),
            Some(CursorState::Running) | None if failing.is_some() => (StateName::Failing, None, failing),
            Some(CursorState::Running) | None => (StateName::Running, None, None),
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
            next_attempt_at: status.next_attempt_at.filter(|_| state == StateName::Failing),
            missed: status.missed,
        }
    }
}

impl AdminState {
    /// All sinks, and how they do.
    pub(super) async fn sink_views(&self) -> Result<Vec<SinkView>, Problem> {
        let (head, now) = (self.store.counts().feed_head, self.clock.now());
        let mut views = Vec::new();
        for (name, kind) in &self.sink_kinds {
            let status = self.sinks.status(name).unwrap_or_default();
            views.push(SinkView::new(name, kind, self.cursor(name).await?, status, head, now));
        }
        Ok(views)
    }

    /// A cursor, unless its record is damaged: then it is soon begun anew.
    pub(super) async fn cursor(&self, name: &SinkName) -> Result<Option<Cursor>, Problem> {
        match self.store.cursor(name).await {
            Err(StoreError::Damaged(_)) => Ok(None),
            cursor => Ok(cursor?),
        }
    }

    async fn sink_view(&self, name: &SinkName) -> Result<Json<SinkView>, Problem> {
        let views = self.sink_views().await?;
        let view = views.into_iter().find(|view| view.name == name.as_str());
        view.map(Json).ok_or_else(no_such_sink)
    }

    fn sink_named(&self, path: Result<Path<String>, PathRejection>) -> Result<SinkName, Problem> {
        let name = SinkName::new(id(path)?).ok();
        name.filter(|name| self.sink_kinds.contains_key(name)).ok_or_else(no_such_sink)
    }
}

fn no_such_sink() -> Problem {
    Problem::not_found("no sink of this name is in the configuration; /v1/sinks lists them")
}

/// The sinks, and how they do.
#[derive(Serialize, ToSchema)]
#[schema(as = SinkList)]
pub(super) struct List {
    sinks: Vec<SinkView>,
}

/// The sinks, and how they do
#[utoipa::path(operation_id = "list_sinks", get, path = "/v1/sinks", tag = "sinks", responses(
    (status = 200, body = List),
    super::openapi::Errors,
))]
pub(super) async fn list(State(state): Shared) -> Result<Json<List>, Problem> {
    Ok(Json(List { sinks: state.sink_views().await? }))
}

/// One sink, and how it does
#[utoipa::path(operation_id = "show_sink", get, path = "/v1/sinks/{name}", tag = "sinks",
    params(("name" = String, Path, description = "Its name in the configuration", example = "crm")),
    responses(
        (status = 200, body = SinkView),
        (status = 404, response = super::openapi::NotFound),
        super::openapi::Errors,
    ))]
pub(super) async fn show(
    State(state): Shared,
    path: Result<Path<String>, PathRejection>,
) -> Result<Json<SinkView>, Problem> {
    let name = state.sink_named(path)?;
    state.sink_view(&name).await
}

async fn set(state: &AdminState, name: &SinkName, to: CursorState) -> Result<Json<SinkView>, Problem> {
    state.store.set_state(name, to).await?.ok_or_else(not_begun)?;
    state.sinks.wake(name);
    state.sink_view(name).await
}

fn not_begun() -> Problem {
    Problem::conflict("this sink has not begun yet; try again in a moment")
}

/// Stop delivering to a sink
///
/// Nothing is lost: the feed is kept until the sink has it.
#[utoipa::path(operation_id = "pause_sink", post, path = "/v1/sinks/{name}/pause", tag = "sinks",
    params(("name" = String, Path, description = "Its name in the configuration", example = "crm")),
    responses(
        (status = 200, body = SinkView),
        (status = 404, response = super::openapi::NotFound),
        (status = 409, response = super::openapi::Conflict),
        super::openapi::Errors,
    ))]
pub(super) async fn pause(
    State(state): Shared,
    path: Result<Path<String>, PathRejection>,
) -> Result<Json<SinkView>, Problem> {
    let name = state.sink_named(path)?;
    set(&state, &name, CursorState::Paused { since: state.clock.now() }).await
}

/// Deliver to a sink again
///
/// Ends a pause, enables a sink that its receiver disabled, and has one that fails tried at once.
#[utoipa::path(operation_id = "resume_sink", post, path = "/v1/sinks/{name}/resume", tag = "sinks",
    params(("name" = String, Path, description = "Its name in the configuration", example = "crm")),
    responses(
        (status = 200, body = SinkView),
        (status = 404, response = super::openapi::NotFound),
        (status = 409, response = super::openapi::Conflict),
        super::openapi::Errors,
    ))]
pub(super) async fn resume(
    State(state): Shared,
    path: Result<Path<String>, PathRejection>,
) -> Result<Json<SinkView>, Problem> {
    let name = state.sink_named(path)?;
    set(&state, &name, CursorState::Running).await
}

/// Where to go on.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Rewind {
    /// Behind this entry: the next one is delivered next.
    #[schema(example = 41)]
    after: Option<u64>,
    /// Or at one end of the feed.
    to: Option<End>,
}

#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum End {
    /// The oldest entry kept.
    Beginning,
    /// Behind the newest.
    Now,
}

/// Have a sink go on elsewhere in the feed
///
/// Back, to have entries delivered again under the same ids; or forwards, to pass over what a receiver cannot take.
#[utoipa::path(operation_id = "rewind_sink", post, path = "/v1/sinks/{name}/rewind", tag = "sinks", request_body = Rewind,
    params(("name" = String, Path, description = "Its name in the configuration", example = "crm")),
    responses(
        (status = 200, body = SinkView),
        (status = 404, response = super::openapi::NotFound),
        (status = 409, response = super::openapi::Conflict),
        (status = 410, response = super::openapi::Gone),
        (status = 408, response = super::openapi::TooSlow),
    (status = 413, response = super::openapi::TooLarge),
        super::openapi::Errors,
    ))]
pub(super) async fn rewind(
    State(state): Shared,
    path: Result<Path<String>, PathRejection>,
    body: Body,
) -> Result<Json<SinkView>, Problem> {
    let name = state.sink_named(path)?;
    let seek = match super::json(body).await? {
        Rewind { after: Some(after), to: None } => Seek::After(after),
        Rewind { after: None, to: Some(End::Beginning) } => Seek::Beginning,
        Rewind { after: None, to: Some(End::Now) } => Seek::Now,
        Rewind { .. } => {
            return Err(Problem::bad_request("exactly one of after and to is needed")
                .hint("for example {\"after\": 41} or {\"to\": \"beginning\"}"));
        }
    };
    state.store.seek(&name, seek).await?.ok_or_else(not_begun)?;
    state.sinks.wake(&name);
    state.sink_view(&name).await
}
