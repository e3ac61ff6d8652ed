//! `GET /v1/doctor`: everything that is looked at, and how it is, as the service sees it.
//!
//! Deliberately absent: what is a finding (see [`crate::domain::finding`]); what only somebody outside the service can see
//! (see `unionlink doctor`).

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use serde::Serialize;
use strum::VariantArray as _;
use utoipa::ToSchema;

use super::super::explain::text;
use super::super::sinks::SinkState;
use super::super::state::{AdminState, Shared};
use super::view::HeldBack;
use super::{quotas, suites_and_findings};
use crate::domain::dealer::DealerState;
use crate::domain::event::QuarantineReason;
use crate::domain::finding::{
    DiskFacts, Finding, FindingCode, FindingView, HeldBackCalls, ServedApp, ServedDealer, ServiceFacts,
    SinkFacts, Subject, Verdict, service_findings,
};
use crate::domain::history::{Tallies, UrlMarks};
use crate::domain::ids::{AppName, SinkName};
use crate::domain::sync_times::SyncTimes;
use crate::domain::time::{DAY_MS, Timestamp};
use crate::http::problem::Problem;
use crate::store::{Counts, DealerRow, EventId, EventRow, EventState, Quarantined};
use crate::telemetry::metrics::CallbackOutcome;
use crate::wecom::{Api, Class, Development, class, remedy_for};

/// How long a look at the machine may take.
const MACHINE_TIMEOUT: Duration = Duration::from_secs(2);
/// What cannot be looked at while the store cannot be read.
const NEEDING_STORE: [FindingCode; 14] = [
    FindingCode::StoreFsync,
    FindingCode::StoreDamaged,
    FindingCode::Reachable,
    FindingCode::WecomTrustedIp,
    FindingCode::WecomToken,
    FindingCode::WecomPermission,
    FindingCode::WecomCalls,
    FindingCode::ShareList,
    FindingCode::DealerSilence,
    FindingCode::WecomQuota,
    FindingCode::CallbackSeen,
    FindingCode::CallbackReceiveIds,
    FindingCode::SinkReachable,
    FindingCode::SinkLag,
];

/// The quarantined messages of which the receive ids are looked at.
const QUARANTINED_READ: usize = 200;
/// With more dead letters they are not looked for.
const DEAD_READ_MAX: u64 = 5_000;

/// The outcomes of callbacks and URL checks that come from WeCom.
const GENUINE: [CallbackOutcome; 6] = [
    CallbackOutcome::Accepted,
    CallbackOutcome::Duplicate,
    CallbackOutcome::Ignored,
    CallbackOutcome::Quarantined,
    CallbackOutcome::Misplaced,
    CallbackOutcome::Verified,
];

/// How the service is.
#[derive(Serialize, ToSchema)]
pub(in super::super) struct Report {
    /// The version of the service.
    #[schema(example = "0.2.0")]
    unionlink: &'static str,
    #[schema(value_type = String, format = DateTime)]
    checked_at: Timestamp,
    /// The worst of the findings.
    verdict: Verdict,
    /// From where it was looked at: always `service` here.
    #[schema(example = "service")]
    vantage: &'static str,
    /// Causes come before what depends on them.
    findings: Vec<FindingView>,
}

/// Look for what is wrong, as the service sees it
///
/// Everything that is looked at, also where all is well (`ok`). What depends on a cause that fails is not looked at
/// (`skip`). Nobody is asked, and nothing is changed.
#[utoipa::path(operation_id = "diagnose", get, path = "/v1/doctor", tag = "service", responses(
    (status = 200, body = Report, description = "What was found"),
    super::super::openapi::Errors,
))]
pub(in super::super) async fn diagnose(State(state): Shared) -> Result<Json<Report>, Problem> {
    let now = state.clock.now();
    let findings = state.findings(now).await;
    Ok(Json(Report {
        unionlink: env!("CARGO_PKG_VERSION"),
        checked_at: now,
        verdict: Verdict::of(&findings),
        vantage: "service",
        findings: findings.into_iter().map(Into::into).collect(),
    }))
}

impl AdminState {
    /// Everything that is looked at, in the order of the codes.
    pub async fn findings(&self, now: Timestamp) -> Vec<Finding> {
        let of_service = match self.store.ready() {
            // Reading it may take until a time-out.
            Err(error) => Err(error.to_string()),
            Ok(()) => of_service(self, now).await.map_err(|problem| problem.detail().to_owned()),
        };
        let mut findings = match of_service {
            Ok(findings) => findings,
            Err(reason) => without_store(self, reason, now).await,
        };
        findings.extend(suites_and_findings(self, now).1);
        findings.sort_by_key(|finding| finding.code);
        findings
    }
}

/// What is known while the store cannot be read.
async fn without_store(state: &AdminState, reason: String, now: Timestamp) -> Vec<Finding> {
    let facts = ServiceFacts { not_ready: Some(reason), ..of_machine(state, &[]).await };
    let is_known = |finding: &Finding| {
        finding.code <= FindingCode::ClockSkew
            && !matches!(finding.code, FindingCode::StoreDamaged | FindingCode::StoreFsync)
    };
    let mut findings: Vec<_> = service_findings(&facts, now).into_iter().filter(is_known).collect();
    let skipped = |code| Finding::skipped(code, Subject::default(), FindingCode::StoreReady);
    findings.extend(NEEDING_STORE.map(skipped));
    findings
}

/// What is known of the machine and the configuration. `hours` are the counts of the last day.
async fn of_machine(state: &AdminState, hours: &[(Timestamp, Tallies)]) -> ServiceFacts<'static> {
    let (mut syncs, mut taken_kib) = (SyncTimes::default(), 0);
    for (_, hour) in hours {
        syncs.add_hour(hour);
        taken_kib +=
            hour.get("disk", "taken_kib").cast_signed() - hour.get("disk", "freed_kib").cast_signed();
    }
    // A file system that hangs must not hold up anybody.
    let machine = state.machine.clone();
    let looking = tokio::task::spawn_blocking(move || {
        (machine.host(), machine.disk(syncs, taken_kib.saturating_mul(1 << 10)))
    });
    let (host, disk) = match tokio::time::timeout(MACHINE_TIMEOUT, looking).await {
        Ok(Ok((host, disk))) => (Some(host), disk),
        Ok(Err(_)) | Err(_) => (None, state.machine.store.is_some().then(DiskFacts::default)),
    };
    let config = match &state.reload {
        Some(reload) => Some(reload.difference().await),
        None => None,
    };
    ServiceFacts {
        config,
        host,
        disk,
        skew_ms: state.metrics.machine.clock_skew_ms(),
        certificate: state.metrics.machine.certificate(),
        ..ServiceFacts::default()
    }
}

/// Quarantined messages whose receive id is not accepted, of the first ones.
async fn unaccepted(state: &AdminState) -> Result<Option<Vec<(AppName, String, usize)>>, Problem> {
    let Counts { quarantined, dead, .. } = state.store.counts();
    if quarantined == 0 {
        return Ok(Some(Vec::new()));
    }
    // They are among the dead letters.
    if dead > DEAD_READ_MAX {
        return Ok(None);
    }
    let mut counts: BTreeMap<(AppName, String), usize> = BTreeMap::new();
    for row in state.store.events(EventState::Quarantined, EventId(0), QUARANTINED_READ).await? {
        if let EventRow::Quarantined(Quarantined {
            app,
            reason: QuarantineReason::ReceiveId,
            receive_id,
            ..
        }) = row
        {
            *counts.entry((app, receive_id)).or_default() += 1;
        }
    }
    Ok(Some(counts.into_iter().map(|((app, id), count)| (app, id, count)).collect()))
}

/// The findings about the service itself.
async fn of_service(state: &AdminState, now: Timestamp) -> Result<Vec<Finding>, Problem> {
    let day_ago = now.plus_ms(-DAY_MS);
    let mut hours = state.store.hours(day_ago, now).await?;
    hours.push((now, state.notes.unrecorded(&*state.store)));
    let others = state.replicas().await;
    let (mut paused, _) = state.held_back();
    paused.extend(others.paused);
    let tallies: HashMap<_, _> = state.store.fan_tallies().await?.into_iter().collect();
    let quotas = quotas::quotas(state, &tallies).await?;
    let mut dealers: Vec<(AppName, Vec<DealerRow>, usize)> = Vec::new();
    for name in state.apps.names() {
        let mut rows = state.store.dealer_rows(&name).await?;
        let left = |row: &&DealerRow| row.dealer.left_at.is_some_and(|at| at >= day_ago);
        let left_lately = rows.iter().filter(left).count();
        rows.retain(|row| row.dealer.state() != DealerState::Left);
        dealers.push((name, rows, left_lately));
    }
    let callbacks = |outcome| state.metrics.callbacks.answered_with(outcome);
    let mut sinks = Vec::new();
    for view in state.sink_views(others.sinks).await? {
        let is_disabled = view.state == SinkState::Disabled;
        let is_failing = is_disabled || view.state == SinkState::Failing;
        let failing = view.reason.filter(|_| is_failing).map(|reason| (reason, view.since));
        // A name of the configuration.
        let Ok(name) = SinkName::new(view.name) else { continue };
        sinks.push(SinkFacts { name, failing, is_disabled, lag: (view.lag_entries, view.lag_seconds) });
    }
    let facts = ServiceFacts {
        not_ready: None,
        damaged_records: state.store.damaged_records() as u64,
        checkpoints: state.store.log_status().map(|log| log.checkpoint_failure),
        calls: Api::VARIANTS.iter().map(|api| state.metrics.calls_of(*api)).sum(),
        apps: dealers
            .iter()
            .map(|(app, rows, left_lately)| {
                let held_back = paused.iter().filter(|calls| calls.app == *app);
                let used_up = quotas.iter().filter(|quota| quota.app == *app);
                let is_agency = state.apps.agency().iter().any(|agency| agency.app == *app);
                ServedApp {
                    app,
                    is_agency,
                    has_brand: state.apps.corp_of(app).is_some(),
                    held_back: held_back.map(|calls| state.held_back_calls(calls)).collect(),
                    dealers: rows.iter().map(served).collect(),
                    left_lately: *left_lately,
                    list_read: state.metrics.calls_of(Api::ListAppShareInfo) > 0,
                    used_up: used_up.filter_map(|quota| Some((quota.api, quota.blocked_until?))).collect(),
                }
            })
            .collect(),
        unanswered: state.metrics.unanswered_calls(),
        accepted: GENUINE.into_iter().map(callbacks).sum(),
        refused: callbacks(CallbackOutcome::Refused),
        urls: seen_urls(state, &dealers).await?,
        unaccepted: unaccepted(state).await?,
        sinks,
        feed_kept_secs: state.feed_kept_ms / 1_000,
        ..of_machine(state, &hours).await
    };
    Ok(service_findings(&facts, now))
}

/// What was seen last at each callback URL, dealers' events from before that was noted included.
async fn seen_urls(
    state: &AdminState,
    dealers: &[(AppName, Vec<DealerRow>, usize)],
) -> Result<Vec<(AppName, UrlMarks)>, Problem> {
    let mut urls = state.urls().await?;
    for (name, marks) in &mut urls {
        let of_app = dealers.iter().filter(|(app, ..)| app == name).flat_map(|(_, rows, _)| rows);
        let last_event_at = of_app.filter_map(|row| row.activity.last_event_at).max();
        marks.merge(UrlMarks { callback_at: last_event_at, ..UrlMarks::default() });
    }
    Ok(urls)
}

fn served(row: &DealerRow) -> ServedDealer<'_> {
    ServedDealer {
        corp_id: &row.dealer.corp_id,
        name: &row.dealer.name,
        silent_since: row.activity.silent_since,
    }
}

impl AdminState {
    fn held_back_calls(&self, calls: &HeldBack) -> HeldBackCalls {
        let is_agency = self.apps.agency().iter().any(|agency| agency.app == calls.app);
        let development = if is_agency { Development::Agency } else { Development::SelfBuilt };
        HeldBackCalls {
            corp: calls.corp_id.clone().map(|corp_id| (corp_id, calls.corp_name.clone())),
            errcode: calls.errcode,
            is_setting: calls.errcode.is_some_and(|errcode| class(errcode) == Class::Configuration),
            reason: calls.reason.clone(),
            since: calls.since,
            remedy: calls.errcode.map(|errcode| text(remedy_for(errcode, development))),
        }
    }
}
