//! Clock steps: whether the wall clock was set between two readings of the clocks, and by how much.
//!
//! Deliberately absent: reading the clocks (see [`crate::clock`]), and moving the waits (see
//! [`crate::worker::clock_watch`]).

use super::time::{Moment, SECOND_MS};

/// Minimum difference between wall clock and elapsed time that counts as a step. NTP corrects smaller ones
/// all the time; waits may be wrong by as much.
pub const STEP_MS_MIN: i64 = 2 * SECOND_MS;

/// Whether this difference between wall clock and elapsed time, of either sign, is a step.
#[must_use]
pub const fn is_step(difference_ms: i64) -> bool {
    difference_ms.unsigned_abs() >= STEP_MS_MIN.unsigned_abs()
}

/// The step of the wall clock since the reading `stored`, which may be of an earlier process, in
/// milliseconds: negative if it was set back, 0 if it was not set. Exact within one boot of the machine.
/// After a reboot the elapsed time is not known: a wall clock that shows an earlier time than before was set
/// back, at least by the difference; a step forward is not detected.
#[must_use]
pub const fn step_since(stored: Moment, now: Moment) -> i64 {
    let difference_ms = match (stored.steady, now.steady) {
        (Some(then), Some(at)) if then.boot == at.boot => {
            let elapsed_ms = at.uptime_ms.saturating_sub(then.uptime_ms);
            now.wall.millis_since(stored.wall.plus_ms(elapsed_ms))
        }
        _ => {
            let difference_ms = now.wall.millis_since(stored.wall);
            if difference_ms < 0 { difference_ms } else { 0 }
        }
    };
    if is_step(difference_ms) { difference_ms } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::super::time::{DAY_MS, HOUR_MS, Steady, Timestamp};
    use super::*;

    const NOON: Timestamp = Timestamp::from_secs(1_795_320_000);

    fn reading(boot: u64, uptime_ms: i64, wall: Timestamp) -> Moment {
        Moment::on_the_wall(wall, Some(Steady { boot, uptime_ms }))
    }

    #[test]
    fn within_one_boot_a_set_clock_is_seen_exactly_however_long_the_service_was_stopped() {
        let stored = reading(1, HOUR_MS, NOON);
        let later = |set_by_ms: i64| reading(1, HOUR_MS + DAY_MS, NOON.plus_ms(DAY_MS + set_by_ms));
        assert_eq!(step_since(stored, later(0)), 0);
        assert_eq!(step_since(stored, later(8 * HOUR_MS)), 8 * HOUR_MS);
        assert_eq!(step_since(stored, later(-8 * HOUR_MS)), -8 * HOUR_MS);
    }

    #[test]
    fn after_a_reboot_only_a_clock_that_went_back_is_seen() {
        let stored = reading(1, HOUR_MS, NOON);
        assert_eq!(step_since(stored, reading(2, 0, NOON.plus_ms(8 * HOUR_MS))), 0);
        assert_eq!(step_since(stored, reading(2, 0, NOON.plus_ms(-8 * HOUR_MS))), -8 * HOUR_MS);
        let without = |wall| Moment::on_the_wall(wall, None);
        assert_eq!(step_since(without(NOON), without(NOON.plus_ms(DAY_MS))), 0);
        assert_eq!(step_since(without(NOON), without(NOON.plus_ms(-DAY_MS))), -DAY_MS);
    }

    #[test]
    fn a_difference_under_two_seconds_is_nothing() {
        let stored = reading(1, 0, NOON);
        for (set_by_ms, expected) in [(1_999, 0), (-1_999, 0), (2_000, 2_000), (-2_000, -2_000)] {
            let now = reading(1, HOUR_MS, NOON.plus_ms(HOUR_MS + set_by_ms));
            assert_eq!(step_since(stored, now), expected);
        }
        let rebooted = reading(2, 0, NOON.plus_ms(-1_999));
        assert_eq!(step_since(stored, rebooted), 0);
    }
}
