//! Ledgers under any history of calls, clock changes and reboots: no window exceeds its limit, and nearly all
//! of a quota can be used.

use proptest::prelude::*;

use super::*;
use crate::domain::time::{Steady, Timestamp};

const SMALL: Limits = Limits { per_hour: 50, per_day: 120, per_month: 400 };

fn moment(wall_ms: i64, boot: u64, uptime_ms: i64) -> Moment {
    Moment::on_the_wall(Timestamp::from_millis(wall_ms), Some(Steady { boot, uptime_ms }))
}

const fn wall(wall: Timestamp) -> Moment {
    Moment::on_the_wall(wall, None)
}

fn one(ledger: &mut Ledger, limits: Limits, now: Moment, want: u32) -> Grant {
    reserve(&mut [(ledger, Budget::Conversion(limits))], now, want, Share::Whole)
}

fn max_in_any_window(calls: &[i64], length: i64) -> usize {
    let mut from = 0;
    let mut max = 0;
    for (i, call) in calls.iter().enumerate() {
        while calls[from] + length <= *call {
            from += 1;
        }
        max = max.max(i + 1 - from);
    }
    max
}

proptest! {
    /// Every permit is used, as late as it is valid and as late as its call can arrive, while the wall clock
    /// is set and the process restarts.
    #[test]
    fn no_window_of_any_alignment_exceeds_its_limit(
        steps in proptest::collection::vec(
            (
                0_i64..3 * HOUR_MS,
                1_u32..40,
                0_i64..=HOLD_MS + FLIGHT_MS,
                prop_oneof![5 => Just(0), 1 => -40 * DAY_MS..40 * DAY_MS],
            ),
            1..200,
        )
    ) {
        let mut ledger = Ledger::default();
        let (mut now, mut set_by, mut calls) = (1_000_000_000, 0, vec![]);
        for (step, want, late, jump) in steps {
            now += step;
            set_by += jump;
            if let Grant::Permits(count) = one(&mut ledger, SMALL, moment(now + set_by, 1, now), want) {
                prop_assert!(count <= want);
                calls.extend((0..count).map(|_| now + late));
            }
        }
        calls.sort_unstable();
        prop_assert!(max_in_any_window(&calls, HOUR_MS) <= 50);
        prop_assert!(max_in_any_window(&calls, DAY_MS) <= 120);
        prop_assert!(max_in_any_window(&calls, 30 * DAY_MS) <= 400);
    }

    #[test]
    fn after_the_stated_wait_there_is_always_a_permit(
        wants in proptest::collection::vec((1_u32..60, any::<bool>()), 1..60), reserve_percent in 0_u8..=60
    ) {
        let mut ledger = Ledger::default();
        let mut now = Timestamp::from_secs(1_000_000);
        for (want, patient) in wants {
            let patient_share = Share::Without { reserve_percent, month_kept: 0 };
            let share = if patient { patient_share } else { Share::Whole };
            let mut ask = |now| {
                reserve(&mut [(&mut ledger, Budget::Conversion(SMALL))], wall(now), want, share)
            };
            if let Grant::Exhausted { wait_ms } = ask(now) {
                prop_assert!(wait_ms > 0);
                now = now.plus_ms(wait_ms);
                let granted = matches!(ask(now), Grant::Permits(_));
                prop_assert!(granted);
            }
        }
    }
}

#[test]
fn nearly_all_of_an_hours_quota_is_used_when_there_is_work() {
    let limits = Limits { per_hour: 100_000, per_day: u32::MAX, per_month: u32::MAX };
    let (mut ledger, start, mut used) = (Ledger::default(), Timestamp::from_secs(1_000_000), 0_u32);
    let mut now = start;
    while now.millis_since(start) < 100 * HOUR_MS {
        match one(&mut ledger, limits, wall(now), 28 * 5) {
            Grant::Permits(count) => {
                used += count;
                now = now.plus_ms(5_000);
            }
            Grant::Exhausted { wait_ms } => now = now.plus_ms(wait_ms),
        }
    }
    assert!(used >= 9_900_000, "{used} of 10,000,000");
}

#[test]
fn urgent_calls_have_a_reserve_that_no_other_call_uses() {
    let mut ledger = Ledger::default();
    let now = wall(Timestamp::from_secs(1_000_000));
    let mut ask = |want, share| reserve(&mut [(&mut ledger, Budget::Conversion(SMALL))], now, want, share);
    let patient = Share::Without { reserve_percent: 10, month_kept: 0 };
    assert_eq!(ask(99, patient), Grant::Permits(45));
    assert!(matches!(ask(1, patient), Grant::Exhausted { .. }));
    assert_eq!(ask(99, Share::Whole), Grant::Permits(5));
    assert!(matches!(ask(1, Share::Whole), Grant::Exhausted { .. }));
}

#[test]
fn an_import_leaves_the_calls_of_the_month_that_renewals_will_need() {
    let limits = Limits { per_hour: 1_000, per_day: 1_000, per_month: 1_000 };
    let mut ledger = Ledger::default();
    let now = wall(Timestamp::from_secs(1_000_000));
    let mut ask = |month_kept| {
        let share = Share::Without { reserve_percent: 0, month_kept };
        reserve(&mut [(&mut ledger, Budget::Conversion(limits))], now, 2_000, share)
    };
    assert_eq!(ask(900), Grant::Permits(100));
    assert!(matches!(ask(900), Grant::Exhausted { .. }));
    assert!(matches!(ask(5_000), Grant::Exhausted { wait_ms } if wait_ms > 0));
    assert_eq!(ask(0), Grant::Permits(900));
}

#[test]
fn setting_the_wall_clock_neither_frees_nor_blocks_calls() {
    for set_by in [-365 * DAY_MS, 365 * DAY_MS] {
        let mut ledger = Ledger::default();
        assert_eq!(one(&mut ledger, SMALL, moment(0, 1, 0), 50), Grant::Permits(50));
        let Grant::Exhausted { wait_ms } = one(&mut ledger, SMALL, moment(set_by, 1, 1_000), 1) else {
            panic!("the hour is used up")
        };
        assert!(wait_ms <= HOUR_MS + MINUTE_MS);
        assert_eq!(one(&mut ledger, SMALL, moment(set_by, 1, 1_000 + wait_ms), 1), Grant::Permits(1));
    }
    // After a reboot there is only the wall clock; if it was set back, calls wait longer, but no limit is
    // exceeded.
    let mut ledger = Ledger::default();
    assert_eq!(one(&mut ledger, SMALL, moment(DAY_MS, 1, 0), 50), Grant::Permits(50));
    let Grant::Exhausted { wait_ms } = one(&mut ledger, SMALL, moment(0, 2, 0), 1) else {
        panic!("the hour is used up")
    };
    assert!(wait_ms <= HOUR_MS + MINUTE_MS);
    assert_eq!(one(&mut ledger, SMALL, moment(0, 2, wait_ms), 1), Grant::Permits(1));
}

#[test]
fn a_wrong_reading_of_a_shared_clock_does_not_stop_the_time_of_the_ledger() {
    let at = |ms: i64| moment(ms, 0, ms);
    let mut ledger = Ledger::default();
    assert_eq!(one(&mut ledger, SMALL, at(8 * HOUR_MS), 50), Grant::Permits(50));
    let Grant::Exhausted { wait_ms } = one(&mut ledger, SMALL, at(0), 1) else {
        panic!("the hour is used up")
    };
    assert!(wait_ms <= HOUR_MS + MINUTE_MS);
    // It is believed to be right again after a minute.
    assert!(matches!(one(&mut ledger, SMALL, at(MINUTE_MS), 1), Grant::Exhausted { .. }));
    assert_eq!(one(&mut ledger, SMALL, at(MINUTE_MS + wait_ms), 1), Grant::Permits(1));
}

#[test]
fn readings_that_arrive_in_another_order_let_no_time_pass_twice() {
    let at = |ms: i64| moment(ms, 0, ms);
    // Within a minute, and from a replica that was cut off for two weeks.
    for behind_ms in [30_000, 14 * DAY_MS] {
        let mut ledger = Ledger::default();
        let mut now = 20 * DAY_MS;
        assert_eq!(one(&mut ledger, SMALL, at(now), 50), Grant::Permits(50));
        for _ in 0..200 {
            for late in [0, 10_000] {
                let late = at(now - behind_ms + late);
                assert!(matches!(one(&mut ledger, SMALL, late, 1), Grant::Exhausted { .. }));
            }
            assert!(matches!(one(&mut ledger, SMALL, at(now), 1), Grant::Exhausted { .. }));
            now += 15_000;
        }
    }
}

#[test]
fn calls_from_one_address_share_its_limit() {
    let (mut first, mut second, mut address) = <(Ledger, Ledger, Ledger)>::default();
    let start = Timestamp::from_secs(1_000_000);
    let (mut now, mut calls) = (start, Vec::new());
    while now.millis_since(start) < 2 * HOUR_MS {
        let mut shortest = i64::MAX;
        for corp in [&mut first, &mut second] {
            let mut accounts = [(corp, Budget::Corp), (&mut address, Budget::Address)];
            match reserve(&mut accounts, wall(now), 500, Share::Whole) {
                Grant::Permits(count) => {
                    shortest = 0;
                    calls.extend((0..count).map(|_| now.as_millis()));
                }
                Grant::Exhausted { wait_ms } => shortest = shortest.min(wait_ms),
            }
        }
        now = now.plus_ms(shortest);
    }
    let (minute, hour) = (max_in_any_window(&calls, MINUTE_MS), max_in_any_window(&calls, HOUR_MS));
    assert!((19_000..=20_000).contains(&minute) && (290_000..=300_000).contains(&hour), "{minute}, {hour}");
}

#[test]
fn a_block_that_was_too_short_is_followed_by_a_longer_one() {
    // 1970-01-12T13:46:40Z is 21:46:40 in China.
    let start = Timestamp::from_secs(1_000_000);
    let conversion = Budget::Conversion(Limits::DOCUMENTED);
    let rest_of_day = 2 * HOUR_MS + 13 * MINUTE_MS + 20 * SECOND_MS;
    for (budget, ladder) in [
        (conversion, [HOUR_MS, rest_of_day - HOUR_MS, DAY_MS, DAY_MS]),
        (Budget::Corp, [MINUTE_MS, HOUR_MS, HOUR_MS, HOUR_MS]),
    ] {
        let (mut ledger, mut now) = (Ledger::default(), start);
        for length_ms in ladder {
            assert_eq!(ledger.rate_limited(wall(now), budget), length_ms);
            assert_eq!(
                ledger.rate_limited(wall(now), budget),
                length_ms,
                "answers to calls in flight do not prolong the block"
            );
            let mut accounts = [(&mut ledger, budget)];
            let refused = reserve(&mut accounts, wall(now), 1, Share::Whole);
            assert_eq!(refused, Grant::Exhausted { wait_ms: length_ms });
            now = now.plus_ms(length_ms);
            assert_eq!(reserve(&mut accounts, wall(now), 1, Share::Whole), Grant::Permits(1));
        }
    }
}
