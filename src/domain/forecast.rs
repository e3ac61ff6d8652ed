//! What the quota means for what waits: when an import will be done, and whether renewals will keep up.
//!
//! The coming months are walked through in steps of an hour, with what was used lately, what waits, and what falls
//! due each day. It assumes that every call works and that as many people register as before: none are added.

use super::fan::{FanStep, PENDING_ID_LIFE_MS, Priority, RENEW_AFTER_MS, Renew};
use super::quota::{Limits, Share};
use super::tally::Tally;
use super::time::{DAY_MS, HOUR_MS, Timestamp};

const STEP_MS: i64 = HOUR_MS;
const DAY_STEPS: usize = 24;
const MONTH_STEPS: usize = 30 * DAY_STEPS;
/// How far it looks: past the first renewal of what three months of the quota can mint.
const HORIZON_STEPS: usize = 200 * DAY_STEPS;
/// A renewal that waits longer comes after the end of the pending id.
const RENEWAL_WAIT_STEPS: usize = 5 * DAY_STEPS;
const _: () = assert!(PENDING_ID_LIFE_MS - RENEW_AFTER_MS == 5 * 24 * STEP_MS);

/// What will come of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Forecast {
    /// When the last of those who wait for their first pending id will have it; `None` if nobody waits, or if it
    /// will take more than half a year.
    pub import_done_at: Option<Timestamp>,
    /// From when on pending ids will end before the quota allows to renew them.
    pub renewals_late_from: Option<Timestamp>,
}

/// Walks through what is to come. `history` are calls lately made, as (milliseconds ago, calls). Whether somebody will
/// be linked by then is not known, so `renew` other than never counts everybody.
#[must_use]
pub fn forecast(
    tally: &Tally,
    history: &[(i64, u32)],
    limits: Limits,
    patient: Share,
    renew: Renew,
    now: Timestamp,
) -> Forecast {
    let mut pace = Pace::new(history, limits, patient);
    let waiting = |priority| tally.waiting(FanStep::Mint, priority);
    let mut bulk = waiting(Priority::Bulk) + waiting(Priority::Live);
    let waits_at_all = bulk > 0;
    let mut renewals = waiting(Priority::RenewUnlinked) + waiting(Priority::Renew);
    let mut due = vec![0_u64; HORIZON_STEPS];
    if renew != Renew::Never {
        for (day, count) in &tally.renewals {
            // Spread over its day.
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
        let room = pace.room();
        let renewed = renewals.min(room);
        // An import leaves to renewals what they will need within a month.
        soon = soon.saturating_sub(due[step]) + due.get(step + MONTH_STEPS).copied().unwrap_or(0);
        let kept = renewals + soon;
        let first = bulk.min(room - renewed).min(pace.month_left().saturating_sub(kept));
        renewals -= renewed;
        bulk -= first;
        served += renewed;
        pace.made(renewed + first);
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

/// Calls made per step, and how many more the windows allow.
struct Pace {
    /// The steps of a month before now, then those to come.
    steps: Vec<u64>,
    day: u64,
    month: u64,
    limits: [u64; 3],
}

impl Pace {
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
        let mut pace = Self { day: 0, month: steps.iter().sum(), steps, limits };
        pace.day = pace.steps[MONTH_STEPS - DAY_STEPS..].iter().sum();
        pace.forget();
        pace
    }

    /// Moves on by one step: what is oldest leaves its window.
    fn forget(&mut self) {
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

    fn made(&mut self, calls: u64) {
        self.steps.push(calls);
        self.day += calls;
        self.month += calls;
        self.forget();
    }
}

#[cfg(test)]
mod tests;
