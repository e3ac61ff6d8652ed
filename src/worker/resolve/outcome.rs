//! The outcomes of work that WeCom did not convert.
//!
//! Deliberately absent: the search that isolates a refused id, and circuit breakers.

use super::conversion::Fault;
use super::lane::may_pass_soon;
use crate::domain::backoff::{Backoff, Jitter};
use crate::domain::event::ContactChange;
use crate::domain::time::{HOUR_MS, Timestamp};
use crate::store::{FailureReason, Outcome, Work};

/// Attempts of an event that fails with the same undocumented or persisting code.
pub(super) const UNKNOWN_TRIES_MAX: u32 = 5;
/// The wait before the one retry of an id that was refused just after the add.
const FRESH_RETRY_AFTER_MS: i64 = 2_500;
/// The shortest wait before a retry because other calls went first, and how much jitter adds at most.
const SOON_MS: i64 = 1_000;
const SOON_SPREAD_MS: f64 = 1_000.0;

/// A retry that does not count as an attempt.
pub(super) const fn defer(due_at: Timestamp, reason: FailureReason) -> Outcome {
    Outcome::Retry { due_at, reason, spent: false }
}

/// When to retry because other calls went first, or too many were in flight; `jitter` is in `0.0..1.0`.
#[expect(clippy::cast_possible_truncation, reason = "a second at most")]
pub(super) fn soon(jitter: f64, now: Timestamp) -> Timestamp {
    now.plus_ms(SOON_MS + (SOON_SPREAD_MS * jitter) as i64)
}

/// When the work is tried again, if it is.
pub(super) const fn retry_at(outcome: &Outcome) -> Option<Timestamp> {
    match outcome {
        Outcome::Retry { due_at, .. } => Some(*due_at),
        Outcome::Resolved(_)
        | Outcome::Missed
        | Outcome::NotVisible(_)
        | Outcome::NotInChat(_)
        | Outcome::Applied
        | Outcome::Dead(_) => None,
    }
}

/// The outcome of an item whose conversion WeCom refused in a call of its own.
pub(super) fn refused_alone(work: &Work, fault: &Fault, jitter: Jitter, now: Timestamp) -> Outcome {
    match (fault, &work.event) {
        (Fault::NotVisible(reason), _) => match reason.errcode {
            Some(errcode) if may_pass_soon(errcode) && is_fresh(work) => {
                let due_at = now.plus_ms(FRESH_RETRY_AFTER_MS);
                Outcome::Retry { due_at, reason: reason.clone(), spent: true }
            }
            errcode => not_visible(errcode),
        },
        // Not a customer yet: WeCom may know this person once the member confirms.
        (Fault::Item(_), Some(event)) if event.event.contact.change == ContactChange::HalfAdded => {
            Outcome::Missed
        }
        (Fault::Item(reason), Some(_)) => Outcome::Dead(reason.clone()),
        // No event, but a scheduled lookup of a known customer: the schedule bounds their number.
        (Fault::Item(_), None) => Outcome::Missed,
        // Not an answer, so it does not count as one of them.
        (Fault::Unknown(reason) | Fault::Stuck(reason), None) => defer(now.plus_ms(HOUR_MS), reason.clone()),
        // An undocumented code, or a transient one that persists: a few slow attempts, then a dead letter.
        (Fault::Unknown(reason) | Fault::Stuck(reason), Some(event)) => {
            let same = event.failure.as_ref().is_some_and(|before| before.errcode == reason.errcode);
            if same && event.attempts + 1 >= UNKNOWN_TRIES_MAX {
                return Outcome::Dead(reason.clone());
            }
            let attempt = event.attempts + 1;
            let wait_ms = Backoff::UNKNOWN_CODE.wait_ms(attempt, jitter.of(event.id, attempt));
            Outcome::Retry { due_at: now.plus_ms(wait_ms), reason: reason.clone(), spent: true }
        }
    }
}

/// The outcome of a customer whom the app cannot see, for good or for now: never final.
pub(super) fn not_visible(errcode: Option<i64>) -> Outcome {
    errcode.map_or(Outcome::Missed, Outcome::NotVisible)
}

/// Whether WeCom has not yet refused this work.
fn is_fresh(work: &Work) -> bool {
    if let Some(event) = &work.event {
        return event.attempts == 0;
    }
    let lookup = work.known.as_ref().and_then(|known| known.lookup);
    lookup.is_none_or(|lookup| lookup.refused.is_none())
}
