//! The metrics of the public listener: requests, refusals, keys, events and timestamps of callbacks.

use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use strum::VariantArray as _;

use super::labels::{CallbackOutcome, Labels, TimestampSource};
use super::register::{SECONDS, new, registered};
use crate::callback::{KeyAge, Refusal};
use crate::domain::event::Kind;
use crate::domain::far_off::{FarOff, far_off};
use crate::domain::history::Tallies;
use crate::domain::ids::AppName;
use crate::domain::time::Timestamp;

/// The metrics of the public listener.
pub struct CallbackMetrics {
    answered: Family<Labels<1>, Counter>,
    refused: Family<Labels<1>, Counter>,
    opened: Family<Labels<2, String>, Counter>,
    far_off: Family<Labels<2>, Counter>,
    events: Family<Labels<1>, Counter>,
    strangers: Family<Labels<1>, Counter>,
    addresses: Gauge,
    seconds: Histogram,
}

fn opened_labels(name: &AppName, key: KeyAge) -> Labels<2, String> {
    [("name", name.to_string()), ("key", <&str>::from(key).to_owned())]
}

impl CallbackMetrics {
    /// Registers the metrics, and creates the counters whose labels are closed sets: `rate()` does not see the
    /// first increment of a series that did not exist before.
    pub(super) fn new(r: &mut Registry) -> Self {
        let metrics = Self {
            answered: new(r, "callbacks", "Callbacks and other requests to the public listener, by outcome"),
            refused: new(r, "callback_refusals", "Callbacks that failed verification, by reason"),
            opened: new(
                r,
                "callbacks_opened",
                "Verified callbacks and URL checks by name in the URL and by key: current, or previous, the \
                 token or key from before a change, which may be removed once it opens nothing any more",
            ),
            far_off: new(
                r,
                "callbacks_far_off",
                "Verified callbacks with a timestamp over ten minutes off our clock, by source and direction",
            ),
            strangers: new(
                r,
                "callback_strangers",
                "Requests to the public listener from addresses that are not on WeCom's list \
                 (getcallbackip), by outcome; none are counted while server.callback_ips is off",
            ),
            addresses: new(
                r,
                "callback_addresses",
                "Addresses and networks on WeCom's list (getcallbackip); 0 before it was read",
            ),
            events: new(r, "events", "Events received, duplicates included, by type"),
            seconds: registered(
                r,
                "callback_seconds",
                "Time from the last byte of an acknowledged callback to our answer, in seconds",
                Histogram::new(SECONDS),
            ),
        };
        for outcome in CallbackOutcome::VARIANTS {
            drop(metrics.answered.get_or_create(&[("outcome", outcome.into())]));
        }
        for refusal in Refusal::VARIANTS {
            drop(metrics.refused.get_or_create(&[("reason", refusal.into())]));
        }
        for source in TimestampSource::VARIANTS {
            for direction in FarOff::VARIANTS {
                let labels = [("time", source.into()), ("direction", direction.into())];
                drop(metrics.far_off.get_or_create(&labels));
            }
        }
        metrics
    }

    /// Creates the counters of a callback URL, at 0.
    pub fn url_configured(&self, name: &AppName) {
        for key in KeyAge::VARIANTS {
            drop(self.opened.get_or_create(&opened_labels(name, *key)));
        }
    }

    /// Creates the counters of requests from strangers, at 0.
    pub fn sources_compared(&self) {
        for outcome in CallbackOutcome::VARIANTS {
            drop(self.strangers.get_or_create(&[("outcome", outcome.into())]));
        }
    }

    /// Counts an answered request from an address that is not on WeCom's list.
    pub fn stranger(&self, outcome: CallbackOutcome) {
        self.strangers.get_or_create(&[("outcome", outcome.into())]).inc();
    }

    /// Records the length of WeCom's list.
    pub fn addresses_listed(&self, count: usize) {
        self.addresses.set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// Counts an answered request. `took` is the response time of an acknowledged callback.
    pub fn answered(&self, outcome: CallbackOutcome, took: Option<Duration>) {
        self.answered.get_or_create(&[("outcome", outcome.into())]).inc();
        if let Some(took) = took {
            self.seconds.observe(took.as_secs_f64());
        }
    }

    /// The number of answers with this outcome.
    #[must_use]
    pub fn answered_with(&self, outcome: CallbackOutcome) -> u64 {
        self.answered.get_or_create(&[("outcome", outcome.into())]).get()
    }

    /// Adds the answers and the refusals to what is counted for the history.
    pub(super) fn count_into(&self, counted: &mut Tallies) {
        for outcome in CallbackOutcome::VARIANTS {
            counted.add("callbacks", outcome.into(), self.answered_with(*outcome));
        }
        for refusal in Refusal::VARIANTS {
            let count = self.refused.get(&[("reason", refusal.into())]).map_or(0, |count| count.get());
            counted.add("refusals", refusal.into(), count);
        }
    }

    /// Counts a refused callback.
    pub fn refused(&self, refusal: Refusal) {
        self.refused.get_or_create(&[("reason", refusal.into())]).inc();
    }

    /// Counts a verified callback or URL check.
    pub fn opened(&self, name: &AppName, key: KeyAge) {
        self.opened.get_or_create(&opened_labels(name, key)).inc();
    }

    /// Counts a timestamp of a verified callback if it is far off our clock.
    pub fn timestamp_seen(&self, source: TimestampSource, at: Timestamp, now: Timestamp) {
        if let Some(direction) = far_off(at, now) {
            self.far_off.get_or_create(&[("time", source.into()), ("direction", direction.into())]).inc();
        }
    }

    /// Counts a received event.
    pub fn event(&self, kind: Kind) {
        self.events.get_or_create(&[("type", kind.into())]).inc();
    }
}
