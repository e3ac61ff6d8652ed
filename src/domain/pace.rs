//! How many calls have to be in flight at once to use up a quota.

use super::time::{HOUR_MS, MINUTE_MS};

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
