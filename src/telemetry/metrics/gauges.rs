//! The gauges of [`Metrics`]: set just before each scrape, from what the caller reads, and the scrape itself.

use std::collections::BTreeMap;
use std::sync::PoisonError;

use prometheus_client::encoding::text;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use strum::VariantArray as _;

use super::Metrics;
use super::labels::{Labels, errcode_label};
use crate::domain::dealer::DealerState;
use crate::domain::event::AppAlarmKind;
use crate::domain::fan::{FanStep, Priority};
use crate::domain::finding::{FindingCode, FindingState};
use crate::domain::ids::{AppName, CorpId};
use crate::domain::tally::Tally;
use crate::store::{Counts, LogStatus};
use crate::wecom::api::Api;

/// A number as the value of a gauge.
fn gauge_value(number: impl TryInto<i64>) -> i64 {
    number.try_into().unwrap_or(i64::MAX)
}

impl Metrics {
    /// Sets a sink's lag, in entries and in seconds, and its state, which is one of `states`.
    pub fn sink(&self, sink: &str, lag: (u64, i64), state: &'static str, states: &[&'static str]) {
        let of_sink = [("sink", sink.to_owned())];
        self.sink_lag.get_or_create(&of_sink).set(gauge_value(lag.0));
        self.sink_lag_seconds.get_or_create(&of_sink).set(lag.1);
        let mut known = self.sink_states.lock().unwrap_or_else(PoisonError::into_inner);
        for each in states {
            let labels = [("sink", sink.to_owned()), ("state", (*each).to_owned())];
            self.sink_state.get_or_create(&labels).set(i64::from(*each == state));
            known.insert(labels);
        }
    }

    /// Sets the number of an app's dealers by state, and of those that are silent. `states` has one element
    /// per dealer.
    pub fn dealers(&self, app: &AppName, states: &[DealerState], silent: usize) {
        for state in DealerState::VARIANTS {
            let count = states.iter().filter(|each| *each == state).count();
            let labels = [("app", app.to_string()), ("state", <&str>::from(state).to_owned())];
            self.dealers.get_or_create(&labels).set(gauge_value(count));
        }
        self.dealers_silent.get_or_create(&[("app", app.to_string())]).set(gauge_value(silent));
    }

    /// Sets the number of an app's alarms of a kind that have not ended.
    pub fn app_alarms(&self, app: &AppName, kind: AppAlarmKind, count: usize) {
        let labels = [("app", app.to_string()), ("kind", <&str>::from(kind).to_owned())];
        self.app_alarms.get_or_create(&labels).set(gauge_value(count));
    }

    /// Sets the used calls and the limit of a quota window. `corp` is the corp of a configured app.
    pub fn quota(&self, corp: &CorpId, api: Api, window: &'static str, used: u32, limit: u32) {
        let budget = [("corp", corp.as_str()), ("api", api.as_str()), ("window", window)]
            .map(|(name, value)| (name, value.to_owned()));
        self.quota_used.get_or_create(&budget).set(used.into());
        self.quota_limit.get_or_create(&budget).set(limit.into());
    }

    /// Sets the number of open circuit breakers by app, kind of scope and errcode. `breakers` are all that
    /// are open; label sets of earlier calls that none of them has are set to 0.
    pub fn paused<'a>(&self, breakers: impl Iterator<Item = (&'a AppName, &'static str, Option<i64>)>) {
        let mut counts = self.paused_before.lock().unwrap_or_else(PoisonError::into_inner);
        for count in counts.values_mut() {
            *count = 0;
        }
        for (app, scope, errcode) in breakers {
            let labels =
                [("app", app.to_string()), ("scope", scope.to_owned()), ("errcode", errcode_label(errcode))];
            *counts.entry(labels).or_default() += 1;
        }
        for (labels, count) in &*counts {
            self.paused.get_or_create(labels).set(*count);
        }
    }

    /// Sets the number of findings by code and state. `findings` are all there are.
    pub fn findings(&self, findings: impl Iterator<Item = (FindingCode, FindingState)>) {
        let mut counts: BTreeMap<_, i64> = BTreeMap::new();
        for finding in findings {
            *counts.entry(finding).or_default() += 1;
        }
        for code in FindingCode::VARIANTS {
            for state in FindingState::VARIANTS {
                let labels = [("code", code.into()), ("state", state.into())];
                let count = counts.get(&(*code, *state)).copied().unwrap_or_default();
                self.findings.get_or_create(&labels).set(count);
            }
        }
    }

    /// Sets whether the dealers' customers are being compared with WeCom's lists.
    pub fn reconcile_running(&self, is_running: bool) {
        self.reconcile_running.set(i64::from(is_running));
    }

    /// Sets how the store's write-ahead log and its checkpoints are.
    pub fn store_log(&self, log: &LogStatus) {
        self.store_log.set(log);
    }

    /// Sets the gauges without a setter of their own, and returns all metrics in the text format of
    /// Prometheus. Without `fans` their gauges stay as they are.
    #[must_use]
    pub fn scrape(&self, counts: &Counts, fans: Option<&Tally>, damaged_records: usize) -> String {
        let set = |family: &Family<Labels<1>, Gauge>, state, value: u64| {
            family.get_or_create(&[("state", state)]).set(gauge_value(value));
        };
        set(&self.inbox, "waiting", counts.inbox);
        set(&self.inbox, "dead", counts.dead);
        set(&self.inbox, "quarantined", counts.quarantined);
        set(&self.contacts, "known", counts.contacts);
        set(&self.contacts, "waiting", counts.waiting);
        set(&self.contacts, "linked", counts.links);
        if let Some(fans) = fans {
            set(&self.fans, "queued", fans.queued);
            set(&self.fans, "minted", fans.minted);
            set(&self.fans, "expired", fans.expired);
            set(&self.fans, "rejected", fans.rejected);
            for (step, api) in [
                (FanStep::Mint, Api::UnionidToPendingId),
                (FanStep::AskExisting, Api::UnionidToExternalUserid),
            ] {
                for priority in Priority::ALL {
                    let queue = [("api", api.as_str()), ("priority", priority.into())];
                    self.fans_waiting.get_or_create(&queue).set(gauge_value(fans.waiting(step, priority)));
                }
            }
        }
        self.links.set(gauge_value(counts.links));
        self.feed_head.set(gauge_value(counts.feed_head));
        self.damaged_records.set(gauge_value(damaged_records));
        let mut out = String::new();
        // Writing to a String does not fail.
        let _ = text::encode(&mut out, &self.registry);
        out
    }
}
