//! Suites in `/v1/status` and in the metrics: the state of each, and the findings about it and its apps.
//!
//! Deliberately absent: what is a finding (see [`crate::domain::finding`]).

use super::super::explain::text;
use super::super::state::AdminState;
use super::view::{AuthorizationCounts, ExchangeCounts, SuiteState, SuiteStatus};
use crate::domain::authorization::AuthorizationState;
use crate::domain::bindings::Unserved;
use crate::domain::finding::{
    AppFacts, AuthorizationFacts, Finding, FindingCode, Refusal, SuiteFacts, TicketFacts, suite_findings,
};
use crate::domain::ids::{AppName, CorpId};
use crate::domain::suite::next_ticket_at;
use crate::domain::time::{SECOND_MS, Timestamp};
use crate::wecom::{Development, NO_LICENCE, remedy_for};
use crate::worker::breaker::{Breaker, Scope};
use crate::worker::suites::{SuiteSettings, SuiteView};

/// The suites, and what is wrong with them and their apps.
pub(super) fn suites(state: &AdminState, now: Timestamp) -> (Vec<SuiteStatus>, Vec<Finding>) {
    let held_back = state.breakers.all(now);
    let (mut suites, mut all_findings) = (Vec::new(), Vec::new());
    for (suite, settings) in state.apps.suites() {
        let Some(view) = state.apps.suite(suite) else { continue };
        let findings = findings(state, suite, settings, &view, &held_back, now);
        let is_paused = held_back.iter().any(|(scope, breaker)| {
            matches!(scope, Scope::Suite(paused) if paused == suite) && !breaker.is_pacing()
        });
        let ticket = ticket(state, suite, &view);
        suites.push(status((suite, settings, &view), ticket, &findings, is_paused, now));
        all_findings.extend(findings);
    }
    (suites, all_findings)
}

/// Sets the metrics of suites.
pub(super) fn update_metrics(state: &AdminState, suites: &[SuiteStatus], now: Timestamp) {
    for SuiteStatus { name, state: suite_state, ticket_received_at, authorizations, .. } in suites {
        let AuthorizationCounts { active, incomplete, cancelled } = *authorizations;
        let counts = [
            (AuthorizationState::Active, active),
            (AuthorizationState::Incomplete, incomplete),
            (AuthorizationState::Cancelled, cancelled),
        ];
        let ticket_age = ticket_received_at.map(|at| now.millis_since(at).max(0) / SECOND_MS);
        state.metrics.suites.set(name, *suite_state == SuiteState::Ready, ticket_age, counts);
    }
}

fn findings(
    state: &AdminState,
    suite: &AppName,
    settings: &SuiteSettings,
    view: &SuiteView,
    held_back: &[(Scope, Breaker)],
    now: Timestamp,
) -> Vec<Finding> {
    let of_suite = state.apps.agency().iter().filter(|agency| agency.suite == *suite);
    let apps: Vec<_> = of_suite
        .map(|agency| AppFacts {
            app: &agency.app,
            configured: agency.corp_id.as_ref(),
            brand: state.apps.corp_of(&agency.app).ok_or_else(|| {
                // It may be served only now.
                state.apps.unserved(&agency.app).unwrap_or(Unserved::NoBrand)
            }),
        })
        .collect();
    let mut refusals: Vec<_> = held_back
        .iter()
        .filter(|(scope, breaker)| {
            let is_concerned = match scope {
                Scope::Suite(name) => name == suite,
                Scope::App(_)
                | Scope::Dealers(_)
                | Scope::Corp(..)
                | Scope::Fans(..)
                | Scope::FanClass(..) => apps.iter().any(|app| app.app == scope.app()),
            };
            is_concerned && !breaker.is_pacing()
        })
        .filter_map(|(scope, breaker)| refusal(state, view, scope, breaker))
        .collect();
    let unlicensed: Vec<_> =
        apps.iter().flat_map(|app| missing_licences(state, view, app.app, now)).collect();
    refusals.extend(unlicensed);
    let facts = SuiteFacts {
        suite,
        waits_since: settings.waits_since,
        ticket: ticket(state, suite, view),
        exchanges: &view.exchanges,
        authorizations: view
            .authorizations
            .values()
            .map(|one| AuthorizationFacts { record: &one.record, is_readable: one.code.is_some() })
            .collect(),
        apps,
        refusals,
    };
    suite_findings(&facts, now)
}

/// What WeCom reported of members without a licence. It refuses no call for that.
fn missing_licences(state: &AdminState, view: &SuiteView, app: &AppName, now: Timestamp) -> Vec<Refusal> {
    let missing = state.activity.missing_licences(app, now).into_iter();
    let refusal = |(corp_id, since): (CorpId, Timestamp)| Refusal {
        app: Some(app.clone()),
        corp: Some((corp_id.clone(), name_of(state, view, app, &corp_id))),
        errcode: NO_LICENCE,
        since,
        remedy: text(remedy_for(NO_LICENCE, Development::Agency)),
    };
    missing.map(refusal).collect()
}

fn name_of(state: &AdminState, view: &SuiteView, app: &AppName, corp_id: &CorpId) -> Option<String> {
    let listed = state.dealer_names.of(app, corp_id);
    listed.or_else(|| Some(view.authorization(corp_id.as_str())?.record.name.clone()))
}

fn refusal(state: &AdminState, view: &SuiteView, scope: &Scope, breaker: &Breaker) -> Option<Refusal> {
    let errcode = breaker.reason.errcode?;
    Some(Refusal {
        app: if matches!(scope, Scope::Suite(_)) { None } else { Some(scope.app().clone()) },
        corp: scope.corp_id().map(|corp_id| (corp_id.clone(), name_of(state, view, scope.app(), corp_id))),
        errcode,
        since: breaker.since,
        remedy: text(remedy_for(errcode, Development::Agency)),
    })
}

/// The newest ticket, if it can be read.
fn ticket(state: &AdminState, suite: &AppName, view: &SuiteView) -> Option<TicketFacts> {
    let ticket = view.ticket.as_ref()?;
    Some(TicketFacts {
        received_at: ticket.received_at,
        expires_at: ticket.expires_at,
        is_refused: state.suite_platform.has_refused_ticket(suite, ticket.value.as_ref()?),
    })
}

fn status(
    (suite, settings, view): (&AppName, &SuiteSettings, &SuiteView),
    ticket: Option<TicketFacts>,
    findings: &[Finding],
    is_paused: bool,
    now: Timestamp,
) -> SuiteStatus {
    let has_ticket = ticket.is_some_and(|ticket| now < ticket.expires_at && !ticket.is_refused);
    let last_at = ticket.map_or(settings.waits_since, |ticket| ticket.received_at);
    let in_state = |state| {
        let states = view.authorizations.values().map(|one| one.record.state());
        states.filter(|each| *each == state).count() as u64
    };
    let failed = view.exchanges.iter().filter(|(_, exchange)| exchange.end.is_some()).count() as u64;
    SuiteStatus {
        name: suite.clone(),
        suite_id: settings.suite_id.clone(),
        state: if findings.iter().any(|finding| finding.code == FindingCode::Secret) {
            SuiteState::SecretRefused
        } else if is_paused {
            SuiteState::Paused
        } else if has_ticket {
            SuiteState::Ready
        } else {
            SuiteState::WaitingForTicket
        },
        ticket_received_at: ticket.map(|ticket| ticket.received_at),
        ticket_expires_at: ticket.map(|ticket| ticket.expires_at),
        waits_until: (!has_ticket).then(|| next_ticket_at(last_at, now)),
        authorizations: AuthorizationCounts {
            active: in_state(AuthorizationState::Active),
            incomplete: in_state(AuthorizationState::Incomplete),
            cancelled: in_state(AuthorizationState::Cancelled),
        },
        exchanges: ExchangeCounts { waiting: view.exchanges.len() as u64 - failed, failed },
    }
}

#[cfg(test)]
mod tests;
