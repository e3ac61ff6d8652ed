//! When to try again: exponential backoff with jitter, and the fixed schedule on which WeCom is asked again
//! about a customer without a pending id. Randomness is a parameter.

use std::hash::{DefaultHasher, Hash, Hasher};

use super::time::{HOUR_MS, MINUTE_MS, SECOND_MS};

/// Exponential backoff: the wait doubles with each failure, up to a maximum.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    /// The longest wait after the first failure, in milliseconds.
    pub first_ms: i64,
    /// The longest wait after any failure, in milliseconds.
    pub max_ms: i64,
}

impl Backoff {
    /// For calls to WeCom that failed temporarily.
    pub const CALL: Self = Self { first_ms: 500, max_ms: 2 * MINUTE_MS };
    /// For calls to WeCom that failed with an undocumented code: slow from the start.
    pub const UNKNOWN_CODE: Self = Self { first_ms: 30 * SECOND_MS, max_ms: 30 * MINUTE_MS };
    /// For probes of an app or dealer that will fail until an operator corrects its configuration.
    pub const CONFIGURATION: Self = Self { first_ms: 10 * SECOND_MS, max_ms: 5 * MINUTE_MS };
    /// For the exchange of an auth code, which can be used for ten minutes only.
    pub const AUTH_CODE: Self = Self { first_ms: 500, max_ms: 15 * SECOND_MS };
    /// For a sink whose deliveries fail.
    pub const DELIVERY: Self = Self { first_ms: SECOND_MS, max_ms: HOUR_MS };
    /// For probes with other fans after WeCom refused the pair of ids of one, to find out whether it refuses
    /// all.
    pub const PAIR: Self = Self { first_ms: 10 * SECOND_MS, max_ms: MINUTE_MS };

    /// The wait after the `attempt`-th failure (from 1), in milliseconds: between half of the exponential
    /// value and the whole of it, as `jitter` in `0.0..1.0` says, so that many clients do not retry at once.
    #[must_use]
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_precision_loss,
        reason = "waits are hours at most"
    )]
    pub fn wait_ms(self, attempt: u32, jitter: f64) -> i64 {
        let doublings = attempt.saturating_sub(1).min(40);
        let ceiling = self.first_ms.saturating_mul(1_i64 << doublings).min(self.max_ms);
        let half = ceiling / 2;
        half + ((ceiling - half) as f64 * jitter.clamp(0.0, 1.0)) as i64
    }
}

/// The source of jitter: a hash of a seed, a key and the attempt. Processes have different seeds; the same
/// seed gives the same waits again, which makes simulations repeatable.
#[derive(Debug, Clone, Copy, Default)]
pub struct Jitter(u64);

impl Jitter {
    /// The jitter of one process.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The jitter after the `attempt`-th failure, in `0.0..1.0`; `key` identifies what is retried.
    #[must_use]
    pub fn of(self, key: impl Hash, attempt: u32) -> f64 {
        let mut hasher = DefaultHasher::new();
        (self.0, key, attempt).hash(&mut hasher);
        // 32 of the 64 bits are precise enough.
        f64::from((hasher.finish() >> 32) as u32) / (f64::from(u32::MAX) + 1.0)
    }
}

/// Waits, in milliseconds, before WeCom is asked again about a customer without a pending id.
///
/// WeCom documents neither how long it takes until a new customer can be converted nor what a miss looks
/// like, and asks not to poll (document 97108): hence few calls, far apart.
pub const REASK_AFTER_MS: [i64; 6] =
    [MINUTE_MS, 10 * MINUTE_MS, HOUR_MS, 6 * HOUR_MS, 24 * HOUR_MS, 72 * HOUR_MS];

/// The wait before the next call about a customer when `asked` calls have found nothing, in milliseconds;
/// `None` when there is to be no further call.
#[must_use]
pub fn reask_after_ms(asked: u32) -> Option<i64> {
    let index = usize::try_from(asked.checked_sub(1)?).ok()?;
    REASK_AFTER_MS.get(index).copied()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn waits_stay_between_half_and_whole_of_the_bound(attempt in 0_u32..1000, jitter in 0.0_f64..1.0) {
            let wait = Backoff::CALL.wait_ms(attempt, jitter);
            let bounds = Backoff::CALL.first_ms / 2..=Backoff::CALL.max_ms;
            prop_assert!(bounds.contains(&wait));
        }
    }

    #[test]
    fn jitter_is_spread_evenly_and_is_repeatable() {
        let jitter = Jitter::new(7);
        let places: Vec<_> = (0..1_000_u32).map(|key| jitter.of(key, 1)).collect();
        assert!(places.iter().all(|place| (0.0..1.0).contains(place)));
        let lower_half = places.iter().filter(|place| **place < 0.5).count();
        assert!((400..600).contains(&lower_half), "{lower_half}");
        let same = |place: f64, other: f64| place.to_bits() == other.to_bits();
        assert!(same(jitter.of("sink", 3), Jitter::new(7).of("sink", 3)));
        assert!(!same(jitter.of("sink", 3), jitter.of("sink", 4)));
        assert!(!same(jitter.of("sink", 3), Jitter::new(8).of("sink", 3)));
    }

    #[test]
    fn waits_grow_with_the_attempts() {
        let waits: Vec<_> = (1..=9).map(|n| Backoff::CALL.wait_ms(n, 1.0)).collect();
        assert_eq!(waits, [500, 1000, 2000, 4000, 8000, 16_000, 32_000, 64_000, 120_000]);
    }

    #[test]
    fn a_customer_is_asked_about_seven_times_in_all() {
        let waits: Vec<_> = (0..10).filter_map(reask_after_ms).collect();
        assert_eq!(waits, REASK_AFTER_MS);
        assert_eq!(reask_after_ms(0), None);
        assert_eq!(reask_after_ms(7), None);
    }
}
