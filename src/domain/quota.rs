//! Call quotas over sliding windows, which hold however WeCom aligns its own windows.
//!
//! Document 97357 limits `unionid_to_pending_id` per hour, day and month and does not say where a window
//! begins. A [`Ledger`] therefore counts calls in small buckets, and a permit is granted only if *every*
//! window that ends now stays within its limit, partly covered buckets counted in full.
//!
//! Permits are reserved in blocks and persisted before the first of them is used; a crash wastes at most one
//! block. A permit has to be used within [`HOLD_MS`], and its call reaches WeCom at most [`FLIGHT_MS`] later:
//! both are added to the length of each window, so that a late call is still counted when WeCom counts it.
//!
//! A ledger has its own clock, which advances by elapsed time ([`Moment::millis_since`]): setting the wall
//! clock neither frees calls nor blocks them.
//!
//! The store persists the ledgers; the limiter in `crate::wecom` reserves the blocks.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use super::time::{DAY_MS, HOUR_MS, MINUTE_MS, Moment, SECOND_MS};

/// How long a reserved permit is valid.
pub const HOLD_MS: i64 = 5 * SECOND_MS;

/// Readings of the clocks that are passed on in another order than they were made differ by less, but for those of a
/// replica that was cut off. A clock that was set back is believed after as long.
const OUT_OF_ORDER_MS: i64 = MINUTE_MS;
/// The longest time from using a permit until WeCom counts the call: the client's timeout.
pub const FLIGHT_MS: i64 = 10 * SECOND_MS;

/// Limits of one conversion API for one corp, in calls per sliding window.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Calls in any hour.
    pub per_hour: u32,
    /// Calls in any 24 hours.
    pub per_day: u32,
    /// Calls in any 30 days.
    pub per_month: u32,
}

impl Limits {
    /// The limits of documents 97357 and 95818.
    pub const DOCUMENTED: Self = Self { per_hour: 100_000, per_day: 480_000, per_month: 7_500_000 };

    /// The lower limit of both, window by window.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self {
            per_hour: self.per_hour.min(other.per_hour),
            per_day: self.per_day.min(other.per_day),
            per_month: self.per_month.min(other.per_month),
        }
    }
}

/// What a ledger counts, which decides its windows and their limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Budget {
    /// The calls of a corp to one of the two fan conversions: its own limits, and the base limits of every
    /// API.
    Conversion(Limits),
    /// The calls of a corp to any other API: the base limits per corp (document 90312).
    Corp,
    /// The calls from one IP address to an API: the base limits per address (document 90312).
    Address,
}

/// A sliding window and its limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Window {
    length_ms: i64,
    /// The width of a bucket. A window has at most 360 buckets, so a ledger takes a few kilobytes, and
    /// rounding loses less than 0.3 % of the quota (2 % of a minute's, which is never the limit that
    /// matters).
    bucket_ms: i64,
    limit: u32,
}

const MINUTE: Window = Window { length_ms: MINUTE_MS, bucket_ms: SECOND_MS, limit: 10_000 };
const HOUR: Window = Window { length_ms: HOUR_MS, bucket_ms: 10 * SECOND_MS, limit: 150_000 };
const DAY: Window = Window { length_ms: DAY_MS, bucket_ms: 4 * MINUTE_MS, limit: u32::MAX };
const MONTH: Window = Window { length_ms: 30 * DAY_MS, bucket_ms: 2 * HOUR_MS, limit: u32::MAX };
const WINDOWS_MAX: usize = 4;

impl Window {
    /// Until when the calls of a bucket count, on the ledger's clock.
    const fn counted_until(self, bucket: i64) -> i64 {
        (bucket + 1) * self.bucket_ms + self.length_ms + HOLD_MS + FLIGHT_MS
    }
}

/// A window of a ledger as a forecast needs it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct WindowUse {
    /// Calls in the window, without what the share reserves.
    pub(super) limit: u32,
    /// The longest time for which a call counts, in milliseconds.
    pub(super) counted_ms: i64,
    /// The calls that count now, oldest first: for how many milliseconds they still count, and their number.
    pub(super) calls: Vec<(i64, u32)>,
}

impl Budget {
    /// All windows, and how many of them, from the first on, have a limit.
    const fn windows(self) -> ([Window; WINDOWS_MAX], usize) {
        match self {
            Self::Conversion(limits) => (
                [
                    MINUTE,
                    Window {
                        limit: if limits.per_hour < HOUR.limit { limits.per_hour } else { HOUR.limit },
                        ..HOUR
                    },
                    Window { limit: limits.per_day, ..DAY },
                    Window { limit: limits.per_month, ..MONTH },
                ],
                4,
            ),
            Self::Corp => ([MINUTE, HOUR, DAY, MONTH], 2),
            Self::Address => {
                ([Window { limit: 20_000, ..MINUTE }, Window { limit: 600_000, ..HOUR }, DAY, MONTH], 2)
            }
        }
    }
}

/// The part of a budget that a call may draw on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Share {
    /// The whole budget.
    Whole,
    /// The budget without what is reserved for more urgent calls.
    Without {
        /// Percent of every window reserved for calls that cannot wait.
        reserve_percent: u8,
        /// Calls of the month's window reserved for renewals that will fall due.
        month_kept: u32,
    },
}

impl Share {
    /// A limit without its reserved percentage.
    #[must_use]
    pub fn of(self, limit: u32) -> u32 {
        match self {
            Self::Whole => limit,
            Self::Without { reserve_percent, .. } => {
                let reserve = u64::from(limit) * u64::from(reserve_percent.min(100)) / 100;
                limit - u32::try_from(reserve).unwrap_or(limit)
            }
        }
    }

    /// Calls of a window that are reserved for renewals.
    const fn kept(self, window: Window) -> u32 {
        match self {
            Self::Without { month_kept, .. } if window.length_ms == MONTH.length_ms => month_kept,
            Self::Whole | Self::Without { .. } => 0,
        }
    }
}

/// The calls to one API that one account (a corp, or our IP address) has reserved.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Ledger {
    /// The last reading of the clocks.
    seen: Option<Moment>,
    /// The ledger's clock: elapsed milliseconds since its first use.
    time: i64,
    /// One for each window, in the order of `Budget::windows`.
    rings: [Ring; WINDOWS_MAX],
    block: Option<Block>,
    /// The first of the readings that are far behind `seen`, if the last ones all are.
    behind: Option<Moment>,
}

/// A [`Ledger`] as it was stored before it knew readings that are behind.
#[derive(Deserialize)]
pub struct LedgerBefore {
    seen: Option<Moment>,
    time: i64,
    rings: [Ring; WINDOWS_MAX],
    block: Option<Block>,
}

impl From<LedgerBefore> for Ledger {
    fn from(LedgerBefore { seen, time, rings, block }: LedgerBefore) -> Self {
        Self { seen, time, rings, block, behind: None }
    }
}

/// A block after WeCom answered 45009, although our own count was within the limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Block {
    /// On the ledger's clock.
    until: i64,
    /// How many times in a row WeCom answered 45009 again soon after a block had ended.
    repeated: u32,
}

/// The calls in one window: its non-empty buckets, oldest first, as (bucket number, calls).
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
struct Ring(VecDeque<(i64, u32)>);

/// The answer to a request for permits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Grant {
    /// This number of calls, at least one, may be made within [`HOLD_MS`].
    Permits(u32),
    /// No call may be made now.
    Exhausted {
        /// Milliseconds until the next permit.
        wait_ms: i64,
    },
}

/// How much of the quota of one account and API is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Used {
    /// Calls in the last hour.
    pub hour: u32,
    /// Calls in the last 24 hours.
    pub day: u32,
    /// Calls in the last 30 days.
    pub month: u32,
    /// Milliseconds until the block after a 45009 ends, while there is one.
    pub blocked_ms: Option<i64>,
}

/// Reserves up to `want` calls in several ledgers at once: in all of them or in none. With `want` 0 the
/// ledgers only record the time.
pub fn reserve(accounts: &mut [(&mut Ledger, Budget)], now: Moment, want: u32, share: Share) -> Grant {
    let (mut count, mut wait_ms) = (want.max(1), 0);
    for (ledger, budget) in accounts.iter_mut() {
        match ledger.room(now, *budget, share) {
            Ok(room) => count = count.min(room),
            Err(room_after_ms) => wait_ms = wait_ms.max(room_after_ms),
        }
    }
    if wait_ms > 0 || want == 0 {
        return Grant::Exhausted { wait_ms };
    }
    for (ledger, budget) in accounts {
        ledger.take(*budget, count);
    }
    Grant::Permits(count)
}

impl Ledger {
    /// How many calls may be reserved now, at least one.
    ///
    /// # Errors
    /// Milliseconds until the next permit.
    fn room(&mut self, now: Moment, budget: Budget, share: Share) -> Result<u32, i64> {
        self.advance_to(now);
        let time = self.time;
        if let Some(block) = self.block.filter(|block| time < block.until) {
            return Err(block.until - time);
        }
        let (windows, limited) = budget.windows();
        let (mut room, mut wait_ms) = (u32::MAX, 0);
        for (ring, window) in self.rings.iter_mut().zip(windows).take(limited) {
            ring.drop_before(time, window);
            let limit = share.of(window.limit).saturating_sub(share.kept(window));
            match limit.saturating_sub(ring.sum()) {
                0 => {
                    let room_at = ring.room_at(limit, window).unwrap_or(time + window.length_ms);
                    wait_ms = wait_ms.max(room_at - time);
                }
                left => room = room.min(left),
            }
        }
        if wait_ms > 0 { Err(wait_ms) } else { Ok(room) }
    }

    /// Counts `count` calls as reserved now.
    fn take(&mut self, budget: Budget, count: u32) {
        let (windows, limited) = budget.windows();
        for (ring, window) in self.rings.iter_mut().zip(windows).take(limited) {
            ring.add(self.time, window, count);
        }
    }

    /// Blocks the API after WeCom answered 45009, for the length of the exceeded window (document 90313).
    /// Returns for how long, in milliseconds.
    ///
    /// WeCom does not say which window it is. The first block assumes the shortest of the budget's own, and
    /// each time WeCom answers 45009 again within an hour after a block, the next block is longer: for a
    /// conversion an hour, the rest of the day in China, then a day at a time; for the base limits a minute,
    /// then an hour at a time.
    pub fn rate_limited(&mut self, now: Moment, budget: Budget) -> i64 {
        self.advance_to(now);
        let repeated = match self.block {
            // An answer to a call that was in flight when the block began.
            Some(block) if self.time < block.until => return block.until - self.time,
            Some(block) if self.time - block.until < HOUR_MS => block.repeated + 1,
            _ => 0,
        };
        let length_ms = match (budget, repeated) {
            (Budget::Conversion(_), 0) | (Budget::Corp | Budget::Address, 1..) => HOUR_MS,
            (Budget::Conversion(_), 1) => rest_of_the_day_in_china(now),
            (Budget::Conversion(_), _) => DAY_MS,
            (Budget::Corp | Budget::Address, 0) => MINUTE_MS,
        };
        self.block = Some(Block { until: self.time + length_ms, repeated });
        length_ms
    }

    /// The calls counted at `now`, and the block if there is one.
    #[must_use]
    pub fn used(&self, now: Moment) -> Used {
        let time = self.time + self.elapsed_ms(now);
        let [_, hour, day, month] = &self.rings;
        let sum = |ring: &Ring, window| {
            let oldest = oldest_bucket(time, window);
            ring.0.iter().filter(|(bucket, _)| *bucket >= oldest).map(|(_, n)| n).sum()
        };
        let blocked_ms = self.block.map(|block| block.until - time).filter(|ms| *ms > 0);
        Used { hour: sum(hour, HOUR), day: sum(day, DAY), month: sum(month, MONTH), blocked_ms }
    }

    /// The windows of `budget`, shortest first, with the calls that count in each at `now`: the state from
    /// which a forecast goes on.
    pub(super) fn window_use(&self, now: Moment, budget: Budget, share: Share) -> [WindowUse; WINDOWS_MAX] {
        let time = self.time + self.elapsed_ms(now);
        let (windows, _) = budget.windows();
        std::array::from_fn(|n| {
            let (ring, window) = (&self.rings[n], windows[n]);
            let oldest = oldest_bucket(time, window);
            let counted = ring.0.iter().filter(|(bucket, _)| *bucket >= oldest);
            WindowUse {
                limit: share.of(window.limit),
                counted_ms: window.counted_until(0),
                calls: counted
                    .map(|(bucket, calls)| (window.counted_until(*bucket) - time, *calls))
                    .collect(),
            }
        })
    }

    /// Milliseconds since the last reading of the clocks.
    fn elapsed_ms(&self, now: Moment) -> i64 {
        self.seen.map_or(0, |seen| now.millis_since(seen))
    }

    /// Advances the ledger's clock to `now`.
    fn advance_to(&mut self, now: Moment) {
        self.time += self.elapsed_ms(now);
        // Callers may arrive in another order than they read the clock: a replica may have been cut off for long.
        if let Some(by_ms) = self.seen.and_then(|seen| behind_ms(now, seen)) {
            if by_ms < OUT_OF_ORDER_MS {
                return;
            }
            // All readings of a minute are behind: the one before them was wrong, and time must not stand still until then.
            match self.behind {
                Some(first) if now.millis_since(first) >= OUT_OF_ORDER_MS => {}
                Some(first) if behind_ms(now, first).is_none() => return,
                Some(_) | None => {
                    self.behind = Some(now);
                    return;
                }
            }
        }
        (self.seen, self.behind) = (Some(now), None);
    }
}

/// By how many milliseconds a reading is behind another of the same clock; `None` if it is not.
fn behind_ms(now: Moment, seen: Moment) -> Option<i64> {
    let (now, seen) = now.steady.zip(seen.steady)?;
    (now.boot == seen.boot && now.uptime_ms < seen.uptime_ms).then(|| seen.uptime_ms - now.uptime_ms)
}

/// Milliseconds until midnight, UTC+8.
const fn rest_of_the_day_in_china(now: Moment) -> i64 {
    DAY_MS - (now.wall.as_millis() + 8 * HOUR_MS).rem_euclid(DAY_MS)
}

/// The oldest bucket with calls that WeCom may still count at `time` (on the ledger's clock).
const fn oldest_bucket(time: i64, window: Window) -> i64 {
    (time - window.length_ms - HOLD_MS - FLIGHT_MS).div_euclid(window.bucket_ms)
}

impl Ring {
    fn sum(&self) -> u32 {
        self.0.iter().map(|(_, n)| n).sum()
    }

    fn add(&mut self, time: i64, window: Window, count: u32) {
        let bucket = time.div_euclid(window.bucket_ms);
        match self.0.back_mut() {
            Some((last, n)) if *last == bucket => *n += count,
            _ => self.0.push_back((bucket, count)),
        }
    }

    fn drop_before(&mut self, time: i64, window: Window) {
        let oldest = oldest_bucket(time, window);
        while self.0.front().is_some_and(|(bucket, _)| *bucket < oldest) {
            self.0.pop_front();
        }
    }

    /// When fewer than `limit` calls will be left in the window, on the ledger's clock; `None` for a limit
    /// of 0.
    fn room_at(&self, limit: u32, window: Window) -> Option<i64> {
        let mut sum = self.sum();
        let (bucket, _) = self.0.iter().find(|(_, calls)| {
            sum -= calls;
            sum < limit
        })?;
        Some(window.counted_until(*bucket))
    }
}

#[cfg(test)]
mod tests;
