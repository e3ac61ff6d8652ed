//! The activity of a dealer: its events by day, its last error, whether it is silent, and the numbers of its
//! customers and links.
//!
//! Deliberately absent: the record of a dealer as WeCom lists it (see [`dealer`](super::dealer)).

use serde::{Deserialize, Serialize};

use super::time::{DAY_MS, Timestamp};

/// Number of days for which events are counted; days without events are not among them.
pub const DAYS_KEPT: usize = 31;

/// The activity of a dealer.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct DealerActivity {
    /// When its first event was received, by our clock; `None` if there was none.
    pub first_event_at: Option<Timestamp>,
    /// When its newest event was received, by our clock.
    pub last_event_at: Option<Timestamp>,
    /// Its events by day, oldest first: the last [`DAYS_KEPT`] days that had any.
    pub days: Vec<DayCount>,
    /// Its last error; it may be over.
    pub trouble: Option<DealerTrouble>,
    /// When its customers were last compared completely with WeCom's lists.
    pub reconciled_at: Option<Timestamp>,
    /// When it was found to be silent; `None` while it is not.
    pub silent_since: Option<Timestamp>,
}

/// The number of events received on one day in China.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct DayCount {
    /// The day, in days since 1970-01-01, China time.
    pub day: i64,
    /// Number of events.
    pub events: u64,
}

/// An error that concerned a dealer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DealerTrouble {
    /// WeCom's code, if it answered with one.
    pub errcode: Option<i64>,
    /// What happened.
    pub text: String,
    /// When it happened.
    pub at: Timestamp,
}

/// The numbers of customers and links of a dealer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct DealerCounts {
    /// Number of known customers, linked or not.
    pub customers: u64,
    /// Number of links.
    pub links: u64,
}

/// Events of one dealer that are counted in memory and not yet recorded in its [`DealerActivity`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EventsSeen {
    /// When the first of them was received.
    pub first_at: Timestamp,
    /// When the last of them was received.
    pub last_at: Timestamp,
    /// Number of events.
    pub count: u64,
}

impl EventsSeen {
    /// One event.
    #[must_use]
    pub const fn one(at: Timestamp) -> Self {
        Self { first_at: at, last_at: at, count: 1 }
    }

    /// Adds an event.
    pub fn add(&mut self, at: Timestamp) {
        self.first_at = self.first_at.min(at);
        self.last_at = self.last_at.max(at);
        self.count += 1;
    }
}

/// What happened at a dealer since it was last recorded.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NewActivity {
    /// Its events, if there were any.
    pub seen: Option<EventsSeen>,
    /// Its last error, if there was one.
    pub trouble: Option<DealerTrouble>,
}

/// The day of an instant in China, in days since 1970-01-01.
#[must_use]
pub const fn day_in_china(at: Timestamp) -> i64 {
    at.plus_ms(8 * 60 * 60 * 1_000).as_millis().div_euclid(DAY_MS)
}

impl DealerActivity {
    /// Adds what happened since. Returns whether this ends a silence.
    pub fn add(&mut self, new: NewActivity) -> bool {
        if new.trouble.is_some() {
            self.trouble = new.trouble;
        }
        new.seen.is_some_and(|seen| self.record(seen))
    }

    /// Counts events, on the day of the last of them. Returns whether the dealer was silent before.
    pub fn record(&mut self, seen: EventsSeen) -> bool {
        self.first_event_at = Some(self.first_event_at.map_or(seen.first_at, |at| at.min(seen.first_at)));
        self.last_event_at = self.last_event_at.max(Some(seen.last_at));
        let day = day_in_china(seen.last_at);
        match self.days.binary_search_by_key(&day, |count| count.day) {
            Ok(index) => self.days[index].events += seen.count,
            Err(index) => self.days.insert(index, DayCount { day, events: seen.count }),
        }
        if self.days.len() > DAYS_KEPT {
            self.days.remove(0);
        }
        self.silent_since.take().is_some()
    }

    /// Whether the dealer becomes silent at `now`: it is not yet, had events, and none in the last
    /// `silent_days` days. Never with 0 days.
    #[must_use]
    pub fn falls_silent(&self, silent_days: u32, now: Timestamp) -> bool {
        let limit_ms = i64::from(silent_days) * DAY_MS;
        silent_days > 0
            && self.silent_since.is_none()
            && self.last_event_at.is_some_and(|at| now.millis_since(at) >= limit_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_counted_by_day_in_china_and_a_month_is_kept() {
        let mut activity = DealerActivity::default();
        // 15:59:59 and 16:00:00 UTC are two days in China.
        for secs in [57_599, 57_600, 57_601] {
            activity.record(EventsSeen::one(Timestamp::from_secs(secs)));
        }
        let counts: Vec<_> = activity.days.iter().map(|count| (count.day, count.events)).collect();
        assert_eq!(counts, [(0, 1), (1, 2)]);
        for day in 2..60 {
            activity.record(EventsSeen::one(Timestamp::from_millis(day * DAY_MS)));
        }
        assert_eq!((activity.days.len(), activity.days[0].day), (DAYS_KEPT, 29));
        assert_eq!(activity.first_event_at, Some(Timestamp::from_secs(57_599)));
    }

    #[test]
    fn a_dealer_without_events_for_some_days_is_silent_until_the_next() {
        let mut activity = DealerActivity::default();
        let at = |days: i64| Timestamp::from_millis(days * DAY_MS);
        assert!(!activity.falls_silent(7, at(100)), "it never had any");
        activity.record(EventsSeen::one(at(100)));
        assert!(!activity.falls_silent(7, at(106)) && activity.falls_silent(7, at(107)));
        assert!(!activity.falls_silent(0, at(1_000)));
        activity.silent_since = Some(at(107));
        assert!(activity.record(EventsSeen::one(at(108))) && activity.silent_since.is_none());
    }
}
