//! The customers that one corp's token converts, on their way to one call after the other.

use std::collections::{HashSet, VecDeque};

use crate::domain::batch::IDS_PER_CALL_MAX;
use crate::domain::ids::{AppName, CorpId};
use crate::domain::time::{SECOND_MS, Timestamp};
use crate::store::Work;

/// Pieces of work that one lane may hold; the rest of its backlog waits in the store, so that it keeps nobody out.
pub(super) const LANE_HELD_MAX: usize = 2_000;
/// How long a lane is taken to work on so many pieces, at least and at most.
const PIECES: usize = 1_000;
const PIECES_MS: [i64; 2] = [300, 5 * SECOND_MS];
/// Batches of which nothing is written down yet, or not everything, before a lane waits for the store.
const SETTLING_MAX: usize = 2;

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
    /// Batches whose outcome is being written down.
    settling: usize,
    /// Since when the lane has been occupied with the batch of its call in flight, or with the one to come.
    since: Timestamp,
    /// How long the last batch took.
    batch_ms: i64,
}

impl Lane {
    /// Takes a piece of work. Gives it back if there is no room.
    pub(super) fn take(&mut self, work: Work) -> Option<Work> {
        if self.waiting.len() >= LANE_HELD_MAX {
            return Some(work);
        }
        self.waiting.push_back(work);
        None
    }

    /// Whether there is nothing to remember.
    pub(super) fn is_idle(&self) -> bool {
        !self.busy && self.settling == 0 && self.waiting.is_empty()
    }

    /// Whether there is work for a call, and none is in flight.
    pub(super) fn can_call(&self) -> bool {
        !self.busy && self.settling < SETTLING_MAX && !self.waiting.is_empty()
    }

    /// Whether as many customers wait as one call can ask about.
    pub(super) fn has_full_batch(&self) -> bool {
        let mut customers = HashSet::new();
        self.waiting.len() >= IDS_PER_CALL_MAX
            && self.waiting.iter().any(|work| {
                customers.insert(&work.contact.external_userid);
                customers.len() == IDS_PER_CALL_MAX
            })
    }

    /// Begins a call: for up to 100 different customers; several pieces about one customer travel together.
    pub(super) fn begin(&mut self, now: Timestamp) -> Vec<Work> {
        self.busy = true;
        if self.settling == 0 {
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

    /// The call has ended; what came of it is still to be written down.
    pub(super) const fn ended(&mut self, now: Timestamp) {
        self.busy = false;
        self.settling += 1;
        self.batch_ms = now.millis_since(self.since);
        self.since = now;
    }

    /// What came of a call is written down.
    pub(super) const fn settled(&mut self) {
        self.settling = self.settling.saturating_sub(1);
    }

    /// How long a full lane has work before it comes to a piece that is put off behind so many others: so long that
    /// waits in the store, and is not rewritten for nothing.
    pub(super) fn full_for_ms(&self, put_off: usize) -> i64 {
        let [calls, pieces] = [PIECES / IDS_PER_CALL_MAX, (LANE_HELD_MAX + put_off) / PIECES]
            .map(|count| i64::try_from(count).unwrap_or(i64::MAX));
        let [min, max] = PIECES_MS;
        self.batch_ms.saturating_mul(calls).clamp(min, max).saturating_mul(pieces)
    }
}
