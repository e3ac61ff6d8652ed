//! `GET /v1/links`: looks up links by id.

use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::extract::{QueryParams, invalid_id};
use super::state::Shared;
use crate::domain::ids::{AppName, CorpId, ExternalUserid, PendingId, Unionid};
use crate::domain::link::LinkData;
use crate::http::problem::Problem;
use crate::store::{LinkBy, LinkQuery};

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct FindQuery {
    /// The fan's unionid. Exactly one of `unionid`, `external_userid` and `pending_id` is required.
    #[param(example = "oINVENTED-unionid-0001")]
    unionid: Option<String>,
    /// The customer's `external_userid`.
    external_userid: Option<String>,
    /// The pending id through which the link was found.
    pending_id: Option<String>,
    /// Only links of this dealer (corp id).
    corp_id: Option<String>,
    /// Only links of this app.
    app: Option<String>,
}

/// The links found.
#[derive(Serialize, ToSchema)]
pub(super) struct LinkList {
    links: Vec<LinkData>,
}

/// Look up links by `unionid`, `external_userid` or `pending_id`
///
/// Returns at most 1000 links, and an empty list when there is none.
#[utoipa::path(operation_id = "find_links", get, path = "/v1/links",
    tag = "links", params(FindQuery), responses(
    (status = 200, body = LinkList, description = "The links found"),
    super::openapi::Errors,
))]
pub(super) async fn find(
    State(state): Shared,
    QueryParams(query): QueryParams<FindQuery>,
) -> Result<Json<LinkList>, Problem> {
    let FindQuery { unionid, external_userid, pending_id, corp_id, app } = query;
    let by = match (unionid, external_userid, pending_id) {
        (Some(id), None, None) => LinkBy::Unionid(Unionid::new(id).map_err(invalid_id("unionid"))?),
        (None, Some(id), None) => {
            LinkBy::ExternalUserid(ExternalUserid::new(id).map_err(invalid_id("external_userid"))?)
        }
        (None, None, Some(id)) => LinkBy::PendingId(PendingId::new(id).map_err(invalid_id("pending_id"))?),
        _ => {
            return Err(Problem::bad_request(
                "exactly one of unionid, external_userid and pending_id is required",
            )
            .hint("for all links, use /v1/links/export or /v1/links/feed"));
        }
    };
    let corp_id = corp_id.map(CorpId::new).transpose().map_err(invalid_id("corp_id"))?;
    let app = app.map(AppName::new).transpose().map_err(invalid_id("app"))?;
    let links = state.store.links(&LinkQuery { by, corp_id, app }, state.clock.now()).await?;
    Ok(Json(LinkList { links }))
}
