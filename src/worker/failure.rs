//! What failures mean: a failed call to WeCom for circuit breakers and operators, a failed operation of the
//! store for the log.

use crate::domain::time::{MINUTE_MS, Timestamp};
use crate::store::{FailureReason, StoreError};
use crate::telemetry::throttle::LogThrottle;
use crate::wecom::{Api, CallError};

/// The log of failed store operations: one line a minute for each message and kind of error, because on a
/// full disk every operation that writes fails, again and again.
#[derive(Debug, Default)]
pub struct StoreFailureLog(LogThrottle<(&'static str, &'static str)>);

impl StoreFailureLog {
    /// Counts a failure. Returns the number of failures to log now, unless the same was logged within the last
    /// minute. `message` says what was not done.
    pub(super) fn count(&self, message: &'static str, error: &StoreError) -> Option<u64> {
        self.0.count((message, error.into()))
    }

    /// Logs a failure, unless the same was logged within the last minute.
    pub fn warn(&self, message: &'static str, error: &StoreError) {
        if let Some(failures) = self.count(message, error) {
            tracing::warn!(failures, error = error.to_string(), "{message}");
        }
    }
}

/// The reason of a failed call, for operators.
pub(crate) fn failure_reason(error: &CallError) -> FailureReason {
    let text = match error {
        CallError::Refused { from_ip: Some(ip), errcode: 60_020 | 301_042, .. } => {
            format!("{error} (WeCom sees our address as {ip})")
        }
        _ => error.to_string(),
    };
    FailureReason { errcode: error.errcode(), text }
}

/// When calls may go on after a call limit stopped one. WeCom's own answer does not say when; the limiter has
/// recorded it, and its next refusal does.
pub(super) const fn limit_ends_at(error: &CallError, now: Timestamp) -> Timestamp {
    match error {
        CallError::NoPermit { retry_at, .. } => *retry_at,
        CallError::Refused { .. }
        | CallError::NotAuthorized { .. }
        | CallError::Transport { .. }
        | CallError::Ledger { .. } => now.plus_ms(MINUTE_MS),
    }
}

/// Whether no call of the app can succeed: it has no authorisation, or a setting of the brand's own app is
/// wrong, not one of a dealer.
pub(super) const fn concerns_whole_app(error: &CallError) -> bool {
    match error {
        CallError::NotAuthorized { .. } => true,
        CallError::Refused { api, errcode, .. } => {
            matches!(api, Api::GetToken) || matches!(errcode, 60_020 | 301_042)
        }
        CallError::Transport { .. } | CallError::NoPermit { .. } | CallError::Ledger { .. } => false,
    }
}
