//! `GET /v1/fans`: lists fans page by page, those that WeCom refused in particular.
//!
//! There is no index by state or errcode: a list reads every fan. It does so in short steps on blocking
//! threads, and only for as long as the request is alive.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;
use utoipa::{IntoParams, ToSchema};

use super::super::extract::QueryParams;
use super::super::openapi;
use super::super::state::{Shared, scan};
use super::show::FanView;
use crate::domain::fan::FanState;
use crate::domain::ids::AppName;
use crate::http::problem::Problem;
use crate::store::FanFilter;

const FANS_DEFAULT: usize = 100;
const FANS_MAX: usize = 1_000;
/// The time after which a page ends early: well within the timeouts of clients and proxies.
const PAGE_TIME_MAX: Duration = Duration::from_secs(10);

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(in super::super) struct ListQuery {
    /// Only fans in this state.
    #[param(inline)]
    state: Option<FanState>,
    /// Only fans that WeCom refused with this errcode.
    #[param(example = 610_014)]
    errcode: Option<i64>,
    /// Only fans of this app.
    #[param(value_type = Option<String>, example = "brand")]
    app: Option<AppName>,
    /// The `next` of the previous page.
    after: Option<String>,
    /// The maximum number of fans, 1 to 1000; values outside this range are clamped.
    #[param(default = 100)]
    limit: Option<usize>,
}

/// A page of fans.
#[derive(Serialize, ToSchema)]
#[schema(as = FanList)]
pub(in super::super) struct List {
    fans: Vec<FanView>,
    /// The `after` of the next page; `null` when there are no more fans. A page may have fewer fans than
    /// `limit`, even none, and still be followed by another.
    next: Option<String>,
}

/// List fans
///
/// Lists the fans that match every filter, page by page. Fans registered between two pages move no other fan
/// to another page; they may be missing themselves. Filters have no index: a page ends after ten seconds,
/// with what was found until then.
#[utoipa::path(operation_id = "list_fans", get, path = "/v1/fans", tag = "fans", params(ListQuery),
    responses(
        (status = 200, body = List, description = "The fans that match"),
        openapi::Errors,
    ))]
pub(in super::super) async fn list(
    State(state): Shared,
    QueryParams(query): QueryParams<ListQuery>,
) -> Result<Json<List>, Problem> {
    let ListQuery { state: fan_state, errcode, app, after, limit } = query;
    let filter = Arc::new(FanFilter { app, state: fan_state, errcode });
    let limit = limit.unwrap_or(FANS_DEFAULT).clamp(1, FANS_MAX);
    let mut from = after.as_deref().map_or(Ok(0), position)?;
    let (now, ends_at) = (state.clock.now(), Instant::now() + PAGE_TIME_MAX);
    let mut fans = Vec::new();
    loop {
        let (store, filter, room) = (state.store.clone(), filter.clone(), limit - fans.len());
        let page = scan(&state.permits.scans, async move { store.list_fans(&filter, from, room, now).await })
            .await??;
        fans.extend(page.fans.iter().map(|(key, fan)| FanView::new(key, fan, now)));
        match page.next {
            Some(next) if fans.len() < limit && Instant::now() < ends_at => from = next,
            next => return Ok(Json(List { fans, next: next.map(|next| next.to_string()) })),
        }
    }
}

fn position(after: &str) -> Result<u64, Problem> {
    after.parse().map_err(|_| Problem::bad_request("after is not the next of an earlier page"))
}
