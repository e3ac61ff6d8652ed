//! Every metric of the service, with its name and help text, and the counters; those of the public listener
//! are in `callbacks`, those of suites in `suites`, those of the machine in `machine`. Label values are from closed sets or from the configuration, so that input cannot create series.
//!
//! Deliberately absent: labels for dealers, fans or customers; setting the gauges, which `gauges` does just
//! before each scrape; and the HTTP endpoint.

mod callbacks;
mod gauges;
mod labels;
mod machine;
mod optional;
mod register;
mod store_log;
mod suites;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;
use strum::VariantArray as _;

use super::observed::Observed;
use super::process::Process;
use super::version::{COMMIT, VERSION};
use crate::domain::history::Tallies;
use crate::domain::ids::{AppName, SinkName};
use crate::store::EventState;
use crate::wecom::api::Api;
use crate::wecom::errcode::Class;
use crate::wecom::error::{CallError, Transport};

pub use callbacks::CallbackMetrics;
pub use labels::{AdminRefusal, AuthCodeOutcome, CallbackOutcome, Deletion, TimestampSource};
use labels::{DeliveryOutcome, Labels, deletion_labels, delivery_labels, errcode_label};
pub use machine::MachineMetrics;
use register::{SECONDS, new, registered};
use store_log::StoreLog;
pub use suites::SuiteMetrics;

/// The buckets of the time to a link: an event may have to wait for hours.
const LINK_SECONDS: [f64; 15] =
    [0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 60.0, 600.0, 3_600.0, 14_400.0, 86_400.0];

/// The outcome of a call that WeCom answered without an error.
const CALL_OK: &str = "ok";

/// The metrics and their registry.
pub struct Metrics {
    /// Those of suites.
    pub suites: SuiteMetrics,
    /// Those of the public listener.
    pub callbacks: CallbackMetrics,
    /// Those of the machine.
    pub machine: MachineMetrics,
    /// How WeCom behaves. It is in no metric, but counted alike.
    pub observed: Observed,
    findings: Family<Labels<2>, Gauge>,
    admin_refused: Family<Labels<1>, Counter>,
    link_seconds: Histogram,
    calls: Family<Labels<2>, Counter>,
    call_seconds: Histogram,
    conversion_ids: Counter,
    /// Why the last call to WeCom had no answer, and how many in a row had none.
    unanswered: Mutex<Option<(String, u64)>>,
    connections_refused: Counter,
    connections_shed: Counter,
    contacts: Family<Labels<1>, Gauge>,
    fans: Family<Labels<1>, Gauge>,
    fans_waiting: Family<Labels<2>, Gauge>,
    fans_rejected: Family<Labels<2, String>, Counter>,
    quota_used: Family<Labels<3, String>, Gauge>,
    quota_limit: Family<Labels<3, String>, Gauge>,
    inbox: Family<Labels<1>, Gauge>,
    events_deleted: Family<Labels<2>, Counter>,
    links: Gauge,
    dealers: Family<Labels<2, String>, Gauge>,
    dealers_silent: Family<Labels<1, String>, Gauge>,
    app_alarms: Family<Labels<2, String>, Gauge>,
    reconcile_running: Gauge,
    feed_head: Gauge,
    deliveries: Family<Labels<2, String>, Counter>,
    delivered: Family<Labels<1, String>, Counter>,
    sink_lag: Family<Labels<1, String>, Gauge>,
    sink_lag_seconds: Family<Labels<1, String>, Gauge>,
    sink_state: Family<Labels<2, String>, Gauge>,
    /// The label sets of `sink_state`.
    sink_states: Mutex<BTreeSet<Labels<2, String>>>,
    paused: Family<Labels<3, String>, Gauge>,
    /// The values of `paused` at the last scrape.
    paused_before: Mutex<BTreeMap<Labels<3, String>, i64>>,
    damaged_records: Gauge,
    store_log: StoreLog,
    registry: Registry,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(Process));
        let r = registry.sub_registry_with_prefix("unionlink");
        let build = Info::new([("version", VERSION), ("commit", COMMIT)]);
        r.register("build", "The version of the program, and the commit it was built from", build);
        let histogram = |r: &mut Registry, name, help| registered(r, name, help, Histogram::new(SECONDS));
        let metrics = Self {
            suites: SuiteMetrics::new(r),
            findings: new(r, "finding", "Findings of /v1/doctor by code and state"),
            callbacks: CallbackMetrics::new(r),
            admin_refused: new(
                r,
                "admin_refused",
                "Requests to the admin listener refused because of their token, host or origin, by reason",
            ),
            link_seconds: registered(
                r,
                "link_seconds",
                "Time from receiving a callback to the durable link that its event led to, waits and retries \
                 included, in seconds; without links that a fan or a later look-up led to",
                Histogram::new(LINK_SECONDS),
            ),
            calls: new(r, "wecom_calls", "Calls to WeCom by API and outcome (ok, or the class of the error)"),
            call_seconds: histogram(r, "wecom_call_seconds", "Duration of a call to WeCom, in seconds"),
            conversion_ids: new(
                r,
                "conversion_ids",
                "Customers (external_userid) sent to WeCom for conversion, repetitions included",
            ),
            unanswered: Mutex::default(),
            connections_refused: new(
                r,
                "connections_refused",
                "Connections closed at once: too many were open, and each was serving a request; or too many \
                 from one source",
            ),
            connections_shed: new(
                r,
                "connections_shed",
                "Connections closed while their request was incomplete, to make room for others",
            ),
            contacts: new(r, "contacts", "Customers: known (all), waiting (still to be looked up), linked"),
            fans: new(r, "fans", "Fans by state of their pending id"),
            fans_waiting: new(r, "fans_waiting", "Fans queued for a call to WeCom, by API and priority"),
            fans_rejected: new(
                r,
                "fans_rejected",
                "Fans that WeCom refused a pending id or the lookup of their existing customers, by app and \
                 errcode (other: a code that unionlink does not know)",
            ),
            quota_used: new(r, "quota_used", "Calls made or reserved in the window that ends now"),
            quota_limit: new(r, "quota_limit", "Calls allowed per window"),
            inbox: new(
                r,
                "inbox_events",
                "Events stored: waiting (leased ones included), dead letters, quarantined messages",
            ),
            events_deleted: new(
                r,
                "events_deleted",
                "Dead letters and quarantined messages deleted without being processed, by state and reason: \
                 discarded (by an operator), expired (after store.quarantine_days)",
            ),
            links: new(r, "links", "Links between a fan and a customer"),
            dealers: new(r, "dealers", "Dealers by app and state: shared, left, unverified (by WeCom)"),
            dealers_silent: new(r, "dealers_silent", "Dealers without a callback for silent_days, by app"),
            app_alarms: new(
                r,
                "app_alarms",
                "Alarms of WeCom about the use of an app, at the brand or a dealer, by app and kind; without \
                 those that have ended",
            ),
            reconcile_running: new(r, "reconcile_running", "1 while a comparison with WeCom's lists runs"),
            feed_head: new(r, "feed_head", "Sequence number of the newest feed entry"),
            deliveries: new(r, "deliveries", "Finished deliveries to a sink by outcome"),
            delivered: new(r, "delivered_entries", "Feed entries delivered to a sink, redeliveries included"),
            sink_lag: new(r, "sink_lag_entries", "Feed entries not yet delivered to a sink"),
            sink_lag_seconds: new(
                r,
                "sink_lag_seconds",
                "Age of the oldest feed entry not yet delivered to a sink, in seconds",
            ),
            sink_state: new(r, "sink_state", "1 for the current state of a sink, 0 for the others"),
            sink_states: Mutex::default(),
            paused: new(
                r,
                "paused",
                "Open circuit breakers: calls held back after failures, by app, scope and WeCom's last code; \
                 waiting for a quota is not counted",
            ),
            paused_before: Mutex::default(),
            damaged_records: new(r, "damaged_records", "Damaged records found in the store since the start"),
            machine: MachineMetrics::new(r),
            observed: Observed::default(),
            store_log: StoreLog::register(r),
            registry,
        };
        metrics.start_at_zero();
        metrics
    }
}

impl Metrics {
    /// Creates the counters whose labels are closed sets: `rate()` does not see the first increment of a
    /// series that did not exist before.
    fn start_at_zero(&self) {
        for refusal in AdminRefusal::VARIANTS {
            drop(self.admin_refused.get_or_create(&[("reason", refusal.into())]));
        }
        for (state, why) in [
            (EventState::Dead, Deletion::Discarded),
            (EventState::Quarantined, Deletion::Discarded),
            (EventState::Quarantined, Deletion::Expired),
        ] {
            drop(self.events_deleted.get_or_create(&deletion_labels(state, why)));
        }
    }

    /// Counts a link that a received event led to, and how long that took.
    pub fn linked(&self, took: Duration) {
        self.link_seconds.observe(took.as_secs_f64());
    }

    /// Counts events in `state` that were deleted without being processed.
    pub fn events_deleted(&self, state: EventState, why: Deletion, count: u64) {
        self.events_deleted.get_or_create(&deletion_labels(state, why)).inc_by(count);
    }

    /// Counts a refused request to the admin listener.
    pub fn admin_refused(&self, refusal: AdminRefusal) {
        self.admin_refused.get_or_create(&[("reason", refusal.into())]).inc();
    }

    /// Counts a connection closed while its request was incomplete.
    pub fn connection_shed(&self) {
        self.connections_shed.inc();
    }

    /// Counts a new connection closed at once because no other could be shed for it.
    pub fn connection_refused(&self) {
        self.connections_refused.inc();
    }

    /// Counts the customers of one conversion call.
    pub fn ids_sent(&self, ids: usize) {
        self.conversion_ids.inc_by(ids as u64);
    }

    /// Counts a finished call to WeCom.
    pub fn wecom_call<T>(&self, api: Api, answer: &Result<T, CallError>, took: Duration) {
        let outcome = match answer {
            Ok(_) => CALL_OK,
            Err(error) => error.class().into(),
        };
        self.calls.get_or_create(&[("api", api.as_str()), ("outcome", outcome)]).inc();
        self.call_seconds.observe(took.as_secs_f64());
        let mut unanswered = self.unanswered.lock().unwrap_or_else(PoisonError::into_inner);
        match answer {
            Err(error @ CallError::Transport { cause, .. }) if *cause != Transport::Body => {
                let count = unanswered.take().map_or(0, |(_, count)| count);
                *unanswered = Some((error.to_string(), count + 1));
            }
            Ok(_) | Err(CallError::Refused { .. } | CallError::Transport { .. }) => *unanswered = None,
            // Nothing was sent.
            Err(CallError::NoPermit { .. } | CallError::NotAuthorized { .. } | CallError::Ledger { .. }) => {}
        }
    }

    /// Why the last call to WeCom had no answer, and how many in a row had none; `None` if it had one.
    #[must_use]
    pub fn unanswered_calls(&self) -> Option<(String, u64)> {
        self.unanswered.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The number of finished calls of `api`, with any outcome.
    #[must_use]
    pub fn calls_of(&self, api: Api) -> u64 {
        let count = |outcome| {
            self.calls.get(&[("api", api.as_str()), ("outcome", outcome)]).map_or(0, |calls| calls.get())
        };
        std::iter::once(CALL_OK).chain(Class::VARIANTS.iter().map(Into::into)).map(count).sum()
    }

    /// The number of customers sent to WeCom for conversion.
    #[must_use]
    pub fn ids_sent_count(&self) -> u64 {
        self.conversion_ids.get()
    }

    /// Counts a fan of a configured app that WeCom refused.
    pub fn fan_rejected(&self, app: &AppName, errcode: i64) {
        let labels = [("app", app.to_string()), ("errcode", errcode_label(Some(errcode)))];
        self.fans_rejected.get_or_create(&labels).inc();
    }

    /// Creates the counters of a configured sink, at 0.
    pub fn sink_configured(&self, sink: &SinkName) {
        for outcome in DeliveryOutcome::VARIANTS {
            drop(self.deliveries.get_or_create(&delivery_labels(sink, *outcome)));
        }
        drop(self.delivered.get_or_create(&[("sink", sink.to_string())]));
    }

    /// All that is counted and belongs into the history, by group and name. `sinks` are those of the configuration.
    #[must_use]
    pub fn counted(&self, sinks: &[SinkName]) -> Tallies {
        let mut counted = Tallies::default();
        self.callbacks.count_into(&mut counted);
        for api in Api::VARIANTS {
            let count = |outcome| {
                self.calls.get(&[("api", api.as_str()), ("outcome", outcome)]).map_or(0, |calls| calls.get())
            };
            counted.add("calls", api.as_str(), count(CALL_OK));
            let failed = Class::VARIANTS.iter().map(|class| count(class.into())).sum();
            counted.add("calls_failed", api.as_str(), failed);
        }
        for sink in sinks {
            let delivered = self.delivered.get(&[("sink", sink.to_string())]).map_or(0, |count| count.get());
            counted.add("delivered", sink.as_str(), delivered);
            let failed = self.deliveries.get(&delivery_labels(sink, DeliveryOutcome::Failed));
            counted.add("deliveries_failed", sink.as_str(), failed.map_or(0, |count| count.get()));
        }
        counted
    }

    /// Removes all series of a sink that is not in the configuration any more.
    pub fn sink_removed(&self, sink: &SinkName) {
        let of_sink = [("sink", sink.to_string())];
        for outcome in DeliveryOutcome::VARIANTS {
            self.deliveries.remove(&delivery_labels(sink, *outcome));
        }
        self.delivered.remove(&of_sink);
        self.sink_lag.remove(&of_sink);
        self.sink_lag_seconds.remove(&of_sink);
        let mut states = self.sink_states.lock().unwrap_or_else(PoisonError::into_inner);
        for labels in states.extract_if(.., |labels| labels[0] == of_sink[0]) {
            self.sink_state.remove(&labels);
        }
    }

    /// Counts a finished delivery to a sink and its delivered entries; a failed one may have delivered some.
    pub fn delivery(&self, sink: &SinkName, ok: bool, delivered: usize) {
        let outcome = if ok { DeliveryOutcome::Ok } else { DeliveryOutcome::Failed };
        self.deliveries.get_or_create(&delivery_labels(sink, outcome)).inc();
        self.delivered.get_or_create(&[("sink", sink.to_string())]).inc_by(delivered as u64);
    }
}

#[cfg(test)]
mod tests;
