//! Forecast of the mint queue: when an import will be done, and whether the quota suffices for renewals.
//!
//! A simulation of the next 200 days, from the calls that count in the windows of the quota ledger, the fans
//! that wait, and the renewals due each day. For the first two days calls are simulated when the ledger will
//! grant them, the limit per minute included, so results are right to the minute; after that in steps of an
//! hour. It assumes that every call succeeds, that the quota and not the round trip paces the calls, that no
//! other corp imports from the same IP address, and that no further fan is registered.

use std::collections::VecDeque;

use super::fan::{FanStep, PENDING_ID_LIFE_MS, Priority, RENEW_AFTER_MS, Renew};
use super::quota::{Budget, Ledger, Limits, Share, WindowUse};
use super::tally::Tally;
use super::time::{DAY_MS, HOUR_MS, MINUTE_MS, Moment, SECOND_MS, Timestamp};

const DAY_HOURS: usize = 24;
const MONTH_HOURS: usize = 30 * DAY_HOURS;
/// How far the simulation goes: beyond the first renewal of all fans that three months of the quota can mint.
const HORIZON_HOURS: usize = 200 * DAY_HOURS;
/// A renewal that waits longer comes after the pending id has expired.
const RENEWAL_WAIT_HOURS: usize = 5 * DAY_HOURS;
const _: () = assert!(PENDING_ID_LIFE_MS - RENEW_AFTER_MS == 5 * DAY_MS);
/// For how long the simulation is right to the minute.
const FINE_MS: i64 = 2 * DAY_MS;
/// The shortest step within that time. Bounds their number when calls leave a window a few at a time.
const FINE_STEP_MS: i64 = 10 * SECOND_MS;

/// The result of a forecast.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Forecast {
    /// When the last fan who waits for a first pending id will have it; `None` if no fan waits, or if it
    /// takes longer than 200 days.
    pub import_done_at: Option<Timestamp>,
    /// From when on pending ids will expire before the quota allows renewing them; `None` if they will not.
    pub renewals_late_from: Option<Timestamp>,
}

/// The forecast for one app from `now`. `ledger` has the calls made so far, `patient` is the share of the
/// quota that is not reserved for live registrations. Which fans will be linked when they fall due is not
/// known: unless `renew` is [`Renew::Never`], all are assumed to be renewed.
#[must_use]
pub fn forecast(
    tally: &Tally,
    ledger: &Ledger,
    limits: Limits,
    patient: Share,
    renew: Renew,
    now: Moment,
) -> Forecast {
    let start = now.wall;
    let mut windows = CallWindows::new(ledger, limits, patient, now);
    let waiting = |priority| tally.waiting(FanStep::Mint, priority);
    let mut bulk = waiting(Priority::Bulk) + waiting(Priority::Live);
    let waits_at_all = bulk > 0;
    let mut renewals = waiting(Priority::RenewUnlinked) + waiting(Priority::Renew);
    let mut due = vec![0_u64; HORIZON_HOURS];
    if renew != Renew::Never {
        for (day, count) in &tally.renewals {
            // Spread evenly over the day.
            for hour in 0..DAY_HOURS {
                let at = Timestamp::from_millis(day * DAY_MS + i64::try_from(hour).unwrap_or(0) * HOUR_MS);
                let part = count / DAY_HOURS as u64 + u64::from((hour as u64) < count % DAY_HOURS as u64);
                if let Some(due) = due.get_mut(whole_hours(at.millis_since(start))) {
                    *due += part;
                }
            }
        }
    }
    let mut to_come = renewals + due.iter().sum::<u64>();
    let (mut forecast, mut fell_due, mut served) = (Forecast::default(), vec![0_u64; HORIZON_HOURS], 0_u64);
    let mut all_due = renewals;
    let mut soon: u64 = due.iter().take(MONTH_HOURS).sum();
    let renewed_after = whole_hours(RENEW_AFTER_MS);
    let mut hours_begun = 0;
    let mut at_ms = ledger.used(now).blocked_ms.unwrap_or(0);
    loop {
        let hour = whole_hours(at_ms);
        if hour >= HORIZON_HOURS {
            return forecast;
        }
        while hours_begun <= hour {
            renewals += due[hours_begun];
            all_due += due[hours_begun];
            fell_due[hours_begun] = all_due;
            let month_later = due.get(hours_begun + MONTH_HOURS).copied().unwrap_or(0);
            soon = soon.saturating_sub(due[hours_begun]) + month_later;
            hours_begun += 1;
        }
        if bulk == 0 && to_come == served {
            return forecast;
        }
        let room = windows.room(at_ms);
        let renewed = renewals.min(room);
        // An import leaves the calls that renewals will need within the next month.
        let kept = renewals + soon;
        let first = bulk.min(room - renewed).min(windows.month.left().saturating_sub(kept));
        renewals -= renewed;
        bulk -= first;
        served += renewed;
        windows.add(at_ms, renewed + first);
        if let Some(due) = due.get_mut(hour + renewed_after).filter(|_| renew != Renew::Never) {
            *due += renewed + first;
            to_come += renewed + first;
        }
        if waits_at_all && bulk == 0 && forecast.import_done_at.is_none() {
            let precision_ms = if is_fine(at_ms) { MINUTE_MS } else { HOUR_MS };
            forecast.import_done_at = Some(start.plus_ms(next_multiple(at_ms, precision_ms)));
        }
        let late = hour >= RENEWAL_WAIT_HOURS && served < fell_due[hour - RENEWAL_WAIT_HOURS];
        if late && forecast.renewals_late_from.is_none() {
            forecast.renewals_late_from = Some(start.plus_ms(next_multiple(at_ms, HOUR_MS)));
        }
        at_ms = if renewed + first < room {
            // Nothing waits that may use the calls left.
            next_multiple(at_ms, HOUR_MS)
        } else {
            windows.next_room_at(at_ms)
        };
    }
}

/// Whole hours in `ms`; 0 if it is negative.
fn whole_hours(ms: i64) -> usize {
    usize::try_from(ms / HOUR_MS).unwrap_or(0)
}

/// The first multiple of `unit_ms` after `at_ms`.
const fn next_multiple(at_ms: i64, unit_ms: i64) -> i64 {
    (at_ms / unit_ms + 1) * unit_ms
}

/// Whether the simulation at `at_ms` is right to the minute.
const fn is_fine(at_ms: i64) -> bool {
    at_ms < FINE_MS
}

/// The quota's sliding windows with the calls made and simulated. Instants are milliseconds from the start of
/// the simulation.
struct CallWindows {
    minute: CallWindow,
    hour: CallWindow,
    day: CallWindow,
    month: CallWindow,
}

impl CallWindows {
    fn new(ledger: &Ledger, limits: Limits, share: Share, now: Moment) -> Self {
        let windows = ledger.window_use(now, Budget::Conversion(limits), share);
        let [minute, hour, day, month] = windows.map(CallWindow::new);
        Self { minute, hour, day, month }
    }

    fn all(&mut self) -> [&mut CallWindow; 4] {
        [&mut self.minute, &mut self.hour, &mut self.day, &mut self.month]
    }

    /// How many calls may be made at `at_ms`; in steps of an hour, within the hour that begins then.
    fn room(&mut self, at_ms: i64) -> u64 {
        for window in self.all() {
            window.advance_to(at_ms);
        }
        let longer = self.day.left().min(self.month.left());
        if is_fine(at_ms) {
            longer.min(self.hour.left()).min(self.minute.left())
        } else {
            // The limits per minute allow more within an hour than the limit per hour.
            longer.min(self.hour.limit)
        }
    }

    fn add(&mut self, at_ms: i64, calls: u64) {
        if calls == 0 {
            return;
        }
        for window in self.all() {
            // In steps of an hour a fraction of an hour would delay the next call by a whole one.
            let fraction_ms = if is_fine(at_ms) { 0 } else { window.counted_ms % HOUR_MS };
            window.sum += calls;
            window.calls.push_back((at_ms + window.counted_ms - fraction_ms, calls));
        }
    }

    /// When there will be room again, in steps of bounded length.
    fn next_room_at(&self, at_ms: i64) -> i64 {
        let windows = [&self.minute, &self.hour, &self.day, &self.month];
        let room_at_ms = windows.map(CallWindow::room_at).into_iter().fold(at_ms, i64::max);
        let step_ms = if is_fine(at_ms) { FINE_STEP_MS } else { HOUR_MS };
        room_at_ms.clamp(at_ms + step_ms, at_ms + HOUR_MS)
    }
}

/// One sliding window.
struct CallWindow {
    limit: u64,
    counted_ms: i64,
    sum: u64,
    /// Calls, oldest first: until when they count, and their number.
    calls: VecDeque<(i64, u64)>,
}

impl CallWindow {
    fn new(WindowUse { limit, counted_ms, calls }: WindowUse) -> Self {
        let calls: VecDeque<(i64, u64)> =
            calls.into_iter().map(|(until_ms, calls)| (until_ms, calls.into())).collect();
        let sum = calls.iter().map(|(_, calls)| calls).sum();
        Self { limit: limit.into(), counted_ms, sum, calls }
    }

    fn advance_to(&mut self, at_ms: i64) {
        while let Some((_, calls)) = self.calls.pop_front_if(|(until_ms, _)| *until_ms <= at_ms) {
            self.sum -= calls;
        }
    }

    const fn left(&self) -> u64 {
        self.limit.saturating_sub(self.sum)
    }

    /// When there is room for a call: 0 for now, `i64::MAX` for never.
    fn room_at(&self) -> i64 {
        let mut sum = self.sum;
        if sum < self.limit {
            return 0;
        }
        let freeing = self.calls.iter().find(|(_, calls)| {
            sum -= calls;
            sum < self.limit
        });
        freeing.map_or(i64::MAX, |(until_ms, _)| *until_ms)
    }
}

#[cfg(test)]
mod tests;
