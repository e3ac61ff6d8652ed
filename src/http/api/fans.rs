//! `POST /v1/fans`: registering fans, one or millions. Showing them is in `list` and `show`.

mod lines;
pub(super) mod list;
#[cfg(any(test, fuzzing))]
pub(in crate::http) mod properties;
mod rows;
pub(super) mod show;

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use std::time::Duration;
use utoipa::{IntoParams, ToSchema};

use super::extract::QueryParams;
use super::import_log::{ImportRequest, Rows};
use super::state::{AdminState, Shared};
use crate::domain::fan::{Minted, Priority};
use crate::domain::ids::{FanKey, IdError, Openid, PendingId, Unionid};
use crate::domain::instant::{INSTANT_FORMS, instant};
use crate::domain::time::DAY_MS;
use crate::http::body::read_large_body;
use crate::http::problem::Problem;
use crate::store::{NewFan, Registered};
use lines::Lines;
use rows::{Field, Row};

/// The largest JSON body; NDJSON has no limit.
const BODY_BYTES_MAX: usize = 16 << 20;
/// How long a JSON body may take to arrive, and the longest pause within NDJSON.
const BODY_TIMEOUT: Duration = Duration::from_mins(1);
/// Rejected rows listed in one answer.
const REJECTED_LISTED_MAX: usize = 1_000;
/// Rows per store transaction.
const BATCH_ROWS_MAX: usize = 1_024;
/// Without a given priority, this many rows of a request are live and the others bulk: a larger request is
/// an import.
const LIVE_ROWS_MAX: u64 = 1_000;

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct RegisterQuery {
    /// The priority when quota is short: `live` fans are minted before `bulk` ones. Default: `live` for the
    /// first 1000 rows, `bulk` for the others.
    #[param(example = "live", pattern = "^(live|bulk)$")]
    priority: Option<String>,
    /// `rejected`: WeCom is asked again about fans that it refused, even where the openid has not changed.
    #[param(pattern = "^rejected$")]
    retry: Option<String>,
}

/// The result of a registration.
#[derive(Serialize, Default, ToSchema)]
pub(super) struct RegisterResult {
    /// Fans that are new or changed.
    #[schema(example = 1)]
    accepted: u64,
    /// Fans that were registered before and did not change; WeCom may have refused them.
    #[schema(example = 0)]
    known: u64,
    /// Rejected rows, at most 1000 of them.
    rejected: Vec<Rejected>,
    /// The number of rejected rows; only present when it exceeds 1000.
    #[serde(skip_serializing_if = "all_are_listed")]
    rejected_total: usize,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature serde wants")]
const fn all_are_listed(rejected: &usize) -> bool {
    *rejected <= REJECTED_LISTED_MAX
}

#[derive(Serialize, ToSchema)]
struct Rejected {
    /// The line of an NDJSON body or the position in an array, from 1.
    line: u64,
    reason: String,
}

impl RegisterResult {
    fn reject(&mut self, line: u64, reason: String) {
        self.rejected_total += 1;
        if self.rejected.len() < REJECTED_LISTED_MAX {
            self.rejected.push(Rejected { line, reason });
        }
    }
}

/// A fan to register.
#[derive(ToSchema)]
#[expect(dead_code, reason = "only describes the body; rows are parsed one by one")]
pub(super) struct FanRow {
    /// Required when several apps are configured.
    #[schema(example = "brand")]
    app: Option<String>,
    #[schema(
        example = "oINVENTED-unionid-0001",
        pattern = "^o[A-Za-z0-9_-]{19,63}$",
        min_length = 20,
        max_length = 64
    )]
    unionid: String,
    #[schema(
        example = "oINVENTED-openid-0001",
        pattern = "^o[A-Za-z0-9_-]{19,63}$",
        min_length = 20,
        max_length = 64
    )]
    openid: String,
    /// A pending id that another system has obtained. The fan is minted only when it is due for renewal.
    pending_id: Option<String>,
    /// When the pending id was obtained: RFC 3339, a date with or without a time of day in China time, or
    /// Unix seconds or milliseconds.
    minted_at: Option<String>,
}

/// One fan, or several.
#[derive(ToSchema)]
#[serde(untagged)]
#[expect(dead_code, reason = "only describes the body; rows are parsed one by one")]
pub(super) enum FanRows {
    One(FanRow),
    Several(Vec<FanRow>),
}

/// Register fans
///
/// Accepts one object, an array, or NDJSON of any length. The answer is sent after the fans are durable.
/// Registering a known fan again changes nothing, except that a new openid replaces the old one and that an
/// expired fan is minted again. A fan that WeCom refused is known, too: WeCom is asked again only with a new
/// openid or `retry=rejected`. Rejected rows are listed and do not affect the others; a single object that is
/// rejected is answered 422.
#[utoipa::path(operation_id = "register_fans", post, path = "/v1/fans", tag = "fans", params(RegisterQuery),
    request_body(content(
        (FanRows = "application/json"), (FanRow = "application/x-ndjson"),
    )),
    responses(
        (status = 202, body = RegisterResult, description = "The accepted fans are durable"),
        (status = 408, response = super::openapi::TooSlow),
        (status = 413, response = super::openapi::TooLarge),
        (status = 422, response = super::openapi::FanRejected),
        super::openapi::Errors,
    ))]
pub(super) async fn register(
    State(state): Shared,
    QueryParams(query): QueryParams<RegisterQuery>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let priority = match query.priority.as_deref() {
        None => None,
        Some("live") => Some(Priority::Live),
        Some("bulk") => Some(Priority::Bulk),
        Some(_) => return Err(Problem::bad_request("priority must be live or bulk")),
    };
    let retry_rejected = match query.retry.as_deref() {
        None => false,
        Some("rejected") => true,
        Some(_) => return Err(Problem::bad_request("retry must be \"rejected\", or left out")),
    };
    let mut registration = Registration {
        state: &state,
        priority,
        retry_rejected,
        batch: Vec::new(),
        result: RegisterResult::default(),
        is_import: false,
        import: None,
    };
    let content_type =
        headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if content_type.to_ascii_lowercase().starts_with("application/x-ndjson") {
        let mut lines = Lines::new(body, BODY_TIMEOUT);
        while let Some((line, text)) = lines.next().await.map_err(Problem::body)? {
            let row = text.as_deref().map_err(Clone::clone).and_then(Row::parse);
            if let Err(problem) = registration.add(line, row).await {
                lines.drain().await;
                return Err(problem);
            }
        }
    } else {
        let room = &state.permits.large_bodies;
        let (text, _room) =
            read_large_body(body, BODY_BYTES_MAX, BODY_TIMEOUT, room).await.map_err(Problem::body)?;
        let body = rows::Body::of(&text).map_err(|e| {
            Problem::bad_request(format!("the body is not JSON: {e}"))
                .hint("send one object, an array, or lines with Content-Type: application/x-ndjson")
        })?;
        match body {
            rows::Body::One(fan) => {
                return Ok(accepted(registration.register_only(Row::parse(fan)).await?));
            }
            rows::Body::Several(rows) => {
                for (line, row) in (1..).zip(rows) {
                    registration.add(line, Row::parse(row)).await?;
                }
            }
        }
    }
    Ok(accepted(registration.finish().await?))
}

fn accepted(result: RegisterResult) -> Response {
    (StatusCode::ACCEPTED, Json(result)).into_response()
}

/// A registration under way: rows are stored in batches of bounded size.
struct Registration<'a> {
    state: &'a AdminState,
    /// The priority that the request asks for.
    priority: Option<Priority>,
    /// Whether WeCom is asked again about fans that it refused.
    retry_rejected: bool,
    /// The parsed rows that are not stored yet, with their line numbers.
    batch: Vec<(u64, NewFan)>,
    result: RegisterResult,
    /// Whether it belongs to an import, which is logged.
    is_import: bool,
    /// The import, once rows of this request are stored.
    import: Option<ImportRequest>,
}

impl Registration<'_> {
    async fn add(&mut self, line: u64, row: Result<Row<'_>, String>) -> Result<(), Problem> {
        let default_priority = if line <= LIVE_ROWS_MAX { Priority::Live } else { Priority::Bulk };
        let priority = self.priority.unwrap_or(default_priority);
        self.is_import |= priority == Priority::Bulk || line > LIVE_ROWS_MAX;
        match row.and_then(|row| self.state.parse_row(&row, priority)) {
            Ok(fan) => self.batch.push((line, NewFan { retry_rejected: self.retry_rejected, ..fan })),
            Err(reason) => self.result.reject(line, reason),
        }
        if self.batch.len() >= BATCH_ROWS_MAX { self.store_batch().await } else { Ok(()) }
    }

    async fn store_batch(&mut self) -> Result<(), Problem> {
        let (lines, fans): (Vec<_>, Vec<_>) = std::mem::take(&mut self.batch).into_iter().unzip();
        let registered = self.state.store.put_fans(fans, self.state.clock.now()).await?;
        for (line, registered) in lines.into_iter().zip(registered) {
            match registered {
                Registered::New | Registered::Changed => self.result.accepted += 1,
                Registered::Known => self.result.known += 1,
                Registered::Forgotten => self.result.reject(
                    line,
                    "the person was erased after this request had begun; send it again if they are a fan"
                        .to_owned(),
                ),
                Registered::Damaged => {
                    self.result.reject(line, "the stored record of this fan is damaged".to_owned());
                }
            }
        }
        self.state.wake.fans.notify_one();
        if self.is_import {
            let import = self.import.get_or_insert_with(|| self.state.imports.join());
            let RegisterResult { accepted, known, rejected_total, .. } = self.result;
            import.record(Rows { accepted, known, rejected: rejected_total as u64 });
        }
        Ok(())
    }

    /// Registers the only fan of a request.
    async fn register_only(mut self, fan: Result<Row<'_>, String>) -> Result<RegisterResult, Problem> {
        let state = self.state;
        let named = fan.as_ref().ok().and_then(|fan| fan.app.text("app").ok().flatten());
        let app = state.app(named);
        self.add(1, fan).await?;
        // One fan is no import, whatever its priority.
        self.is_import = false;
        let mut result = self.finish().await?;
        match result.rejected.pop() {
            None => Ok(result),
            Some(rejected) if app.is_ok() => Err(Problem::fan_rejected(rejected.reason)),
            Some(rejected) => Err(Problem::fan_rejected(rejected.reason).with_apps(state.apps.names())),
        }
    }

    async fn finish(mut self) -> Result<RegisterResult, Problem> {
        self.store_batch().await?;
        if let Some(import) = &mut self.import {
            import.is_complete = true;
        }
        // A damaged record is reported with its batch, after rows further down that could not be parsed.
        self.result.rejected.sort_by_key(|rejected| rejected.line);
        Ok(self.result)
    }
}

impl AdminState {
    /// The fan in a row, or why the row is rejected.
    fn parse_row(&self, row: &Row<'_>, priority: Priority) -> Result<NewFan, String> {
        let app = self.app(row.app.text("app")?)?;
        let invalid = |name: &'static str, error: IdError| format!("{name} {error}");
        let required = |name: &'static str, field: &Field<'_>| {
            field.text(name)?.map(str::to_owned).ok_or_else(|| format!("{name} is missing"))
        };
        let unionid = required("unionid", &row.unionid)?;
        let unionid = Unionid::from_input(&unionid).map_err(|e| invalid("unionid", e))?;
        let openid = required("openid", &row.openid)?;
        let openid = Openid::from_input(&openid).map_err(|e| invalid("openid", e))?;
        let ask_existing = self.apps.get(&app).is_some_and(|rules| rules.existing_customers);
        let now = self.clock.now();
        let minted_at = match &row.minted_at {
            Field::Number(number) => Some(number.as_str()),
            field => field.text("minted_at")?,
        };
        let minted_at = minted_at
            .map(|text| {
                instant(text.trim()).ok_or_else(|| format!("minted_at is not an instant: {INSTANT_FORMS}"))
            })
            .transpose()?;
        if minted_at.is_some_and(|at| at > now.plus_ms(DAY_MS)) {
            return Err("minted_at is in the future".to_owned());
        }
        let pending_id = row.pending_id.text("pending_id")?.map(PendingId::new).transpose();
        let pending_id = pending_id.map_err(|e| invalid("pending_id", e))?;
        let minted = pending_id.map(|pending_id| Minted::imported(pending_id, minted_at, now));
        let key = FanKey { app, unionid };
        Ok(NewFan { key, openid, ask_existing, priority, minted, retry_rejected: false })
    }
}
