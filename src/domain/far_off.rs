//! Timestamps of callbacks that are far from the current time.
//!
//! They come from WeCom's clocks and are compared with ours. Either clock may be wrong, so a far-off
//! timestamp is counted and is never by itself a reason to drop an event. A replayed callback has one, too.

use strum::{IntoStaticStr, VariantArray};

use super::time::{DAY_MS, MINUTE_MS, Timestamp};

/// The largest difference that WeCom's own retries and poorly synchronised clocks explain.
const NEAR_MS: i64 = 10 * MINUTE_MS;

/// The direction in which a timestamp is far off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, IntoStaticStr, VariantArray)]
#[strum(serialize_all = "snake_case")]
pub enum FarOff {
    /// Before the current time.
    Past,
    /// After the current time.
    Future,
}

/// In which direction `at` is more than ten minutes from `now`; `None` if it is not.
#[must_use]
pub const fn far_off(at: Timestamp, now: Timestamp) -> Option<FarOff> {
    beyond(at, now, NEAR_MS, NEAR_MS)
}

/// Whether an event is to be quarantined for its timestamp: it is more than `days_max` days in the past, or
/// more than one day in the future. Never if `days_max` is 0.
#[must_use]
pub fn exceeds_age_limit(at: Timestamp, now: Timestamp, days_max: u32) -> bool {
    days_max > 0 && beyond(at, now, DAY_MS * i64::from(days_max), DAY_MS).is_some()
}

const fn beyond(at: Timestamp, now: Timestamp, past_ms: i64, future_ms: i64) -> Option<FarOff> {
    if now.millis_since(at) > past_ms {
        Some(FarOff::Past)
    } else if at.millis_since(now) > future_ms {
        Some(FarOff::Future)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::time::SECOND_MS;

    const NOW: Timestamp = Timestamp::from_secs(1_795_309_323);

    #[test]
    fn more_than_ten_minutes_are_far_off() {
        for (seconds, expected) in
            [(-601, Some(FarOff::Past)), (-600, None), (0, None), (600, None), (601, Some(FarOff::Future))]
        {
            assert_eq!(far_off(NOW.plus_ms(seconds * SECOND_MS), NOW), expected, "{seconds} s");
        }
        for (extreme, expected) in [(i64::MIN, FarOff::Past), (i64::MAX, FarOff::Future)] {
            assert_eq!(far_off(Timestamp::from_millis(extreme), NOW), Some(expected));
            assert!(exceeds_age_limit(Timestamp::from_millis(extreme), NOW, 3_650));
        }
    }

    #[test]
    fn there_is_no_age_limit_unless_a_number_of_days_is_given() {
        let at = |days: i64, ms: i64| NOW.plus_ms(days * DAY_MS + ms);
        for event in [at(-10_000, 0), at(10_000, 0)] {
            assert!(!exceeds_age_limit(event, NOW, 0));
        }
        assert!(!exceeds_age_limit(at(-3, 0), NOW, 3) && exceeds_age_limit(at(-3, -1), NOW, 3));
        assert!(!exceeds_age_limit(at(1, 0), NOW, 3) && exceeds_age_limit(at(1, 1), NOW, 3));
    }
}
