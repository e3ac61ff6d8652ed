//! `POST /v1/fans` and `GET /v1/fans/{unionid}`.

mod lines;

use axum::Json;
use axum::body::Body;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::time::Duration;

use super::links::{id, query};
use super::{AdminState, Problem, Shared};
use crate::domain::fan::{Existing, Fan, FanStep, Mint, Minted, Priority};
use crate::domain::ids::{FanKey, IdError, Openid, PendingId, Unionid};
use crate::domain::time::{DAY_MS, Timestamp};
use crate::store::{NewFan, Registered};
use lines::Lines;

const BODY_BYTES_MAX: usize = 16 << 20;
const BODY_TIMEOUT: Duration = Duration::from_mins(1);
/// Rejected rows listed in one answer.
const REJECTED_LISTED_MAX: usize = 1_000;
/// Rows handed to the store at once.
const ROWS_AT_ONCE: usize = 1_024;
/// A request with more rows is an import, and what is beyond waits behind those who register now.
const LIVE_ROWS_MAX: u64 = 1_000;

#[derive(Deserialize)]
pub(super) struct RegisterQuery {
    priority: Option<String>,
}

#[derive(Serialize, Default)]
struct Receipt {
    accepted: u64,
    known: u64,
    rejected: Vec<Rejected>,
    /// Rows rejected in all, told when `rejected` lists only the first thousand.
    #[serde(skip_serializing_if = "few")]
    rejected_total: usize,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature serde wants")]
const fn few(rejected: &usize) -> bool {
    *rejected <= REJECTED_LISTED_MAX
}

#[derive(Serialize)]
struct Rejected {
    line: u64,
    reason: String,
}

impl Receipt {
    fn reject(&mut self, line: u64, reason: String) {
        self.rejected_total += 1;
        if self.rejected.len() < REJECTED_LISTED_MAX {
            self.rejected.push(Rejected { line, reason });
        }
    }
}

/// One object, an array, or NDJSON of any length; answered after it is durable.
pub(super) async fn register(
    State(state): Shared,
    parsed: Result<Query<RegisterQuery>, QueryRejection>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let priority = match query(parsed)?.priority.as_deref() {
        None => None,
        Some("live") => Some(Priority::Live),
        Some("bulk") => Some(Priority::Bulk),
        Some(_) => return Err(Problem::bad_request("priority is neither live nor bulk")),
    };
    let mut registration =
        Registration { state: &state, priority, rows: Vec::new(), receipt: Receipt::default() };
    let content_type =
        headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if content_type.to_ascii_lowercase().starts_with("application/x-ndjson") {
        let mut lines = Lines::new(body, BODY_TIMEOUT);
        while let Some((line, text)) = lines.next().await.map_err(Problem::body)? {
            let row =
                text.and_then(|text| serde_json::from_slice(&text).map_err(|e| format!("not JSON: {e}")));
            if let Err(problem) = registration.take(line, row).await {
                lines.drain().await;
                return Err(problem);
            }
        }
    } else {
        let body = crate::http::read_body(body, BODY_BYTES_MAX, BODY_TIMEOUT).await.map_err(Problem::body)?;
        let value = serde_json::from_slice(&body).map_err(|e| {
            Problem::bad_request(format!("the body is not JSON: {e}"))
                .hint("send one object, an array, or lines with Content-Type: application/x-ndjson")
        })?;
        let rows = match value {
            Value::Array(rows) => rows,
            row => vec![row],
        };
        for (line, row) in (1..).zip(rows) {
            registration.take(line, Ok(row)).await?;
        }
    }
    let receipt = registration.finish().await?;
    Ok((StatusCode::ACCEPTED, Json(receipt)).into_response())
}

/// Rows on their way into the store, a bounded number at once.
struct Registration<'a> {
    state: &'a AdminState,
    priority: Option<Priority>,
    rows: Vec<(u64, NewFan)>,
    receipt: Receipt,
}

impl Registration<'_> {
    async fn take(&mut self, line: u64, row: Result<Value, String>) -> Result<(), Problem> {
        let usual = if line <= LIVE_ROWS_MAX { Priority::Live } else { Priority::Bulk };
        match row.and_then(|row| self.state.fan(&row, self.priority.unwrap_or(usual))) {
            Ok(fan) => self.rows.push((line, fan)),
            Err(reason) => self.receipt.reject(line, reason),
        }
        if self.rows.len() >= ROWS_AT_ONCE { self.store().await } else { Ok(()) }
    }

    async fn store(&mut self) -> Result<(), Problem> {
        let (lines, fans): (Vec<_>, Vec<_>) = std::mem::take(&mut self.rows).into_iter().unzip();
        let registered = self.state.store.put_fans(fans, self.state.clock.now()).await?;
        for (line, registered) in lines.into_iter().zip(registered) {
            match registered {
                Registered::New | Registered::Changed => self.receipt.accepted += 1,
                Registered::Known => self.receipt.known += 1,
                Registered::Damaged => {
                    self.receipt.reject(line, "the stored record of this fan is damaged".to_owned());
                }
            }
        }
        self.state.wake.fans.notify_one();
        Ok(())
    }

    async fn finish(mut self) -> Result<Receipt, Problem> {
        self.store().await?;
        self.receipt.rejected.sort_by_key(|rejected| rejected.line);
        Ok(self.receipt)
    }
}

impl AdminState {
    fn fan(&self, row: &Value, priority: Priority) -> Result<NewFan, String> {
        let text = |name: &str| match row.get(name) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.as_str())),
            Some(_) => Err(format!("{name} is not text")),
        };
        if !row.is_object() {
            return Err("not an object".to_owned());
        }
        let app = self.app(text("app")?)?;
        let of = |name: &'static str, error: IdError| format!("{name} {error}");
        let required = |name: &'static str| text(name)?.ok_or_else(|| format!("{name} is missing"));
        let unionid = Unionid::new(required("unionid")?).map_err(|e| of("unionid", e))?;
        let openid = Openid::new(required("openid")?).map_err(|e| of("openid", e))?;
        let ask_existing = self.apps.get(&app).is_some_and(|rules| rules.existing_customers);
        let now = self.clock.now();
        let minted_at = text("minted_at")?.map(str::parse::<Timestamp>).transpose();
        let minted_at =
            minted_at.map_err(|_| "minted_at is not an instant like 2026-11-22T01:02:03Z".to_owned())?;
        if minted_at.is_some_and(|at| at > now.plus_ms(DAY_MS)) {
            return Err("minted_at is in the future".to_owned());
        }
        let pending_id =
            text("pending_id")?.map(PendingId::new).transpose().map_err(|e| of("pending_id", e))?;
        let minted = pending_id.map(|pending_id| Minted::imported(pending_id, minted_at, now));
        Ok(NewFan { key: FanKey { app, unionid }, openid, ask_existing, priority, minted })
    }
}

#[derive(Deserialize)]
pub(super) struct ShowQuery {
    app: Option<String>,
}

#[derive(Serialize)]
struct FanView<'a> {
    app: &'a str,
    unionid: &'a str,
    openid: &'a str,
    state: &'static str,
    registered_at: Timestamp,
    pending_id: Option<&'a str>,
    minted_at: Option<Timestamp>,
    expires_at: Option<Timestamp>,
    /// Older ones that still join.
    older_pending_ids: Vec<&'a str>,
    /// With which priority it waits to be minted, for the first time or again.
    waits_as: Option<&'static str>,
    errcode: Option<i64>,
    remedy: Option<&'static str>,
    existing_asked_at: Option<Timestamp>,
    existing_found: Option<u32>,
    attempts: u32,
}

impl<'a> FanView<'a> {
    fn new(key: &'a FanKey, fan: &'a Fan, now: Timestamp) -> Self {
        let errcode = match (fan.mint, fan.existing) {
            (Mint::Rejected { errcode, .. }, _) | (_, Existing::Refused { errcode, .. }) => Some(errcode),
            _ => None,
        };
        let (existing_asked_at, existing_found) = match fan.existing {
            Existing::Asked { at, found } => (Some(at), Some(found)),
            Existing::Off | Existing::Due(_) | Existing::Refused { .. } => (None, None),
        };
        let newest = fan.newest();
        let older = fan.ids.iter().rev().skip(1);
        Self {
            app: key.app.as_str(),
            unionid: key.unionid.as_str(),
            openid: fan.openid.as_str(),
            state: fan.state(now).as_str(),
            registered_at: fan.registered_at,
            pending_id: newest.map(|m| m.pending_id.as_str()),
            minted_at: newest.map(|m| m.minted_at),
            expires_at: newest.map(Minted::expires_at),
            older_pending_ids: older.map(|m| m.pending_id.as_str()).collect(),
            waits_as: fan.lane(FanStep::Mint).map(Priority::as_str),
            errcode,
            remedy: errcode.map(crate::wecom::remedy),
            existing_asked_at,
            existing_found,
            attempts: fan.attempts,
        }
    }
}

/// One fan and its state.
pub(super) async fn show(
    State(state): Shared,
    path: Result<Path<String>, PathRejection>,
    parsed: Result<Query<ShowQuery>, QueryRejection>,
) -> Result<Response, Problem> {
    let (unionid, query) = (id(path)?, query(parsed)?);
    let unionid = Unionid::new(&unionid).map_err(|e| Problem::bad_request(format!("unionid {e}")))?;
    let mut fans = state.store.fans(&unionid).await?;
    if let Some(app) = &query.app {
        fans.retain(|(key, _)| key.app.as_str() == app);
    }
    match &fans[..] {
        [] => Err(Problem::not_found("no such fan is registered")),
        [(key, fan)] => Ok(Json(FanView::new(key, fan, state.clock.now())).into_response()),
        _ => Err(Problem::bad_request("several apps know this fan").hint("name one: ?app=NAME")),
    }
}
