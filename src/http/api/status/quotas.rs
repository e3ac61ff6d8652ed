//! Quotas and queues in `/v1/status`: fans waiting for each API, the use of each quota, and the forecast.

use std::collections::HashMap;

use super::super::state::AdminState;
use super::view::{QueueStatus, QuotaForecast, QuotaStatus, QuotaWindow};
use crate::domain::fan::{FanStep, Priority};
use crate::domain::forecast::forecast;
use crate::domain::ids::{AppName, CorpId};
use crate::domain::quota::{Limits, Share};
use crate::domain::tally::Tally;
use crate::domain::time::{SECOND_MS, Timestamp};
use crate::http::problem::Problem;
use crate::wecom::Api;
use crate::worker::apps::{AppRules, RulesByApp};

/// The steps of a fan, each with the API it calls.
const STEPS: [(FanStep, Api); 2] =
    [(FanStep::Mint, Api::UnionidToPendingId), (FanStep::AskExisting, Api::UnionidToExternalUserid)];

/// The queues that are not empty, each with the age of its oldest entry.
pub(super) async fn queues(
    state: &AdminState,
    tallies: &HashMap<AppName, Tally>,
    now: Timestamp,
) -> Result<Vec<QueueStatus>, Problem> {
    let mut queues = Vec::new();
    for (app, tally) in tallies {
        for (step, api) in STEPS {
            for priority in Priority::ALL.into_iter().filter(|priority| tally.waiting(step, *priority) > 0) {
                let head = state.store.next_fan_due(app, step, &[priority]).await?;
                queues.push(QueueStatus {
                    app: app.clone(),
                    api: api.as_str(),
                    priority: priority.into(),
                    waiting: tally.waiting(step, priority),
                    oldest_age_seconds: head.map(|due_at| now.millis_since(due_at).max(0) / SECOND_MS),
                });
            }
        }
    }
    Ok(queues)
}

/// The use of each quota, with a forecast for minting.
pub(super) async fn quotas(
    state: &AdminState,
    tallies: &HashMap<AppName, Tally>,
) -> Result<Vec<QuotaStatus>, Problem> {
    let now = state.clock.moment();
    let mut quotas = Vec::new();
    let apps = state.apps.all();
    for (name, app, corp_id) in with_corp(&apps) {
        // Apps of one corp share its quota, so the forecast counts the fans of all of them.
        let (limits, fans) = corp_quota(&apps, corp_id, tallies);
        for (step, api) in STEPS {
            let ledger = state.store.ledger(corp_id.as_str(), api.as_str()).await?;
            let used = ledger.used(now);
            let forecast = (step == FanStep::Mint).then(|| {
                let share = Share::Without { reserve_percent: app.reserve_percent, month_kept: 0 };
                QuotaForecast::from(forecast(&fans, &ledger, limits, share, app.renew, now))
            });
            quotas.push(QuotaStatus {
                app: name.clone(),
                corp_id: corp_id.clone(),
                api: api.as_str(),
                blocked_until: used.blocked_ms.map(|ms| now.wall.plus_ms(ms)),
                hour: QuotaWindow::new(used.hour, limits.per_hour),
                day: QuotaWindow::new(used.day, limits.per_day),
                month: QuotaWindow::new(used.month, limits.per_month),
                reserve_percent: app.reserve_percent,
                forecast,
            });
        }
    }
    Ok(quotas)
}

/// Sets the metrics of quota use.
pub(super) async fn update_metrics(state: &AdminState) -> Result<(), Problem> {
    let now = state.clock.moment();
    let apps = state.apps.all();
    for (_, _, corp_id) in with_corp(&apps) {
        let (limits, _) = corp_quota(&apps, corp_id, &HashMap::new());
        for (_, api) in STEPS {
            let used = state.store.ledger(corp_id.as_str(), api.as_str()).await?.used(now);
            for (window, used, limit) in [
                ("hour", used.hour, limits.per_hour),
                ("day", used.day, limits.per_day),
                ("month", used.month, limits.per_month),
            ] {
                state.metrics.quota(corp_id, api, window, used, limit);
            }
        }
    }
    Ok(())
}

/// The apps that serve a corp, each with it.
fn with_corp(apps: &RulesByApp) -> impl Iterator<Item = (&AppName, &AppRules, &CorpId)> {
    apps.iter().filter_map(|(name, rules)| Some((name, &**rules, rules.corp_id.as_ref()?)))
}

/// The quota that the apps of a corp share, and the total of their fans.
fn corp_quota(apps: &RulesByApp, corp_id: &CorpId, tallies: &HashMap<AppName, Tally>) -> (Limits, Tally) {
    let of_corp = with_corp(apps).filter(|(_, _, of)| *of == corp_id);
    let unlimited = Limits { per_hour: u32::MAX, per_day: u32::MAX, per_month: u32::MAX };
    of_corp.fold((unlimited, Tally::default()), |(limits, mut fans), (name, app, _)| {
        if let Some(tally) = tallies.get(name) {
            fans += tally;
        }
        (limits.and(app.quota), fans)
    })
}
