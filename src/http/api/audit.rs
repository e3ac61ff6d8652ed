//! `GET /v1/audit`, and the entries that the handlers add to the audit trail.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use axum::Json;
use axum::extract::{FromRequestParts, State};
use axum::http::request::Parts;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::extract::QueryParams;
use super::guard::Caller;
use super::state::{AdminState, Shared};
use crate::domain::audit::{AuditAction, AuditBy, AuditEntry};
use crate::domain::time::Timestamp;
use crate::http::problem::Problem;
use crate::http::socket::Source;
use crate::store::StoreError;
use crate::telemetry::audit::log_audit;

const ENTRIES_DEFAULT: usize = 100;
const ENTRIES_MAX: usize = 1_000;

/// The author of a request for the audit trail: the name of its token, and its address.
pub(super) struct By(pub(super) AuditBy);

impl<S: Send + Sync> FromRequestParts<S> for By {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let caller = parts.extensions.get::<Caller>().ok_or_else(Problem::unauthorized)?;
        let Source(source) = parts.extensions.get().copied().unwrap_or_default();
        Ok(Self(AuditBy { token: caller.token.to_string(), source }))
    }
}

impl By {
    /// An entry about what this caller did now.
    pub(super) fn did(self, action: AuditAction, state: &AdminState) -> AuditEntry {
        AuditEntry::new(state.clock.now(), self.0, action)
    }
}

impl AdminState {
    /// Adds an entry to the audit trail, and to the log.
    pub(super) async fn record(&self, entry: AuditEntry) -> Result<(), StoreError> {
        log_audit(&entry);
        self.store.record(entry).await.map(drop)
    }
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct AuditQuery {
    /// Only entries after this number. Default: from the oldest entry kept.
    #[param(example = 1)]
    after: Option<u64>,
    /// The maximum number of entries, 1 to 1000; values outside this range are clamped.
    #[param(default = 100)]
    limit: Option<usize>,
}

/// An entry of the audit trail.
#[derive(Serialize, ToSchema)]
#[schema(as = AuditEntryView)]
pub(super) struct View {
    /// Its number; there is no gap.
    #[schema(example = 1)]
    seq: u64,
    #[schema(value_type = String, format = DateTime)]
    at: Timestamp,
    /// The name of the token: `admin` for `admin.token`, `open` where there is none, `signal` for SIGHUP,
    /// `service` for what the service completed by itself, empty for refused tokens.
    #[schema(example = "admin")]
    token: String,
    /// Where the request came from; `null` for a Unix socket.
    #[schema(value_type = Option<String>, example = "127.0.0.1")]
    source: Option<IpAddr>,
    /// `erase`, `export`, `explain`, `redrive`, `discard`, `pause`, `resume`, `rewind`, `reconcile`, `reload` or
    /// `refused_tokens`.
    #[schema(value_type = String, example = "export")]
    action: AuditAction,
    /// How much, by kind of thing.
    counts: BTreeMap<String, u64>,
    /// To what: a sink, a receipt, a filter.
    about: BTreeMap<String, String>,
}

/// A page of the audit trail.
#[derive(Serialize, ToSchema)]
#[schema(as = AuditPage)]
pub(super) struct Page {
    /// The oldest first.
    entries: Vec<View>,
    /// The number of the last entry, or `after` if there is none: `after` of the next page.
    #[schema(example = 1)]
    next: u64,
}

/// Read the audit trail
///
/// What was done through this API: erasures, exports, explanations, redriven and discarded events, paused,
/// resumed and rewound sinks, resumed calls, comparisons, reloads, and runs of refused tokens. Entries are
/// kept for a year. They contain no personal id.
#[utoipa::path(operation_id = "read_audit_trail", get, path = "/v1/audit", tag = "service",
    params(AuditQuery), responses(
    (status = 200, body = Page, description = "The entries"),
    super::openapi::Errors,
))]
pub(super) async fn list(
    State(state): Shared,
    QueryParams(AuditQuery { after, limit }): QueryParams<AuditQuery>,
) -> Result<Json<Page>, Problem> {
    if after.is_some_and(|after| i64::try_from(after).is_err()) {
        return Err(Problem::bad_request("after is not the number of an entry"));
    }
    let (after, limit) = (after.unwrap_or(0), limit.unwrap_or(ENTRIES_DEFAULT).clamp(1, ENTRIES_MAX));
    let entries = state.store.trail(after, limit).await?;
    let next = entries.last().map_or(after, |(seq, _)| *seq);
    let view = |(seq, AuditEntry { at, by: AuditBy { token, source }, action, counts, about })| View {
        seq,
        at,
        token,
        source,
        action,
        counts,
        about,
    };
    Ok(Json(Page { entries: entries.into_iter().map(view).collect(), next }))
}

/// Adds the runs of refused tokens to the audit trail, once a minute and at the end.
pub(super) async fn record_refused_tokens(state: &Arc<AdminState>) {
    for (Source(source), run) in state.refused_tokens.take() {
        let by = AuditBy { token: String::new(), source };
        let entry = AuditEntry::new(run.last_at, by, AuditAction::RefusedTokens)
            .count("requests", run.requests)
            .about("first_at", &run.first_at);
        log_audit(&entry);
        if let Err(error) = state.store.record(entry).await {
            let error = error.to_string();
            tracing::warn!(error, "refused tokens are not in the audit trail; the next try is in a minute");
            state.refused_tokens.put_back(Source(source), run);
        }
    }
}
