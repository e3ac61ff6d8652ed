//! When the first record of a kind expires, remembered in memory: a sweep before that reads nothing.
//!
//! Deliberately absent: any form of it on disk. The first sweep after a start reads every record.

use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::domain::time::Timestamp;

/// What the last sweep of a kind of records has left. Records that are written later are received later.
#[derive(Default)]
pub(crate) struct Expiry(Mutex<Option<Left>>);

#[derive(Clone, Copy)]
struct Left {
    swept_at: Timestamp,
    /// Every record was received at this instant or later.
    received_from: Timestamp,
}

impl Expiry {
    /// Whether a sweep at `now` may find a record that was received before `cutoff`. Forgets what the last
    /// one has left: this one may fail.
    pub(crate) fn is_due(&self, cutoff: Timestamp, now: Timestamp) -> bool {
        let mut left = self.left();
        // After the clock was set back, records may be older than the sweep believed.
        if left.is_some_and(|left| left.swept_at <= now && cutoff <= left.received_from) {
            return false;
        }
        *left = None;
        true
    }

    /// Records that a sweep at `now` was completed and left records that were received at these instants.
    pub(crate) fn swept(&self, now: Timestamp, left: impl IntoIterator<Item = Timestamp>) {
        let received_from = left.into_iter().fold(now, Timestamp::min);
        *self.left() = Some(Left { swept_at: now, received_from });
    }

    fn left(&self) -> MutexGuard<'_, Option<Left>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the sweeps of a store have left.
#[derive(Default)]
pub(crate) struct Expiries {
    /// Deduplication records of messages with a `CreateTime`.
    pub(crate) dated: Expiry,
    /// Those of other messages.
    pub(crate) undated: Expiry,
    /// Quarantined messages.
    pub(crate) quarantined: Expiry,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sweep_is_due_once_the_oldest_record_left_has_expired() {
        let (expiry, at) = (Expiry::default(), Timestamp::from_secs);
        assert!(expiry.is_due(at(0), at(10)), "nothing is known after a start");
        assert!(expiry.is_due(at(0), at(10)), "the sweep was not completed");
        expiry.swept(at(10), [at(7), at(5), at(9)]);
        assert!(!expiry.is_due(at(5), at(15)) && expiry.is_due(at(6), at(16)));
        expiry.swept(at(16), []);
        assert!(!expiry.is_due(at(16), at(26)), "what comes later is received later");
        assert!(expiry.is_due(at(17), at(27)));
        expiry.swept(at(1_000), []);
        assert!(expiry.is_due(at(1), at(11)), "the clock was set back");
    }
}
