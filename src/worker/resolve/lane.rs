//! A lane: the work that one corp's token converts, one call after the other.

use std::collections::{HashSet, VecDeque};

use crate::domain::batch::IDS_PER_CALL_MAX;
use crate::domain::ids::{AppName, CorpId};
use crate::domain::time::{SECOND_MS, Timestamp};
use crate::store::Work;

/// Work items that one lane holds; the rest of its backlog waits in the store, so that it does not crowd out
/// other lanes.
pub(super) const LANE_HELD_MAX: usize = 2_000;
/// Bounds of the estimated time in which a lane drains [`DRAIN_ITEMS`].
const DRAIN_ITEMS: usize = 1_000;
const DRAIN_MS: [i64; 2] = [300, 5 * SECOND_MS];
/// With this many batches whose outcomes are being stored, a lane waits for the store.
const STORING_MAX: usize = 2;

/// The corp whose token a lane's calls are made with, inside one app.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct LaneKey {
    pub(super) app: AppName,
    /// The dealer, or the brand where its own token converts.
    pub(super) owner: CorpId,
}

#[derive(Default)]
pub(super) struct Lane {
    pub(super) waiting: VecDeque<Work>,
    /// Whether a call is in flight.
    busy: bool,
    /// Batches whose outcomes are being stored.
    storing: usize,
    /// When the current batch began.
    since: Timestamp,
    /// How long the last batch took, in milliseconds.
    batch_ms: i64,
}

impl Lane {
    /// Adds a work item. Returns it if the lane is full.
    pub(super) fn push(&mut self, work: Work) -> Option<Work> {
        if self.waiting.len() >= LANE_HELD_MAX {
            return Some(work);
        }
        self.waiting.push_back(work);
        None
    }

    /// Whether the lane can be dropped.
    pub(super) fn is_idle(&self) -> bool {
        !self.busy && self.storing == 0 && self.waiting.is_empty()
    }

    /// Whether there is work, and no call is in flight.
    pub(super) fn can_call(&self) -> bool {
        !self.busy && self.storing < STORING_MAX && !self.waiting.is_empty()
    }

    /// Whether as many customers wait as fit in one call.
    pub(super) fn has_full_batch(&self) -> bool {
        let mut customers = HashSet::new();
        self.waiting.len() >= IDS_PER_CALL_MAX
            && self.waiting.iter().any(|work| {
                customers.insert(&work.contact.external_userid);
                customers.len() == IDS_PER_CALL_MAX
            })
    }

    /// Takes the batch of the next call: up to 100 different customers, all items of a customer together.
    pub(super) fn begin(&mut self, now: Timestamp) -> Vec<Work> {
        self.busy = true;
        if self.storing == 0 {
            self.since = now;
        }
        let (mut customers, mut batch) = (HashSet::new(), Vec::new());
        while let Some(work) = self.waiting.front() {
            if customers.len() == IDS_PER_CALL_MAX && !customers.contains(&work.contact.external_userid) {
                break;
            }
            customers.insert(work.contact.external_userid.clone());
            batch.extend(self.waiting.pop_front());
        }
        batch
    }

    /// The call has ended; its outcomes are still to be stored.
    pub(super) const fn call_ended(&mut self, now: Timestamp) {
        self.busy = false;
        self.storing += 1;
        self.batch_ms = now.millis_since(self.since);
        self.since = now;
    }

    /// The outcomes of a call are stored.
    pub(super) const fn batch_stored(&mut self) {
        self.storing = self.storing.saturating_sub(1);
    }

    /// The retry delay when the lane is full: the estimated time to drain it and the items deferred before
    /// this one, in milliseconds.
    pub(super) fn drain_time_ms(&self, deferred: usize) -> i64 {
        let [calls, portions] = [DRAIN_ITEMS / IDS_PER_CALL_MAX, (LANE_HELD_MAX + deferred) / DRAIN_ITEMS]
            .map(|count| i64::try_from(count).unwrap_or(i64::MAX));
        let [min, max] = DRAIN_MS;
        self.batch_ms.saturating_mul(calls).clamp(min, max).saturating_mul(portions)
    }
}
