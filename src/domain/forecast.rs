//! Forecast of the mint queue: when an import will be done, and whether the quota suffices for renewals.
//!
//! A simulation of the next 200 days in steps of an hour, from the calls of the last 30 days, the fans that
//! wait, and the renewals due each day. It assumes that every call succeeds and that no further fan is
//! registered.

use super::fan::{FanStep, PENDING_ID_LIFE_MS, Priority, RENEW_AFTER_MS, Renew};
use super::quota::{Limits, Share};
use super::tally::Tally;
use super::time::{DAY_MS, HOUR_MS, Timestamp};

const STEP_MS: i64 = HOUR_MS;
const DAY_STEPS: usize = 24;
const MONTH_STEPS: usize = 30 * DAY_STEPS;
/// How far the simulation goes: beyond the first renewal of all fans that three months of the quota can mint.
const HORIZON_STEPS: usize = 200 * DAY_STEPS;
/// A renewal that waits longer comes after the pending id has expired.
const RENEWAL_WAIT_STEPS: usize = 5 * DAY_STEPS;
const _: () = assert!(PENDING_ID_LIFE_MS - RENEW_AFTER_MS == 5 * 24 * STEP_MS);

/// The result of a forecast.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Forecast {
    /// When the last fan who waits for a first pending id will have it; `None` if no fan waits, or if it
    /// takes longer than 200 days.
    pub import_done_at: Option<Timestamp>,
    /// From when on pending ids will expire before the quota allows renewing them; `None` if they will not.
    pub renewals_late_from: Option<Timestamp>,
}

/// The forecast for one app from `now`. `history` are the calls of the last 30 days as (age in milliseconds,
/// number of calls), `patient` is the share of the quota that is not reserved for live registrations. Which
/// fans will be linked when they fall due is not known: unless `renew` is [`Renew::Never`], all are assumed
/// to be renewed.
#[must_use]
pub fn forecast(
    tally: &Tally,
    history: &[(i64, u32)],
    limits: Limits,
    patient: Share,
    renew: Renew,
    now: Timestamp,
) -> Forecast {
    let mut windows = CallWindows::new(history, limits, patient);
    let waiting = |priority| tally.waiting(FanStep::Mint, priority);
    let mut bulk = waiting(Priority::Bulk) + waiting(Priority::Live);
    let waits_at_all = bulk > 0;
    let mut renewals = waiting(Priority::RenewUnlinked) + waiting(Priority::Renew);
    let mut due = vec![0_u64; HORIZON_STEPS];
    if renew != Renew::Never {
        for (day, count) in &tally.renewals {
            // Spread evenly over the day.
            for hour in 0..DAY_STEPS {
                let at = Timestamp::from_millis(day * DAY_MS + i64::try_from(hour).unwrap_or(0) * HOUR_MS);
                let step = usize::try_from(at.millis_since(now) / STEP_MS).unwrap_or(0);
                let part = count / DAY_STEPS as u64 + u64::from((hour as u64) < count % DAY_STEPS as u64);
                if let Some(due) = due.get_mut(step) {
                    *due += part;
                }
            }
        }
    }
    let mut to_come = renewals + due.iter().sum::<u64>();
    let renewed_after = usize::try_from(RENEW_AFTER_MS / STEP_MS).unwrap_or(usize::MAX);
    let (mut forecast, mut fell_due, mut served) = (Forecast::default(), vec![0_u64; HORIZON_STEPS], 0_u64);
    let mut all_due = renewals;
    let mut soon: u64 = due.iter().take(MONTH_STEPS).sum();
    for step in 0..HORIZON_STEPS {
        if bulk == 0 && to_come == served {
            break;
        }
        renewals += due[step];
        all_due += due[step];
        fell_due[step] = all_due;
        let room = windows.room();
        let renewed = renewals.min(room);
        // An import leaves the calls that renewals will need within the next month.
        soon = soon.saturating_sub(due[step]) + due.get(step + MONTH_STEPS).copied().unwrap_or(0);
        let kept = renewals + soon;
        let first = bulk.min(room - renewed).min(windows.month_left().saturating_sub(kept));
        renewals -= renewed;
        bulk -= first;
        served += renewed;
        windows.add(renewed + first);
        if let Some(due) = due.get_mut(step + renewed_after).filter(|_| renew != Renew::Never) {
            *due += renewed + first;
            to_come += renewed + first;
        }
        let at = || now.plus_ms((i64::try_from(step).unwrap_or(0) + 1) * STEP_MS);
        if waits_at_all && bulk == 0 && forecast.import_done_at.is_none() {
            forecast.import_done_at = Some(at());
        }
        let late = step >= RENEWAL_WAIT_STEPS && served < fell_due[step - RENEWAL_WAIT_STEPS];
        if late && forecast.renewals_late_from.is_none() {
            forecast.renewals_late_from = Some(at());
        }
    }
    forecast
}

/// The calls in each step, summed over the quota's sliding windows.
struct CallWindows {
    /// The 30 days before now, then the simulated steps so far.
    steps: Vec<u64>,
    day: u64,
    month: u64,
    limits: [u64; 3],
}

impl CallWindows {
    fn new(history: &[(i64, u32)], limits: Limits, share: Share) -> Self {
        let mut steps = vec![0; MONTH_STEPS];
        for (ago_ms, calls) in history {
            let back = usize::try_from(ago_ms / STEP_MS).unwrap_or(0);
            if let Some(step) = steps.iter_mut().rev().nth(back) {
                *step += u64::from(*calls);
            }
        }
        let limits =
            [limits.per_hour, limits.per_day, limits.per_month].map(|limit| u64::from(share.of(limit)));
        let mut windows = Self { day: 0, month: steps.iter().sum(), steps, limits };
        windows.day = windows.steps[MONTH_STEPS - DAY_STEPS..].iter().sum();
        windows.slide();
        windows
    }

    /// Moves the windows by one step: the oldest step leaves each.
    fn slide(&mut self) {
        self.month -= self.steps[self.steps.len() - MONTH_STEPS];
        self.day -= self.steps[self.steps.len() - DAY_STEPS];
    }

    fn room(&self) -> u64 {
        let [hour, day, _] = self.limits;
        hour.min(day.saturating_sub(self.day)).min(self.month_left())
    }

    fn month_left(&self) -> u64 {
        let [_, _, month] = self.limits;
        month.saturating_sub(self.month)
    }

    fn add(&mut self, calls: u64) {
        self.steps.push(calls);
        self.day += calls;
        self.month += calls;
        self.slide();
    }
}

#[cfg(test)]
mod tests;
