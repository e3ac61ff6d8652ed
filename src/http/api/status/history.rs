//! `GET /v1/history`: what was counted, by hour.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::super::extract::QueryParams;
use super::super::state::Shared;
use crate::domain::history::{HOURS_KEPT, Tallies, hour_of};
use crate::domain::sync_times::SyncTimes;
use crate::domain::time::{HOUR_MS, Timestamp};
use crate::http::problem::Problem;

/// Which hours are asked for.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(in super::super) struct Asked {
    /// How many hours, the present one included: 1 to 744 (31 days).
    #[serde(default = "two_days")]
    #[param(minimum = 1, maximum = 744, default = 48)]
    hours: i64,
}

const fn two_days() -> i64 {
    48
}

/// What was counted, by hour.
#[derive(Serialize, ToSchema)]
pub(in super::super) struct HistoryPage {
    #[schema(value_type = String, format = DateTime)]
    now: Timestamp,
    /// Every hour that was asked for, the oldest first, the present one last.
    hours: Vec<HourView>,
}

/// What was counted in an hour. A name that is absent from a map was not counted in it.
#[derive(Serialize, ToSchema)]
struct HourView {
    /// When it began.
    #[schema(value_type = String, format = DateTime)]
    hour: Timestamp,
    /// Requests to the public listener, by outcome.
    callbacks: BTreeMap<String, u64>,
    /// Requests to callback URLs that were refused, by reason.
    refusals: BTreeMap<String, u64>,
    /// New links, by source.
    links: BTreeMap<String, u64>,
    /// Pending ids that WeCom returned for fans.
    mints: u64,
    /// Pending ids that WeCom returned for customers.
    resolved: u64,
    /// Events that became dead letters.
    dead_letters: u64,
    /// Messages that were quarantined.
    quarantined: u64,
    /// Calls to WeCom that succeeded, by API.
    calls: BTreeMap<String, u64>,
    /// Calls to WeCom that failed, by API.
    calls_failed: BTreeMap<String, u64>,
    /// Feed entries that were delivered, by sink.
    deliveries: BTreeMap<String, u64>,
    /// Attempts to deliver that failed, by sink.
    deliveries_failed: BTreeMap<String, u64>,
    /// How long the store's disk took to make commits durable; absent for PostgreSQL, and while there were none.
    #[serde(skip_serializing_if = "Option::is_none")]
    syncs: Option<SyncView>,
}

/// How long commits took to become durable, in milliseconds; `null` for more than three seconds.
#[derive(Serialize, ToSchema)]
pub(super) struct SyncView {
    commits: u64,
    /// At least half of them took no longer.
    p50_ms: Option<u64>,
    /// At least 99 % of them took no longer.
    p99_ms: Option<u64>,
}

impl SyncView {
    pub(super) fn of(times: &SyncTimes) -> Option<Self> {
        let longest = |but| {
            let took = times.all_but(but)?;
            u64::try_from(took.as_millis()).ok().filter(|_| took.as_secs() <= 3)
        };
        (times.count() > 0).then(|| Self {
            commits: times.count(),
            p50_ms: longest(500),
            p99_ms: longest(10),
        })
    }
}

impl HourView {
    fn of(hour: Timestamp, counts: &Tallies) -> Self {
        let mut times = SyncTimes::default();
        times.add_hour(counts);
        Self {
            hour,
            callbacks: counts.group("callbacks"),
            refusals: counts.group("refusals"),
            links: counts.group("links"),
            mints: counts.get("made", "minted"),
            resolved: counts.get("made", "resolved"),
            dead_letters: counts.get("made", "dead"),
            quarantined: counts.get("made", "quarantined"),
            calls: counts.group("calls"),
            calls_failed: counts.group("calls_failed"),
            deliveries: counts.group("delivered"),
            deliveries_failed: counts.group("deliveries_failed"),
            syncs: SyncView::of(&times),
        }
    }
}

/// Show what was counted, by hour
///
/// Counts of all replicas together, for 31 days, kept through restarts. Those of the last ten seconds of other replicas may
/// be missing; of what a process counted in the last ten seconds before it was killed, only what the store itself makes (links,
/// pending ids, dead letters) is known.
#[utoipa::path(operation_id = "show_history", get, path = "/v1/history", tag = "service", params(Asked), responses(
    (status = 200, body = HistoryPage, description = "The hours; later versions may add fields"),
    super::super::openapi::Errors,
))]
pub(in super::super) async fn show(
    State(state): Shared,
    QueryParams(Asked { hours }): QueryParams<Asked>,
) -> Result<Json<HistoryPage>, Problem> {
    if !(1..=HOURS_KEPT).contains(&hours) {
        return Err(Problem::bad_request(format!("hours is {hours}; it must be from 1 to {HOURS_KEPT}")));
    }
    let now = state.clock.now();
    let from = hour_of(now).plus_ms(-(hours - 1) * HOUR_MS);
    let mut known: BTreeMap<Timestamp, Tallies> = state.store.hours(from, now).await?.into_iter().collect();
    known.entry(hour_of(now)).or_default().add_all(&state.notes.unrecorded(&*state.store));
    let none = Tallies::default();
    let hours = (0..hours).map(|nth| {
        let hour = from.plus_ms(nth * HOUR_MS);
        HourView::of(hour, known.get(&hour).unwrap_or(&none))
    });
    Ok(Json(HistoryPage { now, hours: hours.collect() }))
}
