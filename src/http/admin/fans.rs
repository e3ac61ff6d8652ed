//! `POST /v1/fans` and `GET /v1/fans/{unionid}`.

use std::time::Duration;

use axum::Json;
use axum::body::Body;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::links::{id, query};
use super::{AdminState, Problem, Shared};
use crate::domain::fan::{Existing, Fan, Mint};
use crate::domain::ids::{FanKey, IdError, Openid, Unionid};
use crate::domain::time::Timestamp;
use crate::store::{NewFan, Registered};

const BODY_BYTES_MAX: usize = 16 << 20;
const BODY_TIMEOUT: Duration = Duration::from_mins(1);
/// Rejected rows listed in one answer.
const REJECTED_LISTED_MAX: usize = 1_000;

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

/// One object, an array, or NDJSON; answered after it is durable.
pub(super) async fn register(
    State(state): Shared,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let body = crate::http::read_body(body, BODY_BYTES_MAX, BODY_TIMEOUT).await.map_err(Problem::body)?;
    let content_type =
        headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let rows: Vec<(u64, Result<Value, String>)> =
        if content_type.to_ascii_lowercase().starts_with("application/x-ndjson") {
            let lines = body.split(|byte| *byte == b'\n').zip(1..);
            lines
                .filter(|(line, _)| !line.trim_ascii().is_empty())
                .map(|(line, n)| (n, serde_json::from_slice(line).map_err(|e| format!("not JSON: {e}"))))
                .collect()
        } else {
            let value = serde_json::from_slice(&body).map_err(|e| {
                Problem::bad_request(format!("the body is not JSON: {e}"))
                    .hint("send one object, an array, or lines with Content-Type: application/x-ndjson")
            })?;
            match value {
                Value::Array(rows) => (1..).zip(rows.into_iter().map(Ok)).collect(),
                row => vec![(1, Ok(row))],
            }
        };

    let (mut receipt, mut fans) = (Receipt::default(), Vec::new());
    for (line, row) in rows {
        match row.and_then(|row| state.fan(&row)) {
            Ok(fan) => fans.push(fan),
            Err(reason) => {
                receipt.rejected_total += 1;
                if receipt.rejected.len() < REJECTED_LISTED_MAX {
                    receipt.rejected.push(Rejected { line, reason });
                }
            }
        }
    }
    for registered in state.store.put_fans(fans, state.clock.now()).await? {
        match registered {
            Registered::New | Registered::Replaced => receipt.accepted += 1,
            Registered::Known => receipt.known += 1,
        }
    }
    state.wake.fans.notify_one();
    Ok((StatusCode::ACCEPTED, Json(receipt)).into_response())
}

impl AdminState {
    fn fan(&self, row: &Value) -> Result<NewFan, String> {
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
        Ok(NewFan { key: FanKey { app, unionid }, openid, ask_existing })
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
    errcode: Option<i64>,
    remedy: Option<&'static str>,
    existing_asked_at: Option<Timestamp>,
    existing_found: Option<u32>,
    attempts: u32,
}

impl<'a> FanView<'a> {
    fn new(key: &'a FanKey, fan: &'a Fan, now: Timestamp) -> Self {
        let minted = fan.minted();
        let (state, errcode) = match &fan.mint {
            Mint::Queued => ("queued", None),
            Mint::Minted(minted) if minted.expires_at <= now => ("expired", None),
            Mint::Minted(_) => ("minted", None),
            Mint::Rejected { errcode, .. } => ("rejected", Some(*errcode)),
        };
        let (existing_asked_at, existing_found) = match fan.existing {
            Existing::Asked { at, found } => (Some(at), Some(found)),
            Existing::Off | Existing::Due | Existing::Refused { .. } => (None, None),
        };
        Self {
            app: key.app.as_str(),
            unionid: key.unionid.as_str(),
            openid: fan.openid.as_str(),
            state,
            registered_at: fan.registered_at,
            pending_id: minted.map(|m| m.pending_id.as_str()),
            minted_at: minted.map(|m| m.minted_at),
            expires_at: minted.map(|m| m.expires_at),
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
