//! Numbers of calls in flight at once: the one that uses up a quota, and a limit for one corp's token.

use super::time::{HOUR_MS, MINUTE_MS};

/// A limit of calls in flight with one corp's token: halved when WeCom answers that there are too many
/// (45033, 45035, 45036), raised by one after ten seconds with a success. The time is a parameter, in
/// milliseconds on a clock that cannot be set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CallLimit {
    calls: u32,
    calls_max: u32,
    lowered_at_ms: Option<u64>,
    changed_at_ms: u64,
}

impl CallLimit {
    /// How long calls succeed before the limit is raised.
    const RAISE_AFTER_MS: u64 = 10_000;

    /// The highest limit, which is the first one.
    #[must_use]
    pub const fn highest(calls_max: u32) -> Self {
        Self { calls: calls_max, calls_max, lowered_at_ms: None, changed_at_ms: 0 }
    }

    /// How many calls may be in flight.
    #[must_use]
    pub const fn calls(self) -> u32 {
        self.calls
    }

    /// Whether the limit is the highest one.
    #[must_use]
    pub const fn is_highest(self) -> bool {
        self.calls == self.calls_max
    }

    /// Records that WeCom refused a call, which began at `begun_ms`, because too many were in flight. Calls
    /// that were in flight together lower the limit once. Returns false if it is the lowest already: lowering
    /// it does not help.
    pub fn refused(&mut self, begun_ms: u64, now_ms: u64) -> bool {
        if self.lowered_at_ms.is_some_and(|at_ms| begun_ms <= at_ms) {
            return true;
        }
        let is_lower = self.calls > 1;
        self.calls = (self.calls / 2).max(1);
        self.lowered_at_ms = Some(now_ms);
        self.changed_at_ms = now_ms;
        is_lower
    }

    /// Records that a call succeeded.
    pub const fn succeeded(&mut self, now_ms: u64) {
        if !self.is_highest() && now_ms.saturating_sub(self.changed_at_ms) >= Self::RAISE_AFTER_MS {
            self.calls += 1;
            self.changed_at_ms = now_ms;
        }
    }
}

/// The most calls in flight that a quota can make necessary: each takes a connection.
const AT_ONCE_MAX: u64 = 1_024;

/// Calls in flight that use up `per_hour` calls within an hour when each takes `round_trip_ms`, plus half as
/// many as a margin; at most 1,024. Never fewer than `calls_min`: with short round trips these use up the
/// quota within less than an hour.
#[must_use]
pub fn calls_at_once(per_hour: u32, round_trip_ms: u64, calls_min: usize) -> usize {
    let needed = (u64::from(per_hour) * round_trip_ms * 3).div_ceil(2 * HOUR_MS.unsigned_abs());
    usize::try_from(needed.min(AT_ONCE_MAX)).map_or(calls_min, |needed| needed.max(calls_min))
}

/// The smoothed round trip, an exponentially weighted moving average, after a call that took `latest_ms`.
/// The call weighs an eighth and counts as a minute at most. `before_ms` is 0 before the first call.
#[must_use]
pub fn smoothed(before_ms: u64, latest_ms: u64) -> u64 {
    let latest_ms = latest_ms.min(MINUTE_MS.unsigned_abs());
    if before_ms == 0 { latest_ms } else { (before_ms * 7 + latest_ms).div_ceil(8) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_of_calls_is_halved_at_once_and_raised_slowly() {
        let mut limit = CallLimit::highest(4);
        assert!(limit.refused(100, 200));
        // Another call that was in flight at the same time gives no new information.
        assert!(limit.refused(150, 210));
        assert_eq!(limit.calls(), 2);
        assert!(limit.refused(300, 400));
        assert!(!limit.refused(500, 600), "one call at a time is too many");
        assert_eq!(limit.calls(), 1);
        let raised_at = [(10_599, 1), (10_600, 2), (20_599, 2), (20_600, 3), (50_000, 4), (99_000, 4)];
        for (now_ms, calls) in raised_at {
            limit.succeeded(now_ms);
            assert_eq!(limit.calls(), calls, "at {now_ms} ms");
        }
        assert!(limit.is_highest());
    }

    #[test]
    fn the_hourly_quota_is_reachable_at_any_round_trip() {
        for round_trip_ms in [1, 30, 200, 1_000, 5_000, 10_000] {
            let at_once = calls_at_once(100_000, round_trip_ms, 8) as u64;
            let per_hour = at_once * HOUR_MS.unsigned_abs() / round_trip_ms;
            assert!(per_hour >= 110_000, "{per_hour} at {round_trip_ms} ms");
        }
        assert_eq!(calls_at_once(100_000, 30, 32), 32);
        assert_eq!(calls_at_once(u32::MAX, 60_000, 32), 1_024);
    }

    #[test]
    fn the_smoothed_round_trip_follows_the_latest_calls() {
        let mut seen = smoothed(0, 30);
        assert_eq!(seen, 30);
        for _ in 0..40 {
            seen = smoothed(seen, 2_000);
        }
        assert!((1_900..=2_000).contains(&seen), "{seen}");
    }
}
