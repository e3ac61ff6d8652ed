//! The metrics of suites (代开发应用模版): their tickets, authorisations, auth codes and events.

use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use strum::VariantArray as _;

use super::labels::{AuthCodeOutcome, Labels};
use super::register::{SECONDS, new, registered};
use crate::domain::authorization::AuthorizationState;
use crate::domain::ids::AppName;

/// The metrics of suites.
pub struct SuiteMetrics {
    ready: Family<Labels<1, String>, Gauge>,
    ticket_age_seconds: Family<Labels<1, String>, Gauge>,
    authorizations: Family<Labels<2, String>, Gauge>,
    auth_codes: Family<Labels<2, String>, Counter>,
    event_seconds: Histogram,
}

impl SuiteMetrics {
    /// Registers the metrics.
    pub(super) fn new(r: &mut Registry) -> Self {
        Self {
            ready: new(r, "suite_ready", "1 while a suite (代开发应用模版) can call WeCom, 0 otherwise"),
            ticket_age_seconds: new(
                r,
                "suite_ticket_age_seconds",
                "Age of a suite's newest ticket, in seconds; a ticket is valid for 1800",
            ),
            authorizations: new(
                r,
                "authorizations",
                "Corps that have authorised a suite, by suite and state: active, incomplete (being read), \
                 cancelled",
            ),
            auth_codes: new(
                r,
                "auth_codes",
                "Auth codes of a suite by outcome: exchanged, lost, expired, refused, unreadable",
            ),
            event_seconds: registered(
                r,
                "suite_event_seconds",
                "Time from receiving an acknowledged event of a suite itself to our answer, in seconds; \
                 WeCom waits one second",
                Histogram::new(SECONDS),
            ),
        }
    }

    /// Creates the counters of a configured suite, at 0.
    pub fn configured(&self, suite: &AppName) {
        for outcome in AuthCodeOutcome::VARIANTS {
            drop(self.auth_codes.get_or_create(&auth_code_labels(suite, *outcome)));
        }
    }

    /// Counts what became of an auth code of a configured suite.
    pub fn auth_code(&self, suite: &AppName, outcome: AuthCodeOutcome) {
        self.auth_codes.get_or_create(&auth_code_labels(suite, outcome)).inc();
    }

    /// Counts an acknowledged event of a suite itself, and how long the answer took.
    pub fn event_answered(&self, took: Duration) {
        self.event_seconds.observe(took.as_secs_f64());
    }

    /// Sets whether a suite can call WeCom, the age of its ticket if it has one, and the number of its
    /// authorisations in each state.
    pub fn set(
        &self,
        suite: &AppName,
        is_ready: bool,
        ticket_age_seconds: Option<i64>,
        authorizations: impl IntoIterator<Item = (AuthorizationState, u64)>,
    ) {
        let of_suite = [("suite", suite.to_string())];
        self.ready.get_or_create(&of_suite).set(i64::from(is_ready));
        match ticket_age_seconds {
            Some(age) => {
                self.ticket_age_seconds.get_or_create(&of_suite).set(age);
            }
            None => {
                self.ticket_age_seconds.remove(&of_suite);
            }
        }
        for (state, count) in authorizations {
            let labels = [("suite", suite.to_string()), ("state", <&str>::from(state).to_owned())];
            let count = i64::try_from(count).unwrap_or(i64::MAX);
            self.authorizations.get_or_create(&labels).set(count);
        }
    }
}

fn auth_code_labels(suite: &AppName, outcome: AuthCodeOutcome) -> Labels<2, String> {
    [("suite", suite.to_string()), ("outcome", <&str>::from(outcome).to_owned())]
}
