//! The schedule of lookups: when WeCom is asked for the pending id of a customer that has none yet.
//!
//! A customer without a row in the answer is most likely no fan: looked up again after the waits of
//! [`REASK_AFTER_MS`], then only for a reason. A customer that the app cannot see depends on a setting or on
//! time: looked up after the same waits, then once a day until it has been known for 90 days: as long as a
//! fan's pending id could match. Once the app can see it within that time, the first schedule begins again.
//!
//! Deliberately absent: the queue of lookups, which is part of the store.

use serde::{Deserialize, Serialize};

use super::backoff::{REASK_AFTER_MS, reask_after_ms};
use super::fan::PENDING_ID_LIFE_MS;
use super::time::{DAY_MS, Timestamp};

/// The state of the lookups of a customer that has no pending id yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lookup {
    /// The position in the schedule: the number of lookups that WeCom answered without a pending id, plus the
    /// waits that were skipped for a customer of long ago.
    pub asked: u32,
    /// When the next lookup is due; `None` if the schedule has ended and the customer is looked up again only
    /// for a reason.
    pub due_at: Option<Timestamp>,
    /// WeCom's code, if it refused the last lookup because the app cannot see the customer.
    pub refused: Option<i64>,
    /// The priority of the next lookup.
    pub haste: Haste,
    /// The number of the [reconcile task](super::reconcile::ReconcileTask) that waits for the answer.
    pub task: Option<u64>,
    /// Whether the next lookup is made through a group, for a customer that has both a group and a follower.
    pub through_chat: bool,
}

/// The priority of a lookup that is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Haste {
    /// As an event: the customer has just joined a group.
    Live,
    /// After events and live lookups, which it must not delay.
    Background,
}

impl Lookup {
    /// A first lookup, due at `now`.
    #[must_use]
    pub const fn first(haste: Haste, now: Timestamp) -> Self {
        Self { asked: 0, due_at: Some(now), refused: None, haste, task: None, through_chat: false }
    }

    /// Whether the customer is still to be looked up: at a known time, or once the app may have become able
    /// to see the customer.
    #[must_use]
    pub const fn is_waiting(self) -> bool {
        self.due_at.is_some() || self.refused.is_some()
    }

    /// The state after one more answer without a pending id at `now`. `refused` is WeCom's code if the app
    /// cannot see the customer; `known_since` is when the customer became known, or when the relation began
    /// if that is known and earlier.
    #[must_use]
    pub fn answered(self, refused: Option<i64>, known_since: Timestamp, now: Timestamp) -> Self {
        let age_ms = now.millis_since(known_since);
        let first = steps_passed(age_ms) + 1;
        let asked = match (self.asked, self.refused, refused) {
            (0, ..) => first,
            // The app can see the customer now: as after the add, the pending id may take its time.
            (asked, Some(_), None) if age_ms < PENDING_ID_LIFE_MS => first.min(asked + 1),
            (asked, ..) => asked + 1,
        };
        let wait_ms = match (reask_after_ms(asked), refused) {
            (Some(wait_ms), _) => Some(wait_ms),
            (None, Some(_)) if age_ms < PENDING_ID_LIFE_MS => Some(DAY_MS),
            (None, _) => None,
        };
        let due_at = wait_ms.map(|wait_ms| now.plus_ms(wait_ms));
        Self {
            asked,
            due_at,
            refused,
            haste: Haste::Background,
            task: None,
            // Only one of follower and group may be visible to the app: they take turns.
            through_chat: !self.through_chat,
        }
    }
}

/// The number of waits of the schedule that have passed for a customer known for `age_ms`. The first waits
/// are for the time that WeCom may need after an add; for a customer of long ago these lookups would be
/// wasted. The last wait always remains.
fn steps_passed(age_ms: i64) -> u32 {
    let mut end_ms = 0;
    let passed = REASK_AFTER_MS.iter().take_while(|wait_ms| {
        end_ms += **wait_ms;
        end_ms < age_ms
    });
    u32::try_from(passed.count().min(REASK_AFTER_MS.len() - 1)).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::super::time::{HOUR_MS, MINUTE_MS};
    use super::*;

    fn waits(refused: Option<i64>, known_since: Timestamp, days: i64) -> Vec<i64> {
        let (start, mut waits) = (Timestamp::from_secs(100_000_000), Vec::new());
        let (mut lookup, mut now) = (Lookup::first(Haste::Live, start), start);
        while now < start.plus_ms(days * DAY_MS) {
            lookup = lookup.answered(refused, known_since, now);
            let Some(due_at) = lookup.due_at else { break };
            waits.push(due_at.millis_since(now));
            now = due_at;
        }
        waits
    }

    #[test]
    fn one_without_a_row_is_asked_about_on_the_schedule_and_no_more() {
        assert_eq!(waits(None, Timestamp::from_secs(100_000_000), 365), REASK_AFTER_MS);
    }

    #[test]
    fn one_who_is_not_visible_is_asked_about_daily_for_ninety_days() {
        let waits = waits(Some(60_011), Timestamp::from_secs(100_000_000), 365);
        assert_eq!(waits[..6], REASK_AFTER_MS);
        assert!(waits[6..].iter().all(|wait| *wait == DAY_MS));
        let total: i64 = waits.iter().sum();
        assert!((PENDING_ID_LIFE_MS..PENDING_ID_LIFE_MS + 2 * DAY_MS).contains(&total), "{total}");
    }

    #[test]
    fn one_who_is_visible_again_is_asked_about_on_the_schedule_from_the_beginning() {
        let known_since = Timestamp::from_secs(100_000_000);
        let mut lookup = Lookup::first(Haste::Live, known_since);
        let mut now = known_since;
        for _ in 0..3 {
            lookup = lookup.answered(Some(60_011), known_since, now);
            now = now.plus_ms(10_000);
        }
        let mut left = Vec::new();
        loop {
            lookup = lookup.answered(None, known_since, now);
            let Some(due_at) = lookup.due_at else { break };
            left.push(due_at.millis_since(now));
        }
        assert_eq!(left, REASK_AFTER_MS);
    }

    #[test]
    fn one_who_is_visible_in_one_of_two_ways_only_is_asked_about_for_ninety_days() {
        let known_since = Timestamp::from_secs(100_000_000);
        let (mut lookup, mut now) = (Lookup::first(Haste::Live, known_since), known_since);
        while let Some(due_at) = lookup.due_at {
            now = due_at;
            assert!(now.millis_since(known_since) < PENDING_ID_LIFE_MS + 4 * DAY_MS, "{lookup:?}");
            let refused = lookup.through_chat.then_some(40_096);
            lookup = lookup.answered(refused, known_since, now);
        }
        assert!(now.millis_since(known_since) > PENDING_ID_LIFE_MS - 4 * DAY_MS);
    }

    #[test]
    fn for_a_customer_of_long_ago_the_early_lookups_are_left_out() {
        let long_ago = Timestamp::EPOCH;
        assert_eq!(waits(None, long_ago, 365), [72 * HOUR_MS]);
        let yesterday = Timestamp::from_secs(100_000_000).plus_ms(-20 * HOUR_MS);
        assert_eq!(waits(None, yesterday, 365), [24 * HOUR_MS, 72 * HOUR_MS]);
        let just_now = Timestamp::from_secs(100_000_000).plus_ms(-MINUTE_MS / 2);
        assert_eq!(waits(None, just_now, 365), REASK_AFTER_MS);
    }
}
