//! `GET /v1/links`.

use axum::Json;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::{Problem, Shared};
use crate::domain::ids::{AppName, CorpId, ExternalUserid, IdError, PendingId, Unionid};
use crate::domain::link::LinkData;
use crate::store::{LinkBy, LinkQuery};

/// The query of a request, with a problem that says what is wrong with it.
pub(super) fn query<T>(query: Result<Query<T>, QueryRejection>) -> Result<T, Problem> {
    query.map(|Query(query)| query).map_err(|error| Problem::bad_request(error.body_text()))
}

/// The id in a request's path, with a problem that says what is wrong with it.
pub(super) fn id(path: Result<Path<String>, PathRejection>) -> Result<String, Problem> {
    path.map(|Path(id)| id).map_err(|error| Problem::bad_request(error.body_text()))
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct FindQuery {
    /// Of this fan; exactly one of the three ids is needed.
    #[param(example = "oINVENTED-unionid-0001")]
    unionid: Option<String>,
    /// Of this customer.
    external_userid: Option<String>,
    /// At this pending id.
    pending_id: Option<String>,
    /// Only of this dealer.
    corp_id: Option<String>,
    /// Only of this app.
    app: Option<String>,
}

/// Links.
#[derive(Serialize, ToSchema)]
pub(super) struct Found {
    links: Vec<LinkData>,
}

/// The links of a fan, of a customer, or at a pending id
///
/// At most 1000. An empty list when there is none.
#[utoipa::path(operation_id = "find_links", get, path = "/v1/links", tag = "links", params(FindQuery), responses(
    (status = 200, body = Found),
    super::openapi::Errors,
))]
pub(super) async fn find(
    State(state): Shared,
    parsed: Result<Query<FindQuery>, QueryRejection>,
) -> Result<Json<Found>, Problem> {
    let FindQuery { unionid, external_userid, pending_id, corp_id, app } = query(parsed)?;
    let of = |name: &str, error: IdError| Problem::bad_request(format!("{name} {error}"));
    let by = match (unionid, external_userid, pending_id) {
        (Some(id), None, None) => LinkBy::Unionid(Unionid::new(id).map_err(|e| of("unionid", e))?),
        (None, Some(id), None) => {
            LinkBy::ExternalUserid(ExternalUserid::new(id).map_err(|e| of("external_userid", e))?)
        }
        (None, None, Some(id)) => LinkBy::PendingId(PendingId::new(id).map_err(|e| of("pending_id", e))?),
        _ => {
            return Err(Problem::bad_request(
                "exactly one of unionid, external_userid and pending_id is needed",
            )
            .hint("the feed lists all links: /v1/links/feed?after=0"));
        }
    };
    let corp_id = corp_id.map(CorpId::new).transpose().map_err(|e| of("corp_id", e))?;
    let app = app.map(AppName::new).transpose().map_err(|e| of("app", e))?;
    let links = state.store.links(&LinkQuery { by, corp_id, app }, state.clock.now()).await?;
    Ok(Json(Found { links }))
}
