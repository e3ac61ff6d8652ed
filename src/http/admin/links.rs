//! `GET /v1/links` and `GET /v1/links/feed`.

use axum::Json;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};

use super::{Problem, Shared};
use crate::domain::ids::{AppName, CorpId, ExternalUserid, IdError, PendingId, Unionid};
use crate::domain::link::{FeedEntry, LinkData};
use crate::store::{LinkBy, LinkQuery};

/// The query of a request, with a problem that says what is wrong with it.
pub(super) fn query<T>(query: Result<Query<T>, QueryRejection>) -> Result<T, Problem> {
    query.map(|Query(query)| query).map_err(|error| Problem::bad_request(error.body_text()))
}

/// The id in a request's path, with a problem that says what is wrong with it.
pub(super) fn id(path: Result<Path<String>, PathRejection>) -> Result<String, Problem> {
    path.map(|Path(id)| id).map_err(|error| Problem::bad_request(error.body_text()))
}

#[derive(Deserialize)]
pub(super) struct FindQuery {
    unionid: Option<String>,
    external_userid: Option<String>,
    pending_id: Option<String>,
    corp_id: Option<String>,
    app: Option<String>,
}

#[derive(Serialize)]
struct Found {
    links: Vec<LinkData>,
}

/// The links of a fan, of a customer, or at a pending id.
pub(super) async fn find(
    State(state): Shared,
    parsed: Result<Query<FindQuery>, QueryRejection>,
) -> Result<Response, Problem> {
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
    Ok(Json(Found { links }).into_response())
}

const ENTRIES_DEFAULT: usize = 100;
const ENTRIES_MAX: usize = 1_000;

#[derive(Deserialize)]
pub(super) struct FeedQuery {
    #[serde(default)]
    after: u64,
    limit: Option<usize>,
}

#[derive(Serialize)]
struct Page {
    entries: Vec<FeedEntry>,
    next: u64,
}

/// The feed from a position on.
pub(super) async fn feed(
    State(state): Shared,
    parsed: Result<Query<FeedQuery>, QueryRejection>,
) -> Result<Response, Problem> {
    let FeedQuery { after, limit } = query(parsed)?;
    let limit = limit.unwrap_or(ENTRIES_DEFAULT).clamp(1, ENTRIES_MAX);
    let entries = state.store.feed(after, limit, state.clock.now()).await?;
    let next = entries.last().map_or(after, |entry| entry.seq);
    Ok(Json(Page { entries, next }).into_response())
}
