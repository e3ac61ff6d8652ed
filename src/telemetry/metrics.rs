//! Every metric of the service, with its help text. Label values are closed sets, so no input can make more of
//! them; what is a state rather than an event (queue lengths) is read from the store when somebody scrapes.

mod labels;

use std::time::Duration;

use prometheus_client::encoding::text;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use crate::callback::Refusal;
use crate::domain::event::Kind;
use crate::domain::fan::{FanStep, Priority};
use crate::domain::far_off::{FarOff, far_off};
use crate::domain::ids::{CorpId, SinkName};
use crate::domain::tally::Tally;
use crate::domain::time::Timestamp;
use crate::store::Counts;
use crate::wecom::{Api, CallError, Class};

pub use labels::{AdminRefusal, DoorOutcome, Told};
use labels::{Budget, Call, Delivery, EventType, OfSink, Outcome, Queue, Reason, SinkState, State, ToldTime};

const SECONDS: [f64; 14] =
    [0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0];

/// The outcome of a call that WeCom answered without an error.
const CALL_OK: &str = "ok";

/// The metrics and their registry.
pub struct Metrics {
    registry: Registry,
    door: Family<Outcome, Counter>,
    refusals: Family<Reason, Counter>,
    admin_refused: Family<Reason, Counter>,
    far_off: Family<ToldTime, Counter>,
    events: Family<EventType, Counter>,
    door_seconds: Histogram,
    calls: Family<Call, Counter>,
    call_seconds: Histogram,
    resolved_ids: Counter,
    connections_refused: Counter,
    connections_shed: Counter,
    contacts: Family<State, Gauge>,
    fans: Family<State, Gauge>,
    fans_waiting: Family<Queue, Gauge>,
    quota_used: Family<Budget, Gauge>,
    quota_limit: Family<Budget, Gauge>,
    inbox: Family<State, Gauge>,
    links: Gauge,
    feed_head: Gauge,
    deliveries: Family<Delivery, Counter>,
    delivered: Family<OfSink, Counter>,
    sink_lag: Family<OfSink, Gauge>,
    sink_lag_seconds: Family<OfSink, Gauge>,
    sink_state: Family<SinkState, Gauge>,
    paused: Gauge,
    damaged_records: Gauge,
}

impl Default for Metrics {
    fn default() -> Self {
        let metrics = Self {
            registry: Registry::with_prefix("unionlink"),
            door: Family::default(),
            refusals: Family::default(),
            admin_refused: Family::default(),
            far_off: Family::default(),
            events: Family::default(),
            door_seconds: Histogram::new(SECONDS),
            calls: Family::default(),
            call_seconds: Histogram::new(SECONDS),
            resolved_ids: Counter::default(),
            connections_refused: Counter::default(),
            connections_shed: Counter::default(),
            contacts: Family::default(),
            fans: Family::default(),
            fans_waiting: Family::default(),
            quota_used: Family::default(),
            quota_limit: Family::default(),
            inbox: Family::default(),
            links: Gauge::default(),
            feed_head: Gauge::default(),
            deliveries: Family::default(),
            delivered: Family::default(),
            sink_lag: Family::default(),
            sink_lag_seconds: Family::default(),
            sink_state: Family::default(),
            paused: Gauge::default(),
            damaged_records: Gauge::default(),
        };
        // Counters exist from the start: a rate over one that appears with its first event misses it.
        for outcome in DoorOutcome::ALL {
            drop(metrics.door.get_or_create(&Outcome { outcome: outcome.as_str() }));
        }
        for refusal in Refusal::ALL {
            drop(metrics.refusals.get_or_create(&Reason { reason: refusal.as_str() }));
        }
        for refusal in AdminRefusal::ALL {
            drop(metrics.admin_refused.get_or_create(&Reason { reason: refusal.as_str() }));
        }
        for (told, direction) in Told::ALL.into_iter().flat_map(|told| FarOff::ALL.map(|to| (told, to))) {
            drop(metrics.far_off.get_or_create(&ToldTime::of(told, direction)));
        }
        metrics.registered()
    }
}

impl Metrics {
    fn registered(mut self) -> Self {
        let r = &mut self.registry;
        r.register("callbacks", "Requests to the callback door by outcome", self.door.clone());
        r.register("callback_refusals", "Refused callbacks by reason", self.refusals.clone());
        r.register(
            "admin_refused",
            "Requests to the admin listener refused for their token, host or origin, by reason",
            self.admin_refused.clone(),
        );
        r.register(
            "callbacks_far_off",
            "Genuine callbacks with a time more than ten minutes from ours, by which and to which side",
            self.far_off.clone(),
        );
        r.register("events", "Understood events by type, duplicates included", self.events.clone());
        r.register(
            "callback_seconds",
            "From a callback's last byte to its answer, in seconds",
            self.door_seconds.clone(),
        );
        r.register("wecom_calls", "Calls to WeCom by API and outcome", self.calls.clone());
        r.register("wecom_call_seconds", "Duration of calls to WeCom, in seconds", self.call_seconds.clone());
        r.register("resolved_ids", "External userids asked about", self.resolved_ids.clone());
        r.register(
            "connections_refused",
            "Connections closed because too many were open, all of them at work",
            self.connections_refused.clone(),
        );
        r.register(
            "connections_shed",
            "Connections closed while they had not sent their request, to make room for others",
            self.connections_shed.clone(),
        );
        r.register("contacts", "Customers by state", self.contacts.clone());
        r.register("fans", "Fans by state", self.fans.clone());
        r.register(
            "fans_waiting",
            "Fans that wait for a call, by API and priority",
            self.fans_waiting.clone(),
        );
        r.register("quota_used", "Calls counted against a window that ends now", self.quota_used.clone());
        r.register("quota_limit", "Calls a window allows", self.quota_limit.clone());
        r.register("inbox_events", "Events in the inbox by state", self.inbox.clone());
        r.register("links", "Links", self.links.clone());
        r.register("feed_head", "Number of the newest feed entry", self.feed_head.clone());
        r.register("deliveries", "Deliveries by sink and outcome", self.deliveries.clone());
        r.register(
            "delivered_entries",
            "Entries that arrived at a sink, repetitions included",
            self.delivered.clone(),
        );
        r.register("sink_lag_entries", "Entries that a sink has still to get", self.sink_lag.clone());
        r.register(
            "sink_lag_seconds",
            "Age of the oldest entry that a sink has still to get",
            self.sink_lag_seconds.clone(),
        );
        r.register("sink_state", "1 for the state a sink is in", self.sink_state.clone());
        r.register("paused", "Apps and dealers whose calls are paused", self.paused.clone());
        r.register(
            "damaged_records",
            "Damaged records of the store come across since the start",
            self.damaged_records.clone(),
        );
        self
    }

    /// A request to the callback door was answered.
    pub fn door(&self, outcome: DoorOutcome, took: Duration) {
        self.door.get_or_create(&Outcome { outcome: outcome.as_str() }).inc();
        self.door_seconds.observe(took.as_secs_f64());
    }

    /// A callback was refused.
    pub fn refused(&self, refusal: Refusal) {
        self.refusals.get_or_create(&Reason { reason: refusal.as_str() }).inc();
    }

    /// A genuine callback told a time; counted if it is far off.
    pub fn told(&self, told: Told, at: Timestamp, now: Timestamp) {
        if let Some(direction) = far_off(at, now) {
            self.far_off.get_or_create(&ToldTime::of(told, direction)).inc();
        }
    }

    /// An event was understood.
    pub fn event(&self, kind: Kind) {
        self.events.get_or_create(&EventType { r#type: kind.as_str() }).inc();
    }

    /// A request to the private listener was refused.
    pub fn admin_refused(&self, refusal: AdminRefusal) {
        self.admin_refused.get_or_create(&Reason { reason: refusal.as_str() }).inc();
    }

    /// A connection that had not sent its request was closed to make room.
    pub fn connection_shed(&self) {
        self.connections_shed.inc();
    }

    /// A connection was closed because too many were open.
    pub fn connection_refused(&self) {
        self.connections_refused.inc();
    }

    /// So many ids were put into one call.
    pub fn ids_asked(&self, ids: usize) {
        self.resolved_ids.inc_by(ids as u64);
    }

    /// A call to WeCom ended.
    pub fn wecom_call<T>(&self, api: Api, answer: &Result<T, CallError>, took: Duration) {
        let outcome = match answer {
            Ok(_) => CALL_OK,
            Err(error) => error.class().as_str(),
        };
        self.calls.get_or_create(&Call { api: api.as_str(), outcome }).inc();
        self.call_seconds.observe(took.as_secs_f64());
    }

    /// How many calls of `api` ended, whatever their outcome.
    #[must_use]
    pub fn calls_of(&self, api: Api) -> u64 {
        let count =
            |outcome| self.calls.get(&Call { api: api.as_str(), outcome }).map_or(0, |calls| calls.get());
        std::iter::once(CALL_OK).chain(Class::ALL.map(Class::as_str)).map(count).sum()
    }

    /// How many requests to the callback door had this outcome.
    #[must_use]
    pub fn door_count(&self, outcome: DoorOutcome) -> u64 {
        self.door.get_or_create(&Outcome { outcome: outcome.as_str() }).get()
    }

    /// How many ids WeCom was asked about.
    #[must_use]
    pub fn ids_asked_count(&self) -> u64 {
        self.resolved_ids.get()
    }

    /// A sink will be delivered to: its counters exist from now on.
    pub fn sink_known(&self, sink: &SinkName) {
        let sink = sink.to_string();
        for outcome in ["ok", "failed"] {
            drop(self.deliveries.get_or_create(&Delivery { sink: sink.clone(), outcome }));
        }
        drop(self.delivered.get_or_create(&OfSink { sink }));
    }

    /// A delivery to a sink ended, with so many entries arrived.
    pub fn delivery(&self, sink: &SinkName, ok: bool, arrived: usize) {
        let (sink, outcome) = (sink.to_string(), if ok { "ok" } else { "failed" });
        self.deliveries.get_or_create(&Delivery { sink: sink.clone(), outcome }).inc();
        self.delivered.get_or_create(&OfSink { sink }).inc_by(arrived as u64);
    }

    /// Notes how far a sink is, and in which of `states` it is.
    pub fn sink(&self, sink: &str, lag: (u64, i64), state: &'static str, states: &[&'static str]) {
        let of_sink = OfSink { sink: sink.to_owned() };
        self.sink_lag.get_or_create(&of_sink).set(i64::try_from(lag.0).unwrap_or(i64::MAX));
        self.sink_lag_seconds.get_or_create(&of_sink).set(lag.1);
        for other in states {
            let label = SinkState { sink: sink.to_owned(), state: other };
            self.sink_state.get_or_create(&label).set(i64::from(*other == state));
        }
    }

    /// Notes how much of one of WeCom's budgets is used. Corps and windows are those of the configuration.
    pub fn quota(&self, corp: &CorpId, api: Api, window: &'static str, used: u32, limit: u32) {
        let budget = Budget { corp: corp.to_string(), api: api.as_str(), window };
        self.quota_used.get_or_create(&budget).set(used.into());
        self.quota_limit.get_or_create(&budget).set(limit.into());
    }

    /// The text that Prometheus reads, with the states as of now.
    #[must_use]
    pub fn scrape(&self, counts: &Counts, fans: &Tally, paused: usize, damaged_records: usize) -> String {
        let set = |family: &Family<State, Gauge>, state, value: u64| {
            family.get_or_create(&State { state }).set(i64::try_from(value).unwrap_or(i64::MAX));
        };
        set(&self.inbox, "waiting", counts.inbox);
        set(&self.inbox, "dead", counts.dead);
        set(&self.inbox, "quarantined", counts.quarantined);
        set(&self.contacts, "known", counts.contacts);
        set(&self.contacts, "waiting", counts.waiting);
        set(&self.contacts, "linked", counts.links);
        set(&self.fans, "queued", fans.queued);
        set(&self.fans, "minted", fans.minted);
        set(&self.fans, "expired", fans.expired);
        set(&self.fans, "rejected", fans.rejected);
        for (step, api) in
            [(FanStep::Mint, Api::UnionidToPendingId), (FanStep::AskExisting, Api::UnionidToExternalUserid)]
        {
            for priority in Priority::ALL {
                let queue = Queue { api: api.as_str(), priority: priority.as_str() };
                let waiting = i64::try_from(fans.waiting(step, priority)).unwrap_or(i64::MAX);
                self.fans_waiting.get_or_create(&queue).set(waiting);
            }
        }
        self.links.set(i64::try_from(counts.links).unwrap_or(i64::MAX));
        self.feed_head.set(i64::try_from(counts.feed_head).unwrap_or(i64::MAX));
        self.paused.set(i64::try_from(paused).unwrap_or(i64::MAX));
        self.damaged_records.set(i64::try_from(damaged_records).unwrap_or(i64::MAX));
        let mut out = String::new();
        // Writing to a String does not fail.
        let _ = text::encode(&mut out, &self.registry);
        out
    }
}
