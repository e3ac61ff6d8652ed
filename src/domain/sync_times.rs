//! How long a disk takes to make commits durable, as counts by duration, which can be added up.

use std::time::Duration;

use super::history::Tallies;

/// The upper bounds of the counted durations, each with its name; the last one has none.
const BOUNDS: [(&str, Duration); 12] = [
    ("le_1ms", Duration::from_millis(1)),
    ("le_2ms", Duration::from_millis(2)),
    ("le_5ms", Duration::from_millis(5)),
    ("le_10ms", Duration::from_millis(10)),
    ("le_20ms", Duration::from_millis(20)),
    ("le_50ms", Duration::from_millis(50)),
    ("le_100ms", Duration::from_millis(100)),
    ("le_200ms", Duration::from_millis(200)),
    ("le_500ms", Duration::from_millis(500)),
    ("le_1s", Duration::from_secs(1)),
    ("le_3s", Duration::from_secs(3)),
    ("over_3s", Duration::MAX),
];

/// How many commits took how long to become durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SyncTimes {
    counts: [u64; BOUNDS.len()],
    sum: Duration,
}

impl SyncTimes {
    /// Counts a commit.
    pub fn add(&mut self, took: Duration) {
        let place = BOUNDS.iter().position(|(_, bound)| took <= *bound).unwrap_or(BOUNDS.len() - 1);
        self.counts[place] += 1;
        self.sum = self.sum.saturating_add(took);
    }

    /// The counts by name, as those of an hour.
    pub fn named(&self) -> impl Iterator<Item = (&'static str, u64)> {
        BOUNDS.iter().zip(self.counts).map(|((name, _), count)| (*name, count))
    }

    /// Adds the counts of an hour, in the group `syncs`. What took how long together is not known of them.
    pub fn add_hour(&mut self, hour: &Tallies) {
        for ((name, _), count) in BOUNDS.iter().zip(&mut self.counts) {
            *count += hour.get("syncs", name);
        }
    }

    /// The number of commits.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// How long they took together.
    #[must_use]
    pub const fn sum(&self) -> Duration {
        self.sum
    }

    /// The counts by upper bound; the last is [`Duration::MAX`].
    pub fn buckets(&self) -> impl Iterator<Item = (Duration, u64)> {
        BOUNDS.iter().zip(self.counts).map(|((_, bound), count)| (*bound, count))
    }

    /// How long all but the slowest took: of a thousand, `but` may have taken longer. It is the upper bound of a counted
    /// duration, [`Duration::MAX`] for over three seconds; `None` if nothing was counted.
    #[must_use]
    pub fn all_but(&self, but: u64) -> Option<Duration> {
        let count = self.count();
        let slower_max = count.saturating_mul(but) / 1_000;
        let mut not_slower = 0;
        self.buckets().find_map(|(bound, in_bucket)| {
            not_slower += in_bucket;
            (count > 0 && count - not_slower <= slower_max).then_some(bound)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_slowest_are_found_and_hours_add_up() {
        assert_eq!(SyncTimes::default().all_but(10), None);
        let mut times = SyncTimes::default();
        for _ in 0..990 {
            times.add(Duration::from_micros(1_500));
        }
        for _ in 0..10 {
            times.add(Duration::from_millis(700));
        }
        assert_eq!(times.all_but(500), Some(Duration::from_millis(2)));
        assert_eq!(times.all_but(10), Some(Duration::from_millis(2)));
        assert_eq!(times.all_but(9), Some(Duration::from_secs(1)));
        let mut hour = Tallies::default();
        for (name, count) in times.named() {
            hour.add("syncs", name, count);
        }
        let mut both = SyncTimes::default();
        both.add_hour(&hour);
        both.add_hour(&hour);
        assert_eq!((both.count(), both.all_but(9)), (2_000, Some(Duration::from_secs(1))));
        both.add(Duration::from_secs(9));
        assert_eq!(both.all_but(0), Some(Duration::MAX));
    }
}
