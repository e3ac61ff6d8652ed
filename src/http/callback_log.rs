//! The log of the callback listener: verified URLs, the first callback of each dealer, and callbacks that are
//! refused, quarantined, not stored, without effect or not acknowledged, with a hint what to check.
//!
//! Anybody can send requests to this listener, so a line is logged at most once a minute for each app and
//! reason, with the number of occurrences since the line before.
//!
//! Deliberately absent: metrics, and the content of requests. Query values, bodies, personal ids and names of
//! unknown apps are never logged.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};

use axum::http::StatusCode;

use super::doors::Misplaced;
use crate::callback::Refusal;
use crate::domain::event::QuarantineReason;
use crate::domain::ids::{AppName, CorpId};
use crate::domain::network::Network;
use crate::store::StoreError;
use crate::telemetry::throttle::LogThrottle;

/// Dealers that are remembered; the first callback of a further one is not logged.
const DEALERS_MAX: usize = 10_000;

/// The log of the callback listener.
#[derive(Debug, Default)]
pub struct CallbackLog {
    /// By reason, and by app where the reason concerns one.
    throttle: LogThrottle<(Option<AppName>, &'static str)>,
    /// The dealers that sent a callback since the start.
    dealers: Mutex<HashMap<AppName, HashSet<CorpId>>>,
}

impl CallbackLog {
    /// Logs a URL check (GET) that was answered with the decrypted echo string.
    pub(super) fn url_verified(&self, app: &AppName) {
        if let Some(checks) = self.throttle.count((Some(app.clone()), "verified")) {
            tracing::info!(%app, checks, "callback URL verified");
        }
    }

    /// Logs that a URL was tried by us.
    pub(super) fn url_tried(&self, app: &AppName) {
        if let Some(trials) = self.throttle.count((Some(app.clone()), "tried")) {
            tracing::info!(%app, trials, "callback URL tried by unionlink verify-url");
        }
    }

    /// Logs messages that were verified with the token or key from before a change.
    pub(super) fn opened_with_previous(&self, app: &AppName) {
        if let Some(messages) = self.throttle.count((Some(app.clone()), "previous_key")) {
            tracing::info!(%app, messages, "callbacks verified with the previous token or key");
        }
    }

    /// Whether this is the first callback of a dealer since the start.
    pub(super) fn is_first_of(&self, app: &AppName, corp_id: &CorpId) -> bool {
        let mut dealers = self.dealers.lock().unwrap_or_else(PoisonError::into_inner);
        if dealers.get(app).is_some_and(|of_app| of_app.contains(corp_id)) {
            return false;
        }
        let has_room = dealers.values().map(HashSet::len).sum::<usize>() < DEALERS_MAX;
        has_room && dealers.entry(app.clone()).or_default().insert(corp_id.clone())
    }

    /// Logs a refusal because of the query, the envelope, the signature or the content.
    pub(super) fn refused(&self, app: &AppName, refusal: Refusal) {
        self.warn(app, refusal.into(), &refusal, hint(refusal));
    }

    /// Logs a refusal because of the body; `status` is 413, 408 or 400.
    pub(super) fn body_refused(&self, app: &AppName, status: StatusCode) {
        let (reason, what, hint) = match status {
            StatusCode::PAYLOAD_TOO_LARGE => (
                "too_large",
                "the body is too large",
                "WeCom's own bodies are far below server.body_bytes_max",
            ),
            StatusCode::REQUEST_TIMEOUT => (
                "too_slow",
                "the body did not arrive in time",
                "check the proxy and the network; the limit is server.body_timeout_ms",
            ),
            _ => ("incomplete", "the body is incomplete", "check the proxy and the network"),
        };
        self.warn(app, reason, &what, hint);
    }

    /// Logs refused requests from addresses that are not on WeCom's list.
    pub(super) fn stranger_refused(&self, app: &AppName, source: IpAddr) {
        let refusal = Refusal::Source;
        let reason: &'static str = refusal.into();
        if let Some(refused) = self.throttle.count((Some(app.clone()), reason)) {
            let (source, hint) = (neighbourhood(source), hint(refusal));
            tracing::warn!(%app, reason, source, refused, hint, "callbacks refused: {refusal}");
        }
    }

    /// Logs verified callbacks from addresses that are not on WeCom's list.
    pub(super) fn stranger_verified(&self, app: &AppName, source: IpAddr) {
        if let Some(callbacks) = self.throttle.count((Some(app.clone()), "stranger")) {
            let source = neighbourhood(source);
            let hint = "WeCom's list does not have all of its addresses, or a proxy does not say where a \
                        request is from: do not set server.callback_ips to enforce";
            tracing::warn!(%app, source, callbacks, hint, "genuine callbacks come from outside WeCom's list");
        }
    }

    /// Logs requests that are not compared with WeCom's list: a proxy did not say where they are from.
    pub(super) fn source_is_a_proxy(&self, source: IpAddr) {
        if let Some(requests) = self.throttle.count((None, "source_is_a_proxy")) {
            let source = neighbourhood(source);
            let hint =
                "name the proxy in server.trusted_proxies, and have it send X-Forwarded-For or PROXY headers";
            tracing::warn!(
                source,
                requests,
                hint,
                "callbacks not compared with WeCom's list: they come from a proxy"
            );
        }
    }

    fn warn(&self, app: &AppName, reason: &'static str, what: &dyn fmt::Display, hint: &str) {
        if let Some(refused) = self.throttle.count((Some(app.clone()), reason)) {
            tracing::warn!(%app, reason, refused, hint, "callbacks refused: {what}");
        }
    }

    /// Logs a URL check that is encrypted for a corp or suite that is not accepted. The request was
    /// signed, so `receive_id` is not a stranger's text.
    pub(super) fn echo_not_accepted(&self, app: &AppName, receive_id: &str, is_self_built: bool) {
        let refusal = Refusal::ReceiveId;
        let reason: &'static str = refusal.into();
        if let Some(refused) = self.throttle.count((Some(app.clone()), reason)) {
            let hint = if is_self_built {
                "WeCom saved the URL for this receive id: compare corp_id with 我的企业 → 企业信息 → 企业ID"
            } else {
                hint(refusal)
            };
            tracing::warn!(%app, reason, receive_id, refused, hint, "callbacks refused: {refusal}");
        }
    }

    /// Logs a request for an agency-developed app that uses the URL of its suite.
    pub(super) fn uses_suite_url(&self, app: &AppName, suite: &AppName) {
        if let Some(refused) = self.throttle.count((Some(app.clone()), "suite_url")) {
            let hint = format!(
                "enter the URL of its suite, which ends in /callback/{suite}, as the app's callback URL, or \
                 give the app a callback_token or encoding_aes_key of its own"
            );
            tracing::warn!(%app, %suite, refused, hint, "callbacks refused: the app has no URL of its own");
        }
    }

    /// Logs a verified message that has no effect.
    pub(super) fn misplaced(&self, app: &AppName, why: &Misplaced) {
        let reason: &'static str = why.into();
        let Some(messages) = self.throttle.count((Some(app.clone()), reason)) else { return };
        let (detail, hint) = match why {
            // Nothing to correct: late or repeated messages, and some that come before an authorisation.
            Misplaced::Stale => {
                return tracing::info!(%app, reason, messages, "messages without effect");
            }
            Misplaced::ReceiveId | Misplaced::SuiteId => (
                None,
                "compare suite_id with the template's, and its callback URL with the name of the suite here",
            ),
            Misplaced::NotUnderstood(detail) => {
                (Some(detail), "update unionlink: a newer version may support this message")
            }
        };
        tracing::warn!(%app, reason, detail, messages, hint, "messages without effect");
    }

    /// Logs quarantined messages that were redriven because an app serves their corp now.
    pub(super) fn routed(suite: &AppName, messages: u64) {
        tracing::info!(%suite, messages, "messages redriven: an app of the suite serves their corp now");
    }

    /// Logs that messages could not be redriven because of the store.
    pub(super) fn not_routed(&self, error: &StoreError) {
        if let Some(failures) = self.throttle.count((None, "not_routed")) {
            tracing::warn!(failures, error = error.to_string(), "messages not redriven");
        }
    }

    /// Logs a request for an app that is not among the `known` ones.
    pub(super) fn unknown_app<'a>(&self, known: impl Iterator<Item = &'a AppName>) {
        if let Some(refused) = self.throttle.count((None, "unknown_app")) {
            let mut apps: Vec<_> = known.map(AppName::as_str).collect();
            apps.sort_unstable();
            let apps = apps.join(", ");
            let hint = "the URL in WeCom's console has to end in /callback/ and one of these names";
            tracing::warn!(apps, refused, hint, "callbacks refused: their URL does not name an app");
        }
    }

    /// Logs a verified callback that was quarantined.
    pub(super) fn quarantined(&self, app: &AppName, quarantine: &QuarantineReason) {
        let reason: &'static str = quarantine.into();
        if let Some(quarantined) = self.throttle.count((Some(app.clone()), reason)) {
            let detail = quarantine.detail();
            tracing::warn!(%app, reason, detail, quarantined, "callbacks quarantined");
        }
    }

    /// Logs a verified callback that was not stored because it names a forgotten person.
    pub(super) fn forgotten(&self, app: &AppName) {
        if let Some(callbacks) = self.throttle.count((Some(app.clone()), "forgotten")) {
            tracing::info!(%app, callbacks, "callbacks not stored: they name a forgotten person");
        }
    }

    /// Logs a verified callback that was answered 503. Whatever the app, the store is the reason.
    pub(super) fn not_acknowledged(&self, error: &StoreError) {
        if let Some(callbacks) = self.throttle.count((None, error.into())) {
            let error = error.to_string();
            tracing::error!(callbacks, error, "callbacks not acknowledged: they cannot be made durable");
        }
    }
}

/// The network of a source, which says enough about it.
fn neighbourhood(source: IpAddr) -> String {
    let prefix_bits = if source.is_ipv4() { 24 } else { 48 };
    Network::new(source, prefix_bits).map(|network| network.to_string()).unwrap_or_default()
}

/// What to check when callbacks are refused for this reason.
const fn hint(refusal: Refusal) -> &'static str {
    match refusal {
        Refusal::Query => {
            "check that the proxy passes the query string on; requests of browsers and scanners end here too"
        }
        Refusal::Envelope => {
            "check that the proxy passes the body on unchanged; requests of scanners end here too"
        }
        Refusal::Signature => {
            "compare callback_token with the app's Token; check that no proxy changes %2B in the query string"
        }
        Refusal::Cipher | Refusal::Padding | Refusal::Length => {
            "compare encoding_aes_key with the app's EncodingAESKey"
        }
        Refusal::Echo => "not a URL check by WeCom: a recorded message was sent as the echo string",
        Refusal::Source => {
            "if they may be genuine, set server.callback_ips to report, which counts those that verify"
        }
        Refusal::ReceiveId => {
            "compare provider_corp_id and suite_id with the provider's; if the receive id is yours, add it to \
             accept_receive_ids"
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bounded_number_of_dealers_is_remembered() {
        let (log, app) = (CallbackLog::default(), AppName::new("brand").unwrap());
        let dealer = |n: usize| CorpId::new(format!("wpDEALER{n}")).unwrap();
        assert!((0..DEALERS_MAX).all(|n| log.is_first_of(&app, &dealer(n))));
        assert!((0..DEALERS_MAX + 9).all(|n| !log.is_first_of(&app, &dealer(n))));
    }
}
