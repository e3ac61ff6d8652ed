//! `GET /v1/status`, `/metrics`, `/livez` and `/readyz`: the state of the service for people, Prometheus and
//! load balancers.

pub(super) mod doctor;
pub(super) mod history;
mod quotas;
mod replicas;
mod suites;
mod url_checks;
mod view;

use std::collections::{BTreeMap, HashMap};

use axum::Json;
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use strum::{VariantArray as _, VariantNames as _};

use super::sinks::SinkState;
use super::state::{AdminState, Shared};
use crate::domain::event::AppAlarm;
use crate::domain::finding::{Finding, FindingState};
use crate::domain::history::UrlMarks;
use crate::domain::ids::AppName;
use crate::domain::sync_times::SyncTimes;
use crate::domain::tally::Tally;
use crate::domain::text::Text;
use crate::domain::time::{SECOND_MS, Timestamp};
use crate::http::problem::Problem;
use crate::store::Counts;
use crate::telemetry::metrics::CallbackOutcome;
use crate::wecom::Api;
use crate::worker::breaker::{Breaker, Scope};
use view::{
    AlarmView, CallbackCounts, CustomerCounts, DealerNumbers, FanCounts, HeldBack, InboxStatus, Status,
    SuiteStatus, UrlView,
};

pub use replicas::published;

/// Show the status of the service
///
/// Counts from callback to link, ages of queues, calls held back after failures (`paused`) with the reasons,
/// calls that wait for a quota (`pacing`), quotas with a forecast, dealers by state, WeCom's alarms, suites,
/// what is wrong with them and with callback URLs (`findings`), the comparison of customers (`reconcile`),
/// sinks, tasks.
#[utoipa::path(operation_id = "show_status", get, path = "/v1/status", tag = "service", responses(
    (status = 200, body = Status, description = "The status; later versions may add fields"),
    super::openapi::Errors,
))]
pub(super) async fn show(State(state): Shared) -> Result<Json<Status>, Problem> {
    let now = state.clock.now();
    let age = |at: Timestamp| now.millis_since(at).max(0) / SECOND_MS;
    let tallies: HashMap<_, _> = state.store.fan_tallies().await?.into_iter().collect();
    let fans = total(tallies.values());
    let mut dealers = BTreeMap::new();
    for name in &state.apps.names() {
        dealers.insert(name.to_string(), DealerNumbers::of(&state.store.dealer_rows(name).await?));
    }
    let alarms = state.store.alarms().await?.into_iter().map(|alarm| state.alarm_view(alarm)).collect();
    let suites = suites_and_findings(&state, now).0;
    let queues = quotas::queues(&state, &tallies, now).await?;
    let quotas = quotas::quotas(&state, &tallies).await?;
    let others = state.replicas().await;
    let (mut paused, mut pacing) = state.held_back();
    paused.extend(others.paused);
    pacing.extend(others.pacing);
    let ready = state.store.ready();
    let oldest = state.store.oldest_event().await?;
    // Read after the fans: where no fan is queued and no event waits, all links there will be are counted.
    let Counts { inbox, dead, quarantined, contacts, waiting, links, feed_head, feed_pruned, .. } =
        state.store.counts();
    let callbacks = |outcome| state.metrics.callbacks.answered_with(outcome);
    Ok(Json(Status {
        version: env!("CARGO_PKG_VERSION"),
        started_at: state.started_at,
        now,
        ready: ready.is_ok(),
        not_ready_because: ready.err().map(|e| e.to_string()),
        damaged_records: state.store.damaged_records(),
        store_log: state.store.log_status().map(Into::into),
        callbacks: CallbackCounts {
            accepted: callbacks(CallbackOutcome::Accepted),
            duplicates: callbacks(CallbackOutcome::Duplicate),
            ignored: callbacks(CallbackOutcome::Ignored),
            quarantined: callbacks(CallbackOutcome::Quarantined),
            misplaced: callbacks(CallbackOutcome::Misplaced),
            refused: callbacks(CallbackOutcome::Refused),
            unavailable: callbacks(CallbackOutcome::Unavailable),
            unknown_app: callbacks(CallbackOutcome::UnknownApp),
            too_large: callbacks(CallbackOutcome::TooLarge),
            verified: callbacks(CallbackOutcome::Verified),
        },
        inbox: InboxStatus { waiting: inbox, dead, quarantined, oldest_age_seconds: oldest.map(age) },
        contacts: CustomerCounts { known: contacts, waiting, linked: links },
        fans: FanCounts {
            registered: fans.registered,
            queued: fans.queued,
            minted: fans.minted,
            expired: fans.expired,
            rejected: fans.rejected,
        },
        queues,
        links,
        feed_head,
        feed_oldest: feed_pruned + 1,
        sinks: state.sink_views(others.sinks).await?,
        tasks: state.lifecycle.tasks(),
        paused,
        pacing,
        replicas: others.views,
        quotas,
        dealers,
        alarms,
        suites,
        urls: state.urls().await?.into_iter().map(UrlView::of).collect(),
        findings: needs_somebody(state.findings(now).await),
        reconcile: state.store.reconcile_run().await?.into(),
        calls: Api::VARIANTS.iter().map(|api| (api.as_str(), state.metrics.calls_of(*api))).collect(),
        ids_asked: state.metrics.ids_sent_count(),
        observed: state.observed().await?,
    }))
}

impl AdminState {
    /// How WeCom was seen to behave.
    async fn observed(&self) -> Result<BTreeMap<String, BTreeMap<String, u64>>, Problem> {
        let mut observed = self.store.observed().await?;
        observed.add_all(&self.notes.unrecorded_observed());
        Ok(observed.groups().clone())
    }

    /// What was seen last at each configured callback URL.
    async fn urls(&self) -> Result<Vec<(AppName, UrlMarks)>, Problem> {
        let mut marks: BTreeMap<_, _> = self.store.url_marks().await?.into_iter().collect();
        let mut unrecorded = self.notes.unrecorded_urls();
        let marked = |name: &AppName| {
            let mut marks = marks.remove(name).unwrap_or_default();
            marks.merge(unrecorded.remove(name).unwrap_or_default());
            (name.clone(), marks)
        };
        Ok(self.doors.current().keys().map(marked).collect())
    }

    /// The calls that this process holds back: after failures, and for a quota.
    fn held_back(&self) -> (Vec<HeldBack>, Vec<HeldBack>) {
        let held_back = self.breakers.all(self.clock.now()).into_iter();
        let (pacing, paused): (Vec<_>, Vec<_>) = held_back.partition(|(_, breaker)| breaker.is_pacing());
        let viewed = |held_back: Vec<_>| held_back.into_iter().map(|one| self.view_of(one)).collect();
        (viewed(paused), viewed(pacing))
    }

    fn view_of(&self, (scope, breaker): (Scope, Breaker)) -> HeldBack {
        let (app, corp_id) = (scope.app(), scope.corp_id());
        HeldBack {
            scope: scope.kind().into(),
            app: app.clone(),
            corp_id: corp_id.cloned(),
            corp_name: corp_id.and_then(|corp_id| self.dealer_names.of(app, corp_id)),
            reason: breaker.reason.text,
            errcode: breaker.reason.errcode,
            since: breaker.since,
            until: breaker.probe_at,
            failures: breaker.failures,
        }
    }

    fn alarm_view(&self, (app, alarm): (AppName, AppAlarm)) -> AlarmView {
        let AppAlarm { corp_id, kind, created_at, effect_at } = alarm;
        let corp_name = self.dealer_names.of(&app, &corp_id);
        let (en, zh) = kind.remedy();
        let remedy = Text { en: en.to_owned(), zh: zh.to_owned() };
        AlarmView { app, corp_id, corp_name, kind, since: created_at, effect_at, remedy }
    }
}

/// The findings that belong into the status: first those about suites and callback URLs that are trouble, then all others that
/// fail.
fn needs_somebody(findings: Vec<Finding>) -> Vec<Finding> {
    let is_about_setup = |finding: &Finding| {
        let code: &str = finding.code.into();
        code.starts_with("suite.") || code.starts_with("app.")
    };
    let (setup, others): (Vec<_>, Vec<_>) = findings.into_iter().partition(is_about_setup);
    let others = others.into_iter().filter(|finding| finding.state == FindingState::Fail);
    setup.into_iter().filter(Finding::is_trouble).chain(others).collect()
}

/// The suites, and everything that is wrong with them and with callback URLs.
fn suites_and_findings(state: &AdminState, now: Timestamp) -> (Vec<SuiteStatus>, Vec<Finding>) {
    let (suites, mut findings) = suites::suites(state, now);
    findings.extend(url_checks::findings(state));
    (suites, findings)
}

fn total<'a>(tallies: impl Iterator<Item = &'a Tally>) -> Tally {
    tallies.fold(Tally::default(), |mut total, tally| {
        total += tally;
        total
    })
}

/// Read the metrics, for Prometheus
#[utoipa::path(operation_id = "read_metrics", get, path = "/metrics", tag = "service", responses(
    (status = 200, content_type = "application/openmetrics-text", body = String, description = "The metrics"),
    super::openapi::Errors,
))]
pub(super) async fn metrics(State(state): Shared) -> Response {
    let (now, ready) = (state.clock.now(), state.store.ready());
    state.metrics.machine.ready(ready.is_ok());
    let disk = state.machine.disk(SyncTimes::default(), 0);
    state.metrics.machine.backup(disk.and_then(|disk| disk.backup).as_ref());
    let suites = suites_and_findings(&state, now).0;
    suites::update_metrics(&state, &suites, now);
    let findings = state.findings(now).await;
    state.metrics.findings(findings.iter().map(|finding| (finding.code, finding.state)));
    let held_back = state.breakers.all(now);
    let paused = held_back.iter().filter(|(_, breaker)| !breaker.is_pacing());
    state.metrics.paused(paused.map(|(scope, b)| (scope.app(), scope.kind(), b.reason.errcode)));
    state.metrics.machine.disk_free_bytes(state.store.free_disk_bytes());
    if let Some(log) = state.store.log_status() {
        state.metrics.store_log(&log);
    }
    // While a database is away, the gauges of what is in it stay as they were.
    let can_be_read = ready.is_ok() || state.store.replicas().is_none();
    let fans = if can_be_read { stored(&state, now).await.ok() } else { None };
    let (counts, damaged) = (state.store.counts(), state.store.damaged_records());
    let text = state.metrics.scrape(&counts, fans.as_ref(), damaged);
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, kind)], text).into_response()
}

/// Sets the gauges of what has to be read from the store. Returns the fans by state.
async fn stored(state: &AdminState, now: Timestamp) -> Result<Tally, Problem> {
    let tallies = state.store.fan_tallies().await?;
    let oldest = state.store.oldest_event().await?;
    state.metrics.machine.inbox_oldest(oldest.map_or(0, |at| now.millis_since(at).max(0) / SECOND_MS));
    quotas::update_metrics(state).await?;
    for sink in state.sink_views(state.replicas().await.sinks).await? {
        let lag = (sink.lag_entries, sink.lag_seconds);
        state.metrics.sink(&sink.name, lag, sink.state.into(), SinkState::VARIANTS);
    }
    let is_running = state.store.reconcile_run().await?.is_some_and(|run| run.is_running());
    state.metrics.reconcile_running(is_running);
    Ok(total(tallies.iter().map(|(_, tally)| tally)))
}

/// Check that the service is running
#[utoipa::path(operation_id = "is_alive", get, path = "/livez", tag = "service", security(()), responses(
    (status = 200, content_type = "text/plain", body = String, description = "The service is running"),
))]
pub(super) async fn live() -> &'static str {
    "alive\n"
}

/// Check that a callback could be made durable now
///
/// The answer does not depend on whether WeCom is reachable.
#[utoipa::path(operation_id = "is_ready", get, path = "/readyz", tag = "service", security(()), responses(
    (status = 200, content_type = "text/plain", body = String, description = "Callbacks can be made durable"),
    (status = 503, response = super::openapi::Unavailable),
))]
pub(super) async fn ready(State(state): Shared) -> Result<&'static str, Problem> {
    state.store.ready()?;
    Ok("ready\n")
}
