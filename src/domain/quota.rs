//! Call budgets over rolling windows, kept so that they hold under any alignment WeCom may use.
//!
//! Document 97357 limits `unionid_to_pending_id` per hour, day and month and does not say where a window
//! begins. So none of ours has a beginning: a [`Ledger`] counts calls in small buckets, and a permit is given
//! only if *every* window that ends now, whole buckets counted, stays within its limit.
//!
//! Permits are reserved in blocks and written down before the first of them is used; a crash wastes at most
//! one block. A block must be used within [`HOLD_MS`], and a call reaches WeCom at most [`FLIGHT_MS`] after
//! that: both are added to each window's length, so that a late call still counts where WeCom counts it.
//!
//! A ledger has a time of its own that moves by what has passed ([`Moment::millis_since`]), so a wall clock that is
//! set back or forth neither frees calls nor freezes them.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use super::time::{DAY_MS, HOUR_MS, MINUTE_MS, Moment, SECOND_MS};

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

    /// The tighter of both, window by window.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self {
            per_hour: self.per_hour.min(other.per_hour),
            per_day: self.per_day.min(other.per_day),
            per_month: self.per_month.min(other.per_month),
        }
    }
}

/// What a ledger is kept for, and so which windows it has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Budget {
    /// One of the two calls for fans: its own limits, under the base limit of every API.
    Conversion(Limits),
    /// Any other API, per corp (document 90312).
    Corp,
    /// Any API, per address of ours (document 90312).
    Address,
}

/// One limit of a budget.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Window {
    length_ms: i64,
    /// Width of the buckets: at most 360 of them, so a ledger stays at a few kilobytes, and the part of a
    /// window that is lost to rounding stays under 0.3 % (of a minute, which is never the limit that matters, 2 %).
    width_ms: i64,
    limit: u32,
}

const MINUTE: Window = Window { length_ms: MINUTE_MS, width_ms: SECOND_MS, limit: 10_000 };
const HOUR: Window = Window { length_ms: HOUR_MS, width_ms: 10 * SECOND_MS, limit: 150_000 };
const DAY: Window = Window { length_ms: DAY_MS, width_ms: 4 * MINUTE_MS, limit: u32::MAX };
const MONTH: Window = Window { length_ms: 30 * DAY_MS, width_ms: 2 * HOUR_MS, limit: u32::MAX };
const WINDOWS_MAX: usize = 4;

impl Budget {
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

/// How much of a budget a call may draw on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Share {
    /// All of it.
    Whole,
    /// What is left when so many percent of every window are kept for calls that cannot wait, and so many calls of
    /// the month for others that will be due.
    Without {
        /// Percent of every window.
        reserve_percent: u8,
        /// Calls of the month.
        month_kept: u32,
    },
}

impl Share {
    /// The part of a limit that may be used.
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

    const fn kept(self, window: Window) -> u32 {
        match self {
            Self::Without { month_kept, .. } if window.length_ms == MONTH.length_ms => month_kept,
            Self::Whole | Self::Without { .. } => 0,
        }
    }
}

/// The calls reserved for one account (a corp, or our address) and one API.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Ledger {
    seen: Option<Moment>,
    /// Milliseconds that passed since the ledger was begun.
    time: i64,
    rings: [Ring; WINDOWS_MAX],
    block: Option<Block>,
}

/// WeCom said 45009 in spite of us.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Block {
    /// In the ledger's time.
    until: i64,
    /// How many times in a row it was said again after a block.
    repeated: u32,
}

/// Non-empty buckets, oldest first, as (bucket number, calls).
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
struct Ring(VecDeque<(i64, u32)>);

/// The answer to a request for permits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Grant {
    /// So many calls may be made within [`HOLD_MS`]. Never zero.
    Permits(u32),
    /// None now.
    Exhausted {
        /// How long until there will be at least one, in milliseconds.
        wait_ms: i64,
    },
}

/// Calls counted against one window.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Used {
    /// In the hour that ends now.
    pub hour: u32,
    /// In the last 24 hours.
    pub day: u32,
    /// In the last 30 days.
    pub month: u32,
    /// WeCom blocks the API for so long, in milliseconds.
    pub blocked_ms: Option<i64>,
}

/// Reserves up to `want` calls that count against several ledgers at once: in all of them, or in none. With `want` 0
/// the ledgers only take note of the time.
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
    /// How many calls may be reserved now; never zero.
    ///
    /// # Errors
    /// In how many milliseconds there will be one.
    fn room(&mut self, now: Moment, budget: Budget, share: Share) -> Result<u32, i64> {
        self.move_to(now);
        let time = self.time;
        if let Some(block) = self.block.filter(|block| time < block.until) {
            return Err(block.until - time);
        }
        let (windows, count) = budget.windows();
        let (mut room, mut wait_ms) = (u32::MAX, 0);
        for (ring, window) in self.rings.iter_mut().zip(windows).take(count) {
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

    fn take(&mut self, budget: Budget, count: u32) {
        let (windows, windows_count) = budget.windows();
        for (ring, window) in self.rings.iter_mut().zip(windows).take(windows_count) {
            ring.add(self.time, window, count);
        }
    }

    /// WeCom answered 45009: no permits for as long as the window it most likely meant (document 90313). Which one
    /// it does not say, so the shortest of the budget's own comes first, and a longer one each time that did not
    /// help: an hour, the rest of the day in China, a day at a time; for the base limits a minute, then an hour.
    /// Returns for how long, in milliseconds.
    pub fn refused(&mut self, now: Moment, budget: Budget) -> i64 {
        self.move_to(now);
        let repeated = match self.block {
            // Calls that were under way say nothing new.
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

    /// What counts at `now`.
    #[must_use]
    pub fn used(&self, now: Moment) -> Used {
        let time = self.time + self.passed(now);
        let [_, hour, day, month] = &self.rings;
        let sum = |ring: &Ring, window| {
            let oldest = oldest_bucket(time, window);
            ring.0.iter().filter(|(bucket, _)| *bucket >= oldest).map(|(_, n)| n).sum()
        };
        let blocked_ms = self.block.map(|block| block.until - time).filter(|ms| *ms > 0);
        Used { hour: sum(hour, HOUR), day: sum(day, DAY), month: sum(month, MONTH), blocked_ms }
    }

    /// Calls of the last 30 days as (milliseconds ago, calls), oldest first.
    #[must_use]
    pub fn history(&self, now: Moment) -> Vec<(i64, u32)> {
        let time = self.time + self.passed(now);
        let [_, _, _, month] = &self.rings;
        month.0.iter().map(|(bucket, calls)| ((time - bucket * MONTH.width_ms).max(0), *calls)).collect()
    }

    fn passed(&self, now: Moment) -> i64 {
        self.seen.map_or(0, |seen| now.millis_since(seen))
    }

    fn move_to(&mut self, now: Moment) {
        self.time += self.passed(now);
        // Two callers may come in the other order than they looked at the clock.
        let (seen, now_steady) = (self.seen.and_then(|seen| seen.steady), now.steady);
        let out_of_order = matches!((seen, now_steady),
            (Some(seen), Some(now)) if seen.boot == now.boot && now.uptime_ms < seen.uptime_ms);
        if !out_of_order {
            self.seen = Some(now);
        }
    }
}

/// Milliseconds until midnight, UTC+8.
const fn rest_of_the_day_in_china(now: Moment) -> i64 {
    DAY_MS - (now.wall.as_millis() + 8 * HOUR_MS).rem_euclid(DAY_MS)
}

/// The oldest bucket that can hold a call which WeCom still counts at `time`.
const fn oldest_bucket(time: i64, window: Window) -> i64 {
    (time - window.length_ms - HOLD_MS - FLIGHT_MS).div_euclid(window.width_ms)
}

impl Ring {
    fn sum(&self) -> u32 {
        self.0.iter().map(|(_, n)| n).sum()
    }

    fn add(&mut self, time: i64, window: Window, count: u32) {
        let bucket = time.div_euclid(window.width_ms);
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

    /// When so many old calls have left the window that less than `limit` are in it; `None` if that takes
    /// more than all of them.
    fn room_at(&self, limit: u32, window: Window) -> Option<i64> {
        let mut sum = self.sum();
        let (bucket, _) = self.0.iter().find(|(_, calls)| {
            sum -= calls;
            sum < limit
        })?;
        Some((bucket + 1) * window.width_ms + window.length_ms + HOLD_MS + FLIGHT_MS)
    }
}

#[cfg(test)]
mod tests;
