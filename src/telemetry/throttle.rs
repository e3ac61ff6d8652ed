//! Limits the log to one line a minute for each reason.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Mutex, PoisonError};

use crate::domain::time::{MINUTE_MS, Timestamp};

/// Occurrences by reason, and when each reason was logged last. Reasons are a bounded set.
#[derive(Debug)]
pub struct LogThrottle<K>(Mutex<HashMap<K, Reason>>);

#[derive(Debug, Default)]
struct Reason {
    logged_at: Option<Timestamp>,
    not_logged: u64,
}

impl<K> Default for LogThrottle<K> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<K: Eq + Hash> LogThrottle<K> {
    /// Counts an occurrence. Returns the number of occurrences to log now, unless this reason was logged
    /// within the last minute.
    pub fn count(&self, reason: K, now: Timestamp) -> Option<u64> {
        let mut reasons = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let reason = reasons.entry(reason).or_default();
        reason.not_logged += 1;
        // A clock that was set back must not silence the log.
        if reason.logged_at.is_some_and(|at| (0..MINUTE_MS).contains(&now.millis_since(at))) {
            return None;
        }
        reason.logged_at = Some(now);
        Some(std::mem::take(&mut reason.not_logged))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_is_logged_once_a_minute_and_no_occurrence_is_left_out() {
        let throttle = LogThrottle::default();
        let begin = Timestamp::from_millis(5);
        assert_eq!(throttle.count("a", begin), Some(1));
        assert_eq!(throttle.count("a", begin.plus_ms(30_000)), None);
        assert_eq!(throttle.count("b", begin.plus_ms(40_000)), Some(1));
        assert_eq!(throttle.count("a", begin.plus_ms(59_999)), None);
        assert_eq!(throttle.count("a", begin.plus_ms(60_000)), Some(3));
        // The clock was set back.
        assert_eq!(throttle.count("a", begin), Some(1));
    }
}
