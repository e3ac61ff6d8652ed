//! Limits the log to one line a minute for each reason.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// The shortest time between two lines for the same reason.
const EVERY: Duration = Duration::from_mins(1);

/// Occurrences by reason, and when each reason was logged last. Reasons are a bounded set. The monotonic clock
/// is used: setting the wall clock neither silences nor floods the log.
#[derive(Debug)]
pub struct LogThrottle<K>(Mutex<HashMap<K, Reason>>);

#[derive(Debug, Default)]
struct Reason {
    logged_at: Option<Instant>,
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
    pub fn count(&self, reason: K) -> Option<u64> {
        let now = Instant::now();
        let mut reasons = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let reason = reasons.entry(reason).or_default();
        reason.not_logged += 1;
        if reason.logged_at.is_some_and(|at| now.duration_since(at) < EVERY) {
            return None;
        }
        reason.logged_at = Some(now);
        Some(std::mem::take(&mut reason.not_logged))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn every_reason_is_logged_once_a_minute_and_no_occurrence_is_left_out() {
        let throttle = LogThrottle::default();
        assert_eq!(throttle.count("a"), Some(1));
        tokio::time::advance(Duration::from_secs(30)).await;
        assert_eq!((throttle.count("a"), throttle.count("b")), (None, Some(1)));
        tokio::time::advance(Duration::from_millis(29_999)).await;
        assert_eq!(throttle.count("a"), None);
        tokio::time::advance(Duration::from_millis(1)).await;
        assert_eq!((throttle.count("a"), throttle.count("b")), (Some(3), None));
    }
}
