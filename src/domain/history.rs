//! What the service has counted, by hour; and what it remembers of each callback URL and each sink.
//!
//! Deliberately absent: where the counts come from (see [`crate::telemetry`] and [`crate::store::Made`]), and the ids of
//! anybody.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::time::{HOUR_MS, Timestamp};

/// For how many hours counts are kept.
pub const HOURS_KEPT: i64 = 31 * 24;

/// The failures of a sink that are remembered.
pub const FAILURES_KEPT: usize = 20;

/// The maximum length of the reason of a failure, in characters.
const REASON_CHARS: usize = 200;

/// The beginning of the hour of an instant.
#[must_use]
pub const fn hour_of(at: Timestamp) -> Timestamp {
    Timestamp::from_millis(at.as_millis().div_euclid(HOUR_MS) * HOUR_MS)
}

/// How often things happened, each under a group, such as `callbacks`, and a name within it, such as `accepted`. What
/// never happened is absent.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Tallies(BTreeMap<String, BTreeMap<String, u64>>);

impl Tallies {
    /// Adds to a count.
    pub fn add(&mut self, group: &str, name: &str, count: u64) {
        if count == 0 {
            return;
        }
        let group = match self.0.get_mut(group) {
            Some(group) => group,
            None => self.0.entry(group.to_owned()).or_default(),
        };
        match group.get_mut(name) {
            Some(known) => *known = known.saturating_add(count),
            None => drop(group.insert(name.to_owned(), count)),
        }
    }

    /// Adds all counts of another.
    pub fn add_all(&mut self, other: &Self) {
        for (group, name, count) in other.iter() {
            self.add(group, name, count);
        }
    }

    /// What was counted since `earlier`. A count that is smaller than it was has begun anew.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        let mut since = Self::default();
        for (group, name, count) in self.iter() {
            let before = earlier.get(group, name);
            since.add(group, name, if count < before { count } else { count - before });
        }
        since
    }

    /// A count.
    #[must_use]
    pub fn get(&self, group: &str, name: &str) -> u64 {
        self.0.get(group).and_then(|group| group.get(name)).copied().unwrap_or(0)
    }

    /// The sum of a group.
    #[must_use]
    pub fn sum(&self, group: &str) -> u64 {
        self.0.get(group).map_or(0, |group| group.values().sum())
    }

    /// The counts of a group, by name.
    #[must_use]
    pub fn group(&self, group: &str) -> BTreeMap<String, u64> {
        self.0.get(group).cloned().unwrap_or_default()
    }

    /// All groups.
    #[must_use]
    pub const fn groups(&self) -> &BTreeMap<String, BTreeMap<String, u64>> {
        &self.0
    }

    /// Whether nothing happened.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// All counts, each with its group and name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str, u64)> {
        self.0.iter().flat_map(|(group, names)| {
            names.iter().map(move |(name, count)| (group.as_str(), name.as_str(), *count))
        })
    }
}

/// What is remembered of a callback URL.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct UrlMarks {
    /// When a URL check by WeCom was last answered.
    pub verified_at: Option<Timestamp>,
    /// When a callback was last accepted.
    pub callback_at: Option<Timestamp>,
    /// The last request that was refused.
    pub refused: Option<LastRefusal>,
}

/// The last request that was refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastRefusal {
    /// When.
    pub at: Timestamp,
    /// Why: a reason of `unionlink_callback_refusals_total`.
    pub reason: String,
    /// The first that was refused since a genuine request.
    pub since: Timestamp,
    /// How many were refused since a genuine request; at least.
    pub count: u64,
}

impl LastRefusal {
    /// One refusal.
    #[must_use]
    pub fn one(at: Timestamp, reason: &str) -> Self {
        Self { at, reason: reason.to_owned(), since: at, count: 1 }
    }
}

impl UrlMarks {
    /// The later of each.
    pub fn merge(&mut self, other: Self) {
        self.verified_at = self.verified_at.max(other.verified_at);
        self.callback_at = self.callback_at.max(other.callback_at);
        self.refused = match (self.refused.take(), other.refused) {
            (Some(known), Some(new)) => {
                let (since, count) = (known.since.min(new.since), known.count.saturating_add(new.count));
                let later = if new.at > known.at { new } else { known };
                Some(LastRefusal { since, count, ..later })
            }
            (known, new) => known.or(new),
        };
        let genuine_at = self.genuine_at();
        if let Some(refused) = &mut self.refused
            && genuine_at.is_some_and(|at| at >= refused.since)
        {
            // Of those since then only the last is known.
            (refused.since, refused.count) = (refused.at, 1);
        }
    }

    /// When a genuine request was last received.
    #[must_use]
    pub fn genuine_at(&self) -> Option<Timestamp> {
        self.verified_at.max(self.callback_at)
    }
}

/// A delivery that failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SinkFailure {
    /// When.
    pub at: Timestamp,
    /// Why.
    pub reason: String,
}

impl SinkFailure {
    /// A failure, with its reason cut to a bounded length.
    #[must_use]
    pub fn new(at: Timestamp, reason: &str) -> Self {
        Self { at, reason: reason.chars().take(REASON_CHARS).collect() }
    }
}

/// Adds failures to those that are remembered: the newest [`FAILURES_KEPT`] stay, the oldest first.
pub fn remember(known: &mut Vec<SinkFailure>, new: impl IntoIterator<Item = SinkFailure>) {
    known.extend(new);
    known.sort_by_key(|failure| failure.at);
    let surplus = known.len().saturating_sub(FAILURES_KEPT);
    known.drain(..surplus);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn tallies() -> impl Strategy<Value = Tallies> {
        prop::collection::vec((0..3_usize, 0..3_usize, 0..9_u64), 0..12).prop_map(|counts| {
            let mut tallies = Tallies::default();
            for (group, name, count) in counts {
                tallies.add(["callbacks", "links", "calls"][group], ["a", "b", "c"][name], count);
            }
            tallies
        })
    }

    proptest! {
        #[test]
        fn what_is_counted_in_parts_is_the_sum_of_the_parts(parts in prop::collection::vec(tallies(), 0..6)) {
            let (mut counter, mut recorded, mut before) = (Tallies::default(), Tallies::default(), Tallies::default());
            for part in &parts {
                counter.add_all(part);
                recorded.add_all(&counter.since(&before));
                before = counter.clone();
            }
            prop_assert_eq!(recorded, counter);
        }

        #[test]
        fn a_counter_that_begins_anew_is_not_counted_backwards(before in tallies(), after in tallies()) {
            for (group, name, count) in after.since(&before).iter() {
                prop_assert!(count <= after.get(group, name));
            }
        }
    }

    #[test]
    fn an_hour_begins_at_the_full_hour_before_the_epoch_too() {
        assert_eq!(hour_of(Timestamp::from_millis(HOUR_MS + 1)), Timestamp::from_millis(HOUR_MS));
        assert_eq!(hour_of(Timestamp::from_millis(-1)), Timestamp::from_millis(-HOUR_MS));
    }

    #[test]
    fn the_later_mark_counts_and_the_newest_failures_stay() {
        let at = Timestamp::from_secs;
        let refused = |secs, reason: &str| Some(LastRefusal::one(at(secs), reason));
        let mut marks =
            UrlMarks { verified_at: Some(at(5)), callback_at: None, refused: refused(3, "cipher") };
        marks.merge(UrlMarks {
            verified_at: Some(at(4)),
            callback_at: Some(at(1)),
            refused: refused(2, "query"),
        });
        let expected =
            UrlMarks { verified_at: Some(at(5)), callback_at: Some(at(1)), refused: refused(3, "cipher") };
        assert_eq!(marks, expected);
        // Those since the last genuine request are counted.
        for secs in [7, 6, 8] {
            marks.merge(UrlMarks { refused: refused(secs, "signature"), ..UrlMarks::default() });
        }
        let last = marks.refused.clone().unwrap();
        assert_eq!((last.at, last.reason.as_str(), last.count), (at(8), "signature", 3));
        marks.merge(UrlMarks { callback_at: Some(at(9)), ..UrlMarks::default() });
        assert_eq!(marks.refused.unwrap().count, 1);
        let mut known = Vec::new();
        remember(&mut known, (0..25).rev().map(|secs| SinkFailure::new(at(secs), &"x".repeat(999))));
        assert_eq!((known.len(), known[0].at, known[0].reason.len()), (FAILURES_KEPT, at(5), 200));
    }
}
