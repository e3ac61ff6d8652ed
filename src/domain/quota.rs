//! Call budgets over rolling windows, kept so that they hold under any alignment WeCom may use.
//!
//! Document 97357 limits `unionid_to_pending_id` per hour, day and month and does not say where a window
//! begins. So none of ours has a beginning: a [`Ledger`] counts calls in small buckets, and a permit is given
//! only if *every* window that ends now, whole buckets counted, stays within its limit.
//!
//! Permits are reserved in blocks and written down before the first of them is used; a crash wastes at most
//! one block. A block must be used within [`HOLD_MS`], and a call reaches WeCom at most [`FLIGHT_MS`] after
//! that: both are added to each window's length, so that a late call still counts where WeCom counts it.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use super::time::{DAY_MS, HOUR_MS, MINUTE_MS, SECOND_MS, Timestamp};

/// How long a reserved permit may be used.
pub const HOLD_MS: i64 = 5 * SECOND_MS;
/// How long a call may be under way before WeCom counts it: the client's time-out.
pub const FLIGHT_MS: i64 = 10 * SECOND_MS;

/// How many calls of one API one corp may make.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// In any hour.
    pub per_hour: u32,
    /// In any 24 hours.
    pub per_day: u32,
    /// In any 30 days.
    pub per_month: u32,
}

impl Limits {
    /// What document 97357 allows.
    pub const DOCUMENTED: Self = Self { per_hour: 100_000, per_day: 480_000, per_month: 7_500_000 };
}

/// Length and bucket width of the three windows. Each has 360 buckets: a ledger stays near three kilobytes,
/// and the part of a window lost to rounding stays under 0.3 %.
const WINDOWS: [(i64, i64); 3] =
    [(HOUR_MS, 10 * SECOND_MS), (DAY_MS, 4 * MINUTE_MS), (30 * DAY_MS, 2 * HOUR_MS)];

/// The calls one corp has reserved for one API.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Ledger {
    /// Newest instant seen. The clock may step back; the ledger does not.
    latest: Timestamp,
    windows: [Ring; 3],
    /// WeCom said 45009 in spite of us: nothing before this instant.
    blocked_until: Option<Timestamp>,
}

/// Non-empty buckets, oldest first, as (bucket number, calls).
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
struct Ring(VecDeque<(i64, u32)>);

/// The answer to a request for permits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Grant {
    /// So many calls may be made until `valid_until`. Never zero.
    Permits {
        /// How many.
        count: u32,
        /// Until when; unused ones are lost then.
        valid_until: Timestamp,
    },
    /// None now.
    Exhausted {
        /// When there will be at least one.
        retry_at: Timestamp,
    },
}

impl Limits {
    const fn as_array(self) -> [u32; 3] {
        [self.per_hour, self.per_day, self.per_month]
    }
}

impl Ledger {
    /// Reserves up to `want` calls at `now`.
    pub fn reserve(&mut self, now: Timestamp, want: u32, limits: Limits) -> Grant {
        self.move_to(now);
        if let Some(until) = self.blocked_until {
            if now < until {
                return Grant::Exhausted { retry_at: until };
            }
            self.blocked_until = None;
        }
        let mut count = want.max(1);
        let mut retry_at = now;
        for ((ring, (length, width)), limit) in self.windows.iter_mut().zip(WINDOWS).zip(limits.as_array()) {
            ring.drop_before(now, length, width);
            let left = limit.saturating_sub(ring.sum());
            if left == 0 {
                retry_at = retry_at.max(ring.first_gone_at(length, width).unwrap_or(now.plus_ms(length)));
            }
            count = count.min(left);
        }
        if count == 0 {
            return Grant::Exhausted { retry_at };
        }
        for (ring, (_, width)) in self.windows.iter_mut().zip(WINDOWS) {
            ring.add(now, width, count);
        }
        Grant::Permits { count, valid_until: now.plus_ms(HOLD_MS) }
    }

    /// Stops all permits until `until`, after WeCom answered 45009.
    pub fn block(&mut self, until: Timestamp) {
        self.blocked_until = Some(self.blocked_until.map_or(until, |known| known.max(until)));
    }

    /// Until when WeCom's 45009 keeps us from calling.
    #[must_use]
    pub fn blocked_until(&self, now: Timestamp) -> Option<Timestamp> {
        self.blocked_until.filter(|until| now < *until)
    }

    /// Calls counted in the hour, the day and the month that end at `now`.
    #[must_use]
    pub fn used(&self, now: Timestamp) -> [u32; 3] {
        let mut used = [0; 3];
        for ((ring, (length, width)), sum) in self.windows.iter().zip(WINDOWS).zip(&mut used) {
            let oldest = oldest_bucket(now, length, width);
            *sum = ring.0.iter().filter(|(bucket, _)| *bucket >= oldest).map(|(_, n)| n).sum();
        }
        used
    }

    /// Adjusts to the clock having stepped back: everything counted moves back with it, so that the past
    /// looks more recent than it was, never less.
    fn move_to(&mut self, now: Timestamp) {
        let back = self.latest.millis_since(now);
        for (ring, (_, width)) in self.windows.iter_mut().zip(WINDOWS) {
            ring.move_back(back, width);
        }
        self.blocked_until = self.blocked_until.map(|until| until.plus_ms(-back.max(0)));
        self.latest = now;
    }
}

/// Length, bucket width and limit of the base windows that apply to every API (document 90312).
const BASE_WINDOWS: [(i64, i64, u32); 2] =
    [(MINUTE_MS, SECOND_MS, 10_000), (HOUR_MS, 10 * SECOND_MS, 150_000)];

/// The calls lately made of one API for one corp; kept in memory.
#[derive(Debug, Clone, Default)]
pub struct BaseLedger {
    latest: Timestamp,
    windows: [Ring; 2],
    blocked_until: Option<Timestamp>,
}

impl BaseLedger {
    /// Counts one call at `now`.
    ///
    /// # Errors
    /// When to ask again, if a window that ends now is full, or WeCom has blocked the API.
    pub fn take(&mut self, now: Timestamp) -> Result<(), Timestamp> {
        if let Some(until) = self.blocked_until.filter(|until| now < *until) {
            return Err(until);
        }
        let back = self.latest.millis_since(now);
        self.latest = now;
        let mut retry_at = None;
        for (ring, (length, width, limit)) in self.windows.iter_mut().zip(BASE_WINDOWS) {
            ring.move_back(back, width);
            ring.drop_before(now, length, width);
            if ring.sum() >= limit {
                retry_at = retry_at.max(ring.first_gone_at(length, width).or(Some(now.plus_ms(length))));
            }
        }
        if let Some(retry_at) = retry_at {
            return Err(retry_at);
        }
        for (ring, (_, width, _)) in self.windows.iter_mut().zip(BASE_WINDOWS) {
            ring.add(now, width, 1);
        }
        Ok(())
    }

    /// WeCom answered 45009: no calls for a minute, or, if that did not help, for an hour. Returns until when.
    pub fn blocked(&mut self, now: Timestamp) -> Timestamp {
        let again = self.blocked_until.is_some_and(|until| now.millis_since(until) < MINUTE_MS);
        let running = self.blocked_until.is_some_and(|until| now < until);
        if !running {
            self.blocked_until = Some(now.plus_ms(if again { HOUR_MS } else { MINUTE_MS }));
        }
        self.blocked_until.unwrap_or(now)
    }
}

/// The oldest bucket that can hold a call which WeCom still counts at `now`.
fn oldest_bucket(now: Timestamp, length: i64, width: i64) -> i64 {
    (now.as_millis() - length - HOLD_MS - FLIGHT_MS).div_euclid(width)
}

impl Ring {
    /// The clock stepped back by `back` milliseconds, if that is positive.
    fn move_back(&mut self, back: i64, width: i64) {
        if back > 0 {
            for (bucket, _) in &mut self.0 {
                *bucket -= back.div_euclid(width);
            }
        }
    }

    fn sum(&self) -> u32 {
        self.0.iter().map(|(_, n)| n).sum()
    }

    fn add(&mut self, now: Timestamp, width: i64, count: u32) {
        let bucket = now.as_millis().div_euclid(width);
        match self.0.back_mut() {
            // `>=`: after a step back, rounding may leave the last bucket one ahead.
            Some((last, n)) if *last >= bucket => *n += count,
            _ => self.0.push_back((bucket, count)),
        }
    }

    fn drop_before(&mut self, now: Timestamp, length: i64, width: i64) {
        let oldest = oldest_bucket(now, length, width);
        while self.0.front().is_some_and(|(bucket, _)| *bucket < oldest) {
            self.0.pop_front();
        }
    }

    /// When the oldest bucket leaves the window.
    fn first_gone_at(&self, length: i64, width: i64) -> Option<Timestamp> {
        let (bucket, _) = self.0.front()?;
        Some(Timestamp::from_millis((bucket + 1) * width + length + HOLD_MS + FLIGHT_MS))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SMALL: Limits = Limits { per_hour: 50, per_day: 120, per_month: 400 };

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
        /// Every permit is used, as late as it may be and as late as a call can arrive: still never over.
        #[test]
        fn no_window_of_any_alignment_is_ever_over(
            steps in proptest::collection::vec((0_i64..3 * HOUR_MS, 1_u32..40, 0_i64..=HOLD_MS + FLIGHT_MS), 1..200)
        ) {
            let mut ledger = Ledger::default();
            let (mut now, mut calls) = (Timestamp::from_secs(1_000_000), vec![]);
            for (step, want, late) in steps {
                now = now.plus_ms(step);
                if let Grant::Permits { count, valid_until } = ledger.reserve(now, want, SMALL) {
                    prop_assert!(count <= want && valid_until == now.plus_ms(HOLD_MS));
                    calls.extend((0..count).map(|_| now.plus_ms(late).as_millis()));
                }
            }
            calls.sort_unstable();
            prop_assert!(max_in_any_window(&calls, HOUR_MS) <= 50);
            prop_assert!(max_in_any_window(&calls, DAY_MS) <= 120);
            prop_assert!(max_in_any_window(&calls, 30 * DAY_MS) <= 400);
        }

        #[test]
        fn waiting_as_told_always_yields_a_permit(wants in proptest::collection::vec(1_u32..60, 1..60)) {
            let mut ledger = Ledger::default();
            let mut now = Timestamp::from_secs(1_000_000);
            for want in wants {
                if let Grant::Exhausted { retry_at } = ledger.reserve(now, want, SMALL) {
                    prop_assert!(retry_at > now);
                    now = retry_at;
                    let granted = matches!(ledger.reserve(now, want, SMALL), Grant::Permits { .. });
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
            match ledger.reserve(now, 28 * 5, limits) {
                Grant::Permits { count, .. } => {
                    used += count;
                    now = now.plus_ms(5_000);
                }
                Grant::Exhausted { retry_at } => now = retry_at,
            }
        }
        assert!(used >= 9_900_000, "{used} of 10,000,000");
    }

    #[test]
    fn a_clock_that_steps_back_neither_frees_nor_freezes_the_budget() {
        let mut ledger = Ledger::default();
        let start = Timestamp::from_secs(10_000_000);
        assert!(matches!(ledger.reserve(start, 50, SMALL), Grant::Permits { count: 50, .. }));
        let earlier = start.plus_ms(-365 * DAY_MS);
        let Grant::Exhausted { retry_at } = ledger.reserve(earlier, 1, SMALL) else {
            panic!("the hour is used up")
        };
        assert!(retry_at.millis_since(earlier) <= HOUR_MS + 60_000, "{retry_at} after {earlier}");
        assert!(matches!(ledger.reserve(retry_at, 1, SMALL), Grant::Permits { .. }));
    }

    #[test]
    fn a_minute_and_an_hour_hold_so_many_calls_and_no_more() {
        let mut ledger = BaseLedger::default();
        let start = Timestamp::from_secs(1_000_000);
        let (mut now, mut calls) = (start, Vec::new());
        while now.millis_since(start) < 2 * HOUR_MS {
            match ledger.take(now) {
                Ok(()) => calls.push(now.as_millis()),
                Err(retry_at) => now = retry_at,
            }
        }
        assert!(
            max_in_any_window(&calls, MINUTE_MS) == 10_000 && max_in_any_window(&calls, HOUR_MS) == 150_000
        );
    }

    #[test]
    fn a_clock_that_steps_back_does_not_freeze_the_base_limits() {
        let mut ledger = BaseLedger::default();
        let start = Timestamp::from_secs(10_000_000);
        while ledger.take(start).is_ok() {}
        let earlier = start.plus_ms(-30 * DAY_MS);
        let retry_at = ledger.take(earlier).unwrap_err();
        assert!(retry_at.millis_since(earlier) < 2 * MINUTE_MS);
        assert!(ledger.take(retry_at).is_ok());
    }

    #[test]
    fn a_block_that_did_not_help_becomes_longer() {
        let mut ledger = BaseLedger::default();
        let now = Timestamp::from_secs(1_000_000);
        let until = ledger.blocked(now);
        assert_eq!((until, ledger.take(now)), (now.plus_ms(MINUTE_MS), Err(until)));
        assert_eq!(ledger.blocked(now), until, "calls that were under way say nothing new");
        assert_eq!(ledger.blocked(until), until.plus_ms(HOUR_MS));
    }

    #[test]
    fn a_block_by_wecom_holds_until_its_end() {
        let mut ledger = Ledger::default();
        let now = Timestamp::from_secs(1_000_000);
        ledger.block(now.plus_ms(HOUR_MS));
        assert_eq!(ledger.reserve(now, 1, SMALL), Grant::Exhausted { retry_at: now.plus_ms(HOUR_MS) });
        assert!(matches!(ledger.reserve(now.plus_ms(HOUR_MS), 1, SMALL), Grant::Permits { .. }));
    }
}
