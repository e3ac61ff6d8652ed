//! `GET /v1/fans/{unionid}`: one fan with its state, and how fans are shown.

use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::super::extract::{PathParam, QueryParams, invalid_id};
use super::super::openapi;
use super::super::state::Shared;
use crate::domain::fan::{ASK_AGAIN, Existing, Fan, FanStep, Minted};
use crate::domain::ids::{FanKey, Unionid};
use crate::domain::time::Timestamp;
use crate::http::problem::Problem;
use crate::wecom::remedy;

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(in super::super) struct ShowQuery {
    /// Required when the fan is registered with several apps.
    #[param(example = "brand")]
    app: Option<String>,
}

/// A fan and its state.
#[derive(Serialize, ToSchema)]
pub(in super::super) struct FanView {
    #[schema(example = "brand")]
    app: String,
    #[schema(example = "oINVENTED-unionid-0001")]
    unionid: String,
    openid: String,
    /// `queued`, `minted`, `expired` or `rejected`.
    #[schema(value_type = String, example = "minted")]
    state: &'static str,
    #[schema(value_type = String, format = DateTime)]
    registered_at: Timestamp,
    pending_id: Option<String>,
    #[schema(value_type = Option<String>, format = DateTime)]
    minted_at: Option<Timestamp>,
    #[schema(value_type = Option<String>, format = DateTime)]
    expires_at: Option<Timestamp>,
    /// Earlier pending ids through which the fan can still be linked.
    older_pending_ids: Vec<String>,
    /// The priority with which it waits to be minted or renewed: `live`, `renew_unlinked`, `renew` or `bulk`.
    #[schema(value_type = Option<String>)]
    waits_as: Option<&'static str>,
    /// The WeCom errcode, if WeCom rejected the fan or refused to look up its existing customers.
    errcode: Option<i64>,
    /// What an operator can do.
    remedy: Option<String>,
    /// The same in Chinese.
    remedy_zh: Option<String>,
    /// When WeCom was asked whether the fan is an existing customer of a dealer.
    #[schema(value_type = Option<String>, format = DateTime)]
    existing_asked_at: Option<Timestamp>,
    /// How many of the dealers' customers WeCom returned.
    existing_found: Option<u32>,
    /// Consecutive failures of the current call.
    attempts: u32,
}

impl FanView {
    pub(super) fn new(key: &FanKey, fan: &Fan, now: Timestamp) -> Self {
        let errcode = fan.errcode();
        let (existing_asked_at, existing_found) = match fan.existing {
            Existing::Asked { at, found } => (Some(at), Some(found)),
            Existing::Off | Existing::Due(_) | Existing::Refused { .. } => (None, None),
        };
        let remedy = errcode.map(remedy);
        let newest = fan.newest();
        let older = fan.ids.iter().rev().skip(1);
        Self {
            app: key.app.to_string(),
            unionid: key.unionid.as_str().to_owned(),
            openid: fan.openid.as_str().to_owned(),
            state: fan.state(now).into(),
            registered_at: fan.registered_at,
            pending_id: newest.map(|m| m.pending_id.as_str().to_owned()),
            minted_at: newest.map(|m| m.minted_at),
            expires_at: newest.map(Minted::expires_at),
            older_pending_ids: older.map(|m| m.pending_id.as_str().to_owned()).collect(),
            waits_as: fan.queued_for(FanStep::Mint).map(Into::into),
            errcode,
            remedy: remedy.map(|remedy| format!("{}; {}", remedy.en, ASK_AGAIN.0)),
            remedy_zh: remedy.map(|remedy| format!("{}；{}", remedy.zh, ASK_AGAIN.1)),
            existing_asked_at,
            existing_found,
            attempts: fan.attempts,
        }
    }
}

/// Show one fan with its state
#[utoipa::path(operation_id = "show_fan", get, path = "/v1/fans/{unionid}", tag = "fans",
    params(("unionid" = String, Path, description = "The fan's unionid", example = "oINVENTED-unionid-0001"),
        ShowQuery),
    responses(
        (status = 200, body = FanView, description = "The fan"),
        (status = 404, response = openapi::NotFound),
        openapi::Errors,
    ))]
pub(in super::super) async fn show(
    State(state): Shared,
    PathParam(unionid): PathParam,
    QueryParams(query): QueryParams<ShowQuery>,
) -> Result<Json<FanView>, Problem> {
    let unionid = Unionid::new(&unionid).map_err(invalid_id("unionid"))?;
    let mut fans = state.store.fans(&unionid).await?;
    if let Some(app) = &query.app {
        fans.retain(|(key, _)| key.app.as_str() == app);
    }
    match &fans[..] {
        [] => Err(Problem::not_found("fan not found")),
        [(key, fan)] => Ok(Json(FanView::new(key, fan, state.clock.now()))),
        _ => {
            Err(Problem::bad_request("the fan is registered with several apps")
                .hint("choose one with ?app=NAME"))
        }
    }
}
