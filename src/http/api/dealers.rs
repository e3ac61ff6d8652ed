//! `/v1/dealers`: the dealers, with the activity of each.
//!
//! Deliberately absent: the calls for a dealer that are held back now, which are in `paused` of `/v1/status`.

use std::collections::{BTreeMap, BTreeSet};

use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::extract::{PathParam, QueryParams, invalid_id};
use super::state::{AdminState, Shared, scan};
use crate::domain::authorization::AuthorizationState;
use crate::domain::dealer::{Dealer, DealerState, Qualification, TokenOwner};
use crate::domain::dealer_activity::{DAYS_KEPT, DealerActivity, DealerTrouble, day_in_china};
use crate::domain::ids::{AppName, CorpId};
use crate::domain::time::{DAY_MS, Timestamp};
use crate::http::problem::Problem;
use crate::store::{DealerRow, StoreError};

/// A dealer.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct DealerView {
    #[schema(value_type = String, example = "brand")]
    app: AppName,
    #[schema(value_type = String, example = "wpINVENTED-dealer-01")]
    corp_id: CorpId,
    /// Its name, as WeCom listed it last.
    #[schema(example = "上海一店")]
    corp_name: Option<String>,
    /// The id of the shared app at the dealer.
    #[schema(example = 1_000_012)]
    agent_id: i64,
    #[schema(inline)]
    state: DealerState,
    /// Whether it has authorised the suite of an agency-developed app itself, which is a second way to its
    /// access token. `false` after it cancelled, and for a self-built app.
    authorized: bool,
    /// Whose access token converts its customers: `downstream` (its own) or `upstream` (the brand's); `null`
    /// until that is known.
    #[schema(value_type = Option<String>)]
    token: Option<TokenOwner>,
    /// When its first callback was received.
    #[schema(value_type = Option<String>, format = DateTime)]
    first_callback_at: Option<Timestamp>,
    /// When its newest callback was received.
    #[schema(value_type = Option<String>, format = DateTime)]
    last_callback_at: Option<Timestamp>,
    /// Whether it had callbacks, and none for `silent_days`.
    silent: bool,
    /// When its customers were last compared completely with WeCom's lists.
    #[schema(value_type = Option<String>, format = DateTime)]
    reconciled_at: Option<Timestamp>,
    /// Its known customers, linked or not.
    customers: u64,
    /// Its customers who are linked to a fan.
    links: u64,
    /// Its last error.
    trouble: Option<TroubleView>,
}

/// An error that concerned a dealer.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = DealerTrouble)]
struct TroubleView {
    /// The WeCom errcode, if WeCom answered with one.
    #[schema(example = 84_074)]
    errcode: Option<i64>,
    /// What happened.
    text: String,
    #[schema(value_type = String, format = DateTime)]
    at: Timestamp,
}

impl DealerView {
    fn new(app: AppName, DealerRow { dealer, activity, counts }: DealerRow, authorized: bool) -> Self {
        let state = dealer.state();
        let Dealer { corp_id, agent_id, name, token, .. } = dealer;
        let DealerActivity { first_event_at, last_event_at, trouble, reconciled_at, silent_since, .. } =
            activity;
        let trouble = trouble.map(|DealerTrouble { errcode, text, at }| TroubleView { errcode, text, at });
        Self {
            app,
            corp_id,
            corp_name: Some(name).filter(|name| !name.is_empty()),
            agent_id,
            state,
            authorized,
            token,
            first_callback_at: first_event_at,
            last_callback_at: last_event_at,
            silent: silent_since.is_some(),
            reconciled_at,
            customers: counts.customers,
            links: counts.links,
            trouble,
        }
    }
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct ListQuery {
    /// Only dealers of this app.
    #[param(example = "brand")]
    app: Option<String>,
    /// Only dealers in this state.
    #[param(inline)]
    state: Option<DealerState>,
}

/// The dealers found.
#[derive(Serialize, ToSchema)]
#[schema(as = DealerList)]
pub(super) struct List {
    dealers: Vec<DealerView>,
}

/// List dealers
///
/// In the order of their apps and ids, those that have left included.
#[utoipa::path(operation_id = "list_dealers", get, path = "/v1/dealers", tag = "dealers", params(ListQuery),
    responses(
        (status = 200, body = List, description = "The dealers that match"),
        (status = 404, response = super::openapi::NotFound),
        super::openapi::Errors,
    ))]
pub(super) async fn list(
    State(state): Shared,
    QueryParams(query): QueryParams<ListQuery>,
) -> Result<Json<List>, Problem> {
    let only = query.state;
    let rows = state.dealer_rows(query.app.as_deref()).await?;
    let dealers = state.dealer_views(rows);
    let matching = dealers.into_iter().filter(|dealer| only.is_none_or(|only| dealer.state == only));
    Ok(Json(List { dealers: matching.collect() }))
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct ShowQuery {
    /// The app; without it the first that has this dealer, in the order of their names.
    #[param(example = "brand")]
    app: Option<String>,
}

/// A dealer, with its callbacks by day.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct DealerDetails {
    #[serde(flatten)]
    dealer: DealerView,
    /// How far WeCom has verified it (`qualification_status`): `unverified`, `verified` or `certified`;
    /// `null` if the app may not read that.
    #[schema(value_type = Option<String>, example = "verified")]
    qualification: Option<Qualification>,
    /// Its callbacks of the last 31 days, oldest first; the last is today.
    days: Vec<DayView>,
}

/// The callbacks of one day.
#[derive(Debug, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = DealerDay)]
struct DayView {
    /// The day in China.
    #[schema(format = Date, example = "2026-11-22")]
    date: String,
    callbacks: u64,
}

/// Show one dealer with its callbacks by day
#[utoipa::path(operation_id = "show_dealer", get, path = "/v1/dealers/{corp_id}", tag = "dealers",
    params(
        ("corp_id" = String, Path, description = "The dealer's corp id", example = "wpINVENTED-dealer-01"),
        ShowQuery,
    ),
    responses(
        (status = 200, body = DealerDetails, description = "The dealer"),
        (status = 404, response = super::openapi::NotFound),
        super::openapi::Errors,
    ))]
pub(super) async fn show(
    State(state): Shared,
    PathParam(corp_id): PathParam,
    QueryParams(ShowQuery { app }): QueryParams<ShowQuery>,
) -> Result<Json<DealerDetails>, Problem> {
    let corp_id = CorpId::new(corp_id).map_err(invalid_id("corp_id"))?;
    let rows = state.dealer_rows(app.as_deref()).await?;
    let found = rows.into_iter().find(|(_, row)| row.dealer.corp_id.same_corp(corp_id.as_str()));
    let (app, row) = found.ok_or_else(Problem::unknown_dealer)?;
    let authorized = state.authorized_dealers(&app).contains(&row.dealer.corp_id);
    let days = days(&row.activity, state.clock.now());
    let qualification = row.dealer.qualification;
    Ok(Json(DealerDetails { dealer: DealerView::new(app, row, authorized), qualification, days }))
}

impl AdminState {
    /// The dealers of one app or of all, with their apps.
    async fn dealer_rows(&self, app: Option<&str>) -> Result<Vec<(AppName, DealerRow)>, Problem> {
        let (apps, store) = (self.apps_named(app)?, self.store.clone());
        let read = async move {
            let mut all = Vec::new();
            for app in apps {
                let rows = store.dealer_rows(&app).await?;
                all.extend(rows.into_iter().map(|row| (app.clone(), row)));
            }
            Ok::<_, StoreError>(all)
        };
        Ok(scan(&self.permits.scans, read).await??)
    }

    fn dealer_views(&self, rows: Vec<(AppName, DealerRow)>) -> Vec<DealerView> {
        let mut authorized: BTreeMap<AppName, BTreeSet<CorpId>> = BTreeMap::new();
        let view = |(app, row): (AppName, DealerRow)| {
            let of_app = authorized.entry(app.clone()).or_insert_with(|| self.authorized_dealers(&app));
            let is_authorized = of_app.contains(&row.dealer.corp_id);
            DealerView::new(app, row, is_authorized)
        };
        rows.into_iter().map(view).collect()
    }

    /// The dealers that have authorised the suite of an app themselves, without those that have cancelled.
    fn authorized_dealers(&self, app: &AppName) -> BTreeSet<CorpId> {
        let dealers = self.apps.authorized_dealers(app);
        let active = dealers.iter().filter(|dealer| dealer.state() == AuthorizationState::Active);
        active.map(|dealer| dealer.corp_id.clone()).collect()
    }
}

/// The callbacks of each of the last days.
fn days(activity: &DealerActivity, now: Timestamp) -> Vec<DayView> {
    let (today, days_kept) = (day_in_china(now), i64::try_from(DAYS_KEPT).unwrap_or(i64::MAX));
    let view = |day: i64| {
        let count = activity.days.iter().find(|count| count.day == day);
        DayView { date: date(day), callbacks: count.map_or(0, |count| count.events) }
    };
    (0..days_kept).rev().map(|ago| view(today - ago)).collect()
}

/// `2026-11-22`, for a day in days since 1970-01-01.
fn date(day: i64) -> String {
    let midnight = Timestamp::from_millis(day.saturating_mul(DAY_MS)).to_string();
    midnight.split('T').next().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::domain::dealer_activity::{DealerCounts, EventsSeen};

    fn row() -> DealerRow {
        let dealer = Dealer::listed(CorpId::new("wpDEALER").unwrap(), 7, String::new(), Timestamp::EPOCH);
        let counts = DealerCounts { customers: 3, links: 2 };
        DealerRow { dealer, activity: DealerActivity::default(), counts }
    }

    #[test]
    fn a_dealer_is_shown_in_the_documented_form() {
        let mut row = row();
        row.dealer.name = "上海一店".to_owned();
        row.activity.record(EventsSeen::one(Timestamp::from_secs(1_795_309_323)));
        let text = "no permission".to_owned();
        row.activity.trouble = Some(DealerTrouble { errcode: Some(84_074), text, at: Timestamp::EPOCH });
        let view = serde_json::to_value(DealerView::new(AppName::new("brand").unwrap(), row, false)).unwrap();
        let wanted = json!({
            "app": "brand", "corp_id": "wpDEALER", "corp_name": "上海一店", "agent_id": 7, "state": "shared",
            "authorized": false, "token": null, "first_callback_at": "2026-11-22T01:02:03.000Z",
            "last_callback_at": "2026-11-22T01:02:03.000Z", "silent": false, "reconciled_at": null,
            "customers": 3, "links": 2,
            "trouble": {"errcode": 84_074, "text": "no permission", "at": "1970-01-01T00:00:00.000Z"},
        });
        assert_eq!(view, wanted);
    }

    #[test]
    fn a_dealer_that_is_silent_has_left_and_has_no_name_says_so() {
        let mut row = row();
        row.dealer.left_at = Some(Timestamp::EPOCH);
        row.activity.silent_since = Some(Timestamp::EPOCH);
        let view = serde_json::to_value(DealerView::new(AppName::new("brand").unwrap(), row, false)).unwrap();
        assert_eq!((&view["state"], &view["silent"]), (&json!("left"), &json!(true)));
        assert_eq!((&view["corp_name"], &view["trouble"]), (&json!(null), &json!(null)));
    }

    #[test]
    fn the_days_are_the_last_31_in_china_with_those_without_callbacks() {
        let mut activity = DealerActivity::default();
        // 15:59 and 16:00 UTC are two days in China; the first is forty days before the last.
        let now = Timestamp::from_secs(1_795_363_200);
        for at in [now.plus_ms(-40 * DAY_MS), now.plus_ms(-1_000), now, now] {
            activity.record(EventsSeen::one(at));
        }
        let days = days(&activity, now);
        assert_eq!((days.len(), days[0].date.as_str()), (31, "2026-10-24"));
        assert_eq!(days.iter().map(|day| day.callbacks).sum::<u64>(), 3);
        let last = |date: &str, callbacks| DayView { date: date.to_owned(), callbacks };
        assert_eq!(days[29..], [last("2026-11-22", 1), last("2026-11-23", 2)]);
    }
}
