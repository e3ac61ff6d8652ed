//! Lanes: work that may share one batch call, and is called one batch after the other.
//!
//! Deliberately absent: the calls, the permits for them, and circuit breakers.

use std::collections::{BTreeMap, HashSet, VecDeque};

use crate::domain::batch::IDS_PER_CALL_MAX;
use crate::domain::ids::{AppName, ChatId, CorpId, ExternalUserid};
use crate::domain::lookup::Haste;
use crate::store::{Work, WorkId};

/// Work items that one lane holds; the rest of its backlog waits in the store, so that it does not crowd out
/// other lanes.
pub(super) const LANE_HELD_MAX: usize = 2_000;
/// With this many batches whose outcomes are being stored, a lane waits for the store.
const STORING_MAX: usize = 2;

/// What the work of a lane has in common.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct LaneKey {
    pub(super) app: AppName,
    /// The corp whose token the calls are made with: the dealer, or the brand where its own token converts.
    pub(super) owner: CorpId,
    /// The customer group whose members are looked up; `None` for customers whom a member has added.
    pub(super) chat_id: Option<ChatId>,
    pub(super) class: LaneClass,
}

/// The class of the work in a lane, in the order in which permits are given out.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum LaneClass {
    /// Events, and people who have just joined a group.
    Live,
    /// The delayed retry of one customer who was refused alone just after the add, in a call of its own.
    Alone(ExternalUserid),
    /// Customers who are looked up when that delays no event.
    Background,
    /// Customers whose last lookup was refused: apart from all others, because one who is refused again makes
    /// WeCom refuse the whole batch.
    Suspect,
}

impl LaneClass {
    pub(super) fn of(work: &Work) -> Self {
        if let Some(event) = &work.event {
            let errcode = event.failure.as_ref().and_then(|failure| failure.errcode);
            let is_retry = event.attempts > 0 && errcode.is_some_and(may_pass_soon);
            return if is_retry { Self::Alone(work.contact.external_userid.clone()) } else { Self::Live };
        }
        let lookup = work.known.as_ref().and_then(|known| known.lookup);
        match work.id {
            _ if lookup.is_some_and(|lookup| lookup.refused.is_some()) => Self::Suspect,
            WorkId::Lookup(Haste::Background, ..) => Self::Background,
            WorkId::Lookup(Haste::Live, ..) | WorkId::Event(..) => Self::Live,
        }
    }

    /// Whether its work has the small budget of what delays no event.
    pub(super) const fn is_background(&self) -> bool {
        match self {
            Self::Background | Self::Suspect => true,
            Self::Live | Self::Alone(_) => false,
        }
    }
}

/// Whether WeCom answers with this code for a moment after a customer was added, also if nothing is wrong.
pub(super) const fn may_pass_soon(errcode: i64) -> bool {
    matches!(errcode, 84_061 | 40_096)
}

#[derive(Default)]
pub(super) struct Lane {
    pub(super) waiting: VecDeque<Work>,
    /// Whether a call is in flight.
    busy: bool,
    /// Batches whose outcomes are being stored.
    storing: usize,
    /// Work items in a call, or whose outcomes are being stored.
    begun: usize,
}

impl Lane {
    /// Adds a work item. Returns it if the lane is full.
    fn push(&mut self, work: Work) -> Option<Work> {
        if self.waiting.len() >= LANE_HELD_MAX {
            return Some(work);
        }
        self.waiting.push_back(work);
        None
    }

    /// Whether the lane can be dropped.
    fn is_idle(&self) -> bool {
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
    pub(super) fn begin(&mut self) -> Vec<Work> {
        self.busy = true;
        let (mut customers, mut batch) = (HashSet::new(), Vec::new());
        while let Some(work) = self.waiting.front() {
            if customers.len() == IDS_PER_CALL_MAX && !customers.contains(&work.contact.external_userid) {
                break;
            }
            customers.insert(work.contact.external_userid.clone());
            batch.extend(self.waiting.pop_front());
        }
        self.begun += batch.len();
        batch
    }

    /// The call has ended; its outcomes are still to be stored.
    pub(super) const fn call_ended(&mut self) {
        self.busy = false;
        self.storing += 1;
    }

    /// The outcomes of a batch of `items` are stored.
    pub(super) const fn batch_stored(&mut self, items: usize) {
        self.storing = self.storing.saturating_sub(1);
        self.begun = self.begun.saturating_sub(items);
    }
}

/// All lanes.
#[derive(Default)]
pub(super) struct Lanes(pub(super) BTreeMap<LaneKey, Lane>);

/// Work items in memory: those with the small budget, and all others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Held {
    /// Without those in a call, whose number the concurrent calls limit.
    pub(super) live: usize,
    pub(super) background: usize,
}

impl Lanes {
    /// Adds a work item to its lane. Returns it if the lane is full.
    pub(super) fn push(&mut self, key: LaneKey, work: Work) -> Option<Work> {
        self.0.entry(key).or_default().push(work)
    }

    /// How many more items a lane takes.
    pub(super) fn room(&self, key: &LaneKey) -> usize {
        LANE_HELD_MAX - self.0.get(key).map_or(0, |lane| lane.waiting.len())
    }

    pub(super) fn held(&self) -> Held {
        let mut held = Held { live: 0, background: 0 };
        for (key, lane) in &self.0 {
            if key.class.is_background() {
                held.background += lane.waiting.len() + lane.begun;
            } else {
                held.live += lane.waiting.len();
            }
        }
        held
    }

    /// The lanes that are ready for a call: live work first, then the oldest. Drops lanes without work.
    pub(super) fn ready(&mut self) -> Vec<(&LaneKey, &mut Lane)> {
        self.0.retain(|_, lane| !lane.is_idle());
        let mut ready: Vec<_> = self.0.iter_mut().filter(|(_, lane)| lane.can_call()).collect();
        ready.sort_by_cached_key(|(key, lane)| {
            let is_retry = matches!(key.class, LaneClass::Alone(_));
            (key.class.is_background(), is_retry, lane.waiting.front().map(Work::due_at))
        });
        ready
    }
}

#[cfg(test)]
mod tests;
